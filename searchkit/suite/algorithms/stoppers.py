"""Stoppers that look at curves: worse than the median, no more improvement, out of bounds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import median

from searchkit.records.objective import Objective, loss
from searchkit.suite.algorithms.checks import number, whole
from searchkit.suite.algorithms.history import Trial, Verdict


class Median:
    """Stops a trial whose best value so far is worse than the median, at this step, of the trials that have finished.

    As Optuna's MedianPruner: the first `n_startup` trials finish, no trial is judged before `n_warmup_steps`, and then
    only at its first report in every `interval` steps. Source: Golovin et al., "Google Vizier: A Service for Black-Box
    Optimization", KDD 2017, section 3.2.2.
    """

    def __init__(self, objective: Objective, *, n_startup: int = 5, n_warmup_steps: int = 0, interval: int = 1) -> None:
        self._mode = objective.mode
        self._n_startup = whole("median: n_startup", n_startup, 0)
        self._n_warmup_steps = whole("median: n_warmup_steps", n_warmup_steps, 0)
        self._interval = whole("median: interval", interval, 1)

    def wants(self, step: int, last: int | None = None) -> bool:
        """Every report: the others are compared with it."""
        return True

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        """STOP where even the best value so far is worse than the others' median at this step, or is NaN."""
        step = trial.reports[-1][0]
        before = trial.reports[-2][0] if len(trial.reports) > 1 else -1
        others = [other for other in history if other.state == "finished" and other.index != trial.index]
        due = (step - self._n_warmup_steps) // self._interval * self._interval + self._n_warmup_steps
        if len(others) < max(1, self._n_startup) or step < self._n_warmup_steps or before >= due:
            return Verdict.CONTINUE
        numbers = [value for _, value in trial.reports if not math.isnan(value)]
        if not numbers:
            return Verdict.STOP
        losses = [loss(value, self._mode) for other in others for value in _at(other, step) if not math.isnan(value)]
        best = min(loss(value, self._mode) for value in numbers)
        return Verdict.STOP if losses and best > median(losses) else Verdict.CONTINUE

    def promote(self, history: Sequence[Trial]) -> int | None:
        """None: nothing pauses."""
        return None


class Patience:
    """Stops a trial that has not become better by more than `min_delta` for `patience` steps."""

    def __init__(self, objective: Objective, *, patience: int = 10, min_delta: float = 0.0) -> None:
        self._mode = objective.mode
        self._patience = whole("patience: patience", patience, 1)
        self._min_delta = number("patience: min_delta", min_delta, 0)

    def wants(self, step: int, last: int | None = None) -> bool:
        """Every report."""
        return True

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        """STOP where the best step lies `patience` steps back. NaN is no improvement."""
        since, best = trial.reports[0][0], math.inf
        for step, value in trial.reports:
            if loss(value, self._mode) < best - self._min_delta:
                since, best = step, loss(value, self._mode)
        return Verdict.STOP if trial.reports[-1][0] - since >= self._patience else Verdict.CONTINUE

    def promote(self, history: Sequence[Trial]) -> int | None:
        """None: nothing pauses."""
        return None


class Threshold:
    """Stops a trial that reports NaN, or from step `n_warmup_steps` on a value below `lower` or above `upper`."""

    def __init__(
        self,
        objective: Objective,
        *,
        lower: float | None = None,
        upper: float | None = None,
        n_warmup_steps: int = 0,
    ) -> None:
        self._lower = -math.inf if lower is None else number("threshold: lower", lower)
        self._upper = math.inf if upper is None else number("threshold: upper", upper, self._lower)
        self._n_warmup_steps = whole("threshold: n_warmup_steps", n_warmup_steps, 0)

    def wants(self, step: int, last: int | None = None) -> bool:
        """Every report."""
        return True

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        """STOP for a value out of bounds."""
        step, value = trial.reports[-1]
        bad = math.isnan(value) or (step >= self._n_warmup_steps and not self._lower <= value <= self._upper)
        return Verdict.STOP if bad else Verdict.CONTINUE

    def promote(self, history: Sequence[Trial]) -> int | None:
        """None: nothing pauses."""
        return None


def _at(trial: Trial, step: int) -> list[float]:
    """The value that a trial reported at a step, or nothing."""
    at = bisect_left(trial.reports, step, key=lambda report: report[0])
    return [trial.reports[at][1]] if at < len(trial.reports) and trial.reports[at][0] == step else []
