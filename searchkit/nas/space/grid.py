"""The combinations of all dimensions of a space: counted, found by number, mutated and crossed, without listing them.

Most dimensions vary alone. Two kinds hang on the depth, which says how many blocks each stage has: a tied one takes the
choice that the depth takes; a block_wise one has a slot for each block, and what stands in slots without a block
(inactive ones) is fixed, so that no two combinations are one network. blocks.py says what a depth leaves of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from searchkit.errors import UsageError
from searchkit.nas.space.blocks import Counts, Left, Row, left_of
from searchkit.nas.space.dim import Dim
from searchkit.records.arch import Width


@dataclass(frozen=True)
class Grid:
    """Combinations of dimensions: one row of values for each of `dims`.

    `declared` is their order in the config, which the order of combinations follows; only a depth that others hang on
    goes before them. Raises UsageError for a depth that is not there.
    """

    declared: tuple[Dim, ...]

    @cached_property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions, each after the depth that it hangs on."""
        out: list[Dim] = []
        for dim in self.declared:
            if dim.depth:
                depth = next((other for other in self.declared if other.key == dim.depth), None)
                if depth is None:
                    raise UsageError(f"{dim.key} hangs on {dim.depth}, which is no dimension")
                out += [depth] if depth not in out else []
            out += [dim] if dim not in out else []
        return tuple(out)

    @cached_property
    def depth_of(self) -> tuple[int | None, ...]:
        """For each dimension, the place of the depth that it hangs on."""
        keys = [dim.key for dim in self.dims]
        return tuple(keys.index(dim.depth) if dim.depth else None for dim in self.dims)

    @cached_property
    def linked(self) -> bool:
        """Whether a dimension hangs on another."""
        return any(at is not None for at in self.depth_of)

    @cached_property
    def counts(self) -> tuple[Counts | None, ...]:
        """For each dimension that others hang on: how many combinations it has with these."""
        hanging = [
            tuple(dim for dim, at in zip(self.dims, self.depth_of, strict=True) if at == d)
            for d in range(len(self.dims))
        ]
        return tuple(Counts(dim, on) if on else None for dim, on in zip(self.dims, hanging, strict=True))

    @cached_property
    def count(self) -> int:
        """How many combinations there are."""
        alone = zip(self.dims, self.counts, self.depth_of, strict=True)
        return math.prod(dim.count() if own is None else own.total for dim, own, at in alone if at is None)

    def at(self, i: int) -> list[Row]:
        """The i-th combination: the first dimension changes slowest."""
        rows: list[Row] = []
        left = self.count  # combinations that begin with `rows`, of which it is the i-th
        for d, (dim, at, own) in enumerate(zip(self.dims, self.depth_of, self.counts, strict=True)):
            if at is not None:
                given = self._left(d, rows[at])
                left //= given.count()
                place, i = divmod(i, left)
                rows.append(given.nth(place))
            elif own is not None:
                left //= own.total
                place, i = divmod(i, left)
                row, again = own.find(place)
                rows.append(row)
                i += again * left
                left *= own.at(row)
            else:
                left //= dim.count()
                place, i = divmod(i, left)
                rows.append(dim.find(place))
        return rows

    def sample(self, rng: random.Random) -> list[Row]:
        """A combination: all combinations of a dimension are equally probable, where it hangs on a depth those that the
        depth leaves."""
        if not self.linked:
            return self.at(rng.randrange(self.count))  # the same, by one number
        rows: list[Row] = []
        for d, (dim, at) in enumerate(zip(self.dims, self.depth_of, strict=True)):
            if at is None:
                rows.append(tuple(dim.unpack(dim.at(rng.randrange(dim.count())))))
            else:
                rows.append(self._left(d, rows[at]).sample(rng))
        return rows

    def rows(self, at: int = 0, head: tuple[Width, ...] = ()) -> Iterator[tuple[Width, ...]]:
        """Every combination, packed, in order."""
        if at == len(self.dims):
            yield head
            return
        dim, depth = self.dims[at], self.depth_of[at]
        values = dim.values() if depth is None else iter(self._left(at, dim.unpack(head[depth])))
        for value in values:
            yield from self.rows(at + 1, (*head, value))

    def _left(self, d: int, depth: Sequence[int]) -> Left:
        """What the depth that a dimension hangs on leaves of it."""
        at = self.depth_of[d]
        assert at is not None
        return left_of(self.dims[d], depth, self.dims[at].choices)

    def fixed(self, pick: Callable[[Row], int]) -> list[Row]:
        """The combination near `pick` of the choices of every position."""
        rows = [tuple(map(pick, dim.choices)) for dim in self.dims]
        return self.nearest([dim.pack(row) for dim, row in zip(self.dims, rows, strict=True)])

    def nearest(self, values: Sequence[Width]) -> list[Row]:
        """A combination near the values of every dimension; the values themselves if they are one."""
        rows: list[Row] = []
        for d, (dim, value) in enumerate(zip(self.dims, values, strict=True)):
            row, at = tuple(dim.nearest(value)), self.depth_of[d]
            rows.append(row if at is None else self._left(d, rows[at]).nearest(row))
        return rows

    def canonical(self, values: Mapping[str, Width]) -> dict[str, Width]:
        """With the fixed values in slots that have no block; anything that does not fit stays as it is."""
        out = dict(values)
        for dim, at in zip(self.dims, self.depth_of, strict=True):
            value, depth = out.get(dim.key), out.get(dim.depth)
            if at is None or dim.tied or not isinstance(value, tuple) or not isinstance(depth, tuple):
                continue
            if len(value) == len(dim.choices) and len(depth) == len(self.dims[at].choices):
                kept = zip(value, dim.active(depth), dim.rest, strict=True)
                out[dim.key] = tuple(v if on else least for v, on, least in kept)
        return out

    # --- children -----------------------------------------------------------------------------------------------------

    def mutate(self, parent: Sequence[Row], rng: random.Random, p: float) -> list[Row]:
        """Every free position of a combination changes with probability `p`, and at least one does, if one can. A slot
        that gets a block draws its value."""
        rows = [list(row) for row in parent]
        for d, dim in enumerate(self.dims):
            fresh = self._follow(d, rows, parent, rng)
            for i in dim.turned:
                if i in fresh or not self._is_active(d, i, rows):
                    continue
                options = self._others(d, i, rows) if rng.random() < p else []
                if options:
                    rows[d][:] = dim.put(rows[d], i, rng.choice(options))
        if all(row == list(old) for row, old in zip(rows, parent, strict=True)):  # or one change took another back
            # one exists: raising (or lowering) the last position of a run that can be raised keeps the run ascending
            moves = [
                (d, i, v)
                for d, dim in enumerate(self.dims)
                for i in dim.turned
                if self._is_active(d, i, rows)
                for v in self._others(d, i, rows)
            ]
            if moves:
                d, i, v = rng.choice(moves)
                rows[d][:] = self.dims[d].put(rows[d], i, v)
                for e, at in enumerate(self.depth_of):
                    if at == d:
                        self._follow(e, rows, parent, rng)
        return [tuple(row) for row in rows]

    def _is_active(self, d: int, i: int, rows: Sequence[Sequence[int]]) -> bool:
        at = self.depth_of[d]
        if at is None:
            return True
        slots = len(rows[d]) // len(rows[at])
        return i % slots < rows[at][i // slots]

    def _others(self, d: int, i: int, rows: Sequence[Sequence[int]]) -> list[int]:
        """What a position may become."""
        at = self.depth_of[d]
        return self.dims[d].others(rows[d], i) if at is None else self._left(d, rows[at]).others(rows[d], i)

    def _follow(self, d: int, rows: list[list[int]], parent: Sequence[Row], rng: random.Random) -> set[int]:
        """Puts a dimension where its depth allows it to be; returns the slots that have a block now, and had none."""
        at = self.depth_of[d]
        if at is None:
            return set()
        dim, left = self.dims[d], self._left(d, rows[at])
        if dim.tied:
            rows[d][:] = left.nth(0)
            return set()
        before, now = dim.active(parent[at]), dim.active(rows[at])
        fresh = {i for i, (was, on) in enumerate(zip(before, now, strict=True)) if on and not was}
        kept = {i: rows[d][i] for i, (was, on) in enumerate(zip(before, now, strict=True)) if on and was}
        for i, row in enumerate(left.rows):
            if i in fresh:
                rows[d][i] = rng.choice(_between(row, i, kept) if dim.ascending else row)
                kept[i] = rows[d][i]
            elif not now[i]:
                rows[d][i] = row[0]
        rows[d][:] = left.nearest(rows[d])
        return fresh

    def cross(self, a: Sequence[Row], b: Sequence[Row], rng: random.Random) -> list[Row]:
        """Every free position of one of two combinations; of a slot, of one where it has a block."""
        rows: list[Row] = []
        for d, (dim, ours, theirs) in enumerate(zip(self.dims, a, b, strict=True)):
            if dim.common:
                rows.append(rng.choice([ours, theirs]))
                continue
            at, out = self.depth_of[d], list[int]()
            if at is not None and dim.tied:
                rows.append(self._left(d, rows[at]).nth(0))
                continue
            if at is not None:
                pairs = zip(ours, dim.active(a[at]), theirs, dim.active(b[at]), dim.active(rows[at]), strict=True)
                for i, (x, x_on, y, y_on, on) in enumerate(pairs):
                    out.append(rng.choice([v for v, there in ((x, x_on), (y, y_on)) if there]) if on else dim.rest[i])
                rows.append(self._left(d, rows[at]).nearest(out))
                continue
            for i, pair in enumerate(zip(ours, theirs, strict=True)):
                # ordered: the parent that gave the position before offers a value that may follow it
                out.append(rng.choice([v for v in pair if not out or dim.allows(i, out[-1], v)]))
            rows.append(tuple(out))
        return rows


def _between(row: Row, i: int, kept: Mapping[int, int]) -> Row:
    """The choices of a slot that are not below the slots before it, nor above those behind it; all, if none is so."""
    low = max((v for j, v in kept.items() if j < i), default=0)
    high = min((v for j, v in kept.items() if j > i), default=row[-1])
    return tuple(v for v in row if low <= v <= high) or row
