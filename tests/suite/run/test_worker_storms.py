"""SIGKILL over warm workers and their scheduler: no trial is lost, doubled or given to another job.

`make test` has a sample, `make test-all` a longer one; `KILL_POINTS=all` cuts at every single change of a file.
"""

from __future__ import annotations

import collections
import json
import os
import random
from pathlib import Path

import pytest

from tests.support.storm import settled, storm
from tests.support.suite import (
    HARNESS,
    events,
    ok,
    processes_with,
    project,
    run,
    show,
    task_dir,
)

SCRIPT = """
import fcntl, os, time
import searchkit

def note(line):
    with open(os.environ["RUNS"], "a") as f:
        f.write(line + "\\n")

for trial in searchkit.trials():
    with trial:
        n = trial.number
        assert os.environ["SEARCHKIT_JOB"] == str(n) == str(trial.params["i"])
        with open(f"{os.environ['LOCKS']}/{n}", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                note(f"overlap {n}")
            note(f"start {n}")
            time.sleep(float(os.environ["TRIAL_S"]))
            trial.report(attempt=int(os.environ["SEARCHKIT_ATTEMPT"]), job=n)
            with open("out.txt", "w") as f:
                f.write(str(n))
            note(f"end {n}")
"""


def config(jobs: int, workers: int) -> str:
    values = ", ".join(map(str, range(jobs)))
    return f"""
task:
  template: python train.py
  search_args: [{{type: Categorical, name: i, value: [{values}]}}]
run: {{workers: {workers}}}
monitor: {{reward_attribute: attempt}}
"""


def processes(folder: Path) -> dict[int, tuple[str, int]]:
    """Every process of every worker: its number -> (wrapper or script, the job that it was handed last or -1)."""
    found = {}
    for pid in processes_with(f"SEARCHKIT_WORKER={task_dir(folder)}/workers/"):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        root = next(v.partition(b"=")[2] for v in variables if v.startswith(b"SEARCHKIT_WORKER=")).decode()
        said = [json.loads(line) for line in Path(root, "inbox.jsonl").read_text().splitlines() if line.endswith("}")]
        trials = [m["trial"] for m in said if "trial" in m]
        kind = "wrapper" if len(words) > 1 and words[1].endswith(b"wrapper.sh") else "script"
        found[pid] = kind, int(trials[-1].partition("/")[0]) if trials else -1
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.long)])
def test_storm(tmp_path: Path, kills: int) -> None:
    total: collections.Counter[str] = collections.Counter()
    seed = 0
    while total.total() < kills:
        here = tmp_path / str(seed)
        locks, runs = here / "locks", here / "runs"
        jobs = min(60, 4 * kills)
        folder = project(here / "p", config(jobs, 3), train_py=SCRIPT)
        locks.mkdir()
        env = {"LOCKS": str(locks), "RUNS": str(runs), "TRIAL_S": "0.15"}
        total += storm(
            folder,
            random.Random(seed),
            env,
            min(25, kills),
            at_once=3,
            pause_s=(0.05, 0.6),
            victims=("scheduler", "wrapper", "script", "script"),
            live=processes,
        )
        ok(run(folder, "search-run", "-j", "3", "config.yaml", env=env, timeout_s=120))
        check(folder, runs, jobs, f"seed {seed}")
        seed += 1
    print(f"kills: {dict(total)}")


