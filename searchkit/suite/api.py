"""Tasks and their jobs for Python: what `searchkit.open` gives to look at, and what `searchkit.run` starts.

A `Task` is a snapshot: all that it says is of one moment, even while a scheduler runs. `refresh()` takes a new one.
Looking writes nothing and waits for nobody. Times are seconds since the epoch.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import (
    ConflictError,
    NotFoundError,
    SearchkitError,
    StorageError,
    UsageError,
    did_you_mean,
)
from searchkit.suite import facts
from searchkit.suite.store import journal, ranking, tasks
from searchkit.suite.store.job import State
from searchkit.suite.store.ranking import JobScalars
from searchkit.suite.store.tasks import JobView, TaskView
from searchkit.suite.workspace import NAME, TaskPaths, check_task_name, find
from searchkit.suite.workspace import Workspace as Paths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.config.settings import Objective

RETURNED = (0, 1, 130, 143)  # exit codes that `wait` gives; others are errors of the command line, or of the disk
POLL_S = 0.05
OPTIONS = ("gpus", "jobs_per_gpu", "max_parallel", "n_trials", "symlinks", "overwrite")  # of search-run


def open(path: str | os.PathLike[str] = ".") -> Workspace:
    """The workspace at `path` (a `.search-run` folder), else the nearest one from `path` upwards, as git finds its own.

    Raises NotFoundError where there is none.
    """
    start = os.path.realpath(path)
    if os.path.basename(start) == NAME and os.path.isdir(start):
        return Workspace(Paths(start))
    return Workspace(find(start))


@dataclass(frozen=True)
class Workspace:
    """A `.search-run` folder."""

    paths: Paths = field(repr=False)

    @property
    def path(self) -> str:
        """The folder `.search-run` itself; absolute."""
        return self.paths.root

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks there are now. A stage is a task of its own: `det.train`."""
        return tuple(self.paths.task_names())

    def task(self, name: str = "default") -> Task:
        """A task as it is now. Raises NotFoundError for one that is not there, StorageError."""
        return _look(self.paths, self.paths.existing_task(name))

    def __repr__(self) -> str:
        return f"Workspace({self.path!r})"


