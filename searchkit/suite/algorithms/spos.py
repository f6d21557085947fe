"""Evolution of generations: half of each is bred from two of the best points so far, half mutated from one of them.

Source: Guo, Zhang, Mu, Heng, Liu, Wei and Sun, "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
ECCV 2020, arXiv:1904.00420, Algorithm 1. Here the parents are the best of all trials that have finished when a point
is asked for, so that no worker waits for the end of a generation.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from searchkit.records import pareto
from searchkit.records.objective import Objective, loss
from searchkit.seeds import ask_seed, rng_within
from searchkit.suite.algorithms.checks import number, whole
from searchkit.suite.algorithms.drawing import Fresh
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.space import Dim, Genes, Space


class Spos:
    """A function of the history. The first `population` asks are random; each `population` asks after these are a
    generation, of which the share `crossover` comes first and takes each gene from either of two parents; in the rest
    each gene of one parent changes with the probability `mutation`, and one at least. Parents are the `top_k` best
    trials that have finished: with several objectives those of the lowest Pareto rank, in a rank the least crowded.

    A proposal that breaks a constraint or is known is repeated up to `tries` times; then a random point is taken."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        seed: int,
        *,
        population: int = 50,
        top_k: int = 10,
        mutation: float = 0.1,
        crossover: float = 0.5,
        tries: int = 10,
    ) -> None:
        self._space = space
        self._modes = tuple(objective.mode for objective in objectives)
        self._seed = seed
        self._population = whole("spos: population", population, 1)
        self._top_k = whole("spos: top_k", top_k, 1)
        self._mutation = number("spos: mutation", mutation, 0, 1)
        self._bred = round(number("spos: crossover", crossover, 0, 1) * population)  # of each generation
        self._tries = whole("spos: tries", tries, 0)
        self._dims = {dim.name: dim for dim in space.dims() if dim.high > dim.low}
        self._fresh = Fresh(space, seed)

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where a finite space has no more."""
        parents = self._parents(history)

        def propose(points: list[Genes], i: int, retry: int) -> Genes:
            seed = ask_seed(self._seed, i, retry)
            if i < self._population or not parents:
                return self._fresh.random(seed)
            return (self._child if i % self._population < self._bred else self._mutant)(parents, seed)

        return self._fresh.batch(history, n, propose, self._tries + 1)

    def _parents(self, history: Sequence[Trial]) -> list[Genes]:
        """The best trials, the best of them first; of equal ones the oldest."""
        finished = [trial for trial in history if trial.state == "finished"]
        rows = [trial.scores or () for trial in finished]
        remaining = list(range(len(finished)))
        if len(self._modes) == 1:
            best = heapq.nsmallest(self._top_k, remaining, key=lambda at: (loss(rows[at][0], self._modes[0]), at))
            return [finished[at].genes for at in best]
        best = []
        while len(best) < self._top_k and (front := pareto.front([rows[at] for at in remaining], self._modes)):
            members = [remaining[k] for k in front]
            room = dict(zip(members, pareto.crowding([rows[at] for at in members]), strict=True))
            best += [at for _, at in sorted((-room[at], at) for at in members)]
            remaining = [at for at in remaining if at not in room]
        return [finished[at].genes for at in best[: self._top_k]]

    def _child(self, parents: Sequence[Genes], seed: int) -> Genes:
        """Each gene from either of two parents; one that only one of them has is taken from it, or else drawn."""
        stream, rng = self._fresh.stream(seed), rng_within(seed, "cross")
        pair = rng.sample(parents, min(2, len(parents)))

        def choose(dim: Dim) -> float | int:
            owners = [parent for parent in pair if dim.name in parent]
            return rng.choice(owners)[dim.name] if owners else stream.draw(dim)

        return self._space.complete(choose)

    def _mutant(self, parents: Sequence[Genes], seed: int) -> Genes:
        """A parent with other values for some genes."""
        rng = rng_within(seed, "mutate")
        parent = rng.choice(parents)
        names = [name for name in parent if name in self._dims]
        changed = {name for name in names if rng.random() < self._mutation}
        if names and not changed:
            changed = {rng.choice(names)}
        return self._fresh.mutated(parent, changed, seed)
