"""Warm workers as the suite sees them: their folders, what they are told, and what they say.

The other side is searchkit/job/trials.py. A worker is a process like that of a job, started by the same wrapper in a
folder of its own, `workers/<k>/`. Its inbox and outbox are files that only grow, so that whoever comes later can read
all that was said; the FIFOs beside them only spare both sides the wait. How a trial ended is never read from here: its
status file says so, which the worker creates, locks and ends as a wrapper does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from searchkit import fsio
from searchkit.errors import SearchkitError
from searchkit.suite.backends.base import WORKER, Grant, Handle
from searchkit.suite.backends.table import Backends
from searchkit.suite.store import status
from searchkit.suite.workspace import TaskPaths, WorkerPaths


def trial_name(job: int, attempt: int) -> str:
    """What both sides call a trial."""
    return f"{job}/{attempt}"


@dataclass
class Worker:
    """A worker that lives, or whose end is not settled yet."""

    number: int
    paths: WorkerPaths
    token: str
    snapshot: int  # the code it runs
    grant: Grant
    port: int
    inbox: int  # open files
    outbox: int
    wake: int
    handle: Handle | None = None  # None: it is not started yet, or never will be
    rest: bytes = b""  # of the outbox: a line that has no end yet
    adopted: bool = False  # an earlier scheduler started it
    ready: bool = False  # it has asked for trials
    busy: str = ""  # the trial that it was given, until it says that the trial has ended

    served: int = 0
    ending_s: float | None = None  # since when it is to end, or is ending by itself (monotonic)
    killed: bool = False  # it is being ended by force
    maybe_torn: bool = False  # another scheduler wrote to the inbox, and may have been killed within a line

    @property
    def is_idle(self) -> bool:
        return self.ready and not self.busy and self.ending_s is None and not self.killed


@dataclass
class Crew:
    """The workers of a task. `limit` 0: there are none, every job is a process of its own."""

    limit: int = 0
    workers: dict[int, Worker] = field(default_factory=dict)
    bell: int = -1
    failures: int = 0  # workers in a row that ended by themselves before any trial
    deaths: int = 0  # the same, killed by somebody
    fault: SearchkitError | None = None  # why no more are started

    @property
    def fds(self) -> list[int]:
        """What becomes readable when a worker has news."""
        return [self.bell] if self.bell >= 0 else []

    def idle(self, snapshot: int) -> Worker | None:
        """A worker with this code that waits for a trial."""
        return next((w for w in self.workers.values() if w.is_idle and w.snapshot == snapshot), None)

    def by_trial(self, name: str) -> Worker | None:
        return next((w for w in self.workers.values() if w.busy == name), None)

    def hush(self) -> None:
        """Empty the bell."""
        if self.bell >= 0:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self.bell, 4096)) == 4096:
                    pass

    def close(self) -> None:
        for worker in self.workers.values():
            close(worker)
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1


# ---- their folders


def numbers(task: TaskPaths) -> list[int]:
    """The workers of a task that are not known to be gone, ascending."""
    try:
        names = os.listdir(task.workers)
    except FileNotFoundError:
        return []
    return sorted(int(n) for n in names if n.isdecimal() and not os.path.exists(task.worker(int(n)).gone))


def open_bell(task: TaskPaths) -> int:
    """The FIFO that workers ring, both ends of it; -1 on a file system that has none. Raises OSError."""
    os.makedirs(task.workers, exist_ok=True)
    return _open_fifo(task.bell)


def _open_fifo(path: str) -> int:
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return -1


def make(task: TaskPaths, token: str, snapshot: int, grant: Grant, port_of: Callable[[str], int]) -> Worker:
    """The folder of a new worker, without its working folder, and without a process. `token`: of the task; `port_of`
    gives the port for that of the worker. Raises OSError."""
    taken = [int(n) for n in os.listdir(task.workers) if n.isdecimal()]
    number = max(taken, default=0) + 1
    paths, port = task.worker(number), port_of(_token(token, number))
    os.mkdir(paths.root)
    facts = {"snapshot": snapshot, "gpus": grant.gpus, "port": port}
    for path in (paths.inbox, paths.outbox):
        fsio.write_new(path, b"", durable=False)
    fsio.write_new(paths.facts, json.dumps(facts).encode(), durable=False)
    return _open(paths, token, snapshot, grant, port)


def load(task: TaskPaths, token: str, k: int) -> Worker | None:
    """A worker that an earlier scheduler started, as its files have it; None where they are not all there."""
    paths = task.worker(k)
    try:
        facts = json.loads(fsio.read_bytes(paths.facts) or b"")
        grant = Grant(tuple(facts["gpus"]))
        worker = _open(paths, token, facts["snapshot"], grant, facts["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    worker.adopted = worker.maybe_torn = True
    sent, heard = _messages_of(paths)
    worker.busy = _unfinished(sent, heard)
    if any("end" in m for m in sent):
        worker.ending_s = time.monotonic()
    return worker


def _open(paths: WorkerPaths, token: str, snapshot: int, grant: Grant, port: int) -> Worker:
    inbox = fsio.out_of_the_way(os.open(paths.inbox, os.O_WRONLY | os.O_APPEND))
    outbox = fsio.out_of_the_way(os.open(paths.outbox, os.O_RDONLY))
    wake = _open_fifo(paths.wake)
    number = int(os.path.basename(paths.root))
    return Worker(number, paths, _token(token, number), snapshot, grant, port, inbox, outbox, wake)


def _token(task_token: str, number: int) -> str:
    """The mark of a worker's processes. Programs that a trial starts carry the trial's mark instead."""
    return f"{task_token}/{WORKER}{number}"


def close(worker: Worker) -> None:
    for fd in (worker.inbox, worker.outbox, worker.wake):
        if fd >= 0:
            os.close(fd)


# ---- what is said


def say(worker: Worker, **message: object) -> None:
    """Append to a worker's inbox, and wake it. Raises OSError."""
    line = json.dumps(message).encode() + b"\n"
    fsio.write_all(worker.inbox, b"\n" + line if worker.maybe_torn else line)
    worker.maybe_torn = False
    if worker.wake >= 0:
        with contextlib.suppress(OSError):  # full: it will look
            os.write(worker.wake, b"\n")


