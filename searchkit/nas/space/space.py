"""Architectures, and the space they come from: one declaration gives the maximum, the grid, its count, the anchors.

An architecture maps dotted names (`backbone.body.depth`) to an int or a tuple of ints. The grid of a space is the
product of its dimensions; a dimension may be `ascending`: no value is below the one before it. Anchors are named
architectures inside the maximal model; they may lie off the grid, and no count or enumeration contains them.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.anchors import place_of, read_arch
from searchkit.nas.space.dim import Dim
from searchkit.nas.space.grid import Grid
from searchkit.nas.space.knobs import Knob, Knobs, Order, knobs_of
from searchkit.nas.space.order import Rows
from searchkit.nas.space.phases import narrowed, needs_no_more
from searchkit.nas.space.shapes import INPUT, InputShape, read_scales
from searchkit.nas.space.strategy import KEYS, read_dims
from searchkit.reading.cursor import Cursor, read_plain
from searchkit.records.arch import PREFIX, Arch, Width

MAX, MIN = "MAX", "MIN"


@dataclass(frozen=True)
class Space:
    """Dimensions in the order declared; input shapes; and anchors, each with its name."""

    dims: tuple[Dim, ...]
    scales: tuple[InputShape, ...] = ()
    anchors: tuple[tuple[str, Arch], ...] = ()

    def maximum(self) -> Arch:
        """The greatest architecture of the grid: the sizes of the supernet."""
        return self._of_rows(self._grid.fixed(max))

    def minimum(self) -> Arch:
        """The least architecture of the grid."""
        return self._of_rows(self._grid.fixed(min))

    def middle(self) -> Arch:
        """The one with the middle choice at every position, the lower one of two; where these do not go together, one
        near it."""
        return self._of_rows(self._grid.fixed(lambda row: row[(len(row) - 1) // 2]))

    def slim(self, rng: random.Random) -> Arch:
        """One with the least or the greatest choice at every position, drawn evenly; where these do not go together,
        one near it. Neither MAX nor MIN, if there are others."""
        ends = (self.maximum(), self.minimum())
        for _ in range(50):
            arch = self._of_rows(self._grid.fixed(lambda row: rng.choice((row[0], row[-1]))))
            if arch not in ends:
                break
        return arch

    def names(self) -> tuple[str, ...]:
        """MAX, MIN, then the anchors in the order declared."""
        return (MAX, MIN, *(name for name, _ in self.anchors))

    def named(self, name: str) -> Arch:
        """MAX, MIN, or an anchor. Raises UsageError with the nearest names."""
        if name in (MAX, MIN):
            return self.maximum() if name == MAX else self.minimum()
        for key, arch in self.anchors:
            if key == name:
                return arch
        raise UsageError(f"the space has no architecture named {name!r}{did_you_mean(name, self.names())}")

    def count(self) -> int:
        """How many architectures the grid has."""
        return self._grid.count

    def points(self) -> int:
        """How many pairs of an architecture and an input shape there are."""
        return self.count() * max(1, len(self.scales))

    def enumerate(self) -> Iterator[Arch]:
        """Every architecture of the grid: the first dimension changes slowest, the last position fastest, ascending.

        A depth that others hang on counts before them.
        """
        return map(self._arch, self._grid.rows())

    def at(self, i: int) -> Arch:
        """The i-th architecture of `enumerate`, at the cost of one."""
        if not 0 <= i < self.count():
            raise UsageError(f"the space has architectures 0 to {self.count() - 1}, not {i}")
        return self._of_rows(self._grid.at(i))

    def sample(self, rng: random.Random) -> Arch:
        """One of the grid: every dimension is drawn evenly, a depth before what its blocks are, so that depths are as
        probable as each other however many networks each has. Without block_wise dimensions all archs are."""
        return self._of_rows(self._grid.sample(rng))

    def contains(self, arch: Arch) -> bool:
        """Whether an architecture is on the grid (and canonical)."""
        return not self.faults(arch) and self._of_rows(self._rows(arch)) == arch

    def canonical(self, arch: Arch) -> Arch:
        """The same network, with the least choice in the slots that have no block at its depth."""
        return Arch(tuple(self._grid.canonical(dict(arch.items)).items())) if self._grid.linked else arch

    def nearest(self, arch: Arch) -> Arch:
        """One of the grid near an architecture within the maximal model; itself if it is one. Raises UsageError for one
        that does not fit."""
        return self._of_rows(self._parent(arch))

    def faults(self, arch: Arch) -> list[str]:
        """Why an architecture does not fit into the maximal model; off the grid but inside is no fault."""
        return [fault for _, _, fault in self.misfits(arch)]

    def misfits(self, arch: Arch) -> list[tuple[str, int | None, str]]:
        """As `faults`, each with the name that it is about, and the position in its list."""
        keys = tuple(dim.key for dim in self.dims)
        wrong: list[tuple[str, int | None, str]] = [
            (name, None, f"{name} is no dimension{did_you_mean(name, keys)}") for name in arch if name not in keys
        ]
        arch = self.canonical(arch)
        for dim in self.dims:
            value = arch.get(dim.key)
            faults = [(None, f"{dim.key} is missing")] if value is None else dim.misfits(value)
            wrong += [(dim.key, i, fault) for i, fault in faults]
        return wrong

    def mutate(self, arch: Arch, rng: random.Random, p: float = 0.1) -> Arch:
        """Every position changes with probability `p`, and at least one does, if the space has more than one
        architecture. The child is on the grid; a parent off the grid is moved there first. Blocks that the child has
        and its parent has not are drawn."""
        if not 0 <= p <= 1:
            raise UsageError(f"the probability of a mutation must be from 0 to 1, not {p}")
        return self._of_rows(self._grid.mutate(self._parent(arch), rng, p))

    def crossover(self, a: Arch, b: Arch, rng: random.Random) -> Arch:
        """Every position from one of the parents, on the grid; parents off the grid are moved there first."""
        return self._of_rows(self._grid.cross(self._parent(a), self._parent(b), rng))

    # --- parts of it --------------------------------------------------------------------------------------------------

    def held(self) -> dict[str, Rows]:
        """For each dimension, the choices of each position."""
        return {dim.key: dim.choices for dim in self.dims}

    def without(self, names: Collection[str]) -> Space:
        """The space without these dimensions, and its anchors without their values."""
        if not any(dim.key in names for dim in self.dims):
            return self
        anchors = ((name, [item for item in arch.items if item[0] not in names]) for name, arch in self.anchors)
        left = tuple(dim for dim in self.dims if dim.key not in names)
        return Space(left, self.scales, tuple((name, Arch(tuple(items))) for name, items in anchors))

    def only(self, arch: Arch) -> Space:
        """The space of that one architecture, with the input shapes. Raises UsageError where it does not fit."""
        if wrong := self.faults(arch):
            raise UsageError(f"the architecture does not fit into the space: {'; '.join(wrong)}")
        one = self.canonical(arch)
        dims = (Dim(dim.key, tuple((v,) for v in dim.unpack(one[dim.key])), dim.scalar) for dim in self.dims)
        return Space(tuple(dims), self.scales)

    @property
    def scheduled(self) -> bool:
        """Whether a dimension has a schedule."""
        return any(dim.phases for dim in self.dims)

    def at_epoch(self, epoch: int) -> Space:
        """The space as its schedules narrow it in an epoch (the first is 1); itself where there is none.

        It has the anchors that need no choice of another phase.
        """
        if not self.scheduled:
            return self
        firsts = [first for first, _ in self.phases]
        return self.phases[max(0, bisect_right(firsts, epoch) - 1)][1]

    @cached_property
    def phases(self) -> tuple[tuple[int, Space], ...]:
        """The epochs at which the space changes, and the space from each on; one phase where there is no schedule."""
        if not self.scheduled:
            return ((1, self),)
        firsts = sorted({first for dim in self.dims for first, _ in dim.phases})
        return tuple((first, self._narrowed(first)) for first in firsts)

    def _narrowed(self, epoch: int) -> Space:
        dims = narrowed(self.dims, epoch)
        kept = ((name, arch) for name, arch in self.anchors if needs_no_more(dict(arch.items), self.dims, dims))
        return Space(dims, self.scales, tuple(kept))

    # --- for samplers that know no architectures ----------------------------------------------------------------------

    def knobs(self) -> tuple[Knob, ...]:
        """What varies, one independent choice each, named as Python identifiers (`body_width_0`); a knob with `when`
        exists only where another's value is above a number. Raises UsageError for what can't be said so."""
        return tuple(place.knob for place in self._knobs.places)

    def orders(self) -> tuple[Order, ...]:
        """Pairs of knobs: where both are there, the value of the second is not below that of the first."""
        return self._knobs.orders

    def arch_of(self, values: Mapping[str, int]) -> Arch:
        """The architecture of the knobs' values. Raises UsageError for values that are missing or no choices."""
        return self._of_rows(self._knobs.rows(self._grid, values))

    def values_of(self, arch: Arch) -> dict[str, int]:
        """The other way round. Raises UsageError for an architecture off the grid."""
        if not self.contains(self.canonical(arch)):
            raise UsageError(f"the architecture is not on the grid of the space: {arch.text()}")
        return self._knobs.values(self._grid, self._rows(arch))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _parent(self, arch: Arch) -> list[tuple[int, ...]]:
        if wrong := self.faults(arch):
            raise UsageError(f"the architecture does not fit into the space: {'; '.join(wrong)}")
        return self._rows(arch)

    def _rows(self, arch: Arch) -> list[tuple[int, ...]]:
        return self._grid.nearest([arch[dim.key] for dim in self._grid.dims])

    def _of_rows(self, rows: Sequence[Sequence[int]]) -> Arch:
        return self._arch([dim.pack(row) for dim, row in zip(self._grid.dims, rows, strict=True)])

    def _arch(self, values: Sequence[Width]) -> Arch:
        return Arch(tuple([(self._grid.dims[i].key, values[i]) for i in self._order]))

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return tuple(sorted(range(len(self.dims)), key=lambda i: self._grid.dims[i].key))

    @cached_property
    def _grid(self) -> Grid:
        return Grid(self.dims)

    @cached_property
    def _knobs(self) -> Knobs:
        return knobs_of(self._grid)


