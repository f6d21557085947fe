"""Genes, what a sampler chooses: for each argument a number of its range, or the index of a value or row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.errors import UsageError
from searchkit.reading.nodes import typed
from searchkit.suite.space.args import Arg, Gene, Range, Value

Genes = dict[str, Gene]  # by `arg.key`, of the arguments that exist there, in the order of declaration
_MANY = 8  # more values than this are not all shown


@dataclass(frozen=True)
class Dim:
    """One argument as a sampler sees it. kind: float, int, or index (from 0 to `high`, without an order).

    `high` is the highest value that is taken; `step` is None for floats without one; `log`: even on a log scale.
    """

    name: str
    kind: str
    low: Gene
    high: Gene
    step: Gene | None
    log: bool
    when: str | None
    arg: Arg

    def snap(self, gene: Gene) -> Gene:
        """The gene nearest to `gene`, as a number of Python."""
        return self.arg.snap(gene) if isinstance(self.arg, Range) else int(gene)

    @property
    def allowed(self) -> str:
        """Which genes there are, in words."""
        kind = {"float": "a number", "int": "a whole number", "index": "the index of a value,"}[self.kind]
        steps = f" in steps of {self.step}" if self.step and self.step != 1 else ""
        return f"{kind} from {self.low} to {self.high}{steps}"

    def holds(self, gene: Gene) -> bool:
        """Whether `gene` is one of this argument."""
        number = isinstance(gene, float | int) and not isinstance(gene, bool)
        if not number or not self.low <= gene <= self.high:
            return False
        if self.kind == "float":
            return math.isclose(self.snap(gene), gene, abs_tol=1e-12)
        return isinstance(gene, int) and self.snap(gene) == gene


def dim_of(arg: Arg) -> Dim:
    """The dimension of an argument."""
    if isinstance(arg, Range):
        low = int(arg.low) if arg.integer else float(arg.low)
        step = (arg.step or 1) if arg.integer else arg.step
        return Dim(arg.name, "int" if arg.integer else "float", low, arg.last, step, arg.log, arg.when, arg)
    return Dim(arg.key, "index", 0, arg.size - 1, 1, False, arg.when, arg)


def named(values: Mapping[str, Any]) -> str:
    """Values in one line, for messages."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def gene_of(dim: Dim, values: Mapping[str, Any]) -> Gene:
    """The gene of values, each given as what it means or as its text. Raises UsageError for what is none of them."""
    arg = dim.arg
    if isinstance(arg, Range):
        return _number(dim, values[arg.name])
    points = arg.points()
    for same in (_same, _equal, _written):
        fits = [i for i, point in enumerate(points) if all(same(point.get(name), v) for name, v in values.items())]
        rows = {tuple((name, value.text) for name, value in points[i].items()) for i in fits}
        if len(rows) > 1 and len(values) < len(arg.names):
            lack = [name for name in arg.names if name not in values]
            raise UsageError(f"several rows have {named(values)}; give {', '.join(lack)} too")
        if fits:
            return fits[0]
    listed = [named({name: value.text for name, value in p.items() if name in values}) for p in points[:_MANY]]
    more = f" … ({len(points)} in all)" if len(points) > _MANY else ""
    raise UsageError(f"{named(values)} is none of: {'; '.join(listed)}{more}")


def _number(dim: Dim, value: Any) -> Gene:
    number = typed(value.strip()) if isinstance(value, str) else value
    if isinstance(number, float) and dim.kind == "int" and number.is_integer():
        number = int(number)
    if type(number) is int and dim.kind == "float" and abs(number) <= dim.high + abs(dim.low):
        number = float(number)
    if not dim.holds(number):
        raise UsageError(f"{dim.name} must be {dim.allowed}, not {value!r}")
    return dim.snap(number)


def _same(value: Value | None, entry: Any) -> bool:
    """Whether it means the same, type by type: 1 is neither 1.0 nor true."""
    return entry is None if value is None else _alike(value.data, entry, True)


def _equal(value: Value | None, entry: Any) -> bool:
    """Whether it means the same, where 1 is 1.0, but not true."""
    return entry in (None, "") if value is None else _alike(value.data, entry, False)


def _written(value: Value | None, entry: Any) -> bool:
    """Whether it means the same, or is a text that does."""
    if value is None or not isinstance(entry, str):
        return _equal(value, entry)
    return value.text == entry or _alike(value.data, typed(entry), False)


def _alike(a: Any, b: Any, strict: bool) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(value, b[key], strict) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_alike(x, y, strict) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) != isinstance(b, bool) or (strict and type(a) is not type(b)):
        return False
    return bool(a == b or (a != a and b != b))  # NaN is NaN here
