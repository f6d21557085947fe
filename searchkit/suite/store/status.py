"""The status file of an attempt: its wrapper's `start` and `exit` lines, and whether that wrapper still lives.

    start <backend> <host> <boot id> <pid> <start ticks> <handle> <unix time>
    ended <exit code> [stopped]                         (of the command; `stopped`: it may have caught a stop)
    after <exit code of the after callback>             (only where it failed)
    exit <exit code> [pre]                              (`pre`: the pre callback failed, the command never ran)

The wrapper holds the file's flock from before it starts until it is gone, so a wrapper that has not yet written its
`start` is known to be alive, and a reused process number is never taken for it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from searchkit import fsio, proc
from searchkit.suite.workspace import AttemptPaths

LAST_BYTES = 4096  # of a log, in which its last line is looked for
BY_SIGNAL = (128 + signal.SIGTERM, 128 + signal.SIGKILL)  # how a stop ends what does not catch it


@dataclass(frozen=True)
class Start:
    backend: str
    host: str
    boot_id: str
    pid: int
    start_ticks: int
    handle: str
    time_s: float


@dataclass(frozen=True)
class Status:
    """What a status file says. `exit_code` None: the attempt has no exit line (yet)."""

    exists: bool
    start: Start | None = None
    exit_code: int | None = None
    pre_failed: bool = False
    command_code: int | None = None  # None: the command has not ended, or was begun by a wrapper that never says so
    stopped: bool = False
    after_code: int | None = None
    end_s: float | None = None
    alive: bool = False
    elsewhere: str = ""  # the other machine that it was started on: nobody here can say that it is dead
    damaged: int = 0

    @property
    def stop_came_first(self) -> bool:
        """Whether a stop, where one was asked, reached the command before that ended by itself: it died of the signal,
        or caught it while its wrapper knew of the stop."""
        return self.stopped or self.command_code in (None, *BY_SIGNAL)


def last_line(paths: AttemptPaths, s: Status) -> str:
    """The last line of the log of an attempt whose command failed; empty for any other."""
    if not s.exit_code:
        return ""
    try:
        with open(paths.log, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - LAST_BYTES))
            lines = f.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def read(paths: AttemptPaths) -> Status:
    """Parse the status file of an attempt and look whether its wrapper lives. Undecodable lines are counted."""
    try:
        fd = os.open(paths.status, os.O_RDONLY)
    except FileNotFoundError:
        return Status(exists=False)
    try:
        # Looked at before the text is read: a wrapper that ends in between has written its exit line by then.
        alive = not fsio.try_lock(fd, shared=True)
        raw = os.read(fd, 1 << 16)
        end_s = os.fstat(fd).st_mtime
    finally:
        os.close(fd)
    start, exit_code, pre, after, damaged = None, None, False, None, 0
    command_code, stopped = None, False
    for line in raw.split(b"\n")[:-1]:
        words = line.decode("utf-8", "replace").split()
        try:
            if words[0] == "start" and start is None:
                backend, host, boot, pid, ticks, handle, time_s = words[1:]
                start = Start(backend, host, boot, int(pid), int(ticks), handle, float(time_s))
            elif words[0] == "ended" and start and command_code is None:
                command_code, stopped = int(words[1]), words[2:] == ["stopped"]
            elif words[0] == "after" and start:
                after = int(words[1])
            elif words[0] == "exit" and start and exit_code is None:
                exit_code, pre = int(words[1]), words[2:] == ["pre"]
            else:
                damaged += 1
        except (ValueError, IndexError):
            damaged += 1
    elsewhere = ""
    if not alive and exit_code is None and start:
        if start.boot_id == proc.boot_id():
            # A file system without flock never says "alive": ask the process table as well.
            alive = proc.is_alive(start.pid, start.start_ticks)
        elif start.host != proc.host():
            alive, elsewhere = True, start.host
    ended = end_s if exit_code is not None else None
    if ended is not None and start:
        ended = max(ended, start.time_s)  # a file's time comes from a coarser clock than ours
    return Status(True, start, exit_code, pre, command_code, stopped, after, ended, alive, elsewhere, damaged)