# --- declarations ----------------------------------------------------------------------------------------------------

ANCHORS = "anchors"
HINT = (
    "a dimension is `backbone.stem.width: 32`, `[64, 128]`, `{choices: [32, 48]}`, `{choices: [[3, 5], [3, 5, 7]]}` "
    "or `{start: 32, end: 64, step: 16}` (lists for several positions, with `ascending: true` or not); "
    "docs/nas-config.md lists all forms, strategies and schedules"
)


def read_space(data: Mapping[str, Any], where: str = "space") -> Space:
    """The space that plain data declares: what stands below the key `space:` of a config.

    Dotted names to dimensions, `data.input_shape`, and `anchors`: names to architectures. Raises UsageError with every
    fault, one a line; `where` begins each.
    """
    space: Space = read_plain(space_of, data, where, HINT)
    return space


def space_of(at: Cursor) -> Space | None:
    """The space that a config declares, as `read_space`; None where a fault was reported, at its place."""
    if at.node.kind != "map":
        at.fault(f"must be a mapping of dotted names to their values, not {at.shown}")
        return None
    faults = len(at.report.faults)
    dims = read_dims(_dimensions(at))
    scales = read_scales(at[INPUT]) if INPUT in at and not at[INPUT].is_broken else ()
    whole = not at.is_broken and len(at.report.faults) == faults
    if whole and not dims:
        at.fault("must have at least one dimension")
        return None
    given = at[ANCHORS] if ANCHORS in at and not at[ANCHORS].node.is_null else None
    anchors = () if given is None else _anchors(given, Space(dims, scales) if whole else None)
    return Space(dims, scales, anchors) if whole and len(at.report.faults) == faults else None


