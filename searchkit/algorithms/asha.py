"""Asynchronous successive halving: at each rung only the best 1 / eta of all that got there go on.

Source: Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht and Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020, arXiv:1810.05934. `promotion` is the paper's form: a trial pauses at each rung, and goes on once it
is among the best. Without it a trial is judged once, when it gets there (as in Ray Tune, Syne Tune and Optuna): nothing
needs a checkpoint, and the first to arrive always go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from searchkit.algorithms.checks import flag, whole
from searchkit.algorithms.history import Objective, Trial, Verdict, loss


class Asha:
    """Rungs are at the steps `min`, `min * eta`, `min * eta**2` … below `max` (None: without end). A trial's value at
    a rung is that of its first report at or beyond the step, so scripts need not report at the very step."""

    def __init__(
        self, objective: Objective, *, min: int = 1, max: int | None = None, eta: int = 3, promotion: bool = False
    ) -> None:
        self._mode = objective.mode
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
        mine = loss(value, self._mode)
        for rung in range(before, self._rungs(step)):
            if math.isnan(value):
                return Verdict.STOP
            if self._promotion:
                return Verdict.PAUSE
            there = [found for other in history if other.index != trial.index for found in self._at(other, rung)]
            there.append(mine)
            if mine > sorted(there)[max(1, len(there) // self._eta) - 1]:
                return Verdict.STOP
        return Verdict.CONTINUE

    def promote(self, history: Sequence[Trial]) -> int | None:
        """Of the trials that pause at a rung and are among the best 1 / eta there: the best at the highest rung."""
        if not self._promotion:
            return None
        top = max((self._rungs(trial.reports[-1][0]) for trial in history if trial.reports), default=0)
        for rung in reversed(range(top)):
            there = sorted(
                (found, trial.index, self._pauses(trial, rung)) for trial in history for found in self._at(trial, rung)
            )
            for _, index, pauses in there[: len(there) // self._eta]:
                if pauses:
                    return index
        return None

    def _rungs(self, step: int) -> int:
        """How many rungs are at or below `step`."""
        found, at = 0, self._min
        while at <= step and at < self._max:
            found, at = found + 1, at * self._eta
        return found

    def _at(self, trial: Trial, rung: int) -> list[float]:
        """The loss of a trial at a rung, or nothing where it did not get there."""
        step = self._min * self._eta**rung
        if not trial.reports or trial.reports[-1][0] < step:
            return []
        return [loss(next(value for at, value in trial.reports if at >= step), self._mode)]

    def _pauses(self, trial: Trial, rung: int) -> bool:
        """Whether a trial waits at that rung: it ended at its first report there, and nothing else ended it."""
        last, before = trial.reports[-1], trial.reports[-2:-1]
        there = self._rungs(last[0]) == rung + 1 > (self._rungs(before[0][0]) if before else 0)
        return there and trial.state == "pruned" and not math.isnan(last[1])
