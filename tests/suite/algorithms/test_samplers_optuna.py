"""What `random`, `tpe` and `nsga2` suggest is what Optuna suggests, used directly, trial for trial."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.seeds import ask_seed
from searchkit.suite import algorithms
from searchkit.suite.algorithms.drawing import Stream
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.args import Categorical, Nested, Range, Value
from searchkit.suite.space.space import Dim, Genes, Space

optuna = pytest.importorskip("optuna")

ONE = (Objective("acc", "max"),)
TWO = (Objective("acc", "max"), Objective("macs", "min"))
OPTIMIZER = Categorical("optimizer", tuple(Value(name, name) for name in ("sgd", "adam", "lamb")))
FLAT = Space(
    (
        Range("lr", "LogUniform", 1e-4, 1.0),
        OPTIMIZER,
        Range("decay", "Uniform", 0.0, 0.1),
        Range("width", "LogInt", 8, 512),
        Range("layers", "Int", 2, 8, 2),
        Range("dropout", "Uniform", 0.0, 0.5, 0.1),
    )
)
CONDITIONAL = Space(
    (
        OPTIMIZER,
        Range("lr", "LogUniform", 1e-4, 1.0),
        Range("momentum", "Uniform", 0.5, 0.99, when="optimizer == 'sgd'"),
        Nested(tuple({"depth": Value(d, str(d)), "batch-size": Value(b, str(b))} for d, b in ((2, 64), (4, 32)))),
        Range("beta", "Uniform", 0.8, 0.999, when="optimizer != 'sgd'"),
    )
)


@pytest.fixture(autouse=True)
def silent_optuna() -> Any:
    """For what these tests themselves do with it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


# ---- Optuna, as a user would write it


def flat(trial: Any) -> Genes:
    return {
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
        "optimizer": trial.suggest_categorical("optimizer", [0, 1, 2]),
        "decay": trial.suggest_float("decay", 0.0, 0.1),
        "width": trial.suggest_int("width", 8, 512, log=True),
        "layers": trial.suggest_int("layers", 2, 8, step=2),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
    }


def conditional(trial: Any) -> Genes:
    genes: Genes = {"optimizer": trial.suggest_categorical("optimizer", [0, 1, 2])}
    genes["lr"] = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    if genes["optimizer"] == 0:
        genes["momentum"] = trial.suggest_float("momentum", 0.5, 0.99)
    genes["depth,batch-size"] = trial.suggest_categorical("depth,batch-size", [0, 1])
    if genes["optimizer"] != 0:
        genes["beta"] = trial.suggest_float("beta", 0.8, 0.999)
    return genes


SPACES: dict[str, tuple[Space, Callable[[Any], Genes]]] = {
    "flat": (FLAT, flat),
    "conditional": (CONDITIONAL, conditional),
}


def score(genes: Genes) -> float:
    lr, rest = math.log10(genes["lr"]), sum(value for name, value in genes.items() if name != "lr")
    return -((lr + 2) ** 2) - abs(rest % 7 - 3)


def both(genes: Genes) -> tuple[float, float]:
    return score(genes), sum(genes.values()) % 11


def same(ours: Genes, theirs: Genes) -> bool:
    """Equal, but for the last bits of 0.1 + 2 * 0.1, which we write 0.3."""
    step = {name: value for name, value in theirs.items() if name == "dropout"}
    return {**ours, **step} == theirs and all(math.isclose(ours[name], step[name], abs_tol=1e-12) for name in step)


def close(history: list[Trial], at: int, event: int, scores: Callable[[Genes], tuple[float, ...]]) -> Trial:
    """How trial `at` ends: every sixth fails, every fifth is pruned after three reports (one of them NaN)."""
    trial = history[at]
    if at % 6 == 4:
        found = replace(trial, state="failed", told=event)
    elif at % 5 == 3:
        values = (scores(trial.genes)[0] - 1, scores(trial.genes)[0], math.nan if at % 10 == 3 else at / 50)
        found = replace(trial, state="pruned", reports=tuple(enumerate(values, 1)), told=event)
    else:
        found = replace(trial, state="finished", scores=scores(trial.genes), told=event)
    history[at] = found
    return found


