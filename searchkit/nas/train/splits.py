"""Splits of a config's data, opened; how their pixels are read, and what is said of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.data.pixels import SIXTEEN, Reading
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Data, LabelData, reading_of


def open_split(recipe: Recipe, name: str, names: Sequence[str] = ()) -> Any:
    """One split of the data, with the chosen classes; one to score on else with those of `names` (of the training set),
    matched by name. Raises UsageError where the config names no such split."""
    sets, data = recipe.task.sets, recipe.data
    split = getattr(data, name)
    if split is None:
        raise UsageError(f"data.{name} is missing in the config", f"Give data.{name} with its {sets.needs}")
    reading = reading_of(data)
    opened: Any = sets.open_split(data, name, split, reading)
    if reading.range is None and opened.reading.range is not None and name != "train" and data.train is not None:
        # Its own values would say another range than those that the network has seen.
        trained: Reading = sets.open_split(data, "train", data.train, reading).reading
        if trained.range is not None and trained.range != opened.reading.range:
            as_trained = replace(trained, why=f"as data.train: {trained.why}")
            opened = sets.open_split(data, name, split, as_trained)
    names = data.classes or names
    return sets.matched(opened, names) if names and name != "train" else opened


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
