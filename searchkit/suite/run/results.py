"""How the end of an attempt becomes a result event: what it left running is ended, and its numbers saved, first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from searchkit import fsio
from searchkit.errors import StorageError, UsageError
from searchkit.suite.run import judging
from searchkit.suite.run.owners import Live, Run
from searchkit.suite.store import kept, numbers, scalars, status
from searchkit.suite.store.job import BY_STOPPER, Job, State
from searchkit.suite.store.journal import Event
from searchkit.suite.store.outcome import outcome
from searchkit.suite.store.scalars import Reader, Reading
from searchkit.suite.store.status import Status

MAX_FALSE_STARTS = 10


def watch(run: Run, live: Live, s: Status) -> None:
    """Take over an attempt that somebody else started, by what its status file says."""
    live.handle = run.backends.handle(live.launch.token, live.launch.paths, s)
    run.backends.adopt(live.handle)
    live.elsewhere = s.exit_code is None and run.backends.alive(live.handle, s) is None


def free_slot(run: Run, live: Live) -> None:
    """Give back what an attempt holds, once."""
    if not live.slot_freed:
        live.slot_freed = True
        run.plan.slots.give_back(live.grant)


def settle(run: Run, n: int) -> None:
    """Turn the end of an attempt into a result event."""
    live = run.running.drop(n)
    free_slot(run, live)
    s = status.read(live.launch.paths)
    # Nothing of an attempt outlives it, least of all beside its successor.
    behind = run.backends.clear(live.handle, s, look=live.left) if live.handle else []
    accept(run, n, s, behind)


def settle_ended(run: Run, jobs: Iterable[int]) -> None:
    """Settle those of `jobs` that have an exit line, whether or not we had noticed their end."""
    for n in jobs:
        live = run.running.live.get(n)
        if live and status.read(live.launch.paths).exit_code is not None:
            settle(run, n)


def accept(run: Run, n: int, s: Status, behind: Sequence[str] = ()) -> None:
    """Accept how an attempt ended. `behind`: the command lines of what it left running."""
    job, limits = run.task.state.jobs[n], run.plan.config.run
    last_line = status.last_line(run.task.paths.job(n).attempt(job.attempt), s)
    fields = outcome(job, s, limits.retries, limits.timeout_s, behind, last_line)
    reader = run.reports.readers.of(job)
    with fsio.storage():
        reading = None if fields["retry"] else reader.read()
        if s.exit_code is not None:
            # Before the result is accepted: it must not be lost once it was shown.
            scalars.make_durable(reader)
    try:
        if reading:
            fields |= _reported(run, job, fields, reader, reading)
    except UsageError as e:
        stopper_failed(run, e)
        return  # its end stands on disk: the next search-run accepts it
    finally:
        run.reports.readers.close(job)
    record(run, n, fields)
    _count_false_starts(run, n, s)


def stopper_failed(run: Run, e: UsageError) -> None:
    """A stopper raised `e`: what runs may end, and the same command goes on once the stopper is fixed."""
    if run.search:
        run.search.fault = e
    run.asked.drain("error")


def _reported(run: Run, job: Job, fields: Event, reader: Reader, reading: Reading) -> Event:
    """What the result of a job says of the numbers that it reported, which are kept."""
    config = run.plan.config
    scores = judging.scores(run.search, job.index, fields, reading) if run.search else {}
    with fsio.storage():
        kept.save(run.task.paths, job, numbers.digest(config), reader, reading)
    return {**scores, **numbers.recorded(config, reading, reader.callback)}


def record(run: Run, n: int, fields: Event) -> None:
    """Record a result, and what follows from it: the next attempt, or with `on_error: stop` the end of the run."""
    result = run.task.record("result", **fields)
    job = run.task.state.jobs[n]
    run.news.accepted(job)
    if job.state is State.PENDING:
        run.queue.put_next(n)
    is_error = result["state"] == State.ERROR and not result["retry"]
    if is_error and run.plan.config.run.on_error == "stop" and not run.asked.draining:
        run.asked.drain("error")
        run.news.say(f"job {n} failed and run.on_error is stop: nothing more is launched")


def _count_false_starts(run: Run, n: int, s: Status) -> None:
    """Wrappers that die before their first line mean a fault of the disk or the machine, not of the job."""
    in_a_row = run.running.count_false_start(s.exists and not s.start)
    if in_a_row >= MAX_FALSE_STARTS:
        raise StorageError(
            f"{in_a_row} jobs in a row died before their first line could be written "
            f"(last: {run.task.paths.job(n).root})",
            "Is the disk full? Run the same command again when that is fixed",
        )


def came_too_late(run: Run, live: Live, s: Status) -> bool:
    """Whether a stopper gave up a job whose command had already ended; the verdict then does not count. A job that
    caught the stop may end before we look again."""
    if run.task.state.jobs[live.job].stop not in BY_STOPPER or s.command_code is None or s.stopped:
        return False
    run.task.record("late", job=live.job)
    live.command_ended = True
    return True
