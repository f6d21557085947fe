"""The values of a config's sections: their kinds, a check of those that were made in Python, their text for digests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from searchkit.errors import UsageError
from searchkit.nas.data.metrics import AREAS as COCO_AREAS
from searchkit.nas.train.schedules import Scheduled
from searchkit.reading.cursor import node_of
from searchkit.reading.keys import keys_of
from searchkit.reading.kinds import Bad, Kind, Reader, number, says_nothing
from searchkit.reading.nodes import Node, Report


class AsDeclared(Reader):
    """Of a key: what is read and checked elsewhere; here it is plain data."""

    must = "a declaration"
    shapes = ("scalar", "list", "map")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def read(self, node: Node, path: str, report: Report) -> Any:
        """Whatever it is."""
        return node.data

    def to_schema(self) -> Mapping[str, Any]:
        """What it is, in JSON Schema."""
        return self.schema


def _above_0(node: Node) -> float:
    if isinstance(node.data, bool) or not isinstance(node.data, int | float) or not node.data > 0:
        raise ValueError
    return float(node.data)


NotNegative = Annotated[float, number(0)]
Interval = Annotated[  # which may be infinite: never
    float, Kind("a number above 0", _above_0, {"type": "number", "exclusiveMinimum": 0})
]
Milestone = Annotated[float, number(above=0, below=1)]
ScheduledNumber = Annotated[Any, Scheduled(number())]
ScheduledWeight = Annotated[Any, Scheduled(number(0))]
ScheduledAbove0 = Annotated[Any, Scheduled(number(above=0))]
ScheduledFraction = Annotated[Any, Scheduled(number(0, 1))]


def check(section: Any) -> None:
    """Raises UsageError with every value of a section that its key can't have: one made in Python was not read."""
    report = Report("")
    cls: Any = type(section)
    keys = keys_of(cls)
    for name, (f, hint) in keys.items():
        for reader, value, path in _readers(hint, getattr(section, f.name), name):
            with suppress(Bad):
                reader.read(node_of(value), path, report)
    if report.faults:
        raise UsageError("; ".join(fault.what for fault in report.faults))


def _readers(hint: Any, value: Any, path: str) -> Iterator[tuple[Reader, Any, str]]:
    """What reads each value of a type, and its path; nothing where the type alone says what it is."""
    options = get_args(hint)
    if value is None or is_dataclass(value):
        return
    if get_origin(hint) is Annotated:
        yield from ((mark, value, path) for mark in options[1:] if isinstance(mark, Reader))
    elif get_origin(hint) in (Union, UnionType):
        for option in options:
            yield from _readers(option, value, path)
    elif get_origin(hint) is tuple and isinstance(value, tuple):
        for i, each in enumerate(value):
            yield from _readers(options[0], each, f"{path}[{i}]")
    elif get_origin(hint) is Mapping and isinstance(value, Mapping):
        for name, each in value.items():
            yield from _readers(options[1], each, f"{path}.{name}")


def text_of(section: Any) -> str:
    """The text of a section that digests are made of: its repr, but for fields that came later and have their default,
    so that what was begun by an older version goes on."""
    told = [f for f in fields(section) if not says_nothing(f, section)]
    return f"{type(section).__qualname__}({', '.join(f'{f.name}={_text(getattr(section, f.name))}' for f in told)})"


def _text(value: Any) -> str:
    """As repr, with `text_of` for sections within."""
    if isinstance(value, tuple):
        items = [*map(_text, value)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_text(each)}' for name, each in value.items())}}}"
    return text_of(value) if is_dataclass(value) else repr(value)


def _span(node: Node) -> list[float]:
    values = [item.data for item in node.items]
    if len(values) != 2 or not all(map(_is_area, values)) or values[0] >= values[1]:
        raise ValueError
    return values


def _is_area(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _area_name(node: Node) -> str:
    if not node.text.isidentifier() or node.text in COCO_AREAS:
        raise UsageError(
            f"a name must be a word of letters, digits and _, not {node.text!r}; {', '.join(COCO_AREAS)} are COCO's"
        )
    return node.text


_AREA = {"type": "number", "minimum": 0}
_PAIR = {"type": "array", "items": _AREA, "minItems": 2, "maxItems": 2}
Areas = Mapping[
    Annotated[str, Kind("a name", _area_name, {"type": "string", "not": {"enum": [*COCO_AREAS]}})],
    Annotated[Any, Kind("[from, to] in px^2, ascending", _span, _PAIR, ("list",))],
]
