"""A search-nas config that was read and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchkit import proc
from searchkit.errors import ConfigError, Fault, UsageError
from searchkit.nas.cost.latency import Table, read_table
from searchkit.nas.models.part import HEAD, NetConfig, weightless
from searchkit.nas.models.table import plan_class
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space
from searchkit.nas.train.sections import Finetune, Quantize, Test, Train
from searchkit.nas.train.task import Task
from searchkit.nas.train.values import text_of
from searchkit.reading.nodes import Node


@dataclass(frozen=True)
class Recipe:
    """A whole config."""

    path: str
    task: Task
    model: NetConfig
    space: Space
    data: Any  # of the class task.section
    train: Train
    test: Test
    finetune: Finetune
    init: str | None = None  # weights that training starts from: a file
    classes_given: bool = True  # False: model.num_classes stands for nothing, the data says how many
    notes: tuple[str, ...] = ()  # keys that change nothing, each in a line with its place
    root: Node = field(default=Node("map", 1, 1), repr=False, compare=False)  # the file, for places
    meters: Mapping[str, str] = field(default_factory=dict)  # files of tables of times, by their names in records
    quantize: Quantize = field(default_factory=Quantize)

    @property
    def scales(self) -> tuple[InputShape, ...]:
        """The input shapes of the space; 800 for a detector, 224 for a classifier where it names none."""
        return self.space.scales or (self.task.input_shape,)

    @property
    def supernet(self) -> Space:
        """The space without the dimensions that need no weights: what a supernet is built of, and trained on."""
        return self.space.without(weightless(plan_class(HEAD, self.model.head)))

    @property
    def metric(self) -> str:
        """What an evaluation ranks by."""
        return self.metrics[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an evaluation tells, but for single classes."""
        return self.task.metrics(self.test)

    def refused(self, key: str, error: UsageError) -> ConfigError:
        """What to raise where a key's value, such as that of `init`, turns out wrong when it is used: the error, with
        the place of the value in the file."""
        place = self.root
        for word in key.split("."):
            _, place = place.entries.get(word, (None, place))
        what = f"{key}: {error.message.removeprefix(f'{key}: ')}"
        return ConfigError(self.path, [Fault(place.line, place.col, what)], error.hint)


def sized(recipe: Recipe, categories: Sequence[str]) -> NetConfig:
    """The recipe's network with as many classes as the data has, where the recipe names no number."""
    if not recipe.classes_given:
        return replace(recipe.model, num_classes=len(categories))
    if recipe.model.num_classes < len(categories):
        raise UsageError(
            f"model.num_classes is {recipe.model.num_classes}, but the data has {len(categories)} categories",
            "Leave model.num_classes out to take the data's number, or choose some with data.classes",
        )
    return recipe.model


def tables_of(recipe: Recipe) -> dict[str, Table]:
    """The tables of times that a config names, read now: a config may name one that is still to be measured. Raises
    ConfigError, with its place, for a file that is none."""
    tables = {}
    for name, path in recipe.meters.items():
        try:
            tables[name] = read_table(path)
        except UsageError as e:
            raise recipe.refused(f"meters.{name}", e) from e
    return tables


def said_of(recipe: Recipe, tables: Mapping[str, Table]) -> list[str]:
    """What people should know of the tables of a config before they believe their sums; a line each."""
    lines = []
    for name, table in tables.items():
        lines.append(f"{name}: {table.on.text()}, from {table.path}; {table.trust}")
        if table.model != model_digest(recipe):
            lines.append(f"note: {name}: the table was measured for another `model` than the config's")
        if table.on.device == "cpu" and table.on.name != proc.cpu().model:
            lines.append(f"note: {name}: the table is of another machine: this one has {proc.cpu().model}")
    return lines


def model_digest(recipe: Recipe) -> str:
    """What tells the recipe's `model` from others, wherever its files lie."""
    folder = os.path.dirname(os.path.abspath(recipe.path))
    return hashlib.sha256(text_of(recipe.model).replace(folder + os.sep, "").encode()).hexdigest()[:16]
