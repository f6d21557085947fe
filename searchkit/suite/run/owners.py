"""What a scheduler knows besides the events and files of its task. Each kind of fact has one owner, and all of it can
be rebuilt from the files (recovery.py):

    Running   what runs: the attempts that were launched or adopted and have no accepted result yet
    Queue     what waits: jobs whose turn comes, launches that were decided and not acted on, the rest of a grid
    Asked     what signals and search-ctl asked of us, and so whether anything more is launched
    News      what may be said, and when
    Reports   what is read of the files of running jobs

A Run is these together, with the workers (backends/workers.py) and the search (search.py) of its task. Only the methods
of an owner change its fields. The record of one attempt is changed where attempts begin and end: by attempts.py and
results.py, and by crew.py where a worker runs it.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from searchkit.suite.backends.base import GRACE_S, Grant, Handle, Launch
from searchkit.suite.backends.table import Backends
from searchkit.suite.backends.workers import Crew
from searchkit.suite.run.launcher import Launcher, Plan
from searchkit.suite.run.search import Search
from searchkit.suite.space.expand import Point
from searchkit.suite.store.intents import Waiting
from searchkit.suite.store.job import Job
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.store.trials import Readers


class Observer(Protocol):
    """Who watches a run: the terminal, or nobody."""

    def message(self, text: str) -> None: ...

    def job(self, job: Job) -> None:
        """A job was launched, or its result was accepted and is durable."""

    def tick(self, task: OpenTask, running: int) -> None: ...


# ---- what runs


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

    def is_over(self, gone: Collection[Handle]) -> bool:
        """Whether it is among what has ended. A trial ends when its worker says so, or with the worker."""
        return (self.ending or self.handle) in gone and (self.worker is None or self.ending is not None)


@dataclass
class Running:
    """What runs."""

    live: dict[int, Live] = field(default_factory=dict)  # by job; read by all, changed here
    false_starts: int = 0  # attempts in a row that died before their first line

    def add(self, live: Live) -> None:
        self.live[live.job] = live

    def drop(self, n: int) -> Live:
        return self.live.pop(n)

    def endable(self) -> list[int]:
        """The jobs that we can end."""
        return [n for n, live in self.live.items() if not live.elsewhere]

    def count_false_start(self, false: bool) -> int:
        """How many there are in a row, including this one."""
        self.false_starts = self.false_starts + 1 if false else 0
        return self.false_starts


# ---- what waits


@dataclass
class Queue:
    """What waits."""

    ready: list[int] = field(default_factory=list)  # pending jobs, the next one last; it may hold some that are not
    decided: set[int] = field(default_factory=set)  # launches of a scheduler that died before it acted on them
    points: Iterator[Point] = field(default_factory=lambda: iter(()))  # of a grid, those that no job has

    def upcoming(self, most: int) -> list[int]:
        """The jobs that start next, soonest first."""
        return self.ready[: -1 - most : -1]

    def pop(self) -> int:
        """Take the next one out."""
        return self.ready.pop()

    def put_next(self, *jobs: int) -> None:
        """Before all others, the last of `jobs` first."""
        self.ready += jobs

    def put_last(self, n: int) -> None:
        self.ready.insert(0, n)

    def put_in_order(self, jobs: Iterable[int]) -> None:
        """Among all that wait, by number."""
        self.ready = sorted({*self.ready, *jobs}, reverse=True)

    def sort(self) -> None:
        self.ready.sort(reverse=True)

    def put_decided(self, n: int) -> None:
        """Next, under the number of the attempt that it was launched with."""
        self.decided.add(n)
        self.put_next(n)

    def take_decided(self, jobs: Collection[int]) -> list[int]:
        """Those of `jobs` whose launch was decided; from now on it is not."""
        taken = sorted(self.decided.intersection(jobs))
        self.decided.difference_update(taken)
        return taken

    def take_points(self, most: int) -> list[Point]:
        return list(islice(self.points, most))

    def refill(self, points: Iterator[Point]) -> None:
        """What is left of a grid now, where that has changed."""
        self.points = points


# ---- what was asked of us


@dataclass
class Asked:
    """What was asked of us."""

    interrupts: int = 0  # Ctrl-C: the first drains, the second stops the jobs, the third leaves them running
    terminated: bool = False
    draining: str = ""  # why nothing more is launched: interrupt | task | error
    interrupt_heeded: bool = False  # of the first Ctrl-C, what is done once
    stopping_all: bool = False  # the same of the second, or of SIGTERM
    intents: list[Waiting] = field(default_factory=list)  # of search-ctl, that are not answered

    def on_signal(self, number: int) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        else:
            self.terminated = True

    @property
    def launches(self) -> bool:
        """Whether anything more is launched, or made."""
        return not self.draining and not self.interrupts

    @property
    def leaves_jobs(self) -> bool:
        """Whether what runs is left to the next search-run."""
        return self.interrupts >= 3

    @property
    def is_stopped(self) -> bool:
        """Whether somebody ended this run."""
        return self.draining in ("interrupt", "task")

    def drain(self, why: str) -> None:
        """Launch nothing more; the first reason stays."""
        self.draining = self.draining or why

    def stop_task(self) -> None:
        self.draining = "task"

    def go_on_after_error(self) -> None:
        if self.draining == "error":
            self.draining = ""

    def take(self, intent: Waiting) -> None:
        self.intents.append(intent)

    def answered(self, intent: Waiting) -> None:
        self.intents.remove(intent)

    def heed_interrupt(self) -> bool:
        """Whether there was a first Ctrl-C that is not acted on yet; from now on it is."""
        fresh = bool(self.interrupts) and not self.interrupt_heeded
        self.interrupt_heeded = self.interrupt_heeded or fresh
        return fresh

    def heed_stop(self) -> bool:
        """The same of a second one, or of SIGTERM."""
        fresh = (self.interrupts >= 2 or self.terminated) and not self.stopping_all
        self.stopping_all = self.stopping_all or fresh
        return fresh


# ---- what may be said


@dataclass
class News:
    """What may be said: results once they are durable, all else at once, and some of it only once."""

    observer: Observer
    results: list[Job] = field(default_factory=list)  # accepted, and not durable yet
    waits: bool = False  # what we wait for was said

    def say(self, text: str) -> None:
        self.observer.message(text)

    def launched(self, job: Job) -> None:
        self.observer.job(job)

    def accepted(self, job: Job) -> None:
        self.results.append(job)

    def durable(self) -> None:
        """All that was accepted is on disk."""
        for job in self.results:
            self.observer.job(job)
        self.results.clear()

    def waits_for(self, resource: str) -> None:
        """Said once, until something gets a place; empty: our jobs hold all there is."""
        if resource and not self.waits:
            self.waits = True
            self.say(f"waiting for {resource}")

    def has_place(self) -> None:
        self.waits = False


@dataclass
class Reports:
    """What is read of the files of running jobs."""

    readers: Readers
    read_s: float = 0.0  # when logs were read ahead (monotonic)

    def is_due(self, now_s: float, every_s: float) -> bool:
        """Whether it is time to read ahead; if so, the next time is counted from now."""
        due = now_s - self.read_s >= every_s
        self.read_s = now_s if due else self.read_s
        return due


# ---- all of it


@dataclass(frozen=True)
class Run:
    """A task that is being run."""

    launcher: Launcher
    asked: Asked
    news: News
    search: Search | None  # None: all jobs are known from the start
    reports: Reports
    running: Running = field(default_factory=Running)
    queue: Queue = field(default_factory=Queue)
    crew: Crew = field(default_factory=Crew)

    @property
    def plan(self) -> Plan:
        return self.launcher.plan

    @property
    def task(self) -> OpenTask:
        return self.launcher.task

    @property
    def backends(self) -> Backends:
        return self.launcher.plan.backends