def news(worker: Worker) -> list[dict[str, Any]]:
    """What a worker has said since the last call."""
    while part := os.read(worker.outbox, 1 << 16):
        worker.rest += part
    if b"\n" not in worker.rest:
        return []
    lines, _, worker.rest = worker.rest.rpartition(b"\n")
    return _messages(lines)


def _messages(raw: bytes) -> list[dict[str, Any]]:
    messages = []
    for line in raw.split(b"\n"):
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                messages.append(message)
    return messages


def _messages_of(paths: WorkerPaths) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All that a worker was told, and all that it said. The outbox is read last: it may hold the answer to anything."""
    sent = _messages(fsio.read_bytes(paths.inbox) or b"")
    return sent, _messages(fsio.read_bytes(paths.outbox) or b"")


def _unfinished(sent: list[dict[str, Any]], heard: list[dict[str, Any]]) -> str:
    """The trial that a worker was given and has not answered for; empty where there is none."""
    name = next((str(m["trial"]) for m in reversed(sent) if "trial" in m), "")
    over = any("bye" in m or name in (m.get("done"), m.get("refused")) for m in heard)
    return "" if over else name


# ---- their processes


def handle(backends: Backends, task: TaskPaths, token: str, k: int) -> Handle:
    """A worker's processes, those of its trials included. `token`: of the task."""
    paths = task.worker(k).process
    return backends.handle(_token(token, k), paths, status.read(paths))


def serving(backends: Backends, task: TaskPaths, token: str) -> dict[str, int]:
    """The trials that live workers run or were given: name -> the worker's number. `token`: of the task."""
    busy = {}
    for k in numbers(task):
        name = _unfinished(*_messages_of(task.worker(k)))
        if name and _lives(backends, handle(backends, task, token, k)):
            busy[name] = k
    return busy


def _lives(backends: Backends, worker: Handle) -> bool:
    s = status.read(worker.paths)
    if s.exit_code is None and backends.alive(worker, s) is not False:
        return True
    return bool(backends.remains(worker))  # its wrapper may have been killed alone


def stop_trials(backends: Backends, task: TaskPaths, token: str, trials: Iterable[str], grace_s: float) -> None:
    """End these trials of workers without a scheduler: ask first, and kill after the grace. Raises OSError."""
    chosen = set(trials)
    asked: set[str] = set()
    deadline = time.monotonic() + grace_s
    while running := {name: k for name, k in serving(backends, task, token).items() if name in chosen}:
        for name in running.keys() - asked:
            asked.add(name)
            if worker := load(task, token, running[name]):
                say(worker, stop=name)
                close(worker)
        if time.monotonic() >= deadline:
            backends.end([handle(backends, task, token, k) for k in running.values()], grace_s)
            return
        time.sleep(0.02)


def end_all(backends: Backends, task: TaskPaths, token: str, grace_s: float) -> None:
    """End every process of every worker of a task that has no scheduler."""
    reachable = {}
    for k in numbers(task):
        worker = handle(backends, task, token, k)
        if backends.alive(worker, status.read(worker.paths)) is not None:
            reachable[k] = worker
    backends.end(reachable.values(), grace_s)
    for k in reachable:
        mark_gone(task.worker(k))


def mark_gone(paths: WorkerPaths) -> None:
    with contextlib.suppress(OSError):
        os.unlink(paths.wake)
    with contextlib.suppress(FileExistsError):
        fsio.write_new(paths.gone, b"{}\n", durable=False)
