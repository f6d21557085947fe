"""What a file system can do, found by trying it."""

from __future__ import annotations

import fcntl
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from searchkit import fsio, proc


@dataclass(frozen=True)
class Facts:
    kind: str
    needed: dict[str, bool]  # what a workspace can't do without
    fsync_ms: float
    reflink: bool


def probe(folder: str) -> Facts:
    """Try locks (across two processes), links, rename over a file, and fsync inside `folder`."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="probe-") as scratch:
        a, b = os.path.join(scratch, "a"), os.path.join(scratch, "b")
        fsio.write_new(a, b"a")
        fsio.write_new(b, b"b")
        needed = {"locks": _locks(a), "links": _links(scratch), "rename": _rename(a, b)}
        return Facts(
            _kind(scratch), needed, _fsync_ms(os.path.join(scratch, "f")), _reflink(b, os.path.join(scratch, "r"))
        )


def _locks(path: str) -> bool:
    """Whether a flock taken here is seen by another process."""
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with open(path) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX)
        except OSError:
            return False
        return subprocess.run([sys.executable, "-I", "-S", "-c", code, path], stderr=subprocess.DEVNULL).returncode != 0


def _links(folder: str) -> bool:
    try:
        os.symlink("a", os.path.join(folder, "l"))
    except OSError:
        return False
    return os.path.exists(os.path.join(folder, "l"))


def _rename(a: str, b: str) -> bool:
    try:
        os.replace(a, b)
    except OSError:
        return False
    return fsio.read_bytes(b) == b"a"


def _fsync_ms(path: str) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    times = []
    try:
        for _ in range(9):
            os.write(fd, b"x" * 200)
            start = time.perf_counter()
            os.fsync(fd)
            times.append(time.perf_counter() - start)
    finally:
        os.close(fd)
    return statistics.median(times) * 1e3


def _reflink(src: str, dst: str) -> bool:
    inp, out = os.open(src, os.O_RDONLY), os.open(dst, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        fcntl.ioctl(out, fsio.FICLONE, inp)
        return True
    except OSError:
        return False
    finally:
        os.close(inp)
        os.close(out)


def copies_share(folder: str) -> bool:
    """Whether a copy of a file in `folder` shares its blocks with the file, and so takes no room."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="probe-") as scratch:
        fsio.write_new(f"{scratch}/a", b"a", durable=False)
        return _reflink(f"{scratch}/a", f"{scratch}/b")


def _kind(folder: str) -> str:
    """The file system's type, by the longest mount point above `folder`."""
    best, kind = "", "unknown"
    for point, its_kind in proc.mounts():
        if len(point) >= len(best) and (folder + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, its_kind
    return kind