def _dimensions(at: Cursor) -> dict[str, Cursor]:
    """The declarations of dimensions by their names."""
    declared: dict[str, Cursor] = {}
    for given in at.node.entries:
        if given in (INPUT, ANCHORS):
            continue
        key = given.removeprefix(PREFIX)
        inside = [other for other in declared if other.startswith(key + ".") or key.startswith(other + ".")]
        if not all(word.strip() == word and word for word in key.split(".")):
            at.fault_of_key(given, f"the name {given!r} must be words joined by dots")
        elif key.startswith("data.") or _is_typo(key) or _is_section(key, at[given]):
            at.fault_of_key(given, f"unknown key {key!r}{did_you_mean(key, (INPUT, ANCHORS))}")
        elif key in declared or inside:
            fault = f"{key} is declared twice" if key in declared else f"{key} and {inside[0]} exclude each other"
            at.fault_of_key(given, fault)
        else:
            declared[key] = replace(at[given], path=f"{at.path}.{key}")
    return declared


def _is_typo(key: str) -> bool:
    """`anchor`, `ancors` …: no dimension is called so."""
    return "." not in key and did_you_mean(key, (ANCHORS,)).startswith(" (did")


def _is_section(key: str, at: Cursor) -> bool:
    """`sampler`, `schedules` …: a word with a mapping below it that declares no dimension."""
    return "." not in key and at.node.kind == "map" and not at.node.entries.keys() & {*KEYS}


def _anchors(at: Cursor, space: Space | None) -> tuple[tuple[str, Arch], ...]:
    """The anchors of a space. Where that is itself wrong (None), an anchor's names and sizes can't be judged."""
    if at.node.kind != "map":
        at.fault(f"must be a mapping of names to architectures, not {at.shown}")
        return ()
    anchors = []
    for name in at.node.entries:
        if not name.strip() or name in (MAX, MIN):
            fault = "is that of the grid itself" if name in (MAX, MIN) else "must be a text"
            at.fault_of_key(name, f"the name {name!r} {fault}")
            continue
        anchor = at[name]
        arch = read_arch(anchor)
        if arch is not None and space is not None:
            for key, i, fault in space.misfits(arch):
                place_of(anchor, key, i).fault(fault)
            arch = space.canonical(arch)
        if arch is not None:
            anchors.append((name, arch))
    return tuple(anchors)
