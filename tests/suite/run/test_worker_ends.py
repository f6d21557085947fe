"""How warm workers and their trials end: stopped, too slow, killed, without a scheduler. Nothing is lost or left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.suite import kill, ok, project, run, show, start, states, wait_for
from tests.support.warm import (
    DEAF,
    POLITE,
    SAY_PID,
    accepted,
    attempt,
    begun,
    config,
    env_of,
    go,
    loop,
    pids,
    went,
    workers_of,
)

pytestmark = pytest.mark.slow

# ---- stops


def test_a_stopped_trial_leaves_its_worker_warm(tmp_path: Path) -> None:
    body = f"""
{SAY_PID}
try:
    {POLITE.strip().replace(chr(10), chr(10) + "    ")}
except Exception as e:
    print("swallowed", e)
print("through", i)
"""
    folder = project(tmp_path / "p", config(3, "workers: 1"), train_py=loop(body))
    go(tmp_path, 1, 2) if env_of(tmp_path) else None
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    said = ok(run(folder, "search-ctl", "stop", "--jobs", "0"))
    assert "no process of it is left" in said
    out, _ = process.communicate(timeout=30)
    assert states(folder) == {0: "stopped", 1: "finished", 2: "finished"}, out
    assert len({p for (p,) in pids(tmp_path).values()}) == 1
    assert attempt(folder, 0).joinpath("log").read_text() == ""  # neither swallowed, nor gone through, nor a traceback
    assert attempt(folder, 0).joinpath("status").read_text().endswith("exit 143\n")


@pytest.mark.parametrize("scheduler", ["alive", "killed"])
def test_a_deaf_trial_is_killed_with_its_worker_alone(tmp_path: Path, scheduler: str) -> None:
    body = SAY_PID + DEAF
    before = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
    folder = project(tmp_path / "p", config(4, "workers: 2"), train_py=loop(body, before))
    process = begun(folder, tmp_path, 0, 1, argv=("-j", "2"))
    if scheduler == "killed":
        process.kill()
        process.communicate()
    before_pids = pids(tmp_path)
    ok(run(folder, "search-ctl", "stop", "--jobs", "1", "--grace", "0.5"))
    assert states(folder)[1] == "stopped" and states(folder)[0] == "running"
    victim, other = before_pids[1][0], before_pids[0][0]
    assert victim not in workers_of(folder) and other in workers_of(folder)
    go(tmp_path, 0, 2, 3)
    if scheduler == "killed":
        ok(run(folder, "search-run", "config.yaml", "-j", "2", env=env_of(tmp_path)))
    out, _ = process.communicate(timeout=30)
    assert states(folder) == {0: "finished", 1: "stopped", 2: "finished", 3: "finished"}, out
    assert accepted(folder) == [0, 1, 2, 3]
    assert {n: len(p) for n, p in pids(tmp_path).items()} == dict.fromkeys(range(4), 1)


def test_a_trial_that_runs_too_long_is_an_error(tmp_path: Path) -> None:
    """Trial 1 ends when it is asked to. Trial 2 does not, so ten seconds later its worker is killed."""
    body = f"{SAY_PID}\nif i == 2:\n    {DEAF.replace(chr(10), chr(10) + '    ')}\n{POLITE}"
    folder = project(tmp_path / "p", config(4, "workers: 1, timeout_s: 2"), train_py=loop(body))
    env = env_of(tmp_path)
    go(tmp_path, 0, 3)
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env), 1)
    jobs = show(folder)["jobs"]
    assert [j["status"] for j in jobs] == ["finished", "error", "error", "finished"]
    for job in jobs[1:3]:
        assert "timeout" in job["reason"] and job["attempt"] == 1 and job["exit_code"] == 143
    served = pids(tmp_path)
    assert served[0] == served[1] == served[2] != served[3]


@pytest.mark.parametrize("scheduler", ["alive", "killed"])
def test_stop_of_the_task_ends_every_worker(tmp_path: Path, scheduler: str) -> None:
    folder = project(tmp_path / "p", config(6, "workers: 2"), train_py=loop(POLITE, after="time.sleep(100)"))
    process = begun(folder, tmp_path, 0, 1, argv=("-j", "2"))
    if scheduler == "killed":
        process.kill()
        process.communicate()
    ok(run(folder, "search-ctl", "stop"))
    assert workers_of(folder) == []
    assert set(states(folder).values()) == {"pending"}
    process.communicate(timeout=30)
    go(tmp_path, *range(6))
    text = loop(POLITE)
    (folder / "train.py").write_text(text)  # the task keeps its snapshot: its workers hang about, and are killed
    process = start(folder, "search-run", "config.yaml", "-j", "2", env=env_of(tmp_path))
    wait_for(lambda: set(states(folder).values()) == {"finished"})
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ok(run(folder, "search-ctl", "delete", "--yes"), 0)
    assert workers_of(folder) == []


def test_ctrl_c_drains_stops_and_leaves(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(4, "workers: 1"), train_py=loop(SAY_PID + POLITE))
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    process.send_signal(signal.SIGINT)  # drains
    wait_for(lambda: process.stdout and "nothing more is launched" in process.stdout.readline())
    go(tmp_path, 0)
    process.communicate(timeout=30)
    assert process.returncode == 130 and states(folder) == {0: "finished", 1: "pending", 2: "pending", 3: "pending"}
    assert workers_of(folder) == []

    process = begun(folder, tmp_path, 1, argv=("-j", "1"))
    process.send_signal(signal.SIGTERM)  # stops
    process.communicate(timeout=30)
    assert process.returncode == 143 and states(folder)[1] == "pending" and workers_of(folder) == []


@pytest.mark.parametrize("kind", ["polite", "deaf"])
def test_the_third_ctrl_c_leaves_a_trial_that_did_not_stop(tmp_path: Path, kind: str) -> None:
    folder = project(
        tmp_path / "p", config(3, "workers: 1"), train_py=loop(SAY_PID + (POLITE if kind == "polite" else DEAF))
    )
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    for _ in range(3 if kind == "deaf" else 2):  # no second signal may be taken for the first
        process.send_signal(signal.SIGINT)
        run(folder, "search-ctl", "show")
    process.communicate(timeout=30)
    assert process.returncode == 130 and bool(workers_of(folder)) == (kind == "deaf")
    again = start(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path))
    assert again.stdout
    wait_for(lambda: kind == "polite" or "still runs in worker" in again.stdout.readline(), why="it is adopted")
    go(tmp_path, 0, 1, 2)
    again.communicate(timeout=30)
    assert states(folder) == dict.fromkeys(range(3), "finished") and workers_of(folder) == []
    assert len(pids(tmp_path)[0]) == (1 if kind == "deaf" else 2)


# ---- deaths


@pytest.mark.parametrize("victim", ["script", "wrapper"])
def test_the_death_of_a_worker_is_one_lost_trial(tmp_path: Path, victim: str) -> None:
    folder = project(tmp_path / "p", config(6, "workers: 2"), train_py=loop(SAY_PID + POLITE))
    process = begun(folder, tmp_path, 0, 1, argv=("-j", "2"))
    (pid,) = pids(tmp_path)[1]
    if victim == "wrapper":
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    kill(pid)
    wait_for(attempt(folder, 1, 2).joinpath("status").exists)
    go(tmp_path, *range(6))
    out, _ = process.communicate(timeout=30)
    jobs = show(folder)["jobs"]
    assert [(j["status"], j["attempt"]) for j in jobs] == [("finished", 2 if n == 1 else 1) for n in range(6)], out
    assert accepted(folder) == list(range(6)) and workers_of(folder) == []


def test_a_trial_that_always_kills_its_worker_is_an_error_in_the_end(tmp_path: Path) -> None:
    body = SAY_PID + "if i == 1: os.kill(os.getpid(), 9)"
    folder = project(tmp_path / "p", config(4, "workers: 1"), train_py=loop(body))
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)), 1)
    jobs = show(folder)["jobs"]
    fine = ("finished", 1)
    assert [(j["status"], j["attempt"]) for j in jobs] == [fine, ("error", 4), fine, fine]
    assert "lost" in jobs[1]["reason"]


def test_a_dead_schedulers_worker_is_adopted(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(6, "workers: 2"), train_py=loop(SAY_PID + POLITE))
    process = begun(folder, tmp_path, 0, 1, argv=("-j", "2"))
    process.kill()
    process.communicate()
    go(tmp_path, 0)  # ends while nobody looks
    wait_for(lambda: "exit" in attempt(folder, 0).joinpath("status").read_text())
    process = start(folder, "search-run", "config.yaml", "-j", "2", env=env_of(tmp_path))
    wait_for(lambda: went(tmp_path, 2).exists())
    go(tmp_path, *range(6))
    out, _ = process.communicate(timeout=30)
    assert "job 1 still runs in worker" in out
    assert accepted(folder) == list(range(6)) and set(states(folder).values()) == {"finished"}
    served = pids(tmp_path)
    assert all(len(p) == 1 for p in served.values()) and len({p[0] for p in served.values()}) == 2
    assert workers_of(folder) == []


def test_a_worker_without_a_scheduler_ends_after_a_while(tmp_path: Path) -> None:
    before = "import searchkit.job.trials\nassert searchkit.job.trials.WAIT_S == 60\nsearchkit.job.trials.WAIT_S = 1.5"
    folder = project(tmp_path / "p", config(3, "workers: 1"), train_py=loop(SAY_PID + POLITE, before))
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    process.kill()
    process.communicate()
    go(tmp_path, *range(3))
    wait_for(lambda: not workers_of(folder), why="the worker ends by itself")
    assert attempt(folder, 0).joinpath("status").read_text().endswith("exit 0\n")
    assert not went(tmp_path, 1).exists()
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)))
    assert accepted(folder) == [0, 1, 2]


def test_a_trial_may_save_itself_on_sigterm(tmp_path: Path) -> None:
    before = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
    body = f"""
{SAY_PID}
try:
    {DEAF.replace(chr(10), chr(10) + "    ")}
finally:
    pathlib.Path(trial.checkpoint, "saved").touch()
"""
    folder = project(tmp_path / "p", config(2, "workers: 1"), train_py=loop(body, before))
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    go(tmp_path, 1)
    ok(run(folder, "search-ctl", "stop", "--jobs", "0", "--grace", "0.5"))
    process.communicate(timeout=30)
    assert states(folder) == {0: "stopped", 1: "finished"}
    assert (attempt(folder, 0) / "checkpoint/saved").exists()
    served = pids(tmp_path)
    assert served[0] != served[1] and len(served[1]) == 1
