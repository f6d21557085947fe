"""What was measured so far, appended to a file as it is measured: whatever kills a measurement, it goes on there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from searchkit import fsio
from searchkit.errors import ConflictError

Entry = dict[str, Any]


class Log:
    """A file of JSON objects, one a line, the first of which says what the others are of."""

    def __init__(self, fd: int, entries: list[Entry]) -> None:
        self._fd = fd
        self.entries = entries  # those behind the first

    def add(self, entry: Entry) -> None:
        """Append one; it survives our death."""
        with fsio.storage():
            fsio.write_all(self._fd, json.dumps(entry).encode() + b"\n")
        self.entries.append(entry)


@contextlib.contextmanager
def opened(path: str, head: Mapping[str, Any]) -> Iterator[Log]:
    """The log at `path`, ours alone: new with this head, or an older one with the same head, less a torn last line.

    Raises ConflictError where it has another head, or another process writes it.
    """
    with fsio.storage():
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if not fsio.try_lock(fd):
            raise ConflictError(f"another process is measuring into {path}", "Wait for it, or name another --out")
        with fsio.storage():
            raw = fsio.read_bytes(path) or b""
            whole = raw[: raw.rfind(b"\n") + 1]
            os.ftruncate(fd, len(whole))
        first, *entries = [json.loads(line) for line in whole.splitlines()] or [None]
        log = Log(fd, entries)
        if first is None:
            log.add(dict(head))
            log.entries.clear()
        elif lines := differences(first, head):
            raise ConflictError(f"{path} is of another measurement: {lines}", "Name another --out, or remove that file")
        yield log
    finally:
        os.close(fd)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two heads, in words; empty where they are equal."""
    parts = []
    for key in dict.fromkeys((*there, *here)):
        was, now = there.get(key), here.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            parts.append(differences(was, now))
        elif was != now:
            parts.append(f"{key}: {was} there, {now} here")
    return "; ".join(filter(None, parts))
