"""A task that goes on with another config: what may change, what is kept, and that a kill changes nothing of it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from searchkit.suite import algorithms
from searchkit.suite.config.read import parse
from searchkit.suite.config.settings import Objective, StopRule
from searchkit.suite.run.search import make_sampler
from searchkit.suite.space.args import Categorical, Nested, Range, Value
from searchkit.suite.space.widen import compare
from searchkit.suite.store import changes, trials
from searchkit.suite.store.state import TaskState, advance
from tests.support.marks import some_of
from tests.support.suite import HARNESS, events, ok, project, run, show, states, task_dir

pytestmark = pytest.mark.slow

GRID = """
task:
  template: "sh job.sh {lr} {w}"
  search_args:
    - {type: Categorical, name: lr, value: [LRS]}
    - {type: Categorical, name: w, value: [WS]}
monitor: {reward_attribute: acc}
"""
JOB = """
echo "$SEARCHKIT_JOB $1 $2" >> "$RUNS"
echo "{\\"acc\\": $1}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
"""


def grid(lrs: str, ws: str = "8", more: str = "") -> str:
    return GRID.replace("LRS", lrs).replace("WS", ws) + more


def changed(folder: Path, config: str, *argv: str, code: int = 0, **env: str) -> str:
    """Run the task with another config; all that it said."""
    (folder / "config.yaml").write_text(config)
    done = run(folder, "search-run", "-j", "1", "config.yaml", *argv, env={"RUNS": str(folder.parent / "runs"), **env})
    ok(done, code)
    return done.stdout + done.stderr


def began(folder: Path, config: str) -> Path:
    project(folder, config, job_sh=JOB)
    changed(folder, config)
    return folder


def ran(folder: Path) -> list[str]:
    return (folder.parent / "runs").read_text().splitlines()


def values(folder: Path) -> dict[int, tuple[Any, ...]]:
    return {job["job"]: tuple(job["params"].values()) for job in show(folder)["jobs"]}


# --- grids -----------------------------------------------------------------------------------------------------------


def test_values_are_added_anywhere_and_jobs_keep_their_numbers(tmp_path: Path) -> None:
    folder = began(tmp_path / "p", grid("0.1, 0.3", "8, 16"))
    first = values(folder)
    dry = changed(folder, grid("0.1, 0.2, 0.3", "4, 8, 16"), "--dry-run")
    assert "5 of them are new, 4 jobs are there already\n#4 sh job.sh 0.1 4" in dry
    assert not (task_dir(folder) / "configs").exists()
    said = changed(folder, grid("0.1, 0.2, 0.3", "4, 8, 16"))
    assert "goes on with config 1: task.search_args[0]: lr: 1 value added: 0.2; task.search_args[1]: w:" in said
    now = values(folder)
    assert {n: now[n] for n in first} == first
    assert [now[n] for n in range(4, 9)] == [(0.1, 4), (0.2, 4), (0.2, 8), (0.2, 16), (0.3, 4)]
    assert len(ran(folder)) == 9 and set(states(folder).values()) == {"finished"}
    kept = task_dir(folder) / "configs"
    assert (kept / "0.yaml").read_text() == grid("0.1, 0.3", "8, 16")
    assert (kept / "1.yaml").read_text() == (task_dir(folder) / "run_config.yaml").read_text()
    (event,) = [e for e in events(folder) if e["type"] == "config"]
    assert event["number"] == 1 and event["changed"] == ["task.search_args[0]", "task.search_args[1]"]
    assert "goes on" not in changed(folder, "# a comment\n" + grid("0.1, 0.2, 0.3", "4, 8, 16"))
    changed(folder, grid("0.1, 0.2, 0.3, 0.4", "4, 8, 16"))
    assert [values(folder)[n] for n in range(9, 12)] == [(0.4, 4), (0.4, 8), (0.4, 16)] and len(ran(folder)) == 12
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


def test_what_only_reads_or_launches_changes_and_runs_nothing_again(tmp_path: Path) -> None:
    folder = began(tmp_path / "p", grid("1, 2"))
    more = "run: {retries: 2, timeout_s: 1h}\nresources: {cpus: 2}\ncallbacks: {after: 'true'}\n"
    config = grid("1, 2", more=more).replace("acc}", "acc, mode: min}")
    said = changed(folder, config)
    for text in ("monitor.mode: max -> min", "run.retries: 0 -> 2", "run.timeout_s: none -> 3600", "callbacks.after"):
        assert text in said
    assert len(ran(folder)) == 2
    assert ok(run(folder, "search-ctl", "best", "--json")).count('"job": 0') == 1
    assert "run.retries: 2 -> 0" in changed(folder, grid("1, 2"), "--dry-run")
    assert "config 1: " in said and len([e for e in events(folder) if e["type"] == "config"]) == 1


def test_a_mode_that_is_said_or_left_out_is_told_by_its_key() -> None:
    said, left = (parse(grid("1").replace("acc}", mode).encode(), "a.yaml") for mode in ("acc, mode: max}", "acc}"))
    found = changes.compare(said, left)
    assert [(part.key, part.what) for part in found.parts] == [("monitor.mode", "max -> max by default")]
    assert not found.reread and not found.refused


def test_a_change_is_told_by_what_differs() -> None:
    one, two = Objective("fit", "max", "acc - macs"), Objective("fit", "max", "acc - 2 * macs")
    assert changes._to((one,), (two,)) == "fit = acc - macs (max) -> fit = acc - 2 * macs (max)"
    assert changes._to((StopRule("asha", {"max": 9}),), ()) == "asha (max: 9) -> none"
    long = "epoch (?P<step>\\d+) of 100: accuracy (?P<acc>\\S+) loss (?P<loss>"
    said = changes._to((long + "a)",), (long + "b)",))
    assert said == "…" + long[-12:] + "a) -> …" + long[-12:] + "b)"


def test_what_can_not_change_is_refused_with_place_reason_and_way(tmp_path: Path) -> None:
    config = grid("1, 2")
    folder = began(tmp_path / "p", config)
    for other, place, why in (
        (grid("1"), "config.yaml:5:7: task.search_args[0]", "2 was a value"),
        (config.replace("sh job.sh", "bash job.sh"), "config.yaml:3:3: task.template", "another command"),
        (config + "search: {sampler: random, n_trials: 3}\n", "config.yaml:8:10: search.sampler", "another sampler"),
        (config + "search: {seed: 3}\n", "search.seed", "another seed"),
        (config + "env: {A: 1}\n", "env", "a different A"),
        (config.replace("monitor", "  constraints: [lr > 1]\nmonitor"), "task.constraints", "lr > 1 is new"),
        (config.replace("name: w, value", "name: v, value").replace("{w}", "{v}"), "task.search_args", "are lr, v"),
    ):
        said = changed(folder, other, code=4)
        assert "exists with another config" in said and place in said and why in said
        assert ("search-ctl withdraw --task default lr=2. Or" in said) == (why == "2 was a value")
        assert "warm_start: {task: default}" in said and "--overwrite" in said
    assert len(ran(folder)) == 2
    assert not (task_dir(folder) / "configs").exists()
    changed(folder, config)


def kill_points(changes_of_a_run: list[str]) -> list[tuple[str, int]]:
    """Some changes of a file, or with KILL_POINTS=all each; of writes also half-way through."""
    points = [("SEARCHKIT_KILL_AT", n) for n in range(1, len(changes_of_a_run) + 1)]
    points += [("SEARCHKIT_TEAR_AT", n) for n, name in enumerate(changes_of_a_run, 1) if name == "write"]
    return points if os.environ.get("KILL_POINTS") == "all" else random.Random(3).sample(points, len(points) // 20)


@pytest.mark.timeout(900)
def test_killed_at_any_change_the_end_is_the_same(tmp_path: Path) -> None:
    first = began(tmp_path / "first" / "p", grid("1, 3"))
    config = grid("1, 2, 3", more="run: {retries: 1}\n")

    def end(folder: Path) -> tuple[Any, ...]:
        kept = {path.name: path.read_text() for path in (task_dir(folder) / "configs").iterdir()}
        numbers = [e["number"] for e in events(folder) if e["type"] == "config"]
        tree = sorted(os.readlink(path) for path in (task_dir(folder) / "jobs/tree").rglob("*") if path.is_symlink())
        text = (task_dir(folder) / "run_config.yaml").read_text()
        return values(folder), states(folder), kept, numbers, tree, text, sorted(ran(folder))

    def again(name: str) -> Path:
        shutil.copytree(first.parent, tmp_path / name, symlinks=True)
        return tmp_path / name / "p"

    log = tmp_path / "log"
    unbroken = again("unbroken")
    changed(unbroken, config, PYTHONPATH=str(HARNESS), SEARCHKIT_KILL_LOG=str(log))
    met = 0
    points = kill_points(log.read_text().split())
    for k, (variable, n) in enumerate(points):
        folder = again(f"k{k}")
        (folder / "config.yaml").write_text(config)
        env = {"PYTHONPATH": str(HARNESS), variable: str(n), "RUNS": str(folder.parent / "runs")}
        met += run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
        changed(folder, config)
        assert end(folder) == end(unbroken), f"{variable}={n}"
        assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
        shutil.rmtree(folder.parent)
    assert met >= 0.9 * len(points)
    print(f"kill points met: {met}")


def test_a_grid_half_made_goes_on_in_the_wider_one(tmp_path: Path) -> None:
    """Killed while jobs were still made: those there keep their numbers, the rest is the wider grid without them."""
    config = grid(", ".join(map(str, range(1, 100))))
    folder = project(tmp_path / "p", config, job_sh=JOB)
    for _ in range(2):  # the first cut comes before all jobs are there
        run(folder, "search-run", "-j", "1", "config.yaml", env={**HARNESS_ENV, "RUNS": str(tmp_path / "runs")})
    there = values(folder)
    assert 0 < len(there) < 99
    wider = grid(", ".join(map(str, [0, *range(1, 100)])))
    (folder / "config.yaml").write_text(wider)
    run(folder, "search-run", "-j", "1", "config.yaml", env={**HARNESS_ENV, "RUNS": str(tmp_path / "runs")})
    ok(run(folder, "search-run", "config.yaml", "-j", "8", env={"RUNS": str(tmp_path / "runs")}))
    now = values(folder)
    assert {n: now[n] for n in there} == there
    assert [now[n][0] for n in range(len(there), 100)] == [0, *range(len(there) + 1, 100)]


HARNESS_ENV = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": "60"}


def test_a_changed_config_needs_no_scheduler_and_does_not_disturb_one(tmp_path: Path) -> None:
    folder = began(tmp_path / "p", grid("1"))
    changed(folder, grid("1, 2"), "--detach")
    from tests.support.suite import wait_for

    wait_for(lambda: show(folder)["status"] == "finished" and len(states(folder)) == 2)
    assert values(folder)[1] == (2, 8)


STAGED = """
stages:
  - name: many
    monitor: {reward_attribute: acc, mode: max}
    task:
      template: "sh job.sh {lr}"
      search_args: [{type: Categorical, name: lr, value: [LRS]}]
  - name: few
    monitor: {reward_attribute: acc, mode: max}
    task:
      template: "sh job.sh {lr}{k}; test {k} = 1"
      search_args: [{type: Best, stage: many, number: 1, args: [lr]}, {type: Categorical, name: k, value: [KS]}]
  - name: last
    task: {template: LAST}
