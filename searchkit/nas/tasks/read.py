"""The search-nas config: model, space, data and training of a supernet in one flat YAML file, checked as a whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

from searchkit.errors import ConfigError, SearchkitError, UsageError, did_you_mean
from searchkit.nas.cost.rules import METERS
from searchkit.nas.space.samplers import sampler_of
from searchkit.nas.space.shapes import InputShape, among
from searchkit.nas.space.space import Space, space_of
from searchkit.nas.tasks.idle import idle_keys, idle_options, unread_rows
from searchkit.nas.tasks.model import check_dimensions, read_model
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.policies import check_word, sampler_faults
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Finetune, Quantize, Test, Train, path_of
from searchkit.nas.train.task import UNNAMED, Task
from searchkit.reading import nodes
from searchkit.reading.cursor import Cursor
from searchkit.reading.fill import ABSENT, Part, fill, whole_file
from searchkit.reading.kinds import Choice, Path, Text
from searchkit.reading.nodes import Document, Node
from searchkit.records import modelspace
from searchkit.records.arch import Arch


@dataclass(frozen=True)
class File:
    """The keys of a config. What a section may hold is the task's to say: each is filled in its turn."""

    task: Annotated[str, Choice(*TASKS)] = UNNAMED
    model: Part[Any] = ABSENT
    space: Part[Any] = ABSENT
    subnet: Part[Any] = ABSENT
    data: Part[Any] = ABSENT
    train: Part[Any] = ABSENT
    test: Part[Any] = ABSENT
    finetune: Part[Any] = ABSENT
    quantize: Part[Any] = ABSENT
    init: Text | None = None
    meters: Mapping[Text, Path] = field(default_factory=dict)


METER = re.compile(r"[a-z][a-z0-9_]*")  # the name of a meter, which expressions can hold


