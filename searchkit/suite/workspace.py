"""Every path of a workspace, in one place (docs/files.md shows the whole tree). Paths are absolute strings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from searchkit.errors import NotFoundError, UsageError

NAME = ".search-run"
_TASK_NAME = re.compile(r"[^\W_][\w\-]*")  # letters and digits of any script; no dot (stages own it), no slash

JOB_FILE = re.compile(r"params\.json|log|status|callback|checkpoint|subnets|best|attempt-\d+")


def check_task_name(name: str) -> str:
    """The name itself, or a UsageError that says what a task may be called."""
    if not _TASK_NAME.fullmatch(name) or len(name.encode()) > 100:
        raise UsageError(
            f"a task's name must be letters, digits, '_' and '-' (at most 100 bytes, no dot or slash), got {name!r}",
            "Example: search-run --task lr-sweep config.yaml",
        )
    return name


@dataclass(frozen=True)
class AttemptPaths:
    """One run of a job. Attempt 1 lives in the job's own folder, later ones in `attempt-<k>/` below it."""

    root: str

    @property
    def log(self) -> str:
        return f"{self.root}/log"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def callback(self) -> str:
        return f"{self.root}/callback"


@dataclass(frozen=True)
class JobPaths:
    root: str

    @property
    def params(self) -> str:
        return f"{self.root}/params.json"

    @property
    def checkpoint(self) -> str:
        return f"{self.root}/checkpoint"

    def attempt(self, k: int) -> AttemptPaths:
        return AttemptPaths(self.root if k == 1 else f"{self.root}/attempt-{k}")


@dataclass(frozen=True)
class WorkerPaths:
    """A warm worker: a process that serves one trial after another. It has a status file and a log as an attempt has.

    `inbox` is written by the scheduler, `outbox` by the worker; both only grow. `wake` is a FIFO that says "look".
    """

    root: str

    @property
    def facts(self) -> str:
        return f"{self.root}/worker.json"

    @property
    def inbox(self) -> str:
        return f"{self.root}/inbox.jsonl"

    @property
    def outbox(self) -> str:
        return f"{self.root}/outbox.jsonl"

    @property
    def wake(self) -> str:
        return f"{self.root}/wake.fifo"

    @property
    def open_trial(self) -> str:
        """Which status file wants the exit code of a worker that ended, or was ended, within a trial."""
        return f"{self.root}/open.txt"

    @property
    def gone(self) -> str:
        """Made when no process of the worker is left, and its trial is settled."""
        return f"{self.root}/gone.json"

    @property
    def process(self) -> AttemptPaths:
        return AttemptPaths(self.root)


@dataclass(frozen=True)
class SnapshotPaths:
    """The project as it was: `<project name>/`, what was linked instead of copied, and what is needed to repeat it."""

    root: str

    @property
    def manifest(self) -> str:
        return f"{self.root}/manifest.json"

    @property
    def provenance(self) -> str:
        return f"{self.root}/provenance.json"

    def provenance_of(self, run: str) -> str:
        """Of a later run whose jobs find another Python."""
        return f"{self.root}/provenance-{run}.json"

    @property
    def diff(self) -> str:
        return f"{self.root}/uncommitted.diff"


