"""Where checkpoints are kept, in a job and by hand; who may write them: one process at a time, as long as it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from searchkit.errors import ConflictError
from searchkit.nas.train import checkpoint
from searchkit.nas.train.checkpoint import keep_folder
from tests.support import nas, suite
from tests.support.nas import Trained, bad, good, lines, tensors, tiny, write

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- where ----


def test_by_hand_it_is_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("work", ".", "../work", str(tmp_path / "a" / "b")):
        assert keep_folder(folder) == folder


def test_every_folder_of_a_job_has_its_own_for_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job"
    found = []
    for n in (1, 2, 11):
        here = nas.attempt(monkeypatch, job, n)
        asked = (".", "work", "a/work", f"{here}/absolute", "../beside", "..", f"{job}/callback", "demo")
        found.append([keep_folder(folder) for folder in asked])
        (here / "a").mkdir()
        monkeypatch.chdir(here / "a")  # the job's command changed its folder
        assert [keep_folder("../work"), keep_folder("work")] == [found[0][1], found[0][2]]
    assert found[0] == found[1] == found[2] and len(set(found[0])) == len(found[0])
    assert found[0][:3] == [f"{job}/checkpoint{part}" for part in ("", "/work", "/a/work")]
    assert all(os.path.commonpath([folder, job / "checkpoint"]) == str(job / "checkpoint") for folder in found[0])


def test_what_survives_anyway_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job"
    nas.attempt(monkeypatch, job, 1)
    for folder in (tmp_path / "shared" / "work", job / "checkpoint" / "mine", job / "checkpoint"):
        assert keep_folder(str(folder)) == str(folder)


def test_links_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job"
    here = nas.attempt(monkeypatch, job, 1)
    (tmp_path / "link").symlink_to(here)  # as a job is in jobs/tree/
    assert keep_folder(f"{tmp_path}/link/work") == f"{job}/checkpoint/work"
    checkpoint.link(f"{job}/checkpoint/tuned", "tuned")  # as an older run of the same attempt leaves it
    assert keep_folder("tuned") == keep_folder(f"{here}/tuned") == f"{job}/checkpoint/tuned"


# ---- who ----

HOLD = """
import sys, time
from searchkit.nas.train import checkpoint
with checkpoint.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
# One that dies, and leaves a worker behind that was forked while it held the folder.
ORPHAN = """
import os, sys, time
from searchkit.nas.train import checkpoint
with checkpoint.held(sys.argv[1]):
    child = os.fork()
    if not child:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


@contextmanager
def running(script: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """(process, its first line)."""
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_a_folder_has_one_holder_until_it_dies(tmp_path: Path) -> None:
    with running(HOLD, tmp_path) as (process, said):
        assert said == b"held\n"
        said_so = rf"another process \(pid {process.pid}\) trains in {tmp_path}"
        with pytest.raises(ConflictError, match=said_so), checkpoint.held(str(tmp_path)):
            raise AssertionError("two at once")
        with checkpoint.held(str(tmp_path / "other")):
            pass
        process.kill()
        process.wait(30)
        with checkpoint.held(str(tmp_path)):
            pass


@pytest.mark.slow
def test_a_worker_that_outlives_its_training_holds_nothing(tmp_path: Path) -> None:
    with running(ORPHAN, tmp_path) as (process, said):
        try:
            process.kill()
            process.wait(30)
            os.kill(int(said), 0)  # it is there
            with checkpoint.held(str(tmp_path)):
                pass
        finally:
            suite.kill(int(said))


@pytest.mark.slow
def test_two_trainings_in_one_folder(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy, train={"steps": 3000}, data={"val": None}))
    work = tmp_path / "work"
    process = nas.spawn("train", path, "--work-dir", work, "--device", "cpu", cwd=tmp_path)
    with nas.killed_after(process):
        suite.wait_for(lambda: (work / "latest.pth").exists() or process.poll() is not None, why="a checkpoint")
        assert process.poll() is None
        before = sorted(p.name for p in work.rglob("*"))
        said = bad("train", path, "--work-dir", work, "--device", "cpu", code=4)
        assert f"another process (pid {process.pid}) trains in {work}" in said and "--work-dir" in said
        assert process.poll() is None
        assert {p.name for p in work.rglob("*") if ".pth." not in p.name} == {n for n in before if ".pth." not in n}
    done = tensors(work / "latest.pth")["step"]
    nas.train(path, work, stop=int(done) + 2)
    assert tensors(work / "latest.pth")["step"] > done  # whoever was killed is in nobody's way


@pytest.mark.slow
def test_two_tunings_of_one_arch(trained: Trained, tmp_path: Path) -> None:
    def command(name: str, arch: str) -> tuple[str | Path, ...]:
        first = ("finetune", trained.config, "--checkpoint", trained.checkpoint, "--device", "cpu", "--arch", arch)
        return (*first, "--work-dir", tmp_path / "work", "--out", tmp_path / f"{name}.jsonl")

    many = ("--set", "finetune.steps=3000", "--set", "finetune.checkpoint_steps=1")
    process = nas.spawn(*command("first", "MIN"), *many, cwd=tmp_path)
    with nas.killed_after(process):
        suite.wait_for(
            lambda: process.poll() is not None or [*tmp_path.glob("work/*/latest.pth")], why="the tuning's checkpoint"
        )
        assert process.poll() is None
        said = bad(*command("second", "MIN"), "--set", "finetune.steps=1", code=4)
        assert f"another process (pid {process.pid}) trains in {tmp_path / 'work'}" in said
        good(*command("second", "MAX"), "--set", "finetune.steps=1")  # another arch is in nobody's way
        assert process.poll() is None
    good(*command("second", "MIN"), "--set", "finetune.steps=1")
    assert len(lines(tmp_path / "second.jsonl")) == 2
