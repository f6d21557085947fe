"""A search-nas config that was read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from searchkit.nas.models.part import NetConfig
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space
from searchkit.nas.train.sections import Finetune, Test, Train
from searchkit.nas.train.task import Task


@dataclass(frozen=True)
class Recipe:
    """A whole config."""

    path: str
    task: Task
    model: NetConfig
    space: Space
    data: Any  # task.sets.section
    train: Train
    test: Test
    finetune: Finetune
    init: str | None = None  # weights that training starts from: a file
    classes_given: bool = True  # False: model.num_classes stands for nothing, the data says how many
    notes: tuple[str, ...] = ()  # keys that change nothing, each in a line with its place

    @property
    def scales(self) -> tuple[InputShape, ...]:
        """The input shapes of the space; 800 for a detector, 224 for a classifier where it names none."""
        return self.space.scales or (self.task.network.input_shape,)

    @property
    def metric(self) -> str:
        """What an evaluation ranks by."""
        return self.metrics[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an evaluation tells, but for single classes."""
        return self.task.objective.metrics(self.test)
