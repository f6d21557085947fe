"""What the kernel tells of processes: asked of real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from searchkit import proc
from tests.support.suite import wait_for


def test_a_process() -> None:
    child = subprocess.Popen(
        ["sleep", "97"], env={"PATH": os.environ["PATH"], "COLOUR": "grün"}, start_new_session=True
    )
    try:
        wait_for(lambda: proc.command(child.pid) == [b"sleep", b"97"])
        found = proc.stat(child.pid)
        assert found and (found.ppid, found.session) == (os.getpid(), child.pid) and not found.flags & proc.EXITING
        assert proc.start_ticks(child.pid) == found.start_ticks >= (proc.start_ticks("self") or 0)
        assert proc.is_alive(child.pid, found.start_ticks) and proc.is_alive(child.pid, None)
        assert not proc.is_alive(child.pid, found.start_ticks + 1)  # the number is another process' by now
        assert "COLOUR=grün\0".encode() in (proc.environment(child.pid) or b"")
        assert child.pid in (proc.children() or ()) and child.pid in proc.numbers() and proc.threads()
        assert not proc.catches(child.pid, signal.SIGTERM) and proc.catches(os.getpid(), signal.SIGINT)
    finally:
        child.kill()
    wait_for(lambda: not proc.is_alive(child.pid, None), why="a zombie does not live")
    assert proc.exists(child.pid) and proc.start_ticks(child.pid) == found.start_ticks and not proc.command(child.pid)
    child.wait()
    gone = proc.stat(child.pid), proc.start_ticks(child.pid), proc.environment(child.pid), proc.children("self/task/0")
    assert gone == (None,) * 4 and not proc.exists(child.pid) and not proc.is_alive(child.pid, None)


def test_names_may_hold_anything(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to(sys.executable)
    child = subprocess.Popen([odd, "-S", "-c", "import time; time.sleep(97)", ""])
    try:
        wait_for(lambda: proc.command(child.pid)[-1:] == [b""])
        found = proc.stat(child.pid)
        assert found and found.ppid == os.getpid() and found.state not in proc.ENDED
    finally:
        child.kill()
        child.wait()


def test_free_memory_is_at_most_what_the_group_may_have(tmp_path: Path) -> None:
    info, of_us, mounted = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "mounted"
    info.write_text("MemTotal: 16 kB\nMemAvailable:    8 kB\n\nHugePages_Total: 0\n")
    of_us.write_text("3:memory:/docker\n0::/a/b\n")

    def free() -> int | None:
        return proc.free_memory(str(info), str(of_us), str(mounted))

    assert free() == 8192
    for path, text, expected in (
        ("a/memory.max", "max\n", 8192),
        ("memory/docker/memory.limit_in_bytes", "9223372036854771712\n", 8192),  # version 1 has no word for none
        ("a/memory.max", "5000\n", 5000),  # of the group above
        ("memory/memory.limit_in_bytes", "4000\n", 4000),
    ):
        (mounted / path).parent.mkdir(parents=True, exist_ok=True)
        (mounted / path).write_text(text)
        assert free() == expected
    info.write_text("nothing that is known\n")
    assert free() == 4000
    assert proc.free_memory(str(info), str(tmp_path / "none"), str(mounted)) is None
    assert (proc.free_memory() or 0) > 0
