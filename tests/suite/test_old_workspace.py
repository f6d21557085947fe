"""A workspace that the code before the two wings made opens as it did then, and its tasks go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import old, suite


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old.unpack("project", tmp_path_factory.mktemp("old"))


@pytest.mark.slow
def test_what_it_holds_is_told_as_it_was(project: Path) -> None:
    for argv, then in old.expected("project")["looks"]:
        now = json.loads(suite.ok(suite.run(project, *argv)))
        assert not (faults := old.lacks(then, now, project.parent)), (argv, faults)
    assert "6 task(s) checked: 0 fault(s)" in suite.ok(suite.run(project, "search-ctl", "fsck"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["grid", "tpe", "two", "stages"])
def test_a_task_goes_on(project: Path, task: str) -> None:
    """What ended stays as it was, what was broken off runs again, and a search makes the points that it then made."""
    code = 1 if task == "grid" else 0  # which has jobs that failed
    suite.ok(suite.run(project, "search-run", "--task", task, f"{task}.yaml", "-j", "1", "--gpus", "none"), code)
    task = "stages.second" if task == "stages" else task
    now = [(job["status"], job["params"]) for job in suite.show(project, task)["jobs"]]
    then = [(state, params) for state, params in old.expected("project")["ends"][task]]
    if task == "tpe":  # its stopper ends a job that does not outrun it, so later points may be others
        assert len(now) == len(then) and now[:6] == then[:6] and now[6][1] == then[6][1]
        assert all(state in ("finished", "pruned") for state, _ in now)
    else:
        assert now == then
    assert "0 fault(s)" in suite.ok(suite.run(project, "search-ctl", "fsck"))
