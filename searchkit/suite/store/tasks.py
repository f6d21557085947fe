"""A task on disk: making one, opening it to decide, looking at it without deciding, and its views for people."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from searchkit import fsio, proc
from searchkit.errors import ConflictError, StorageError
from searchkit.suite.config.shells import BASH, SH, Shell
from searchkit.suite.store import journal, snapshot, status
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.journal import Event, Holder, Journal, Lease
from searchkit.suite.store.outcome import outcome
from searchkit.suite.store.snapshot import Manifest
from searchkit.suite.store.state import DEFAULTS, TaskState, advance, replay
from searchkit.suite.workspace import TaskPaths, Workspace

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config


def create(
    ws: Workspace,
    name: str,
    raw_config: bytes,
    manifest: Manifest,
    *,
    shell: Shell = BASH,
    stages: Sequence[str] = (),
    fill: Callable[[TaskPaths], None] = lambda half: None,
) -> TaskPaths:
    """Make a task whole, snapshot included, under the workspace's tmp/, and let it appear at once.

    shell: what runs its commands where the config names none. stages: their names, for a task whose jobs are those of
    its stages. fill: makes further files of the half-made task.
    Raises ConflictError where somebody else made it meanwhile, StorageError, UsageError (an unreadable project file).
    """

    def make(half: TaskPaths) -> None:
        if stages:
            fsio.write_new(half.stages, json.dumps(stages).encode())
        fsio.write_new(half.run_config, raw_config)
        fsio.write_new(half.shell, json.dumps(shell).encode())
        fill(half)
        snapshot.build(manifest, ws.project_name, half.tmp, half.snapshot(0))

    return _create(ws, name, make, with_jobs=not stages)


def create_stage(ws: Workspace, group: TaskPaths, stage: str, fill: Callable[[TaskPaths], None]) -> TaskPaths:
    """Make the task of one stage, which shares config and snapshots with its group. Arguments, errors as `create`."""

    def make(half: TaskPaths) -> None:
        fsio.write_new(half.run_config, fsio.read_bytes(group.run_config) or b"")
        fill(half)
        os.symlink(f"../{group.name}/{os.path.basename(group.snapshots)}", half.snapshots)

    return _create(ws, f"{group.name}.{stage}", make, with_jobs=True)


def _create(ws: Workspace, name: str, make: Callable[[TaskPaths], None], *, with_jobs: bool) -> TaskPaths:
    half = TaskPaths(name, f"{ws.tmp}/{fsio.half_name(f'task-{name}')}")
    final = ws.task(name)
    with fsio.storage():
        try:
            os.makedirs(ws.tmp, exist_ok=True)
            fsio.sweep(ws.tmp)
            fsio.discard(half.root)
            jobs = [half.jobs_all, half.jobs_tree] if with_jobs else []
            for folder in (half.tmp, half.events, half.intents, *jobs):
                os.makedirs(folder)
            make(half)
            os.makedirs(ws.tasks, exist_ok=True)
            for folder in (*([half.jobs_all, f"{half.root}/jobs"] if with_jobs else []), half.root):
                fsio.fsync_dir(folder)
            try:
                os.rename(half.root, final.root)
            except OSError as e:
                if os.path.exists(final.run_config):
                    raise ConflictError(f"task {name!r} was just created by another search-run") from e
                raise
            fsio.fsync_dir(ws.tasks)
        except BaseException:
            with contextlib.suppress(OSError):
                fsio.discard(half.root)
            raise
    return final


def config_of(task: TaskPaths) -> Config:
    """The config that a task was made from; of a stage, that stage's part of it."""
    from searchkit.suite.config import read as configs  # with all of YAML behind it

    config = configs.parse(fsio.read_bytes(task.run_config) or b"", task.run_config, begun=shell_of(task))
    return next((stage.config for stage in config.stages if stage.name == task.stage), config)


def shell_of(task: TaskPaths) -> Shell:
    """The shell that runs a task's commands where the config names none: decided when the task was made. One that was
    made before there was a choice has /bin/sh."""
    raw = fsio.read_bytes(task.workspace.task(task.group).shell)
    if raw is None:
        return SH
    try:
        return tuple(map(str, json.loads(raw))) or SH
    except (ValueError, TypeError) as e:
        fault = f"{task.workspace.task(task.group).shell} is damaged"
        raise StorageError(fault, f"It must be a list of words, such as {json.dumps(BASH)} or {json.dumps(SH)}") from e


