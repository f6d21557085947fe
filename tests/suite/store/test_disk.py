"""What jobs take on disk, and giving it back: nothing that anybody reads or needs is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from searchkit.suite.cli import disk as disk_cli
from searchkit.suite.store import disk, journal, tasks
from searchkit.suite.store.snapshot import Entry, Manifest
from searchkit.suite.workspace import Workspace
from tests.suite.store.test_tfevents import write_events
from tests.support.suite import (
    HARNESS,
    environment,
    events,
    kill,
    ok,
    project,
    run,
    show,
    start,
    states,
    task_dir,
    wait_for,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG = r"""
task:
  template: sh job.sh {i}
  search_args: [{type: Categorical, name: i, value: [1, 2, 3, 4]}]
monitor: {reward_attribute: acc, regex: ['logged=(?P<logged>\d+)']}
"""
# Numbers come in by all ways, for one name (acc) by two at once; records, a checkpoint, a large file.
JOB = """
echo "logged=$1"
for step in 1 2; do echo '{"step": '$step', "acc": 0.'$1'}' >> $SEARCHKIT_CALLBACK/scalars.jsonl; done
mkdir -p version_0/deep && cp board.bin version_0/deep/events.out.tfevents.1.host
echo '{"arch": {"a": '$1'}, "metric": {"m": 1}}' > found.jsonl
head -c 3000000 /dev/urandom > model.pt
head -c 2000000 /dev/urandom > $SEARCHKIT_CHECKPOINT/last.ckpt
"""


def made(folder: Path, config: str = CONFIG, job: str = JOB) -> Path:
    project(folder, config, job_sh=job, data_jsonl='{"from": "the project"}\n')
    write_events(folder / "board.bin", [("board/loss", 1, 0.5), ("board/loss", 7, 0.25), ("acc", 9, 9.0)])
    return folder


def work(folder: Path, n: int, task: str = "default") -> Path:
    return task_dir(folder, task) / f"jobs/all/{n}/{folder.name}"


def free(folder: Path, *argv: str) -> dict[str, Any]:
    return dict(json.loads(ok(run(folder, "search-ctl", "free", *argv, "--json"))))


def told(folder: Path, task: str = "default") -> list[str]:
    """All that search-ctl says of a task's numbers."""
    commands = (
        ("show-scalar",),
        ("show-scalar", "--json"),
        ("export",),
        ("best", "--json"),
        ("logs", "--jobs", "@all"),
    )
    return [ok(run(folder, "search-ctl", *words, "--task", task)) for words in commands]


