"""What samplers and stoppers see: the trials so far, in the order they were made, and nothing else.

A sampler is asked `suggest(history, n)`, a stopper `judge(history, trial)`. Neither knows of stores, clocks or
networks; the randomness of the i-th ask comes from `searchkit.seeds.ask_seed(seed, i)`, so that an interrupted search
needs no saved state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import compress, count
from operator import is_not
from typing import TYPE_CHECKING, Protocol

from searchkit.records.objective import Objective

if TYPE_CHECKING:
    from searchkit.suite.space.space import Genes, Space


@dataclass(frozen=True)
class Trial:
    """One point that was asked for, and its outcome.

    `index` is the job's number, negative for a warm start's. `state` is "running" (also pending), "finished", "pruned"
    (ended or paused by a stopper) or "failed". `scores` has a number for each objective, as reported; None while it
    runs, if it failed, or if one of them is NaN or missing (then the state is "failed"). `reports` are the (step,
    value) of the first objective that a stopper wanted, ascending. `asked` and `told` number the events of all trials
    in one order. `given` says that the point was enqueued or comes from a warm start: no sampler chose it.
    """

    index: int
    genes: Genes
    state: str
    scores: tuple[float, ...] | None = None
    reports: tuple[tuple[int, float], ...] = ()
    asked: int = 0
    told: int | None = None
    given: bool = False


class Verdict(Enum):
    """What a stopper says of a running trial."""

    CONTINUE = "continue"
    STOP = "stop"  # for good
    PAUSE = "pause"  # until `promote` names it


class Sampler(Protocol):
    """Chooses points. The options of a search are the keyword arguments after `seed`, with their defaults.

    A class may declare two things. `needs_results` (True by default): the results of points may change the next one.
    Without it no score is needed, and jobs are made before their turn. `replays` (False by default): it repeats what
    it was told before it goes on, so a trial stays as it was when it first ended, whatever a restart makes of it.
    """

    def __init__(self, space: Space, objectives: tuple[Objective, ...], seed: int) -> None: ...

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """Up to `n` new points: none is in the history (ordered by index) or twice in the answer. Fewer than `n`:
        nothing more for now; none while nothing runs: the space is exhausted. The same space, objectives, seed and
        history give the same answer, whatever this object was asked before."""
        ...


class Stopper(Protocol):
    """Ends trials early. Its options are the keyword arguments after `objective`, with their defaults."""

    def __init__(self, objective: Objective) -> None: ...

    def wants(self, step: int, last: int | None = None) -> bool:
        """Whether a report at `step` is to be judged, `last` being the step of this trial that was judged before."""
        ...

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        """The verdict on `trial`, whose last report is new. A function of its arguments alone."""
        ...

    def promote(self, history: Sequence[Trial]) -> int | None:
        """The index of the paused trial to go on with first, or None."""
        ...


def asks(history: Sequence[Trial]) -> int:
    """How many trials of a history are this search's own, and none of a warm start: the number of the next ask."""
    return len(history) - bisect_left(history, 0, key=lambda trial: trial.index)


def changed(known: list[Trial], history: Sequence[Trial]) -> list[int]:
    """The positions at which a history has another trial than `known`, which is the history as it was seen before.

    Changes are mostly recent, so the old part is compared as a whole, which at 10,000 trials takes 0.1 ms.
    """
    old = max(0, len(known) - 64)
    start = old if list(history[:old]) == known[:old] else 0
    return list(compress(count(start), map(is_not, known[start:], history[start:])))


def started(history: Sequence[Trial], points: Sequence[Genes]) -> list[Trial]:
    """`points` as the trials that they become when started now, after those of `history`."""
    index = max(history[-1].index + 1, 0) if history else 0
    event = max((max(trial.asked, trial.told or 0) for trial in history), default=0) + 1
    return [Trial(index + i, genes, "running", asked=event + i) for i, genes in enumerate(points)]
