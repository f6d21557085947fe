"""The combinations of all dimensions of a space: counted, found by number, mutated and crossed, without listing them.

Most dimensions vary alone. Two kinds hang on the depth, which says how many blocks each stage has: a tied one takes the
choice that the depth takes; a block_wise one has a slot for each block, and what stands in slots without a block
(inactive ones) is fixed, so that no two combinations are one network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from searchkit.errors import UsageError
from searchkit.nas.space.dim import Dim, Rows
from searchkit.records.arch import Width

Row = tuple[int, ...]


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
                found = next((other for other in self.declared if other.key == dim.depth), None)
                if found is None:
                    raise UsageError(f"{dim.key} hangs on {dim.depth}, which is no dimension")
                out += [found] if found not in out else []
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
    def weights(self) -> tuple[Rows | None, ...]:
        """For each dimension that others hang on: how many combinations these have at each choice of each position."""
        return tuple(self._weights(d) if d in self.depth_of else None for d in range(len(self.dims)))

    def _weights(self, d: int) -> Rows:
        depth = self.dims[d]
        out = [[1] * len(row) for row in depth.choices]
        for dim, at in zip(self.dims, self.depth_of, strict=True):
            if at == d and not dim.tied:
                slots = len(dim.choices) // len(depth.choices)
                for s, row in enumerate(depth.choices):
                    for k, v in enumerate(row):
                        out[s][k] *= math.prod(map(len, dim.choices[s * slots : s * slots + v]))
        if depth.common:
            out = [[math.prod(column) for column in zip(*out, strict=True)]]
        return tuple(map(tuple, out))

    @cached_property
    def ways(self) -> tuple[Rows, ...]:
        """For each dimension, its `ways`; of one that others hang on, together with theirs."""
        return tuple(
            dim.ways if own is None else dim.weighed(own) for dim, own in zip(self.dims, self.weights, strict=True)
        )

    @cached_property
    def count(self) -> int:
        """How many combinations there are."""
        return math.prod(sum(w[0]) for w, at in zip(self.ways, self.depth_of, strict=True) if at is None)

    def at(self, i: int) -> list[Row]:
        """The i-th combination: the first dimension changes slowest."""
        rows: list[Row] = []
        left = self.count  # combinations that begin with `rows`, of which it is the i-th
        for d, (dim, at) in enumerate(zip(self.dims, self.depth_of, strict=True)):
            if at is not None:
                given = self._given(d, rows[at])
                left //= math.prod(map(len, given))
                place, i = divmod(i, left)
                rows.append(_nth(given, place))
                continue
            total, weights = sum(self.ways[d][0]), self.weights[d]
            left //= total
            place, i = divmod(i, left)
            row, again = dim.find(place, self.ways[d], weights)
            rows.append(row)
            if weights:
                i += again * left
                left *= self._times(d, row)
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
                rows.append(tuple(map(rng.choice, self._given(d, rows[at]))))
        return rows

    def _times(self, d: int, depth: Row) -> int:
        """How many combinations the dimensions that hang on the depth have together."""
        hanging = [e for e, at in enumerate(self.depth_of) if at == d]
        return math.prod(math.prod(map(len, self._given(e, depth))) for e in hanging)

    def rows(self, at: int = 0, head: tuple[Width, ...] = ()) -> Iterator[tuple[Width, ...]]:
        """Every combination, packed, in order."""
        if at == len(self.dims):
            yield head
            return
        dim, depth = self.dims[at], self.depth_of[at]
        values = dim.values() if depth is None else product(*self._given(at, dim.unpack(head[depth])))
        for value in values:
            yield from self.rows(at + 1, (*head, value))

    def _given(self, d: int, depth: Row) -> Rows:
        """What is left of the positions of a dimension that hangs on the depth."""
        at = self.depth_of[d]
        assert at is not None
        return self.dims[d].given(depth, self.dims[at].choices)

    def fixed(self, pick: Callable[[Row], int]) -> list[Row]:
        """The combination near `pick` of the choices of every position."""
        rows = [tuple(map(pick, dim.choices)) for dim in self.dims]
        return self.nearest([dim.pack(row) for dim, row in zip(self.dims, rows, strict=True)])

    def nearest(self, values: Sequence[Width]) -> list[Row]:
        """A combination near the values of every dimension; the values themselves if they are one."""
        rows: list[Row] = []
        for d, (dim, value) in enumerate(zip(self.dims, values, strict=True)):
            row, at = tuple(dim.nearest(value)), self.depth_of[d]
            if at is not None:  # ties and inactive slots leave one choice
                given = self._given(d, rows[at])
                row = tuple(v if v in left else left[0] for v, left in zip(row, given, strict=True))
            rows.append(row)
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
        changed = False
        for d, dim in enumerate(self.dims):
            fresh = self._follow(d, rows, parent, rng)
            for i in range(0 if dim.tied else 1 if dim.common else len(rows[d])):
                if i in fresh or not self._is_active(d, i, rows):
                    continue
                options = dim.others(rows[d], i) if rng.random() < p else []
                if options:
                    self._put(d, i, rng.choice(options), rows)
                    changed = True
        if not changed:
            # one exists: raising (or lowering) the last position of a run that can be raised keeps the run ascending
            moves = [
                (d, i, v)
                for d, dim in enumerate(self.dims)
                for i in range(0 if dim.tied else 1 if dim.common else len(rows[d]))
                if self._is_active(d, i, rows)
                for v in dim.others(rows[d], i)
            ]
            if moves:
                d, i, v = rng.choice(moves)
                self._put(d, i, v, rows)
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

    def _put(self, d: int, i: int, value: int, rows: list[list[int]]) -> None:
        if self.dims[d].common:
            rows[d][:] = [value] * len(rows[d])
        else:
            rows[d][i] = value

    def _follow(self, d: int, rows: list[list[int]], parent: Sequence[Row], rng: random.Random) -> set[int]:
        """Puts a dimension where its depth allows it to be; returns the slots that have a block now, and had none."""
        at = self.depth_of[d]
        if at is None:
            return set()
        dim, given = self.dims[d], self._given(d, tuple(rows[at]))
        if dim.tied:
            rows[d][:] = [row[0] for row in given]
            return set()
        before, now = dim.active(parent[at]), dim.active(rows[at])
        fresh = {i for i, (was, on) in enumerate(zip(before, now, strict=True)) if on and not was}
        for i, row in enumerate(given):
            if i in fresh:
                rows[d][i] = rng.choice(row)
            elif not now[i]:
                rows[d][i] = row[0]
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
                rows.append(tuple(row[0] for row in self._given(d, rows[at])))
                continue
            if at is not None:
                pairs = zip(ours, dim.active(a[at]), theirs, dim.active(b[at]), dim.active(rows[at]), strict=True)
                for i, (x, x_on, y, y_on, on) in enumerate(pairs):
                    out.append(rng.choice([v for v, there in ((x, x_on), (y, y_on)) if there]) if on else dim.rest[i])
                rows.append(tuple(out))
                continue
            for pair in zip(ours, theirs, strict=True):
                # ascending: the parent that gave the position before offers a value that is not below it
                out.append(rng.choice([v for v in pair if not (dim.ascending and out and v < out[-1])]))
            rows.append(tuple(out))
        return rows


def _nth(rows: Rows, i: int) -> Row:
    """The i-th of the product of rows; the last position changes fastest."""
    out = []
    for row in reversed(rows):
        i, place = divmod(i, len(row))
        out.append(row[place])
    return tuple(reversed(out))
