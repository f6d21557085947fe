"""The loop that runs a task: collect what ended -> decide -> write -> launch -> settle -> sync -> show -> wait.

Every decision is an event that is written before it is acted on, and synced before anybody is shown a result. What is
killed half-way is found by `_recover` of the next scheduler: an attempt without a status file never started, one whose
wrapper lives is adopted, one with an exit line is accepted, and one with neither is lost and run again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from searchkit import fsio
from searchkit.backends import local, procs
from searchkit.backends.local import Launch
from searchkit.backends.procs import GRACE_S, Killer, Target
from searchkit.backends.slots import Grant
from searchkit.errors import StorageError
from searchkit.launcher import CannotStart, Launcher, Plan, make_durable
from searchkit.space.expand import Point, expand
from searchkit.store import creation, intents, status
from searchkit.store.journal import Event
from searchkit.store.state import Job, State, outcome
from searchkit.store.status import Status
from searchkit.store.tasks import OpenTask

CREATE_AT_ONCE = 64  # jobs whose folders are made in one go
CREATE_BESIDE = 8  # the same, while others run and may end at any moment
PREPARE_AHEAD = 4  # jobs whose working folders are laid out before a slot is free
TICK_S = 0.2  # how often adopted jobs, timeouts and intents are looked at
MAX_FALSE_STARTS = 10


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
    deadline: float | None
    grace_s: float = GRACE_S  # between SIGTERM and SIGKILL, if it is stopped
    pid: int | None = None  # of our child; None: adopted, or reaped
    adopted: bool = False
    slot_freed: bool = False
    port: int = 0
    elsewhere: bool = False  # on a machine that we can't ask, and so can't stop
    target: Target | None = None  # set while it is being ended


@dataclass
class Scheduler:
    launcher: Launcher
    observer: Observer
    live: dict[int, Live] = field(default_factory=dict)
    by_pid: dict[int, int] = field(default_factory=dict)
    ready: list[int] = field(default_factory=list)  # pending jobs, next one last
    waiting: list[intents.Waiting] = field(default_factory=list)
    killer: Killer = field(default_factory=Killer)
    interrupts: int = 0
    terminated: bool = False
    draining: str = ""  # why nothing more is launched: interrupt | task | error
    unstarted: set[int] = field(default_factory=set)  # launch decided by a scheduler that died before acting on it
    false_starts: int = 0
    said_waiting: bool = False
    said_interrupt: bool = False
    points: Iterator[tuple[int, Point]] = field(default_factory=lambda: iter(()))
    stopping_all: bool = False
    news: list[Job] = field(default_factory=list)  # with results that are told once they are durable

    @property
    def plan(self) -> Plan:
        return self.launcher.plan

    @property
    def task(self) -> OpenTask:
        return self.launcher.task

    def run(self) -> int:
        """Run until all jobs ended, or until told to stop. Returns the exit code; raises StorageError."""
        local.become_subreaper()
        with _signals(self._on_signal) as wake_fd:
            self.points = self._remaining_points()
            self._recover()
            while True:
                over = self._collect()
                self._obey()
                launches = self._decide_launches()
                # No SIGKILL can undo what is written; a power loss might, and then nothing that was launched lives.
                # So free slots need not wait for the disk: only what is shown to anybody does, below.
                self.task.journal.write()
                for n in launches:
                    self._start(n)
                for live in over:
                    if self.live.get(live.job) is live:
                        self._settle(live.job)
                created = self._decide_creation()
                self.task.journal.commit()
                for job in self.news:
                    self.observer.job(job)
                self.news.clear()
                for n in created:
                    self._create_folder(n)
                self.launcher.keep_provenance(n for n in launches if n in self.live)
                self._end_stopped()
                self._answer()
                self.observer.tick(self.task, len(self.live))
                if self.interrupts >= 3 or self._done():
                    break
                ahead = bool(self.live and not self.draining) and self.launcher.prepare(self._next_up())
                select.select([wake_fd], [], [], 0 if created or ahead else TICK_S)
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_fd, 4096)
        self.task.journal.commit()
        self.launcher.discard_prepared()
        if self.interrupts < 3:
            self.launcher.wait_for_helpers()
        return self._exit_code()

    # ---- what happened

    def _collect(self) -> list[Live]:
        """Find the attempts that ended, and those that have run too long.

        The ended ones give their slots back here and are settled after the next launches, but for two kinds that are
        settled at once: those with a GPU, which must be free for sure, and all where a failure is to stop the rest.
        """
        over = set()
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self.launcher.helpers.discard(pid)
            n = self.by_pid.pop(pid, None)
            if n is not None and n in self.live and self.live[n].pid == pid:
                self.live[n].pid = None
                if self.live[n].target is None:  # those being ended are over when the killer says so
                    over.add(n)
        for n, live in self.live.items():
            if live.pid is None and live.target is None and n not in over:
                s = status.read(live.launch.paths)
                if not s.alive:
                    over.add(n)
        gone = set(self.killer.step())
        over.update(n for n, live in self.live.items() if live.target in gone)
        ended = [self.live[n] for n in sorted(over)]
        for live in ended:
            if live.grant.gpus or self.plan.config.run.on_error == "stop":
                self._settle(live.job)
            else:
                self._free_slot(live)
        now = time.time()
        late = [n for n, x in self.live.items() if x.deadline and now > x.deadline and not x.target and n not in over]
        if late:
            self._stop(late, "timeout")
        return ended

    def _free_slot(self, live: Live) -> None:
        if not live.slot_freed:
            live.slot_freed = True
            self.plan.slots.give_back(live.grant)

    def _settle(self, n: int) -> None:
        """Turn the end of an attempt into a result event."""
        live = self.live.pop(n)
        if live.pid is not None:
            self.by_pid.pop(live.pid, None)  # its zombie may be reaped after the killer saw that it is gone
        self._free_slot(live)
        s = status.read(live.launch.paths)
        if s.exit_code is None or live.adopted or self._left_something():
            # Nothing of an attempt outlives it, least of all beside its successor.
            procs.kill_now(self._target(live.launch, s))
        self._result(n, s)

    def _left_something(self) -> bool:
        """Whether a child of ours is none of the wrappers: an orphan of some job, since we are the subreaper."""
        raw = fsio.read_bytes("/proc/thread-self/children")
        ours = self.by_pid.keys() | self.launcher.helpers
        return raw is None or any(int(pid) not in ours for pid in raw.split())

    def _target(self, launch: Launch, s: Status) -> Target:
        if s.start and s.start.boot_id == self.launcher.machine.boot_id:
            return Target(launch.token, s.start.pid, s.start.start_ticks)
        return Target(launch.token)

    def _result(self, n: int, s: Status) -> None:
        job = self.task.state.jobs[n]
        run = self.plan.config.run
        if s.exit_code is not None:
            # Before the result is accepted: it must not be lost once it was shown.
            make_durable(self.task.paths, job, self.plan.config)
        self._record_result(n, outcome(job, s, run.retries, run.timeout_s))
        self._count_false_starts(s, n)

    def _record_result(self, n: int, fields: Event) -> None:
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

    # ---- decisions

    def _remaining_points(self) -> Iterator[tuple[int, Point]]:
        state = self.task.state
        if state.complete:
            return iter(())
        known = max([*state.jobs, *state.deleted], default=-1) + 1
        points = expand(self.plan.config.task.search_args, self.plan.config.task.constraints)
        return enumerate(islice(points, known, None), known)

    def _decide_creation(self) -> list[int]:
        if self.task.state.complete:
            return []
        size = CREATE_BESIDE if self.live else CREATE_AT_ONCE
        chunk = list(islice(self.points, size))
        for n, point in chunk:
            values, text, command = creation.describe(self.plan.config, point)
            self.task.record("create", job=n, values=values, text=text, command=command)
        if len(chunk) < size:
            self.task.record("complete")
        return [n for n, _ in chunk]

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
            grant = self.plan.slots.take()
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
            self.live[n] = Live(self.launcher.describe(n), n, grant, None)
            chosen.append(n)
        return chosen

    def _start(self, n: int) -> None:
        """Act on a launch event: folders, then the wrapper."""
        live = self.live[n]
        try:
            live.pid = self.launcher.start(n, live.launch, live.grant, {x.port for x in self.live.values()})
        except CannotStart as e:
            self._refuse(n, str(e))
            return
        except FileExistsError:  # begun before a power loss that took its launch event: the next number is free
            self._free_slot(self.live.pop(n))
            self._result(n, Status(exists=True))
            return
        live.port = self.launcher.port
        self.by_pid[live.pid] = n
        if self.plan.config.run.timeout_s:
            live.deadline = time.time() + self.plan.config.run.timeout_s
        self.observer.job(self.task.state.jobs[n])

    def _refuse(self, n: int, reason: str) -> None:
        self._free_slot(self.live.pop(n))
        now = time.time()
        fields = {"rc": 126, "start": now, "end": now, "retry": False, "reason": reason, "spent": "error"}
        attempt = self.task.state.jobs[n].attempt
        self._record_result(n, {"time": now, "job": n, "attempt": attempt, "state": State.ERROR.value, **fields})

    # ---- picking up where another scheduler was killed

    def _recover(self) -> None:
        state, paths = self.task.state, self.task.paths
        with fsio.storage():
            creation.clean(paths, state)
            self._restore_damaged()
            have = set(creation.listdir(paths.jobs_all))
            for n, job in state.jobs.items():
                if str(n) not in have:
                    creation.make_job(paths, job)
        self.ready = [n for n in sorted(state.jobs, reverse=True) if state.jobs[n].state is State.PENDING]
        for n in [n for n, job in sorted(state.jobs.items()) if job.state is State.RUNNING]:
            self._recover_attempt(n)
        self.ready.sort(reverse=True)

    def _restore_damaged(self) -> None:
        """Mend what damaged lines of the events took away: the expansion still knows every job, and the status files
        which attempts began."""
        if not self.task.damaged:
            return
        state = self.task.state
        self.observer.message(f"note: {self.task.damaged} damaged line(s) of the events were skipped")
        known = max([*state.jobs, *state.deleted, *state.early], default=-1) + 1
        config = self.plan.config
        for n, point in enumerate(islice(expand(config.task.search_args, config.task.constraints), known)):
            if n not in state.jobs and n not in state.deleted:
                values, text, command = creation.describe(config, point)
                self.task.record("create", job=n, values=values, text=text, command=command)
        self.points = self._remaining_points()
        for n, job in list(state.jobs.items()):
            while (
                job.state is State.PENDING and status.read(self.task.paths.job(n).attempt(job.attempt + 1)).exists
            ):  # its `launch` line was damaged
                fields = {"attempt": job.attempt + 1, "gpus": [], "snapshot": job.snapshot}
                self.task.record("launch", time=time.time(), job=n, **fields)
                job = state.jobs[n]

    def _recover_attempt(self, n: int) -> None:
        job, launch = self.task.state.jobs[n], self.launcher.describe(n)
        s = status.read(launch.paths)
        if not s.exists:  # decided, never started: that same attempt starts when its turn comes
            if job.stop:
                self._result(n, s)
            else:
                self.unstarted.add(n)
                self.ready.append(n)
            return
        timeout_s = self.plan.config.run.timeout_s
        deadline = (s.start.time_s if s.start else job.launched_s) + timeout_s if timeout_s else None
        self.live[n] = Live(launch, n, self.plan.slots.adopt(job.gpus), deadline, adopted=True)
        if s.exit_code is None and s.alive:
            self.live[n].elsewhere = bool(s.elsewhere)
            where = f" on {s.elsewhere}, by its status file" if s.elsewhere else ""
            self.observer.message(f"job {n} still runs{where}: adopted")
            if job.stop in ("interrupt", "task"):
                self.task.record("adopt", time=time.time(), job=n)
        else:
            self._settle(n)

    # ---- stopping

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        else:
            self.terminated = True

    def _obey(self) -> None:
        """Act on signals, and on intents that search-ctl left."""
        if self.interrupts and not self.said_interrupt:
            self.said_interrupt = True
            self.draining = self.draining or "interrupt"
            n = len(self.live)
            self.observer.message(f"Ctrl-C: nothing more is launched, {n} running job(s) may finish (again: stop them)")
        if (self.interrupts >= 2 or self.terminated) and not self.stopping_all:
            self.stopping_all = True
            self.draining = self.draining or "interrupt"
            self._stop([n for n, live in self.live.items() if not live.elsewhere], "interrupt")
            if self.live:
                hint = "" if self.terminated else " (Ctrl-C again: leave them running)"
                self.observer.message(f"stopping {len(self.live)} running job(s){hint}")
        for intent in intents.unanswered(self.task.paths, self.task.state):
            if all(w.intent.id != intent.id for w in self.waiting):
                self._take_intent(intent)

    def _take_intent(self, intent: intents.Intent) -> None:
        state = self.task.state
        waiting = intents.Waiting(intent, draining=self.draining in ("interrupt", "task"))
        if intent.op == "stop" and intent.whole_task:
            self.draining = "task"
            waiting.refused = sorted(n for n, live in self.live.items() if live.elsewhere)
            asked = sorted(set(self.live).difference(waiting.refused))
            self._stop(asked, "task")
            waiting.tokens = self._set_grace(asked, intent.grace_s)
        elif intent.op == "stop":
            waiting.refused = sorted(n for n in intent.jobs if n in self.live and self.live[n].elsewhere)
            asked = sorted(set(intent.jobs).difference(waiting.refused))
            self._stop(asked, "stop")
            waiting.tokens = self._set_grace(asked, intent.grace_s)
            for n in self.unstarted.intersection(intent.jobs):
                self.unstarted.discard(n)
                self._result(n, Status(exists=False))
        elif intent.op == "restart":
            self._settle_ended(intent.jobs)  # search-ctl sees an exit line as soon as we do
            waiting.refused = sorted(n for n in intent.jobs if n in self.live)
            jobs = [n for n in intent.jobs if n in state.jobs and n not in self.live]
            for n in self.unstarted.intersection(jobs):  # a new attempt: the half-made folders may hold the old code
                self.unstarted.discard(n)
                self._result(n, Status(exists=True))
            if self.draining == "error":
                self.draining = ""
            self.task.record("restart", time=time.time(), jobs=jobs, snapshot=intent.snapshot)
            self.ready = sorted({*self.ready, *jobs}, reverse=True)
        elif intent.op == "delete":
            self._settle_ended(intent.jobs)
            waiting.refused = sorted(n for n in intent.jobs if n in self.live)
            jobs = [n for n in intent.jobs if n in state.jobs and n not in self.live]
            self.task.record("delete", time=time.time(), jobs=jobs)
            self.unstarted.difference_update(jobs)
            self.task.journal.commit()
            with fsio.storage():
                creation.clean(self.task.paths, state)
        self.waiting.append(waiting)

    def _stop(self, jobs: list[int], why: str) -> None:
        """Record that jobs are to end; `_end_stopped` acts after the commit. One that has just ended gets its result
        first: only its next attempt can still be stopped."""
        self._settle_ended(jobs)
        asked = [n for n in jobs if n in self.live or why == "stop"]
        self.task.record("stop", time=time.time(), jobs=sorted(asked), why=why)

    def _settle_ended(self, jobs: list[int]) -> None:
        """Settle those of `jobs` that have an exit line, whether or not their end was noticed already."""
        for n in jobs:
            if n in self.live and status.read(self.live[n].launch.paths).exit_code is not None:
                self._settle(n)

    def _set_grace(self, jobs: list[int], grace_s: float) -> set[str]:
        """Give the live ones of `jobs` this grace; return the tokens of their attempts."""
        lives = [self.live[n] for n in jobs if n in self.live]
        for live in lives:
            live.grace_s = grace_s
            if live.target is not None:
                self.killer.add({live.target: grace_s})
        return {live.launch.token for live in lives}

    def _end_stopped(self) -> None:
        if self.interrupts >= 3:
            return  # leave them running
        targets = {}
        for n, live in self.live.items():
            if self.task.state.jobs[n].stop and live.target is None and not live.elsewhere:
                live.target = self._target(live.launch, status.read(live.launch.paths))
                if live.target.wrapper is None and live.pid:
                    live.target = Target(live.launch.token, live.pid, status.start_ticks(live.pid))
                targets[live.target] = live.grace_s
        self.killer.add(targets)

    def _answer(self) -> None:
        """Tell search-ctl what became of its intents once that is known."""
        for w in list(self.waiting):
            left = {n for n, live in self.live.items() if live.launch.token in w.tokens}
            if left and time.monotonic() - w.since < 2 * w.intent.grace_s + 20:
                continue
            tokens = {self.live[n].launch.token: n for n in left}
            survivors = {tokens[t]: pids for t, pids in self.killer.survivors().items() if t in tokens and pids}
            self.task.record(
                "answer",
                time=time.time(),
                id=w.intent.id,
                refused=w.refused,
                draining=w.draining,
                survivors={str(n): pids for n, pids in survivors.items()},
            )
            self.waiting.remove(w)
            self.task.journal.commit()
            intents.discard(self.task.paths, w.intent)

    # ---- the end

    def _done(self) -> bool:
        if self.waiting or not all(live.elsewhere for live in self.live.values()):
            return False
        if self.draining:
            return True
        if self.live:
            return False
        return self.task.state.complete and not self.task.state.counts()[State.PENDING] and not self.unstarted

    def _exit_code(self) -> int:
        if self.terminated:
            return 143
        if self.interrupts or self.draining in ("interrupt", "task"):
            return 130
        return 1 if self.task.state.counts()[State.ERROR] else 0


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
