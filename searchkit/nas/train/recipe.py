"""A search-nas config that was read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from searchkit.nas.data import coco_eval
from searchkit.nas.models.heads.faster_rcnn import DetectorConfig
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.models.network import NetConfig
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space
from searchkit.nas.train.sections import Data, Finetune, LabelData, Test, Train


@dataclass(frozen=True)
class Task:
    """What the config of a task is made of."""

    model: type[NetConfig]
    data: type[Data] | type[LabelData]
    metrics: Callable[[Test], tuple[str, ...]]  # of an evaluation; the first ranks
    per_class: str  # what those of single classes begin with
    losses: tuple[str, ...]  # names for train.loss_weights
    scale: int  # input shape where the space names none


TASKS = {
    "det": Task(
        DetectorConfig,
        Data,
        lambda test: coco_eval.metric_names(test.areas or (), test.max_dets),
        coco_eval.PER_CLASS,
        ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"),  # torchvision's names
        800,
    ),
    "cls": Task(ClassifierConfig, LabelData, lambda _: ("top1", "top5"), "top1/", ("loss_ce", "loss_distill"), 224),
}


@dataclass(frozen=True)
class Recipe:
    """A whole config."""

    path: str
    task: str
    model: NetConfig
    space: Space
    data: Any  # Data or LabelData, by the task
    train: Train
    test: Test
    finetune: Finetune
    init: str | None = None  # weights that training starts from: a file
    classes_given: bool = True  # False: model.num_classes stands for nothing, the data says how many

    @property
    def scales(self) -> tuple[InputShape, ...]:
        """The input shapes of the space; 800 for a detector, 224 for a classifier where it names none."""
        return self.space.scales or (TASKS[self.task].scale,)

    @property
    def metric(self) -> str:
        """What an evaluation ranks by."""
        return self.metrics[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an evaluation tells, but for single classes."""
        return TASKS[self.task].metrics(self.test)
