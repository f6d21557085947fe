"""The laws of samplers and stoppers, as checks for authors of new ones: each raises AssertionError with what was asked
and what came back.

    from searchkit.suite.algorithms.conformance import check
    check("my_sampler:Mine", n_startup=3)
"""

from __future__ import annotations

import copy
import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.suite.algorithms import sampler as sampler_class
from searchkit.suite.algorithms import stopper as stopper_class
from searchkit.suite.algorithms.drawing import filled
from searchkit.suite.algorithms.history import Sampler, Stopper, Trial, Verdict
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.space import Genes, Space

ONE = (Objective("accuracy", "max"),)
TWO = (*ONE, Objective("macs", "min"))
_OPTIMIZER = Categorical("optimizer", (Value("sgd", "sgd"), Value("adam", "adam"), Value(None, "null")))
_MOMENTUM = Range("momentum", "Uniform", 0.1, 0.5, 0.2, when="optimizer == 'sgd'")
FINITE = Space((_OPTIMIZER, _MOMENTUM, Range("layers", "Int", 1, 7, 2)), ("layers * momentum <= 2",))
CONTINUOUS = Space(
    (
        Range("lr", "LogUniform", 1e-4, 1.0),
        _OPTIMIZER,
        _MOMENTUM,
        Range("decay", "Uniform", 0.0, 0.1),
        Range("width", "LogInt", 8, 512),
    ),
    ("lr * width <= 64",),
)
UNMET = Space((Range("layers", "Int", 1, 4), Range("width", "Int", 1, 4)), ("layers * width > 16",))
_SEED = 7

Make = Callable[[Space, "tuple[Objective, ...]"], Sampler]
MakeStopper = Callable[[str], Stopper]  # of the mode


def check(target: str | type[Any], **options: Any) -> None:
    """Run every law over a sampler or stopper: a class, or its name or `module:Class`. Raises AssertionError."""
    cls: Any = target
    if isinstance(target, str):
        try:
            cls = sampler_class(target)
        except UsageError:
            cls = stopper_class(target)
    if hasattr(cls, "suggest"):
        _check_sampler(lambda space, objectives: cls(space, objectives, _SEED, **options))
    else:
        _check_stopper(lambda mode: cls(Objective("accuracy", mode), **options))


def _check_sampler(make: Make) -> None:
    runs = list(searches(make))
    points_lie_in_the_space(runs)
    no_point_comes_twice(runs)
    answers_are_a_function_of_the_history(make, runs)
    random_numbers_are_its_own(make, runs)
    goes_on_when_all_trials_fail(make)
    a_finite_space_is_used_up(make)
    a_constraint_that_is_never_met_is_named(make)


def _check_stopper(make: MakeStopper) -> None:
    for mode in ("max", "min"):
        state = random.getstate()
        calls = list(curves(make(mode)))
        _law(random.getstate() == state, "it draws from the global random numbers")
        verdicts_are_verdicts(make(mode), calls)
        verdicts_are_a_function_of_the_history(partial(make, mode), calls)


def _law(ok: bool, message: str) -> None:
    if not ok:
        raise AssertionError(message)


# --- samplers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """One call of `suggest` in a made-up search."""

    history: tuple[Trial, ...]
    n: int
    answer: list[Genes]


def search(
    sampler: Sampler, space: Space, objectives: Sequence[Objective], rounds: int, failing: bool = False
) -> Iterator[Ask]:
    """A search by a few workers, each ask as it happens. Results come in another order than asked, some fail (all, if
    `failing`), some are pruned; one point is enqueued, and two (none, if `failing`) come from a warm start."""
    points = [filled(space, {}, _SEED + 1, i) for i in range(9)]  # any that the sampler did not choose
    fixed = list({space.key(genes): genes for genes in points}.values())[:3]
    history = [
        Trial(i - 2, genes, "finished", _scores(space, genes, objectives), given=True)
        for i, genes in enumerate([] if failing else fixed[1:])
    ]
    history += [Trial(0, genes, "running", asked=1, given=True) for genes in fixed[:1]]
    event = 1
    for step in range(rounds):
        n = 1 + step % 3
        before = tuple(history)
        answer = sampler.suggest(list(before), n)
        yield Ask(before, n, copy.deepcopy(answer))
        for genes in answer:
            event += 1
            history.append(Trial(max(history[-1].index + 1, 0), genes, "running", asked=event))
        running = [at for at, trial in enumerate(history) if trial.state == "running"]
        for at in running[::-2]:  # the others go on for another round
            event += 1
            history[at] = _ended(space, history[at], objectives, event, failing)


