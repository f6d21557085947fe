"""The `model:` of a config: which parts a network has, each with its options."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, PARTS, Misfit, weightless
from searchkit.nas.models.plans import check_names, head_plan, neck_plan, plans_of
from searchkit.nas.models.table import BACKBONES, heads_of, options_of, plan_class
from searchkit.nas.space.space import Space
from searchkit.nas.tasks.choices import misfit_choices
from searchkit.nas.train.task import Task
from searchkit.reading.fill import fill
from searchkit.reading.nodes import Node, Report

SECTION = "model"


def read_model(config: str, node: Node, task: Task, report: Report) -> tuple[Any, Any]:
    """(the network of a config file, None where it has a fault; the class of its head, None where there is none)."""
    default, first = next(iter(heads_of(task.name).items()))
    head = _class_of(config, HEAD, node, default, report)
    if head is not None and task.name != head.TASK:
        at = node.entries[HEAD][1]
        report.fault(at, f"{SECTION}.{HEAD}: {at.text} is of task {head.TASK}, but the task is {task.name}")
        head = None
    model: Any = fill((head or first).Config, node, SECTION, report, num_classes=1) if head is not None else None
    has_backbone = _check_backbone(config, node, report)
    neck = _class_of(config, NECK, node, (head or first).Config.neck, report)
    if model is None or head is None or neck is None or not has_backbone:
        return None, head
    model = replace(model, **{part: _beside(config, getattr(model, part)) for part in PARTS})
    model = _with_head_options(model, head, node, report)
    defaults = model.neck_defaults()
    options = _options(NECK, neck.Options, node, report, **defaults)
    return (replace(model, neck_options=None if options == neck.Options(**defaults) else options), head)


def _class_of(config: str, part: str, node: Node, default: str, report: Report) -> Any:
    """The class of a part, its plan side; None where there is none, which was reported."""
    at = _given(node, part)
    try:
        return plan_class(part, _beside(config, default if at is None else at.text))
    except UsageError as e:
        report.fault(at or node, f"{SECTION}.{part}: {e.message}")
        return None


def _with_head_options(model: Any, head: Any, node: Node, report: Report) -> Any:
    """The model with what `head_options` say. A head whose keys stand in `model:` itself takes them there as well."""
    options = _options(HEAD, head.Options, node, report)
    if not isinstance(model, head.Options):
        return replace(model, head_options=None if options == head.Options() else options)
    given = _given(node, "head_options")
    entries = {} if given is None else given.entries
    keys = [f.name for f in fields(head.Options) if f.name in entries]
    for key in keys:
        if _given(node, key) is not None:
            report.fault(entries[key][0], f"{SECTION}.head_options.{key}: stands in {SECTION}, too; say it once")
    return replace(model, head_options=None, **{key: getattr(options, key) for key in keys})


def _options(part: str, cls: Any, node: Node, report: Report, **defaults: Any) -> Any:
    """The options of a part, with its defaults where they have a fault."""
    given = _given(node, f"{part}_options")
    options = fill(cls, given, f"{SECTION}.{part}_options", report, **defaults)
    return cls(**defaults) if options is None else options


def _given(node: Node, key: str) -> Node | None:
    """The value of a key; None where it is absent, null or no YAML."""
    _, value = node.entries.get(key, (None, None))
    return None if value is None or value.is_null or value.kind == "bad" else value


def _check_backbone(config: str, model: Node, report: Report) -> bool:
    """The backbone's class must be there, which is the answer, and take the options given."""
    cls = _class_of(config, BACKBONE, model, "resnet", report)
    if cls is None:
        return False
    name = at.text if (at := _given(model, BACKBONE)) else "resnet"
    options = _given(model, "backbone_options") or Node("map", model.line, model.col)
    if options.kind != "map":
        report.fault(options, f"{SECTION}.backbone_options: must be a mapping (option: value), not {options}")
    known, others = options_of(cls)
    for key, (at, _) in options.entries.items():
        if key not in known and not others:
            what = f"{SECTION}.backbone_options: {name} has no option {key!r}{did_you_mean(key, tuple(known))}"
            report.fault(at, what)
    return True


