"""The processes that this one started and has not reaped yet, and orphans of jobs that became its children."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from searchkit import proc


@dataclass
class Children:
    """What we started: wrappers, those that wait for their turn, programs of the suite itself."""

    pids: set[int] = field(default_factory=set)

    def spawn(self, argv: list[str], env: Mapping[str, str]) -> int:
        """Start a program of the suite beside the jobs, in a session of its own, so that Ctrl-C in the terminal does
        not reach it. Raises OSError."""
        pid = os.posix_spawn(argv[0], argv, env, setsid=True, setsigmask=[])
        self.pids.add(pid)
        return pid

    def reap(self) -> None:
        """Take note of those that have ended, without waiting."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self.pids.discard(pid)

    def has_orphans(self) -> bool:
        """Whether we have a child that we did not start: an orphan of some job, as we are the subreaper."""
        children = proc.children()
        return children is None or any(pid not in self.pids for pid in children)

    def wait(self, timeout_s: float) -> None:
        """Wait until all have ended; one that hangs is left alone."""
        deadline = time.monotonic() + timeout_s
        while self.pids and time.monotonic() < deadline:
            for pid in list(self.pids):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                self.pids.discard(pid)
            time.sleep(0.005)


def become_subreaper() -> None:
    """Let orphans of jobs become our children, so that what a job leaves behind is seen at no cost."""
    import ctypes

    PR_SET_CHILD_SUBREAPER = 36
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
