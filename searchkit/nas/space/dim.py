"""One dimension of a space: its choices, and its combinations in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from searchkit.errors import UsageError
from searchkit.records.arch import Width

NET_WISE, STAGE_WISE, TIED, BLOCK_WISE = STRATEGIES = ("net_wise", "stage_wise", "stage_wise_depth", "block_wise")

Rows = tuple[tuple[int, ...], ...]  # the choices of each position


@dataclass(frozen=True)
class Dim:
    """One dimension: the choices of each position (a scalar has one), kept sorted.

    With `ascending`, choices that no ascending combination has are dropped, so that the greatest (least) choice of
    every position together are a combination. With the strategy `net_wise` all positions have one value.

    `depth` names the dimension that says how many blocks each stage has, where this one hangs on it:
    `stage_wise_depth` takes the k-th choice of a stage where the depth takes its k-th; `block_wise` has the same number
    of positions (slots) for every stage, of which those from the depth on hold their value of `rest`.
    Alone, such a dimension counts its combinations as if nothing hung on anything: grid.py knows better.

    `phases` narrow the choices: those of each position from an epoch on, ascending from 1.
    Raises UsageError where no combination is left.
    """

    key: str
    choices: Rows
    scalar: bool = False
    ascending: bool = False
    strategy: str = ""
    depth: str = ""
    rest: tuple[int, ...] = ()
    phases: tuple[tuple[int, Rows], ...] = ()

    def __post_init__(self) -> None:
        choices = [sorted(set(values)) for values in self.choices]
        if self.ascending:
            for i in range(1, len(choices)):
                choices[i] = [v for v in choices[i] if choices[i - 1] and v >= choices[i - 1][0]]
            for i in reversed(range(len(choices) - 1)):
                choices[i] = [v for v in choices[i] if choices[i + 1] and v <= choices[i + 1][-1]]
        if not choices or not all(choices) or (self.scalar and len(choices) != 1):
            what = "has no ascending combination" if self.ascending else "must have a choice at every position"
            raise UsageError(f"the dimension {self.key} {what}: {self.choices}")
        object.__setattr__(self, "choices", tuple(map(tuple, choices)))

    @property
    def common(self) -> bool:
        """Whether one value stands at all positions."""
        return self.strategy == NET_WISE

    @property
    def tied(self) -> bool:
        """Whether its choice is that of the depth."""
        return self.strategy == TIED and bool(self.depth)

    @property
    def free(self) -> Rows:
        """The choices of each position that is chosen by itself."""
        return self.choices[:1] if self.common else self.choices

    @cached_property
    def ways(self) -> Rows:
        """[i][k]: how many combinations of positions i, i+1 … begin with choice k of position i."""
        return self.weighed(tuple((1,) * len(row) for row in self.free))

    def weighed(self, weights: Rows) -> Rows:
        """`ways`, where a combination counts as often as the product of its choices' weights says."""
        rows: list[tuple[int, ...]] = [weights[-1]]
        for here, after, own in zip(self.free[-2::-1], self.free[:0:-1], weights[-2::-1], strict=True):
            later = list(zip(after, rows[-1], strict=True))
            rows.append(
                tuple(
                    w * sum(n for u, n in later if u >= v or not self.ascending) for v, w in zip(here, own, strict=True)
                )
            )
        return tuple(reversed(rows))

    def count(self) -> int:
        """How many combinations there are."""
        return sum(self.ways[0])

    def at(self, i: int) -> Width:
        """The i-th combination, in the order of `values`."""
        return self.pack(self.find(i, self.ways)[0])

    def find(self, i: int, ways: Rows, weights: Rows | None = None) -> tuple[tuple[int, ...], int]:
        """The i-th combination, each repeated by its weight; and which of its repetitions that is."""
        out: list[int] = []
        times = 1
        for p, choices in enumerate(self.free):
            for k, v in enumerate(choices):
                if self.ascending and out and v < out[-1]:
                    continue
                if i < times * ways[p][k]:
                    out.append(v)
                    times *= weights[p][k] if weights else 1
                    break
                i -= times * ways[p][k]
        return self.spread(out), i

    def values(self) -> Iterator[Width]:
        """Every combination, ascending; the last position changes fastest."""
        return map(self.pack, map(self.spread, self._tails(0, ())))

    def _tails(self, at: int, head: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if at == len(self.free):
            yield head
            return
        for v in self.free[at]:
            if not (self.ascending and head and v < head[-1]):
                yield from self._tails(at + 1, (*head, v))

    def spread(self, values: Sequence[int]) -> tuple[int, ...]:
        """The values of all positions from those of the positions that are free."""
        return tuple(values) * (len(self.choices) if self.common else 1)

    def given(self, depth: Sequence[int], depths: Rows) -> Rows:
        """What is left of each position at a combination of the depth, whose choices are `depths`."""
        if self.tied:
            return tuple((row[of.index(v)],) for row, of, v in zip(self.choices, depths, depth, strict=True))
        there = self.active(depth)
        return tuple(row if on else (v,) for row, on, v in zip(self.choices, there, self.rest, strict=True))

    def active(self, depth: Sequence[int]) -> list[bool]:
        """Of a block_wise one: whether each slot has a block at this depth."""
        slots = len(self.choices) // len(depth)
        return [i < d for d in depth for i in range(slots)]

    def at_epoch(self, epoch: int) -> Dim:
        """With the choices of an epoch (from 1); without phases of its own."""
        if not self.phases:
            return self
        rows = self.phases[bisect_right([first for first, _ in self.phases], epoch) - 1][1]
        return self.with_choices(rows)

    def with_choices(self, rows: Rows) -> Dim:
        """With other choices, and no phases."""
        return Dim(self.key, rows, self.scalar, self.ascending, self.strategy, self.depth, self.rest)

    def pack(self, values: Sequence[int]) -> Width:
        """The values of all positions as an architecture holds them."""
        return values[0] if self.scalar else tuple(values)

    def unpack(self, value: Width) -> tuple[int, ...]:
        """The other way round."""
        return value if isinstance(value, tuple) else (value,)

    def others(self, values: Sequence[int], i: int) -> list[int]:
        """What position i may become while the others stay; `values` is a combination."""
        low = values[i - 1] if self.ascending and i > 0 else min(self.choices[i])
        high = values[i + 1] if self.ascending and i + 1 < len(values) else max(self.choices[i])
        return [v for v in self.choices[i] if low <= v <= high and v != values[i]]

    def nearest(self, value: Width) -> list[int]:
        """A combination near `value`, position by position (the lower one of two as near); itself if it is one."""
        if self.common:  # the nearest to all positions together
            found = self.unpack(value)
            return [min(self.choices[0], key=lambda v: (sum(abs(v - t) for t in found), v))] * len(found)
        out: list[int] = []
        for target, choices in zip(self.unpack(value), self.choices, strict=True):
            free = [v for v in choices if not (self.ascending and out and v < out[-1])]
            out.append(min(free, key=lambda v: (abs(v - target), v)))
        return out

    def misfits(self, value: Width) -> list[tuple[int | None, str]]:
        """Why a value does not fit into the maximal model, each with the position that it is about."""
        if isinstance(value, tuple) == self.scalar:
            wanted = "an int" if self.scalar else f"a list of {len(self.choices)} ints"
            shown = list(value) if isinstance(value, tuple) else value
            return [(None, f"{self.key} is {shown}, but must be {wanted}")]
        found = self.unpack(value)
        if len(found) != len(self.choices):
            return [(None, f"{self.key} has {len(found)} values {list(found)}, but must have {len(self.choices)}")]
        wrong: list[tuple[int | None, str]] = []
        for i, (v, choices) in enumerate(zip(found, self.choices, strict=True)):
            low = min(1, choices[0])  # 0 fits only where the space itself has it
            if not low <= v <= choices[-1]:
                name = self.key if self.scalar else f"{self.key}[{i}]"
                wrong.append((i, f"{name} is {v}, but must be from {low} to {choices[-1]}"))
        return wrong