def _ended(space: Space, trial: Trial, objectives: Sequence[Objective], event: int, failing: bool) -> Trial:
    if failing or trial.index % 5 == 3:
        return replace(trial, state="failed", told=event)
    scores = _scores(space, trial.genes, objectives)
    reports = ((1, scores[0] / 2), (3, math.nan if trial.index % 4 == 2 else scores[0]))
    if trial.index % 7 == 4:
        return replace(trial, state="pruned", reports=reports, told=event)
    return replace(trial, state="finished", reports=reports, scores=scores, told=event)


def _scores(space: Space, genes: Genes, objectives: Sequence[Objective]) -> tuple[float, ...]:
    key = space.key(genes)
    return tuple(zlib.crc32(f"{key} {objective.name}".encode()) / 2**32 for objective in objectives)


@dataclass(frozen=True)
class Run:
    """A made-up search."""

    space: Space
    objectives: tuple[Objective, ...]
    asks: list[Ask]


def searches(make: Make) -> Iterator[Run]:
    """A search of each kind of space with one objective and with two. A sampler may refuse a continuum, or more than
    one objective, by a UsageError."""
    for space in (FINITE, CONTINUOUS):
        for objectives in (ONE, TWO):
            try:
                asks = list(search(make(space, objectives), space, objectives, 12))
            except UsageError:
                _law(space is CONTINUOUS or objectives is TWO, "refuses a small space with one objective")
                continue
            yield Run(space, objectives, asks)


def points_lie_in_the_space(runs: Sequence[Run]) -> None:
    """Every point has the genes that exist there, in their bounds, and meets the constraints."""
    for run in runs:
        for genes in (genes for ask in run.asks for genes in ask.answer):
            fault = run.space.fault(genes)
            _law(not fault, f"suggested {genes}, which is no point of the space: {fault}")
            _law(run.space.feasible(genes), f"suggested {genes}, which breaks one of {run.space.constraints}")


def no_point_comes_twice(runs: Sequence[Run]) -> None:
    """Neither within one answer nor with the history; and never are there more points than asked for."""
    for run in runs:
        for ask in run.asks:
            _law(len(ask.answer) <= ask.n, f"asked for {ask.n} points, it gave {len(ask.answer)}")
            seen = {run.space.key(trial.genes) for trial in ask.history}
            for genes in ask.answer:
                _law(
                    run.space.key(genes) not in seen, f"suggested {genes}, which the history or the answer had already"
                )
                seen.add(run.space.key(genes))


def answers_are_a_function_of_the_history(make: Make, runs: Sequence[Run]) -> None:
    """A new object with the history answers as the one that lived through it (so a search may be interrupted); an
    object that is asked twice answers the same; and the history is left unchanged."""
    for run in runs:
        live = make(run.space, run.objectives)
        for i, ask in enumerate(run.asks):
            history = list(copy.deepcopy(ask.history))
            new = make(run.space, run.objectives) if i % 3 == 2 else live
            for asker, sampler in (("another object", live), ("asked again it", live), ("a new object", new)):
                answer = sampler.suggest(history, ask.n)
                before = f"after {len(history)} trials it suggested {ask.answer}, but"
                _law(answer == ask.answer, f"{before} {asker} suggests {answer}")
            _law(tuple(history) == ask.history, "it changed the history that it was given")


def random_numbers_are_its_own(make: Make, runs: Sequence[Run]) -> None:
    """It neither reads nor advances the generators that the whole program shares."""
    import numpy as np

    def look() -> tuple[Any, ...]:
        return random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002

    state, numpy_state = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        for run in runs:
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
            before = look()
            again = list(search(make(run.space, run.objectives), run.space, run.objectives, len(run.asks)))
            _law(again == run.asks, "its answers depend on the global random numbers")
            _law(look() == before, "it draws from the global random numbers")
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def goes_on_when_all_trials_fail(make: Make) -> None:
    """A search in which no trial has a score still gets new points."""
    asks = list(search(make(FINITE, ONE), FINITE, ONE, 6, failing=True))
    _law(all(ask.answer for ask in asks), "it suggests nothing more when every trial fails")


