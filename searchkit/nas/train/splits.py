"""Splits of a config's data, opened; how their pixels are read, and what is said of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.data.pixels import SIXTEEN, Reading
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Data, LabelData
from searchkit.seeds import step_seed

TRAIN, HELD_OUT = "train", "held_out"  # the two parts of data.train


def reading_of(data: Data | LabelData) -> Reading:
    """How image files are read."""
    return Reading(data.exif, data.range)


def section_of(recipe: Recipe, name: str) -> Any:
    """What the config says of a split; of the held-out part of data.train, what it says of that. None where it names
    no such split."""
    data = recipe.data
    if name == HELD_OUT:
        return data.train if data.held_out else None
    return getattr(data, name)


def missing(recipe: Recipe, name: str) -> UsageError:
    """What to say where the config names no such split."""
    if name == HELD_OUT and recipe.data.train is not None:
        hint = "Such as data.held_out: 0.1, before the supernet is trained"
        return UsageError("data.held_out is 0: no images of data.train were held out to score archs on", hint)
    key = TRAIN if name == HELD_OUT else name
    return UsageError(f"data.{key} is missing in the config", f"Give data.{key} with its {recipe.task.needs}")


def open_split(recipe: Recipe, name: str, names: Sequence[str] = ()) -> Any:
    """One split of the data, with the chosen classes; one to score on else with those of `names` (of the training set),
    matched by name. Where data.held_out is above 0, `train` and `held_out` are the two parts of data.train. Raises
    UsageError where the config names no such split."""
    data, open_set = recipe.data, recipe.task.open_split
    split = section_of(recipe, name)
    if split is None:
        raise missing(recipe, name)
    if name == HELD_OUT or (name == TRAIN and data.held_out):
        return _part(recipe, open_set(data, TRAIN, split, reading_of(data)), name == HELD_OUT)
    reading = reading_of(data)
    opened: Any = open_set(data, name, split, reading)
    if reading.range is None and opened.reading.range is not None and name != "train" and data.train is not None:
        # Its own values would say another range than those that the network has seen.
        trained: Reading = open_set(data, "train", data.train, reading).reading
        if trained.range is not None and trained.range != opened.reading.range:
            as_trained = replace(trained, why=f"as data.train: {trained.why}")
            opened = open_set(data, name, split, as_trained)
    names = data.classes or names
    return recipe.task.sets.matched(opened, names) if names and name != "train" else opened


def class_names(recipe: Recipe) -> Sequence[str]:
    """The classes of data.train. Raises UsageError as open_split."""
    data = recipe.data
    if data.classes:
        return tuple(data.classes)
    if data.train is None:
        raise missing(recipe, TRAIN)
    names: Sequence[str] = recipe.task.open_split(data, TRAIN, data.train, reading_of(data)).names
    return names


def _part(recipe: Recipe, data: Any, is_held_out: bool) -> Any:
    """The part of data.train that is held out, or the rest: by the ids of images alone, so that they are the same for
    all verbs and seeds."""
    sets, section = recipe.task.sets, recipe.data
    _, ids = sets.subset(data, range(count := sets.count(data)))
    n = max(1, round(section.held_out * count))
    if n >= count:
        raise UsageError(
            f"data.held_out: {section.held_out:g} of {count} images leaves none to train on", "Take a smaller fraction"
        )
    order = sorted(range(count), key=lambda i: (step_seed(section.held_out_seed, HELD_OUT, ids[i]), i))
    chosen = {*order[:n]}
    part, _ = sets.subset(data, [i for i in range(count) if (i in chosen) == is_held_out])
    text = f"images that are held out of training, to score archs on: {n} of {count} (data.held_out)"
    return replace(part, report=replace(data.report, faults=(*data.report.faults, (HELD_OUT, n, text))))


def held_out_entry(recipe: Recipe) -> dict[str, Any]:
    """What the protocol of a score says of the parts of data.train; empty where it is whole."""
    data = recipe.data
    return {HELD_OUT: data.held_out, "held_out_seed": data.held_out_seed} if data.held_out else {}


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
