"""Acting on a decided launch: the attempt's folders, its environment, its wrapper, and what is needed to repeat it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from searchkit import fsio
from searchkit.errors import StorageError
from searchkit.suite.backends.local import start as local
from searchkit.suite.backends.local.slots import Grant, Slots
from searchkit.suite.backends.local.start import Launch, Machine, Parked
from searchkit.suite.config.read import Config
from searchkit.suite.config.shells import Shell
from searchkit.suite.store import creation, imports, snapshot, status
from searchkit.suite.store.interpreter import Interpreter
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.workspace import Workspace

NOTHING = imports.Installed()


class CannotStart(Exception):
    """This command alone can't be started, whatever the machine is like; the reason is its text."""


@dataclass(frozen=True)
class Plan:
    """What a run needs besides its task: where it runs and how."""

    ws: Workspace
    config: Config
    slots: Slots
    hide_gpus: bool  # True: jobs see no GPU
    base_env: dict[str, str]
    command_line: tuple[str, ...]
    shell: Shell  # that of the config, its program a path
    python: Interpreter | None = None  # the one that jobs find; None: there is none, or it does not say what it is
    installed: imports.Installed = NOTHING  # what that imports from the project itself


def this_machine() -> Machine:
    """This host, as wrappers are told."""
    return Machine(socket.gethostname(), status.boot_id(), sys.executable)


@dataclass(frozen=True)
class Prepared:
    """A launch whose files wait under tmp/. `parked` None: its wrapper is started when the grant is known."""

    launch: Launch
    snapshot: int
    work: str
    parked: Parked | None