def tell(study: Any, theirs: Any, trial: Trial) -> None:
    """Tell Optuna's own trial how ours ended."""
    if trial.state == "failed":
        study.tell(theirs, state=optuna.trial.TrialState.FAIL)
    elif trial.state == "pruned":
        for step, value in trial.reports if len(study.directions) == 1 else ():
            theirs.report(value, step)
        study.tell(theirs, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(theirs, list(trial.scores or ()))


def new_study(objectives: Sequence[Objective], sampler: Any = None) -> Any:
    directions = ["maximize" if objective.mode == "max" else "minimize" for objective in objectives]
    return optuna.create_study(directions=directions, sampler=sampler)


# ---- random


@pytest.mark.parametrize(
    ("arg", "suggest"),
    [
        (Range("x", "Uniform", -1.5, 2.5), lambda t: t.suggest_float("x", -1.5, 2.5)),
        (Range("x", "Uniform", 0.1, 0.9, 0.1), lambda t: t.suggest_float("x", 0.1, 0.9, step=0.1)),
        (Range("x", "Uniform", 0.0, 1.0, 0.3), lambda t: t.suggest_float("x", 0.0, 0.9, step=0.3)),
        (Range("x", "LogUniform", 1e-5, 1e3), lambda t: t.suggest_float("x", 1e-5, 1e3, log=True)),
        (Range("x", "Int", -3, 4), lambda t: t.suggest_int("x", -3, 4)),
        (Range("x", "Int", 1, 12, 5), lambda t: t.suggest_int("x", 1, 11, step=5)),
        (Range("x", "LogInt", 1, 4096), lambda t: t.suggest_int("x", 1, 4096, log=True)),
        (
            Categorical("x", tuple(Value(i, str(i)) for i in range(5))),
            lambda t: t.suggest_categorical("x", list(range(5))),
        ),
    ],
    ids=["float", "step", "uneven step", "log", "int", "int step", "log int", "categorical"],
)
def test_every_kind_of_draw_is_that_of_optuna(arg: Any, suggest: Callable[[Any], Any]) -> None:
    space = Space((arg,))
    [dim] = space.dims()
    stream = Stream()
    for seed in range(150):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        ours = [stream.seeded(seed).draw(dim), stream.draw(dim), stream.draw(dim)]
        theirs = [suggest(study.ask()) for _ in range(3)]
        assert ours == theirs and [type(x) for x in ours] == [type(x) for x in theirs]
        assert dim.holds(dim.snap(ours[0]))


def test_an_argument_of_one_value_takes_no_random_number() -> None:
    one = Categorical("one", (Value("a", "a"),))
    with_it = Space((one, *FLAT.args))
    for i in range(5):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=ask_seed(0, i)))
        trial = study.ask()
        trial.suggest_categorical("one", [0])
        history = [Trial(j, {"one": 0}, "failed") for j in range(i)]
        assert same(algorithms.sampler("random")(with_it, ONE, 0).suggest(history, 1)[0], {"one": 0, **flat(trial)})


@pytest.mark.parametrize("name", SPACES)
def test_random_is_optunas(name: str) -> None:
    space, suggest = SPACES[name]
    sampler = algorithms.sampler("random")(space, ONE, 5)
    history: list[Trial] = []
    for i in range(60):
        [genes] = sampler.suggest(history, 1)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=ask_seed(5, i)))
        assert same(genes, suggest(study.ask())), i
        history.append(Trial(i, genes, "running"))


