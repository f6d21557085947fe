"""What hangs on a depth: what is left of a dimension at one combination of it, and how many there are in all."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from searchkit.nas.space.dim import Dim
from searchkit.nas.space.order import Rows

Row = tuple[int, ...]
State = tuple[int, ...]  # the depth of the stage before, then the last value of each ordered dimension; -1 for none yet


@dataclass(frozen=True)
class Left:
    """The combinations that a depth leaves of a dimension that hangs on it: the product of `rows`, or, where its blocks
    ascend, those of `chain`, a dimension of the slots `at` alone."""

    rows: Rows
    chain: Dim | None = None
    at: tuple[int, ...] = ()

    def count(self) -> int:
        """How many there are."""
        return math.prod(map(len, self.rows)) if self.chain is None else self.chain.count()

    def nth(self, i: int) -> Row:
        """The i-th; the last position changes fastest."""
        if self.chain is not None:
            return self._whole(self.chain.find(i))
        out = []
        for row in reversed(self.rows):
            i, place = divmod(i, len(row))
            out.append(row[place])
        return tuple(reversed(out))

    def __iter__(self) -> Iterator[Row]:
        if self.chain is None:
            return product(*self.rows)
        return (self._whole(self.chain.unpack(value)) for value in self.chain.values())

    def sample(self, rng: random.Random) -> Row:
        """One, all equally probable."""
        if self.chain is not None:
            return self.nth(rng.randrange(self.count()))
        return tuple(map(rng.choice, self.rows))

    def nearest(self, row: Sequence[int]) -> Row:
        """One near a row; itself if it is one."""
        if self.chain is not None:
            return self._whole(self.chain.nearest(tuple(row[i] for i in self.at)))
        return tuple(v if v in left else left[0] for v, left in zip(row, self.rows, strict=True))

    def others(self, row: Sequence[int], i: int) -> list[int]:
        """What slot i may become while the others stay; `row` is a combination."""
        if self.chain is None:
            return [v for v in self.rows[i] if v != row[i]]
        return self.chain.others([row[slot] for slot in self.at], self.at.index(i)) if i in self.at else []

    def _whole(self, values: Sequence[int]) -> Row:
        out = [row[0] for row in self.rows]
        for i, v in zip(self.at, values, strict=True):
            out[i] = v
        return tuple(out)


def left_of(dim: Dim, depth: Sequence[int], depths: Rows) -> Left:
    """What a combination of the depth, whose choices are `depths`, leaves of a dimension that hangs on it."""
    rows = dim.given(depth, depths)
    at = tuple(dim.slots(depth)) if dim.ascending else ()
    return Left(rows, Dim(dim.key, tuple(rows[i] for i in at), ascending=True), at) if at else Left(rows)


@dataclass(frozen=True)
class Counts:
    """How many combinations a depth has with all that hangs on it, where each of its combinations counts as often as
    those have combinations there. They are counted stage by stage: of what is before a stage, only the last values
    matter."""

    depth: Dim
    hanging: tuple[Dim, ...]
    _known: dict[tuple[int, State], int] = field(default_factory=dict, compare=False)

    @cached_property
    def ordered(self) -> tuple[Dim, ...]:
        """What ascends over the blocks of all stages."""
        return tuple(dim for dim in self.hanging if dim.ascending and not dim.tied)

    @cached_property
    def loose(self) -> tuple[Dim, ...]:
        """What each block has for itself."""
        return tuple(dim for dim in self.hanging if not dim.ascending and not dim.tied)

    @cached_property
    def total(self) -> int:
        """All of them."""
        if self.depth.common:
            return sum(self.at(self.depth.spread((v,))) for v in self.depth.free[0])
        return self._after(0, self._first)

    def at(self, row: Row) -> int:
        """How many there are at one combination of the depth."""
        return math.prod(left_of(dim, row, self.depth.choices).count() for dim in self.hanging)

    def find(self, i: int) -> tuple[Row, int]:
        """The combination of the depth that the i-th one is at, and which of those there it is."""
        if self.depth.common:
            for v in self.depth.free[0]:
                row = self.depth.spread((v,))
                if i < (n := self.at(row)):
                    break
                i -= n
            return row, i
        row, states = (), {self._first: 1}
        for s, choices in enumerate(self.depth.choices):
            for v in choices:
                reached: dict[State, int] = {}
                for state, times in states.items():
                    for after, ways in self._stage(s, v, state):
                        reached[after] = reached.get(after, 0) + times * ways
                n = sum(times * self._after(s + 1, state) for state, times in reached.items())
                if i < n:
                    row, states = (*row, v), reached
                    break
                i -= n
        return row, i

    @property
    def _first(self) -> State:
        return (-1,) * (1 + len(self.ordered))

    def _after(self, s: int, state: State) -> int:
        """How many there are from a stage on."""
        if s == len(self.depth.choices):
            return 1
        if (n := self._known.get((s, state))) is None:
            n = sum(
                ways * self._after(s + 1, after)
                for v in self.depth.choices[s]
                for after, ways in self._stage(s, v, state)
            )
            self._known[s, state] = n
        return n

    def _stage(self, s: int, v: int, state: State) -> Iterator[tuple[State, int]]:
        """What may be behind a stage of v blocks, and in how many ways."""
        before, *lasts = state
        if s and not self.depth.allows(s, before, v):
            return
        loose = math.prod(len(row) for dim in self.loose for row in self._slots(dim, s, v))
        ends = [_ends(self._slots(dim, s, v), last).items() for dim, last in zip(self.ordered, lasts, strict=True)]
        kept = v if self.depth.ordered else -1
        for pairs in product(*ends):
            yield (kept, *(end for end, _ in pairs)), loose * math.prod(n for _, n in pairs)

    def _slots(self, dim: Dim, s: int, v: int) -> Rows:
        """The choices of the first v blocks of a stage."""
        slots = len(dim.choices) // len(self.depth.choices)
        return dim.choices[s * slots : s * slots + v]


def _ends(rows: Rows, last: int) -> dict[int, int]:
    """The values that ascending ones behind `last` end with, and in how many ways."""
    ends = {last: 1}
    for row in rows:
        ends = {v: n for v in row if (n := sum(m for u, m in ends.items() if u <= v))}
    return ends


def slots_of(depth: Dim) -> int:
    """Slots for each stage: for the deepest one, and at least 2, so that no list of slots is one of stages."""
    return max(2, *(row[-1] for row in depth.choices))


def without_blocks(rows: Rows, rest: tuple[int, ...], depth: Dim) -> Rows:
    """With nothing but `rest` in slots that never have a block."""
    slots = slots_of(depth)
    return tuple(row if i % slots < depth.choices[i // slots][-1] else (rest[i],) for i, row in enumerate(rows))
