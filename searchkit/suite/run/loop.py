"""The loop that runs a task: collect what ended -> decide -> write -> launch -> settle -> sync -> show -> wait.

Every decision is an event that is written before it is acted on, and synced before anybody is shown a result. What is
killed half-way is found by the next scheduler (`recovery.recover`): an attempt without a status file never started, one
whose wrapper lives is adopted, one with an exit line is accepted, and one with neither is lost and run again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.backends.base import CannotStart, Handle
from searchkit.suite.run import crew as working
from searchkit.suite.run import judging, orders, recovery, rereading
from searchkit.suite.run import search as searching
from searchkit.suite.run.attempts import Attempts, Live
from searchkit.suite.run.search import Search
from searchkit.suite.store import creation
from searchkit.suite.store.state import State
from searchkit.suite.store.status import Status

CREATE_AT_ONCE = 64  # jobs whose folders are made in one go
CREATE_BESIDE = 8  # the same, while others run and may end at any moment
PREPARE_AHEAD = 4  # jobs whose working folders are laid out before a slot is free
TICK_S = 0.2  # how often adopted jobs, timeouts and intents are looked at


@dataclass
class Scheduler(Attempts):
    """Decides what runs, and acts on it."""

    def run(self) -> int:
        """Run until all jobs ended, or until told to stop. Returns the exit code; raises StorageError."""
        self.backends.open(self.task, self.plan.config)
        with _signals(self._on_signal) as wake_fd:
            rereading.read_again(self.task, self.plan.config, self.observer.message)
            self.search = searching.begin(self.plan.config, self.plan.ws, self.task, self.observer.message)
            self.points = self.remaining_points()
            working.muster(self)
            recovery.recover(self)
            while True:
                over = self._collect()
                orders.obey(self)
                self._judge()
                launches = self._decide_launches()
                # No SIGKILL can undo what is written; a power loss might, and then nothing that was launched lives.
                # So free slots need not wait for the disk: only what is shown to anybody does, below.
                self.task.journal.write()
                for n in launches:
                    self._start(n)
                for live in over:
                    if self.live.get(live.job) is live:
                        self.settle(live.job)
                waiting = len(self.ready)
                created = self._decide_creation()
                ahead = bool(created) or len(self.ready) > waiting
                self.task.journal.commit()
                for job in self.news:
                    self.observer.job(job)
                self.news.clear()
                for n in created:
                    self._create_folder(n)
                self.launcher.keep_provenance(n for n in launches if n in self.live)
                self.end_stopped()
                working.end_stopped(self)
                working.keep(self)
                orders.answer(self)
                self.observer.tick(self.task, len(self.live))
                self.read_ahead()
                if self.interrupts >= 3 or self._done():
                    break
                if self.live and not self.draining:
                    ahead |= self.launcher.prepare(self._next_up())
                select.select([wake_fd, *self.crew.fds], [], [], 0 if ahead else TICK_S)
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_fd, 4096)
        self.task.journal.commit()
        working.let_go(self)
        self.launcher.discard_prepared()
        self.backends.close(leave=self.interrupts >= 3)
        if fault := self.crew.fault or (self.search and self.search.fault):
            raise fault
        return self._exit_code()

    # ---- what happened

    def _collect(self) -> list[Live]:
        """Find the attempts that ended, and those that have run too long.

        The ended ones give their slots back here and are settled after the next launches, but for two kinds that are
        settled at once: those with a GPU, which must be free for sure, and all where a failure is to stop the rest.
        """
        self.backends.children.reap()
        gone = self.backends.ended()
        over = working.collect(self, gone)
        over.update(n for n, live in self.live.items() if gone and _is_over(live, gone))
        ended = [self.live[n] for n in sorted(over)]
        for live in ended:
            if live.grant.gpus or self.plan.config.run.on_error == "stop":
                self.settle(live.job)
            else:
                self.free_slot(live)
        now = time.time()
        late = [n for n, x in self.live.items() if x.deadline and now > x.deadline and not x.ending and n not in over]
        if late:
            self.stop(late, "timeout")
        return ended

    # ---- decisions

    def _decide_creation(self) -> list[int]:
        if self.search:
            return self._ask(self.search)
        if self.task.state.complete:
            return []
        size = CREATE_BESIDE if self.live else CREATE_AT_ONCE
        chunk = list(islice(self.points, size))
        first = self.task.state.next_job
        for n, point in enumerate(chunk, first):
            values, text, command = creation.describe(self.plan.config, point)
            self.task.record("create", job=n, values=values, text=text, command=command)
        if len(chunk) < size:
            self.task.record("complete")
        return list(range(first, first + len(chunk)))

    def _ask(self, search: Search) -> list[int]:
        """Have a search say what the free slots run next."""
        if self.draining or self.interrupts:
            return []
        busy = sum(live.worker is not None or not live.slot_freed for live in self.live.values())
        waiting = sum(n in self.task.state.jobs and n not in self.live for n in set(self.ready))
        room = (self.crew.limit or self.plan.slots.limit) + search.ahead - busy - waiting
        search.fault = None
        try:
            promoted, created = searching.create(search, room, idle=not self.live and not waiting)
        except UsageError as e:  # of the sampler: what runs may end, and the same command goes on once it is mended
            search.fault, self.draining = e, "error"
            return []
        self.ready += promoted
        return created

    def _judge(self) -> None:
        """Have the early stoppers look at the running jobs."""
        if self.search and not self.interrupts:
            free = (n for n, live in self.live.items() if not (live.ending or live.elsewhere or live.command_ended))
            judging.judge(self.search, [n for n in free if n in self.task.state.jobs])

    def _create_folder(self, n: int) -> None:
        with fsio.storage():
            creation.make_job(self.task.paths, self.task.state.jobs[n])
        if self.task.state.jobs[n].state is State.PENDING:
            self.ready.insert(0, n)

    def _next_up(self) -> list[int]:
        """The jobs that start next, soonest first."""
        return self.ready[: -1 - min(self.plan.slots.limit, PREPARE_AHEAD) : -1]

    def _decide_launches(self) -> list[int]:
        chosen: list[int] = []
        while self.ready and not self.draining and not self.interrupts:
            n = self.ready[-1]
            job = self.task.state.jobs.get(n)
            if job is None or n in self.live or not (job.state is State.PENDING or n in self.unstarted):
                self.ready.pop()
                continue
            worker = self.crew.idle(job.snapshot)
            grant = worker.grant if worker else None if self.crew.limit else self.plan.slots.take()
            if grant is None:
                if self.plan.slots.waits_for and not self.said_waiting:
                    self.said_waiting = True
                    self.observer.message(f"waiting for {self.plan.slots.waits_for}")
                break
            self.said_waiting = False
            self.ready.pop()
            attempt = job.attempt if n in self.unstarted else job.attempt + 1
            self.unstarted.discard(n)
            self.task.record("launch", time=time.time(), job=n, attempt=attempt, gpus=grant.gpus, snapshot=job.snapshot)
            launch = self.launcher.describe(n)
            self.live[n] = working.assign(self, worker, launch, n) if worker else Live(launch, n, grant)
            chosen.append(n)
        return chosen

    def _start(self, n: int) -> None:
        """Act on a launch event: folders, then the wrapper."""
        live = self.live[n]
        try:
            if live.worker is not None:
                working.hand_over(self, n)
                return
            live.handle = self.launcher.start(n, live.launch, live.grant)
        except CannotStart as e:
            self._refuse(n, f"cannot be started: {e}")
            return
        except FileExistsError:  # begun before a power loss that took its launch event: the next number is free
            self.free_slot(self.live.pop(n))
            self.result(n, Status(exists=True))
            return
        if self.plan.config.run.timeout_s:
            live.deadline = time.time() + self.plan.config.run.timeout_s
        self.observer.job(self.task.state.jobs[n])

    def _refuse(self, n: int, reason: str) -> None:
        self.free_slot(self.live.pop(n))
        now = time.time()
        fields = {"rc": 126, "start": now, "end": now, "retry": False, "reason": reason, "spent": "error"}
        attempt = self.task.state.jobs[n].attempt
        self.record_result(n, {"time": now, "job": n, "attempt": attempt, "state": State.ERROR.value, **fields})

    # ---- the end

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        else:
            self.terminated = True

    def _done(self) -> bool:
        if self.crew.workers or self.waiting or not all(live.elsewhere for live in self.live.values()):
            return False
        if self.draining:
            return True
        if self.live or (self.search and not searching.is_over(self.search)):
            return False
        return self.task.state.complete and not self.task.state.counts()[State.PENDING] and not self.unstarted

    def _exit_code(self) -> int:
        if self.terminated:
            return 143
        if self.interrupts or self.draining in ("interrupt", "task"):
            return 130
        return 1 if self.task.state.counts()[State.ERROR] else 0


def _is_over(live: Live, gone: set[Handle]) -> bool:
    """Whether an attempt has ended; one that is being ended, when nothing of it lives."""
    return (live.ending or live.handle) in gone and (live.worker is None or live.ending is not None)


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[int]:
    """Yield a file descriptor that becomes readable when a child ends or a signal arrives."""
    r, w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old = {
        signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: on_signal(number)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: on_signal(number)),
    }
    wakeup = signal.set_wakeup_fd(w, warn_on_full_buffer=False)
    try:
        yield r
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(r)
        os.close(w)