def a_finite_space_is_used_up(make: Make) -> None:
    """Every point comes once, then none."""
    sampler, keys = make(FINITE, ONE), {FINITE.key(genes) for genes in FINITE.grid()}
    history: list[Trial] = []
    while answer := sampler.suggest(history, 5):
        first = len(history)
        _law(first + len(answer) <= len(keys), f"a space of {len(keys)} points gave more: {answer[-1]}")
        for i, genes in enumerate(answer, first):
            trial = Trial(i, genes, "running", asked=2 * first + i)
            history.append(_ended(FINITE, trial, ONE, 2 * first + i + len(answer), failing=False))
    missing = len(keys - {FINITE.key(trial.genes) for trial in history})
    _law(not missing, f"it ended while {missing} of {len(keys)} points were left")
    _law(not sampler.suggest(history, 1), "it suggested points again after the space was used up")


def a_constraint_that_is_never_met_is_named(make: Make) -> None:
    """By a UsageError, and within seconds."""
    try:
        answer = make(UNMET, ONE).suggest([], 1)
    except UsageError as e:
        _law(UNMET.constraints[0] in e.message, f"the error does not name {UNMET.constraints[0]!r}: {e.message}")
        return
    raise AssertionError(f"no point meets {UNMET.constraints[0]!r}, but it answered {answer} and raised no UsageError")


# --- stoppers --------------------------------------------------------------------------------------------------------

_STEPS, _TRIALS = 27, 24


@dataclass(frozen=True)
class Judged:
    """One call of `judge` (`index` is the trial's) or of `promote` (None) in a made-up search, and its answer."""

    history: tuple[Trial, ...]
    index: int | None
    answer: Any


def curves(stopper: Stopper) -> Iterator[Judged]:
    """Twenty-four trials, four at a time, each with a noisy curve of 27 steps; some report NaN, some fail, some report
    every third step only. A free slot goes to a paused trial that is promoted, else to a new one."""
    rng = random.Random(_SEED)
    history: list[Trial] = []
    steps: dict[int, int] = {}  # of each trial, how far it got
    running: list[int] = []
    while True:
        while len(running) < 4:
            before = tuple(history)
            promoted = stopper.promote(list(before))
            yield Judged(before, None, promoted)
            if promoted is not None:
                state = history[promoted].state if promoted in steps else "unknown"
                _law(state == "pruned", f"it promotes trial {promoted}, which does not pause: it is {state}")
            elif len(history) < _TRIALS:
                promoted = len(history)
                history.append(Trial(promoted, {}, "running", asked=len(history)))
                steps[promoted] = 0
            else:
                break
            history[promoted] = replace(history[promoted], state="running")
            running.append(promoted)
        if not running:
            return
        index = rng.choice(running)
        trial = history[index]
        steps[index] += 3 if index % 5 == 2 else 1
        value = 1 - 0.8 ** (1 + steps[index]) + (index % 6) / 20 + rng.gauss(0, 0.02)
        value = math.nan if index % 8 == 5 and steps[index] > 4 else value
        if stopper.wants(steps[index], trial.reports[-1][0] if trial.reports else None):
            history[index] = trial = replace(trial, reports=(*trial.reports, (steps[index], value)))
            before = tuple(history)
            verdict = stopper.judge(list(before), trial)
            yield Judged(before, index, verdict)
            if verdict is not Verdict.CONTINUE:
                history[index] = replace(trial, state="pruned")
                running.remove(index)
                continue
        if steps[index] >= _STEPS or (index == 7 and steps[index] >= 5):
            failed = index == 7 or math.isnan(value)
            history[index] = replace(
                trial, state="failed" if failed else "finished", scores=None if failed else (value,)
            )
            running.remove(index)


def verdicts_are_verdicts(stopper: Stopper, calls: Sequence[Judged]) -> None:
    """`judge` answers with a Verdict, `promote` with a number or None, `wants` with true or false."""
    for step, last in ((1, None), (3, 1), (1000, None)):
        _law(isinstance(stopper.wants(step, last), bool), f"wants({step}, {last}) is neither True nor False")
    for call in calls:
        kinds = (int, type(None)) if call.index is None else (Verdict,)
        _law(isinstance(call.answer, kinds), f"it answered {call.answer!r}, which is none of {kinds}")


def verdicts_are_a_function_of_the_history(make: Callable[[], Stopper], calls: Sequence[Judged]) -> None:
    """A new object answers as the one that saw everything, twice, and leaves the history unchanged."""
    for call in calls:
        history, stopper = list(call.history), make()
        call_text = "promote" if call.index is None else f"judge of trial {call.index}"
        for asker in ("a new object says", "asked again it says"):
            if call.index is None:
                answer: Any = stopper.promote(history)
            else:
                answer = stopper.judge(history, history[call.index])
            _law(answer == call.answer, f"{call_text} said {call.answer}, but {asker} {answer}")
        _law(tuple(history) == call.history, "it changed the history that it was given")
