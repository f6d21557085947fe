"""`trials()`: what a script is to try. In a plain job that is one trial, the job's own; in a warm worker many.

A worker (`run.workers`) is one process that serves trial after trial. The scheduler appends the next trial to its
`inbox.jsonl`, the worker appends the outcome to its `outbox.jsonl`; FIFOs only save both sides the waiting. The trial's
own `status` file stays the truth: this process creates it, which no two processes can do, holds its lock while the
trial runs, and writes its `exit` line. docs/contract.md#warm-workers has the user's side of it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import select
import sys
import time

from searchkit import proc
from searchkit.job import report as worker
from searchkit.job.trial import STOPPED, Trial

TYPE_CHECKING = False  # as in report.py: nothing is imported that the running script does not need
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

WAIT_S = 60.0  # how long a worker without a scheduler waits for the next one
LOOK_S = 1.0  # how often it looks whether there is one
POLL_S = 0.1  # how often it reads its inbox if nobody wakes it
RING_S = 0.05  # reports reach the scheduler at once at most this often
TOKEN = "SEARCHKIT_TOKEN"


def trials(**defaults: Any) -> Iterator[Trial]:
    """What this process is to try: `for trial in searchkit.trials(lr=0.1):`, and in the loop `with trial:`.

    In a worker it waits for one trial after another, and ends when none is left. In a plain job it yields one trial,
    the job's own; by hand one with the defaults, whose reports are printed.

    Raises UsageError in a worker whose process is not the only one that asks for trials.
    """
    global _serving
    if _serving is None and (folder := os.environ.get("SEARCHKIT_WORKER")):
        _serving = _Worker(folder)
    if _serving is not None:
        return _Loop(_serving, defaults)
    return iter((Trial(worker.params(**defaults)),))


class _Worker:
    """This process as a worker: the trial that it runs, and the files that tell it of the next one."""

    def __init__(self, folder: str) -> None:
        self.folder, self.name = folder, f"worker-{os.path.basename(folder)}"
        self.lease = os.path.join(os.path.dirname(os.path.dirname(folder)), "lease")
        self.home, self.pid, self.token = os.getcwd(), os.getpid(), os.environ.get(TOKEN, "")
        self.current = ""  # `<job>/<attempt>` of the trial that runs
        self.message: dict[str, Any] = {}  # what the scheduler said about it
        self.status = -1  # its status file, locked
        self.queue: list[dict[str, Any]] = []  # trials that have not begun
        self.stops: set[str] = set()  # trials that are to end
        self.stopped = False  # the running trial was told to stop before it ended
        self.ended = False  # no trial is left for this process: the scheduler said so,
        self.left = False  # or this process decided so, for good
        self.rung = 0.0
        self.rest = b""  # of the inbox: a line that has no end yet
        if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            size = os.environ["WORLD_SIZE"]
            raise _usage_error(f"a worker serves its trials in one process, but WORLD_SIZE is {size}")
        self.inbox = os.open(f"{folder}/inbox.jsonl", os.O_RDONLY)
        self.outbox = os.open(f"{folder}/outbox.jsonl", os.O_WRONLY | os.O_APPEND)
        if os.fstat(self.outbox).st_size:
            raise _usage_error("the command of a worker asked for trials in two processes")
        self.wake, self.bell = _fifo(f"{folder}/wake.fifo"), _fifo(f"{os.path.dirname(folder)}/bell.fifo")
        self.out = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (1, 2)]
        process = f"{os.uname().nodename} {proc.boot_id()} {self.pid} {proc.start_ticks('self')}"
        self.start = f"start {_backend_of(folder)} {process} {self.name}"
        # What this process starts is no worker: within a trial it is part of a job.
        del os.environ["SEARCHKIT_WORKER"]
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._at_exit)
        self._say(ready=self.pid)

    def _forget(self) -> None:
        """In a forked child, which may report, but neither ends the trial nor takes another: these are the parent's."""
        global _serving
        _serving = None
        for fd in (self.status, self.inbox, self.outbox, self.wake, self.bell, *self.out):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def is_forked(self) -> bool:
        return os.getpid() != self.pid

    # ---- the loop

    def next(self, defaults: dict[str, Any]) -> Trial | None:
        """Wait for the next trial and begin it; None where there is none for this process any more."""
        while (message := self._next_message()) is not None:
            if (trial := self._begin(message, defaults)) is not None:
                return trial
        return None

    def _next_message(self) -> dict[str, Any] | None:
        alone_since, look_at = 0.0, 0.0
        while not (self.left or self.is_forked()):
            self._hear()
            if self.queue:
                return self.queue.pop(0)
            now = time.monotonic()
            if now >= look_at:
                look_at = now + LOOK_S
                alone_since = 0.0 if self._has_scheduler() else alone_since or now
            self.left = self.ended or bool(alone_since and now - alone_since > WAIT_S)
            if self.left:
                self._say(bye=True)
                return None
            with contextlib.suppress(BlockingIOError):
                select.select([self.wake] if self.wake >= 0 else [], [], [], POLL_S)
                if self.wake >= 0:
                    os.read(self.wake, 4096)
        return None

    def _hear(self) -> None:
        """Read what the scheduler said since."""
        while part := os.read(self.inbox, 1 << 16):
            self.rest += part
        if b"\n" not in self.rest:
            return
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # empty, or cut off by the death of a scheduler
                continue
            if "trial" in message:
                self.queue.append(message)
            elif "stop" in message:
                self.stops.add(message["stop"])
            elif "resume" in message:
                self.stops.discard(message["resume"])
            elif "end" in message:
                self.ended = True

    def is_stopped(self, *, ring: bool = False) -> bool:
        """Whether the running trial is to end. `ring`: make the scheduler look at the reports at once, where that may
        end the trial."""
        if self.is_forked():
            return False
        if ring and self.message["judged"] and time.monotonic() - self.rung > RING_S:
            self._ring()
        self._hear()
        self.stopped |= self.current in self.stops
        return self.current in self.stops

    def _has_scheduler(self) -> bool:
        """Whether anybody holds the task's lease."""
        try:
            with open(self.lease, "rb") as f:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _say(self, **news: object) -> None:
        """Tell the scheduler, and ring; it reads the outbox even where nothing rings."""
        worker.append_line(self.outbox, json.dumps(news).encode())
        self._ring()

    def _ring(self) -> None:
        self.rung = time.monotonic()
        if self.bell >= 0:
            with contextlib.suppress(OSError):  # full: it has been rung often enough
                os.write(self.bell, b"\n")

    # ---- one trial

    def _begin(self, message: dict[str, Any], defaults: dict[str, Any]) -> Trial | None:
        """Begin a trial. None where another process has it, or it ended before the script's turn."""
        name = message["trial"]
        try:
            # Whoever creates the status file runs the attempt. Where a later attempt exists, this one was given up.
            if os.path.lexists(message["next"]):
                raise FileExistsError("a later attempt exists")
            fd = os.open(message["status"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except OSError as e:
            self._say(refused=name, why=e.strerror or str(e))
            return None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        worker.append_line(fd, f"{self.start} {time.time():.6f}".encode())
        self.status, self.message, self.current, self.stopped = fd, message, name, False
        os.environ.update(message["env"])
        try:
            self._redirect([os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)] * 2)
            os.chdir(message["work"])
        except OSError as e:
            print(f"searchkit: {e}", file=sys.stderr, flush=True)
            self.finish(126)
            return None
        if message["pre"] and (code := self._call(message["pre"])):
            self.finish(code, " pre")
            return None
        if self.is_stopped():
            self.finish(STOPPED)
            return None
        try:
            return Trial(worker.params(**defaults), self, name)
        except Exception:
            sys.excepthook(*sys.exc_info())
            self.finish(1)
            return None

    def finish(self, code: int, suffix: str = "") -> None:
        """Write how the running trial ended, and tell the scheduler."""
        if not self.current or self.is_forked():
            return
        name, token = self.current, self.message["env"][TOKEN]
        self._hear()
        self.stopped |= self.ended and name in self.stops  # it did not end when asked to, so the whole worker was ended
        if not suffix:
            with contextlib.suppress(OSError):
                worker.append_line(self.status, f"ended {code}{' stopped' if self.stopped else ''}".encode())
        after = 0 if suffix or not self.message["after"] else self._call(self.message["after"])
        self._redirect(self.out)
        with contextlib.suppress(OSError):
            os.chdir(self.home)
        for variable in self.message["env"]:
            os.environ.pop(variable, None)
        os.environ[TOKEN] = self.token
        worker.close_reports()
        self.current = ""
        # A full disk: no exit line, so the trial counts as lost.
        with contextlib.suppress(OSError):
            after_line = f"after {after}\n" if after else ""
            worker.append_line(self.status, f"{after_line}exit {code}{suffix}".encode())
        os.close(self.status)
        self.status = -1
        self.stops.discard(name)
        self._say(done=name, left=_left_children(token), **({"stopped": True} if self.stopped else {}))

    def _redirect(self, fds: list[int]) -> None:
        """Make stdout and stderr these open files, for C code and subprocesses, too. Ours are closed, others stay."""
        _flush()
        for fd, to in zip(fds, (1, 2), strict=True):
            os.dup2(fd, to)
        for fd in set(fds).difference(self.out):
            os.close(fd)

    def _call(self, argv: list[str]) -> int:
        """Run a callback of the config; its exit code."""
        import subprocess

        _flush()
        code = subprocess.run(argv, stdin=subprocess.DEVNULL).returncode
        return code if code >= 0 else 128 - code

    def _at_exit(self) -> None:
        """The process ends within a trial: by an exception that a plain `for` let through, by `break`, or sys.exit.
        Only its parent, the wrapper, will know the exit code; it writes it where this file says."""
        if not self.current or self.is_forked():
            return
        if self.message["after"] and (code := self._call(self.message["after"])):
            worker.append_line(self.status, f"after {code}".encode())
        fd = os.open(f"{self.folder}/open.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        worker.append_line(fd, os.fsencode(self.message["status"]))
        os.close(fd)


class _Loop:
    """An iterator, not a generator: the moment of garbage collection must not matter."""

    def __init__(self, serving: _Worker, defaults: dict[str, Any]) -> None:
        self.serving, self.defaults = serving, defaults

    def __iter__(self) -> _Loop:
        return self

    def __next__(self) -> Trial:
        self.serving.finish(0)  # the body of a plain `for` ran to its end
        trial = self.serving.next(self.defaults)
        if trial is None:
            raise StopIteration
        return trial


_serving: _Worker | None = None


def _usage_error(message: str) -> Exception:
    from searchkit.errors import UsageError

    return UsageError(message, "Leave run.workers out of the config: then every trial is a job, a process of its own")


def _backend_of(folder: str) -> str:
    """The backend that started the worker of a folder, as the first line of its status file says."""
    with contextlib.suppress(OSError), open(f"{folder}/status") as f:
        words = f.readline().split()
        return words[1] if words[:1] == ["start"] and len(words) > 1 else "local"
    return "local"


def _fifo(path: str) -> int:
    """Both ends of a FIFO, so that no death of the other side ever sends us a SIGPIPE; -1 where there is none."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return -1


def _flush() -> None:
    """Empty the buffers of stdout and stderr, ours and those of the C library."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if "ctypes" in sys.modules:  # without it, no C code is likely to print
        with contextlib.suppress(Exception):
            sys.modules["ctypes"].CDLL(None).fflush(None)


def _left_children(token: str) -> bool:
    """Whether a process that this trial started still runs. Forked ones belong to the worker, as its threads do."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    needle = f"{TOKEN}={token}\0".encode()
    threads = proc.threads()
    for thread in threads:
        children = proc.children(thread)
        if children is None or any(needle in (proc.environment(child) or b"") + b"\0" for child in children):
            return True  # or this kernel does not tell: somebody has to look at all processes
    return not threads