def test_what_is_told_of_jobs_is_the_same_after_free(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    ok(run(folder, "search-run", "config.yaml"))
    before = told(folder)
    assert "board/loss" in before[0] and "'logged': {1: 4.0}" in before[0]
    tried = run(folder, "search-ctl", "free", "--keep", "@best:1", "--dry-run")
    assert "would free" in ok(tried) and (work(folder, 0) / "model.pt").exists()
    said = ok(run(folder, "search-ctl", "free", "--keep", "@best:1"))
    assert said.startswith("freed 1") and "MiB: working copies and checkpoints of jobs 0-2\n" in said
    assert said.removeprefix("freed") == tried.stdout.removeprefix("would free")
    assert "6 files of numbers and records stay" in said
    assert told(folder) == before
    for n in range(3):
        left = sorted(str(p.relative_to(work(folder, n))) for p in work(folder, n).rglob("*") if p.is_file())
        assert left == ["found.jsonl", "version_0/deep/events.out.tfevents.1.host"]
        assert not (task_dir(folder) / f"jobs/all/{n}/checkpoint").exists()
    assert (work(folder, 3) / "model.pt").stat().st_size == 3_000_000
    assert (task_dir(folder) / "jobs/all/3/checkpoint/last.ckpt").exists()
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
    assert "nothing to free" in ok(run(folder, "search-ctl", "free", "--keep", "@best:1"))
    assert [j["freed"] for j in show(folder)["jobs"]] == [True, True, True, False]
    # Run again, a job begins anew, with a copy and a checkpoint folder of its own.
    ok(run(folder, "search-ctl", "restart", "--jobs", "0", "--no-start"))
    ok(run(folder, "search-run", "config.yaml"))
    assert (task_dir(folder) / f"jobs/all/0/attempt-2/{folder.name}/model.pt").exists()
    assert (task_dir(folder) / "jobs/all/0/checkpoint/last.ckpt").exists() and not show(folder)["jobs"][0]["freed"]


WAITING = """
task: {template: 'sh job.sh {i}', search_args: [{type: Categorical, name: i, value: [1, 2, 3, 4, 5]}]}
run: {max_parallel: 3}
"""


def test_what_runs_waits_failed_or_was_stopped_is_left_alone(tmp_path: Path) -> None:
    """With the scheduler alive, which then does it."""
    job = "echo x > here; [ $1 = 1 ] && exit 3; [ $1 = 2 ] && exit 0\n"
    job += "while ! [ -e ../../../../../../../go ]; do sleep 0.1; done"
    folder = made(tmp_path / "p", WAITING, job)
    child = start(folder, "search-run", "config.yaml")
    try:
        wait_for(task_dir(folder).exists)
        wait_for(lambda: {2, 3, 4} <= {n for n, s in states(folder).items() if s == "running"}, why="three run")
        ok(run(folder, "search-ctl", "stop", "--jobs", "2"))
        said = free(folder, "--keep", "none")
        assert said["jobs"] == [1] and not (work(folder, 1) / "here").exists()
        assert {n: why.split(":")[0] for n, why in said["needed"].items()} == {
            **{"0": "error", "2": "stopped", "3": "not ended", "4": "not ended"}
        }
        assert free(folder, "--keep", "none", "--jobs", "0,3")["jobs"] == [0]  # named
        assert (work(folder, 2) / "here").exists() and (work(folder, 3) / "here").exists()
        (folder / "go").touch()
        child.communicate(timeout=60)
    finally:
        kill(child.pid, signal.SIGKILL)
    assert states(folder) == {0: "error", 1: "finished", 2: "stopped", 3: "finished", 4: "finished"}
    assert free(folder, "--keep", "none")["jobs"] == [3, 4]


def test_a_paused_job_keeps_its_checkpoint(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    ok(run(folder, "search-run", "config.yaml"))
    with tasks.held(Workspace(str(folder / ".search-run")).task("default")) as task:
        for n, why in ((0, "pause"), (1, "prune")):  # as a stopper would have them
            job = task.state.jobs[n]
            assert job.result
            task.record("restart", time=1.0, jobs=[n], snapshot=0)
            task.record("launch", time=1.0, job=n, attempt=1, gpus=[], snapshot=0)
            task.record("stop", time=1.0, jobs=[n], why=why)
            fields = {"rc": 143, "start": 1.0, "end": 2.0, "retry": False, "reason": "", "spent": ""}
            task.record("result", time=2.0, job=n, attempt=1, state="pruned", **fields)
    said = free(folder, "--keep", "none")
    assert said["needed"] == {"0": "paused; the search is over: freed where --jobs names them"}
    assert said["jobs"] == [1, 2, 3] and (task_dir(folder) / "jobs/all/0/checkpoint/last.ckpt").exists()
    with tasks.held(Workspace(str(folder / ".search-run")).task("default")) as task:
        assert disk.free(task, [0], running=True) == [0]  # its scheduler may go on with it at any moment
    assert free(folder, "--keep", "none", "--jobs", "@pruned")["jobs"] == [0]
    assert not (task_dir(folder) / "jobs/all/0/checkpoint").exists()


def test_killed_over_it(tmp_path: Path) -> None:
    """Decided, and nothing or a part of it done: the next search-run ends it, and again changes nothing."""
    folder = made(tmp_path / "p" / "p")
    ok(run(folder, "search-run", "config.yaml"))
    before = told(folder)
    with tasks.held(Workspace(str(folder / ".search-run")).task("default")) as task:
        task.record("free", time=1.0, jobs=[0, 1])
    harness = {"PYTHONPATH": str(HARNESS)}
    log = tmp_path / "changes"
    copy = Path(shutil.copytree(folder, tmp_path / "log" / "p", symlinks=True))
    ok(run(copy, "search-run", "config.yaml", env={**harness, "SEARCHKIT_KILL_LOG": str(log)}))
    changes = log.read_text().split()
    removals = [n for n, name in enumerate(changes, 1) if name in ("unlink", "rmdir")]
    assert len(removals) > 12
    for n in [0, *removals[:12:4], len(changes) - 3]:  # 0: never killed
        copy = Path(shutil.copytree(folder, tmp_path / str(n) / "p", symlinks=True))
        died = run(copy, "search-run", "config.yaml", env={**harness, "SEARCHKIT_KILL_AT": str(n)})
        assert died.returncode == (-signal.SIGKILL if n else 0)
        ok(run(copy, "search-run", "config.yaml"))
        for job in (0, 1):
            left = sorted(path.name for path in work(copy, job).rglob("*") if path.is_file())
            assert left == ["events.out.tfevents.1.host", "found.jsonl"]
            assert not (task_dir(copy) / f"jobs/all/{job}/checkpoint").exists()
        assert (work(copy, 2) / "model.pt").exists()
        assert json.loads(ok(run(copy, "search-ctl", "show-scalar", "--json"))) == json.loads(before[1])
        assert [e["type"] for e in events(copy)].count("freed") == 1
    assert told(copy) == [text.replace(str(folder), str(copy)) for text in before]


STAGES = """
task: {reward_attribute: acc}
stages:
  - name: one
    task: {template: 'sh job.sh {i}', search_args: [{type: Categorical, name: i, value: [1, 2, 3]}]}
  - name: two
    task:
      template: 'test -e {c}/last.ckpt && test -e {f}/model.pt && [ -n "$GO" ] && sh job.sh {i}'
      search_args: [{type: Best, stage: one, number: 1, checkpoint: c, folder: f}]
"""


def test_what_a_later_stage_needs_stays(tmp_path: Path) -> None:
    folder = made(tmp_path / "p", STAGES)
    ok(run(folder, "search-run", "--task", "t", "config.yaml"), 1)
    said = free(folder, "--task", "t.one", "--keep", "none")
    assert said["jobs"] == [] and set(said["needed"].values()) == {"needed by stage two"}
    ok(run(folder, "search-ctl", "restart", "--task", "t.two", "--no-start"))
    ok(run(folder, "search-run", "--task", "t", "config.yaml", env={"GO": "1"}))
    said = free(folder, "--task", "t.one", "--keep", "none")
    assert said["jobs"] == [0, 1] and said["needed"] == {"2": "taken by a later stage"}
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
    asked = run(folder, "search-ctl", "free", "--task", "t", "--keep", "none")
    assert asked.returncode == 2 and "t.one, t.two" in asked.stderr


def test_show_disk_counts_blocks(tmp_path: Path) -> None:
    job = "head -c 1048576 /dev/urandom > a; ln a b; truncate -s 1G hole; ln -s /usr/bin/env far\n"
    job += "head -c 524288 a > $SEARCHKIT_CHECKPOINT/c"
    folder = made(tmp_path / "p", CONFIG.replace("1, 2, 3, 4", "1, 2"), job)
    ok(run(folder, "search-run", "config.yaml"))
    said = json.loads(ok(run(folder, "search-ctl", "show", "--task", "default", "--disk", "--json")))
    for each in said["jobs"]:
        assert MIB <= each["copies"] < 1.2 * MIB and MIB / 2 <= each["checkpoint"] < 0.6 * MIB
        assert 0 < each["logs"] < MIB / 4 and each["total"] == each["copies"] + each["checkpoint"] + each["logs"]
    assert said["all"]["total"] == sum(each["total"] for each in said["jobs"])
    lines = ok(run(folder, "search-ctl", "show", "--task", "default", "--disk")).splitlines()
    assert lines[0].split() == ["job", "status", "copies", "checkpoint", "logs", "total"] and len(lines) == 5
    assert lines[3].startswith("all") and lines[4].startswith("free on this file system: ")
    whole = json.loads(ok(run(folder, "search-ctl", "show", "--disk", "--json")))
    assert whole["tasks"][0]["copies"] == said["all"]["copies"] and whole["tasks"][0]["snapshots"] > 0


def test_a_folder_that_can_t_be_emptied_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may remove anything")
    folder = made(tmp_path / "p")
    ok(run(folder, "search-run", "config.yaml"))
    work(folder, 0).chmod(0o555)
    said = run(folder, "search-ctl", "free", "--keep", "none")
    work(folder, 0).chmod(0o755)
    assert said.returncode == 5 and "could not be removed" in said.stderr


@pytest.mark.parametrize(("jobs", "room", "said"), [(10, 1 << 41, False), (200, 1 << 41, True)])
def test_what_the_jobs_will_need(jobs: int, room: int, said: bool) -> None:
    big = Entry("big", "linked.bin", 1 << 50)
    manifest = Manifest("/p", True, (Entry("file", "data.bin", 10 << 30), big))
    assert bool(disk_cli.too_much(jobs, manifest, room)) == said


def test_search_run_says_what_the_jobs_will_need(tmp_path: Path) -> None:
    values = ", ".join(map(str, range(2000)))
    folder = made(tmp_path / "p", CONFIG.replace("1, 2, 3, 4", values), "true")
    os.truncate(folder / "board.bin", os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize // 2000)  # a hole
    done = run(folder, "search-run", "config.yaml", "--detach")
    ok(run(folder, "search-ctl", "stop"))
    assert "note: 2,000 jobs x " in ok(done) + done.stderr and "are free (.searchignore" in done.stderr


def test_free_is_decided_before_it_is_done(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    ok(run(folder, "search-run", "config.yaml"))
    task = Workspace(str(folder / ".search-run")).task("default")
    with tasks.held(task) as held:
        assert disk.free(held, [0, 99]) == [] and held.state.jobs[0].freed == "done"
    kinds = [e["type"] for e in journal.read(task)[0]]
    assert kinds[-2:] == ["free", "freed"]


# A disk of 3 MB that the jobs fill up; then room is made by each command that can.
FULL = r"""
set -e
mount -t tmpfs -o size=3m tmpfs "$1"
cd "$1"
cp "$2" config.yaml
search-init > /dev/null
set +e
search-run config.yaml -j 1
echo "run: $?"
head -c 4000000 /dev/zero > "$1/.search-run/filled" 2> /dev/null
search-ctl stop; echo "stop: $?"
search-ctl withdraw --jobs 9; echo "withdraw: $?"
search-ctl free --keep none --jobs 0; echo "free: $?"
head -c 4000000 /dev/zero >> "$1/.search-run/filled" 2> /dev/null
search-ctl delete --jobs 1 --yes; echo "delete: $?"
rm .search-run/filled
search-ctl fsck
"""


def test_on_a_full_disk_room_can_be_made(tmp_path: Path) -> None:
    job = "head -c 400000 /dev/zero > m.bin; echo {i}"
    values = ", ".join(map(str, range(10)))
    (tmp_path / "config.yaml").write_text(
        f"task:\n  template: {json.dumps(job)}\n  search_args: [{{type: Categorical, name: i, value: [{values}]}}]\n"
    )
    (tmp_path / "full.sh").write_text(FULL)
    (tmp_path / "disk").mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "x", str(tmp_path / "disk")], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs: no disk can be made that fills up")
    argv = [*unshare, "sh", *(str(tmp_path / name) for name in ("full.sh", "disk", "config.yaml"))]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=200, env=environment(), stdin=subprocess.DEVNULL
    )
    said = done.stdout + done.stderr
    assert "run: 5" in said and "the disk is full" in said and "search-ctl free" in done.stderr, said
    for command in ("stop", "withdraw", "free", "delete"):
        assert f"{command}: 0" in said, said
    assert "freed 39" in said and "0 fault(s)" in said, said
