"""Seeded random SIGKILLs over scheduler, wrappers and jobs while several jobs run at once."""

from __future__ import annotations

import collections
import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.marks import some_of
from tests.support.storm import settled, storm
from tests.support.suite import (
    ok,
    processes_with,
    project,
    run,
    start,
    states,
    task_dir,
)

JOBS = 40
CONFIG = f"""
task:
  template: "sh job.sh {{i}}"
  search_args:
    - {{type: Categorical, name: i, value: [{", ".join(map(str, range(JOBS)))}]}}
run: {{retries: 100000}}
monitor: {{reward_attribute: attempt}}
"""
JOB = """
exec 8>>"$LOCKS/$SEARCHKIT_JOB"
flock -n 8 || echo "overlap $SEARCHKIT_JOB" >> "$RUNS"
sleep 0.2
echo "{\\"attempt\\": $SEARCHKIT_ATTEMPT, \\"job\\": $1}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
echo "end $SEARCHKIT_JOB" >> "$RUNS"
"""


def processes(folder: Path) -> dict[int, tuple[str, int]]:
    """Every wrapper of the task with its job, those that still wait at their gate included, and the jobs' processes."""
    found = {}
    for pid in processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}"):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if len(words) > 1 and words[1].endswith(b"wrapper.sh"):
            # One that ends between the two looks has no variables.
            for v in variables:
                if v.startswith(b"SEARCHKIT_JOB="):
                    found[pid] = "wrapper", int(v.partition(b"=")[2])
        else:
            found[pid] = "job", -1
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.long)])
def test_storm(tmp_path: Path, kills: int) -> None:
    total: collections.Counter[str] = collections.Counter()
    seed = 0
    while total.total() < kills:
        here = tmp_path / str(seed)
        locks, runs = here / "locks", here / "runs"
        folder = project(here / "p", CONFIG, job_sh=JOB)
        locks.mkdir()
        env = {"LOCKS": str(locks), "RUNS": str(runs)}
        total += storm(
            folder,
            random.Random(seed),
            env,
            min(120, kills),
            at_once=4,
            pause_s=(0.01, 0.12),
            victims=("scheduler", "wrapper", "job"),
            live=processes,
        )
        ok(run(folder, "search-run", "-j", "4", "config.yaml", env=env, timeout_s=120))
        check(folder, runs, f"seed {seed}")
        seed += 1
    print(f"kills: {dict(total)}")


def check(folder: Path, runs: Path, what: str) -> None:
    lines = settled(folder, runs, JOBS, f"SEARCHKIT_JOB_DIR={task_dir(folder)}", what)
    assert {line for line in lines} == {f"end {n}" for n in range(JOBS)}, what
    shown = json.loads(ok(run(folder, "search-ctl", "show", "--json", "--task", "default")))["jobs"]
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    for job, s in zip(shown, scalars, strict=True):
        # The result belongs to this job and to its highest attempt, which reported exactly once.
        assert s["scalars"] == {"attempt": {"1": job["attempt"]}, "job": {"1": job["job"]}} or s["scalars"] == {
            "attempt": {"1": job["attempt"]}
        }, (what, job, s)


STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; sleep 1000' &
setsid env -u SEARCHKIT_TOKEN sh -c 'trap "" TERM; sleep 1000' &
(env -i PATH="$PATH" sh -c 'trap "" TERM; sleep 1000' &)
python3 -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
' &
sh -c 'sh -c "sleep 1000; true"; true'
sleep 1000
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheduler", some_of(["alive", "killed"], "killed"))
def test_stop_leaves_nothing_of_64_trees(tmp_path: Path, scheduler: str) -> None:
    values = ", ".join(map(str, range(64)))
    template = "task: {template: 'sh job.sh {i}', search_args: [{type: Categorical, name: i, value: [" + values + "]}]}"
    folder = project(tmp_path / "p", template, job_sh=STUBBORN)
    needle = f"SEARCHKIT_JOB_DIR={task_dir(folder)}/jobs/all/"
    process = start(folder, "search-run", "-j", "64", "config.yaml")
    deadline = time.monotonic() + 60
    while len(processes_with(needle)) < 64 * 5 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(processes_with(needle)) >= 64 * 5
    if scheduler == "killed":
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = ok(run(folder, "search-ctl", "stop", "--grace", "1", timeout_s=120))
    assert "no process of it is left" in said
    assert processes_with(needle) == []
    assert set(states(folder).values()) == {"pending"}  # stopped as a task: the next search-run goes on
    process.communicate(timeout=30)
