"""Kendall's rank correlation of few values with ties, and how surprising it would be by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import permutations

ENUMERATED = 7  # values up to which all orders are enumerated where some are tied
EXACT = 40  # values up to which the distribution without ties is exact

Pairs = tuple[Sequence[float], Sequence[float]]  # x and y, of equal length


def concordance(x: Sequence[float], y: Sequence[float]) -> int:
    """Pairs that x and y put in the same order, less those that they put in opposite ones; ties count for neither."""
    return sum(_sign(x[j] - x[i]) * _sign(y[j] - y[i]) for j in range(len(x)) for i in range(j))


def tau_b(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b, -1..1: S / sqrt((n0 - ties in x)(n0 - ties in y)), n0 all pairs (Kendall, "The treatment of ties
    in ranking problems", Biometrika 1945). None where all of x, or all of y, are equal, or there are none."""
    pairs = math.comb(len(x), 2)
    room = [pairs - sum(math.comb(t, 2) for t in Counter(v).values()) for v in (x, y)]
    return concordance(x, y) / math.sqrt(room[0] * room[1]) if all(room) else None


def p_value(groups: Sequence[Pairs]) -> float | None:
    """How likely the values within groups agree (or disagree) at least so well by chance, all groups together:
    two-sided, of the sum of their `concordance`. One group: the test of its tau.

    Exact where no group has ties, or those that have are small; else by the normal distribution with the variance for
    ties (Kendall, "Rank Correlation Methods", 1970, ch. 4), corrected for continuity. None where no order is possible.
    """
    groups = [(x, y) for x, y in groups if tau_b(x, y) is not None]
    if not groups:
        return None
    observed = abs(sum(concordance(x, y) for x, y in groups))
    if all(_is_exact(x, y) for x, y in groups):
        distribution: Mapping[int, int] = {0: 1}
        for x, y in groups:
            distribution = _sum_of(distribution, _chances(x, y))
        beyond = sum(ways for s, ways in distribution.items() if abs(s) >= observed)
        return float(Fraction(beyond, sum(distribution.values())))
    spread = math.sqrt(sum(_variance(x, y) for x, y in groups))
    return min(1.0, math.erfc(max(0.0, observed - 1) / spread / math.sqrt(2)))


def least_p(sizes: Sequence[int]) -> float:
    """The smallest `p_value` that groups of these sizes can have: that of perfect agreement, without ties."""
    return min(1.0, 2 / math.prod(math.factorial(n) for n in sizes))


def _sign(v: float) -> int:
    return (v > 0) - (v < 0)


def _tied(x: Sequence[float], y: Sequence[float]) -> bool:
    return len(set(x)) < len(x) or len(set(y)) < len(y)


def _is_exact(x: Sequence[float], y: Sequence[float]) -> bool:
    return len(x) <= (ENUMERATED if _tied(x, y) else EXACT)


def _chances(x: Sequence[float], y: Sequence[float]) -> Mapping[int, int]:
    """In how many orders of y each value of `concordance` comes up."""
    if _tied(x, y):
        return Counter(concordance(x, order) for order in permutations(y))
    ways = [1]  # by the number of inversions
    for n in range(2, len(x) + 1):
        ways = [sum(ways[max(0, k - n + 1) : k + 1]) for k in range(len(ways) + n - 1)]
    return {len(ways) - 1 - 2 * k: count for k, count in enumerate(ways)}


def _sum_of(a: Mapping[int, int], b: Mapping[int, int]) -> Mapping[int, int]:
    """The distribution of the sum of two independent values."""
    total: Counter[int] = Counter()
    for s, ways in a.items():
        for t, more in b.items():
            total[s + t] += ways * more
    return total


def _variance(x: Sequence[float], y: Sequence[float]) -> float:
    """Of `concordance` over all orders."""
    n = len(x)
    tx, ty = (Counter(v).values() for v in (x, y))

    def both(power: int) -> int:
        a, b = (sum(math.perm(t, power) for t in ties) for ties in (tx, ty))
        return a * b

    parts = n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in (*tx, *ty))
    third = both(3) / (9 * math.perm(n, 3)) if n > 2 else 0.0
    return parts / 18 + both(2) / (2 * math.perm(n, 2)) + third
