"""Random values of dimensions, new points, and what is left of a finite space.

The draws are those of Optuna's RandomSampler, bit for bit, without Optuna.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from searchkit.errors import UsageError
from searchkit.seeds import ask_seed, rng_within
from searchkit.suite.algorithms.history import Trial, asks, changed
from searchkit.suite.space.space import Dim, Genes, Space

if TYPE_CHECKING:
    import numpy as np

TRIES = 1000  # draws of one ask that may be rejected before a small space is walked through for what is left
DRAWS = 10_000  # and in a larger one, before its constraints count as never met: less than 0.1 % of it meets them
CHANGES = 100  # draws of a gene, until it differs from its parent's
WALK = 200_000  # the size of a space that is small

Propose = Callable[[int], Genes]  # the number of a retry to a point


class Stream:
    """The random values that `optuna.samplers.RandomSampler(seed)` would give, asked for dimension by dimension.

    It is kept and seeded anew for every point, which is 40 times as fast as a generator for each.
    """

    def __init__(self) -> None:
        import numpy as np

        self._rng: np.random.RandomState = np.random.RandomState(0)

    def seeded(self, seed: int) -> Stream:
        """This stream, from the beginning."""
        self._rng.seed(seed)
        return self

    def draw(self, dim: Dim) -> float | int:
        """A value of `dim`; one that can't vary takes nothing from the stream."""
        low, high, step = dim.low, dim.high, dim.step or 1
        if high == low:
            return low
        if dim.kind == "index":
            return int(self._rng.random_sample(int(high) + 1).argmax())
        if dim.kind == "int" and dim.log:
            nearest = round(math.exp(self._rng.uniform(math.log(low - 0.5), math.log(high + 0.5))))
            return int(min(max(nearest, low), high))
        if dim.kind == "int":
            drawn = self._rng.uniform(low - 0.5 * step, high + 0.5 * step)
            return int(min(max(low + math.floor((drawn - low) / step + 0.5) * step, low), high))
        if dim.log:
            value = math.exp(self._rng.uniform(math.log(low), math.log(high)))
            return min(max(value, low), math.nextafter(high, high - 1))
        if dim.step is None:
            return min(self._rng.uniform(low, high), math.nextafter(high, high - 1))
        drawn = self._rng.uniform(low - 0.5 * step, high + 0.5 * step)
        return float(min(max(round((drawn - low) / step) * step + low, low), high))


def filled(space: Space, fixed: Mapping[str, float | int], seed: int, i: int) -> Genes:
    """The point of the `fixed` genes, all others drawn for the i-th ask so that it meets the constraints. What its
    conditions switch off is left out. Raises UsageError where there is none."""
    stream = Stream()
    for retry in range(TRIES):
        stream.seeded(ask_seed(seed, i, retry))
        genes = space.complete(lambda dim: fixed[dim.name] if dim.name in fixed else stream.draw(dim))
        if space.feasible(genes):
            return genes
    raise never_met(space, seed, f"point of {TRIES:,} drawn at random")


def never_met(space: Space, seed: int, kind: str) -> UsageError:
    """The error of a space of which no `kind` (a "point of the grid") meets the constraints."""
    return UsageError(
        f"no {kind} meets the constraints: {space.reach(TRIES, random.Random(seed))}",
        "widen the ranges or the constraint; points that are hard to find can be given in search.enqueue",
    )


