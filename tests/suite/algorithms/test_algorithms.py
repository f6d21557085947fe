"""Samplers: their names and options, the conformance suite over all of them, and what each of ours does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from searchkit.errors import UsageError
from searchkit.records.objective import Objective, loss
from searchkit.seeds import ask_seed
from searchkit.suite import algorithms
from searchkit.suite.algorithms import conformance
from searchkit.suite.algorithms.drawing import Fresh, filled
from searchkit.suite.algorithms.history import Trial, asks, changed, started
from searchkit.suite.space.args import Arg, Categorical, Nested, Range, Value
from searchkit.suite.space.space import Genes, Space

ONE = (Objective("acc", "max"),)
TWO = (Objective("acc", "max"), Objective("macs", "min"))


def choices(name: str, *values: Any, when: str | None = None) -> Categorical:
    return Categorical(name, tuple(Value(value, str(value)) for value in values), when)


def letters(n: int, k: int) -> Space:
    """`n` arguments of `k` values each."""
    return Space(tuple(choices(f"x{i}", *range(k)) for i in range(n)))


def finished(index: int, genes: Genes, *scores: float, told: int | None = None) -> Trial:
    return Trial(index, genes, "finished", scores, asked=2 * index, told=2 * index + 1 if told is None else told)


def run(name: str, space: Space, n: int, score: Any, seed: int = 0, **options: Any) -> list[Trial]:
    """A search with one worker."""
    sampler = algorithms.sampler(name)(space, ONE, seed, **options)
    history: list[Trial] = []
    for i in range(n):
        answer = sampler.suggest(history, 1)
        if not answer:
            break
        history.append(finished(i, answer[0], score(answer[0])))
    return history


# ---- names and options


def test_the_tables_name_classes_and_their_options() -> None:
    assert set(algorithms.SAMPLERS) == {"grid", "random", "tpe", "nsga2", "evolution", "spos"}
    assert set(algorithms.STOPPERS) == {"asha", "median", "patience", "threshold"}
    assert algorithms.options("sampler", "grid") == algorithms.options("sampler", "random") == {}
    assert algorithms.options("sampler", "tpe") == {
        "n_startup": 10,
        "n_candidates": 24,
        "multivariate": None,
        "group": False,
        "constant_liar": True,
    }
    assert algorithms.options("sampler", "evolution") == {"population": 20, "sample": 5}
    assert algorithms.options("stopper", "asha") == {"min": None, "max": None, "eta": 3, "promotion": False}


def test_what_samplers_say_of_themselves() -> None:
    classes = {name: algorithms.sampler(name) for name in algorithms.SAMPLERS}
    assert {name for name, cls in classes.items() if not algorithms.needs_results(cls)} == {"grid", "random"}
    assert {name for name, cls in classes.items() if algorithms.replays(cls)} == {"nsga2"}
    assert algorithms.needs_results(Repeating) and not algorithms.replays(Repeating)  # which say nothing


def test_options_load_nothing_heavy() -> None:
    code = """
