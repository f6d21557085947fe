"""Random search: every point is drawn independently, and none twice."""

from __future__ import annotations

from collections.abc import Sequence

from searchkit.records.objective import Objective
from searchkit.seeds import ask_seed
from searchkit.suite.algorithms.drawing import TRIES, Fresh
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.space import Genes, Space


class Random:
    """Draws as `optuna.samplers.RandomSampler(seed=ask_seed(seed, i))` does for the i-th ask."""

    needs_results = False

    def __init__(self, space: Space, objectives: tuple[Objective, ...], seed: int) -> None:
        self._seed = seed
        self._fresh = Fresh(space, seed)

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where a finite space has no more."""
        return self._fresh.batch(history, n, self._propose, TRIES)

    def _propose(self, points: list[Genes], i: int, retry: int) -> Genes:
        return self._fresh.random(ask_seed(self._seed, i, retry))
