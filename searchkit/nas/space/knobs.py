"""What varies in a space as independent choices with names, for samplers that know nothing of architectures."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.blocks import Counts
from searchkit.nas.space.dim import NET_INDEX, Dim
from searchkit.nas.space.grid import Grid, Row

MAX_COMBINATIONS = 1_000_000  # of an ascending dimension: they are one knob, whose choices are listed
RARE = 1 / 1000  # the share of random values below which a sampler would look for ascending blocks in vain
Order = tuple[str, str]  # two knobs: where both are there, the second one's value is not below the first one's


@dataclass(frozen=True)
class Knob:
    """One independent choice; with `when`, it exists only where that knob's value is greater than that number."""

    name: str
    choices: tuple[int, ...]
    when: tuple[str, int] | None = None


@dataclass(frozen=True)
class _Place:
    """A knob, the dimension it turns, and the position; None for all together."""

    knob: Knob
    dim: int
    position: int | None


@dataclass(frozen=True)
class Knobs:
    """The knobs of a grid, and the way from their values to rows and back."""

    places: tuple[_Place, ...]
    orders: tuple[Order, ...] = ()

    def rows(self, grid: Grid, values: Mapping[str, int]) -> list[Row]:
        """The combination that the values give. Raises UsageError for a value that is missing, no choice, or below the
        one that it must follow.

        Values of knobs that are not there at these depths are left out.
        """
        names = [place.knob.name for place in self.places]
        wrong = [f"there is no knob {name!r}{did_you_mean(name, names)}" for name in values if name not in names]
        rows = [list(row) for row in grid.fixed(min)]
        there: dict[str, int] = {}
        for place in self.places:
            knob, dim, row = place.knob, grid.dims[place.dim], rows[place.dim]
            if knob.when and int(values.get(knob.when[0], 0)) <= knob.when[1]:
                continue
            value = values.get(knob.name)
            if value not in knob.choices:
                actual = f"not {value!r}" if knob.name in values else "but is missing"
                shown = f"{knob.choices[0]} to {knob.choices[-1]}" if len(knob.choices) > 20 else f"{[*knob.choices]}"
                wrong.append(f"{knob.name} must be one of {shown}, {actual}")
                continue
            there[knob.name] = int(value)
            if place.position is not None:
                row[place.position] = int(value)
            elif dim.common:
                row[:] = dim.spread((int(value),))
            else:
                row[:] = dim.find(int(value))
        for first, second in self.orders:
            if first in there and second in there and there[second] < there[first]:
                wrong.append(f"{second} must not be below {first}, but is {there[second]} behind {there[first]}")
        if wrong:
            raise UsageError("; ".join(wrong))
        return grid.nearest([dim.pack(row) for dim, row in zip(grid.dims, rows, strict=True)])

    def values(self, grid: Grid, rows: list[Row]) -> dict[str, int]:
        """The values of the knobs that are there at a combination."""
        out: dict[str, int] = {}
        for place in self.places:
            knob, dim, row = place.knob, grid.dims[place.dim], rows[place.dim]
            if knob.when and out[knob.when[0]] <= knob.when[1]:
                continue
            if place.position is not None:
                out[knob.name] = row[place.position]
            else:
                out[knob.name] = row[dim.lead] if dim.common else _number(dim, row)
        return out


