"""What a scheduler is told while it runs: signals, and the intents that search-ctl leaves."""

from __future__ import annotations

import time

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.run import points
from searchkit.suite.run.attempts import Attempts
from searchkit.suite.store import creation, disk, intents
from searchkit.suite.store.status import Status


def obey(attempts: Attempts) -> None:
    """Act on signals, and on intents that search-ctl left."""
    if attempts.interrupts and not attempts.said_interrupt:
        attempts.said_interrupt = True
        attempts.draining = attempts.draining or "interrupt"
        n = len(attempts.live)
        attempts.observer.message(f"Ctrl-C: nothing more is launched, {n} running job(s) may finish (again: stop them)")
    if (attempts.interrupts >= 2 or attempts.terminated) and not attempts.stopping_all:
        attempts.stopping_all = True
        attempts.draining = attempts.draining or "interrupt"
        attempts.stop([n for n, live in attempts.live.items() if not live.elsewhere], "interrupt")
        if attempts.live:
            hint = "" if attempts.terminated else " (Ctrl-C again: leave them running)"
            attempts.observer.message(f"stopping {len(attempts.live)} running job(s){hint}")
    for intent in intents.unanswered(attempts.task.paths, attempts.task.state):
        if all(w.intent.id != intent.id for w in attempts.waiting):
            _take_intent(attempts, intent)


def _take_intent(attempts: Attempts, intent: intents.Intent) -> None:
    state = attempts.task.state
    waiting = intents.Waiting(intent, draining=attempts.draining in ("interrupt", "task"))
    if intent.op == "stop" and intent.whole_task:
        attempts.draining = "task"
        waiting.refused = sorted(n for n, live in attempts.live.items() if live.elsewhere)
        asked = sorted(set(attempts.live).difference(waiting.refused))
        attempts.stop(asked, "task")
        waiting.tokens = _set_grace(attempts, asked, intent.grace_s)
    elif intent.op == "stop":
        waiting.refused = sorted(n for n in intent.jobs if n in attempts.live and attempts.live[n].elsewhere)
        asked = sorted(set(intent.jobs).difference(waiting.refused))
        attempts.stop(asked, "stop")
        waiting.tokens = _set_grace(attempts, asked, intent.grace_s)
        for n in attempts.unstarted.intersection(intent.jobs):
            attempts.unstarted.discard(n)
            attempts.result(n, Status(exists=False))
    elif intent.op == "restart":
        attempts.settle_ended(intent.jobs)  # search-ctl sees an exit line as soon as we do
        waiting.refused = sorted(n for n in intent.jobs if n in attempts.live)
        jobs = [n for n in intent.jobs if n in state.jobs and n not in attempts.live]
        for n in attempts.unstarted.intersection(jobs):  # a new attempt: the half-made folders may hold the old code
            attempts.unstarted.discard(n)
            attempts.result(n, Status(exists=True))
        if attempts.draining == "error":
            attempts.draining = ""
        attempts.task.record("restart", time=time.time(), jobs=jobs, snapshot=intent.snapshot)
        attempts.ready = sorted({*attempts.ready, *jobs}, reverse=True)
    elif intent.op == "delete":
        attempts.settle_ended(intent.jobs)
        waiting.refused = sorted(n for n in intent.jobs if n in attempts.live)
        jobs = [n for n in intent.jobs if n in state.jobs and n not in attempts.live]
        attempts.task.record("delete", time=time.time(), jobs=jobs)
        attempts.unstarted.difference_update(jobs)
        attempts.task.journal.commit()
        with fsio.storage():
            creation.clean(attempts.task.paths, state)
    elif intent.op == "free":
        attempts.settle_ended(intent.jobs)
        live = sorted(n for n in intent.jobs if n in attempts.live)
        waiting.refused = sorted({*live, *disk.free(attempts.task, set(intent.jobs).difference(live), running=True)})
    elif intent.op in ("add", "withdraw"):
        waiting.draining = bool(attempts.draining)
        try:
            (_add if intent.op == "add" else _withdraw)(attempts, waiting)
        except UsageError as e:
            waiting.fault = (e.message, e.hint)
    attempts.waiting.append(waiting)


def _add(attempts: Attempts, waiting: intents.Waiting) -> None:
    config = attempts.plan.config
    waiting.jobs, waiting.refused = points.add(attempts.task, config, waiting.intent.points)
    attempts.task.journal.commit()
    for n in waiting.jobs:
        with fsio.storage():
            creation.make_job(attempts.task.paths, attempts.task.state.jobs[n])
        attempts.ready.insert(0, n)
    attempts.points = attempts.remaining_points()


def _withdraw(attempts: Attempts, waiting: intents.Waiting) -> None:
    intent, busy = waiting.intent, [*attempts.live, *attempts.unstarted]
    done = points.withdraw(attempts.task, attempts.plan.config, intent.jobs, intent.points, busy)
    waiting.jobs, waiting.refused = done
    attempts.task.journal.commit()
    with fsio.storage():
        creation.clean(attempts.task.paths, attempts.task.state)
    attempts.points = attempts.remaining_points()


def _set_grace(attempts: Attempts, jobs: list[int], grace_s: float) -> set[str]:
    """Give the live ones of `jobs` this grace; return the tokens of their attempts."""
    lives = [attempts.live[n] for n in jobs if n in attempts.live]
    for live in lives:
        live.grace_s = grace_s
        if live.ending is not None:
            attempts.backends.cancel({live.ending: grace_s})
    return {live.launch.token for live in lives}


def answer(attempts: Attempts) -> None:
    """Tell search-ctl what became of its intents once that is known."""
    for w in list(attempts.waiting):
        left = {n for n, live in attempts.live.items() if live.launch.token in w.tokens}
        if left and time.monotonic() - w.since < 2 * w.intent.grace_s + 20:
            continue
        tokens = {attempts.live[n].launch.token: n for n in left}
        tokens |= {target.token: n for n in left if (target := attempts.live[n].ending)}  # of a worker, its own
        survivors = {tokens[t]: pids for t, pids in attempts.backends.survivors().items() if t in tokens and pids}
        attempts.task.record(
            "answer",
            time=time.time(),
            id=w.intent.id,
            refused=w.refused,
            draining=w.draining,
            survivors={str(n): pids for n, pids in survivors.items()},
            **({"jobs": w.jobs, "fault": w.fault} if w.intent.op in ("add", "withdraw") else {}),
        )
        attempts.waiting.remove(w)
        attempts.task.journal.commit()
        intents.discard(attempts.task.paths, w.intent)
