"""The backend of this machine: each attempt is a process with a wrapper, known by its number and by its token."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from searchkit import proc
from searchkit.suite.backends import base
from searchkit.suite.backends.base import CannotStart, Grant, Handle, Launch, Prepared, Request
from searchkit.suite.backends.children import Children, become_subreaper
from searchkit.suite.backends.local import gpus, procs, slots, start
from searchkit.suite.backends.local.procs import Killer, Process
from searchkit.suite.backends.local.slots import Slots
from searchkit.suite.backends.local.start import Machine, Parked
from searchkit.suite.store import status
from searchkit.suite.store.status import Status
from searchkit.suite.workspace import AttemptPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.tasks import OpenTask

HELPERS_S = 20.0  # at the end, for programs of ours that run beside the jobs
SWEEPS, SWEEP_S = 100, 0.02  # looks at the process table, so far apart, before what is left counts as a survivor


@dataclass
class Local:
    """Processes of this machine. Those of another one are found by their status files, and never judged or ended."""

    children: Children
    name: str = "local"
    machine: Machine = field(default_factory=start.this_machine)
    started: dict[str, Process] = field(default_factory=dict)  # our children that began, by token
    adopted: dict[str, Process] = field(default_factory=dict)  # those of an earlier scheduler
    killer: Killer = field(default_factory=Killer)
    ports: dict[str, int] = field(default_factory=dict)  # by token

    def capacity(self, request: Request) -> tuple[Slots, str]:
        seen = [] if request.per_job == 0 else gpus.find(request.gpus, request.env)
        return slots.plan(
            request.program,
            seen,
            request.per_job,
            request.per_gpu,
            request.cpus,
            request.mem_bytes,
            request.most,
        )

    def open(self, task: OpenTask, config: Config) -> None:
        become_subreaper()

    def close(self, *, leave: bool) -> None:
        if not leave:
            self.children.wait(HELPERS_S)

    # ---- starting

    def port(self, token: str) -> int:
        if token not in self.ports:
            self.ports[token] = start.free_port(token, self.ports.values())
        return self.ports[token]

    def prepare(self, launch: Launch, env: Mapping[str, str], grant: Grant) -> Parked:
        env = start.placed(env, grant, self.port(launch.token))
        with self._faults(launch):
            parked = start.park(launch, env, grant, self.machine)
        self.children.pids.add(parked.pid)
        return parked

    def start(self, prepared: Prepared) -> Process:
        assert isinstance(prepared, Parked)
        if prepared.pid not in self.children.pids:  # somebody killed it while it waited
            start.dismiss(prepared)
            prepared = self.prepare(prepared.launch, prepared.env, prepared.grant)
        with self._faults(prepared.launch):
            start.release(prepared)
        process = Process(prepared.launch.token, self.name, prepared.launch.paths, prepared.pid)
        self.started[process.token] = process
        return process

    def discard(self, prepared: Prepared) -> None:
        assert isinstance(prepared, Parked)
        start.dismiss(prepared)
        self.ports.pop(prepared.launch.token, None)

    @contextlib.contextmanager
    def _faults(self, launch: Launch) -> Iterator[None]:
        """Where a start fails: free its port, and tell a fault of the command from one of the machine."""
        try:
            yield
        except OSError as e:
            self.ports.pop(launch.token, None)
            if start.cannot_ever_start(e):
                raise CannotStart(e.strerror) from e
            raise

    # ---- finding

    def handle(self, token: str, paths: AttemptPaths, s: Status) -> Process:
        return self._located(Process(token, self.name, paths, adopted=True, part=is_trial(s)), s)

    def within(self, outer: Handle, token: str, paths: AttemptPaths) -> Process:
        assert isinstance(outer, Process)
        return Process(token, self.name, paths, adopted=outer.adopted, part=True)

    def _located(self, process: Process, s: Status) -> Process:
        """With the number and start time of its wrapper, as far as they are known and of this boot."""
        if process.part:
            return process
        if s.start and s.start.boot_id == self.machine.boot_id:
            return replace(process, pid=s.start.pid, ticks=s.start.start_ticks)
        if process.pid in self.children.pids:
            return replace(process, ticks=proc.start_ticks(process.pid or 0))
        return replace(process, pid=None, ticks=None)

    def alive(self, handle: Handle, s: Status) -> bool | None:
        return None if s.elsewhere else s.alive

    def adopt(self, handle: Handle, port: int = 0) -> None:
        assert isinstance(handle, Process)
        self.adopted[handle.token] = handle
        if port:
            self.ports[handle.token] = port

    # ---- ending

    def ended(self) -> list[Handle]:
        # What is being ended is over when the killer says so.
        over = [p for p in self.started.values() if p.pid not in self.children.pids and p not in self.killer.since]
        for p in self.adopted.values():
            if p not in self.killer.since and not status.read(p.paths).alive:
                over.append(p)
        over += self.killer.step()
        for p in over:
            self.started.pop(p.token, None)
            self.adopted.pop(p.token, None)
        return list(over)

    def cancel(self, graces_s: Mapping[Handle, float]) -> None:
        targets = {}
        for handle, grace_s in graces_s.items():
            assert isinstance(handle, Process)
            targets[self._located(handle, status.read(handle.paths))] = grace_s
        self.killer.add(targets)

    def survivors(self) -> dict[str, list[int]]:
        return self.killer.survivors()

    def remains(self, handle: Handle) -> list[int]:
        assert isinstance(handle, Process)
        return procs.members([self._located(handle, status.read(handle.paths))])[handle.token]

    def clear(self, handle: Handle, s: Status, *, look: bool = False) -> list[str]:
        assert isinstance(handle, Process)
        for of_token in (self.started, self.adopted, self.ports):
            of_token.pop(handle.token, None)
        ended = s.exit_code is not None
        if ended and not look and not handle.adopted and not self.children.has_orphans():
            return []
        return procs.kill_now(self._located(handle, s), procs.LINGER_S if ended else 0.0)

    # ---- a whole task

    def living(self, task_token: str) -> dict[int, list[int]]:
        return procs.carriers(task_token)

    def sweep(self, task_token: str, jobs: Collection[int] | None, leave: Collection[int]) -> dict[int, list[int]]:
        alive: dict[int, list[int]] = {}
        for _ in range(SWEEPS):
            alive = {n: pids for n, pids in procs.carriers(task_token, jobs).items() if n not in leave}
            if not alive:
                break
            procs.send([pid for pids in alive.values() for pid in pids], signal.SIGKILL)
            time.sleep(SWEEP_S)
        return alive


def is_trial(s: Status) -> bool:
    """Whether an attempt was run by a worker: its process has other trials to serve."""
    return bool(s.start and s.start.handle.startswith(base.WORKER))
