"""Asynchronous successive halving: at each rung only the best 1 / eta of the trials that reached it go on.

Source: Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht and Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020, arXiv:1810.05934. `promotion` is the paper's form: a trial pauses at each rung, and goes on once it
is among the best. Without it a trial is judged once, when it gets there (as in Ray Tune, Syne Tune and Optuna): nothing
needs a checkpoint, and the first to arrive always go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from searchkit.errors import UsageError
from searchkit.records.kendall import tau_b
from searchkit.records.objective import Objective, loss
from searchkit.suite.algorithms.checks import flag, whole
from searchkit.suite.algorithms.history import Trial, Verdict

FIRST = 9  # without `min`, the first rung is at `max` divided by this
COMPARED = 500  # finished trials, of the last, that a rank correlation is taken over: it looks at all pairs


class Asha:
    """Rungs are at the steps `min`, `min * eta`, `min * eta**2` … below `max` (None: without end). A trial's value at
    a rung is that of its first report at or beyond the step, so scripts need not report at the very step. `min` None:
    a ninth of `max`, rounded down, at least 1. The first steps often say nothing about the last, so no other default is
    safe. Raises UsageError where neither is given."""

    def __init__(
        self,
        objective: Objective,
        *,
        min: int | None = None,
        max: int | None = None,
        eta: int = 3,
        promotion: bool = False,
    ) -> None:
        self._mode = objective.mode
        if min is None and max is None:
            raise UsageError(
                "asha: needs `min`, the first step whose value says something of the last",
                "or give `max`, the last step of a trial: then `min` is a ninth of it",
            )
        if min is None:
            min = whole("asha: max", max, 2) // FIRST or 1
        self._min = whole("asha: min", min, 1)
        self._max = math.inf if max is None else whole(f"asha: max (min is {min})", max, min + 1)
        self._eta = whole("asha: eta", eta, 2)
        self._promotion = flag("asha: promotion", promotion)

    def wants(self, step: int, last: int | None = None) -> bool:
        """Whether the report is the first at a rung."""
        return self._rungs(step) > (0 if last is None else self._rungs(last))

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        """STOP (or PAUSE) at a rung, else CONTINUE. NaN stops there."""
        step, value = trial.reports[-1]
        before = self._rungs(trial.reports[-2][0]) if len(trial.reports) > 1 else 0
        own_loss = loss(value, self._mode)
        for rung in range(before, self._rungs(step)):
            if math.isnan(value):
                return Verdict.STOP
            if self._promotion:
                return Verdict.PAUSE
            others = [other for other in history if other.index != trial.index]
            losses = [rung_loss for other in others for rung_loss in self._at(other, rung)]
            losses.append(own_loss)
            if own_loss > sorted(losses)[max(1, len(losses) // self._eta) - 1]:
                return Verdict.STOP
        return Verdict.CONTINUE

    def promote(self, history: Sequence[Trial]) -> int | None:
        """Of the trials that pause at a rung and are among the best 1 / eta there: the best at the highest rung."""
        if not self._promotion:
            return None
        top = max((self._rungs(trial.reports[-1][0]) for trial in history if trial.reports), default=0)
        for rung in reversed(range(top)):
            ranked = sorted(
                (rung_loss, t.index, self._pauses(t, rung)) for t in history for rung_loss in self._at(t, rung)
            )
            for _, index, pauses in ranked[: len(ranked) // self._eta]:
                if pauses:
                    return index
        return None

    def trust(self, history: Sequence[Trial]) -> list[tuple[int, int, float | None]]:
        """(step, trials, Kendall's tau-b) of each rung: how well its order matches that of the final scores, over the
        trials that finished. None: fewer than two, or all equal."""
        ended = [t for t in history if t.state == "finished" and t.scores is not None and t.reports][-COMPARED:]
        rungs = []
        for rung in range(self._rungs(max((t.reports[-1][0] for t in ended), default=0))):
            pairs = [(at, loss(t.scores[0], self._mode)) for t in ended if t.scores for at in self._at(t, rung)]
            tau = tau_b([early for early, _ in pairs], [final for _, final in pairs])
            rungs.append((self._min * self._eta**rung, len(pairs), tau))
        return rungs

    def _rungs(self, step: int) -> int:
        """How many rungs are at or below `step`."""
        rungs, rung_step = 0, self._min
        while rung_step <= step and rung_step < self._max:
            rungs, rung_step = rungs + 1, rung_step * self._eta
        return rungs

    def _at(self, trial: Trial, rung: int) -> list[float]:
        """The loss of a trial at a rung, or nothing where it did not reach it."""
        step = self._min * self._eta**rung
        if not trial.reports or trial.reports[-1][0] < step:
            return []
        return [loss(next(value for at, value in trial.reports if at >= step), self._mode)]

    def _pauses(self, trial: Trial, rung: int) -> bool:
        """Whether a trial waits at that rung: it ended at its first report there, and nothing else ended it."""
        last, before = trial.reports[-1], trial.reports[-2:-1]
        first_at_rung = self._rungs(last[0]) == rung + 1 > (self._rungs(before[0][0]) if before else 0)
        return first_at_rung and trial.state == "pruned" and not math.isnan(last[1])
