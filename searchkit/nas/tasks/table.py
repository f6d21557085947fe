"""The tasks: each is a module with the same functions, which know what its images, targets and scores are.

The functions of detection.py are the list; tests/nas/tasks/test_classification.py holds the modules to each other.
Sets, images and targets are of the task's own types, and pass through the rest of training and scoring unopened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.data.pixels import SIXTEEN, Reading
from searchkit.nas.tasks import classification, detection
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Data, LabelData, reading_of

MODULES: dict[str, Any] = {"det": detection, "cls": classification}


def of(recipe: Recipe) -> Any:
    """The module of a recipe's task."""
    return MODULES[recipe.task]


def open_split(data: Data | LabelData, name: str, names: Sequence[str] = ()) -> Any:
    """One split of the data, with the chosen classes; one to score on else with those of `names` (of the training set),
    matched by name. Raises UsageError where the config names no such split."""
    task = detection if isinstance(data, Data) else classification
    split = getattr(data, name)
    if split is None:
        raise UsageError(f"data.{name} is missing in the config", f"Give data.{name} with its {task.NEEDS}")
    reading = reading_of(data)
    found: Any = task.open_split(data, name, split, reading)
    if reading.range is None and found.reading.range is not None and name != "train" and data.train is not None:
        # Its own values would say another range than those that the network has seen.
        trained: Reading = task.open_split(data, "train", data.train, reading).reading
        if trained.range is not None and trained.range != found.reading.range:
            as_trained = replace(trained, why=f"as data.train: {trained.why}")
            found = task.open_split(data, name, split, as_trained)
    names = data.classes or names
    return task.matched(found, names) if names and name != "train" else found


def shown(data: Any) -> str:
    """What tells the pixels of a set from those that its files store; empty where they are the same."""
    turned, deep = data.report.count("turned"), data.report.count("deep")
    span = data.reading.range
    parts = [f"upright {turned}"] * bool(turned) + [f"range {span}"] * (bool(deep) and span != SIXTEEN)
    return " ".join(parts)


def reading_of_checkpoint(data: Data | LabelData, meta: Mapping[str, Any]) -> Reading:
    """How images are read for a network: as the config says, else as those that it was trained on."""
    reading = reading_of(data)
    if reading.range is None and meta.get("range") is not None:
        low, high = meta["range"]
        return replace(reading, range=(low, high), why="of the checkpoint")
    return reading


def reading_as_scored(reading: Reading, *sets: Any) -> Reading:
    """How images are read for a network whose scores were measured on sets of a config: with the range of the first of
    them that has deep greys, whatever the network was trained on; `reading` where none has."""
    deep = [data.reading for data in sets if data is not None and data.report.count("deep")]
    return replace(reading, range=deep[0].range, why=f"of the data: {deep[0].why}") if deep else reading


def range_entry(data: Any) -> dict[str, Any]:
    """What a checkpoint says of the deep greys that it was trained on; empty where there were none."""
    return {"range": list(data.reading.range)} if data.report.count("deep") else {}
