"""JSON Schema (draft 7) of a search-nas config: of its sections as their dataclasses say, for each task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from searchkit.nas.data.metrics import metric_names
from searchkit.nas.models.part import BACKBONE, HEAD, NECK
from searchkit.nas.models.table import BACKBONES, NECKS, heads_of, options_of, plan_class
from searchkit.nas.space.schema import definitions, space_schema
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.sections import Finetune, Quantize, Test, Train
from searchkit.nas.train.task import UNNAMED, Task
from searchkit.reading import schema
from searchkit.reading.kinds import SCALARS

Schema = dict[str, Any]
_NULL = {"type": "null"}
_TEXT = {"type": [*SCALARS, "null"]}


def config_schema() -> Schema:
    """The schema of a whole config."""
    parts: dict[str, Schema] = definitions()
    cases = [_case(task, parts) for task in TASKS.values()]
    named = {"enum": [*TASKS, None], "description": "What the network does", "default": UNNAMED}
    keys = ("model", "data", "train", "test", "finetune", "quantize")
    return {
        "$schema": schema.DRAFT,
        "title": "search-nas config",
        "type": "object",
        "properties": {
            "task": named,
            **{key: {} for key in keys},
            "space": space_schema(),
            "subnet": {**_TEXT, "description": "One arch instead of the space: its name, or a file of records"},
            "init": {
                **_TEXT,
                "description": "Weights that training starts from: a file, torchvision:NAME, timm:NAME or package:NAME",
            },
            "meters": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
                "additionalProperties": {"type": "string"},
                "description": "Tables of times (search-nas latency), by their names in records: {ms: FILE}",
            },
        },
        "additionalProperties": False,
        "required": ["model", "space"],
        "allOf": cases,
        "definitions": parts,
    }


def _case(task: Task, parts: dict[str, Schema]) -> Schema:
    """What the sections may hold if the config is of a task."""
    heads = heads_of(task.name)
    losses = list(dict.fromkeys(name for head in heads.values() for name in head.LOSSES))
    losses = list(dict.fromkeys(name for head in heads.values() for name in head.LOSSES))
    train, test, finetune, quantize = (_section(cls, parts) for cls in (Train, Test, Finetune, Quantize))
    for section, which, cls in (
        (train, "train_keys", Train),
        (finetune, "train_keys", Finetune),
        (quantize, "train_keys", Quantize),
        (test, "test_keys", Test),
    ):
        for other in TASKS.values():
            for key in getattr(other, which) if other != task else ():
                if key in section["properties"]:
                    default = getattr(cls, key, None)
                    section["properties"][key] = {"enum": list(dict.fromkeys((default, None)))}
    for section in (train, finetune, quantize):
        section["properties"]["loss_weights"]["propertyNames"] = {"enum": losses}
    train["properties"]["best_metric"] = _metric(task)
    sections = {"data": _section(task.section, parts), "train": train, "test": test}
    sections |= {"finetune": finetune, "quantize": quantize}
    properties = {"model": _model(heads, parts), **{key: {"anyOf": [each, _NULL]} for key, each in sections.items()}}
    of_task = {"properties": {"task": {"enum": [task.name] + ([None] if task.name == UNNAMED else [])}}}
    return {
        "if": of_task if task.name == UNNAMED else {**of_task, "required": ["task"]},
        "then": {"properties": properties},
    }


def _section(cls: type, parts: dict[str, Schema]) -> Schema:
    """The schema of a section, whose definitions go to `parts`."""
    made = schema.of(cls, "")
    parts |= made.pop("definitions")
    return {key: value for key, value in made.items() if key not in ("$schema", "title")}


def _model(heads: Mapping[str, Any], parts: dict[str, Schema]) -> Schema:
    """What `model` has, by the head that it names; the first one is the default."""
    cases = []
    for name, cls in heads.items():
        section = _section(cls.Config, parts)
        section["properties"]["num_classes"] = {"type": ["integer", "null"], "minimum": 1}
        section["properties"][BACKBONE] = _named(BACKBONES)
        section["properties"][NECK] = _named(NECKS)
        section["properties"][HEAD] = {}
        section["properties"]["head_options"] = _or_null(_section(cls.Options, parts))
        section.pop("required", None)  # num_classes: else that of the data
        necks = [_neck_options(neck, cls.Config.neck, parts) for neck in NECKS]
        section["allOf"] = [*(_options(backbone) for backbone in BACKBONES), *necks]
        cases.append({"if": _chosen(HEAD, name, next(iter(heads))), "then": section})
    return {"type": "object", "properties": {HEAD: _named(heads)}, "allOf": cases}


def _named(table: Mapping[str, Any]) -> Schema:
    """A name of a table, or a class of the user's own."""
    return {"anyOf": [{"enum": [*table, None]}, {"type": "string", "pattern": ":"}]}


def _chosen(part: str, name: str, default: str) -> Schema:
    """Whether a part is the one of that name."""
    if name == default:
        return {"properties": {part: {"enum": [name, None]}}}
    return {"properties": {part: {"enum": [name]}}, "required": [part]}


def _or_null(section: Schema) -> Schema:
    return {**section, "type": ["object", "null"]}


def _neck_options(neck: str, default: str, parts: dict[str, Schema]) -> Schema:
    """What `neck_options` has where the neck is of that name."""
    options = _or_null(_section(plan_class(NECK, neck).Options, parts))
    return {"if": _chosen(NECK, neck, default), "then": {"properties": {"neck_options": options}}}


def _options(backbone: str) -> Schema:
    """What `backbone_options` has where the backbone is of that name; the first one is the default."""
    known, _ = options_of(plan_class(BACKBONE, backbone))
    names: Schema = {key: {} for key in known}
    options: Schema = {"type": ["object", "null"], "properties": names, "additionalProperties": False}
    return {
        "if": _chosen(BACKBONE, backbone, next(iter(BACKBONES))),
        "then": {"properties": {"backbone_options": options}},
    }


def _metric(task: Task) -> Schema:
    """What `best_metric` may be: also of areas that the config names, and of single classes."""
    named = [*task.metrics(Test()), ""]
    patterns = [f"^{re.escape(task.per_class)}"]
    if "areas" in task.test_keys:
        fewer = "|".join(map(re.escape, metric_names((), 10**6)))
        patterns.append(rf"^(?:{fewer}|bbox_(?:mAP|AR)_[^\W\d]\w*)$")
    return {"anyOf": [{"enum": [*named, None]}, *({"type": "string", "pattern": pattern} for pattern in patterns)]}
