"""Measures: numbers of a point, from a function of the user's own, that constraints limit."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.errors import ConfigError, UsageError
from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.config.read import parse
from searchkit.suite.config.settings import Measures
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.measures import Measure, load
from searchkit.suite.space.space import Genes, Space
from tests.support.suite import ok, project, run, task_dir

ONE = (Objective("acc", "max"),)


def choices(name: str, *values: Any, when: str | None = None) -> Categorical:
    return Categorical(name, tuple(Value(value, str(value)) for value in values), when)


def cost(values: Mapping[str, Any]) -> dict[str, float]:
    macs = values["width"] ** 2 * values["depth"] * 1000
    return {"macs": macs, "params": macs / 10 + values.get("kernel", 0)}


ARGS = (choices("width", 16, 32, 64), choices("depth", 1, 2, 3, 4), choices("kernel", 3, 5, when="depth > 2"))
TIGHT = ("macs <= 2M", "width <= 32 or params > 300k", "width >= depth")


def met(values: Mapping[str, Any]) -> bool:
    """TIGHT, in Python."""
    found = cost(values)
    return found["macs"] <= 2e6 and (values["width"] <= 32 or found["params"] > 3e5) and values["width"] >= 1


# ---- a space


def test_a_space_holds_what_meets_the_constraints_over_measures() -> None:
    whole, space = Space(ARGS), Space(ARGS, TIGHT, cost)
    points = [{name: value.data for name, value in point.items()} for point in whole.points()]
    kept = [{name: value.data for name, value in point.items()} for point in space.points()]
    assert kept == [values for values in points if met(values)] and 0 < len(kept) < len(points)
    assert [space.feasible(genes) for genes in whole.grid()] == [met(values) for values in points]
    assert space.size() == whole.size() == len(points)
    assert list(Space((), ("macs < 3",), lambda values: {"macs": 2}).grid()) == [{}]
    assert list(Space((), ("macs < 3",), lambda values: {"macs": 3}).grid()) == []


@pytest.mark.parametrize("name", algorithms.SAMPLERS)
def test_all_samplers_obey(name: str) -> None:
    space = Space(ARGS, TIGHT, cost)
    sampler, history = algorithms.sampler(name)(space, ONE, 0), []
    while answer := sampler.suggest(history, 3):
        history += [Trial(i, genes, "running", asked=i) for i, genes in enumerate(answer, len(history))]
    feasible = [genes for genes in Space(ARGS).grid() if space.feasible(genes)]
    assert sorted(map(space.key, feasible)) == sorted(space.key(trial.genes) for trial in history)


def test_a_point_is_measured_once_and_only_where_the_rest_holds() -> None:
    asked: list[dict[str, Any]] = []

    def count(values: Mapping[str, Any]) -> dict[str, float]:
        asked.append(dict(values))
        return cost(values)

    space = Space(ARGS, (*TIGHT, "depth != 2"), count)
    grid = list(Space(ARGS).grid())
    for _ in range(2):
        for genes in grid:
            space.feasible(genes)
    list(space.points())
    assert len(asked) == len({repr(values) for values in asked}) and all(values["depth"] != 2 for values in asked)
    assert {tuple(values) for values in asked} == {("width", "depth"), ("width", "depth", "kernel")}
    same: list[Genes] = [{"width": 0, "depth": 0}, {"depth": 0, "width": 0}]
    assert [space.feasible(genes) for genes in same] == [True, True] and len(asked) == 12 - 3 + 3 * 2


def test_one_and_true_are_measured_apart() -> None:
    space = Space((choices("a", 1, True, 1.0, "1"),), ("size == 0",), lambda v: {"size": int(v["a"] is not True)})
    assert list(space.grid()) == [{"a": 1}]


def test_what_nothing_meets_is_told_with_the_reach_of_each_measure() -> None:
    space = Space(ARGS, ("macs + params <= 200k", "macs > params"), cost)
    lowest = cost({"width": 16, "depth": 1})
    most = max(
        cost(dict(zip(("width", "depth", "kernel"), v, strict=True)))["macs"]
        for v in itertools.product((16, 32, 64), (1, 2, 3, 4), (3, 5))
    )
    found = space.reach(1000, random.Random(0))
    assert found.startswith("none of 1,000 meets 'macs + params <= 200k': its sides are 281600 to ")
    assert f"; macs is {lowest['macs']:.6g} to {most:.6g}, params is {lowest['params']:.6g} to " in found
    for name in algorithms.SAMPLERS:
        with pytest.raises(UsageError, match=r"meets the constraints: .*'macs \+ params <= 200k'.*macs is 256000 to"):
            algorithms.sampler(name)(space, ONE, 0).suggest([], 1)
    some = Space(ARGS, ("macs <= 200k", "width < 32"), cost).reach(1000, random.Random(0))
    assert "macs is 256000 to 1.024e+06" in some  # of those that meet the constraints over arguments
    none = Space(ARGS, ("macs <= 200k", "width < 3"), cost).reach(1000, random.Random(0))
    assert none == Space(ARGS, ("width < 3",)).reach(1000, random.Random(0))
    lone = Space((Range("x", "Uniform", 0, 1),), ("macs < 0",), lambda values: {"macs": values["x"] * 0 + 7})
    assert "macs is 7" in lone.reach(10, random.Random(0))


def test_names_that_nobody_gives() -> None:
    with pytest.raises(
        UsageError, match=r"'mcs' in 'mcs < 3' is neither an argument nor a measure \(did you mean macs"
    ) as e:
        Space(ARGS, ("mcs < 3",), cost).feasible({"width": 0, "depth": 0})
    assert e.value.hint == "the measures are macs, params"
    with pytest.raises(UsageError, match="the measure 'width' has the name of an argument"):
        Space(ARGS, ("macs < 3",), lambda values: {"width": 1, "macs": 2}).feasible({"width": 0, "depth": 0})
    with pytest.raises(UsageError, match="'macs' in 'macs < 3' is not a declared argument"):
        Space(ARGS, ("macs < 3",))
    with pytest.raises(UsageError, match="the condition of b: 'macs' in 'macs < 3' is not a declared argument"):
        Space((choices("a", 1), choices("b", 2, when="macs < 3")), (), cost)


# ---- functions of the user's own


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (7, "shop:cost must give a mapping of names to numbers, not 7 (at a=1, b=x)"),
        ({"macs": "7"}, "shop:cost must give names with numbers, not 'macs': '7' (at a=1, b=x)"),
        ({"macs": True}, "shop:cost must give names with numbers, not 'macs': True (at a=1, b=x)"),
        ({"macs": float("nan")}, "shop:cost must give names with numbers, not 'macs': nan (at a=1, b=x)"),
        ({3: 7}, "shop:cost must give names with numbers, not 3: 7 (at a=1, b=x)"),
        (KeyError("b"), "shop:cost failed: KeyError: 'b' (at a=1, b=x)"),
        (UsageError("too deep", "less"), "shop:cost failed: UsageError: too deep (at a=1, b=x)"),
    ],
)
def test_a_function_that_is_wrong_is_told_with_the_point(answer: Any, said: str) -> None:
    def function(values: Mapping[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(UsageError) as caught:
        Measure("shop:cost", function)({"a": 1, "b": "x"})
    assert caught.value.message == f"task.measures: {said}"
    assert caught.value.hint == getattr(answer, "hint", "")


def test_numbers_of_numpy_are_numbers() -> None:
    found = Measure("m:f", lambda values: {"a": np.int64(3), "b": np.float32(0.5), "c": 10**30})({})
    assert found == {"a": 3, "b": 0.5, "c": 10**30} and [type(value) for value in found.values()] == [int, float, int]


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_shop.py").write_text(
        "def cost(size=1): return lambda values: {'macs': size * values['a']}\n"
        "def none(): ...\n"
        "class Deep:\n    at = staticmethod(cost)\n"
        "number = 3\n"
    )
    assert load("my_shop:cost", {"size": 4})({"a": 3}) == {"macs": 12}
    assert load("my_shop:Deep.at", {})({"a": 3}) == {"macs": 3}
    for call, given, said in (
        ("my_shop:cots", {}, r"task.measures: my_shop:cots: my_shop has no 'cots' \(did you mean cost"),
        ("my_other:cost", {}, "there is no module my_other in the project's folder or installed"),
        ("my_shop:cost", {"sizes": 1}, r"my_shop:cost failed: TypeError: .*unexpected keyword.* \(at sizes=1\)"),
        ("my_shop:none", {}, r"my_shop:none\(\) must return a function of a point's values, not None"),
        ("my_shop:number", {}, "my_shop:number must be a function, not a int"),
    ):
        with pytest.raises(UsageError, match=said):
            load(call, given)


# ---- the config


CONFIG = """
task:
  template: echo {width} {depth}
  search_args:
    - {type: Categorical, name: width, value: [16, 32, 64]}
    - {type: Categorical, name: depth, value: [1, 2, 3]}
  constraints: [MACS, "width > depth"]
  measures: {call: "shop:cost", given: {unit: 1000}}