# ---- tpe

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "univariate": ({"multivariate": False}, {"multivariate": False}),
    "group": ({"group": True}, {"multivariate": True, "group": True}),
    "others": (
        {"n_startup": 5, "n_candidates": 8, "constant_liar": False},
        {"n_startup_trials": 5, "n_ei_candidates": 8, "constant_liar": False},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "objectives"),
    [(option, objectives) for option in OPTIONS for objectives in (ONE, TWO)]
    + [("default", (Objective("loss", "min"),))],
)
@pytest.mark.parametrize("name", SPACES)
def test_tpe_is_optunas(name: str, option: str, objectives: tuple[Objective, ...]) -> None:
    """One at a time, with failed and pruned trials, a sampler seeded for each ask."""
    space, suggest = SPACES[name]
    scores = both if len(objectives) == 2 else lambda genes: (score(genes),)
    ours, theirs = OPTIONS[option]
    sampler = algorithms.sampler("tpe")(space, objectives, 3, **ours)
    study = new_study(objectives)
    history: list[Trial] = []
    for i in range(60):
        [genes] = sampler.suggest(history, 1)
        study.sampler = optuna.samplers.TPESampler(seed=ask_seed(3, i), **theirs)
        trial = study.ask()
        assert same(genes, suggest(trial)), i
        history.append(Trial(i, genes, "running", asked=2 * i))
        tell(study, trial, close(history, i, 2 * i + 1, scores))


def test_tpe_is_optunas_with_trials_that_run_side_by_side() -> None:
    """Four at a time, told in another order; then `constant_liar` matters."""
    sampler = algorithms.sampler("tpe")(FLAT, ONE, 3)
    study = new_study(ONE)
    history: list[Trial] = []
    trials: list[Any] = []
    event = 0
    for i in range(60):
        [genes] = sampler.suggest(history, 1)
        study.sampler = optuna.samplers.TPESampler(seed=ask_seed(3, i))
        trials.append(study.ask())
        assert same(genes, flat(trials[-1])), i
        history.append(Trial(i, genes, "running", asked=(event := event + 1)))
        if i % 4 == 3:
            for at in (i, i - 2, i - 5, i - 1):
                if at >= 0 and history[at].state == "running":
                    tell(study, trials[at], close(history, at, (event := event + 1), lambda genes: (score(genes),)))
    assert sum(trial.state == "running" for trial in history) > 1


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("option", OPTIONS)
def test_tpe_that_lives_says_what_a_new_one_says(option: str, objectives: tuple[Objective, ...]) -> None:
    """Several at a time, some running, some promoted after a pause; the study is kept up to date, or made anew."""
    scores = both if len(objectives) == 2 else lambda genes: (score(genes),)

    def new() -> Any:
        return algorithms.sampler("tpe")(CONDITIONAL, objectives, 1, **OPTIONS[option][0])

    live, history, event = new(), [], 0
    for step in range(16):
        found = live.suggest(history, 3)
        if step % 3 == 2:
            assert found == new().suggest(history, 3) == live.suggest(history, 3), step
            assert found[:1] == live.suggest(history, 1)
        history += [Trial(len(history) + i, genes, "running", asked=event + i + 1) for i, genes in enumerate(found)]
        event += 3
        for at in range(step, len(history), 2):
            if history[at].state == "running":
                close(history, at, (event := event + 1), scores)
        if step == 9:  # a pause ends
            paused = next(at for at, trial in enumerate(history) if trial.state == "pruned")
            history[paused] = replace(history[paused], state="running", told=None)


@pytest.mark.parametrize("states", [("pruned",), ("pruned", "pruned", "failed", "finished")], ids=["pruned", "mixed"])
def test_a_trial_that_tpe_saw_running_counts_as_it_ended(states: tuple[str, ...]) -> None:
    """Pruned ones by their last report, which decides here: there are hardly any others."""
    points = algorithms.sampler("random")(FLAT, ONE, 9).suggest([], 40)
    history = [Trial(i, genes, "running", asked=i) for i, genes in enumerate(points)]
    live = algorithms.sampler("tpe")(FLAT, ONE, 0)
    live.suggest(history, 1)
    for i, trial in enumerate(history):
        state = states[i % len(states)]
        scores = (score(trial.genes),) if state == "finished" else None
        reports = ((1, 0.0), (2 + i % 2, score(trial.genes))) if state == "pruned" else ()
        history[i] = replace(trial, state=state, scores=scores, reports=reports, told=99 + i)
    answer = live.suggest(history, 1)
    assert answer == algorithms.sampler("tpe")(FLAT, ONE, 0).suggest(history, 1)
    blind = [replace(trial, reports=()) for trial in history]
    assert len(states) > 1 or answer != algorithms.sampler("tpe")(FLAT, ONE, 0).suggest(blind, 1)