"""


def staged(lrs: str, ks: str, last: str) -> str:
    return STAGED.replace("LRS", lrs).replace("KS", ks).replace("LAST", last)


def test_a_stage_changes_until_a_later_one_has_begun(tmp_path: Path) -> None:
    first = tmp_path / "first" / "p"
    project(first, staged("1, 2", "0", "false"), job_sh=JOB)
    changed(first, staged("1, 2", "0", "false"), code=1)
    assert "'few' has begun" in changed(first, staged("1, 2, 3", "0", "false"), code=4)
    said = changed(first, staged("1", "0", "false"), code=4)  # told once, at its place
    assert said.count("2 was a value") == 1 and "withdraw --task default.many lr=2" in said
    said = changed(first, staged("1, 2", "0, 5", "false"), "--dry-run")
    assert "task default.few would go on with another config: " in said
    assert "task default would go" not in said and "config\n" not in said
    assert "stages: the stages are" in changed(first, staged("1", "0", "true").replace("last", "end"), code=4)
    now = staged("1, 2", "0, 1", "'false'").replace("acc, mode: max", "other, mode: max", 1)
    ends = []
    for name, cuts in (("unbroken", ()), ("broken", (3, 9, 14, 20, 26))):
        shutil.copytree(first.parent, tmp_path / name, symlinks=True)
        folder = tmp_path / name / "p"
        (folder / "config.yaml").write_text(now)
        for at in cuts:
            env = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": str(at), "RUNS": str(folder.parent / "runs")}
            assert run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
        changed(folder, now, code=1)
        kept = sorted(str(path.relative_to(folder)) for path in task_dir(folder).parent.glob("*/configs/*"))
        newest = {path.read_text() for path in task_dir(folder).parent.glob("*/run_config.yaml")}
        ends.append((kept, newest, {name: values_of(folder, name) for name in ("many", "few")}, sorted(ran(folder))))
    assert ends[0] == ends[1] and ends[0][1] == {now}
    assert [path.split("/")[2] for path in ends[0][0]] == ["default.few"] * 2 + ["default.many"] * 2 + ["default"] * 2


def values_of(folder: Path, stage: str) -> list[tuple[Any, ...]]:
    return [tuple(job["params"].values()) for job in show(folder, f"default.{stage}")["jobs"]]


# --- the space -------------------------------------------------------------------------------------------------------


def listed(*texts: str) -> Categorical:
    return Categorical("a", tuple(Value(text, text) for text in texts))


@pytest.mark.parametrize(
    ("old", "new", "moved", "said"),
    [
        (listed("x", "y"), listed("x", "z", "y"), [0, 2], "1 value added: z"),
        (listed("x", "y"), listed("y", "x"), [1, 0], "in another order"),
        (listed("x", "x"), listed("x", "w", "x", "x"), [0, 2], "2 values added: w, x"),
        (Range("a", "Int", 2, 8), Range("a", "Int", 1, 9), None, "2 to 8 is now 1 to 9"),
        (Range("a", "Uniform", 0.1, 0.3, 0.1), Range("a", "Uniform", 0.0, 0.5, 0.1), None, "0.0 to 0.5"),
        (
            Nested(({"a": Value(1, "1"), "b": Value(2, "2")},)),
            Nested(({"a": Value(3, "3"), "b": Value(4, "4")}, {"a": Value(1, "1"), "b": Value(2, "2")})),
            [1],
            "1 value added: {a: 3, b: 4}",
        ),
    ],
)
def test_what_came_to_an_argument(old: Any, new: Any, moved: list[int] | None, said: str) -> None:
    found = compare(old, new)
    assert found and not found.fault and found.moved == moved and said in found.summary


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (listed("1"), listed("1.0"), "1 was a value"),
        (Range("a", "Int", 2, 8), Range("a", "Int", 3, 8), "must reach from 2 to 8"),
        (Range("a", "Uniform", 0.1, 0.5, 0.2), Range("a", "Uniform", 0.0, 0.6, 0.2), "it misses 0.1"),
        (Range("a", "Uniform", 0.1, 0.5), Range("a", "LogUniform", 0.1, 0.5), "is LogUniform, and was Uniform"),
        (Range("a", "Uniform", 0.1, 0.5), listed("0.1"), "is Categorical, and was Uniform"),
    ],
)
def test_what_may_not_become_of_an_argument(old: Any, new: Any, why: str) -> None:
    found = compare(old, new)
    assert found and why in found.fault


# --- searches --------------------------------------------------------------------------------------------------------

SEARCH = """
task:
  template: "sh job.sh {lr} {opt}"
  search_args:
    - {type: Uniform, name: lr, low: LOW, high: 1.0}
    - {type: Categorical, name: opt, value: [OPTS]}
