"""Scripts for warm workers, and what their tests look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.suite import events, processes_with, start, task_dir, wait_for


def config(n: int, run_keys: str, more: str = "", name: str = "i") -> str:
    values = ", ".join(map(str, range(n)))
    return f"""
task:
  template: python train.py
  search_args: [{{type: Categorical, name: {name}, value: [{values}]}}]
run: {{{run_keys}}}
monitor: {{reward_attribute: acc}}
{more}
"""


def loop(body: str, before: str = "", after: str = "") -> str:
    """A script that serves trials; `body` stands inside `with trial:`."""
    indented = "\n".join("        " + line for line in body.splitlines())
    return f"""
import os, pathlib, subprocess, sys, time
import searchkit
{before}
for trial in searchkit.trials():
    with trial:
        i = trial.params["i"]
{indented}
{after}
"""


SAY_PID = 'with open(os.environ["PIDS"], "a") as f: print(trial.number, os.getpid(), file=f)\n'
WAIT = """
pathlib.Path(os.environ["MARKS"], f"began-{i}").touch()
while not pathlib.Path(os.environ["MARKS"], f"go-{i}").exists():
    time.sleep(0.02)
    %s
"""
POLITE, DEAF = WAIT % "trial.report(acc=0)", WAIT % ""


def env_of(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "marks").mkdir(exist_ok=True)
    return {"PIDS": str(tmp_path / "pids"), "MARKS": str(tmp_path / "marks")}


def pids(tmp_path: Path) -> dict[int, list[int]]:
    """Which processes ran each trial."""
    by_trial: dict[int, list[int]] = {}
    for line in (tmp_path / "pids").read_text().splitlines():
        trial, pid = map(int, line.split())
        by_trial.setdefault(trial, []).append(pid)
    return by_trial


def went(tmp_path: Path, i: int) -> Path:
    return tmp_path / "marks" / f"began-{i}"


def go(tmp_path: Path, *numbers: int) -> None:
    for i in numbers:
        (tmp_path / "marks" / f"go-{i}").touch()


def attempt(folder: Path, n: int, k: int = 1) -> Path:
    root = task_dir(folder) / f"jobs/all/{n}"
    return root if k == 1 else root / f"attempt-{k}"


def accepted(folder: Path) -> list[int]:
    return sorted(e["job"] for e in events(folder) if e["type"] == "result" and not e["retry"])


def workers_of(folder: Path) -> list[int]:
    """Every process that carries the mark of a worker of this task."""
    return processes_with(f"SEARCHKIT_WORKER={task_dir(folder)}/workers/")


def begun(folder: Path, tmp_path: Path, *numbers: int, argv: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    process = start(folder, "search-run", "config.yaml", *argv, env=env_of(tmp_path))
    wait_for(lambda: all(went(tmp_path, i).exists() for i in numbers), why=f"trials {numbers} begin")
    return process
