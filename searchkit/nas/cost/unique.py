"""The rows that a space has, each at each size that it runs at, once. No torch."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.nas.cost.price import price_archs
from searchkit.nas.cost.rules import RowCost, Sizes, row_cost
from searchkit.nas.models.part import NetPlan
from searchkit.nas.models.plan import Row
from searchkit.nas.space.knobs import Knob
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch

WHOLE = 100_000  # archs up to which all of a space are looked at
RANDOM = 2_000  # that are looked at beside, where not all are


@dataclass(frozen=True)
class Placed:
    """A row at the size of its input, and what it runs on: image, feature, level, levels or regions."""

    row: Row
    at: tuple[int, int]  # by the plan: of n regions (n, 1)
    on: str


@dataclass(frozen=True)
class Rows:
    """What a space has, its anchors included. late: rows that the random archs added to those that were found from row
    to row; where that is none, all of the space's rows are likely to be there."""

    placed: tuple[Placed, ...]
    archs: int  # that were looked at
    whole: bool  # whether these are all of the space
    late: int = 0

    def text(self) -> str:
        """How they were found, in words."""
        if self.whole:
            return f"of all {self.archs:,} archs"
        missed = (
            f"; {RANDOM:,} random archs had {self.late:,} more"
            if self.late
            else f"; {RANDOM:,} random archs had no other"
        )
        return f"from row to row over {self.archs:,} archs{missed}"


class _Seen:
    """A way to count that costs nothing, and keeps which rows were asked for: see price.Counter."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Row, Sizes], None] = {}

    def begin(self, image: Sizes) -> tuple[float, ...]:
        return (0.0,) * len(image)

    def row_cost(self, row: Row, sizes: Sizes) -> RowCost:
        self.rows[row, sizes] = None
        return row_cost(row, sizes, "macs")


def rows_of(plans: NetPlan, space: Space, shapes: tuple[InputShape, ...], whole: int = WHOLE) -> Rows:
    """The unique rows of a space at these input shapes.

    Of a space of up to `whole` archs all are looked at. Of a larger one those are followed from which something can be
    learnt: an arch with a new row, and then all that differ from it in one choice, until nothing new comes. That finds
    every row, since each choice that a row depends on shows in it. Random archs are looked at behind them.
    """
    seen, on, archs = _Seen(), dict[Row, str](), 0
    every = space.count() <= whole
    late = 0

    def looked_at(archs_: Iterator[Arch]) -> Iterator[Arch]:
        """The archs; after each, what its new rows run on is noted."""
        nonlocal archs
        for arch in archs_:
            before = len(seen.rows)
            yield arch
            archs += 1
            if len(seen.rows) > before:
                for piece in plans(arch):
                    on.update((row, piece.where.on) for row in piece.rows if row not in on)

    def run(archs_: Iterator[Arch]) -> None:
        deque(price_archs(plans, looked_at(archs_), shapes, seen), 0)

    run(arch for _, arch in space.anchors)  # they may lie off the grid
    archs = 0
    run(space.enumerate() if every else _followed(space, seen))
    if not every:
        found = len(seen.rows)
        rng = random.Random(0)
        run(space.sample(rng) for _ in range(RANDOM))
        late = len(seen.rows) - found
    placed = {(row, at): Placed(row, at, on[row]) for row, sizes in seen.rows for at in sizes}
    return Rows(tuple(placed.values()), archs, every, late)


def _followed(space: Space, seen: _Seen) -> Iterator[Arch]:
    """Archs, each new row of which leads to all archs that differ in one choice."""
    try:
        knobs = space.knobs()
    except UsageError:  # a dimension with more combinations than can be listed
        knobs = ()
    waiting = deque([space.maximum(), space.minimum(), space.middle()])
    known = set(waiting)
    while waiting:
        arch = waiting.popleft()
        before = len(seen.rows)
        yield arch
        if len(seen.rows) == before:
            continue
        values = {**{knob.name: knob.choices[0] for knob in knobs}, **(space.values_of(arch) if knobs else {})}
        for knob in knobs:
            for choice in knob.choices:
                other = _arch_with(space, knobs, values, knob.name, choice)
                if other is not None and other not in known:
                    known.add(other)
                    waiting.append(other)


def _arch_with(space: Space, knobs: Sequence[Knob], values: Mapping[str, int], name: str, choice: int) -> Arch | None:
    """The arch with one value changed. Where values must ascend, those before and behind it follow it as far as they
    must; None where they can't."""
    new, choices = {**values, name: choice}, {knob.name: knob.choices for knob in knobs}
    for moves_up, orders in ((True, space.orders()), (False, space.orders()[::-1])):
        moved = {name}
        for first, second in orders:
            at, follows = (first, second) if moves_up else (second, first)
            if at in moved and new[first] > new[second]:
                fitting = [c for c in choices[follows] if (c >= new[at] if moves_up else c <= new[at])]
                if not fitting:
                    return None
                new[follows] = min(fitting) if moves_up else max(fitting)
                moved.add(follows)
    return space.arch_of(new)