monitor: {reward_attribute: acc}
search: {sampler: SAMPLER, n_trials: TRIALS, seed: 5}
"""
SAMPLERS = ("{type: nsga2, population: 4}", "{type: tpe, n_startup: 3}", "grid")


def search(sampler: str, trials_: int, low: float = 0.5, opts: str = "a, b") -> str:
    text = SEARCH.replace("SAMPLER", sampler).replace("TRIALS", str(trials_)).replace("OPTS", opts)
    text = text.replace("LOW", str(low))
    return text.replace("high: 1.0", "high: 1.0, step: 0.125") if sampler == "grid" else text


def told(folder: Path) -> list[tuple[Any, ...]]:
    state = TaskState()
    for event in events(folder):
        advance(state, event)
    return [(n, str(job.state), job.values, job.scores) for n, job in sorted(state.jobs.items())]


@pytest.mark.parametrize("sampler", some_of(SAMPLERS, SAMPLERS[0], "grid"))
def test_a_search_goes_on_in_a_wider_space_also_across_kills(sampler: str, tmp_path: Path) -> None:
    if "nsga2" in sampler or "tpe" in sampler:
        pytest.importorskip("optuna")
    then, now = search(sampler, 5), search(sampler, 10, 0.25, "c, a, b")
    ends = []
    for name, cuts in (("unbroken", ()), ("broken", (25, 40))):
        folder = began(tmp_path / name / "p", then)
        before = told(folder)
        (folder / "config.yaml").write_text(now)
        for at in cuts:
            env = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": str(at), "RUNS": str(folder.parent / "runs")}
            assert run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
        changed(folder, now)
        after = told(folder)
        assert after[:5] == before and len(after) == 10 and len(ran(folder)) == 10
        ends.append(after)
    assert ends[0] == ends[1]
    points = [tuple(job[2].values()) for job in ends[0]]
    assert len(set(points)) == 10
    assert any(lr < 0.5 or opt == "c" for lr, opt in points[5:])
    replayed(tmp_path / "unbroken" / "p", {0: then, 1: now})


def replayed(folder: Path, configs: dict[int, str]) -> None:
    """Ask again for every point, by the config of then and with the trials of then: it must be the same point."""
    state = TaskState()
    for event in events(folder):
        if event["type"] == "create" and not event.get("given"):
            config = parse(configs[state.config].encode(), "config.yaml")
            sampler = make_sampler(config, config.space, config.objectives, state.stream)
            history = trials.History(state, first=algorithms.replays(sampler)).trials
            assert sampler.suggest(history, 1) == [event["genes"]], event["job"]
        advance(state, event)


def test_a_grid_becomes_a_search_and_a_grid_again(tmp_path: Path) -> None:
    """Its jobs are the trials of the search; no point is run twice."""
    folder = began(tmp_path / "p", grid("1, 2"))
    changed(folder, grid("1, 2, 3, 4", more="search: {n_trials: 3}\n"))
    assert [v[0] for v in values(folder).values()] == [1, 2, 3]
    changed(folder, grid("0, 1, 2, 3, 4"))
    assert [v[0] for v in values(folder).values()] == [1, 2, 3, 0, 4] and len(ran(folder)) == 5
    changed(folder, grid("0, 1, 2, 3, 4, 5"), "--n-trials", "5")
    assert len(ran(folder)) == 5
    changed(folder, grid("0, 1, 2, 3, 4, 5"))
    assert len(ran(folder)) == 6


def test_a_grid_with_a_doubled_value_becomes_a_search(tmp_path: Path) -> None:
    """Each of the two is a job of its own, and none of them is made again."""
    folder = began(tmp_path / "p", grid("1, 2, 2", "8, 9"))
    said = changed(folder, grid("1, 2, 2", "8, 9", "search: {n_trials: 9}\n"))
    assert len(ran(folder)) == 6 and len(values(folder)) == 6
    assert "what is read of jobs has changed" not in said
    assert "6 job(s) become trials of the search, with scores from their files; none is run again" in said
    changed(folder, grid("1, 2, 2, 3", "8, 9", "search: {n_trials: 9}\n"))
    assert [v for n, v in values(folder).items() if n > 5] == [(3, 8), (3, 9)]


def test_more_trials_less_trials_and_a_budget(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    folder = began(tmp_path / "p", search("random", 3))
    said = changed(folder, search("random", 5))
    assert "search.n_trials: 3 -> 5" in said and len(ran(folder)) == 5
    changed(folder, search("random", 2))
    assert len(ran(folder)) == 5
    fresh = began(tmp_path / "whole" / "p", search("random", 5))
    assert told(fresh) == told(folder)


def test_the_genes_of_a_moved_value_follow_it() -> None:
    state = TaskState()
    job = {"type": "create", "job": 0, "values": {"a": "y"}, "text": {"a": "y"}, "command": "", "genes": {"a": 1}}
    advance(state, job)
    advance(state, {"type": "warm", "trials": [{"genes": {"a": 0}, "scores": [1.0]}]})
    advance(state, {"type": "complete", "why": "all"})
    advance(state, {"type": "config", "number": 1, "space": True, "more": True, "reread": True, "genes": {"a": [2, 0]}})
    assert state.jobs[0].genes == {"a": 0} and state.warm == [{"genes": {"a": 2}, "scores": [1.0]}]
    assert (state.config, state.stream, state.complete, state.in_order) == (1, 1, False, False)
    advance(state, {"type": "config", "number": 2, "reread": True, "objectives": True})
    assert state.warm is None and (state.reread, state.stream) == (2, 2)


def test_two_configs_of_one_meaning_differ_in_nothing() -> None:
    config = parse(grid("1, 2").encode(), "a.yaml")
    found = changes.compare(config, parse(("# other\n" + grid("1,   2")).encode(), "b.yaml"))
    assert not found.parts and not found.refused and not found.more


def test_arguments_that_moved_are_no_wider_space() -> None:
    then, now = (
        parse(text.encode(), "a.yaml")
        for text in (
            grid("1"),
            grid("1")
            .replace("name: lr, value: [1]", "name: X, value: [8]")
            .replace("name: w, value: [8]", "name: lr, value: [1]")
            .replace("name: X", "name: w"),
        )
    )
    assert [part.what for part in changes.compare(then, now).refused] == ["the arguments are w, lr, and were lr, w"]


# --- what is read ----------------------------------------------------------------------------------------------------

LOGGED = """
task:
  template: "sh job.sh {lr} {opt}"
  search_args:
    - {type: Uniform, name: lr, low: 0.5, high: 1.0}
    - {type: Categorical, name: opt, value: [a, b]}
