"""Acting on a decided launch: the attempt's folders, environment and wrapper, and what is needed to repeat it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from searchkit import fsio
from searchkit.errors import StorageError
from searchkit.suite.backends import base, contract
from searchkit.suite.backends.base import Capacity, Grant, Handle, Launch
from searchkit.suite.backends.table import Backends
from searchkit.suite.config.read import Config
from searchkit.suite.config.shells import Shell
from searchkit.suite.store import creation, imports, snapshot
from searchkit.suite.store.interpreter import Interpreter
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.workspace import Workspace

NOTHING = imports.Installed()


@dataclass(frozen=True)
class Plan:
    """What a run needs besides its task: where it runs and how."""

    ws: Workspace
    config: Config
    backends: Backends
    slots: Capacity
    hide_gpus: bool  # True: jobs see no GPU
    base_env: dict[str, str]
    command_line: tuple[str, ...]
    shell: Shell  # that of the config, its program a path
    python: Interpreter | None = None  # the one that jobs run; None: there is none, or it does not say what it is
    installed: imports.Installed = NOTHING  # what that Python imports from the project itself


@dataclass(frozen=True)
class Prepared:
    """A launch whose files wait under tmp/. `parked` None: the backend is asked when the grant is known."""

    launch: Launch
    snapshot: int
    work: str
    parked: base.Prepared | None


@dataclass
class Launcher:
    plan: Plan
    task: OpenTask
    manifests: dict[int, snapshot.Manifest] = field(default_factory=dict)
    prepared: dict[int, Prepared] = field(default_factory=dict)  # jobs whose turn has not come
    redirected: dict[int, imports.Redirected] = field(default_factory=dict)  # by snapshot
    kept: set[int] = field(default_factory=set)  # snapshots whose provenance is on disk, or being written

    def describe(self, n: int, attempt: int | None = None) -> Launch:
        """An attempt of a job (default: its highest) as a launch: its paths, command and token."""
        job = self.task.state.jobs[n]
        paths = self.task.paths.job(n)
        callbacks = self.plan.config.callbacks
        k = attempt or job.attempt
        work = f"{paths.attempt(k).root}/{self.plan.ws.project_name}"
        token = f"{self.task.state.token}/{n}/{k}"
        pre, after = callbacks.pre or "", callbacks.after or ""
        return Launch(paths, k, work, job.command, token, self.task.paths.tmp, str(n), pre, after, self.plan.shell)

    def start(self, n: int, launch: Launch, grant: Grant) -> Handle:
        """Make the attempt's folders and let it begin.

        Raises CannotStart for a command that can never start, FileExistsError for an attempt that was begun before,
        StorageError for everything else.
        """
        parked, backend = self.lay_out(n, launch), self.plan.backends.main
        try:
            return backend.start(parked or backend.prepare(launch, self.environment(n, launch), grant))
        except FileExistsError:
            raise
        except OSError as e:
            hint = "Run the same command again when that is fixed"
            raise StorageError(f"cannot start job {n}: {e}", hint) from e

    def lay_out(self, n: int, launch: Launch) -> base.Prepared | None:
        """Make the attempt's folders; return what waits to start, if something does. Raises StorageError."""
        job = self.task.state.jobs[n]
        ready = self.prepared.pop(n, None)
        if ready and (ready.launch, ready.snapshot) != (launch, job.snapshot):
            self._discard(ready)
            ready = None
        with fsio.storage():
            creation.make_attempt(self.task.paths, job, self.manifest(job.snapshot), ready.work if ready else None)
        return ready.parked if ready else None

    def environment(self, n: int, launch: Launch) -> dict[str, str]:
        """The environment of an attempt of a job, without what the backend adds."""
        env, project = self.plan.base_env, self.plan.ws.project
        copied = self.copied(self.task.state.jobs[n].snapshot)
        if path := imports.pythonpath(env.get("PYTHONPATH", ""), copied, project, launch.work):
            env = {**env, "PYTHONPATH": path}
        return contract.environment(
            env,
            launch,
            task=self.task.paths.name,
            job=n,
            seed=self.plan.config.search.seed,
            threads=self.plan.config.resources.cpus,
            hide_gpus=self.plan.hide_gpus,
        )

    def prepare(self, jobs: Iterable[int]) -> bool:
        """Make the first of `jobs` that is not ready yet ready to start; return whether there was one.

        Done while all slots are busy, so that a free slot need not wait while a project is copied or, where no GPU has
        to be granted first, while a program starts.
        """
        for n in jobs:
            job = self.task.state.jobs.get(n)
            if job is not None and n not in self.prepared:
                launch = self.describe(n, job.attempt + 1)
                with fsio.storage():
                    work = creation.make_work(self.task.paths, job, self.manifest(job.snapshot))
                parked, grant = None, self.plan.slots.alike
                if grant is not None and self.plan.config.run.workers is None:
                    env = self.environment(n, launch)
                    # A fault is met again, and told, when the job is to start.
                    with contextlib.suppress(OSError, base.CannotStart):
                        parked = self.plan.backends.main.prepare(launch, env, grant)
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
            self.plan.backends.main.discard(ready.parked)

    def keep_provenance(self, started: Iterable[int]) -> None:
        """Keep what is needed to repeat the run, once for each snapshot and Python. A process of its own does it: git
        and python may take long to answer, and no slot waits for them."""
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
                "gpus": self.plan.slots.devices,
                "run": f"{self.task.paths.name}-{self.task.state.generation}" if is_kept else "",
            }
            argv = [sys.executable, "-m", "searchkit.suite.store.provenance", json.dumps(facts)]
            self.plan.backends.children.spawn(argv, os.environ)

    def pythons_before(self) -> list[dict[str, str]]:
        """The Pythons of jobs of the task that ran with another Python than jobs run with now."""
        if self.plan.python is None:
            return []
        now = self.plan.python.facts()
        pythons = (job.python for job in self.task.state.jobs.values() if job.attempt and job.python)
        return [python for python in pythons if python != now]

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