"""


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "cfg.yaml")
    return caught.value.message.split("\n")


def test_reading_imports_nothing() -> None:
    config = parse(CONFIG.replace("MACS", "macs <= 330M").encode(), "cfg.yaml")
    assert config.task.measures == Measures("shop:cost", {"unit": 1000})
    assert config.task.constraints == ("macs <= 330M", "width > depth")
    bare = CONFIG.replace('{call: "shop:cost", given: {unit: 1000}}', "shop:cost").replace("MACS", "macs < 1")
    assert parse(bare.encode(), "cfg.yaml").task.measures == Measures("shop:cost")
    enqueue = bare + "search: {sampler: random, enqueue: [{width: 16, depth: 3}]}\n"  # measured when it begins
    assert parse(enqueue.encode(), "cfg.yaml").search.enqueue
    assert parse(CONFIG.replace("MACS", "depth < 3").encode(), "cfg.yaml").task.measures


def test_faults_of_the_key() -> None:
    text = CONFIG.replace("MACS", "macs <").replace("shop:cost", "shop.cost").replace("given", "givn")
    assert faults(text) == [
        "cfg.yaml:7:17: task.constraints[0]: column 7 of 'macs <': the expression can't go on like this; allowed: "
        "names, numbers (also 140G, 1.5M, 2k), 'strings', [lists], + - * / // % **, < <= > >= == !=, "
        "and or not in, indexing x[0], sum len min max abs, and name('val/acc') for names with other characters",
        "cfg.yaml:8:20: task.measures.call: must be a function of your own, as module:function, not 'shop.cost'",
        "cfg.yaml:8:33: task.measures: unknown key 'givn' (did you mean given?)",
    ]
    measures = '{call: "shop:cost", given: {unit: 1000}}'
    for other, said in (
        ("{given: {}}", "cfg.yaml:8:13: task.measures: missing key 'call'"),
        (
            "[shop]",
            "cfg.yaml:8:13: task.measures: must be a function of your own, as module:function or a mapping "
            "(key: value), not a list",
        ),
        ('{call: "a:b", given: 3}', "cfg.yaml:8:34: task.measures.given: must be a mapping (key: value), not 3"),
    ):
        assert faults(CONFIG.replace("MACS", "macs < 1").replace(measures, other)) == [said]
    without = CONFIG.replace("MACS", "macs < 1").replace(f"  measures: {measures}\n", "")
    assert faults(without) == [
        "cfg.yaml:7:17: task.constraints[0]: 'macs' is not a declared argument (valid: width, depth)"
    ]


def test_each_stage_has_its_own() -> None:
    stages = """