def test_tpe_learns_from_a_warm_start() -> None:
    rng = algorithms.sampler("random")(FLAT, ONE, 9)
    warm = [
        Trial(i - 30, genes, "finished", (score(genes),), given=True) for i, genes in enumerate(rng.suggest([], 30))
    ]
    study = new_study(ONE, optuna.samplers.TPESampler(seed=ask_seed(0, 0)))
    for trial in warm:
        study.enqueue_trial(trial.genes)
        theirs = study.ask()
        flat(theirs)
        study.tell(theirs, score(trial.genes))
    [genes] = algorithms.sampler("tpe")(FLAT, ONE, 0).suggest(warm, 1)
    assert same(genes, flat(study.ask()))
    assert genes != algorithms.sampler("tpe")(FLAT, ONE, 0).suggest([], 1)[0]


# ---- nsga2


def nsga2(objectives: tuple[Objective, ...], seed: int = 11, **options: Any) -> Any:
    return algorithms.sampler("nsga2")(FLAT, objectives, seed, population=8, **options)


@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("order", ["one by one", "mixed"])
def test_nsga2_is_one_live_sampler_of_optuna(objectives: tuple[Objective, ...], order: str) -> None:
    """Over eight generations; halfway our object is dropped, and a new one goes on from the history. (So many mutations
    that no point comes twice: see below.)"""
    scores = both if len(objectives) == 2 else lambda genes: (score(genes),)
    study = new_study(objectives, optuna.samplers.NSGAIISampler(seed=11, population_size=8, mutation_prob=0.6))
    sampler = nsga2(objectives, mutation=0.6)
    history: list[Trial] = []
    trials: list[Any] = []
    event = 0
    for i in range(72):
        if i == 37:
            sampler = nsga2(objectives, mutation=0.6)
        if i == 50:
            assert sampler.suggest(history, 2)[:1] == sampler.suggest(history, 1)  # one asked ahead is not lost
        [genes] = sampler.suggest(history, 1)
        trials.append(study.ask())
        assert same(genes, flat(trials[-1])), i
        history.append(Trial(i, genes, "running", asked=(event := event + 1)))
        for at in (i,) if order == "one by one" else (i, i - 2, i - 1, i - 3) if i % 4 == 3 else ():
            tell(study, trials[at], close(history, at, (event := event + 1), scores))


def repetitions(suggest: Callable[[Any], Genes], n: int, width: int, seed: int) -> tuple[list[Genes], list[int]]:
    """By hand, `width` at a time, ended last first: what a live sampler suggests, where a repetition of an ended trial
    is told its score at once, and one of a running trial when that has one. The points, and how many repetitions there
    were of ended and of running ones."""
    study = new_study(ONE, optuna.samplers.NSGAIISampler(seed=seed, population_size=4))
    points: list[Genes] = []
    numbers: list[list[Any]] = []
    repeated = [0, 0]
    while len(points) < n:
        ended = len(points)
        for _ in range(width):
            while (genes := suggest(trial := study.ask())) in points:
                at = points.index(genes)
                repeated[at >= ended] += 1
                if at < ended:
                    study.tell(trial, float(sum(genes.values())))
                else:
                    numbers[at].append(trial)
            points.append(genes)
            numbers.append([trial])
        for at in reversed(range(ended, len(points))):
            for trial in numbers[at]:
                study.tell(trial, float(sum(points[at].values())))
    return points, repeated


@pytest.mark.parametrize("width", [4, 8])
def test_nsga2_takes_repetitions_for_what_they_are(width: int) -> None:
    space = Space(tuple(Categorical(name, tuple(Value(i, str(i)) for i in range(4))) for name in "abc"))
    theirs, repeated = repetitions(lambda t: {k: t.suggest_categorical(k, [0, 1, 2, 3]) for k in "abc"}, 24, width, 9)
    assert min(repeated) > 2
    sampler = algorithms.sampler("nsga2")(space, ONE, 9, population=4)
    history: list[Trial] = []
    while len(history) < 24:
        found = sampler.suggest(history, width)
        first, event = len(history), 2 * len(history)
        assert found == theirs[first : first + width]
        for i, genes in enumerate(found):
            score = float(sum(genes.values()))
            told = event + 2 * width - 1 - i
            history.append(Trial(first + i, genes, "finished", (score,), asked=event + i, told=told))


