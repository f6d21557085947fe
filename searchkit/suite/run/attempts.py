"""The attempts that a scheduler has launched or adopted: what is known of them, and the steps by which one ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from searchkit import fsio
from searchkit.errors import StorageError
from searchkit.suite.backends.base import GRACE_S, Grant, Handle, Launch
from searchkit.suite.backends.table import Backends
from searchkit.suite.backends.workers import Crew
from searchkit.suite.run import judging
from searchkit.suite.run.launcher import Launcher, Plan
from searchkit.suite.run.search import Search
from searchkit.suite.space.expand import Point
from searchkit.suite.store import creation, intents, kept, numbers, scalars, status, trials
from searchkit.suite.store.journal import Event
from searchkit.suite.store.scalars import Reader, Reading
from searchkit.suite.store.state import BY_STOPPER, Job, State, outcome
from searchkit.suite.store.status import Status
from searchkit.suite.store.tasks import OpenTask

MAX_FALSE_STARTS = 10
READ_AHEAD_S, READ_AHEAD_BYTES = 0.2, 1 << 20  # so often, so much of all logs: a tenth of a processor at most


class Observer(Protocol):
    """Who watches a run: the terminal, or nobody."""

    def message(self, text: str) -> None: ...

    def job(self, job: Job) -> None:
        """A job was launched, or its result was accepted and is durable."""

    def tick(self, task: OpenTask, running: int) -> None: ...


@dataclass
class Live:
    """A launched attempt that has no accepted result yet."""

    launch: Launch
    job: int
    grant: Grant
    handle: Handle | None = None  # None: it is decided, and about to start
    deadline: float | None = None
    grace_s: float = GRACE_S  # between SIGTERM and SIGKILL, if it is stopped
    slot_freed: bool = False
    elsewhere: bool = False  # on a machine that we can't ask, and so can't stop
    ending: Handle | None = None  # what is being ended with it: itself, or the worker that runs it
    worker: int | None = None  # the number of the worker that runs it; None: it is a process of its own
    asked_s: float | None = None  # when its worker was told to end it (monotonic)
    command_ended: bool = False  # by itself: no verdict reaches it any more
    left: bool = False  # processes that it started may have outlived it


@dataclass
class Attempts:
    """All that changes while a task runs, and is not on disk."""

    launcher: Launcher
    observer: Observer
    live: dict[int, Live] = field(default_factory=dict)
    ready: list[int] = field(default_factory=list)  # pending jobs, next one last
    waiting: list[intents.Waiting] = field(default_factory=list)
    crew: Crew = field(default_factory=Crew)
    search: Search | None = None  # None: all jobs are known from the start
    interrupts: int = 0
    terminated: bool = False
    draining: str = ""  # why nothing more is launched: interrupt | task | error
    unstarted: set[int] = field(default_factory=set)  # launch decided by a scheduler that died before acting on it
    false_starts: int = 0
    said_waiting: bool = False
    said_interrupt: bool = False
    points: Iterator[Point] = field(default_factory=lambda: iter(()))
    stopping_all: bool = False
    read_s: float = 0.0  # when logs were read ahead (monotonic)
    news: list[Job] = field(default_factory=list)  # with results that are told once they are durable

    @property
    def plan(self) -> Plan:
        return self.launcher.plan

    @property
    def task(self) -> OpenTask:
        return self.launcher.task

    @property
    def backends(self) -> Backends:
        return self.launcher.plan.backends

    def remaining_points(self) -> Iterator[Point]:
        """The points of a grid that no job has, in order."""
        if self.task.state.complete or self.search:
            return iter(())
        return creation.points_left(trials.space_of(self.plan.config), self.task.state)

    # ---- how an attempt ends

    def free_slot(self, live: Live) -> None:
        if not live.slot_freed:
            live.slot_freed = True
            self.plan.slots.give_back(live.grant)

    def settle(self, n: int) -> None:
        """Turn the end of an attempt into a result event."""
        live = self.live.pop(n)
        self.free_slot(live)
        s = status.read(live.launch.paths)
        # Nothing of an attempt outlives it, least of all beside its successor.
        behind = self.backends.clear(live.handle, s, look=live.left) if live.handle else []
        self.result(n, s, behind)

    def result(self, n: int, s: Status, behind: Sequence[str] = ()) -> None:
        """Accept how an attempt ended. `behind`: the command lines of what it left running."""
        job = self.task.state.jobs[n]
        run = self.plan.config.run
        fields = outcome(
            job, s, run.retries, run.timeout_s, behind, status.last_line(self.task.paths.job(n).attempt(job.attempt), s)
        )
        reader = self.readers.of(job)
        with fsio.storage():
            reading = None if fields["retry"] else reader.read()
            if s.exit_code is not None:
                # Before the result is accepted: it must not be lost once it was shown.
                scalars.make_durable(reader)
        if reading:
            fields |= self._reported(job, fields, reader, reading)
        self.readers.close(job)
        self.record_result(n, fields)
        self._count_false_starts(s, n)

    @cached_property
    def readers(self) -> trials.Readers:
        """What reads the reports of the attempts that run."""
        if self.search:
            return self.search.readers
        return trials.Readers(self.task.paths, self.plan.ws.project_name, self.plan.config)

    def read_ahead(self) -> None:
        """Read a little of the logs that grow, so that the end of a job does not wait for a long one to be read. Those
        that are furthest behind come first."""
        if not self.plan.config.monitor.regex or time.monotonic() - self.read_s < READ_AHEAD_S:
            return
        self.read_s, left = time.monotonic(), READ_AHEAD_BYTES
        jobs = (self.task.state.jobs.get(n) for n in self.live)
        readers = [self.readers.of(job) for job in jobs if job]
        with fsio.storage():
            for reader in sorted(readers, key=lambda each: each.files[each.log].at if each.log in each.files else 0):
                left -= reader.read_ahead(left)
                if left <= 0:
                    break

    def _reported(self, job: Job, fields: Event, reader: Reader, reading: Reading) -> Event:
        """What the result of a job says of the numbers that it reported, which are kept."""
        config = self.plan.config
        scores = judging.scores(self.search, job.index, fields, reading) if self.search else {}
        with fsio.storage():
            kept.save(self.task.paths, job, numbers.digest(config), reader, reading)
        return {**scores, **numbers.recorded(config, reading, reader.callback)}

    def record_result(self, n: int, fields: Event) -> None:
        said = self.task.record("result", **fields)
        self.news.append(self.task.state.jobs[n])
        if self.task.state.jobs[n].state is State.PENDING:
            self.ready.append(n)
        run = self.plan.config.run
        if said["state"] == State.ERROR and not said["retry"] and run.on_error == "stop" and not self.draining:
            self.draining = "error"
            self.observer.message(f"job {n} failed and run.on_error is stop: nothing more is launched")

    def _count_false_starts(self, s: Status, n: int) -> None:
        """Wrappers that die before their first line mean that the disk or the machine is ill, not the job."""
        self.false_starts = self.false_starts + 1 if s.exists and not s.start else 0
        if self.false_starts >= MAX_FALSE_STARTS:
            paths = self.task.paths.job(n)
            raise StorageError(
                f"{self.false_starts} jobs in a row died before their first line could be written (last: {paths.root})",
                "Is the disk full? Run the same command again when that is mended",
            )

    # ---- how it is ended

    def stop(self, jobs: list[int], why: str) -> None:
        """Record that jobs are to end; `_end_stopped` acts after the commit. One that has just ended gets its result
        first: only its next attempt can still be stopped."""
        self.settle_ended(jobs)
        asked = [n for n in jobs if n in self.live or why == "stop"]
        self.task.record("stop", time=time.time(), jobs=sorted(asked), why=why)

    def settle_ended(self, jobs: list[int]) -> None:
        """Settle those of `jobs` that have an exit line, whether or not their end was noticed already."""
        for n in jobs:
            if n in self.live and status.read(self.live[n].launch.paths).exit_code is not None:
                self.settle(n)

    def came_too_late(self, live: Live, s: Status) -> bool:
        """Whether a stopper gave up a job whose command had ended by then: it does not count. One that caught the stop
        may end before we look again."""
        if self.task.state.jobs[live.job].stop not in BY_STOPPER or s.command_code is None or s.stopped:
            return False
        self.task.record("late", job=live.job)
        live.command_ended = True
        return True

    def end_stopped(self) -> None:
        if self.interrupts >= 3:
            return  # leave them running
        graces_s = {}
        for n, live in self.live.items():
            asked = self.task.state.jobs[n].stop and not live.elsewhere
            if asked and live.ending is None and live.worker is None and live.handle:
                s = status.read(live.launch.paths)
                if self.came_too_late(live, s):
                    continue
                live.ending = live.handle
                graces_s[live.handle] = live.grace_s
        self.backends.cancel(graces_s)


def watch(attempts: Attempts, live: Live, s: Status) -> None:
    """Take over an attempt that somebody else started, by what its status file says."""
    live.handle = attempts.backends.handle(live.launch.token, live.launch.paths, s)
    attempts.backends.adopt(live.handle)
    live.elsewhere = s.exit_code is None and attempts.backends.alive(live.handle, s) is None
