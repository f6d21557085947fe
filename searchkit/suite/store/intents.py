"""What search-ctl asks of a running scheduler: write-once files that an event answers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

from searchkit import fsio
from searchkit.suite.store.state import TaskState
from searchkit.suite.workspace import TaskPaths


@dataclass(frozen=True)
class Intent:
    id: str
    op: str  # stop | restart | delete | free | add | withdraw
    generation: int  # of the scheduler that it speaks to
    jobs: list[int] = field(default_factory=list)
    whole_task: bool = False
    snapshot: int = 0
    grace_s: float = 0.0  # of a stop
    points: list[dict[str, str]] = field(default_factory=list)  # of add and withdraw


@dataclass
class Waiting:
    """An intent that was taken; answered when the attempts it is about are gone."""

    intent: Intent
    draining: bool = False  # the scheduler launches nothing more
    tokens: set[str] = field(default_factory=set)  # of the attempts that have to be gone first
    refused: list[int] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)  # that were added or withdrawn
    fault: tuple[str, str] | None = None  # why that can't be done, and a hint
    since: float = field(default_factory=time.monotonic)


def post(task: TaskPaths, op: str, generation: int, **fields: Any) -> Intent:
    """Leave an intent for the scheduler of that generation."""
    intent = Intent(f"{time.time_ns()}-{os.getpid()}", op, generation, **fields)
    with fsio.storage():
        fsio.atomic_write(f"{task.intents}/{intent.id}.json", json.dumps(intent.__dict__), tmp=task.tmp)
    return intent


def unanswered(task: TaskPaths, state: TaskState) -> list[Intent]:
    """The intents without an answer that speak to the newest generation, oldest first.

    One that spoke to a scheduler that died is void: whoever posted it sees the lease change hands and asks again.
    """
    out = []
    with fsio.storage():
        names = sorted(os.listdir(task.intents))
    for name in names:
        if not name.endswith(".json") or name[:-5] in state.answers:
            continue
        try:
            intent = Intent(**json.loads(fsio.read_bytes(f"{task.intents}/{name}") or b""))
        except (ValueError, TypeError):
            continue
        if intent.generation == state.generation:
            out.append(intent)
        else:
            discard(task, intent)
    return out


def discard(task: TaskPaths, intent: Intent) -> None:
    """Remove an intent that is answered or void."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{task.intents}/{intent.id}.json")