def knobs_of(grid: Grid) -> Knobs:
    """The knobs of a grid, each after the one that it hangs on."""
    names = _Names(grid)
    places: list[_Place] = []
    orders: list[Order] = []
    share = 1.0
    for d, (dim, at) in enumerate(zip(grid.dims, grid.depth_of, strict=True)):
        if dim.tied:
            continue
        if dim.common or _is_bound(dim):
            choices = dim.free[0] if dim.common else _numbers(dim)
            places += [_Place(Knob(names.new(dim.key), choices), d, None)] if len(choices) > 1 else []
            continue
        slots: dict[int, str] = {}
        for i, choices in enumerate(dim.choices):
            name, when = names.new(dim.key if dim.scalar else f"{dim.key}.{i}"), None
            if at is not None:
                depth = grid.dims[at]
                stage, block = divmod(i, len(dim.choices) // len(depth.choices))
                if block >= depth.choices[stage][-1]:
                    continue
                when = _when(places, at, stage, block, dim, depth)
            if len(choices) > 1:
                places.append(_Place(Knob(name, choices, when), d, i))
                slots[i] = name
        if at is not None and dim.ascending:
            depth = grid.dims[at]
            share *= Counts(depth, (dim,)).total / Counts(depth, (replace(dim, ascending=False),)).total
            if share < RARE:
                raise UsageError(
                    f"{dim.key} can't be searched: its blocks ascend, as they do in one of {1 / share:,.0f} choices of "
                    "all blocks",
                    "search with sample_strategy: block_wise, leave out choices, or draw archs by search-nas flops "
                    "--sample",
                )
            orders += [(slots[a], slots[b]) for a, b in _followed(dim, depth) if a in slots and b in slots]
    return Knobs(tuple(places), tuple(orders))


def _followed(dim: Dim, depth: Dim) -> Iterator[tuple[int, int]]:
    """Of a block_wise dimension, the slots that may follow each other, in order. A slot with one choice bounds no
    other: what doesn't go with it is no choice there."""
    slots = len(dim.choices) // len(depth.choices)
    for s, depths in enumerate(depth.choices):
        for i in range(depths[-1] - 1):
            yield s * slots + i, s * slots + i + 1
        for t in range(s + 1, len(depth.choices)):
            yield from ((s * slots + blocks - 1, t * slots) for blocks in depths if blocks)
            if depth.choices[t][0]:
                break


def _when(places: list[_Place], at: int, stage: int, block: int, dim: Dim, depth: Dim) -> tuple[str, int] | None:
    """The condition of a slot; None where all depths have its block."""
    if depth.choices[stage][0] > block:
        return None
    if _is_bound(depth):
        raise UsageError(
            f"{dim.key} can't be searched: it is block_wise, and {depth.key} ascending",
            f"leave out one of them, or set the depths of each stage so that all combinations of {depth.key} ascend",
        )
    knob = next(p.knob for p in places if p.dim == at and p.position in (None, stage))
    if depth.strategy != NET_INDEX:
        return knob.name, block
    ranks = zip(depth.free[0], depth.choices[stage], strict=True)  # the knob turns another stage's depth
    return knob.name, max(value for value, blocks in ranks if blocks <= block)


def _is_bound(dim: Dim) -> bool:
    """Whether its positions can't be chosen one by one."""
    return dim.ordered and dim.count() < math.prod(map(len, dim.choices))


def _numbers(dim: Dim) -> tuple[int, ...]:
    if dim.count() > MAX_COMBINATIONS:
        raise UsageError(
            f"{dim.key} can't be searched: it has {dim.count():,} ascending combinations, more than "
            f"{MAX_COMBINATIONS:,}",
            "use wider steps, or set the values of each position so that all combinations ascend",
        )
    return tuple(range(dim.count()))


def _number(dim: Dim, row: Row) -> int:
    """The place of a combination among those of its dimension."""
    number = 0
    for i, v in enumerate(row):
        pairs = zip(dim.choices[i], dim.ways[i], strict=True)
        number += sum(n for w, n in pairs if w < v and (not i or dim.allows(i, row[i - 1], w)))
    return number


class _Names:
    """Python identifiers from dotted names, each once."""

    def __init__(self, grid: Grid) -> None:
        keys = [dim.key for dim in grid.dims]
        first = {key.partition(".")[0] for key in keys}
        self._cut = len(first.pop()) + 1 if len(first) == 1 and all("." in key for key in keys) else 0
        self._taken: set[str] = set()

    def new(self, key: str) -> str:
        name = re.sub(r"\W", "_", key[self._cut :], flags=re.ASCII)
        name = f"_{name}" if name[:1].isdigit() else name
        while name in self._taken or keyword.iskeyword(name):
            name += "_"
        self._taken.add(name)
        return name