@dataclass(frozen=True)
class Task:
    """A task at the moment it was read. A task of stages has the jobs of all stages that had begun."""

    name: str
    status: str  # running, finished, error (some job failed), stopped (jobs are left to run)
    workspace: Paths = field(repr=False)
    view: TaskView = field(repr=False)
    stages: tuple[Task, ...] = field(default=(), repr=False)

    @property
    def path(self) -> str:
        """The task's folder; absolute."""
        return self.view.paths.root

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in order, those of stages stage by stage."""
        own_jobs = tuple(_job(self, view) for view in self.view.jobs)
        return own_jobs + tuple(job for stage in self.stages for job in stage.jobs)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        return {str(s): n for s in State if (n := sum(job.state == s.value for job in self.jobs))}

    def job(self, number: int) -> Job:
        """One job by its number. Raises NotFoundError for a number that no job has, UsageError for a task of stages."""
        self._refuse_stages()
        view = next((view for view in self.view.jobs if view.job.index == number), None)
        if view is None:
            numbers = [view.job.index for view in self.view.jobs]
            hint = f"its jobs are {min(numbers)} to {max(numbers)}" if numbers else "it has no job yet"
            raise NotFoundError(f"task {self.name!r} has no job {number!r}", f"{hint}; `refresh()` looks again")
        return _job(self, view)

    def best(self, k: int = 1, *, mode: str = "") -> tuple[Job, ...]:
        """The `k` best jobs that have a finite score, best first, as `search-ctl best` ranks them: by the reward or the
        objectives of the config, with several by Pareto fronts. Of a job that scored subnets each is a row of its own,
        with its `record`. `mode` (max or min) says which end of the reward is best, whatever the config says.

        Raises UsageError where the config names nothing to judge by, and for a task of stages.
        """
        self._refuse_stages()
        if mode not in ("", "max", "min"):
            raise UsageError(f"mode must be 'max' or 'min', got {mode!r}")
        objectives = self._judged_by(mode)
        names = [objective.name for objective in objectives]
        rows = ranking.scored(ranking.split(self._numbers(names)), objectives, k)[:k]
        return tuple(
            replace(
                _job(self, row.entry.view),
                record=row.entry.row.record if row.entry.row else None,
                ranked=MappingProxyType(dict(zip(names, row.scores, strict=True))),
            )
            for row in rows
        )

    def frame(self) -> Any:
        """One row a job: `job`, `state`, its arguments, the last value of each scalar, and `time_s` (how long its last
        attempt took, seconds). A pandas.DataFrame where pandas is installed, else a list of dicts; what a job lacks is
        missing in its dict, NaN in the frame. A scalar with the name of an argument is in the column `scalar.<name>`;
        in a task of stages the first column, `task`, names the stage.
        """
        rows = list(self._rows())
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows)

    def refresh(self) -> Task:
        """The same task as it is now."""
        return _look(self.workspace, self.view.paths)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for stage in self.stages:
            yield from ({"task": stage.name, **row} for row in stage._rows())
        entries = self._numbers() if self.view.jobs else []
        arguments = {"job", "state", "time_s"}.union(*(view.job.values for view in self.view.jobs))
        for entry in entries:
            view = entry.view
            row = {"job": view.job.index, "state": view.state.value, **view.job.values}
            row.update((f"scalar.{n}" if n in arguments else n, value) for n, value in entry.last().items())
            if view.start_s is not None and view.end_s is not None:
                row["time_s"] = view.end_s - view.start_s
            yield row

    def _numbers(self, names: list[str] | None = None) -> list[JobScalars]:
        """The last and best of each scalar (of `names` alone, where they are given)."""
        project = self.workspace.project_name
        return ranking.read(self.view.paths, project, self.config, self.view.jobs, light=True, names=names or ())

    @cached_property
    def config(self) -> Config:
        """The config that it runs by, as frozen dataclasses."""
        return tasks.config_of(self.view.paths)

    def _judged_by(self, mode: str) -> tuple[Objective, ...]:
        objectives, several = self.config.objectives, bool(self.config.search.objectives)
        if not objectives:
            raise UsageError(
                f"the config of task {self.name!r} names neither search.objectives nor a reward_attribute",
                "No job is better than another; sort the rows of frame() by any scalar",
            )
        if mode and several:
            raise UsageError("mode: search.objectives says of each which end is best", "Leave mode out")
        if self.config.unclear_reward and not self.config.is_search and not mode:
            message = f"which is best? {self.config.unclear_reward!r} sounds as if less of it were better"
            raise UsageError(f"{message}, and the config has no mode", "Say it: best(k, mode='min')")
        return tuple(replace(objective, mode=mode) for objective in objectives) if mode else objectives

    def _refuse_stages(self) -> None:
        if names := tasks.stage_names(self.view.paths):
            which = ", ".join(f"{self.name}.{name}" for name in names)
            raise UsageError(f"task {self.name!r} has stages, and jobs are named within one", f"Open one: {which}")


@dataclass(frozen=True)
class Job:
    """A job of a task at the moment the task was read: state and times of its last attempt."""

    number: int
    state: str  # pending, running, finished, error, stopped, pruned
    params: Mapping[str, Any]  # its arguments, as params() gives them to the script
    command: str
    attempt: int  # 0: it has not begun
    start_s: float | None
    end_s: float | None
    exit_code: int | None
    reason: str  # why it is in its state, where there is something to say
    path: str  # the folder of its last attempt, with log, callback/ and the working folder
    record: Mapping[str, Any] | None = None  # the subnet that is meant, where `best` ranked those that a job scored
    task: Task = field(repr=False, compare=False, kw_only=True)
    view: JobView = field(repr=False, compare=False, kw_only=True)
    ranked: Mapping[str, float] | None = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def scores(self) -> dict[str, float]:
        """By objective, what ranked it (`best`), or what its search accepted; empty for a job without either."""
        if self.ranked is not None:
            return dict(self.ranked)
        accepted = self.view.job.scores if self.state in ("finished", "pruned") else None
        return dict(zip((objective.name for objective in self.task.config.objectives), accepted or (), strict=False))

    def scalars(self) -> dict[str, dict[int, float]]:
        """What its last attempt has reported so far: `{name: {step: value}}`, read from its files at each call."""
        return {name: dict(series) for name, series in self._read().series.items()}

    def records(self) -> list[dict[str, Any]]:
        """The model-space records that it has written so far, one for each subnet that it scored."""
        return [dict(row.record) for row in self._read().records]

    def callbacks(self) -> dict[str, dict[str, Any]]:
        """The results of its callbacks `pre` and `after`, by name; those without a result are left out."""
        read = self._read()
        return {name: result for name, result in (("pre", read.pre), ("after", read.after)) if result is not None}

    def log(self) -> str:
        """What its last attempt has printed so far; empty where it has not begun. Raises StorageError."""
        with fsio.storage():
            return (fsio.read_bytes(f"{self.path}/log") or b"").decode("utf-8", "replace")

    def _read(self) -> JobScalars:
        task = self.task
        (read,) = ranking.read(task.view.paths, task.workspace.project_name, task.config, [self.view])
        return read


def _look(workspace: Paths, task: TaskPaths) -> Task:
    view = tasks.view(task)
    begun = [stage for stage in tasks.stage_tasks(task) if tasks.exists(stage)]
    return Task(task.name, view.status, workspace, view, tuple(_look(workspace, stage) for stage in begun))


def _job(task: Task, view: JobView) -> Job:
    known = facts.job_facts(task.view.paths, view)
    return Job(
        number=view.job.index,
        state=known["status"],
        params=MappingProxyType(known["params"]),
        command=known["command"],
        attempt=known["attempt"],
        start_s=known["start_time_s"],
        end_s=known["end_time_s"],
        exit_code=known["exit_code"],
        reason=known["reason"],
        path=known["run_path"],
        task=task,
        view=view,
    )


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    config: str | os.PathLike[str],
    task: str = "default",
    *,
    cwd: str | os.PathLike[str] = ".",
    **options: str | int | bool | None,
) -> Run:
    """Start `search-run` on a config as a process of its own, and return when the task is there.

    config: the file, from `cwd` on; `cwd` lies in a project with a workspace (search-init). options: the flags of
    search-run: `max_parallel=2`, `gpus="none"` or `"0,1"`, `jobs_per_gpu`, `n_trials`, `symlinks=True`,
    `overwrite=True`; None leaves one out. On a task that exists it goes on, as search-run does. The process outlives
    this one.

    Raises UsageError (ConfigError's text with all faults of the config), NotFoundError (no workspace), ConflictError
    (the task exists with another config, or is being run) and StorageError, each with what search-run said.
    """
    place = os.path.realpath(cwd)
    paths = find(place).task(check_task_name(task))
    argv = [sys.executable, "-m", "searchkit.suite.cli.run", "--task", task, os.fspath(config), *_flags(options)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SEARCHKIT_")}
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            argv, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        started = Run(find(place), paths, child, printed := os.dup(output.fileno()))
    weakref.finalize(started, os.close, printed)
    while started.poll() is None:
        holder = journal.holder(paths)
        if holder is not None and holder.pid == child.pid:
            return started
        time.sleep(POLL_S)
    started.wait()  # raises what it said
    return started


def _flags(options: Mapping[str, str | int | bool | None]) -> Iterator[str]:
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(f"run() has no option {name!r}{did_you_mean(name, OPTIONS)}")
        if value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        yield flag if value is True else f"{flag}={value}"


@dataclass(frozen=True)
class Run:
    """A search-run that was started by `run`."""

    workspace: Paths = field(repr=False)
    paths: TaskPaths = field(repr=False)
    process: subprocess.Popen[bytes]
    printed: int = field(repr=False)  # a descriptor of what it prints to

    @property
    def task(self) -> Task:
        """Its task as it is now: each access looks again."""
        return _look(self.workspace, self.paths)

    @property
    def output(self) -> str:
        """What search-run has printed so far."""
        return os.pread(self.printed, os.fstat(self.printed).st_size, 0).decode("utf-8", "replace")

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, `timeout_s` seconds at most, and return its exit code: 0, all jobs finished; 1, a job
        failed; 130 or 143, it was stopped, and `run` goes on with it. None where it still runs.

        Raises UsageError, NotFoundError, ConflictError or StorageError, with its message, where one ended it.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if code not in RETURNED:
            raise _error(code, self.output)
        return code

    def stop(self, timeout_s: float | None = None) -> int | None:
        """Stop it and its jobs, which are pending again for the next `run`. Returns what `wait` returns; a run that had
        already ended stays as it is."""
        if self.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)


def _error(code: int, output: str) -> SearchkitError:
    """The last error that search-run printed, as the class of its exit code."""
    last = re.split(r"^[Ee]rror: ", output, flags=re.M)[-1].strip()  # click writes Error:, below a usage
    last = last or f"search-run ended with {code}"
    message, _, hint = last.rpartition("\n  ") if "\n  " in last else (last, "", "")
    kinds = {kind.exit_code: kind for kind in (UsageError, NotFoundError, ConflictError, StorageError)}
    error = kinds.get(code, SearchkitError)(message, hint)
    error.exit_code = code
    return error
