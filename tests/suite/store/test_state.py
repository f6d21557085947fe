"""The events of a task, replayed at once or followed one by one."""

from __future__ import annotations

import random

import pytest

from searchkit.suite.store import state
from searchkit.suite.store.journal import Event

OF_A_JOB = ("create", "launch", "result", "numbers", "adopt", "report", "late", "promote", "trial")
OF_JOBS = ("stop", "restart", "free", "freed", "delete")
OF_THE_TASK = ("open", "config", "complete", "reopen")


def event(rng: random.Random, kind: str, n: int, attempt: int, time_s: float) -> Event:
    """An event with all fields of its kind, and by chance with those that it may lack."""
    fields: Event = {"job": n} if kind in OF_A_JOB else {"jobs": [n, n + 1]} if kind in OF_JOBS else {"number": attempt}
    fields |= {"type": kind, "time": time_s, "attempt": attempt, "token": "t", "generation": 1, "snapshot": attempt}
    fields |= {"values": {"a": 1}, "text": {"a": "1"}, "command": "c", "gpus": [n], "retry": rng.random() < 0.3}
    fields |= {"state": rng.choice(["finished", "error", "stopped", "pruned"]), "rc": 0, "start": 1.0, "end": 2.0}
    fields |= {"spent": rng.choice(["", "error", "lost"]), "step": 1, "value": 0.5, "config": attempt}
    fields |= {"why": rng.choice(["stop", "interrupt", "task", "prune", "pause"]), "reason": "r", "reports": [[1, 2.0]]}
    more = {"scores": [1.0], "numbers": "a 1 2.0", "monitor": "m", "left": ["pre"], "level": ["a"], "genes": {"a": 1}}
    more |= {"stop": rng.choice(["prune", "pause"]), "added": True, "given": True, "python": {"path": "p"}}
    if kind == "config":
        more = {"space": True, "more": True, "reread": True}
    return fields | {name: value for name, value in more.items() if rng.random() < 0.5}


@pytest.mark.parametrize("seed", range(100))
def test_followed_or_replayed_it_is_the_same_and_jobs_at_hand_stay(seed: int) -> None:
    rng = random.Random(seed)
    attempts = [0] * 4
    events = []
    for i in range(60):
        kind, n = rng.choice((*OF_A_JOB, "launch", "result", *OF_JOBS, *OF_THE_TASK)), rng.randrange(4)
        attempts[n] += kind == "launch"
        events.append(event(rng, kind, n, max(1, attempts[n]), i - 2 * rng.random()))
    live, at_hand = state.TaskState(), []
    for each in events:
        state.advance(live, each)
        at_hand += [(job, repr(job)) for job in live.jobs.values()]
    assert state.replay(events) == live
    assert all(repr(job) == text for job, text in at_hand), "a job that somebody may hold was changed in place"
