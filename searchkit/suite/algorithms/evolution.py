"""Regularized evolution: the best of a few of the youngest points has a child that differs in one gene.

Source: Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019,
arXiv:1802.01548. The population ages: a point leaves it when `population` others have finished since, however good it
is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from itertools import islice

from searchkit.records import pareto
from searchkit.records.objective import Objective
from searchkit.seeds import ask_seed, rng_within
from searchkit.suite.algorithms.checks import whole
from searchkit.suite.algorithms.drawing import Fresh
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.space import Genes, Space

_TRIES = 100  # children that may be rejected (by a constraint, or as duplicates) before a random point


class Evolution:
    """A function of the history. The first `population` points are random; then the best of `sample` members, drawn
    with replacement, has a child. With several objectives the best is one of the lowest Pareto rank in the sample."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        seed: int,
        *,
        population: int = 20,
        sample: int = 5,
    ) -> None:
        self._space = space
        self._modes = tuple(objective.mode for objective in objectives)
        self._seed = seed
        self._population = whole("evolution: population", population, 1)
        self._sample = whole("evolution: sample", sample, 1)
        self._dims = {dim.name: dim for dim in space.dims() if dim.high > dim.low}
        self._fresh = Fresh(space, seed)

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where a finite space has no more."""
        members = self._members(history)
        begun = sum(1 for _ in islice((trial for trial in history if trial.state != "failed"), self._population))

        def propose(points: list[Genes], i: int, retry: int) -> Genes:
            seed = ask_seed(self._seed, i, retry)
            if begun + len(points) < self._population or not members:
                return self._fresh.random(seed)
            return self._child(self._parent(members, random.Random(seed)), seed)

        return self._fresh.batch(history, n, propose, _TRIES)

    def _members(self, history: Sequence[Trial]) -> list[Trial]:
        """The `population` trials that finished last; those of a warm start are older than all others."""
        finished = [trial for trial in reversed(history) if trial.state == "finished"]  # last first: faster
        return heapq.nlargest(self._population, finished, key=lambda t: (-1 if t.told is None else t.told, t.index))

    def _parent(self, members: list[Trial], rng: random.Random) -> Genes:
        drawn = [rng.choice(members) for _ in range(self._sample)]
        ranks = pareto.ranks([trial.scores or () for trial in drawn], self._modes)
        return drawn[ranks.index(min(ranks))].genes

    def _child(self, parent: Genes, seed: int) -> Genes:
        """`parent` with another value for one gene."""
        rng = rng_within(seed, "mutate")
        names = [name for name in parent if name in self._dims]
        return self._fresh.mutated(parent, [rng.choice(names)] if names else [], seed)
