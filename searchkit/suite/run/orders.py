"""What a scheduler is told while it runs: signals, and intents of search-ctl."""

from __future__ import annotations

import time
from collections.abc import Callable

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.run import attempts, creating, points, results
from searchkit.suite.run.owners import Run
from searchkit.suite.store import creation, disk, intents
from searchkit.suite.store.status import Status


def obey(run: Run) -> None:
    """Act on signals, and on intents that search-ctl left."""
    live = run.running.live
    if run.asked.heed_interrupt():
        run.asked.drain("interrupt")
        run.news.say(f"Ctrl-C: nothing more is launched, {len(live)} running job(s) may finish (again: stop them)")
    if run.asked.heed_stop():
        run.asked.drain("interrupt")
        attempts.stop(run, run.running.endable(), "interrupt")
        if live:
            hint = "" if run.asked.terminated else " (Ctrl-C again: leave them running)"
            run.news.say(f"stopping {len(live)} running job(s){hint}")
    for intent in intents.unanswered(run.task.paths, run.task.state):
        if all(waiting.intent.id != intent.id for waiting in run.asked.intents):
            waiting = intents.Waiting(intent, draining=run.asked.is_stopped)
            if intent.op in OBEY:  # else of a later version, and answered as done
                OBEY[intent.op](run, waiting)
            run.asked.take(waiting)


def _stop(run: Run, waiting: intents.Waiting) -> None:
    intent, live = waiting.intent, run.running.live
    if intent.whole_task:
        run.asked.stop_task()
    about = sorted(live if intent.whole_task else intent.jobs)
    waiting.refused = [n for n in about if n in live and live[n].elsewhere]
    stoppable = sorted(set(about).difference(waiting.refused))
    attempts.stop(run, stoppable, "task" if intent.whole_task else "stop")
    waiting.tokens = attempts.set_grace(run, stoppable, intent.grace_s)
    for n in () if intent.whole_task else run.queue.take_decided(intent.jobs):
        results.accept(run, n, Status(exists=False))


def _restart(run: Run, waiting: intents.Waiting) -> None:
    jobs = _ended(run, waiting)
    for n in run.queue.take_decided(jobs):  # a new attempt: the half-made folders may hold the old code
        results.accept(run, n, Status(exists=True))
    run.asked.go_on_after_error()
    run.task.record("restart", time=time.time(), jobs=jobs, snapshot=waiting.intent.snapshot)
    run.queue.put_in_order(jobs)


def _delete(run: Run, waiting: intents.Waiting) -> None:
    jobs = _ended(run, waiting)
    run.task.record("delete", time=time.time(), jobs=jobs)
    run.queue.take_decided(jobs)
    run.task.journal.commit()
    with fsio.storage():
        creation.clean(run.task.paths, run.task.state)


def _free(run: Run, waiting: intents.Waiting) -> None:
    jobs = waiting.intent.jobs
    results.settle_ended(run, jobs)
    live = sorted(n for n in jobs if n in run.running.live)
    waiting.refused = sorted({*live, *disk.free(run.task, set(jobs).difference(live), running=True)})


def _ended(run: Run, waiting: intents.Waiting) -> list[int]:
    """The jobs of an intent that do not run; the others are refused."""
    jobs = waiting.intent.jobs
    results.settle_ended(run, jobs)  # search-ctl sees an exit line as soon as we do
    waiting.refused = sorted(n for n in jobs if n in run.running.live)
    return [n for n in jobs if n in run.task.state.jobs and n not in run.running.live]


def _steer(change: Callable[[Run, intents.Waiting], None]) -> Callable[[Run, intents.Waiting], None]:
    """Wrap an order that changes the points of a task: it may be refused, with an error that search-ctl prints."""

    def obey(run: Run, waiting: intents.Waiting) -> None:
        waiting.draining = bool(run.asked.draining)
        try:
            change(run, waiting)
        except UsageError as e:
            waiting.fault = (e.message, e.hint)

    return obey


def _add(run: Run, waiting: intents.Waiting) -> None:
    waiting.jobs, waiting.refused = points.add(run.task, run.plan.config, waiting.intent.points)
    run.task.journal.commit()
    creating.make_folders(run, waiting.jobs)
    run.queue.refill(creating.points_left(run))


def _withdraw(run: Run, waiting: intents.Waiting) -> None:
    intent, busy = waiting.intent, [*run.running.live, *run.queue.decided]
    done = points.withdraw(run.task, run.plan.config, intent.jobs, intent.points, busy)
    waiting.jobs, waiting.refused = done
    run.task.journal.commit()
    with fsio.storage():
        creation.clean(run.task.paths, run.task.state)
    run.queue.refill(creating.points_left(run))


OBEY: dict[str, Callable[[Run, intents.Waiting], None]] = {
    "stop": _stop,
    "restart": _restart,
    "delete": _delete,
    "free": _free,
    "add": _steer(_add),
    "withdraw": _steer(_withdraw),
}


def answer(run: Run) -> None:
    """Tell search-ctl the outcome of its intents once it is known."""
    live = run.running.live
    for waiting in list(run.asked.intents):
        intent = waiting.intent
        left = {n for n, one in live.items() if one.launch.token in waiting.tokens}
        if left and time.monotonic() - waiting.since < 2 * intent.grace_s + 20:
            continue
        tokens = {live[n].launch.token: n for n in left}
        tokens |= {ending.token: n for n in left if (ending := live[n].ending)}  # of a worker, its own
        survivors = {tokens[t]: pids for t, pids in run.backends.survivors().items() if t in tokens and pids}
        run.task.record(
            "answer",
            time=time.time(),
            id=intent.id,
            refused=waiting.refused,
            draining=waiting.draining,
            survivors={str(n): pids for n, pids in survivors.items()},
            **({"jobs": waiting.jobs, "fault": waiting.fault} if intent.op in ("add", "withdraw") else {}),
        )
        run.asked.answered(waiting)
        run.task.journal.commit()
        intents.discard(run.task.paths, intent)
