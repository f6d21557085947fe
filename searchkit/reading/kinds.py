"""What a value of a config may be where Python's types don't say it: ranges, counts, bytes, seconds, texts, paths.

A type carries its kind: `steps: Count`, `lr: Annotated[float, number(above=0)]`. A kind knows how a value is read, what
is said of one that can't be, and what JSON Schema says of it, so that the three never differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.nodes import Node, Report, typed

_BYTES = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LATER = {"later": True}  # the metadata of fields that came to a section when there were digests of it already
SCALARS = ["string", "number", "boolean"]  # JSON's types of what YAML reads as a text where a text is needed


def says_nothing(field: Any, section: Any) -> bool:
    """Whether a field of a section came later and has its default: then it is kept in no digest, as before it came."""
    return bool(field.metadata == LATER and getattr(section, field.name) == field.default)


class Bad(Exception):
    """A value with a fault, which is in the report. `rest`: what of a list has none."""

    def __init__(self, rest: tuple[Any, ...] | None = None) -> None:
        super().__init__()
        self.rest = rest


class Reader:
    """What a type carries to say how its values are read. must: completes `must be …`; shapes: the kinds of nodes that
    it looks at."""

    must: str
    shapes: tuple[str, ...]

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The value of `node`. Raises Bad where it has a fault, which is then in the report."""
        raise NotImplementedError

    def to_schema(self) -> Mapping[str, Any]:
        """The same in JSON Schema."""
        raise NotImplementedError


class Kind(Reader):
    """A kind of value that a function tells.

    must: completes `must be …`. of: the value of a node; raises ValueError for a node that is not of the kind, or
    UsageError for a message of its own. schema: the same in JSON Schema. shapes: the kinds of nodes that it looks at.
    """

    def __init__(
        self,
        must: str,
        of: Callable[[Node], Any],
        schema: Mapping[str, Any],
        shapes: tuple[str, ...] = ("scalar",),
    ) -> None:
        self.must = must
        self.of = of
        self.schema = schema
        self.shapes = shapes

    def to_schema(self) -> Mapping[str, Any]:
        """The same in JSON Schema."""
        return self.schema

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The value of `node`. Raises Bad where it has a fault, which is then in the report."""
        if node.kind == "bad":
            raise Bad
        try:
            if node.kind not in self.shapes:
                raise ValueError
            return self.of(node)
        except ValueError:
            report.fault(node, f"{path}: must be {self.must}, not {node}")
        except UsageError as e:
            report.fault(node, f"{path}: {e.message}" + (f"; {e.hint}" if e.hint else ""))
        raise Bad


class Choice(Reader):
    """One of several texts; `Literal` is the same, where the type of the field may be so narrow."""

    shapes = ("scalar",)

    def __init__(self, *options: str) -> None:
        self.options = options
        self.must = f"one of {', '.join(options)}" if len(options) > 1 else options[0]

    def read(self, node: Node, path: str, report: Report) -> str:
        """As of Reader: the text of a scalar, whatever it means to YAML."""
        if node.kind == "scalar" and node.text in self.options:
            return node.text
        if node.kind != "bad":
            near = did_you_mean(node.text, self.options) if node.kind == "scalar" else ""
            near = near if "did you mean" in near else ""
            report.fault(node, f"{path}: must be {self.must}, not {node}{near}")
        raise Bad

    def to_schema(self) -> Mapping[str, Any]:
        """As of Reader."""
        return {"enum": [*self.options, *(value for o in self.options if (value := typed(o)) != o)]}


class Some:
    """Of a list or a mapping: it has at least one item, a `what`."""

    def __init__(self, what: str = "value") -> None:
        self.what = what


class Key:
    """Of a field: its key in the file, where that is named otherwise than the field; empty: it is no key."""

    def __init__(self, name: str) -> None:
        self.name = name


# --- numbers ---------------------------------------------------------------------------------------------------------


def whole(least: int | None = None, most: int | None = None, must: str = "") -> Kind:
    """An integer from `least` to `most`. must: what is said of others, where the numbers don't say it well."""
    return _limited("a whole number", int, least, most, None, None, must)


