"""The attempts of a run: which have ended, which begin, which are to end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.backends.base import CannotStart
from searchkit.suite.run import crew as working
from searchkit.suite.run import judging, results
from searchkit.suite.run.owners import Live, Run
from searchkit.suite.store import status
from searchkit.suite.store.job import State
from searchkit.suite.store.status import Status

PREPARE_AHEAD = 4  # jobs whose working folders are laid out before a slot is free
READ_AHEAD_S, READ_AHEAD_BYTES = 0.2, 1 << 20  # so often, so much of all logs: a tenth of a processor at most


# ---- which have ended


def collect(run: Run) -> list[Live]:
    """Find the attempts that ended, and those that have run too long.

    Attempts that ended free their slots here and are settled after the next launches. Two kinds are settled at once:
    those with a GPU, which must be free for certain, and all of them where a failure is to stop the rest.
    """
    live = run.running.live
    run.backends.children.reap()
    gone = run.backends.ended()
    over = working.collect(run, gone)
    over.update(n for n, one in live.items() if gone and one.is_over(gone))
    ended = [live[n] for n in sorted(over)]
    for one in ended:
        if one.grant.gpus or run.plan.config.run.on_error == "stop":
            results.settle(run, one.job)
        else:
            results.free_slot(run, one)
    now = time.time()
    late = [n for n, one in live.items() if one.deadline and now > one.deadline and not one.ending and n not in over]
    if late:
        stop(run, late, "timeout")
    return ended


def settle(run: Run, ended: Iterable[Live]) -> None:
    """Settle those that are not settled yet."""
    for one in ended:
        if run.running.live.get(one.job) is one:
            results.settle(run, one.job)


def judge(run: Run) -> None:
    """Have the early stoppers look at the running jobs."""
    if run.search and not run.asked.interrupts:
        live = run.running.live.items()
        free = [n for n, one in live if not (one.ending or one.elsewhere or one.command_ended)]
        try:
            judging.judge(run.search, [n for n in free if n in run.task.state.jobs])
        except UsageError as e:
            results.stopper_failed(run, e)


def read_ahead(run: Run) -> None:
    """Read a little of the logs as they grow, so that a job that ends need not wait while a long log is read. The logs
    that are furthest behind come first."""
    if not run.plan.config.monitor.regex or not run.reports.is_due(time.monotonic(), READ_AHEAD_S):
        return
    left = READ_AHEAD_BYTES
    jobs = (run.task.state.jobs.get(n) for n in run.running.live)
    readers = [run.reports.readers.of(job) for job in jobs if job]
    with fsio.storage():
        for reader in sorted(readers, key=lambda each: each.files[each.log].at if each.log in each.files else 0):
            left -= reader.read_ahead(left)
            if left <= 0:
                break


# ---- which begin


def decide(run: Run) -> list[int]:
    """Record which jobs are launched on the places that are free; returns them."""
    chosen: list[int] = []
    queue, slots = run.queue, run.plan.slots
    while queue.ready and run.asked.launches:
        n = queue.ready[-1]
        job = run.task.state.jobs.get(n)
        if job is None or n in run.running.live or not (job.state is State.PENDING or n in queue.decided):
            queue.pop()
            continue
        worker = run.crew.idle(job.snapshot)
        grant = worker.grant if worker else None if run.crew.limit else slots.take()
        if grant is None:
            run.news.waits_for(slots.waits_for)
            break
        run.news.has_place()
        queue.pop()
        attempt = job.attempt if queue.take_decided([n]) else job.attempt + 1
        run.task.record("launch", time=time.time(), job=n, attempt=attempt, gpus=grant.gpus, snapshot=job.snapshot)
        launch = run.launcher.describe(n)
        run.running.add(working.assign(run, worker, launch, n) if worker else Live(launch, n, grant))
        chosen.append(n)
    return chosen


def start(run: Run, n: int) -> None:
    """Act on a launch event: folders, then the wrapper. Raises StorageError."""
    live, timeout_s = run.running.live[n], run.plan.config.run.timeout_s
    try:
        if live.worker is not None:
            working.hand_over(run, n)
        else:
            live.handle = run.launcher.start(n, live.launch, live.grant)
    except CannotStart as e:
        _refuse(run, n, f"cannot be started: {e}")
        return
    except FileExistsError:  # begun before a power loss that took its launch event: the next number is free
        results.free_slot(run, run.running.drop(n))
        results.accept(run, n, Status(exists=True))
        return
    if timeout_s:
        live.deadline = time.time() + timeout_s
    run.news.launched(run.task.state.jobs[n])


def _refuse(run: Run, n: int, reason: str) -> None:
    results.free_slot(run, run.running.drop(n))
    now = time.time()
    fields = {"rc": 126, "start": now, "end": now, "retry": False, "reason": reason, "spent": "error"}
    attempt = run.task.state.jobs[n].attempt
    results.record(run, n, {"time": now, "job": n, "attempt": attempt, "state": State.ERROR.value, **fields})


def prepare(run: Run) -> bool:
    """Make one of the next jobs ready to start while others run; return whether there was one."""
    if not run.running.live or run.asked.draining:
        return False
    return run.launcher.prepare(run.queue.upcoming(min(run.plan.slots.limit, PREPARE_AHEAD)))


# ---- which are to end


def stop(run: Run, jobs: Sequence[int], why: str) -> None:
    """Record that jobs are to end; `end_stopped` acts after the commit. A job that has just ended gets its result
    first: only its next attempt can still be stopped."""
    results.settle_ended(run, jobs)
    asked = [n for n in jobs if n in run.running.live or why == "stop"]
    run.task.record("stop", time=time.time(), jobs=sorted(asked), why=why)


def set_grace(run: Run, jobs: Iterable[int], grace_s: float) -> set[str]:
    """Give the live ones of `jobs` this grace; return the tokens of their attempts."""
    lives = [run.running.live[n] for n in jobs if n in run.running.live]
    for live in lives:
        live.grace_s = grace_s
        if live.ending is not None:
            run.backends.cancel({live.ending: grace_s})
    return {live.launch.token for live in lives}


def end_stopped(run: Run) -> None:
    """Begin to end the attempts that are to end, except trials (crew.py)."""
    if run.asked.leaves_jobs:
        return
    graces_s = {}
    for n, live in run.running.live.items():
        asked = run.task.state.jobs[n].stop and not live.elsewhere
        if asked and live.ending is None and live.worker is None and live.handle:
            if results.came_too_late(run, live, status.read(live.launch.paths)):
                continue
            live.ending = live.handle
            graces_s[live.handle] = live.grace_s
    run.backends.cancel(graces_s)
