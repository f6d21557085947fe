"""Pareto fronts, ranks and hypervolume of rows of scores, each column with its mode ("max" or "min").

A row dominates another if it is no worse in any column and better in one. What is no row, or holds NaN, is on no front.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from math import inf

from searchkit.records.objective import loss

Row = Sequence[float]
_Losses = tuple[float, ...]


def dominates(a: Row, b: Row, modes: Sequence[str]) -> bool:
    """Whether row `a` dominates row `b`. A row with NaN dominates none, and any other dominates it."""
    one, two = _losses(a, modes), _losses(b, modes)
    return one is not None and (two is None or _beats(one, two))


def front(scores: Sequence[Row | None], modes: Sequence[str]) -> list[int]:
    """The indices, ascending, of the rows that no other dominates; equal rows are all included."""
    kept: list[tuple[_Losses, int]] = []
    for row, index in _sorted(scores, modes):  # none of those to come dominates one of those before
        rivals = kept[-1:] if len(modes) == 2 else reversed(kept)  # of two columns: the last is best in the second
        if not any(_beats(other, row) for other, _ in rivals):
            kept.append((row, index))
    return sorted(index for _, index in kept)


def ranks(scores: Sequence[Row | None], modes: Sequence[str]) -> list[int]:
    """For each row the number of the front it is on: 0 for that of `front`, 1 for the front without those, and so on.
    Rows with NaN have the number after the last.

    Source: Zhang, Tian, Cheng and Jin, "An Efficient Approach to Nondominated Sorting for Evolutionary Multiobjective
    Optimization", IEEE TEVC 2015: rows in sorted order, each put by bisection on the first front that has none better.
    """
    fronts: list[list[_Losses]] = []
    front_of: dict[int, int] = {}
    for row, index in _sorted(scores, modes):
        at = bisect_left(fronts, True, key=partial(_free, row))
        if at == len(fronts):
            fronts.append([])
        fronts[at].append(row)
        front_of[index] = at
    return [front_of.get(i, len(fronts)) for i in range(len(scores))]


def crowding(rows: Sequence[Row]) -> list[float]:
    """For each row of one front how much room it has: the sum over the columns of the distance between its neighbours
    there, as a share of what the front spans. Infinite at both ends of a column. The rows hold no NaN.

    Source: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE
    TEVC 2002. Of equal values the row of the lower index counts as the lesser.
    """
    room = [0.0] * len(rows)
    for column in zip(*rows, strict=True):
        order = sorted(range(len(rows)), key=column.__getitem__)
        span = column[order[-1]] - column[order[0]]
        room[order[0]] = room[order[-1]] = inf
        if 0 < span < inf:
            for before, at, after in zip(order, order[1:], order[2:], strict=False):
                room[at] += (column[after] - column[before]) / span
    return room


def hypervolume(scores: Sequence[Row | None], reference: Row, modes: Sequence[str]) -> float:
    """The volume that the rows dominate and that dominates `reference`, in units of the product of the columns.

    Exact, by slicing along one column after another: n log n for two columns, n to the power of one less than the
    columns beyond that, which is fast for fronts of some hundred rows and up to four columns. Rows that are not better
    than the reference in every column add nothing. Infinite where a row is.
    """
    corner = _losses(reference, modes)
    if corner is None:
        from searchkit.errors import UsageError

        raise UsageError(f"the reference of a hypervolume must not hold NaN, got {tuple(reference)}")
    rows = [row for row, _ in _sorted(scores, modes) if all(x < r for x, r in zip(row, corner, strict=True))]
    return _volume(rows, corner)


def _volume(rows: list[_Losses], corner: _Losses) -> float:
    """The volume between `corner` and the rows, all of which are less than it in every column."""
    if not rows:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(rows)[0]
    volume, last = 0.0, corner[-1]
    if len(corner) == 2:  # a staircase, from the row of the least first column
        for x, y in sorted(rows):
            if y < last:
                volume, last = volume + (corner[0] - x) * (last - y), y
        return volume
    rows = sorted(rows, key=lambda row: row[-1])
    below: list[_Losses] = []  # the front of the slice, without its last column
    for i, row in enumerate(rows):
        flat = row[:-1]
        if not any(_covers(other, flat) for other in below):
            below = [other for other in below if not _covers(flat, other)] + [flat]
        high = rows[i + 1][-1] if i + 1 < len(rows) else last
        if high > row[-1]:
            volume += _volume(below, corner[:-1]) * (high - row[-1])
    return volume


def _sorted(scores: Sequence[Row | None], modes: Sequence[str]) -> list[tuple[_Losses, int]]:
    """(losses, index) of every row without NaN, in lexicographic order."""
    rows = ((None if row is None else _losses(row, modes), i) for i, row in enumerate(scores))
    return sorted((row, i) for row, i in rows if row is not None)


def _losses(row: Row, modes: Sequence[str]) -> _Losses | None:
    if any(x != x for x in row):
        return None
    return tuple(loss(x, mode) for x, mode in zip(row, modes, strict=True))


def _free(row: _Losses, rows: list[_Losses]) -> bool:
    return not any(_beats(other, row) for other in reversed(rows))


def _beats(a: _Losses, b: _Losses) -> bool:
    return a != b and _covers(a, b)


def _covers(a: _Losses, b: _Losses) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))