def newest_config(task: TaskPaths) -> bytes:
    """The config that a task is run by: the one that its events name, which `run_config.yaml` may not hold yet."""
    if os.path.exists(task.config(0)):
        raw = fsio.read_bytes(task.config(replay(journal.Events(task)).config))
        if raw is not None:
            return raw
    return fsio.read_bytes(task.run_config) or b""


def restore_config(task: TaskPaths, state: TaskState) -> None:
    """Make `run_config.yaml` the config that the events name. Raises StorageError."""
    with fsio.storage():
        if not os.path.exists(task.config(0)):
            return
        raw = fsio.read_bytes(task.config(state.config))
        if raw is not None and raw != fsio.read_bytes(task.run_config):
            fsio.atomic_write(task.run_config, raw, tmp=task.tmp)


def stage_names(task: TaskPaths) -> tuple[str, ...]:
    """The stages of a task, in order; none for a task of its own jobs."""
    raw = fsio.read_bytes(task.stages)
    if raw is None:
        return ()
    try:
        return tuple(map(str, json.loads(raw)))
    except (ValueError, TypeError):  # damaged: it is only a shortcut past the config
        return tuple(stage.name for stage in config_of(task).stages)


def stage_tasks(task: TaskPaths) -> list[TaskPaths]:
    """The tasks of all stages, in order; each is made when its turn comes, so the last ones may not exist."""
    return [task.workspace.task(f"{task.name}.{name}") for name in stage_names(task)]


def exists(task: TaskPaths) -> bool:
    return os.path.exists(task.run_config)


def myself() -> Holder:
    """This process as the holder of a lease."""
    pid = os.getpid()
    return Holder(0, "local", proc.host(), proc.boot_id(), pid, proc.start_ticks(pid) or 0, time.time())


@dataclass
class OpenTask:
    """A task in the hands of the one process that may decide for it."""

    paths: TaskPaths
    lease: Lease
    journal: Journal
    state: TaskState
    damaged: int = 0  # lines of the events that could not be read

    def record(self, type_: str, **fields: object) -> Event:
        """Add an event to the next commit and to the state."""
        event = self.journal.append(type_, **fields)
        advance(self.state, event)
        return event

    def close(self) -> None:
        self.journal.close()
        self.lease.release()


def take(task: TaskPaths, lease: Lease, me: Holder, **facts: object) -> OpenTask:
    """Begin a new generation under a lease just acquired.

    facts: what a scheduler tells those after it: `options`, its flags, `retries`, and the `python` of its jobs.
    """
    with fsio.storage():
        events = journal.Events(task)
        state = replay(events)
        open_task = OpenTask(task, lease, Journal(task, lease.generation), state, events.damaged)
    token = state.token or os.urandom(8).hex()
    if not state.token:
        facts["defaults"] = DEFAULTS
    holder = {"generation": lease.generation, "host": me.host, "pid": me.pid}
    open_task.record("open", time=time.time(), token=token, **holder, **facts)
    open_task.journal.commit()
    restore_config(task, state)
    return open_task


@contextlib.contextmanager
def held(task: TaskPaths) -> Iterator[OpenTask]:
    """The task in our hands for the length of the block; ConflictError where another process holds it."""
    me = myself()
    open_task = take(task, journal.acquire(task, me), me)
    try:
        yield open_task
        open_task.journal.commit()
    finally:
        open_task.close()


class JobView(NamedTuple):
    """One job as it is now, for readers: state and times of its highest attempt."""

    job: Job
    state: State
    start_s: float | None
    end_s: float | None
    exit_code: int | None
    reason: str


def read_status(task: TaskPaths, job: Job) -> status.Status:
    """The status of a job's highest attempt."""
    return status.read(task.job(job.index).attempt(job.attempt))


def view_job(task: TaskPaths, job: Job, retries: int = 0) -> JobView:
    """Derive a job's state. Only a job without an accepted result costs a look at its files."""
    result = job.result
    if result is not None:
        state = job.state if result.retry else result.state
        return JobView(job, state, result.start_s, result.end_s, result.rc, result.reason)
    if job.attempt == 0:
        return JobView(job, job.state, None, None, None, "")
    s = read_status(task, job)
    if not s.exists:
        return JobView(job, State.PENDING, None, None, None, "")
    start_s = s.start.time_s if s.start else None
    if s.exit_code is None and s.alive:
        where = f"started on {s.elsewhere}, which can't be asked from here" if s.elsewhere else ""
        return JobView(job, State.RUNNING, start_s or job.launched_s, None, None, where)
    result_fields = outcome(job, s, retries, None)  # what the next scheduler will accept
    lost = s.exit_code is None or result_fields["retry"]
    state = State.PENDING if lost else State(result_fields["state"])
    return JobView(job, state, start_s, s.end_s, s.exit_code, result_fields["reason"])


