"""The Python door to tasks: searchkit.open and searchkit.run, over the workspace that older code made."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import searchkit
from searchkit.errors import ConflictError, NotFoundError, UsageError
from tests.support import old, suite


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks `grid`, `tpe`, `two`, and `stages`; nobody writes to it."""
    return old.unpack("project", tmp_path_factory.mktemp("door"))


def test_a_workspace_is_found_as_git_finds_its_own(project: Path, tmp_path: Path) -> None:
    for place in (project, project / ".search-run", project / ".search-run/tasks"):
        found = searchkit.open(place)
        assert found.path == str(project / ".search-run")
        assert found.task_names == ("grid", "stages", "stages.first", "stages.second", "tpe", "two")
    with pytest.raises(NotFoundError, match="search-init"):
        try:
            searchkit.open(tmp_path)
        except NotFoundError as e:
            raise NotFoundError(f"{e.message} {e.hint}") from e
    with pytest.raises(NotFoundError, match="no task 'gird'"):
        searchkit.open(project).task("gird")


def test_a_job_says_what_search_ctl_says(project: Path) -> None:
    task = searchkit.open(project).task("grid")
    assert (task.status, len(task.jobs)) == ("stopped", 6)
    assert task.counts == {"pending": 1, "finished": 2, "error": 2, "stopped": 1}
    told = {job["job"]: job for job in suite.show(project, "grid")["jobs"]}
    for job in task.jobs:
        facts = told[job.number]
        assert (job.state, dict(job.params), job.command) == (facts["status"], facts["params"], facts["command"])
        assert (job.start_s, job.end_s) == (facts["start_time_s"], facts["end_time_s"])
        assert (job.path, job.exit_code, job.reason) == (facts["run_path"], facts["exit_code"], facts["reason"])
    job = task.job(0)
    assert job.scalars()["acc"][1] == 0.875 and list(job.scalars()["cost"]) == list(range(1, 13))
    assert job.callbacks() == {"pre": {"free": 3}, "after": {"score": 4}} and job.records() == []
    assert task.job(1).log() == '{"free": 3}\nno net of width 7\n{"score": 4}\n' and task.job(1).scalars() == {}
    with pytest.raises(NotFoundError, match="no job 9"):
        task.job(9)
    assert repr(job).startswith("Job(number=0, state='finished', params=mappingproxy({'lr': 0.1,")


def test_the_best_is_that_of_search_ctl(project: Path) -> None:
    ws = searchkit.open(project)
    told = next(said for argv, said in old.expected("project")["looks"] if argv[1] == "best")["jobs"]
    best = ws.task("tpe").best(3)
    assert [(job.number, job.scores) for job in best] == [(each["job"], each["scores"]) for each in told]
    assert ws.task("tpe").best()[0] == ws.task("tpe").job(best[0].number)
    first = ws.task("two").best(2)
    assert all(job.scores.keys() == {"acc", "cost"} for job in first)
    assert ws.task("grid").best(mode="min")[0].number == 3
    for wrong, says in (
        (lambda: ws.task("two").best(mode="min"), "Leave mode"),
        (lambda: ws.task("grid").best(mode="up"), ""),
    ):
        with pytest.raises(UsageError) as caught:
            wrong()
        assert says in caught.value.hint


def test_a_frame_has_a_row_for_each_job(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    rows = searchkit.open(project).task("grid").frame()
    assert rows[0] == {
        **{"job": 0, "state": "finished", "lr": 0.1, "width": 8, "slow": 0},
        **{"acc": 0.9895833333333334, "cost": 96.0, "time_s": rows[0]["time_s"]},
    }
    assert rows[1].keys() == {"job", "state", "lr", "width", "slow", "time_s"}  # it failed before it reported
    staged = searchkit.open(project).task("stages").frame()
    assert [(row["task"], row["job"]) for row in staged] == [
        (f"stages.{stage}", n) for stage, n in (("first", 0), ("first", 1), ("second", 0), ("second", 1))
    ]
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("frame of", rows)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert searchkit.open(project).task("grid").frame() == ("frame of", rows)


def test_a_task_of_stages_says_which_one_is_to_be_named(project: Path) -> None:
    task = searchkit.open(project).task("stages")
    assert [stage.name for stage in task.stages] == ["stages.first", "stages.second"] and len(task.jobs) == 4
    for wrong in (lambda: task.job(0), task.best):
        with pytest.raises(UsageError, match="task 'stages' has stages") as caught:
            wrong()
        assert caught.value.hint == "Open one: stages.first, stages.second"


SLEEPER = """
task:
  template: python train.py --lr {lr}
  search_args: [{type: Categorical, name: lr, value: [1, 2]}]
monitor: {reward_attribute: acc}
"""
TRAIN = """
import os, time, searchkit
searchkit.report(acc=searchkit.params()["lr"], step=1)
while not os.path.exists(os.environ["GO"]):
    time.sleep(0.05)
searchkit.report(acc=5, step=2)
"""


def test_a_run_is_watched_stopped_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", suite.environment()["PATH"])
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    project = suite.project(tmp_path / "project", SLEEPER, train_py=TRAIN)
    run = searchkit.run("config.yaml", task="t", cwd=project, max_parallel=1, gpus="none")
    look = run.task
    suite.wait_for(lambda: run.task.jobs and run.task.job(0).scalars(), why="the first report")
    running = run.task
    assert running.status == "running" and running.job(0).state == "running" and run.poll() is None
    assert running.job(0).scalars() == {"acc": {1: 1}} and run.wait(timeout_s=0.05) is None
    with pytest.raises(ConflictError, match="already being run") as caught:
        searchkit.run("config.yaml", task="t", cwd=project)
    assert caught.value.exit_code == 4
    assert run.stop() == 143 and run.task.status == "stopped"
    assert [job.state for job in run.task.jobs] == ["pending", "pending"]
    assert look.refresh() == run.task and "stopping 1 running job(s)" in run.output
    (tmp_path / "go").touch()
    again = searchkit.run("config.yaml", task="t", cwd=project, max_parallel=2, gpus="none")
    assert again.wait(30) == 0 == again.poll() and again.stop() == 0
    assert [job.scores for job in again.task.best(2)] == [{"acc": 5.0}] * 2
    assert capfd.readouterr() == ("", "")


def test_what_search_run_refuses_is_raised(tmp_path: Path) -> None:
    project = suite.project(tmp_path / "project", "task: {template: 'echo {a}', search_args: 3}\nrnu: {}\n")
    with pytest.raises(UsageError) as caught:
        searchkit.run("config.yaml", cwd=project)
    assert "config.yaml:1:" in caught.value.message and "config.yaml:2:1: unknown key 'rnu'" in caught.value.message
    assert not caught.value.message.startswith("error")
    with pytest.raises(UsageError, match=r"no option 'max_paralel' \(did you mean max_parallel\?\)"):
        searchkit.run("config.yaml", cwd=project, max_paralel=2)
    with pytest.raises(UsageError, match=r"^Invalid value for '-j' / '--max-parallel': 0 is not in the range"):
        searchkit.run("config.yaml", cwd=project, max_parallel=0)
    with pytest.raises(NotFoundError, match="no workspace"):
        searchkit.run("config.yaml", cwd=tmp_path)


def test_looking_needs_no_heavy_library(project: Path) -> None:
    code = (
        "import sys, searchkit; t = searchkit.open('.').task('tpe'); t.best(); t.job(0).scalars()\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'optuna', 'click', 'rich', 'numpy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("\n", "")