@dataclass
class Launcher:
    plan: Plan
    task: OpenTask
    machine: Machine = field(default_factory=this_machine)
    manifests: dict[int, snapshot.Manifest] = field(default_factory=dict)
    prepared: dict[int, Prepared] = field(default_factory=dict)  # jobs whose turn has not come
    redirected: dict[int, imports.Redirected] = field(default_factory=dict)  # by snapshot
    kept: set[int] = field(default_factory=set)  # snapshots whose provenance is on disk, or being written
    helpers: set[int] = field(default_factory=set)  # processes of ours that run no job: provenance, parked wrappers

    def describe(self, n: int, attempt: int | None = None) -> Launch:
        """An attempt of a job (default: its highest) as a launch: its paths, command and token."""
        job = self.task.state.jobs[n]
        paths = self.task.paths.job(n)
        callbacks = self.plan.config.callbacks
        k = attempt or job.attempt
        work = f"{paths.attempt(k).root}/{self.plan.ws.project_name}"
        token = f"{self.task.state.token}/{n}/{k}"
        pre, after = callbacks.pre or "", callbacks.after or ""
        return Launch(paths, k, work, job.command, token, pre, after, self.plan.shell)

    def start(self, n: int, launch: Launch, grant: Grant, ports: Collection[int]) -> Parked:
        """Make the attempt's folders and let its wrapper go.

        Raises CannotStart for a command that can never start, FileExistsError for an attempt that was begun before,
        StorageError for everything else.
        """
        parked = self.lay_out(n, launch)
        if parked and parked.pid not in self.helpers:  # somebody killed it while it waited
            local.dismiss(parked)
            parked = None
        try:
            parked = parked or self._park(n, launch, grant, ports)
            self.helpers.discard(parked.pid)
            local.release(parked)
        except FileExistsError:
            raise
        except OSError as e:
            if local.cannot_ever_start(e):
                raise CannotStart(f"cannot be started: {e.strerror}") from e
            hint = "Run the same command again when that is mended"
            raise StorageError(f"cannot start job {n}: {e}", hint) from e
        return parked

    def lay_out(self, n: int, launch: Launch) -> Parked | None:
        """Make the attempt's folders; return the wrapper that waits for it, if one does. Raises StorageError."""
        job = self.task.state.jobs[n]
        ready = self.prepared.pop(n, None)
        if ready and (ready.launch, ready.snapshot) != (launch, job.snapshot):
            self._discard(ready)
            ready = None
        with fsio.storage():
            creation.make_attempt(self.task.paths, job, self.manifest(job.snapshot), ready.work if ready else None)
        return ready.parked if ready else None

    def _park(self, n: int, launch: Launch, grant: Grant, ports: Collection[int]) -> Parked:
        env = self.environment(n, launch, grant, local.free_port(launch.token, ports))
        return self.spawn(launch, env, grant, str(n))

    def environment(self, n: int, launch: Launch, grant: Grant, port: int) -> dict[str, str]:
        """The environment of an attempt of a job."""
        base, project = self.plan.base_env, self.plan.ws.project
        copied = self.copied(self.task.state.jobs[n].snapshot)
        if path := imports.pythonpath(base.get("PYTHONPATH", ""), copied, project, launch.work):
            base = {**base, "PYTHONPATH": path}
        return local.environment(
            base,
            launch,
            task=self.task.paths.name,
            job=n,
            seed=self.plan.config.search.seed,
            threads=self.plan.config.resources.cpus,
            gpus=() if self.plan.hide_gpus else (grant.gpus or None),
            port=port,
        )

    def spawn(self, launch: Launch, env: dict[str, str], grant: Grant, name: str) -> Parked:
        """Start a wrapper, up to its gate. `name`: for its files that wait under tmp/. Raises OSError."""
        status_path, log = (f"{self.task.paths.tmp}/{fsio.half_name(f'{what}-{name}')}" for what in ("status", "log"))
        parked = local.park(launch, env, self.machine, self.plan.slots.lease_fds(grant), status_path, log)
        self.helpers.add(parked.pid)
        return parked

    def prepare(self, jobs: Iterable[int], ports: Collection[int]) -> bool:
        """Get the first of `jobs` for which that is not done ready to start; say whether there was one.

        Done while all slots are busy, so that a slot waits neither for the copying of a project nor, where no GPU has
        to be granted first, for the start of a program.
        """
        for n in jobs:
            job = self.task.state.jobs.get(n)
            if job is not None and n not in self.prepared:
                launch = self.describe(n, job.attempt + 1)
                with fsio.storage():
                    work = creation.make_work(self.task.paths, job, self.manifest(job.snapshot))
                parked = None
                if not self.plan.slots.per_job and self.plan.config.run.workers is None:
                    taken = {*ports, *(p.parked.port for p in self.prepared.values() if p.parked)}
                    with contextlib.suppress(OSError):  # it is met again, and told, when the job is to start
                        parked = self._park(n, launch, Grant(()), taken)
                self.prepared[n] = Prepared(launch, job.snapshot, work, parked)
                return True
        return False

    def discard_prepared(self) -> None:
        for ready in self.prepared.values():
            self._discard(ready)
        self.prepared.clear()

    def _discard(self, ready: Prepared) -> None:
        fsio.discard(ready.work)
        if ready.parked:
            local.dismiss(ready.parked)

    def keep_provenance(self, started: Iterable[int]) -> None:
        """Have what is needed to repeat the run kept, once a snapshot and Python, by a process of its own: git and
        python may take long to answer, and no slot waits for them."""
        for k in {self.task.state.jobs[n].snapshot for n in started} - self.kept:
            self.kept.add(k)
            is_kept = os.path.exists(self.task.paths.snapshot(k).provenance)
            if is_kept and not self.pythons_before():
                continue
            facts = {
                "snapshot": self.task.paths.snapshot(k).root,
                "tmp": self.task.paths.tmp,
                "project": self.plan.ws.project,
                "seed": self.plan.config.search.seed,
                "command_line": self.plan.command_line,
                "python": self.plan.python.path if self.plan.python else None,
                "gpus": [f"{g.index}: {g.name}" for g in self.plan.slots.gpus],
                "run": f"{self.task.paths.name}-{self.task.state.generation}" if is_kept else "",
            }
            argv = [sys.executable, "-m", "searchkit.suite.store.provenance", json.dumps(facts)]
            # A session of its own: Ctrl-C in the terminal is not meant for it.
            self.helpers.add(os.posix_spawn(sys.executable, argv, os.environ, setsid=True, setsigmask=[]))

    def wait_for_helpers(self, timeout_s: float = 20.0) -> None:
        """Let the helpers end; one that hangs is left alone, and the next run of the task does its work."""
        deadline = time.monotonic() + timeout_s
        while self.helpers and time.monotonic() < deadline:
            for pid in list(self.helpers):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                self.helpers.discard(pid)
            time.sleep(0.005)

    def pythons_before(self) -> list[dict[str, str]]:
        """What each job of the task found that ran with another Python than those that run now."""
        if self.plan.python is None:
            return []
        now = self.plan.python.facts()
        found = (job.python for job in self.task.state.jobs.values() if job.attempt and job.python)
        return [python for python in found if python != now]

    def copied(self, k: int) -> imports.Redirected:
        """What jobs import from their copies of snapshot `k`, not from the project. Raises StorageError."""
        plan, path = self.plan, self.plan.base_env.get("PYTHONPATH", "")
        if k not in self.redirected and (path or plan.installed.folders or plan.installed.others):
            stdlib = plan.python.stdlib if plan.python else frozenset()
            self.redirected[k] = imports.redirected(plan.installed, path, self.manifest(k), plan.ws.project, stdlib)
        return self.redirected.get(k, imports.Redirected())

    def manifest(self, k: int) -> snapshot.Manifest:
        """What is in snapshot `k`. Raises StorageError."""
        if k not in self.manifests:
            self.manifests[k] = snapshot.load(self.task.paths.snapshot(k))
        return self.manifests[k]