def check_dimensions(model: Any, space: Space, node: Node, declared: Node, report: Report) -> None:
    """The names of a space must be those that its parts read, and these fit together at its ends. A
    backbone of one's own need not say which it reads."""
    neck, head = neck_plan(model), head_plan(model)
    read = getattr(plan_class(BACKBONE, model.backbone), "NAMES", None)
    for dim in space.dims:
        part, _, name = dim.key.partition(".")
        place = declared.entries[dim.key][0] if dim.key in declared.entries else declared
        try:
            check_names((dim.key,), neck, head)
        except UsageError as e:
            report.fault(place, f"space.{e.message}")
        if part == BACKBONE and read is not None and name not in read:
            what = f"{model.backbone} has no such dimension{did_you_mean(name, read)}; it has {', '.join(read)}"
            report.fault(place, f"space.{dim.key}: {what}")
        if dim.phases and dim.key in weightless(head):
            what = "needs no weights, so no step of a training visits it, and it has no schedule"
            report.fault(place, f"space.{dim.key}: {what}")
        ours = part != BACKBONE or (model.backbone in BACKBONES and dim.key not in _alternatives(model))
        if ours and any(row[0] == 0 < row[-1] for row in dim.choices):
            report.fault(place, f"space.{dim.key}: 0 is no choice beside others: a network has at least 1 of it")
    if report.faults:
        return
    parts: tuple[tuple[str, Any], ...] = ((NECK, neck), (HEAD, head))
    for part, of in parts:
        transform = getattr(getattr(of, "options", None), "transform", "none")
        if isinstance(transform, str) and transform != "none" and f"{part}.kernel" not in space.held():
            what = f"is {transform}, but the space has no {part}.kernel to make smaller kernels of"
            place = _place(f"{SECTION}.{part}_options.transform", node, declared) or node
            report.fault(place, f"{SECTION}.{part}_options.transform: {what}")
    try:
        plans = plans_of(model, space.maximum())
        plans(space.minimum())
    except UsageError as e:
        places = [_place(key, node, declared) for key in e.keys] if isinstance(e, Misfit) else []
        at = next((place for place in places if place is not None), node)
        report.fault(at, f"the parts of the network don't fit together: {e.message}{f'; {e.hint}' if e.hint else ''}")
    else:
        for key, refused in misfit_choices(space, plans):
            at = (_place(f"space.{key}", node, declared) if key else None) or declared
            name = "space: has archs" if key is None else f"space.{key}: has a choice"
            hint = f"; {refused.hint}" if refused.hint else ""
            report.fault(at, f"{name} that no network can have: {refused.message}{hint}")


def _alternatives(model: Any) -> set[str]:
    """The dimensions of which a backbone has each choice by itself, 0 too."""
    return {f"{BACKBONE}.{name}" for name in getattr(plan_class(BACKBONE, model.backbone), "CHOICES", ())}


def _place(key: str, model: Node, declared: Node) -> Node | None:
    """Where a key of the sections `model` or `space` stands; None where it is absent."""
    section, _, rest = key.partition(".")
    if section == "space":
        found = declared.entries.get(rest) or declared.entries.get(f"arch.{rest}")
        return found[0] if found else None
    place, at = None, model
    for word in rest.split("."):
        if word not in at.entries:
            return None
        place, at = at.entries[word]
    return place


def _beside(config: str, name: str) -> str:
    """A file of the user's own is looked for beside the config that names it."""
    file, colon, cls = name.rpartition(":")
    if colon and file.endswith(".py") and not os.path.isabs(file):
        return f"{os.path.join(os.path.dirname(os.path.abspath(config)), file)}:{cls}"
    return name