def number(
    least: float | None = None, most: float | None = None, *, above: float | None = None, below: float | None = None
) -> Kind:
    """A number, neither infinite nor NaN, from `least` to `most`, or above and below what is no part of the range."""
    return _limited("a number", float, least, most, above, below)


def _limited(
    noun: str,
    kind: type,
    least: float | None,
    most: float | None,
    above: float | None,
    below: float | None,
    must: str = "",
) -> Kind:
    types = int if kind is int else int | float

    def of(node: Node) -> Any:
        value = node.data
        if isinstance(value, bool) or not isinstance(value, types) or not math.isfinite(value):
            raise ValueError
        if (least is not None and value < least) or (most is not None and value > most):
            raise ValueError
        if (above is not None and value <= above) or (below is not None and value >= below):
            raise ValueError
        return kind(value)

    keywords = {"minimum": least, "maximum": most, "exclusiveMinimum": above, "exclusiveMaximum": below}
    schema = {keyword: bound for keyword, bound in keywords.items() if bound is not None}
    must = must or noun + _range_text(least, most, above, below)
    return Kind(must, of, {"type": "integer" if kind is int else "number", **schema})


def _range_text(least: float | None, most: float | None, above: float | None, below: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    parts = [f" of {least:g} or more"] if least is not None else []
    parts += [f" of {most:g} or less"] if most is not None else []
    parts += [f" above {above:g}"] if above is not None else []
    parts += [f" below {below:g}"] if below is not None else []
    return " and".join(parts)


def _bytes(node: Node) -> int:
    m = _BYTES.fullmatch(node.text)
    size = int(float(m[1]) * 1024 ** " KMGT".index(m[2].upper() or " ")) if m else 0
    if size < 1:
        raise ValueError
    return size


def _seconds(node: Node) -> float:
    m = _SECONDS.fullmatch(node.text)
    seconds = float(m[1]) * _UNIT_S[m[2]] if m else 0.0
    if seconds <= 0:
        raise ValueError
    return seconds


def _sized(pattern: str) -> Mapping[str, Any]:
    """JSON Schema of a number above 0, or a text of one with a unit."""
    digits = r"^(?=[0-9.]*[1-9])[0-9]{1,20}(\.[0-9]+)? ?"
    return {"type": ["number", "string"], "exclusiveMinimum": 0, "pattern": digits + pattern + "$"}


# --- texts -----------------------------------------------------------------------------------------------------------


def _text(node: Node) -> str:
    if not node.text.strip():
        raise ValueError
    return node.text


def matching(pattern: str, must: str, **schema: Any) -> Kind:
    """A text that matches `pattern` as a whole. It is of what Python's and ECMA's expressions have in common. schema:
    what it says further, such as which types can be written so."""

    def of(node: Node) -> str:
        if not re.fullmatch(pattern, node.text):
            raise ValueError
        return node.text

    return Kind(must, of, {"type": SCALARS, "pattern": f"^(?:{pattern})$", **schema})


def file_of(*suffixes: str) -> Kind:
    """A path that ends in one of `suffixes`: .json, .yaml."""
    ends = "|".join(re.escape(suffix) for suffix in suffixes)
    return matching(rf"[\s\S]*(?:{ends})", f"a {' or '.join(suffixes)} file", type="string")


Count = Annotated[int, whole(1)]
Whole = Annotated[int, whole(0)]
Number = Annotated[float, number()]
Fraction = Annotated[float, number(0, 1)]
Positive = Annotated[float, number(above=0)]
Bytes = Annotated[
    int, Kind("a number of bytes, or a size such as 6G or 512M", _bytes, _sized("[KMGTkmgt]?([iI]?[bB])?"))
]
Seconds = Annotated[float, Kind("seconds above 0, or a time such as 30s, 10m, 2h or 1d", _seconds, _sized("[smhd]?"))]
Text = Annotated[str, Kind("a text", _text, {"type": SCALARS, "pattern": r"\S"})]
Path = Annotated[str, Kind("a path", _text, {"type": SCALARS, "pattern": r"\S"})]
