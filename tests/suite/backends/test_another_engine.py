"""An engine beside the local one, of a folder and a row of the table: the suite runs on it, and keeps its laws."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.suite import ok, processes_with, project, run, show, states, task_dir, wait_for

ROOT = Path(__file__).parents[3]
CONFIG = """
task:
  template: "echo begin {i} >> $RUNS; sleep $NAP; echo end {i} >> $RUNS"
  search_args: [{type: Categorical, name: i, value: [0, 1, 2]}]
"""


def engine(folder: Path, *argv: str, **env: str) -> subprocess.Popen[str]:
    """A command of the suite on that engine."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.engine", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNS": str(folder / "runs"), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def ended(command: subprocess.Popen[str], code: int = 0) -> str:
    said = command.communicate(timeout=60)[0]
    assert command.returncode == code, said
    return said


def lines(folder: Path) -> Counter[str]:
    path = folder / "runs"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def is_alone(folder: Path) -> bool:
    return not processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}")


def test_jobs_run_there_and_outlive_their_scheduler(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG)
    first = engine(folder, "search-run", "config.yaml", NAP="4")
    wait_for(lambda: lines(folder)["begin 0"] and lines(folder)["begin 1"])
    first.send_signal(signal.SIGKILL)
    first.communicate()
    said = ended(engine(folder, "search-run", "config.yaml", NAP="0.1"))
    assert "job 0 still runs: adopted" in said and "2 at once: on a pilot" in said
    assert states(folder) == {0: "finished", 1: "finished", 2: "finished"}
    assert lines(folder) == {f"{what} {i}": 1 for what in ("begin", "end") for i in range(3)}
    assert [job["attempt"] for job in show(folder)["jobs"]] == [1, 1, 1]
    words = (task_dir(folder) / "jobs/all/0/status").read_text().split()
    assert words[:2] == ["start", "spool"] and words[6] == "pilot-1"
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


@pytest.mark.slow
def test_jobs_there_are_stopped_with_a_scheduler_and_without(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG)
    scheduler = engine(folder, "search-run", "config.yaml", NAP="60")
    wait_for(lambda: lines(folder)["begin 0"] and lines(folder)["begin 1"])
    ended(engine(folder, "search-ctl", "stop", "--jobs", "0"))
    assert states(folder)[0] == "stopped"
    wait_for(lambda: lines(folder)["begin 2"])  # its place is free
    scheduler.send_signal(signal.SIGKILL)
    scheduler.communicate()
    assert states(folder)[1] == "running"
    ended(engine(folder, "search-ctl", "stop"))
    assert is_alone(folder)
    assert states(folder) == {0: "stopped", 1: "pending", 2: "pending"}
    ended(engine(folder, "search-run", "config.yaml", NAP="0.1"))
    assert states(folder) == {0: "stopped", 1: "finished", 2: "finished"}
