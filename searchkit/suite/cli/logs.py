"""Printing and following the log of a job."""

from __future__ import annotations

import os
import sys
import time

from searchkit.errors import SearchkitError
from searchkit.suite.store import journal, tasks
from searchkit.suite.store.job import ENDED
from searchkit.suite.store.state import replay
from searchkit.suite.workspace import TaskPaths

POLL_S = 0.2


def print_log(task: TaskPaths, job: int, attempt: int, *, follow: bool, title: bool) -> None:
    """Copy a log to stdout as it is, byte for byte; with `follow`, until the attempt has ended."""
    if attempt == 0 and not follow:
        raise SearchkitError(
            f"job {job} has not started yet", f"search-ctl logs --task {task.name} --jobs {job} -f waits"
        )
    paths = task.job(job).attempt(max(1, attempt))
    out = sys.stdout.buffer
    if title:
        out.write(f"==> job {job} <==\n".encode())
    at = 0
    while True:
        over = tasks.view_job(task, replay(journal.Events(task)).jobs[job]).state in ENDED if follow else True
        at += _copy_from(paths.log, at)
        out.flush()
        if over:
            return
        time.sleep(POLL_S)


def _copy_from(path: str, at: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    done = 0
    try:
        while part := os.pread(fd, 1 << 20, at + done):
            sys.stdout.buffer.write(part)
            done += len(part)
    finally:
        os.close(fd)
    return done
