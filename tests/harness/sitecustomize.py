"""Kills search-run from inside at a chosen change of a file: put this folder on PYTHONPATH and set one of

    SEARCHKIT_KILL_LOG=FILE     write the name of every change to FILE, kill nothing
    SEARCHKIT_KILL_AT=N         SIGKILL right after the N-th change (1 is the first)
    SEARCHKIT_TEAR_AT=N         SIGKILL half-way through the N-th change, which must be a write

Only the process whose command line names search-run is touched; jobs that inherit the variables are not. The suite
itself knows nothing of this: what is wrapped here are Python's own os functions.
"""

import os
import signal
import sys

CHANGES = ("mkdir", "rename", "replace", "symlink", "link", "unlink", "rmdir", "posix_spawn", "ftruncate", "pwrite")


def install():
    kill_at = int(os.environ.get("SEARCHKIT_KILL_AT", 0))
    tear_at = int(os.environ.get("SEARCHKIT_TEAR_AT", 0))
    log = os.environ.get("SEARCHKIT_KILL_LOG")
    raw_write, raw_open = os.write, os.open
    log_fd = raw_open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) if log else None
    count = 0

    def step(name):
        """Count one change; say whether it is the one to tear."""
        nonlocal count
        count += 1
        if log_fd is not None:
            raw_write(log_fd, f"{name}\n".encode())
        return count == tear_at

    def die_if_due():
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(name):
        raw = getattr(os, name)

        def changed(*args, **kwargs):
            result = raw(*args, **kwargs)
            step(name)
            die_if_due()
            return result

        return changed

    def write(fd, data):
        if fd <= 2 or fd == log_fd:
            return raw_write(fd, data)
        if step("write"):
            raw_write(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        done = raw_write(fd, data)
        die_if_due()
        return done

    def open_(path, flags, mode=0o777, *, dir_fd=None):
        creates = flags & os.O_CREAT and not os.path.exists(path)
        fd = raw_open(path, flags, mode, dir_fd=dir_fd)
        if creates:
            step("create")
            die_if_due()
        return fd

    for name in CHANGES:
        setattr(os, name, wrap(name))
    os.write, os.open = write, open_


if any(word.endswith("search-run") for word in sys.orig_argv) and any(
    name in os.environ for name in ("SEARCHKIT_KILL_AT", "SEARCHKIT_TEAR_AT", "SEARCHKIT_KILL_LOG")
):
    install()