def load(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe at `path`, with `section.key=value` overrides. Raises ConfigError with all faults and their places."""
    overrides = tuple(overrides)
    document = nodes.load(path, needs="`model:` and `space:`")
    for text in overrides:
        document = _override(document, text)
    try:
        return _recipe(path, document)
    except ConfigError as e:
        hint = f"The file was read with --set {' --set '.join(overrides)}" if overrides else e.hint
        raise ConfigError(path, e.faults, hint) from e


def _recipe(path: str, document: Document) -> Recipe:
    top, report = whole_file(File, document), document.report
    file = top.fill_onto(File())
    for name in ("model", "space") if document.root.kind == "map" else ():
        _, value = top.entries.get(name, (None, document.root))
        if value is document.root or value.is_null:
            report.fault(value, f"missing key {name!r}")
    kind, named = file.task, top.get("task")
    if named is not None and named.text != kind:
        document.check()  # what the sections may hold is the task's to say
    task = TASKS[kind]
    per_class = task.per_class
    node = top.get("model")
    classes_given = node is not None and "num_classes" in node.entries and not node.entries["num_classes"][1].is_null
    model, head = (None, None) if node is None else read_model(path, node, task, report)
    data: Any = fill(task.section, top.get("data"), "data", report)
    train, test = fill(Train, top.get("train"), "train", report), fill(Test, top.get("test"), "test", report)
    finetune = fill(Finetune, top.get("finetune"), "finetune", report)
    quantize = fill(Quantize, top.get("quantize"), "quantize", report)
    declared = top.get("space")
    space = None if declared is None else space_of(Cursor(declared, "space", report))
    subnet = top.get("subnet")
    if model is not None and space is not None and declared is not None and node is not None:
        check_dimensions(model, space, node, declared, report)
    for name, section in (("train", train), ("finetune", finetune), ("quantize", quantize)):
        _check_losses(name, section, top.get(name), task, head, document)
    if test is not None:
        for key, owner in _of_others(task, "test_keys"):
            if getattr(test, key) != getattr(Test, key):
                report.fault(_entry(top.get("test"), key), f"test.{key}: is of task {owner}, but the task is {kind}")
    most = getattr(getattr(model, "head_options", None) or model, "detections_per_image", None)
    said = "model.detections_per_image"
    for dim in (dim for dim in (space.dims if space is not None else ()) if dim.key == "head.detections"):
        most, said = dim.choices[0][-1], f"space.{dim.key}"
    if test is not None and most is not None and Test.max_dets < test.max_dets > most:
        what = f"test.max_dets: is {test.max_dets}, but an image has at most {said}, {most}, of them"
        report.fault(_entry(top.get("test"), "max_dets"), what)
    metrics = task.metrics(test or Test())
    if train is not None and train.best_metric not in ("", *metrics) and not train.best_metric.startswith(per_class):
        where = _entry(top.get("train"), "best_metric")
        near = did_you_mean(train.best_metric, metrics)
        known = f"{', '.join(metrics)}, or {per_class}<class>"
        report.fault(where, f"train.best_metric: must be one of {known}{near}")
    if space is not None and subnet is not None and not subnet.is_null:
        space = _narrowed(space, subnet, document)
    _check_archs(space, top.get("train"), document)
    meters = _meters(top.get("meters"), file.meters, document)
    document.check()
    assert model and space and data and train and test and finetune and quantize  # what is None has a fault
    if getattr(head, "STRETCHES", False):
        data = replace(data, stretched=True)
    if not train.best_metric:
        train = replace(train, best_metric=metrics[0])
    if train.best_metric.startswith(per_class):
        test = replace(test, per_class=True)
    sections = {"train": train, "finetune": finetune, "quantize": quantize}
    trained = {name: (top.get(name), section) for name, section in sections.items()}
    assert node is not None
    notes = (*idle_keys(path, trained), *idle_options(path, model, node, space), *unread_rows(path, model, node, space))
    return Recipe(
        path,
        task,
        model,
        space,
        data,
        train,
        test,
        finetune,
        file.init,
        classes_given,
        notes,
        document.root,
        meters,
        quantize,
    )


def _meters(node: Node | None, given: Mapping[str, str], document: Document) -> dict[str, str]:
    """The files of the tables of times by their names, which are those of no other cost of a record."""
    meters = {}
    for name, file in given.items():
        assert node is not None
        at = node.entries[name][1]
        taken = name in (*METERS, "flops", "convention", "parts")
        if taken or name.endswith("_on") or not METER.fullmatch(name):
            why = "is that of another cost" if taken else "must be lower-case letters, digits and _, and not end in _on"
            document.report.fault(node.entries[name][0], f"meters: the name {name!r} {why}; such as ms")
            continue
        try:
            meters[name] = path_of(file, f"meters.{name}")
        except UsageError as e:
            document.report.fault(at, f"{e.message}; {e.hint}")
    return meters


def _check_losses(name: str, section: Any, node: Node | None, task: Task, head: Any, document: Document) -> None:
    known = head.LOSSES if head is not None else ()
    weights = _entry(node, "loss_weights").entries if node is not None and "loss_weights" in node.entries else {}
    for loss, (where, _) in weights.items():
        if head is not None and loss not in known:
            what = f"{name}.loss_weights: there is no loss {loss!r}{did_you_mean(loss, known)}"
            document.report.fault(where, what)
    for key, owner in _of_others(task, "train_keys") if section is not None else ():
        if getattr(section, key, None):
            document.report.fault(_entry(node, key), f"{name}.{key}: is of task {owner}, but the task is {task.name}")


def _of_others(task: Task, which: str) -> list[tuple[str, str]]:
    """(key, its task) of the keys that other tasks have to themselves; which: a field of Task that names some."""
    return [(key, other.name) for other in TASKS.values() if other != task for key in getattr(other, which)]


def _entry(node: Node | None, key: str) -> Node:
    """The value of a key of a section, else the section."""
    assert node is not None
    return node.entries[key][1] if key in node.entries else node


def _narrowed(space: Space, node: Node, document: Document) -> Space:
    """The space of one subnet alone: a named arch, or the first record of a file."""
    shape = None
    try:
        if node.text in space.names():
            arch = space.named(node.text)
        else:
            arch, shape = _first_of(path_of(node.text, "subnet"), space.scales)
        if wrong := space.faults(arch):
            raise UsageError(f"{node.text} is an arch of another space: {'; '.join(wrong)}")
    except SearchkitError as e:
        for line in e.message.splitlines():
            document.report.fault(node, f"subnet: {line}")
        return space
    only = space.only(arch)
    return only if shape is None else replace(only, scales=(shape,))


def _first_of(path: str, known: Collection[InputShape]) -> tuple[Arch, InputShape | None]:
    """The arch of a file of records, and its input shape if it has one: those of the first record."""
    if not os.path.exists(path):
        raise UsageError(f"no file {path}, and no such named arch")
    records = modelspace.load(path)
    first = modelspace.fold(modelspace.flatten(records[0])) if records else {}
    if "arch" not in first:
        raise UsageError(f"{path} has no record with an arch")
    shape = first.get("data", {}).get("input_shape")
    return Arch.of(first["arch"]), None if shape is None else among(shape, known)


def _check_archs(space: Space | None, train: Node | None, document: Document) -> None:
    """The archs that training names, and those that its sampler makes, must be of the space, if that has no fault."""
    at = Cursor(train or Node("map", 1, 1), "train", document.report)
    cycle = sampler_of(at["sampler"]) if "sampler" in at and not at["sampler"].node.is_null else None
    if space is None:
        return
    checks: dict[str, Callable[[str], object]] = dict.fromkeys(("arch", "best_arch", "eval_archs"), space.named)
    checks["sample_strategy"] = partial(check_word, space=space)
    for key in (key for key in checks if key in at):
        for name in at[key].items or [at[key]]:
            try:
                if name.node.kind == "scalar" and not name.node.is_null:
                    checks[key](name.node.text)
            except UsageError as e:
                name.fault(e.message)
    for place, what in sampler_faults(cycle, space) if cycle else ():
        (place or at["sampler"]).fault(what)


def _override(document: Document, text: str) -> Document:
    """The document with the value at a dotted key replaced, its section made where there is none."""
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {text}: must be section.key=value", "Such as --set train.lr=0.01")
    if keys[0] == "space" and len(keys) > 1:
        keys = ["space", *_dimension(document, ".".join(keys[1:]))]
    new = Node("scalar", 1, 1)
    if value.strip():
        try:
            given = nodes.parse(value.encode(), "")
            given.check()
        except ConfigError as e:
            raise UsageError(f"--set {text}: {e.faults[0].what}", "Quote what YAML reads as something else") from e
        new = given.root
    return replace(document, root=_with(document.root, keys, new))


def _dimension(document: Document, name: str) -> list[str]:
    """A dotted name below `space` as a dimension, whose own name has dots, and a key of its declaration, if any."""
    _, space = document.root.entries.get("space", (None, None))
    known = [key for key in (space.entries if space else ()) if name.startswith(f"{key}.")]
    dimension = max(known, key=len, default=name)
    return [dimension, *filter(None, name[len(dimension) + 1 :].split("."))]


def _with(node: Node, keys: list[str], new: Node) -> Node:
    if not keys:
        return _moved(new, node)
    absent = Node("scalar", node.line, node.col, keys[0], keys[0]), Node("map", node.line, node.col, data={})
    where, old = node.entries.get(keys[0], absent)
    changed = _with(old, keys[1:], new)
    entries = {**node.entries, keys[0]: (where, changed)}
    return replace(node, kind="map", entries=entries, data={k: v.data for k, (_, v) in entries.items()})


def _moved(node: Node, place: Node) -> Node:
    """A value of another text, all of which stands at one place of a file."""
    entries = {key: (_moved(where, place), _moved(value, place)) for key, (where, value) in node.entries.items()}
    items = tuple(_moved(item, place) for item in node.items)
    return replace(node, line=place.line, col=place.col, items=items, entries=entries)
