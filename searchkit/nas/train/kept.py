"""What of a config decides a training: kept with its checkpoints, and compared when it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from searchkit.nas.models.part import PARTS
from searchkit.nas.models.table import plan_class
from searchkit.nas.space.space import Space
from searchkit.nas.train.distill_section import Distill
from searchkit.nas.train.dmcp import Dmcp
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import LabelSplit, Pretrain, Split, Train
from searchkit.reading.kinds import says_nothing

# Keys that may change while a training goes on, and why. All others decide what is trained.
MAY_CHANGE = {
    "data.train, data.val, data.test": "where files lie; training sets are compared; of detectors', annotations alone",
    "data.classes": "the classes are compared by name",
    "data.name, data.workers, data.cache_mb": "",
    "model.num_classes": "the number itself is compared",
    "model.rpn_pre_nms_test, model.rpn_post_nms_test": "of evaluation alone",
    "model.score_thresh, model.nms_thresh, model.detections_per_image": "of evaluation alone",
    "train.epochs, train.steps": "of a training that has come to its end: it goes on to more",
    "train.checkpoint_steps, train.checkpoint_minutes": "",
    "train.eval_epochs, train.eval_archs": "",
    "train.best_arch, train.best_metric": "`best.pth` then counts anew",
    "train.channels_last": "the layout in memory",
}
FREE = frozenset(key for keys in MAY_CHANGE for key in keys.split(", "))
FIXED = ("task", "model", "space", "categories", "num_classes", "images", "train.optimizer")  # its state is of another
RANKS = "ranks"
OPTIONS = ("model.neck_options", "model.head_options")
_LONGEST = 120  # characters of a value in a message


def deciding(recipe: Recipe, ranks: int) -> dict[str, Any]:
    """All that decides what a recipe trains, by dotted key, as plain data; ranks: how many processes train."""
    facts: dict[str, Any] = {}
    for name in ("model", "data", "train"):
        facts |= _flat(name, getattr(recipe, name))
    facts = {key: value for key, value in facts.items() if key not in FREE}
    for part in PARTS:
        name = getattr(recipe.model, part)
        facts[f"model.{part}"] = os.path.basename(name)  # one of the user's own may lie elsewhere
        options = getattr(recipe.model, f"{part}_options")
        if dataclasses.is_dataclass(options) and not isinstance(options, type):
            of_evaluation = getattr(plan_class(part, name), "EVALUATION", ())
            decide = {k: v for k, v in _plain(options).items() if k not in of_evaluation}
            facts[f"model.{part}_options"] = decide
    facts |= _space(recipe.space) | {"init": recipe.init, RANKS: ranks}
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def differences(old: Mapping[str, Any], recipe: Recipe, ranks: int) -> dict[str, str]:
    """What decides the training otherwise now, by key, in words. A key that `old` lacks, since it was kept by an older
    version, had its default."""
    new, default = deciding(recipe, ranks), _defaults(recipe)
    texts = {}
    for key, value in new.items():
        if key not in old and key not in default:
            continue  # an anchor more
        was = old[key] if key in old else default[key]
        if was != value:
            texts[key] = _told(key, was, value)
    return texts


def _told(key: str, was: Any, value: Any) -> str:
    """What a key was and is; of the many options of a neck or a head, those alone that differ."""
    if not isinstance(was, Mapping) or not isinstance(value, Mapping) or key not in OPTIONS:
        return f"{key}: {_shown(was)} there, {_shown(value)} here"
    differ = [name for name in {**was, **value} if was.get(name) != value.get(name)]
    return "; ".join(f"{key}.{name}: {_shown(was.get(name))} there, {_shown(value.get(name))} here" for name in differ)


def _flat(name: str, section: Any) -> dict[str, Any]:
    """The keys of a section; those of `augment` each by itself."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{name}.{field.name}"
        if field.name == "augment":
            flat |= _flat(key, value)
        else:
            flat[key] = _plain(value) if isinstance(value, Distill | Dmcp | Split | LabelSplit | Pretrain) else value
    return flat


def _plain(section: Any) -> dict[str, Any]:
    """A section within a section, without what came later and has its default: an older version kept none of it."""
    told = [f.name for f in dataclasses.fields(section) if not says_nothing(f, section)]
    return {name: _plain_value(getattr(section, name)) for name in told}


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(value)
    if isinstance(value, tuple | list):
        return [*map(_plain_value, value)]
    return {k: _plain_value(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _space(space: Space) -> dict[str, Any]:
    """The dimensions, input shapes and anchors. An anchor that was added or taken out decides nothing."""
    facts: dict[str, Any] = {}
    for dim in space.dims:
        given = {f.name: getattr(dim, f.name) for f in dataclasses.fields(dim) if f.name not in ("key", "scalar")}
        plain = {f.name: f.default for f in dataclasses.fields(dim)}
        facts[f"space.{dim.key}"] = {name: value for name, value in given.items() if value != plain[name]}
    facts["space.data.input_shape"] = space.scales
    return facts | {f"space.anchors.{name}": arch.nested() for name, arch in space.anchors}


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """What the keys of the sections are where nothing is said."""
    model: Any = type(recipe.model)
    sections = {"model": model(num_classes=1), "data": type(recipe.data)(), "train": Train()}
    facts: dict[str, Any] = {"init": None}
    for name, section in sections.items():
        facts |= _flat(name, section)
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
