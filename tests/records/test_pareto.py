"""Fronts and ranks against their definition; hypervolumes against Optuna, Monte Carlo, and by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from searchkit.errors import UsageError
from searchkit.records.pareto import dominates, front, hypervolume, ranks

NAN = math.nan


def beats(a: Sequence[float] | None, b: Sequence[float] | None, modes: Sequence[str]) -> bool:
    """The definition."""
    if a is None or any(map(math.isnan, a)):
        return False
    if b is None or any(map(math.isnan, b)):
        return True
    signed = [(x, y) if mode == "max" else (-x, -y) for x, y, mode in zip(a, b, modes, strict=True)]
    return all(x >= y for x, y in signed) and any(x > y for x, y in signed)


def brute_ranks(rows: Sequence[Sequence[float] | None], modes: Sequence[str]) -> list[int]:
    """Front after front is taken away."""
    valid = {i for i, row in enumerate(rows) if row is not None and not any(map(math.isnan, row))}
    found = [0] * len(rows)
    left, rank = set(valid), 0
    while left:
        best = {i for i in left if not any(beats(rows[j], rows[i], modes) for j in left)}
        for i in best:
            found[i] = rank
        left -= best
        rank += 1
    return [found[i] if i in valid else rank for i in range(len(rows))]


@pytest.mark.parametrize("seed", range(60))
def test_fronts_and_ranks_are_those_of_the_definition(seed: int) -> None:
    """Small whole numbers, so that there are many ties and equal rows; some rows lack, some hold NaN or infinity."""
    rng = random.Random(seed)
    columns = rng.randint(1, 4)
    modes = [rng.choice(("max", "min")) for _ in range(columns)]
    rows: list[list[float] | None] = []
    for _ in range(rng.randint(0, 40)):
        row: list[float] = [float(rng.randint(0, 5)) for _ in range(columns)]
        if rng.random() < 0.15:
            row[rng.randrange(columns)] = rng.choice((NAN, math.inf, -math.inf))
        rows.append(None if rng.random() < 0.05 else row)
    expected = brute_ranks(rows, modes)
    assert ranks(rows, modes) == expected
    valid = [i for i, row in enumerate(rows) if row is not None and not any(map(math.isnan, row))]
    assert front(rows, modes) == [i for i in valid if expected[i] == 0]
    for a in rows[:8]:
        for b in rows[:8]:
            if a is not None and b is not None:
                assert dominates(a, b, modes) == beats(a, b, modes)


def test_the_edges_of_fronts() -> None:
    modes = ("max", "min")
    assert front([], modes) == ranks([], modes) == []
    assert front([None, (NAN, 1.0)], modes) == []
    assert ranks([None, (1.0, 1.0), (NAN, 1.0)], modes) == [1, 0, 1]
    assert front([(1.0, 1.0), (1.0, 1.0), (0.0, 2.0)], modes) == [0, 1]
    assert dominates((1.0, 1.0), (NAN, 0.0), modes) and not dominates((NAN, 0.0), (1.0, 1.0), modes)
    with pytest.raises(ValueError):
        front([(1.0,)], modes)


@pytest.mark.slow
def test_many_rows_are_quick() -> None:
    """Also where all of them are the front; and ranks, where there are a hundred fronts."""
    rng = np.random.default_rng(0)
    line = [(x, x) for x in rng.random(10_000).tolist()]
    assert front(line, ("max", "min")) == list(range(10_000))
    rows = rng.random((10_000, 3)).tolist()
    found = front(rows, ("min", "max", "min"))
    assert 20 < len(found) < 500
    plane = rng.random((5_000, 2)).tolist()
    assert max(ranks(plane, ("min", "min"))) > 60


def test_hypervolumes_by_hand() -> None:
    assert hypervolume([], (0.0, 0.0), ("max", "max")) == 0.0
    assert hypervolume([(2.0, 3.0)], (0.0, 1.0), ("max", "max")) == 4.0
    assert hypervolume([(2.0, 3.0)], (4.0, 1.0), ("min", "max")) == 4.0
    assert hypervolume([(2.0, 3.0), (1.0, 4.0), (2.0, 3.0), (1.0, 1.0)], (0.0, 0.0), ("max", "max")) == 7.0
    assert hypervolume([(2.0, -1.0), (0.0, 9.0), (NAN, 9.0), None], (0.0, 0.0), ("max", "max")) == 0.0
    assert hypervolume([(3.0,), (5.0,)], (1.0,), ("max",)) == 4.0
    assert hypervolume([(1.0, 1.0, 1.0), (2.0, 2.0, 0.5)], (0.0, 0.0, 0.0), ("max",) * 3) == 2.5
    assert hypervolume([(math.inf, 1.0)], (0.0, 0.0), ("max", "max")) == math.inf
    with pytest.raises(UsageError, match="must not hold NaN"):
        hypervolume([(1.0, 1.0)], (NAN, 0.0), ("max", "max"))


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("kind", ["front", "cloud", "ties"])
def test_hypervolume_is_optunas(columns: int, kind: str) -> None:
    wfg = pytest.importorskip("optuna._hypervolume.wfg")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows = rng.random((40, columns))
        if kind == "front":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        if kind == "ties":
            rows = np.round(rows * 4) / 4
        reference = np.full(columns, 1.05)
        theirs = wfg.compute_hypervolume(rows, reference)
        assert math.isclose(hypervolume(rows.tolist(), reference.tolist(), ("min",) * columns), theirs, rel_tol=1e-9)
        modes = ["max" if i % 2 else "min" for i in range(columns)]
        signs = np.array([-1.0 if mode == "max" else 1.0 for mode in modes])
        turned = hypervolume((rows * signs).tolist(), (reference * signs).tolist(), modes)
        assert math.isclose(turned, theirs, rel_tol=1e-9)


@pytest.mark.parametrize("columns", [2, 3])
def test_hypervolume_is_the_share_of_random_points_that_are_dominated(columns: int) -> None:
    rng = np.random.default_rng(columns)
    rows = rng.random((25, columns))
    thrown = rng.random((200_000, columns))
    share = np.zeros(len(thrown), bool)
    for row in rows:
        share |= (row >= thrown).all(axis=1)
    exact = hypervolume(rows.tolist(), (0.0,) * columns, ("max",) * columns)
    assert abs(exact - share.mean()) < 4 * 0.5 / math.sqrt(len(thrown))


def test_a_further_point_never_lessens_the_hypervolume() -> None:
    rng = random.Random(1)
    rows: list[list[float]] = []
    last = 0.0
    for _ in range(40):
        rows.append([rng.random() for _ in range(3)])
        volume = hypervolume(rows, (0.0, 0.0, 0.0), ("max",) * 3)
        assert volume >= last - 1e-12
        inside = dominates(rows[0], rows[-1], ("max",) * 3)
        assert not inside or math.isclose(volume, last)
        last = volume
