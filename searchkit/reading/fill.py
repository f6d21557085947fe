"""A frozen dataclass from a mapping of a YAML file: its fields are the keys, their types and defaults the rules."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, TypeVar, Union

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.nodes import Node, Report

T = TypeVar("T")
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class _Bad(Exception):
    """Reported already."""


def fill(cls: type[T], node: Node | None, path: str, report: Report, **given: Any) -> T | None:
    """An instance of the dataclass `cls`; None where a fault was reported. `given`: further defaults.

    Unknown keys are faults that name the nearest key, or list the valid ones with defaults; a null is the default.
    """
    if node is not None and node.kind == "bad":
        return None
    if node is not None and node.kind != "map" and not node.is_null:
        report.fault(node, f"{path}: must be a mapping (key: value), not {node}")
        return None
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    entries = node.entries if node is not None else {}
    values, failed = dict(given), False
    for key, (where, value) in entries.items():
        if key not in fields:
            near = did_you_mean(key, tuple(fields))
            if "did you mean" not in near:
                near = "; there are " + ", ".join(f"{name}{_default(f)}" for name, f in fields.items())
            report.fault(where, f"{path}: unknown key {key!r}{near}")
            failed = True
        elif not value.is_null:
            try:
                values[key] = _value(hints[key], value, f"{path}.{key}", report)
            except _Bad:
                failed = True
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            if node is not None:
                report.fault(node, f"{path}: missing key {name!r}")
            failed = True
    if failed:
        return None
    try:
        return cls(**values)
    except UsageError as e:  # what its own checks found
        report.fault(node or Node("bad", 1, 1), f"{path}: {e.message}")
        return None


def _default(f: dataclasses.Field[Any]) -> str:
    """A field's default as YAML writes it; nothing where it has none."""
    if f.default is dataclasses.MISSING:
        return ""
    return f" ({f.default})" if isinstance(f.default, str) and f.default else f" ({json.dumps(f.default, default=str)})"


def _value(hint: Any, node: Node, path: str, report: Report) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [o for o in options if o is not type(None)]
        for kind in kinds[:-1]:  # the first that fits; the last one says what is wrong
            trial = Report(report.filename)
            try:
                return _value(kind, node, path, trial)
            except _Bad:
                pass
        return _value(kinds[-1], node, path, report)
    if origin is Literal:
        if node.text not in options:
            report.fault(
                node, f"{path}: must be one of {', '.join(options)}, not {node}{did_you_mean(node.text, options)}"
            )
            raise _Bad
        return node.text
    if origin is tuple:
        return _tuple(options, node, path, report)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        value = fill(hint, node, path, report)
        if value is None:
            raise _Bad
        return value
    if hint in (int, float, bool, str):
        return _scalar(hint, node, path, report)
    if node.kind == "bad":
        raise _Bad
    return node.data


def _scalar(hint: Any, node: Node, path: str, report: Report) -> Any:
    if node.kind == "scalar":
        if hint is str:
            return node.text
        if hint is float and isinstance(node.data, int | float) and not isinstance(node.data, bool):
            return float(node.data)
        if type(node.data) is hint:
            return node.data
    if node.kind != "bad":
        report.fault(node, f"{path}: must be {_KINDS[hint]}, not {node}")
    raise _Bad


def _tuple(options: tuple[Any, ...], node: Node, path: str, report: Report) -> tuple[Any, ...]:
    if node.kind != "list":
        report.fault(node, f"{path}: must be a list, not {node}")
        raise _Bad
    if options[-1] is Ellipsis:
        hints = [options[0]] * len(node.items)
    elif len(options) != len(node.items):
        report.fault(node, f"{path}: must have {len(options)} values, not {len(node.items)}")
        raise _Bad
    else:
        hints = list(options)
    return tuple(
        _value(h, item, f"{path}[{i}]", report) for i, (h, item) in enumerate(zip(hints, node.items, strict=True))
    )
