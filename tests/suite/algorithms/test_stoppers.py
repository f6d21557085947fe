"""Stoppers: by hand, against independent simulations, and against Optuna's pruners."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms import conformance
from searchkit.suite.algorithms.history import Trial, Verdict

MAX, MIN = Objective("acc", "max"), Objective("loss", "min")
GO, STOP, PAUSE = Verdict.CONTINUE, Verdict.STOP, Verdict.PAUSE
NAN = math.nan


def make(name: str, objective: Objective = MAX, **options: Any) -> Any:
    """The first rung of `asha` is at step 1 here, where nothing else is said."""
    first = {"min": 1} if name == "asha" else {}
    return algorithms.stopper(name)(objective, **{**first, **options})


def trial(index: int, reports: Sequence[tuple[int, float]], state: str = "running") -> Trial:
    return Trial(index, {}, state, reports=tuple(reports))


def arrivals(stopper: Any, values: Sequence[float], step: int = 1) -> list[Verdict]:
    """The verdicts on trials that report these values at `step`, one after another."""
    history: list[Trial] = []
    found = []
    for i, value in enumerate(values):
        history.append(trial(i, [(step, value)]))
        found.append(stopper.judge(history, history[-1]))
    return found


# ---- asha: stopping


def test_asha_by_hand() -> None:
    """The first goes on; then only the best, until three are there; of six the best two, and so on."""
    values = [0.5, 0.4, 0.6, 0.55, 0.56, 0.58, 0.57, 0.59]
    assert arrivals(make("asha"), values) == [GO, STOP, GO, STOP, STOP, GO, STOP, GO]
    turned = [-value for value in values]
    assert arrivals(make("asha", MIN), turned) == arrivals(make("asha"), values)
    assert arrivals(make("asha", eta=2), [1, 2, 1.5, 1.7, 1.6, 1.8]) == [GO, GO, STOP, GO, STOP, GO]


def test_asha_lets_ties_go_on_and_stops_nan() -> None:
    assert arrivals(make("asha"), [0.5, 0.5, 0.5, 0.5]) == [GO] * 4
    assert arrivals(make("asha"), [NAN, 0.1, NAN, 0.2]) == [STOP, GO, STOP, GO]
    assert arrivals(make("asha", MIN), [NAN, 0.1, 0.2]) == [STOP, GO, STOP]


def test_the_rungs_of_asha() -> None:
    stopper = make("asha", min=2, max=54, eta=3)
    wanted = [step for step in range(100) if stopper.wants(step, step - 1 if step else None)]
    assert wanted == [2, 6, 18]  # 54 is the end, where nobody needs to be stopped
    assert [step for step in range(200) if make("asha").wants(step, step - 1)] == [1, 3, 9, 27, 81]
    assert stopper.wants(5) and stopper.wants(7, 5) and not stopper.wants(17, 6) and stopper.wants(40, 17)


def test_a_script_that_skips_steps_is_judged_at_its_first_report_beyond_a_rung() -> None:
    stopper = make("asha", max=100)
    good = trial(0, [(5, 0.5), (10, 0.8)])  # passes 1 and 3 at once, then 9
    bad = trial(1, [(4, 0.6), (8, 0.6), (12, 0.7)])
    history = [good, bad]
    assert stopper.judge([good], trial(1, [(4, 0.6)])) is GO
    assert stopper.judge(history, trial(1, [(4, 0.6), (8, 0.1)])) is GO  # no rung between 4 and 8
    assert stopper.judge(history, bad) is STOP


def test_asha_begins_at_a_ninth_of_the_end() -> None:
    for last, first in ((2, 1), (9, 1), (18, 2), (27, 3), (52, 5), (100, 11)):
        stopper = algorithms.stopper("asha")(MAX, max=last)
        assert next(step for step in range(1, last + 1) if stopper.wants(step, step - 1)) == first
    with pytest.raises(UsageError, match="asha: needs `min`") as caught:
        algorithms.stopper("asha")(MAX)
    assert "max" in caught.value.hint


@pytest.mark.slow
def test_the_trust_of_asha() -> None:
    """Against scipy's tau-b, over the trials that finished."""
    from scipy import stats

    rng = random.Random(1)
    history = []
    for i in range(30):
        final = rng.random()
        reports = [(1, rng.random()), (3, final + rng.gauss(0, 0.3)), (9, round(final, 1))]
        ended = trial(i, reports if i % 5 else reports[:2], "finished" if i % 3 else "pruned")
        history.append(replace(ended, scores=(final,)))
    for objective in (MAX, MIN):
        told = make("asha", objective, max=27).trust(history)
        assert [(step, n) for step, n, _ in told] == [(1, 20), (3, 20), (9, 16)]
        for k, (_, _, tau) in enumerate(told):
            there = [
                (t.reports[k][1], t.scores[0])
                for t in history
                if t.state == "finished" and len(t.reports) > k and t.scores
            ]
            assert tau == pytest.approx(stats.kendalltau(*zip(*there, strict=True))[0])
    assert make("asha", max=27).trust([]) == []


