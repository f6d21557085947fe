"""How the values of a list follow each other, where they are ordered."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Rows = tuple[tuple[int, ...], ...]  # the choices of each position


@dataclass(frozen=True)
class Slope:
    """Each value is `least` to `most` times the one before it, at the positions after `first` up to `last`; other
    positions are free. As it stands: no value is below the one before it."""

    least: float = 1
    most: float = math.inf
    first: int = 0
    last: int | None = None

    def binds(self, i: int) -> bool:
        """Whether position i follows the one before it."""
        return i > self.first and (self.last is None or i <= self.last)

    def allows(self, before: int, v: int) -> bool:
        """Whether a value may follow another."""
        return before * self.least <= v and (self.most == math.inf or v <= before * self.most)

    def text(self) -> str:
        """For people."""
        if self == NOT_FALLING:
            return "ascending"
        to = "" if self.most == math.inf else f" to {self.most:g}"
        where = "" if self.last is None else f" to {self.last}"
        places = f" (positions {self.first + 1}{where or ' on'})" if self.first or where else ""
        return f"ascending by {self.least:g}{to or ' or more'} times{places}"

    def some(self, before: Sequence[int], v: int) -> bool:
        """Whether v may follow one of these, which ascend."""
        most = bisect_right(before, float(v), key=lambda u: u * self.least)
        least = 0 if self.most == math.inf else bisect_left(before, float(v), key=lambda u: u * self.most)
        return least < most

    def some_after(self, v: int, after: Sequence[int]) -> bool:
        """Whether one of these, which ascend, may follow v."""
        most = len(after) if self.most == math.inf else bisect_right(after, v * self.most)
        return bisect_left(after, v * self.least) < most


NOT_FALLING = Slope()


def within(rows: Sequence[Sequence[int]], slope: Slope, links: Sequence[tuple[int, int]]) -> Rows:
    """Of ascending choices of positions those that a combination has whose values follow each other; links: which
    position follows which, in order. The greatest (least) ones of all positions together are such a combination."""
    left = [list(row) for row in rows]
    for a, b in links:
        left[b] = [v for v in left[b] if slope.some(left[a], v)]
    for a, b in reversed(links):
        left[a] = [v for v in left[a] if slope.some_after(v, left[b])]
    return tuple(map(tuple, left))