monitor: {reward_attribute: REWARD, mode: MODE, regex: ['REGEX']}
search: {sampler: SAMPLER, n_trials: TRIALS, seed: 5}
"""
PRINTS = """
echo "$SEARCHKIT_JOB" >> "$RUNS"
for step in 1 2 3; do echo "epoch $step top1=0.${1#*.}$step err=$step"; done
"""
RIGHT = r"epoch (?P<step>\d+) top1=(?P<top1>[\d.]+) err=(?P<err>\d+)"


def logged(reward: str, mode: str, regex: str, trials_: int = 4, sampler: str = "random", more: str = "") -> str:
    text = LOGGED.replace("REWARD", reward).replace("MODE", mode).replace("REGEX", regex).replace("SAMPLER", sampler)
    return text.replace("TRIALS", str(trials_)) + more


@pytest.mark.parametrize("sampler", ["random", "{type: nsga2, population: 3}"])
def test_a_wrong_regex_is_mended_and_nothing_runs_again(sampler: str, tmp_path: Path) -> None:
    if "nsga2" in sampler:
        pytest.importorskip("optuna")
    wrong, right = logged("top1", "min", "topp=(?P<top1>.*)", 4, sampler), logged("top1", "max", RIGHT, 6, sampler)
    folder = project(tmp_path / "p", wrong, job_sh=PRINTS)
    assert "never reported top1" in changed(folder, wrong)
    assert [scores for *_, scores in told(folder)] == [None] * 4
    said = changed(folder, right)
    assert "4 job(s) are read again from their files, none is run again" in said
    assert "4 of them have top1; from job 4 on the search goes by these numbers" in said
    assert len(ran(folder)) == 6
    for n, _, params, scores in told(folder):
        assert scores == pytest.approx([float("0." + str(params["lr"])[2:] + "3")]), n
    best = max(told(folder), key=lambda trial: trial[3])[0]
    assert f'"job": {best}' in ok(run(folder, "search-ctl", "best", "-k", "1", "--json"))
    assert all(not job.get("reason") for job in show(folder)["jobs"])
    replayed(folder, {0: wrong, 1: right})
    assert "read again" not in changed(folder, right)
    (event,) = [e for e in events(folder) if e["type"] == "config"]
    assert event["reread"] and {e["job"] for e in events(folder) if e["type"] == "numbers"} == {0, 1, 2, 3}


def test_other_objectives_are_read_again_for_rungs_too(tmp_path: Path) -> None:
    """What a stopper judged was the reward of then: the reports that it compares with are those of the new one."""
    then = logged("top1", "max", RIGHT, 5).replace("search: {", "search: {stop: {type: asha, min: 1, max: 3}, ")
    folder = project(tmp_path / "p", then, job_sh=PRINTS)
    changed(folder, then)
    now = then.replace("reward_attribute: top1, mode: max", "reward_attribute: err, mode: min")
    changed(folder, now.replace("n_trials: 5", "n_trials: 6"))
    state = TaskState()
    for event in events(folder):
        advance(state, event)
    for job in state.jobs.values():
        assert all(value == step for step, value in job.reports) and job.reports
        assert job.scores == (job.reports[-1][1] if str(job.state) == "pruned" else 3.0,)
    assert len(ran(folder)) == 6


def test_a_grid_ranks_by_the_new_numbers(tmp_path: Path) -> None:
    config = grid("1, 2").replace("{reward_attribute: acc}", "{reward_attribute: x, regex: ['nothing (?P<x>.)']}")
    folder = project(tmp_path / "p", config, job_sh=JOB + '\necho "value $1"')
    changed(folder, config)
    said = changed(folder, config.replace("nothing", "value"))
    assert "2 job(s) are read again" in said and "search goes by" not in said and len(ran(folder)) == 2
    assert "scalar_info   : {'x': {1: 2.0}" in ok(run(folder, "search-ctl", "show-scalar", "-rt", "+1"))


def test_what_a_new_regex_does_not_give_is_told(tmp_path: Path) -> None:
    """Also where nothing is left to run, and of all jobs of the task."""
    right = grid("1, 2").replace("{reward_attribute: acc}", "{reward_attribute: x, regex: ['value (?P<x>.)']}")
    folder = project(tmp_path / "p", right, job_sh=JOB + '\necho "value $1"')
    changed(folder, right)
    said = changed(folder, right.replace("?P<x>", "?P<y>"))
    assert "2 job(s) are read again from their files, none is run again\n0 of them have x (reported: acc, y)\n" in said
    assert "note: no job ever reported 'x' (reported: acc, y)\n" in said
    assert "2 of them have x\n" in (said := changed(folder, right)) and "ever reported" not in said
    said = changed(folder, right.replace("attribute: x", "attribute: accu"))
    assert "note: no job ever reported 'accu' (reported: acc, x)\n" in said
    # The new job alone prints nothing; it is one of three.
    (folder / "job.sh").write_text(JOB)
    changed(folder, right)
    wider = grid("1, 2, 3").replace("{reward_attribute: acc}", "{reward_attribute: x, regex: ['value (?P<x>[12])']}")
    assert "note: 1 of 3 jobs (the first is 2) never reported 'x' (reported: acc)\n" in changed(folder, wider)


@pytest.mark.parametrize("size", [0, 5000])  # with the series kept, and without
@pytest.mark.parametrize("more", ["", "search: {n_trials: 2}"])
def test_what_was_read_of_files_that_are_gone_stays(more: str, size: int, tmp_path: Path) -> None:
    first = grid("1, 2").replace("{reward_attribute: acc}", "{reward_attribute: x, regex: ['value (?P<x>.)']}\n" + more)
    job = JOB + f'\nprintf "%0{size}d\\n" 0; for v in 9 "$1"; do echo "value $v"; done'
    folder = project(tmp_path / "p", first, job_sh=job)
    changed(folder, first)
    table = ok(run(folder, "search-ctl", "table", "--sort", "-max.x"))
    series = ok(run(folder, "search-ctl", "show-scalar"))
    for log in task_dir(folder).glob("jobs/all/*/log"):
        log.unlink()
    said = changed(folder, first.replace("?P<x>.", "?P<x>[0-9]"))
    assert (
        "note: files of 2 of them are gone (job 0: log); what was read of those before stays\n2 of them have x" in said
    )
    assert ok(run(folder, "search-ctl", "table", "--sort", "-max.x")) == table
    assert ok(run(folder, "search-ctl", "show-scalar")) == series and "{'x': {1: 9.0, 2: 1.0}" in series
    assert "2 of them have x" in changed(folder, first)


@pytest.mark.timeout(600)
def test_killed_while_it_reads_again_the_end_is_the_same(tmp_path: Path) -> None:
    then, now = logged("top1", "max", "topp=(?P<top1>.*)", 3), logged("top1", "max", RIGHT, 4)
    first = project(tmp_path / "first" / "p", then, job_sh=PRINTS)
    changed(first, then)
    ends = []
    for name, cuts in (("unbroken", []), ("broken", [12, 20, 27, 34])):
        shutil.copytree(first.parent, tmp_path / name, symlinks=True)
        folder = tmp_path / name / "p"
        (folder / "config.yaml").write_text(now)
        for at in cuts:
            env = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": str(at), "RUNS": str(folder.parent / "runs")}
            run(folder, "search-run", "-j", "1", "config.yaml", env=env)
        changed(folder, now)
        ends.append((told(folder), len(ran(folder))))
    assert ends[0] == ends[1] and ends[0][1] == 4


def test_fsck_looks_at_the_kept_configs(tmp_path: Path) -> None:
    folder = began(tmp_path / "p", grid("1"))
    changed(folder, grid("1, 2"))
    (task_dir(folder) / "run_config.yaml").write_text(grid("1"))  # as a kill between the event and the file leaves it
    assert "differs from config 1" in ok(run(folder, "search-ctl", "fsck"), 5)
    changed(folder, grid("1, 2"))
    assert (task_dir(folder) / "run_config.yaml").read_text() == grid("1, 2") and len(ran(folder)) == 2
    (task_dir(folder) / "configs/0.yaml").write_text("")
    assert "configs/0.yaml: missing or empty" in ok(run(folder, "search-ctl", "fsck"), 5)