def test_given_points_are_parents_in_nsga2() -> None:
    """A warm start of a whole generation: the first points asked for are its children already."""
    rng = algorithms.sampler("random")(FLAT, ONE, 9)
    warm = [Trial(i - 8, genes, "finished", (score(genes),), given=True) for i, genes in enumerate(rng.suggest([], 8))]
    children = nsga2(ONE, mutation=0.0).suggest(warm, 5)
    for child in children:
        assert all(child[name] in {trial.genes[name] for trial in warm} for name in ("optimizer", "lr", "width"))
    assert children[0] != nsga2(ONE).suggest([], 1)[0]


def test_nsga2_says_where_its_replay_goes_astray() -> None:
    sampler = nsga2(ONE)
    history: list[Trial] = []
    for i in range(6):
        [genes] = sampler.suggest(history, 1)
        history.append(Trial(i, genes, "finished", (score(genes),), asked=2 * i, told=2 * i + 1))
    changed = [*history[:4], replace(history[4], genes={**history[4].genes, "width": 9}), history[5]]
    with pytest.raises(UsageError, match=r"nsga2: trial 4 has .*width=9.*, but asked again it has .*Optuna") as caught:
        nsga2(ONE).suggest(changed, 1)
    assert "warm_start" in caught.value.hint
    with pytest.raises(UsageError, match="trial 4"):  # a sampler that lives, too, and it stays a fault
        sampler.suggest(changed, 1)
    with pytest.raises(UsageError, match="trial 4"):
        sampler.suggest(changed, 1)
    assert sampler.suggest(history, 1) == nsga2(ONE).suggest(history, 1)
    with pytest.raises(UsageError, match="trial 0"):
        nsga2(ONE, seed=12).suggest(history, 1)


# ---- manners


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_optuna_is_silent_and_left_as_it_was(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    level = logging.getLogger("optuna").level
    options = {"group": True} if name == "tpe" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = algorithms.sampler(name)(CONDITIONAL, ONE, 0, **options).suggest([], 12)
    assert len(found) == 12 and not caught
    assert logging.getLogger("optuna").level == level
    assert capfd.readouterr() == ("", "")


def test_without_optuna_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["optuna"] = None
from searchkit.suite import algorithms
from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.suite.space.args import Range
from searchkit.suite.space.space import Space
for name in algorithms.SAMPLERS:
    sampler = algorithms.sampler(name)(Space((Range("n", "Int", 1, 3),)), (Objective("a", "max"),), 0)
    try:
        print(name, len(sampler.suggest([], 1)))
    except UsageError as e:
        print(name, e.message, e.hint, sep="; ")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = {line.split("; ")[0].split()[0]: line for line in done.stdout.splitlines()}
    for name in ("grid", "random", "evolution"):
        assert lines[name] == f"{name} 1"
    for name in ("tpe", "nsga2"):
        assert "need Optuna" in lines[name] and lines[name].endswith("pip install 'searchkit[samplers]'")


def test_a_dimension_that_optuna_draws_lies_in_its_bounds() -> None:
    """The last step of a range that its step does not meet, and floats whose steps do not add up."""
    space = Space((Range("a", "Uniform", 0.1, 1.0, 0.35), Range("b", "Int", 1, 10, 4)))
    dims: list[Dim] = list(space.dims())
    assert [dim.high for dim in dims] == [0.8, 9]
    for name in ("random", "tpe", "nsga2"):
        sampler = algorithms.sampler(name)(space, ONE, 0)
        assert {tuple(genes.values()) for genes in sampler.suggest([], 99)} == {
            (a, b) for a in (0.1, 0.45, 0.8) for b in (1, 5, 9)
        }
