"""search-run as a user meets it: config in, jobs out, and every way to interrupt and go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.suite import (
    environment,
    events,
    ok,
    processes_with,
    project,
    run,
    show,
    start,
    states,
    task_dir,
    wait_for,
)

pytestmark = pytest.mark.slow

GRID = """
task:
  template: "sh job.sh {a} {b}"
  search_args:
    - {type: Categorical, name: a, value: [1, 2]}
    - {type: Categorical, name: b, value: [1e-3, 'x y']}
"""


def config(template: str, n: int = 1, **more: str) -> str:
    """A config with one argument `i` of `n` values, and further top-level keys."""
    values = ", ".join(map(str, range(n)))
    text = f"task:\n  template: {json.dumps(template)}\n"
    text += f"  search_args: [{{type: Categorical, name: i, value: [{values}]}}]\n"
    return text + "".join(f"{key}: {value}\n" for key, value in more.items())


def log(folder: Path, job: int, task: str = "default") -> str:
    return (task_dir(folder, task) / f"jobs/all/{job}/log").read_text()


def test_layout_and_rendering(tmp_path: Path) -> None:
    folder = project(tmp_path / "my project", GRID, job_sh='printf "<%s>" "$@"; pwd')
    ok(run(folder, "search-run", "config.yaml"))
    jobs = task_dir(folder) / "jobs"
    assert sorted(os.listdir(jobs / "all")) == ["0", "1", "2", "3"]
    assert log(folder, 1) == f"<1><x y>{jobs}/all/1/my project\n"
    link = jobs / "tree/a/2/b/1e-3"
    assert link.is_symlink() and not os.path.isabs(os.readlink(link))
    assert link.resolve() == jobs / "all/2"
    params = json.loads((link / "params.json").read_text())
    assert params["values"] == {"a": 2, "b": 0.001}
    assert params["text"] == {"a": "2", "b": "1e-3"}
    inodes = sum(len(f) + len(d) for _, d, f in os.walk(jobs / "all/0"))
    own = sum(len(f) + len(d) for _, d, f in os.walk(jobs / "all/0/my project"))
    assert 1 + inodes - own + 1 <= 12  # the job's folder and its link included


def test_the_workspace_may_move(tmp_path: Path) -> None:
    folder = project(tmp_path / "here", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))
    folder.rename(tmp_path / "there")
    assert (tmp_path / "there/.search-run/tasks/default/jobs/tree/i/0/params.json").exists()
    assert show(tmp_path / "there")["jobs"][0]["run_path"].startswith(str(tmp_path / "there"))


def test_commands_work_from_below_the_project(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("cat data.txt; true {i}"), data_txt="here")
    (folder / "sub").mkdir()
    ok(run(folder / "sub", "search-run", "../config.yaml"))
    assert log(folder, 0) == "here"


def test_jobs_never_meet(tmp_path: Path) -> None:
    job = "echo $1 > same.txt; mkdir -p deep; echo $1 > deep/same.txt; echo $1 > ../same.txt; sleep 0.2\n"
    job += "cat same.txt deep/same.txt ../same.txt"
    folder = project(tmp_path / "p", config("sh job.sh {i}", 6), job_sh=job)
    ok(run(folder, "search-run", "config.yaml", "-j", "6"))
    assert [log(folder, n).split() for n in range(6)] == [[str(n)] * 3 for n in range(6)]
    assert not (folder / "same.txt").exists()


def test_a_list_template_needs_no_shell(tmp_path: Path) -> None:
    text = "task:\n  template: [printf, '%s|', '{i}', '$HOME', '{i}x']\n"
    text += "  search_args: [{type: Categorical, name: i, value: ['a b', \"it's\"]}]\n"
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "config.yaml"))
    assert [log(folder, n) for n in (0, 1)] == ["a b|$HOME|a bx|", "it's|$HOME|it'sx|"]


def test_environment_of_a_job(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("env; true {i}", env="{LR: 010}", search="{seed: 7}"))
    ok(run(folder, "search-run", "config.yaml", "--task", "t", env={"MINE": "yes", "OMP_NUM_THREADS": ""}))
    env = dict(line.split("=", 1) for line in log(folder, 0, "t").splitlines() if "=" in line)
    root = str(task_dir(folder, "t") / "jobs/all/0")
    want = {
        "SEARCHKIT_TASK": "t",
        "SEARCHKIT_JOB": "0",
        "SEARCHKIT_ATTEMPT": "1",
        "SEARCHKIT_JOB_DIR": root,
        "SEARCHKIT_PARAMS": f"{root}/params.json",
        "SEARCHKIT_CALLBACK": f"{root}/callback",
        "SEARCHKIT_CHECKPOINT": f"{root}/checkpoint",
        "SEARCHKIT_SEED": "7",
        "LR": "010",
        "MINE": "yes",
        "OMP_NUM_THREADS": "",  # the user's own
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert {k: env.get(k) for k in want} == want
    assert env["MASTER_PORT"] == env["PET_MASTER_PORT"]


def test_two_jobs_have_two_ports(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("echo $MASTER_PORT $OMP_NUM_THREADS; true {i}", 4))
    ok(run(folder, "search-run", "config.yaml"))
    words = [log(folder, n).split() for n in range(4)]
    assert len({w[0] for w in words}) == 4


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config('echo x >> "$RUNS"; exit {i}', 2))
    env = {"RUNS": str(tmp_path / "runs")}
    ok(run(folder, "search-run", "config.yaml", env=env), 1)
    ok(run(folder, "search-run", "config.yaml", env=env), 1)
    assert states(folder) == {0: "finished", 1: "error"}
    assert len((tmp_path / "runs").read_text().split()) == 2


def test_same_config_other_comments_is_the_same(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))
    (folder / "config.yaml").write_text("# a comment\n" + config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))


def test_other_config_is_refused_with_a_diff(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))
    (folder / "config.yaml").write_text(config("echo {i}", 2))
    done = run(folder, "search-run", "config.yaml")
    ok(done, 4)
    assert "exists with another config" in done.stderr and '+  template: "echo {i}"' in done.stderr
    assert states(folder) == {0: "finished"}
    said = ok(run(folder, "search-run", "config.yaml", "--overwrite"))
    assert "moved the old task away" in said
    assert states(folder) == {0: "finished", 1: "finished"}
    old = re.search(r"away: (.*)", said)
    assert old and (Path(old[1]) / "jobs/all/0/params.json").exists()


def test_overwrite_refuses_while_a_job_lives(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 60; true {i}"))
    process = start(folder, "search-run", "config.yaml")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    (folder / "config.yaml").write_text(config("true {i}"))
    assert "already being run" in run(folder, "search-run", "config.yaml", "--overwrite").stderr
    process.kill()
    process.communicate()
    done = run(folder, "search-run", "config.yaml", "--overwrite")
    ok(done, 4)
    assert "has running jobs: 0" in done.stderr
    ok(run(folder, "search-ctl", "stop"))
    ok(run(folder, "search-run", "config.yaml", "--overwrite"))


def test_two_search_runs_on_one_task(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 60; true {i}"))
    process = start(folder, "search-run", "config.yaml")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    done = run(folder, "search-run", "config.yaml")
    ok(done, 4)
    assert f"process {process.pid}" in done.stderr
    ok(run(folder, "search-ctl", "stop"))
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_ctrl_c_drains_then_stops_then_leaves(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 1; echo done; true {i}", 3))
    process = start(folder, "search-run", "config.yaml", "-j", "1")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "may finish" in out
    assert states(folder) == {0: "finished", 1: "pending", 2: "pending"}

    process = start(folder, "search-run", "config.yaml", "-j", "1")
    wait_for(lambda: (task_dir(folder) / "jobs/all/1/status").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert states(folder) == {0: "finished", 1: "pending", 2: "pending"}
    assert processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}") == []

    process = start(folder, "search-run", "config.yaml", "-j", "1")
    wait_for(lambda: (task_dir(folder) / "jobs/all/1/attempt-2/status").exists())
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    process.communicate(timeout=30)
    ok(run(folder, "search-run", "config.yaml", "-j", "1"))
    assert set(states(folder).values()) == {"finished"}


def test_sigterm_stops_and_can_be_resumed(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 5; true {i}", 2))
    process = start(folder, "search-run", "config.yaml")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert set(states(folder).values()) == {"pending"}


def test_a_killed_scheduler_is_followed_by_one_that_adopts(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config('sleep 4; echo $$ >> "$RUNS"; true {i}', 2))
    env = {"RUNS": str(tmp_path / "runs")}
    process = start(folder, "search-run", "config.yaml", "-j", "2", env=env)
    wait_for(lambda: len(list(task_dir(folder).glob("jobs/all/*/status"))) == 2)
    process.kill()
    process.communicate()
    assert states(folder) == {0: "running", 1: "running"}
    said = ok(run(folder, "search-run", "config.yaml", env=env))
    assert said.count("still runs: adopted") == 2
    assert len((tmp_path / "runs").read_text().split()) == 2


def test_retries_timeouts_and_on_error(tmp_path: Path) -> None:
    job = 'test "$SEARCHKIT_ATTEMPT" -ge 3'
    folder = project(tmp_path / "p", config("sh job.sh {i}", run="{retries: 2}"), job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    shown = show(folder)["jobs"][0]
    assert (shown["status"], shown["attempt"]) == ("finished", 3)
    assert shown["run_path"].endswith("jobs/all/0/attempt-3")

    folder = project(tmp_path / "q", config("sleep 60; true {i}", run="{timeout_s: 0.5}"))
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert "timeout" in show(folder)["jobs"][0]["reason"]
    assert processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}") == []

    folder = project(tmp_path / "r", config("exit $(({i} == 1))", 5, run="{on_error: stop, max_parallel: 1}"))
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert list(states(folder).values()) == ["finished", "error", "pending", "pending", "pending"]


def test_callbacks(tmp_path: Path) -> None:
    keys = {"callbacks": "{pre: sh pre.sh, after: sh after.sh}", "monitor": "{reward_attribute: acc}"}
    pre = 'echo hello; echo \'{"hours": [0.5, "xxx"]}\'; test "$SEARCHKIT_JOB" != 1'
    folder = project(
        tmp_path / "p",
        config("echo ran; true {i}", 2, **keys),
        pre_sh=pre,
        after_sh='echo \'{"Loss": 0.1, "Test Acc": 0.95}\'; echo trailing; exit 3',
    )
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert states(folder) == {0: "finished", 1: "error"}
    assert "ran" not in log(folder, 1) and "pre callback failed" in show(folder)["jobs"][1]["reason"]
    shown = ok(run(folder, "search-ctl", "show-scalar", "--jobs", "0"))
    assert "  pre_callback_result:\n    hours: [0.5, 'xxx']\n" in shown
    assert "  after_callback_result:\n    Loss    : 0.1\n    Test Acc: 0.95\n" in shown
    status = (task_dir(folder) / "jobs/all/0/status").read_text().splitlines()
    assert [line.split()[0] for line in status] == ["start", "ended", "after", "exit"]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", GRID, job_sh="true")
    before = sorted(folder.rglob("*"))
    said = ok(run(folder, "search-run", "config.yaml", "--dry-run"))
    assert sorted(folder.rglob("*")) == before
    assert "#3 sh job.sh 2 'x y'" in said
    assert "jobs/tree/a/2/b/x y -> jobs/all/3" in said


def test_symlinks_copies_small_and_links_big(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    (folder / "data").mkdir(parents=True)
    (folder / "many").mkdir()
    for n in range(250):
        (folder / "many" / f"{n}.txt").write_text(str(n))
    (folder / "data/big.bin").write_bytes(b"x" * (1 << 20))
    (folder / "data/small.bin").write_bytes(b"x")
    project(folder, config("echo new > data/small.bin; ls data; true {i}", 2))
    done = run(folder, "search-run", "config.yaml", "--symlinks")
    ok(done)
    assert "share the project's folder many/" in done.stderr
    work = task_dir(folder) / "jobs/all/0/p"
    assert (work / "data/big.bin").resolve() == folder / "data/big.bin"
    assert not (work / "data").is_symlink() and not (work / "data/small.bin").is_symlink()
    assert (work / "many").is_symlink()
    assert (folder / "data/small.bin").read_bytes() == b"x"


def test_searchignore_and_special_files(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    (folder / ".git").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "env").mkdir()
    (folder / "env/pyvenv.cfg").write_text("")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("../outside.txt")
    (tmp_path / "outside.txt").write_text("outside")
    os.mkfifo(folder / "pipe")
    with open(folder / "sparse.bin", "wb") as f:
        f.truncate(1 << 30)
    (folder / "keep.log").write_text("")
    (folder / "drop.log").write_text("")
    (folder / ".searchignore").write_text("*.log\n!keep.log\n")
    project(folder, config("cat up; ls -a; true {i}"))
    done = run(folder, "search-run", "config.yaml")
    ok(done)
    assert "left out (no regular file): pipe" in done.stderr
    names = set(log(folder, 0).replace("outside", "", 1).split())
    assert {"keep.log", "loop", "up", "sparse.bin", "config.yaml"} <= names
    assert not names & {"drop.log", ".git", "__pycache__", "env", "pipe", ".search-run"}
    copy = task_dir(folder) / "jobs/all/0/p/sparse.bin"
    assert copy.stat().st_size == 1 << 30 and copy.stat().st_blocks * 512 < 1 << 20


def test_resume_keeps_its_snapshot_and_says_what_differs(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("cat version.txt; sleep 0.3; true {i}", 2), version_txt="1")
    process = start(folder, "search-run", "config.yaml", "-j", "1")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    process.send_signal(signal.SIGINT)
    process.communicate()
    for name in ("version.txt", "a.yaml", "b.log", "c.csv", "d", "z.py"):
        (folder / name).write_text("two")
    done = run(folder, "search-run", "config.yaml")
    ok(done)
    assert "changed since: z.py, a.yaml, b.log, c.csv, d and 1 more (restart" in done.stderr  # code comes first
    assert log(folder, 1) == "1"


def test_restart_failed_runs_the_fixed_script(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sh job.sh {i}", 3), job_sh="echo broken; exit $(($1 == 1))")
    ok(run(folder, "search-run", "config.yaml"), 1)
    (folder / "job.sh").write_text("echo fixed")
    said = ok(run(folder, "search-ctl", "restart", "--failed"))
    assert "restarted jobs 1" in said and "in the background" in said
    wait_for(lambda: states(folder) == {0: "finished", 1: "finished", 2: "finished"})
    assert log(folder, 0) == "broken\n"
    assert (task_dir(folder) / "jobs/all/1/attempt-2/log").read_text() == "fixed\n"
    assert show(folder)["jobs"][1]["run_path"].endswith("attempt-2")
    assert ok(run(folder, "search-ctl", "logs", "--jobs", "1")) == "fixed\n"
    assert ok(run(folder, "search-ctl", "logs", "--jobs", "1", "--attempt", "1")) == "broken\n"


def test_detach(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 0.5; true {i}", 2))
    said = ok(run(folder, "search-run", "config.yaml", "--detach", "-j", "2"))
    assert "runs in the background" in said
    wait_for(lambda: set(states(folder).values()) == {"finished"})


def test_stop_delete_and_their_marks(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 30; true {i}", 3))
    process = start(folder, "search-run", "config.yaml", "-j", "1")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    ok(run(folder, "search-ctl", "stop", "--jobs", "0,2"))
    wait_for(lambda: (task_dir(folder) / "jobs/all/1/status").exists())
    assert states(folder) == {0: "stopped", 1: "running", 2: "stopped"}
    ok(run(folder, "search-ctl", "delete", "--jobs", "1", "-y"), 4)
    ok(run(folder, "search-ctl", "delete", "--jobs", "0", "-y"))
    assert not (task_dir(folder) / "jobs/all/0").exists()
    assert not (task_dir(folder) / "jobs/tree/i/0").is_symlink()
    ok(run(folder, "search-ctl", "stop", "--jobs", "1"))
    process.communicate(timeout=30)
    ok(run(folder, "search-run", "config.yaml"))  # nothing to do: stopped stays stopped, deleted stays deleted
    assert states(folder) == {1: "stopped", 2: "stopped"}
    ok(run(folder, "search-ctl", "delete", "-y"))
    assert "default" not in ok(run(folder, "search-ctl", "show"))
    assert (folder / ".search-run/summary.yaml").read_text() == "{}\n"


def test_a_job_leaves_nothing_behind_when_it_ends(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("(setsid sleep 100 &); exit {i}", 2))
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}") == []


def test_provenance_without_secrets(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml", env={"API_TOKEN": "hush-hush"}))
    text = (task_dir(folder) / "snapshot/0/provenance.json").read_text()
    facts = json.loads(text)
    assert "hush-hush" not in "".join(p.read_text() for p in task_dir(folder).rglob("*") if p.is_file())
    assert facts["command_line"][1:] == ["config.yaml"] and facts["host"] and facts["packages"]


def test_named_gpus_are_leased_machine_wide(tmp_path: Path) -> None:
    """Two runs that name the same (made up) GPU take turns; `gpus: 0` hides all."""
    job = 'echo "in $CUDA_VISIBLE_DEVICES" >> "$RUNS"; sleep 0.4; echo "out $CUDA_VISIBLE_DEVICES" >> "$RUNS"; true {i}'
    a, b = (project(tmp_path / name, config(job, 3)) for name in "ab")
    env = {"RUNS": str(tmp_path / "runs")}
    both = [start(f, "search-run", "config.yaml", "--gpus", "61", env=env) for f in (a, b)]
    said = []
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        said.append("waiting for 1 of the GPUs 61, not held by another run" in out)
    assert any(said)
    assert (tmp_path / "runs").read_text().split("\n")[:-1] == ["in 61", "out 61"] * 6
    c = project(tmp_path / "c", config('echo "<$CUDA_VISIBLE_DEVICES>"; true {i}', resources="{gpus: 0}"))
    ok(run(c, "search-run", "config.yaml", "--gpus", "61"))
    assert log(c, 0) == "<>\n"


def test_gpus_per_job_and_jobs_per_gpu(tmp_path: Path) -> None:
    job = "echo $CUDA_VISIBLE_DEVICES; sleep 0.3; true {i}"
    folder = project(tmp_path / "p", config(job, 2, resources="{gpus: 2}"))
    ok(run(folder, "search-run", "config.yaml", "--gpus", "62,63,64,65"))
    assert {log(folder, n).strip() for n in (0, 1)} == {"62,63", "64,65"}
    folder = project(tmp_path / "q", config(job, 4))
    said = ok(run(folder, "search-run", "config.yaml", "--gpus", "62,63", "--jobs-per-gpu", "2"))
    assert sorted(log(folder, n).strip() for n in range(4)) == ["62", "62", "63", "63"]
    assert "4 at once" in said
    done = run(folder, "search-run", "--task", "t", "config.yaml", "--gpus", "none")
    ok(done)
    folder = project(tmp_path / "r", config(job, 2, resources="{gpus: 2}"))
    done = run(folder, "search-run", "config.yaml", "--gpus", "62")
    ok(done, 2)
    assert "2 a job, but 1 GPU(s)" in done.stderr


def test_a_lease_outlives_the_scheduler_with_its_job(tmp_path: Path) -> None:
    job = 'echo "in $SEARCHKIT_TASK" >> "$RUNS"; sleep 1.5; echo "out $SEARCHKIT_TASK" >> "$RUNS"; true {i}'
    env = {"RUNS": str(tmp_path / "runs")}
    folder = project(tmp_path / "p", config(job))
    first = start(folder, "search-run", "--task", "first", "config.yaml", "--gpus", "66", env=env)
    wait_for(lambda: (tmp_path / "runs").exists())
    first.kill()
    first.communicate()
    ok(run(folder, "search-run", "--task", "second", "config.yaml", "--gpus", "66", env=env))
    assert (tmp_path / "runs").read_text().split("\n")[:-1] == ["in first", "out first", "in second", "out second"]


def test_a_template_that_starts_with_srun_takes_no_slot(tmp_path: Path) -> None:
    fake = tmp_path / "bin/srun"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n')
    fake.chmod(0o755)
    template = 'srun -n1 --gres=gpu:1 sh -c "date +%s.%N; sleep 1; date +%s.%N; true {i}"'
    folder = project(tmp_path / "p", config(template, 8))
    said = ok(run(folder, "search-run", "config.yaml", env={"PATH": f"{fake.parent}:{os.environ['PATH']}"}))
    assert "starts with srun" in said
    times = [tuple(map(float, log(folder, n).split())) for n in range(8)]
    assert max(t[0] for t in times) < min(t[1] for t in times)  # all eight ran at once on however few cores
    folder = project(tmp_path / "q", config(template.replace("sleep 1", "sleep 0.1"), 3))
    said = ok(run(folder, "search-run", "config.yaml", "-j", "1", env={"PATH": f"{fake.parent}:{os.environ['PATH']}"}))
    assert "1 at once" in said


@pytest.mark.long  # a port for each job, and torchrun in one (the recipe hpo/torchrun), have tests of their own
def test_torchrun_twice_at_once(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: torchrun can't be tried")
    script = """
