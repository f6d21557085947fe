"""Every way the suite changes a file. Whole files appear at once; logs only grow; a full disk is one kind of error.

All changes go through `os.*` calls looked up at call time: the kill harness (tests/harness/) counts and cuts
exactly those calls from outside, so nothing in here knows that it is being tested.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator

from searchkit import proc
from searchkit.errors import StorageError

FICLONE = 0x40049409  # ioctl_ficlone(2)
CHUNK = 1 << 22
FIRST_OWN_FD = 200

_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an I/O error",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EMFILE: "too many open files",
}


def storage_error(e: OSError) -> StorageError:
    """The StorageError that says what failed, and at which path."""
    reason = _STORAGE_ERRNOS.get(e.errno or 0, os.strerror(e.errno) if e.errno else str(e))
    where = f" at {os.fsdecode(e.filename)}" if e.filename else ""
    hint = "What could not be written does not count. Remove the cause, then run the same command again."
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = (
            "What could not be written does not count. Make room, then run the same command again. Working copies and "
            "checkpoints of jobs that ended: search-ctl free"
        )
    return StorageError(f"can't read or write: {reason}{where}", hint)


@contextlib.contextmanager
def storage() -> Iterator[None]:
    """Turn an OSError of the enclosed block into a StorageError (exit code 5)."""
    try:
        yield
    except OSError as e:
        raise storage_error(e) from e


def write_all(fd: int, data: bytes) -> None:
    """`os.write` until all of `data` is written: a nearly full disk may take only a part at first."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def fsync_dir(path: str) -> None:
    """Make the entries of a folder durable."""
    fsync_file(path)


def fsync_file(path: str) -> None:
    """Make the content of a file durable, whoever wrote it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: str, data: bytes, *, durable: bool = True) -> None:
    """Create `path` with `data`; an existing file is an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: str, data: bytes | str, *, tmp: str | None = None, durable: bool = True) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part.

    `tmp`: folder for the half-made file, on the same file system (default: the folder of `path`).
    """
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    half = os.path.join(tmp or os.path.dirname(path), half_name(f".{os.path.basename(path)}"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(half)
    try:
        write_new(half, raw, durable=durable)
        os.replace(half, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise
    if durable:
        fsync_dir(os.path.dirname(path) or ".")


def read_bytes(path: str, start: int = 0) -> bytes | None:
    """The whole file (from `start` on), or None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if start:
            os.lseek(fd, start, os.SEEK_SET)
        parts = []
        size = 1 << 14  # grows: most files are small, and /proc refuses to be asked for much
        while part := os.read(fd, size):
            parts.append(part)
            size = min(2 * size, CHUNK)
        return b"".join(parts)
    finally:
        os.close(fd)


def out_of_the_way(fd: int) -> int:
    """The same open file, closed on exec, under a number far above those of the files that a child gets: these are put
    in place one by one when it starts, and none must overwrite what a later one needs."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_FD)
    finally:
        os.close(fd)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the flock of an open file if it is free; the kernel gives it back when the last holder of `fd` dies."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one at `path`: a lock on one that was moved or removed keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: str, timeout_s: float | None = None, *, flags: int = 0) -> Iterator[int]:
    """Hold the flock of `path` for the length of the block, as every short lock is held; leases and status files, whose
    locks live as long as a process, have their own. The file is made if missing, and open for reading and writing, with
    these further `flags` of os.open.

    The package filelock takes the same flock. Its import would be a seventh of search-run's start; and where a file
    system has no flock, it makes files that outlive whoever is killed.

    Raises TimeoutError where it is not free within `timeout_s` (None: waits).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    try:
        if timeout_s is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        deadline = time.monotonic() + (timeout_s or 0.0)
        while timeout_s is not None and not try_lock(fd):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", path)
            time.sleep(0.01)
        yield fd
    finally:
        os.close(fd)


def copy_file(src: str, dst: str, *, durable: bool = False) -> None:
    """Copy one regular file with mode and times: by reflink where the file system can, else keeping holes."""
    inp = os.open(src, os.O_RDONLY)
    try:
        info = os.fstat(inp)
        out = os.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(info.st_mode))
        try:
            try:
                fcntl.ioctl(out, FICLONE, inp)
            except OSError:
                _copy_data(inp, out, info)
            os.utime(out, ns=(info.st_atime_ns, info.st_mtime_ns))
            if durable:
                os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(inp)


def _copy_data(inp: int, out: int, info: os.stat_result) -> None:
    at = 0
    while at < info.st_size:
        try:
            start = os.lseek(inp, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # only a hole is left
                break
            start, end = at, info.st_size  # a file system without holes
        else:
            end = os.lseek(inp, start, os.SEEK_HOLE)
        os.lseek(inp, start, os.SEEK_SET)
        os.lseek(out, start, os.SEEK_SET)
        at = start
        while at < end:
            part = os.read(inp, min(CHUNK, end - at))
            if not part:  # the file shrank while it was read
                os.ftruncate(out, at)
                return
            write_all(out, part)
            at += len(part)
    os.ftruncate(out, info.st_size)


def discard(path: str) -> None:
    """Delete a folder and all below it, if it exists; nobody may be using it."""
    if os.path.lexists(path):
        shutil.rmtree(path)


def half_name(name: str) -> str:
    """The name of something half-made: it ends in our process number, so that `sweep` knows when it is abandoned."""
    return f"{name}.{os.getpid()}"


def sweep(folder: str) -> None:
    """Remove from a tmp folder what dead processes left half-made there."""
    for name in os.listdir(folder):
        pid = name.rpartition(".")[2]
        if pid.isdecimal() and not proc.exists(pid):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                discard(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def remove_tree(path: str, trash: str) -> None:
    """Remove a folder so that it is gone at once: it moves into `trash` (same file system), then is deleted there."""
    grave = os.path.join(trash, half_name(f"trash-{os.path.basename(path)}"))
    shutil.rmtree(grave, ignore_errors=True)
    os.rename(path, grave)
    shutil.rmtree(grave, ignore_errors=True)
