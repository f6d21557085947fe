"""What of a space is chosen by itself, unit by unit, and an architecture with some of its units reduced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from searchkit.nas.space.dim import Dim
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch


class Unit(NamedTuple):
    """A position of a dimension that is chosen by itself; of one whose positions have one value in common, the first
    stands for all."""

    key: str
    position: int | None  # None: the dimension has one int

    @property
    def name(self) -> str:
        return self.key if self.position is None else f"{self.key}[{self.position}]"


class Reduction(NamedTuple):
    """A unit at one of its choices below the greatest."""

    unit: Unit
    value: int


def units_of(space: Space) -> dict[Unit, tuple[int, ...]]:
    """What may be reduced, with its choices, the greatest first. What has one choice, or follows a depth, is none."""
    return {
        Unit(dim.key, None if dim.scalar else i): dim.choices[i][::-1]
        for dim in space.dims
        for i in dim.turned
        if len(dim.choices[i]) > 1
    }


def reductions_of(units: Mapping[Unit, tuple[int, ...]]) -> tuple[Reduction, ...]:
    """All of them, unit by unit."""
    return tuple(Reduction(unit, value) for unit, (_, *lower) in units.items() for value in lower)


def reduced(space: Space, start: Arch, reductions: Iterable[Reduction]) -> Arch:
    """An architecture with some of its units at other choices, and what follows a depth with it. It may lie off the
    grid, where a dimension is ascending: `Space.nearest` has the one near it."""
    dims = {dim.key: dim for dim in space.dims}
    rows = {dim.key: list(dim.unpack(start[dim.key])) for dim in space.dims}
    for unit, value in reductions:
        dim = dims[unit.key]
        if dim.common:
            rows[unit.key] = list(dim.spread((value,)))
        else:
            rows[unit.key][unit.position or 0] = value
    for dim in space.dims:
        if dim.tied:
            rows[dim.key] = _following(dim, rows[dim.depth], dims[dim.depth])
    values = {key: dims[key].pack(row) for key, row in rows.items()}
    return space.canonical(Arch(tuple(sorted(values.items()))))


def _following(dim: Dim, depth: list[int], of: Dim) -> list[int]:
    """Of a dimension that takes the choice which the depth takes: its values at a depth."""
    return [row[choices.index(d)] for row, choices, d in zip(dim.choices, of.choices, depth, strict=True)]