import os, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(x)
time.sleep(1)
if dist.get_rank() == 0:
    print("sum", int(x), "world", dist.get_world_size(), flush=True)
import searchkit
searchkit.report(rank=dist.get_rank(), step=1)
dist.destroy_process_group()
"""
    torchrun = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 ddp.py # {{i}}"
    folder = project(tmp_path / "p", config(torchrun, 2, monitor="{reward_attribute: rank}"), ddp_py=script)
    ok(run(folder, "search-run", "config.yaml", "-j", "2", timeout_s=110))
    for n in (0, 1):
        assert "sum 3 world 2" in log(folder, n)
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    assert [j["scalars"] for j in scalars] == [{"rank": {"1": 0}}] * 2  # rank 0 alone reports


def test_events_of_a_run_are_sequential_and_checked(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}", 3))
    ok(run(folder, "search-run", "config.yaml"))
    found = events(folder)
    assert [e["seq"] for e in found] == list(range(len(found)))
    segment = next(iter((task_dir(folder) / "events").iterdir()))
    raw = segment.read_bytes()
    at = raw.index(b'"state":"finished"') + len(b'"state":"')
    segment.write_bytes(raw[:at] + b"F" + raw[at + 1 :])  # one flipped letter
    done = run(folder, "search-ctl", "fsck")
    ok(done, 5)
    assert "1 damaged line(s)" in done.stdout
    ok(run(folder, "search-run", "config.yaml"))  # the status file still knows the result: nothing runs again
    assert [j["attempt"] for j in show(folder)["jobs"]] == [1, 1, 1]


def test_a_job_of_another_machine_is_never_judged_dead(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 60; true {i}"))
    process = start(folder, "search-run", "config.yaml")
    status = task_dir(folder) / "jobs/all/0/status"
    wait_for(lambda: status.exists() and status.read_text())
    process.kill()
    process.communicate()
    for pid in processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder)}"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: states(folder) == {0: "pending"})  # lost: the next search-run would run it again
    words = status.read_text().split()
    status.write_text(" ".join([*words[:2], "far-away", "another-boot-id", *words[4:]]) + "\n")
    assert states(folder) == {0: "running"}
    done = run(folder, "search-ctl", "stop")
    assert done.returncode == 4 and "another machine" in done.stderr
    ok(run(folder, "search-ctl", "stop", "--gone-host", "far-away"))
    assert states(folder) == {0: "pending"}


OFTEN = (
    "from searchkit.suite.cli import progress, run; progress.PULSE_S = 0.4; run.main()"  # a minute is long for a test
)


@pytest.mark.parametrize("staged", [False, True])
def test_in_a_pipe_running_jobs_are_told_now_and_then(tmp_path: Path, staged: bool) -> None:
    task = config("sh job.sh {i}", 5, run="{max_parallel: 5}")
    if staged:
        task = "resources: {gpus: 0}\nstages:\n- name: train\n" + re.sub("^", "  ", task, flags=re.MULTILINE)
    bar = r"printf 'start\n\033[32mepoch 1\033[0m\r 50%%|##  |\repoch\t7  \r\n'"
    folder = project(tmp_path / "p", task, job_sh=f"[ $1 = 0 ] && {bar}; [ $1 = 1 ] && printf %0200d 1; sleep 2")
    argv = [sys.executable, "-c", OFTEN, "config.yaml"]
    done = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    told = [line for line in ok(done).splitlines() if " running" in line]
    expected = [
        r"\[\d/5\+?\] job 0 running for \d\.\d s: epoch 7",
        r"\[\d/5\+?\] job 1 running for \d\.\d s: 0+…",
        r"\[\d/5\+?\] job 2 running for \d\.\d s: \(no output yet\)",
        r"  … and [12] more running",
    ]
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in told), (pattern, done.stdout)
    assert max(map(len, told)) == 120 and not any("job 3" in line for line in told[:3])


def test_a_grid_of_a_hundred_million_points_says_so_at_once(tmp_path: Path) -> None:
    args = "".join(f"    - {{type: Int, name: {name}, low: 1, high: 100}}\n" for name in "abcd")
    grid = f"task:\n  template: echo {{a}} {{b}} {{c}} {{d}}\n  search_args:\n{args}"
    folder = project(tmp_path / "p", grid)
    for more in ((), ("--dry-run",)):
        said = run(folder, "search-run", "config.yaml", *more, timeout_s=20)
        ok(said, 2)
        assert "100,000,000 points, and a task makes 1,000,000 jobs at most" in said.stderr
        assert "n_trials" in said.stderr and "sampler: random" in said.stderr
    assert not task_dir(folder).exists()
    assert "3 finished" in ok(run(folder, "search-run", "config.yaml", "--n-trials", "3", timeout_s=20))
    (folder / "config.yaml").write_text(grid + "  constraints: [a == b, b == c, c == d, a < 3]\n")
    dry = ok(run(folder, "search-run", "--task", "less", "config.yaml", "--dry-run", timeout_s=20))
    assert "at most 100,000,000 jobs" in dry and "#1 echo 2 2 2 2" in dry
    said = run(folder, "search-run", "--task", "less", "config.yaml", timeout_s=20)
    assert ok(said).startswith("the grid has 100,000,000 points before constraints") and "(2 finished)" in said.stdout