def test_every_rung_counts_those_that_got_there() -> None:
    stopper = make("asha")
    history = [trial(i, [(1, i / 10), (3, 1 - i / 10)]) for i in range(6)] + [trial(6, [(1, 9.0)], "failed")]
    assert stopper.judge(history, trial(9, [(1, 0.45)])) is STOP  # of eight the best two: 9.0 and 0.5
    assert stopper.judge(history, trial(9, [(1, 0.55)])) is GO
    assert stopper.judge(history, trial(9, [(1, 0.55), (3, 0.85)])) is STOP  # of seven: 1.0 and 0.9
    assert stopper.judge(history, trial(9, [(1, 0.55), (3, 0.95)])) is GO


class Rungs:
    """ASHA as a service would keep it: a table of rungs, filled as reports arrive."""

    def __init__(self, levels: Sequence[int], eta: int) -> None:
        self.levels = levels
        self.eta = eta
        self.rungs: list[dict[int, float]] = [{} for _ in levels]
        self.promoted: list[set[int]] = [set() for _ in levels]

    def stops(self, index: int, step: int, value: float) -> bool:
        rung = self.rungs[self.levels.index(step)]
        rung[index] = value
        better = sum(other > value for other in rung.values())
        return better >= max(1, len(rung) // self.eta)

    def job(self) -> tuple[int, int] | None:
        """`get_job` of the paper's algorithm 2, without its new configurations: (trial, rung it has left)."""
        for k in reversed(range(len(self.levels))):
            ordered = sorted(self.rungs[k], key=lambda index: (-self.rungs[k][index], index))
            for index in ordered[: len(ordered) // self.eta]:
                if index not in self.promoted[k]:
                    self.promoted[k].add(index)
                    return index, k
        return None


def tabulated(n: int, steps: int, seed: int) -> list[list[float]]:
    """Curves that cross: `value[trial][step]`, from step 1 on."""
    rng = random.Random(seed)
    ends = [rng.random() for _ in range(n)]
    rates = [rng.uniform(0.05, 0.6) for _ in range(n)]
    return [
        [0.0, *(end * (1 - math.exp(-rate * step)) + rng.gauss(0, 0.01) for step in range(1, steps + 1))]
        for end, rate in zip(ends, rates, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_is_a_table_of_rungs(seed: int, eta: int) -> None:
    """Fifty trials, five at a time, each advanced in a random order, until the last has stopped or ended."""
    levels = [level for level in (eta**k for k in range(9)) if level < 81]
    curves, rng = tabulated(50, 81, seed), random.Random(seed)
    stopper, table = make("asha", max=81, eta=eta), Rungs(levels, eta)
    history: list[Trial] = []
    running: dict[int, int] = {}
    stopped: list[tuple[int, int]] = []
    while len(history) < 50 or running:
        while len(running) < 5 and len(history) < 50:
            running[len(history)] = 0
            history.append(trial(len(history), []))
        index = rng.choice(list(running))
        running[index] += 1
        step = running[index]
        last = history[index].reports[-1][0] if history[index].reports else None
        assert stopper.wants(step, last) == (step in levels)
        if step in levels:
            value = curves[index][step]
            reports = (*history[index].reports, (step, value))
            history[index] = replace(history[index], reports=reports)
            verdict = stopper.judge(history, history[index])
            assert (verdict is STOP) == table.stops(index, step, value), (index, step)
            if verdict is STOP:
                stopped.append((index, step))
        if (index, step) in stopped or step == 81:
            history[index] = replace(history[index], state="pruned" if (index, step) in stopped else "finished")
            del running[index]
    assert 30 < len(stopped) < 50


# ---- asha: promotion


def test_promotion_by_hand() -> None:
    stopper = make("asha", max=9, eta=3, promotion=True)
    assert stopper.judge([], trial(0, [(1, 0.1)])) is PAUSE
    assert stopper.judge([], trial(0, [(1, 0.1), (3, 0.2)])) is PAUSE
    assert stopper.judge([], trial(0, [(1, NAN)])) is STOP
    paused = [trial(i, [(1, value)], "pruned") for i, value in enumerate((0.3, 0.5, 0.4, 0.1, 0.2, 0.45))]
    assert stopper.promote(paused[:2]) is None  # a third of two is none
    assert stopper.promote(paused[:3]) == 1
    assert stopper.promote(paused) == 1
    on = [*paused[:1], trial(1, [(1, 0.5)], "running"), *paused[2:]]
    assert stopper.promote(on) == 5
    assert stopper.promote([*on[:5], replace(on[5], state="running")]) is None  # the best two are on their way
    assert make("asha").promote(paused) is None
    assert make("asha", MIN, max=9, promotion=True).promote(paused) == 3


def test_the_highest_rung_is_promoted_first() -> None:
    stopper = make("asha", max=27, eta=2, promotion=True)
    low = [trial(i, [(1, value)], "pruned") for i, value in enumerate((0.9, 0.8, 0.1, 0.2))]
    high = [trial(i + 4, [(1, 0.5), (2, value)], "pruned") for i, value in enumerate((0.3, 0.4))]
    assert stopper.promote([*low, *high]) == 5
    assert stopper.promote([*low, high[0], replace(high[1], state="failed")]) == 0  # it counts, but does not go on


def test_what_another_stopper_ended_is_not_promoted() -> None:
    stopper = make("asha", max=27, promotion=True)
    history = [trial(i, [(1, i / 10)], "pruned") for i in range(5)] + [trial(5, [(1, 0.9), (2, 0.9)], "pruned")]
    assert stopper.promote(history) == 4  # of six the best two: 5, which ended at no rung, and 4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("eta", [2, 3])
def test_promotion_is_the_paper_s(seed: int, eta: int) -> None:
    """Four slots; one that is free takes the promotion that `get_job` names, else a new trial."""
    levels = [level for level in (eta**k for k in range(6)) if level < 27]
    curves, rng = tabulated(40, 27, seed), random.Random(seed)
    stopper, table = make("asha", max=27, eta=eta, promotion=True), Rungs(levels, eta)
    history: list[Trial] = []
    running: dict[int, int] = {}
    reached: dict[int, int] = {}
    promotions = 0
    while True:
        while len(running) < 4:
            index, job = stopper.promote(history), table.job()
            assert index == (job[0] if job else None)
            if index is not None:
                promotions += 1
                assert reached[index] in levels
                history[index] = replace(history[index], state="running")
                running[index] = reached[index]
            elif len(history) < 40:
                running[len(history)] = 0
                history.append(trial(len(history), []))
            else:
                break
        if not running:
            break
        index = rng.choice(list(running))
        running[index] += 1
        step = reached[index] = running[index]
        if step in levels:
            history[index] = replace(history[index], reports=(*history[index].reports, (step, curves[index][step])))
            assert stopper.judge(history, history[index]) is PAUSE
            table.rungs[levels.index(step)][index] = curves[index][step]
            history[index] = replace(history[index], state="pruned")
            del running[index]
        elif step == 27:
            history[index] = replace(history[index], state="finished", scores=(curves[index][27],))
            del running[index]
    assert promotions > 10
    assert sum(trial.state == "finished" for trial in history) >= 1


# ---- median


@pytest.mark.parametrize("objective", [MAX, MIN], ids=["max", "min"])
@pytest.mark.parametrize(
    "options", [{}, {"n_startup": 2}, {"n_startup": 1, "n_warmup_steps": 3}, {"n_startup": 0, "interval": 3}]
)
def test_median_is_optunas(objective: Objective, options: dict[str, int]) -> None:
    optuna = pytest.importorskip("optuna")
    names = {"n_startup": "n_startup_trials", "n_warmup_steps": "n_warmup_steps", "interval": "interval_steps"}
    rng = random.Random(repr(options))
    stopper = make("median", objective, **options)
    verdicts = []
    for _ in range(60):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.MedianPruner(**{"n_startup_trials": 5, **{names[k]: v for k, v in options.items()}})
        study = optuna.create_study(direction="maximize" if objective is MAX else "minimize", pruner=pruner)
        optuna.logging.set_verbosity(optuna.logging.INFO)
        states = [
            rng.choice(("finished", "finished", "pruned", "failed", "running")) for _ in range(rng.randint(0, 10))
        ]
        history = []
        for i, state in enumerate([*states, "running"]):
            steps = [step for step in range(rng.randint(1, 9)) if rng.random() < 0.9] or [0]
            reports = [(step, NAN if rng.random() < 0.1 else rng.random()) for step in steps]
            history.append(trial(i, reports, state))
            theirs = study.ask()
            for step, value in reports:
                theirs.report(value, step)
            kind = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}.get(state)
            if kind:
                study.tell(theirs, 0.0 if kind == "COMPLETE" else None, state=optuna.trial.TrialState[kind])
        verdict = stopper.judge(history, history[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where all values are NaN
            assert (verdict is STOP) == theirs.should_prune(), history
        verdicts.append(verdict)
    assert {GO, STOP} == set(verdicts)
    assert stopper.wants(0) and stopper.wants(5, 4) and stopper.promote(history) is None


# ---- patience, threshold


def curve(stopper: Any, values: Sequence[float], every: int = 1) -> list[Verdict]:
    """The verdicts on one trial, report by report."""
    reports = [(i * every, value) for i, value in enumerate(values)]
    return [stopper.judge([], trial(0, reports[: n + 1])) for n in range(len(reports))]


def test_patience() -> None:
    stopper = make("patience", patience=3)
    assert curve(stopper, [1, 2, 2, 2, 2]) == [GO, GO, GO, GO, STOP]
    assert curve(stopper, [1, 2, 1, 1, 2.1, 1, 1, 1]) == [GO] * 7 + [STOP]
    assert curve(stopper, [1, 0, 0], every=3) == [GO, STOP, STOP]  # steps, not reports
    assert curve(stopper, [NAN, NAN, NAN, NAN]) == [GO, GO, GO, STOP]
    assert curve(stopper, [NAN, NAN, NAN, 1, NAN, NAN, NAN]) == [GO] * 6 + [STOP]
    slow = [1 + i / 10 for i in range(9)]
    assert curve(stopper, slow) == [GO] * 9
    assert STOP in curve(make("patience", patience=3, min_delta=0.5), slow)
    assert curve(make("patience", patience=7, min_delta=0.25), slow) == [GO] * 9  # a rise over several steps is one
    assert curve(make("patience", MIN, patience=3), [2, 1, 1, 1, 1]) == [GO, GO, GO, GO, STOP]
    assert stopper.wants(4, 3) and stopper.promote([]) is None


def test_threshold() -> None:
    assert curve(make("threshold", lower=0.2, upper=0.8), [0.2, 0.8, 0.1, 0.9, NAN]) == [GO, GO, STOP, STOP, STOP]
    assert curve(make("threshold", lower=0.2, n_warmup_steps=2), [0.1, NAN, 0.2, 0.1]) == [GO, STOP, GO, STOP]
    assert curve(make("threshold"), [1e9, -math.inf, NAN]) == [GO, GO, STOP]
    assert make("threshold").wants(4, 3) and make("threshold").promote([]) is None


# ---- options, and the conformance suite


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("asha", {"min": 0}, "asha: min must be a whole number, 1 or more, not 0"),
        ("asha", {"min": 4, "max": 4}, "asha: max (min is 4) must be a whole number, 5 or more, not 4"),
        ("asha", {"eta": 1}, "asha: eta must be a whole number, 2 or more, not 1"),
        ("asha", {"eta": 2.5}, "asha: eta must be a whole number, 2 or more, not 2.5"),
        ("asha", {"promotion": "yes"}, "asha: promotion must be true or false, not 'yes'"),
        ("median", {"interval": 0}, "median: interval must be a whole number, 1 or more, not 0"),
        ("patience", {"patience": 0}, "patience: patience must be a whole number, 1 or more, not 0"),
        ("patience", {"min_delta": -0.1}, "patience: min_delta must be a number from 0, not -0.1"),
        ("threshold", {"lower": "a"}, "threshold: lower must be a number, not 'a'"),
        ("threshold", {"lower": 2, "upper": 1}, "threshold: upper must be a number from 2, not 1"),
    ],
)
def test_the_value_of_an_option_is_checked(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(name, **options)
    assert caught.value.message == said


class _Stopper:
    """Says CONTINUE, with a place to break it."""

    def __init__(self, objective: Objective) -> None:
        self.calls = 0

    def wants(self, step: int, last: int | None = None) -> bool:
        return True

    def judge(self, history: list[Trial], trial: Trial) -> Verdict:
        return GO

    def promote(self, history: list[Trial]) -> int | None:
        return None


class SaysTrue(_Stopper):
    def judge(self, history: list[Trial], trial: Trial) -> Any:
        return True


class WantsNone(_Stopper):
    def wants(self, step: int, last: int | None = None) -> Any:
        return step or None if step > 1 else None


class Counts(_Stopper):
    def judge(self, history: list[Trial], trial: Trial) -> Verdict:
        self.calls += 1
        return STOP if self.calls % 7 == 0 else GO


class Chance(_Stopper):
    def judge(self, history: list[Trial], trial: Trial) -> Verdict:
        return STOP if random.random() < 0.1 else GO


class Edits(_Stopper):
    def judge(self, history: list[Trial], trial: Trial) -> Verdict:
        history[0] = replace(history[0], given=True)
        return GO


class PromotesAny(_Stopper):
    def promote(self, history: list[Trial]) -> int | None:
        return 0 if len(history) > 3 else None


class FearsNan(_Stopper):
    def judge(self, history: list[Trial], trial: Trial) -> Verdict:
        return GO if int(trial.reports[-1][1] * 100) else STOP


def test_a_whole_stopper_passes() -> None:
    conformance.check(_Stopper)


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        (SaysTrue, AssertionError, "it answered True"),
        (WantsNone, AssertionError, "is neither True nor False"),
        (Counts, AssertionError, "a new object says"),
        (Chance, AssertionError, "draws from the global random numbers"),
        (Edits, AssertionError, "it changed the history"),
        (PromotesAny, AssertionError, "it promotes trial 0, which does not pause"),
        (FearsNan, ValueError, "NaN"),
    ],
)
def test_a_broken_stopper_is_caught(broken: type[_Stopper], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        conformance.check(broken)