def check(folder: Path, runs: Path, jobs: int, what: str) -> None:
    lines = settled(folder, runs, jobs, f"SEARCHKIT_WORKER={task_dir(folder)}", what)
    # One death is one lost trial at most: a job ran once, and once more for every attempt that was lost.
    lost = collections.Counter(e["job"] for e in events(folder) if e["type"] == "result" and e["retry"])
    for n in range(jobs):
        assert 1 <= lines[f"end {n}"] <= lines[f"start {n}"] <= 1 + lost[n], (what, n)
    shown = show(folder)["jobs"]
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    for job, s in zip(shown, scalars, strict=True):
        n, k = job["job"], job["attempt"]
        assert s["scalars"] == {"attempt": {"1": k}, "job": {"1": n}}, (what, job, s)
        root = task_dir(folder) / f"jobs/all/{n}"
        assert (root if k == 1 else root / f"attempt-{k}").joinpath("p/out.txt").read_text() == str(n), what


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cuts", [4, pytest.param(20, marks=pytest.mark.long)])
def test_kill_points(tmp_path: Path, cuts: int) -> None:
    """Only the scheduler is killed, so its worker's trials run exactly once, wherever that happens."""
    here, log = tmp_path / "unbroken", tmp_path / "log"
    env = {"RUNS": str(tmp_path / "runs"), "LOCKS": str(tmp_path), "TRIAL_S": "0.02"}
    path = f"{HARNESS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    folder = project(here / "p", config(2, 1), train_py=SCRIPT)
    traced = {**env, "PYTHONPATH": path, "SEARCHKIT_KILL_LOG": str(log)}
    ok(run(folder, "search-run", "-j", "1", "config.yaml", env=traced))
    changes = log.read_text().split()
    points = [("SEARCHKIT_KILL_AT", n) for n in range(1, len(changes) + 1)]
    points += [("SEARCHKIT_TEAR_AT", n) for n, name in enumerate(changes, 1) if name == "write"]
    assert len(points) > 80
    if os.environ.get("KILL_POINTS") != "all":
        points = random.Random(0).sample(points, cuts)
    killed = 0
    for variable, n in points:
        what = f"{variable}={n} ({changes[n - 1]})"
        runs = tmp_path / f"runs-{variable}-{n}"
        folder = project(tmp_path / f"{variable}-{n}" / "p", config(2, 1), train_py=SCRIPT)
        env["RUNS"] = str(runs)
        first = run(folder, "search-run", "-j", "1", "config.yaml", env={**env, "PYTHONPATH": path, variable: str(n)})
        killed += first.returncode == -9
        ok(run(folder, "search-run", "-j", "1", "config.yaml", env=env))
        check(folder, runs, 2, what)
        said = collections.Counter(runs.read_text().splitlines())
        assert said == {f"{w} {i}": 1 for w in ("start", "end") for i in (0, 1)}, f"{what}: {said}"
    # The number of changes differs a little from run to run (how results batch), so the last points may not be met.
    assert killed >= 0.75 * len(points), f"only {killed} of {len(points)} points were met"
    print(f"kill points met: {killed}")


SUICIDE = """
import os, signal
made = 0

def wrap(name, open_=os.open, close=os.close):
    raw = getattr(os, name)
    def changed(*args, **kwargs):
        global made
        done = raw(*args, **kwargs)
        made += 1
        if made == int(os.environ["KILL_AFTER"]):
            try:  # one worker alone
                close(open_(os.environ["RUNS"] + "-killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return done
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(os, name, changed)

for name in ("open", "write", "dup2", "close", "chdir"):
    wrap(name)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cuts", [3, pytest.param(15, marks=pytest.mark.long)])
def test_every_point_of_a_worker(tmp_path: Path, cuts: int) -> None:
    """A worker dies after each of its changes: at most the trial that it runs is lost, and runs again."""
    env = {"RUNS": str(tmp_path / "runs"), "LOCKS": str(tmp_path), "TRIAL_S": "0"}
    script = SUICIDE + SCRIPT + "\nprint(made)\n"
    folder = project(tmp_path / "unbroken" / "p", config(2, 1), train_py=script)
    ok(run(folder, "search-run", "-j", "1", "config.yaml", env={**env, "KILL_AFTER": "0"}))
    changes = int((task_dir(folder) / "workers/1/log").read_text())
    points = range(1, changes + 1)
    if os.environ.get("KILL_POINTS") != "all":
        points = sorted(random.Random(0).sample(points, min(cuts, changes)))
    for n in points:
        env |= {"RUNS": str(tmp_path / f"runs-{n}"), "KILL_AFTER": str(n)}
        folder = project(tmp_path / f"at-{n}" / "p", config(2, 1), train_py=script)
        ok(run(folder, "search-run", "-j", "1", "config.yaml", env=env))
        check(folder, Path(env["RUNS"]), 2, f"after {n} of {changes}")
        assert Path(f"{env['RUNS']}-killed").exists()
        assert sum(j["attempt"] - 1 for j in show(folder)["jobs"]) <= 1