@dataclass(frozen=True)
class TaskView:
    paths: TaskPaths
    state: TaskState
    jobs: list[JobView]
    status: str  # running | finished | error | stopped
    update_s: float
    damaged: int  # undecodable lines of the journal


def view(task: TaskPaths) -> TaskView:
    """Look at a task without deciding anything and without waiting for anybody."""
    with fsio.storage():
        scheduled = journal.is_held(task)  # before: a scheduler that ends meanwhile has left nothing half-told
        events = journal.Events(task)
        state = replay(events)
    jobs = [view_job(task, state.jobs[n], state.retries) for n in sorted(state.jobs)]
    if stages := stage_tasks(task):
        views = [view(stage) for stage in stages if exists(stage)]
        update_s = max([state.time_s, *(v.update_s for v in views)]) or os.path.getmtime(task.run_config)
        status_ = _group_status([v.status for v in views], scheduled, len(views) == len(stages))
        return TaskView(task, state, [], status_, update_s, events.damaged)
    update_s = max([state.time_s, *(j.end_s for j in jobs if j.end_s)]) or os.path.getmtime(task.run_config)
    return TaskView(task, state, jobs, task_status(jobs, scheduled, state.complete), update_s, events.damaged)


def task_status(jobs: list[JobView], scheduled: bool, complete: bool) -> str:
    """One word for a task: `error` if it ended with at least one error job, `stopped` if jobs are left to run."""
    states = {j.state for j in jobs}
    if scheduled or State.RUNNING in states:
        return "running"
    if not complete or State.PENDING in states:
        return "stopped"
    if State.ERROR in states:
        return "error"
    return "stopped" if State.STOPPED in states else "finished"


def _group_status(stages: list[str], scheduled: bool, all_begun: bool) -> str:
    """One word for a task of stages: as `task_status`, a stage that has not begun being left to run."""
    if scheduled or "running" in stages:
        return "running"
    if "error" in stages:
        return "error"
    return "finished" if all_begun and set(stages) == {"finished"} else "stopped"


def stamp(time_s: float) -> str:
    """`2020/04/14 15:12:32.220510`, local time."""
    seconds, micro = divmod(round(time_s * 1_000_000), 1_000_000)
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(seconds)) + f".{micro:06d}"


def refresh_views(ws: Workspace, task: TaskPaths) -> TaskView:
    """Rewrite task.yaml and this task's entry of summary.yaml. Views: nothing is ever decided from them."""
    task_view = view(task)
    counts = {str(s): n for s in State if (n := sum(j.state is s for j in task_view.jobs))}
    stages = {stage.stage: view(stage).status if exists(stage) else "pending" for stage in stage_tasks(task)}
    body = {
        "task": task.name,
        "status": task_view.status,
        "config_file": task.run_config,
        **({"stages": stages} if stages else {"jobs": {"total": len(task_view.jobs), **counts}}),
        "snapshot": task.snapshot(task_view.state.snapshot).root,
        "update_time": stamp(task_view.update_s),
    }
    with fsio.storage():
        fsio.atomic_write(task.view, _dump(body), tmp=task.tmp, durable=False)
        update_summary(ws, {task.name: _entry(task_view)})
    return task_view


def _entry(task_view: TaskView) -> dict[str, str]:
    return {"status": task_view.status, "update_time": stamp(task_view.update_s)}


def update_summary(ws: Workspace, entries: dict[str, dict[str, str]]) -> None:
    """Set entries of summary.yaml and drop those of tasks that are gone; skipped while its lock is held elsewhere."""
    with contextlib.suppress(TimeoutError), fsio.locked(ws.summary_lock, timeout_s=0.5):
        merged = {**_summary(ws), **entries}
        entries_left = {name: merged[name] for name in ws.task_names() if name in merged}
        fsio.atomic_write(ws.summary, _dump(entries_left), tmp=ws.tmp, durable=False)


def heal_summary(ws: Workspace, views: list[TaskView]) -> None:
    """Rewrite summary.yaml if it says anything else than the views of all tasks, where it can be written."""
    entries = {v.paths.name: _entry(v) for v in views}
    with contextlib.suppress(OSError):
        if _summary(ws) != entries:
            update_summary(ws, entries)


def _summary(ws: Workspace) -> dict[str, dict[str, str]]:
    import yaml  # kept off the start-up path

    try:
        content = yaml.safe_load(fsio.read_bytes(ws.summary) or b"")
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _dump(body: object) -> str:
    import yaml

    return str(yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
