"""The events of a task as readers see them, whatever a crash or a disk has done to some lines."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from searchkit.suite.store import journal
from searchkit.suite.store.journal import decode, encode
from searchkit.suite.workspace import TaskPaths


@pytest.mark.parametrize("seed", range(3))
def test_a_long_log_is_read_as_line_by_line(tmp_path: Path, seed: int) -> None:
    """It is parsed some 64 KiB at a time: no line is lost where one part ends and the next begins."""
    rng = random.Random(seed)
    task = TaskPaths("default", str(tmp_path))
    os.makedirs(task.events)
    whole, damaged = [], 0
    for generation in (1, 2, 10):
        lines = []
        for n in range(rng.randrange(500, 3000)):
            event = {"seq": n, "type": "answer", "id": f"{generation}", "text": "é\udc80 " * rng.randrange(60)}
            line = encode(event)
            if rng.random() < 0.01:
                line = rng.choice((b"\n", line[: len(line) // 2] + b"\n", line.replace(b'"seq"', b'"sea"')))
                damaged += 1
            else:
                whole.append(event)
            lines.append(line)
        torn = encode({"seq": -1, "type": "answer", "id": "torn"})[:-1]  # whole but for its newline
        Path(task.segment(generation)).write_bytes(b"".join(lines) + torn)
    events = journal.Events(task)
    assert list(events) == whole and events.damaged == damaged
    assert journal.read(task) == (whole, damaged)
    assert all(decode(encode(event)[:-1]) == event for event in whole[:20])
