"""One dimension of a space: its choices, and its combinations in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from searchkit.errors import UsageError
from searchkit.nas.space.order import NOT_FALLING, Rows, Slope, within
from searchkit.reading.kinds import LATER
from searchkit.records.arch import Width

STRATEGIES = ("net_wise", "net_wise_index", "stage_wise", "stage_wise_depth", "block_wise")
NET_WISE, NET_INDEX, STAGE_WISE, TIED, BLOCK_WISE = STRATEGIES


@dataclass(frozen=True)
class Dim:
    """One dimension: the choices of each position (a scalar has one), kept sorted.

    With `ascending`, values follow each other as `slope` says, and choices that no such combination has are dropped, so
    that the greatest (least) choice of every position together are a combination. With the strategy `net_wise` all
    positions have one value, with `net_wise_index` the choice of one number; there a position with one choice is fixed.

    `depth` names the dimension that says how many blocks each stage has, where this one hangs on it:
    `stage_wise_depth` takes the k-th choice of a stage where the depth takes its k-th; `block_wise` has the same number
    of positions (slots) for every stage, of which those from the depth on hold their value of `rest`. An ascending
    block_wise one ascends over the slots that have a block; `deepest` is the greatest depth of each stage.
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
    slope: Slope = field(default=NOT_FALLING, metadata=LATER)
    deepest: tuple[int, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        choices: Rows = tuple(tuple(sorted(set(values))) for values in self.choices)
        if self.ascending:
            places = self.slots(self.deepest) if self.rest else range(len(choices))
            choices = within(choices, self.slope, [(a, b) for a, b in pairwise(places) if self.slope.binds(b)])
        if not choices or not all(choices) or (self.scalar and len(choices) != 1):
            fault = (
                f"has no {self.slope.text()} combination" if self.ascending else "must have a choice at every position"
            )
            raise UsageError(f"the dimension {self.key} {fault}: {self.choices}")
        object.__setattr__(self, "choices", choices)

    @property
    def common(self) -> bool:
        """Whether one choice stands at all positions: one value, or one number."""
        return self.strategy in (NET_WISE, NET_INDEX)

    @property
    def tied(self) -> bool:
        """Whether its choice is that of the depth."""
        return self.strategy == TIED and bool(self.depth)

    @cached_property
    def lead(self) -> int:
        """Of a common one: the position that all others follow, the first with the most choices."""
        return max(range(len(self.choices)), key=lambda i: (len(self.choices[i]), -i))

    @property
    def free(self) -> Rows:
        """The choices of each position that is chosen by itself."""
        return (self.choices[self.lead],) if self.common else self.choices

    @property
    def turned(self) -> Sequence[int]:
        """The positions that are chosen by themselves."""
        return () if self.tied else (self.lead,) if self.common else range(len(self.choices))

    @property
    def ordered(self) -> bool:
        """Whether a value bounds the one at the next position."""
        return self.ascending and not self.rest

    def allows(self, i: int, before: int, v: int) -> bool:
        """Whether v may stand at position i behind that value."""
        return not (self.ordered and self.slope.binds(i)) or self.slope.allows(before, v)

    @cached_property
    def ways(self) -> Rows:
        """[i][k]: how many combinations of positions i, i+1 … begin with choice k of position i."""
        rows: list[tuple[int, ...]] = [(1,) * len(self.free[-1])]
        for i in reversed(range(len(self.free) - 1)):
            here, after, later = self.free[i], self.free[i + 1], rows[-1]
            if self.ordered and self.slope.binds(i + 1):
                pairs = [*zip(after, later, strict=True)]
                rows.append(tuple(sum(n for u, n in pairs if self.slope.allows(v, u)) for v in here))
            else:
                rows.append((sum(later),) * len(here))
        return tuple(reversed(rows))

    def count(self) -> int:
        """How many combinations there are."""
        return sum(self.ways[0])

    def at(self, i: int) -> Width:
        """The i-th combination, in the order of `values`."""
        return self.pack(self.find(i))

    def find(self, i: int) -> tuple[int, ...]:
        """The values of all positions at the i-th combination."""
        out: list[int] = []
        for p, choices in enumerate(self.free):
            for v, n in zip(choices, self.ways[p], strict=True):
                if out and not self.allows(p, out[-1], v):
                    continue
                if i < n:
                    out.append(v)
                    break
                i -= n
        return self.spread(out)

    def values(self) -> Iterator[Width]:
        """Every combination, ascending; the last position changes fastest."""
        return map(self.pack, map(self.spread, self._tails(0, ())))

    def _tails(self, at: int, head: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if at == len(self.free):
            yield head
            return
        for v in self.free[at]:
            if not head or self.allows(at, head[-1], v):
                yield from self._tails(at + 1, (*head, v))

    def spread(self, values: Sequence[int]) -> tuple[int, ...]:
        """The values of all positions from those of the positions that are free."""
        if not self.common:
            return tuple(values)
        k = self.choices[self.lead].index(values[0])
        return tuple(row[k] if len(row) > 1 else row[0] for row in self.choices)

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

    def slots(self, depth: Sequence[int]) -> list[int]:
        """Of a block_wise one: the slots that have a block at this depth."""
        return [i for i, on in enumerate(self.active(depth)) if on]

    def at_epoch(self, epoch: int) -> Dim:
        """With the choices of an epoch (from 1); without phases of its own."""
        if not self.phases:
            return self
        rows = self.phases[bisect_right([first for first, _ in self.phases], epoch) - 1][1]
        return self.with_choices(rows)

    def with_choices(self, rows: Rows) -> Dim:
        """With other choices, and no phases."""
        return replace(self, choices=rows, phases=())

    def pack(self, values: Sequence[int]) -> Width:
        """The values of all positions as an architecture holds them."""
        return values[0] if self.scalar else tuple(values)

    def unpack(self, value: Width) -> tuple[int, ...]:
        """The other way round."""
        return value if isinstance(value, tuple) else (value,)

    def others(self, values: Sequence[int], i: int) -> list[int]:
        """What position i may become by `put`; `values` is a combination. Without limits to the slope the others stay
        as they are."""
        row = self.choices[i]
        if self._steep:
            return [v for v in row if v != values[i]]
        low = values[i - 1] if self.ordered and i > 0 else row[0]
        high = values[i + 1] if self.ordered and i + 1 < len(values) else row[-1]
        return [v for v in row if low <= v <= high and v != values[i]]

    @property
    def _steep(self) -> bool:
        return self.ordered and self.slope != NOT_FALLING

    def put(self, values: Sequence[int], i: int, v: int) -> tuple[int, ...]:
        """The combination with v at position i: of a common one, the only one; else the others stay, and of those that
        can't, each becomes the nearest that can (the lower of two)."""
        if self.common:
            return self.spread((v,))
        out = list(values)
        out[i] = v
        if self._steep:
            for j in range(i + 1, len(out)):
                out[j] = _near(out[j], [u for u in self.choices[j] if self.allows(j, out[j - 1], u)])
            for j in reversed(range(i)):
                out[j] = _near(out[j], [u for u in self.choices[j] if self.allows(j + 1, u, out[j + 1])])
        return tuple(out)

    def nearest(self, value: Width) -> list[int]:
        """A combination near `value`, position by position (the lower one of two as near); itself if it is one."""
        if self.common:  # the nearest to all positions together
            targets = self.unpack(value)
            rows = [self.spread((v,)) for v in self.choices[self.lead]]
            return [*min(rows, key=lambda row: sum(abs(v - t) for v, t in zip(row, targets, strict=True)))]
        out: list[int] = []
        for i, (target, choices) in enumerate(zip(self.unpack(value), self.choices, strict=True)):
            out.append(_near(target, [v for v in choices if not out or self.allows(i, out[-1], v)]))
        return out

    def misfits(self, value: Width) -> list[tuple[int | None, str]]:
        """Why a value does not fit into the maximal model, each with the position that it is about."""
        if isinstance(value, tuple) == self.scalar:
            form = "an int" if self.scalar else f"a list of {len(self.choices)} ints"
            shown = list(value) if isinstance(value, tuple) else value
            return [(None, f"{self.key} is {shown}, but must be {form}")]
        numbers = self.unpack(value)
        if len(numbers) != len(self.choices):
            return [(None, f"{self.key} has {len(numbers)} values {list(numbers)}, but must have {len(self.choices)}")]
        wrong: list[tuple[int | None, str]] = []
        for i, (v, choices) in enumerate(zip(numbers, self.choices, strict=True)):
            low = min(1, choices[0])  # 0 fits only where the space itself has it
            if not low <= v <= choices[-1]:
                name = self.key if self.scalar else f"{self.key}[{i}]"
                wrong.append((i, f"{name} is {v}, but must be from {low} to {choices[-1]}"))
        return wrong


def _near(target: int, values: Sequence[int]) -> int:
    """The one nearest to the target, the lower of two."""
    return min(values, key=lambda v: (abs(v - target), v))


def unlike(strategy: str, key: str, rows: Rows) -> tuple[int, str] | None:
    """Of a dimension with one choice for all positions, the first position whose choices can't go with the others, and
    why; None where all can."""
    if strategy == NET_WISE:
        i = next((i for i, row in enumerate(rows) if row != rows[0]), None)
        alike, first = "the same choices", f"{list(rows[0])}"
        lead, found = 0, None if i is None else f"{list(rows[i])}"
    else:
        several = [i for i, row in enumerate(rows) if len(row) > 1] or [0]
        lead = several[0]
        i = next((i for i in several if len(rows[i]) != len(rows[lead])), None)
        alike, first = "as many choices, or one", f"{len(rows[lead])}"
        found = None if i is None else f"{len(rows[i])}"
    if i is None:
        return None
    return i, (
        f"{key} is {strategy}, so all positions must have {alike}, but {key}[{lead}] has {first} and {key}[{i}] has "
        f"{found}"
    )