stages:
  - name: a
    task: {template: echo, measures: "shop:cost", constraints: ["macs < 3"]}
  - name: b
    task: {template: echo, constraints: ["macs < 3"]}
"""
    assert faults(stages) == [
        "cfg.yaml:6:42: stages[1].task.constraints[0]: 'macs' is not a declared argument (none is declared)"
    ]
    config = parse(stages.replace(', constraints: ["macs < 3"]}\n', "}\n").encode(), "cfg.yaml")
    assert [stage.config.task.measures for stage in config.stages] == [Measures("shop:cost"), None]
    assert faults("task: {measures: 'a:b'}\n" + stages)[0].startswith("cfg.yaml:1:8: task.measures: belongs to a stage")


# ---- as users run it

SHOP = """
import os

def cost(unit=1):
    def measure(values):
        with open(os.environ.get("ASKED", os.devnull), "a") as f:
            print(values["width"], values["depth"], file=f)
        return {"macs": values["width"] ** 2 * values["depth"] * unit}
    return measure
"""


def points(folder: Path, task: str = "default") -> list[tuple[int, ...]]:
    found = sorted((task_dir(folder, task) / "jobs/all").glob("*/params.json"), key=lambda path: int(path.parent.name))
    return [tuple(json.loads(path.read_text())["values"].values()) for path in found]


@pytest.mark.slow
def test_jobs_are_those_that_meet_it(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG.replace("MACS", "macs <= 2M"), shop_py=SHOP)
    wanted = [(w, d) for w in (16, 32, 64) for d in (1, 2, 3) if w * w * d * 1000 <= 2_000_000]
    said = ok(run(folder, "search-run", "--dry-run", "config.yaml", env={"ASKED": str(tmp_path / "asked")}))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 9  # the space is one, and remembers
    assert [line for line in said.splitlines() if line.startswith("#")] == [
        f"#{i} echo {w} {d}" for i, (w, d) in enumerate(wanted)
    ]
    ok(run(folder, "search-run", "-j", "2", "config.yaml"))
    assert points(folder) == wanted
    spos = "search: {sampler: {type: spos, population: 3}}\nmonitor: {reward_attribute: acc}\n"
    text = CONFIG.replace("MACS", "macs <= 2M").replace("echo {width} {depth}", "python3 job.py {width} {depth}")
    (folder / "spos.yaml").write_text(text + spos)
    (folder / "job.py").write_text(
        "import json, os, sys\n"
        "with open(os.environ['SEARCHKIT_CALLBACK'] + '/scalars.jsonl', 'a') as f:\n"
        "    f.write(json.dumps({'acc': int(sys.argv[1]) + int(sys.argv[2])}) + '\\n')\n"
    )
    ok(run(folder, "search-run", "-j", "2", "--task", "spos", "spos.yaml"))
    assert sorted(points(folder, "spos")) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("search", ["", "search: {sampler: random, n_trials: 3}\n"])
def test_faults_are_told_before_anything_is_written(tmp_path: Path, search: str) -> None:
    folder = project(tmp_path / "p", CONFIG.replace("MACS", "macs <= 2k") + search, shop_py=SHOP)
    wrong = [("config.yaml", "'macs <= 2k': its sides are 256000 to 1.2288e+07 <= 2000; macs is 256000 to 1.2288e+07")]
    for name, old, new, said in (
        ("typo", "MACS", "mac <= 2M", "'mac' in 'mac <= 2M' is neither an argument nor a measure (did you mean macs?)"),
        ("given", "unit", "units", "task.measures: shop:cost failed: TypeError: cost() got an unexpected keyword"),
        ("module", "shop:", "shup:", "task.measures: shup:cost: there is no module shup in the project's folder"),
        ("text", "1000", "none", "task.measures: shop:cost must give names with numbers, not 'macs': "),
    ):
        text = CONFIG.replace(old, new).replace("MACS", "macs <= 2M")
        (folder / f"{name}.yaml").write_text(text + search)
        wrong.append((f"{name}.yaml", said))
    for config, said in wrong:
        for more in ((), ("--dry-run",)):
            out = run(folder, "search-run", *more, config)
            assert out.returncode == 2 and said in out.stderr, (config, more, out.stdout, out.stderr)
    assert not task_dir(folder).exists()


def test_an_enqueued_point_that_costs_too_much(tmp_path: Path) -> None:
    enqueue = "search: {sampler: random, n_trials: 2, enqueue: [{width: 64}, {width: 64, depth: 2}]}\n"
    folder = project(tmp_path / "p", CONFIG.replace("MACS", "macs <= 5M") + enqueue, shop_py=SHOP)
    out = run(folder, "search-run", "config.yaml")
    assert out.returncode == 2 and "search.enqueue[1]: does not meet the constraints (macs=8192000)" in out.stderr
    assert not task_dir(folder).exists()
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace(", {width: 64, depth: 2}", ""))
    ok(run(folder, "search-run", "config.yaml"))
    assert points(folder)[0] == (64, 1)  # what is left open is drawn within the limit
