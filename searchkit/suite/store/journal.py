"""The events of a task: one scheduler's decisions and the results it accepted, append-only, one file per generation.

A line is one JSON object that ends in its own CRC-32: `{"seq":3,"type":"result",...,"crc":"0f3a99c1"}`. Only the
process that created a segment appends to it, so a torn last line stays torn and is never repaired: it is skipped.
Decisions are written before they are acted on (`write`), which is what makes a kill at any instant harmless, and
results are synced before they are shown (`commit`), which is what makes a power loss harmless.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from searchkit import fsio
from searchkit.errors import HeldError
from searchkit.suite.workspace import TaskPaths

Event = dict[str, Any]
_CRC_TAIL = len(',"crc":"00000000"}')
_AT_ONCE = 1 << 16  # bytes of a segment that are parsed together


def encode(event: Event) -> bytes:
    """One line of a segment, its CRC included."""
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(line: bytes) -> Event | None:
    """The event of a line without its newline; None where the line is torn or damaged."""
    body, tail = line[:-_CRC_TAIL], line[-_CRC_TAIL:]
    try:
        if tail[:8] != b',"crc":"' or int(tail[8:16], 16) != zlib.crc32(body):
            return None
        event = json.loads(body.decode("utf-8", "surrogateescape") + "}")
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def generations(task: TaskPaths) -> list[int]:
    """The numbers of the segments that exist, ascending."""
    try:
        names = os.listdir(task.events)
    except FileNotFoundError:
        return []
    return sorted(int(n[:-6]) for n in names if n.endswith(".jsonl") and n[:-6].isdigit())


@dataclass
class Events:
    """All events of a task in order, each time anew. Never blocks the writer.

    They are parsed some hundred at a time: where each leaves its mark and goes (`state.replay`), the next ones come to
    lie in the same memory, which for 10,000 jobs takes a sixth less time than to hold all at once.
    """

    task: TaskPaths
    damaged: int = 0  # whole lines that could not be read, so far

    def __iter__(self) -> Iterator[Event]:
        self.damaged = 0
        for generation in generations(self.task):
            raw, at = fsio.read_bytes(self.task.segment(generation)) or b"", 0
            while at < len(raw):
                end = raw.find(b"\n", at + _AT_ONCE) + 1 or len(raw)
                lines = raw[at:end].split(b"\n")[:-1]
                events = _decode_all(lines)
                self.damaged += len(lines) - len(events)
                at = end
                yield from events


def read(task: TaskPaths) -> tuple[list[Event], int]:
    """All events of a task in order, and how many whole lines were damaged."""
    events = Events(task)
    return list(events), events.damaged


def _decode_all(lines: list[bytes]) -> list[Event]:
    """The events of the lines that are whole. They are parsed as one text: one by one they take half as long again."""
    bodies = [body for line in lines if line[-_CRC_TAIL:-2] == b',"crc":"%08x' % zlib.crc32(body := line[:-_CRC_TAIL])]
    if not bodies:
        return []
    try:
        decoded = json.loads((b"[%s}]" % b"},".join(bodies)).decode("utf-8", "surrogateescape"))
    except ValueError:  # a line that is whole, and yet no JSON: not one of ours
        decoded = map(decode, lines)
    return [event for event in decoded if isinstance(event, dict)]


def follow(task: TaskPaths) -> Iterator[list[Event]]:
    """Yield, at every `next`, the events that came since the last one (at first: since this call began)."""
    offsets = {g: os.path.getsize(task.segment(g)) for g in generations(task)}
    while True:
        fresh: list[Event] = []
        for generation in generations(task):
            at = offsets.get(generation, 0)
            raw = fsio.read_bytes(task.segment(generation), at) or b""
            end = raw.rfind(b"\n") + 1
            fresh += [e for e in map(decode, raw[:end].split(b"\n")[:-1]) if e is not None]
            offsets[generation] = at + end
        yield fresh


class Journal:
    """The open segment of the scheduler that holds the lease; `append` collects, `write` and `commit` keep."""

    def __init__(self, task: TaskPaths, generation: int) -> None:
        self.generation = generation
        self._fd = os.open(task.segment(generation), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._seq = 0
        self._pending: list[bytes] = []
        self._synced = True
        fsio.fsync_dir(task.events)

    def append(self, type_: str, **fields: Any) -> Event:
        """Add an event to the next commit, and return it as it will be read."""
        event: Event = {"seq": self._seq, "type": type_, **fields}
        self._seq += 1
        self._pending.append(encode(event))
        return event

    def write(self) -> None:
        """Write what was appended: readers see it, and no death of this process undoes it. Raises StorageError, after
        which this journal must not be used."""
        if self._pending:
            with fsio.storage():
                fsio.write_all(self._fd, b"".join(self._pending))
            self._pending.clear()
            self._synced = False

    def commit(self) -> None:
        """Write and sync what was appended: no power loss undoes it either. Raises as `write`."""
        self.write()
        if not self._synced:
            with fsio.storage():
                os.fdatasync(self._fd)
            self._synced = True

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Lease:
    """The right to decide for a task. The kernel ends it when its holder dies."""

    fd: int
    generation: int

    def release(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class Holder:
    """Who wrote the lease file last; true only while the lease is held."""

    generation: int
    backend: str
    host: str
    boot_id: str
    pid: int
    start_ticks: int
    time_s: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time_s))
        return f"process {self.pid} on {self.host} since {since}"


def holder(task: TaskPaths) -> Holder | None:
    """Who the lease file names, or None where it can't be read."""
    try:
        return Holder(**json.loads(fsio.read_bytes(task.lease) or b""))
    except (ValueError, TypeError):
        return None


def is_held(task: TaskPaths) -> bool:
    """Whether a scheduler (or a search-ctl that acts for it) holds the lease now."""
    try:
        fd = os.open(task.lease, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not fsio.try_lock(fd, shared=True)
    finally:
        os.close(fd)


def try_acquire(task: TaskPaths, me: Holder) -> Lease | None:
    """Take the lease if it is free. A reader that looks (`is_held`) holds it for microseconds, hence the tries."""
    fd = os.open(task.lease, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(20):
        if fsio.try_lock(fd):
            break
        time.sleep(0.002)
    else:
        os.close(fd)
        return None
    if not fsio.is_at(fd, task.lease):  # the task was moved away, or deleted, between the two calls above
        os.close(fd)
        return None
    generation = max(generations(task), default=0) + 1
    # In place, because the lock sits on this very file; nothing is ever decided from its text.
    os.pwrite(fd, json.dumps({**me.__dict__, "generation": generation}).encode().ljust(512), 0)
    return Lease(fd, generation)


def acquire(task: TaskPaths, me: Holder) -> Lease:
    """Take the lease, or a ConflictError that names its holder."""
    lease = try_acquire(task, me)
    if lease is None:
        raise HeldError(
            f"task {task.name!r} is already being run by {holder(task) or 'another process'}",
            f"Look at it: search-ctl show --task {task.name}    Stop it: search-ctl stop --task {task.name}",
        )
    return lease