@dataclass(frozen=True)
class TaskPaths:
    name: str
    root: str

    @property
    def workspace(self) -> Workspace:
        return Workspace(os.path.dirname(os.path.dirname(self.root)))

    @property
    def run_config(self) -> str:
        return f"{self.root}/run_config.yaml"

    def config(self, k: int) -> str:
        """The task's k-th config, from 0 on; a task whose config never changed has only `run_config`."""
        return f"{self.root}/configs/{k}.yaml"

    @property
    def group(self) -> str:
        """The name of the task that this one is a stage of; its own where it is none."""
        return self.name.partition(".")[0]

    @property
    def stage(self) -> str:
        """The name of the stage that this task is; empty where it is none."""
        return self.name.partition(".")[2]

    @property
    def shell(self) -> str:
        """The words of the shell that a task was begun with; those of a stage are with its group."""
        return f"{self.root}/shell.json"

    @property
    def stages(self) -> str:
        """The names of a task's stages, in order; only a task that has stages has this file."""
        return f"{self.root}/stages.json"

    @property
    def subnets(self) -> str:
        return f"{self.root}/subnets"

    @property
    def best(self) -> str:
        """Links to what the best jobs of earlier stages left, for the arguments that are such."""
        return f"{self.root}/best"

    @property
    def best_rows(self) -> str:
        """The values that a stage takes from the best jobs of earlier ones."""
        return f"{self.root}/best.json"

    @property
    def view(self) -> str:
        return f"{self.root}/task.yaml"

    @property
    def tmp(self) -> str:
        return f"{self.root}/tmp"

    @property
    def lease(self) -> str:
        return f"{self.root}/lease"

    @property
    def events(self) -> str:
        return f"{self.root}/events"

    @property
    def intents(self) -> str:
        return f"{self.root}/intents"

    @property
    def snapshots(self) -> str:
        return f"{self.root}/snapshot"

    @property
    def scheduler_log(self) -> str:
        return f"{self.root}/tmp/scheduler.log"

    @property
    def jobs_all(self) -> str:
        return f"{self.root}/jobs/all"

    @property
    def jobs_tree(self) -> str:
        return f"{self.root}/jobs/tree"

    def segment(self, generation: int) -> str:
        return f"{self.root}/events/{generation}.jsonl"

    def snapshot(self, k: int) -> SnapshotPaths:
        return SnapshotPaths(f"{self.root}/snapshot/{k}")

    def job(self, n: int) -> JobPaths:
        return JobPaths(f"{self.root}/jobs/all/{n}")

    def kept(self, n: int) -> str:
        """The series that job `n` reported, as they were read when it ended."""
        return f"{self.root}/numbers/{n}.json"

    @property
    def workers(self) -> str:
        return f"{self.root}/workers"

    @property
    def bell(self) -> str:
        """A FIFO that workers ring when they have news for the scheduler."""
        return f"{self.root}/workers/bell.fifo"

    def worker(self, k: int) -> WorkerPaths:
        return WorkerPaths(f"{self.root}/workers/{k}")


@dataclass(frozen=True)
class Workspace:
    root: str  # …/.search-run

    @property
    def project(self) -> str:
        """The folder that holds the workspace; jobs run in copies of it."""
        return os.path.dirname(self.root)

    @property
    def project_name(self) -> str:
        """The name of the copies, which stand beside a job's own files and must not be called like one of them."""
        name = os.path.basename(self.project) or "project"
        return f"{name}-project" if JOB_FILE.fullmatch(name) else name

    @property
    def summary(self) -> str:
        return f"{self.root}/summary.yaml"

    @property
    def config_schema(self) -> str:
        """The JSON Schema of configs, for editors."""
        return f"{self.root}/config.schema.json"

    @property
    def summary_lock(self) -> str:
        return f"{self.root}/tmp/summary.lock"

    @property
    def reserve(self) -> str:
        """What the commands that make room may take on a full disk."""
        return f"{self.root}/reserve"

    @property
    def tmp(self) -> str:
        return f"{self.root}/tmp"

    @property
    def tasks(self) -> str:
        return f"{self.root}/tasks"

    @property
    def attic(self) -> str:
        """Where `search-run --overwrite` moves the task it replaces."""
        return f"{self.root}/replaced"

    def task(self, name: str) -> TaskPaths:
        return TaskPaths(name, f"{self.root}/tasks/{name}")

    def task_names(self) -> list[str]:
        """The tasks that exist, by name."""
        try:
            entries = sorted(os.listdir(self.tasks))
        except FileNotFoundError:
            return []
        return [e for e in entries if os.path.exists(self.task(e).run_config)]

    def existing_task(self, name: str) -> TaskPaths:
        """The paths of a task that exists, or a NotFoundError that names those that do."""
        names = self.task_names()
        if name not in names:
            have = f"tasks here: {', '.join(names)}" if names else "no task was started here yet"
            raise NotFoundError(f"no task {name!r} in {self.root} ({have})", "See them all: search-ctl show")
        return self.task(name)


def find(start: str) -> Workspace:
    """The nearest workspace from `start` upwards, as git finds its own."""
    here = os.path.realpath(start)
    while True:
        if os.path.isdir(os.path.join(here, NAME)):
            return Workspace(os.path.join(here, NAME))
        parent = os.path.dirname(here)
        if parent == here:
            raise NotFoundError(
                f"no workspace: there is no {NAME} folder in {os.path.realpath(start)} or above it",
                "Make one in the project's root folder: search-init",
            )
        here = parent