class Fresh:
    """Points that meet the constraints and that a history does not have. What it has seen is kept from ask to ask."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._size = space.size()
        self._stream: Stream | None = None  # made when it is needed: it imports numpy
        self._grid: list[tuple[str, Genes]] | None = None  # of a small space, once it was walked through
        self._trials: list[Trial] = []
        self._keys: set[str] = set()

    def stream(self, seed: int) -> Stream:
        """The random values of one point."""
        self._stream = self._stream or Stream()
        return self._stream.seeded(seed)

    def random(self, seed: int) -> Genes:
        """A random point, which may break constraints."""
        return self._space.complete(self.stream(seed).draw)

    def mutated(self, parent: Genes, changed: Collection[str], seed: int) -> Genes:
        """`parent` with other values for the `changed` genes, which may break constraints; genes that this switches on
        are drawn, those switched off go."""
        stream = self.stream(seed)

        def choose(dim: Dim) -> float | int:
            if dim.name in changed:
                values = (stream.draw(dim) for _ in range(CHANGES))
                return next((value for value in values if value != parent[dim.name]), parent[dim.name])
            return parent[dim.name] if dim.name in parent else stream.draw(dim)

        return self._space.complete(choose)

    def batch(
        self, history: Sequence[Trial], n: int, propose: Callable[[list[Genes], int, int], Genes], tries: int
    ) -> list[Genes]:
        """At most `n` points; fewer where a finite space has no more. `propose(points, i, retry)` is a proposal for the
        i-th ask, `points` being those before it in the batch; see `one` for `tries`."""
        seen = self.seen(history)
        points: list[Genes] = []
        keys: list[str] = []
        first = asks(history)
        try:
            for i in range(first, first + n):
                genes = self.one(seen, i, partial(propose, points, i), tries)
                if genes is None:
                    break
                points.append(genes)
                keys.append(self._space.key(genes))
                seen.add(keys[-1])
        finally:
            seen.difference_update(keys)
        return points

    def one(self, seen: Collection[str], i: int, propose: Propose, tries: int) -> Genes | None:
        """The first of at most `tries` proposals that meets the constraints and has no key in `seen`.

        After them come random points, then what is left of a small space, or neighbours of the history's; None: there
        are no more. Raises UsageError where no draw ever met the constraints, with the values that they took.
        """
        small = self._size is not None and self._size <= WALK
        if small and len(seen) >= (len(self._grid) if self._grid else self._size or 0) and not self._unused(seen):
            return None  # as the search below would find, only sooner
        met = False
        draws = TRIES if small else DRAWS
        for retry in range(draws):
            genes = propose(retry) if retry < tries else self.random(ask_seed(self._seed, i, retry))
            if self._space.feasible(genes):
                met = True
                if self._space.key(genes) not in seen:
                    return genes
        unused = self._unused(seen) if small else []
        if unused:
            return unused[ask_seed(self._seed, i, draws) % len(unused)]
        if met:
            return None
        if not self._trials:
            raise never_met(self._space, self._seed, f"point of {draws:,} drawn at random")
        return self._near(seen, i)

    def _near(self, seen: Collection[str], i: int) -> Genes | None:
        """A new point that meets the constraints and differs in one gene from a point of the history: what random draws
        no longer find is rare, and lies near what was found before. None: there is none among DRAWS."""
        for retry in range(DRAWS):
            seed = ask_seed(self._seed, i, DRAWS + retry)
            rng = rng_within(seed, "near")
            parent = rng.choice(self._trials).genes
            genes = self.mutated(parent, [rng.choice([*parent])], seed)
            if self._space.feasible(genes) and self._space.key(genes) not in seen:
                return genes
        return None

    def _unused(self, seen: Collection[str]) -> list[Genes]:
        return [genes for key, genes in self._walk() if key not in seen]

    def _walk(self) -> list[tuple[str, Genes]]:
        if self._grid is None:
            self._grid = [(self._space.key(genes), genes) for genes in self._space.grid()]
        return self._grid

    def seen(self, history: Sequence[Trial]) -> set[str]:
        """The keys of the history's points, of which only new ones are hashed. The same set as before, unless the
        history is another one, or was cut."""
        known = self._trials
        differ = changed(known, history)
        if len(history) < len(known) or any(history[at].genes != known[at].genes for at in differ):
            self._trials, self._keys, differ = [], set(), []
        for at in differ:
            self._trials[at] = history[at]
        new = history[len(self._trials) :]
        self._keys.update(self._space.key(trial.genes) for trial in new)
        self._trials += new
        return self._keys
