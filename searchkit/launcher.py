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
from searchkit.backends import local
from searchkit.backends.local import Launch, Machine
from searchkit.backends.slots import Grant, Slots
from searchkit.config import Config
from searchkit.errors import StorageError
from searchkit.store import creation, scalars, snapshot, status
from searchkit.store.state import Job
from searchkit.store.tasks import OpenTask
from searchkit.workspace import TaskPaths, Workspace


def make_durable(task: TaskPaths, job: Job, config: Config) -> None:
    """Sync what the result of a job's highest attempt is read from. Raises StorageError."""
    paths = task.job(job.index).attempt(job.attempt)
    with fsio.storage():
        scalars.make_durable(
            paths.callback,
            log=paths.log if config.monitor.regex else None,
            workdir=f"{paths.root}/{task.workspace.project_name}",
            tensorboard=config.monitor.tensorboard,
            newer_than_s=job.launched_s,
        )


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


def this_machine() -> Machine:
    """This host, as wrappers are told."""
    return Machine(socket.gethostname(), status.boot_id(), sys.executable)


@dataclass
class Launcher:
    plan: Plan
    task: OpenTask
    machine: Machine = field(default_factory=this_machine)
    port: int = 0  # what the last started job was given as MASTER_PORT
    manifests: dict[int, snapshot.Manifest] = field(default_factory=dict)
    prepared: dict[int, tuple[int, str]] = field(default_factory=dict)  # job -> (snapshot, working folder under tmp/)
    kept: set[int] = field(default_factory=set)  # snapshots whose provenance is on disk, or being written
    helpers: set[int] = field(default_factory=set)  # processes of ours that are no wrappers

    def describe(self, n: int) -> Launch:
        """The highest attempt of a job as a launch: its paths, command and token."""
        job = self.task.state.jobs[n]
        paths = self.task.paths.job(n)
        callbacks = self.plan.config.callbacks
        work = f"{paths.attempt(job.attempt).root}/{self.plan.ws.project_name}"
        token = f"{self.task.state.token}/{n}/{job.attempt}"
        return Launch(paths, job.attempt, work, job.command, token, callbacks.pre or "", callbacks.after or "")

    def start(self, n: int, launch: Launch, grant: Grant, ports: Collection[int]) -> int:
        """Make the attempt's folders and start its wrapper; return the wrapper's process number.

        Raises CannotStart for a command that can never start, FileExistsError for an attempt that was begun before,
        StorageError for everything else.
        """
        job, config = self.task.state.jobs[n], self.plan.config
        with fsio.storage():
            k, work = self.prepared.pop(n, (-1, ""))
            creation.make_attempt(
                self.task.paths, job, self._manifest(job.snapshot), work if k == job.snapshot else None
            )
        self.port = local.free_port(launch.token, ports)
        env = local.environment(
            self.plan.base_env,
            launch,
            task=self.task.paths.name,
            job=n,
            seed=config.search.seed,
            cpus=config.resources.cpus,
            gpus=() if self.plan.hide_gpus else (grant.gpus or None),
            port=self.port,
        )
        try:
            return local.spawn(launch, env, self.machine, self.plan.slots.lease_fds(grant))
        except FileExistsError:
            raise
        except OSError as e:
            if local.cannot_ever_start(e):
                raise CannotStart(f"cannot be started: {e.strerror}") from e
            hint = "Run the same command again when that is mended"
            raise StorageError(f"cannot start job {n}: {e}", hint) from e

    def prepare(self, jobs: Iterable[int]) -> bool:
        """Lay out the working folder of the first of `jobs` that has none yet; say whether there was one.

        Done while all slots are busy, so that a slot does not wait for the copying of a project.
        """
        for n in jobs:
            job = self.task.state.jobs.get(n)
            if job is not None and self.prepared.get(n, (-1, ""))[0] != job.snapshot:
                with fsio.storage():
                    work = creation.make_work(self.task.paths, job, self._manifest(job.snapshot))
                self.prepared[n] = (job.snapshot, work)
                return True
        return False

    def discard_prepared(self) -> None:
        for _, work in self.prepared.values():
            fsio.discard(work)
        self.prepared.clear()

    def keep_provenance(self, started: Iterable[int]) -> None:
        """Have what is needed to repeat the run kept, once a snapshot, by a process of its own: git and python may take
        long to answer, and no slot waits for them."""
        for k in {self.task.state.jobs[n].snapshot for n in started} - self.kept:
            self.kept.add(k)
            if os.path.exists(self.task.paths.snapshot(k).provenance):
                continue
            facts = {
                "snapshot": self.task.paths.snapshot(k).root,
                "tmp": self.task.paths.tmp,
                "project": self.plan.ws.project,
                "seed": self.plan.config.search.seed,
                "command_line": self.plan.command_line,
                "path": self.plan.base_env.get("PATH"),
                "gpus": [f"{g.index}: {g.name}" for g in self.plan.slots.gpus],
            }
            argv = [sys.executable, "-m", "searchkit.store.provenance", json.dumps(facts)]
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

    def _manifest(self, k: int) -> snapshot.Manifest:
        if k not in self.manifests:
            self.manifests[k] = snapshot.load(self.task.paths.snapshot(k))
        return self.manifests[k]