import sys
from searchkit.suite import algorithms
for name in algorithms.SAMPLERS: algorithms.options("sampler", name)
for name in algorithms.STOPPERS: algorithms.options("stopper", name)
print(*{"numpy", "optuna"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_class_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_algorithms.py").write_text(
        "from searchkit.suite.algorithms.grid import Grid\n"
        "import searchkit.suite.algorithms.stoppers as s\n"
        "class Mine(Grid):\n"
        "    def __init__(self, space, objectives, seed, *, needed, also=3):\n"
        "        super().__init__(space, objectives, seed)\n"
        "class Inner:\n"
        "    class Deep(s.Patience): ...\n"
        "class Half:\n"
        "    def suggest(self): ...\n"
        "number = 1\n"
        "class Loose(Grid):\n"
        "    def __init__(self, *args, more=4, **rest): super().__init__(*args)\n"
    )
    (tmp_path / "my_fault.py").write_text("1 / 0\n")
    (tmp_path / "my_need.py").write_text("import not_there_at_all\n")
    assert algorithms.options("sampler", "my_algorithms:Mine") == {"needed": algorithms.REQUIRED, "also": 3}
    assert algorithms.options("sampler", "my_algorithms:Loose") == {"more": 4}
    conformance.check("my_algorithms:Mine", needed=1)
    assert algorithms.options("stopper", "my_algorithms:Inner.Deep") == {"patience": 10, "min_delta": 0.0}
    conformance.check("my_algorithms:Inner.Deep", patience=3)
    for name, said in (
        ("my_algorithms:Mime", r"my_algorithms has no 'Mime' \(did you mean Mine"),
        ("my_algorithms:number.x", "my_algorithms has no 'x'"),
        ("my_algorithms:", "my_algorithms has no ''"),
        ("my_algorithms:number", "must be a class with suggest, but it is a int"),
        ("my_algorithms:Inner", "must be a class with suggest, but it has no suggest"),
        ("my_fault:Mine", "importing my_fault failed: ZeroDivisionError: division by zero"),
        ("my_need:Mine", "my_need needs the module not_there_at_all"),
        ("my_absent.part:Mine", "there is no module my_absent in the project's folder"),
        ("tpa", r"unknown sampler 'tpa' \(did you mean tpe"),
    ):
        with pytest.raises(UsageError, match=said):
            algorithms.options("sampler", name)
    with pytest.raises(UsageError, match="must be a class with wants, judge, promote, but it has no wants"):
        algorithms.stopper("my_algorithms:Half")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tpe", {"n_startup": -1}, "tpe: n_startup must be a whole number, 0 or more, not -1"),
        ("tpe", {"n_candidates": "ten"}, "tpe: n_candidates must be a whole number, 1 or more, not 'ten'"),
        ("tpe", {"group": 1}, "tpe: group must be true or false, not 1"),
        ("tpe", {"group": True, "multivariate": False}, "tpe: group needs multivariate"),
        ("nsga2", {"population": 1}, "nsga2: population must be a whole number, 2 or more, not 1"),
        ("nsga2", {"mutation": 1.5}, "nsga2: mutation must be a number from 0 to 1, not 1.5"),
        ("nsga2", {"crossover": True}, "nsga2: crossover must be a number from 0 to 1, not True"),
        ("evolution", {"population": 0}, "evolution: population must be a whole number, 1 or more, not 0"),
        ("evolution", {"sample": 0}, "evolution: sample must be a whole number, 1 or more, not 0"),
        ("spos", {"top_k": 0}, "spos: top_k must be a whole number, 1 or more, not 0"),
        ("spos", {"crossover": 2}, "spos: crossover must be a number from 0 to 1, not 2"),
    ],
)
def test_the_value_of_an_option_is_checked(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        algorithms.sampler(name)(letters(1, 2), ONE, 0, **options)
    assert caught.value.message.startswith(said)


# ---- the conformance suite


@pytest.mark.slow
@pytest.mark.parametrize("name", [*algorithms.SAMPLERS, *algorithms.STOPPERS])
def test_conformance(name: str) -> None:
    conformance.check(name, **({"max": 20} if name == "asha" else {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evolution", {"population": 4, "sample": 2}),
        ("spos", {"population": 4, "top_k": 3, "mutation": 0.4}),
        ("spos", {"population": 6, "top_k": 2, "crossover": 1.0, "tries": 0}),
        ("asha", {"max": 27, "promotion": True}),
        ("asha", {"min": 2, "eta": 2}),
        ("median", {"n_startup": 0, "n_warmup_steps": 3, "interval": 4}),
        ("threshold", {"lower": 0.1, "upper": 0.9}),
    ],
)
def test_conformance_with_options(name: str, options: dict[str, Any]) -> None:
    conformance.check(name, **options)


class _Sampler:
    """Random search, with a place to break it."""

    def __init__(self, space: Space, objectives: tuple[Objective, ...], seed: int) -> None:
        self.space = space
        self.seed = seed
        self.fresh = Fresh(space, seed)

    def propose(self, i: int, retry: int) -> Genes:
        return self.fresh.random(ask_seed(self.seed, i, retry))

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return self.fresh.batch(history, n, lambda found, i, retry: self.propose(i, retry), 1000)


class OutOfBounds(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return [{**genes, "layers": 9} if "layers" in genes else genes for genes in super().suggest(history, n)]


class Inactive(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return [{"momentum": 0.1, **genes} for genes in super().suggest(history, n)]


class Infeasible(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return [self.propose(len(history) + i, 0) for i in range(n)] if self.space.size() is None else []


class Repeating(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return super().suggest([], n)


class TwiceInOneAnswer(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return super().suggest(history, 1) * n


class TooMany(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return super().suggest(history, n + 1)


class Counting(_Sampler):
    """Depends on how often it was asked."""

    asked = 0

    def propose(self, i: int, retry: int) -> Genes:
        self.asked += 1
        return super().propose(i + self.asked, retry)


class Living(_Sampler):
    """Depends on what this object was told first."""

    first: int | None = None

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        self.first = self.first if self.first is not None else len(history)
        self.seed = self.first
        return super().suggest(history, n)


class Writing(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        assert isinstance(history, list)
        found = super().suggest(history, n)
        history[:] = [replace(trial, given=True) for trial in history]
        return found


class GlobalRandom(_Sampler):
    def propose(self, i: int, retry: int) -> Genes:
        import random

        return super().propose(i + random.randrange(1000), retry)


class GlobalNumpy(_Sampler):
    """Draws the same, but leaves the shared generator elsewhere."""

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        import numpy as np

        np.random.rand()  # noqa: NPY002
        return super().suggest(history, n)


class NeedsScores(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        done = sum(trial.state == "finished" for trial in history)
        return super().suggest(history, n) if done or len(history) < 4 else []


class Endless(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return super().suggest(history, n) or super().suggest([], n)


class GivesUp(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        return super().suggest(history, n) if len(history) < 13 else []


class Silent(_Sampler):
    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        try:
            return super().suggest(history, n)
        except UsageError:
            return []


class Refusing(_Sampler):
    def __init__(self, space: Space, objectives: tuple[Objective, ...], seed: int) -> None:
        super().__init__(space, objectives, seed)
        raise UsageError("never mind")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (OutOfBounds, "which is no point of the space: 'layers' must be"),
        (Inactive, "which is no point of the space: 'momentum' does not exist"),
        (Infeasible, "which breaks one of"),
        (Repeating, "which the history or the answer had already"),
        (TwiceInOneAnswer, "which the history or the answer had already"),
        (TooMany, "points, it gave"),
        (Counting, "asked again it suggests"),
        (Living, "a new object suggests"),
        (Writing, "it changed the history"),
        (GlobalRandom, "depend on the global random numbers|another object suggests|asked again it suggests"),
        (GlobalNumpy, "draws from the global random numbers"),
        (NeedsScores, "suggests nothing more when every trial fails"),
        (Endless, "which the history or the answer had already|gave more"),
        (GivesUp, "points were left|of .* were left"),
        (Silent, "raised no UsageError"),
        (Refusing, "refuses a small space"),
    ],
)
def test_a_broken_sampler_is_caught(broken: type[_Sampler], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        conformance.check(broken)


def test_what_the_broken_ones_are_made_of_is_whole() -> None:
    conformance.check(_Sampler)


# ---- the history


def test_asks_do_not_count_a_warm_start() -> None:
    history = [finished(i, {}, 1.0) for i in range(-3, 5)]
    assert [asks(history[:n]) for n in (0, 2, 3, 4, 8)] == [0, 0, 0, 1, 5]
    assert [trial.index for trial in started(history, [{}, {}])] == [5, 6]
    assert [trial.index for trial in started(history[:2], [{}])] == [0]
    sampler = algorithms.sampler("random")(letters(3, 9), ONE, 0)
    warm = [replace(trial, genes={"x0": 0, "x1": 0, "x2": i}) for i, trial in enumerate(history[:3])]
    assert sampler.suggest(warm, 3) == sampler.suggest([], 3)


def test_what_changed_of_a_history_is_found_wherever_it_is() -> None:
    history = [finished(i, {"x": i}, 1.0) for i in range(200)]
    for positions in ([], [3], [135, 136, 199], [0, 50, 150]):
        later = [replace(trial, scores=(2.0,)) if i in positions else trial for i, trial in enumerate(history)]
        assert changed(history, [*later, finished(200, {}, 1.0)]) == positions
    assert changed(history, history[:90]) == changed([], history) == []
    assert changed(history, [*history[:10], replace(history[10], index=11)]) == [10]


def test_losses() -> None:
    assert (loss(2.0, "min"), loss(2.0, "max"), loss(float("nan"), "max")) == (2.0, -2.0, float("inf"))


def test_only_new_points_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an ask after 10,000 trials costs no more than one after ten."""
    space = letters(6, 9)
    history = run("random", space, 300, lambda genes: 0.0)
    hashed: list[Genes] = []
    key = Space.key
    monkeypatch.setattr(Space, "key", lambda self, genes: (hashed.append(genes), key(self, genes))[1])
    sampler = algorithms.sampler("random")(space, ONE, 0)
    sampler.suggest(history[:299], 1)
    assert len(hashed) >= 299
    hashed.clear()
    history[7] = replace(history[7], scores=(1.0,))
    sampler.suggest(history, 1)
    assert len(hashed) <= 5


# ---- drawing


CONDITIONAL = Space(
    (
        choices("kind", "a", "b"),
        Range("x", "Uniform", 0.0, 1.0, when="kind == 'a'"),
        Range("n", "Int", 1, 9, when="kind == 'b'"),
    ),
    ("n <= 3",),
)


def test_a_point_that_is_given_in_part_is_filled() -> None:
    whole = filled(CONDITIONAL, {"kind": 0, "x": 0.5}, 0, 0)
    assert whole == {"kind": 0, "x": 0.5}
    seen = {filled(CONDITIONAL, {"kind": 1}, seed, 0)["n"] for seed in range(40)}
    assert seen == {1, 2, 3}
    assert filled(CONDITIONAL, {}, 3, 4) == filled(CONDITIONAL, {}, 3, 4) != filled(CONDITIONAL, {}, 3, 5)
    with pytest.raises(UsageError, match=r"no point of 1,000 drawn at random meets the constraints"):
        filled(CONDITIONAL, {"kind": 1, "n": 4}, 0, 0)


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2", "evolution", "spos"])
def test_a_rare_constraint_is_met(name: str) -> None:
    """One point in 4,000: found by going through a small space."""
    space = Space(
        (Range("a", "Int", 0, 19), Range("b", "Int", 0, 19), Range("c", "Int", 0, 19)), ("a + b + c in [0, 57]",)
    )
    history = run(name, space, 10, lambda genes: 1.0)
    assert {tuple(trial.genes.values()) for trial in history} == {(0, 0, 0), (19, 19, 19)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "evolution", "spos"])
def test_a_rare_constraint_is_met_again_and_again(name: str) -> None:
    """Three points in 100,000, of a space that is too large to go through: what was found leads to more."""
    space = Space((Range("a", "Int", 0, 999), Range("b", "Int", 0, 9999)), ("a * 10000 + b < 300",))
    first = Trial(0, {"a": 0, "b": 7}, "finished", (1.0,))
    history = [first]
    ask = algorithms.sampler(name)(space, ONE, 0)
    for n in range(1, 6):
        (genes,) = ask.suggest(history, 1)
        history.append(Trial(n, genes, "finished", (1.0,), asked=2 * n, told=2 * n + 1))
    assert all(space.feasible(trial.genes) for trial in history)
    assert len({tuple(trial.genes.values()) for trial in history}) == 6


@pytest.mark.slow
@pytest.mark.parametrize("args", [(Range("a", "Uniform", 0.0, 1.0),), (Range("a", "Int", 0, 10**9),)])
@pytest.mark.parametrize("name", ["random", "tpe", "nsga2", "evolution", "spos"])
def test_a_constraint_that_nothing_meets_in_a_large_space(name: str, args: tuple[Arg, ...]) -> None:
    space = Space(args, ("a < 0",))
    with pytest.raises(UsageError, match=r"no point of 10,000 drawn at random meets the constraints: .*'a < 0'"):
        algorithms.sampler(name)(space, ONE, 0).suggest([], 1)


def test_a_space_without_arguments_has_one_point() -> None:
    for name in algorithms.SAMPLERS:
        history = run(name, Space(()), 3, lambda genes: 1.0)
        assert [trial.genes for trial in history] == [{}], name


# ---- grid


def test_grid_gives_the_grid_in_order() -> None:
    space = Space((choices("a", 1, 2), Nested(({"b": Value(1, "1"), "c": Value(2, "2")},)), Range("d", "Int", 1, 5, 2)))
    history = run("grid", space, 99, lambda genes: 0.0)
    assert [trial.genes for trial in history] == list(space.grid())
    sampler = algorithms.sampler("grid")(space, ONE, 0)
    assert sampler.suggest([], 99) == sampler.suggest([], 4) + sampler.suggest(history[:4], 99)
    given = [replace(history[5], index=0, given=True)]
    assert sampler.suggest(given, 99) == [trial.genes for i, trial in enumerate(history) if i != 5]
    assert sampler.suggest(history, 2) == []


def test_grid_refuses_a_continuum_and_an_empty_grid() -> None:
    sampler = algorithms.sampler("grid")
    with pytest.raises(UsageError, match="'lr' is Uniform, which has no end of values"):
        sampler(Space((Range("lr", "Uniform", 0.0, 1.0),)), ONE, 0).suggest([], 1)
    none = sampler(Space((Range("n", "Int", 1, 4),), ("n > 4",)), ONE, 0)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"no point of the grid meets the constraints: .*'n > 4'.* 1 to 4"):
            none.suggest([], 1)


# ---- evolution


def apart(a: Genes, b: Genes) -> int:
    return sum(a.get(name) != b.get(name) for name in {*a, *b})


def test_a_child_differs_in_one_gene_from_the_best_of_the_youngest() -> None:
    """With a sample far larger than the population its best member is always in it."""
    space = letters(8, 9)
    points = [{f"x{i}": value for i in range(8)} for value in range(6)]
    sampler = algorithms.sampler("evolution")(space, ONE, 0, population=4, sample=99)
    history = [
        finished(i, genes, score) for i, (genes, score) in enumerate(zip(points, (9, 1, 2, 5, 3, 4), strict=True))
    ]
    children = sampler.suggest(history, 20)
    assert len(children) == 20
    assert {apart(child, points[3]) for child in children} == {1}  # the first is better, but too old
    assert len({name for child in children for name in child if child[name] != 3}) > 4
    late = [replace(history[0], told=99), *history[1:]]  # old by its number, but it finished last
    assert {apart(child, points[0]) for child in sampler.suggest(late, 9)} == {1}
    worse = [replace(trial, state="pruned") if trial.index == 3 else trial for trial in history]
    assert {apart(child, points[5]) for child in sampler.suggest(worse, 9)} == {1}


def test_the_best_of_a_sample_by_rank_where_there_are_several_objectives() -> None:
    space = letters(8, 9)
    points = [{f"x{i}": value for i in range(8)} for value in range(4)]
    scores = [(0.5, 9.0), (0.9, 5.0), (0.8, 2.0), (0.7, 3.0)]  # the second and third are the front
    sampler = algorithms.sampler("evolution")(space, TWO, 0, population=4, sample=99)
    children = sampler.suggest([finished(i, genes, *scores[i]) for i, genes in enumerate(points)], 40)
    parents = {i for child in children for i, genes in enumerate(points) if apart(child, genes) == 1}
    assert parents == {1, 2}


def test_the_genes_that_a_mutation_switches_on_are_drawn() -> None:
    args = (choices("kind", "a", "b"), Range("x", "Uniform", 0.0, 1.0, when="kind == 'a'"), choices("y", 0, 1))
    space = Space(args)
    parent = finished(0, {"kind": 1, "y": 0}, 1.0)
    sampler = algorithms.sampler("evolution")(space, ONE, 0, population=1, sample=1)
    children = sampler.suggest([parent], 12)
    assert {tuple(child) for child in children} == {("kind", "x", "y"), ("kind", "y")}
    assert all(child["y"] == 0 for child in children if "x" in child)


def test_evolution_is_better_than_chance() -> None:
    """The sum of eight values of 0 to 8, the best of 120 points; twelve seeds each."""
    space = letters(8, 9)
    best = {
        name: [
            max(trial.scores[0] for trial in run(name, space, 120, lambda g: sum(g.values()), seed) if trial.scores)
            for seed in range(12)
        ]
        for name in ("evolution", "random")
    }
    assert median(best["evolution"]) > max(best["random"]), best


# ---- the docs


def test_the_docs_list_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "samplers.md").read_text(encoding="utf-8")
    sections = {part.split("`")[1]: part for part in re.split("\n##+ ", page) if part.startswith("`")}
    for kind, table in (("sampler", algorithms.SAMPLERS), ("stopper", algorithms.STOPPERS)):
        for name in table:
            listed = [
                line.split("`")[1] for line in sections[name].splitlines() if line.startswith("| `") and ":" in line
            ]
            options = algorithms.options(kind, name).items()
            assert listed == [f"{key}: {json.dumps(default)}" for key, default in options], name
