"""What base.py promises of a backend, asked of every row of the table: real processes, and files as the suite makes
them. A new engine is held to the same laws."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from searchkit import fsio, proc
from searchkit.suite.backends.base import NO_JOB, Grant, Launch
from searchkit.suite.backends.local import procs
from searchkit.suite.backends.table import BACKENDS, Backends
from searchkit.suite.store import status
from searchkit.suite.workspace import JobPaths
from tests.support.suite import processes_with, wait_for

GRANT = Grant(())
# Ignores SIGTERM, and leaves a process in a session of its own behind that does so too.
STUBBORN = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 60\" & sleep 60; sleep 60"


@pytest.fixture(params=sorted(BACKENDS))
def backends(request: pytest.FixtureRequest) -> Iterator[Backends]:
    """All backends, the asked one first; what their tests leave is killed."""
    made = Backends(request.param)
    yield made
    made.sweep(TOKEN, None)
    made.children.wait(5)


TOKEN = f"law{os.getpid()}"


def launch(folder: Path, command: str, attempt: int = 1, n: int = 0) -> Launch:
    """An attempt with its folders, as the launcher makes them."""
    job = JobPaths(str(folder / f"job-{n}"))
    work = f"{job.attempt(attempt).root}/work"
    os.makedirs(work, exist_ok=True)
    os.makedirs(folder / "tmp", exist_ok=True)
    return Launch(job, attempt, work, command, f"{TOKEN}/{n}/{attempt}", str(folder / "tmp"), f"{n}")


def begin(backends: Backends, one: Launch) -> Any:
    """Start it as the scheduler does."""
    env = {**os.environ, "SEARCHKIT_TOKEN": one.token}
    return backends.main.start(backends.main.prepare(one, env, GRANT))


def ended(backends: Backends) -> set[str]:
    backends.children.reap()
    return {handle.token for handle in backends.ended()}


def began(one: Launch) -> bool:
    return status.read(one.paths).start is not None


def test_what_is_started_is_alive_until_it_ends_and_ends_once(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "sleep 0.3")
    handle = begin(backends, one)
    s = status.read(one.paths)
    assert s.exists and backends.alive(handle, s) is True  # before its first line too
    assert ended(backends) == set()
    assert wait_for(lambda: ended(backends)) == {one.token}
    assert status.read(one.paths).exit_code == 0 and ended(backends) == set()
    assert backends.clear(handle, status.read(one.paths)) == []


def test_an_attempt_begins_once(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "sleep 60")
    begin(backends, one)
    second = backends.main.prepare(one, dict(os.environ), GRANT)
    with pytest.raises(FileExistsError):
        backends.main.start(second)
    wait_for(lambda: began(one))
    assert len(processes_with(f"SEARCHKIT_TOKEN={one.token}")) <= 3  # of one wrapper alone


def test_what_is_prepared_has_not_begun_and_can_be_undone(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "touch ran")
    prepared = backends.main.prepare(one, {**os.environ, "SEARCHKIT_TOKEN": one.token}, GRANT)
    s = status.read(one.paths)
    assert not s.exists and backends.alive(backends.handle(one.token, one.paths, s), s) is False
    backends.main.discard(prepared)
    wait_for(lambda: not backends.living(TOKEN))
    assert os.listdir(one.tmp) == [] and os.listdir(one.job.root) == ["work"] and os.listdir(one.work) == []


def test_cancelled_is_ended_when_nothing_of_it_lives(backends: Backends, tmp_path: Path) -> None:
    one, other = launch(tmp_path, STUBBORN), launch(tmp_path, "sleep 60", n=1)
    handle = begin(backends, one)
    begin(backends, other)
    marks = f"SEARCHKIT_TOKEN={one.token}"
    wait_for(lambda: len(processes_with(marks)) >= 4)
    backends.cancel({handle: 60.0})
    time.sleep(0.1)
    assert ended(backends) == set() and backends.survivors()[one.token]  # it ignores the request
    backends.cancel({handle: 0.2})  # asked again with less grace
    assert wait_for(lambda: ended(backends)) == {one.token}
    assert processes_with(marks) == [] and status.read(one.paths).exit_code == 137
    assert backends.living(TOKEN).keys() == {1}


def test_what_another_scheduler_started_is_adopted_from_its_file(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "sleep 0.6")
    code = (
        "import sys, tests.suite.backends.test_backend as t; from pathlib import Path\n"
        f"t.TOKEN = {TOKEN!r}\n"
        f"b = t.Backends({backends.name!r}); t.begin(b, t.launch(Path({str(tmp_path)!r}), 'sleep 0.6'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])  # and it ends at once
    s = wait_for(lambda: began(one) and status.read(one.paths))
    handle = backends.handle(one.token, one.paths, s)
    assert backends.alive(handle, s) is True
    backends.adopt(handle)
    assert ended(backends) == set()
    assert wait_for(lambda: ended(backends)) == {one.token} and ended(backends) == set()
    assert status.read(one.paths).exit_code == 0


def test_an_attempt_of_another_host_is_never_judged(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "true")
    # The number of a process that lives here, and one of none: neither says anything of another host.
    for pid in (os.getpid(), 2**22 + 1):
        line = f"start {backends.name} elsewhere another-boot {pid} 1 - {time.time():.6f}\n"
        Path(one.paths.status).write_text(line)
        s = status.read(one.paths)
        handle = backends.handle(one.token, one.paths, s)
        if backends.alive(handle, s) is not None:
            pytest.skip("it has witnesses on other hosts")
        backends.adopt(handle)
        assert ended(backends) == set()
        assert backends.end([handle], 0.0) == {}  # nothing of it is here; the process of that number is somebody else's
        backends.clear(handle, s)


def test_nothing_of_what_ended_is_left(backends: Backends, tmp_path: Path) -> None:
    one = launch(tmp_path, "setsid sleep 60 & true")
    handle = begin(backends, one)
    assert wait_for(lambda: ended(backends)) == {one.token}
    assert backends.remains(handle)
    assert backends.clear(handle, status.read(one.paths), look=True) == ["sleep 60"]
    assert backends.remains(handle) == [] and processes_with(f"SEARCHKIT_TOKEN={one.token}") == []


def test_a_task_is_swept_but_for_what_is_to_be_left(backends: Backends, tmp_path: Path) -> None:
    for n in (0, 1, 2):
        begin(backends, launch(tmp_path, "sleep 60", n=n))
    worker = {**os.environ, "SEARCHKIT_TOKEN": f"{TOKEN}/worker-3"}
    child = subprocess.Popen(["sleep", "60"], env=worker)
    wait_for(lambda: backends.living(TOKEN).keys() == {0, 1, 2, NO_JOB})
    assert backends.sweep(TOKEN, {0, 1}, leave={1}) == {}
    assert backends.living(TOKEN).keys() == {1, 2, NO_JOB}
    assert backends.sweep(TOKEN, None) == {} and backends.living(TOKEN) == {}
    child.wait()


def test_a_process_that_starts_another_while_all_are_looked_at_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between the list and the look, and its child began after the list."""
    target = procs.Process(f"{TOKEN}/9/1", "local", launch(tmp_path, "").paths)
    env = {**os.environ, "SEARCHKIT_TOKEN": target.token}
    parent = subprocess.Popen(["sh", "-c", "read go; sleep 60 & exit"], env=env, stdin=subprocess.PIPE)
    listed = proc.numbers

    def numbers() -> list[int]:
        pids = listed()
        if parent.stdin is not None and not parent.stdin.closed:
            parent.communicate(b"go\n")
        return pids

    wait_for(lambda: procs.members([target])[target.token] == [parent.pid])
    monkeypatch.setattr(proc, "numbers", numbers)
    (child,) = procs.members([target])[target.token]
    assert child != parent.pid and parent.returncode == 0
    wait_for(lambda: Path(f"/proc/{child}/cmdline").read_bytes() == b"sleep\x0060\x00")  # till then it is a copy of sh
    assert procs.kill_now(target) == ["sleep 60"]
    assert procs.members([target])[target.token] == []


def test_ports_differ_until_they_are_free_again(backends: Backends, tmp_path: Path) -> None:
    one, other = launch(tmp_path, "true"), launch(tmp_path, "true", n=1)
    first = backends.main.port(one.token)
    assert backends.main.port(one.token) == first != backends.main.port(other.token) or first == 0
    handle = begin(backends, one)
    wait_for(lambda: ended(backends))
    backends.clear(handle, status.read(one.paths))
    assert backends.main.port(one.token) == first


def test_a_backend_without_a_row_is_answered_for(backends: Backends, tmp_path: Path) -> None:
    """Of a later version: its attempts are known by their locks, and not judged where they run elsewhere."""
    one = launch(tmp_path, "true")
    Path(one.paths.status).write_text(f"start later elsewhere another-boot 1 1 77 {time.time():.6f}\n")
    s = status.read(one.paths)
    assert backends.alive(backends.handle(one.token, one.paths, s), s) is None
    with open(one.paths.status) as f:
        assert fsio.try_lock(f.fileno())
        s = status.read(one.paths)
        assert backends.alive(backends.handle(one.token, one.paths, s), s) is True
