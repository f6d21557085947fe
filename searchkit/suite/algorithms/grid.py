"""Grid search: every point of a finite space, in the order of the declaration."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from searchkit.records.objective import Objective
from searchkit.suite.algorithms.drawing import Fresh, never_met
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.space import Genes, Space


class Grid:
    """The points of `Space.grid` that the history does not have yet. A continuous argument needs a step."""

    needs_results = False

    def __init__(self, space: Space, objectives: tuple[Objective, ...], seed: int) -> None:
        self._space = space
        self._seed = seed
        self._fresh = Fresh(space, seed)
        self._seen: set[str] | None = None
        self._points: Iterator[Genes] = iter(())
        self._ahead: deque[tuple[str, Genes]] = deque()  # generated; all before the first of them are in the history

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where there are no more. Raises UsageError for a continuous argument, and where
        no point of the grid meets the constraints."""
        seen = self._fresh.seen(history)
        begins = seen is not self._seen  # the first history, or one that does not go on from the last
        if begins:
            self._seen, self._points, self._ahead = seen, self._space.grid(), deque()
        points: list[Genes] = []
        at = 0
        while len(points) < n:
            if at == len(self._ahead):
                genes = next(self._points, None)
                if genes is None:
                    break
                self._ahead.append((self._space.key(genes), genes))
            begins = False
            key, genes = self._ahead[at]
            if key not in seen:
                points.append(genes)
                at += 1
            elif at:
                at += 1
            else:
                self._ahead.popleft()
        if begins and n and not self._space.withdrawn:
            self._seen = None
            raise never_met(self._space, self._seed, "point of the grid")
        return points
