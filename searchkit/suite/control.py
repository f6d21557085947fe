"""What search-ctl does to a task: leave an intent for the scheduler that holds it, or take the lease and act itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import ConflictError, SearchkitError, UsageError
from searchkit.suite.backends import workers
from searchkit.suite.backends.base import GRACE_S, NO_JOB, Handle
from searchkit.suite.backends.table import Backends
from searchkit.suite.run import points
from searchkit.suite.store import best, creation, disk, intents, journal, snapshot, status, subnets, tasks
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.outcome import outcome
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.workspace import AttemptPaths, TaskPaths, Workspace

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config


@dataclass(frozen=True)
class Answer:
    """The outcome of a request."""

    refused: list[int] = field(default_factory=list)  # jobs that were left out
    survivors: dict[int, list[int]] = field(default_factory=dict)  # processes that SIGKILL did not end, by job
    draining: bool = False  # the scheduler that did it launches nothing more
    jobs: list[int] = field(default_factory=list)  # that were added or withdrawn


def _answer_in(events: list[dict[str, Any]], intent: intents.Intent) -> Answer | None:
    for event in events:
        if event["type"] == "answer" and event["id"] == intent.id:
            survivors = {int(n): pids for n, pids in event["survivors"].items()}
            if event.get("fault"):
                raise UsageError(*event["fault"])
            return Answer(event["refused"], survivors, event["draining"], event.get("jobs", []))
    return None


def ask_or_act(task: TaskPaths, op: str, act: Callable[[OpenTask], Answer], **fields: object) -> Answer:
    """Have `op` done by whoever decides for the task: its scheduler, or if there is none, ourselves by `act`.

    Returns when it is done. The scheduler may end or die at any moment; then the next look finds the lease free.
    """
    while True:
        me = tasks.myself()
        lease = journal.try_acquire(task, me)
        if lease is not None:
            open_task = tasks.take(task, lease, me)
            try:
                answer = act(open_task)
                open_task.journal.commit()
                return answer
            finally:
                open_task.close()
        generation = max(journal.generations(task), default=0)
        fresh = journal.follow(task)
        next(fresh)  # the position is taken before the intent is posted, so its answer lies after it
        intent = intents.post(task, op, generation, **fields)
        while journal.is_held(task) and max(journal.generations(task), default=0) == generation:
            if reply := _answer_in(next(fresh), intent):
                return reply
            time.sleep(0.03)
        if reply := _answer_in(next(fresh), intent):  # it may have answered just before it ended
            return reply


def stop(task: TaskPaths, jobs: list[int] | None, grace_s: float = GRACE_S, gone_host: str = "") -> Answer:
    """End jobs (None: the whole task), and return when no process of them is left.

    Jobs stopped by name stay stopped until `restart`; those of a stopped task are pending for the next search-run.
    A job that another machine started is refused, unless `gone_host` says that this machine is gone for good.
    """

    def act(open_task: OpenTask) -> Answer:
        state, backends = open_task.state, Backends()
        chosen = sorted(state.jobs if jobs is None else {n for n in jobs if n in state.jobs})
        _settle_unseen(open_task, chosen)
        running = [n for n in chosen if state.jobs[n].state is State.RUNNING]
        hosts = {n: _elsewhere(backends, open_task, state.jobs[n]) for n in running}
        refused = [n for n, host in hosts.items() if host and host != gone_host]
        running = [n for n in running if n not in refused]
        stoppable = running if jobs is None else sorted(set(chosen).difference(refused))
        open_task.record("stop", time=time.time(), jobs=stoppable, why="task" if jobs is None else "stop")
        open_task.journal.commit()
        names = [workers.trial_name(n, state.jobs[n].attempt) for n in running]
        workers.stop_trials(backends, task, state.token, names, grace_s)  # those left are ended as any job
        if jobs is None:
            workers.end_all(backends, task, state.token, grace_s)
        handles = {n: _handle(backends, open_task, state.jobs[n]) for n in running}
        left = backends.end(handles.values(), grace_s)
        for n in running:
            _accept(open_task, state.jobs[n])
        return Answer(refused, {n: left[h.token] for n, h in handles.items() if h.token in left})

    answer = ask_or_act(task, "stop", act, grace_s=grace_s, whole_task=jobs is None, jobs=jobs or [])
    for _ in range(200 if jobs is None else 0):  # its scheduler has said its last word, and is about to let go
        if not journal.is_held(task):
            break
        time.sleep(0.02)
    # Whoever acted, look once more at every process that carries a token of these jobs, whichever attempt it is of.
    left = Backends().sweep(tasks.view(task).state.token, None if jobs is None else set(jobs), set(answer.refused))
    return Answer(answer.refused, {**answer.survivors, **left}, answer.draining)


def _handle(backends: Backends, open_task: OpenTask, job: Job) -> Handle:
    token = f"{open_task.state.token}/{job.index}/{job.attempt}"
    return backends.handle(token, _paths(open_task, job), tasks.read_status(open_task.paths, job))


def _paths(open_task: OpenTask, job: Job) -> AttemptPaths:
    return open_task.paths.job(job.index).attempt(job.attempt)


def _elsewhere(backends: Backends, open_task: OpenTask, job: Job) -> str:
    """The machine that an attempt runs on, where it can't be asked or ended from here; else empty."""
    s = tasks.read_status(open_task.paths, job)
    if s.exit_code is not None or s.start is None:
        return ""
    return s.start.host if backends.alive(_handle(backends, open_task, job), s) is None else ""


def _accept(open_task: OpenTask, job: Job, behind: Sequence[str] = ()) -> None:
    """Record the result of an attempt whose processes are gone, its numbers durable first. `behind`: the command lines
    of what it had left running."""
    from searchkit.suite.run import judging  # with all of config behind it: only where a result is accepted
    from searchkit.suite.run import search as searching
    from searchkit.suite.store import kept, numbers, scalars, trials

    config = tasks.config_of(open_task.paths)
    s = tasks.read_status(open_task.paths, job)
    last_line = status.last_line(_paths(open_task, job), s)
    fields = outcome(job, s, config.run.retries, config.run.timeout_s, behind, last_line)
    reader = trials.reader_of(open_task.paths, open_task.paths.workspace.project_name, config, job)
    with fsio.storage():
        reading = None if fields["retry"] else reader.read()
        if s.exit_code is not None:
            scalars.make_durable(reader)
        if reading:
            kept.save(open_task.paths, job, numbers.digest(config), reader, reading)
    if reading:
        if s.exit_code is not None and trials.is_search(config):
            if fields["state"] == State.FINISHED.value:
                with contextlib.suppress(UsageError):  # a stopper of the user's own, which can't be imported from here
                    stoppers = searching.make_stoppers(config, config.objectives, open_task.state.defaults)
                    judging.take_in(open_task, config, stoppers, job, reading.series)
            pruned = fields["state"] == State.PRUNED.value
            reading = replace(reading, shared={**trials.shared(open_task.state.jobs.values()), **reading.shared})
            fields["scores"] = trials.scores_of(job, config.objectives, reading, pruned=pruned)[0]
        fields |= numbers.recorded(config, reading, reader.callback)
    open_task.record("result", **fields)


def _settle_unseen(open_task: OpenTask, jobs: list[int]) -> None:
    """Accept what ended while no scheduler looked. What such an attempt left behind is ended first."""
    backends = Backends()
    for n in jobs:
        job = open_task.state.jobs[n]
        if job.state is State.RUNNING and not _is_live(backends, open_task, job):
            s = tasks.read_status(open_task.paths, job)
            _accept(open_task, job, backends.clear(_handle(backends, open_task, job), s, look=True))


def _is_live(backends: Backends, open_task: OpenTask, job: Job) -> bool:
    s = tasks.read_status(open_task.paths, job)
    if s.exit_code is None and backends.alive(_handle(backends, open_task, job), s) is not False:
        return True
    if s.exists:
        return False
    serving = workers.serving(backends, open_task.paths, open_task.state.token)  # it may begin at any moment
    return workers.trial_name(job.index, job.attempt) in serving


def restart(ws: Workspace, task: TaskPaths, jobs: list[int], *, same_code: bool) -> Answer:
    """Make ended jobs pending again, with the project as it is now unless `same_code`."""
    k = _new_snapshot(ws, task) if not same_code else tasks.view(task).state.snapshot
    snapshot.load(task.snapshot(k))  # report a damaged one now, not from a scheduler that nobody watches

    def act(open_task: OpenTask) -> Answer:
        state = open_task.state
        chosen = [n for n in jobs if n in state.jobs]
        _settle_unseen(open_task, chosen)
        live = [n for n in chosen if state.jobs[n].state is State.RUNNING]
        ended = [n for n in chosen if n not in live]
        open_task.record("restart", time=time.time(), jobs=ended, snapshot=k)
        return Answer(live)

    return ask_or_act(task, "restart", act, jobs=jobs, snapshot=k)


def _new_snapshot(ws: Workspace, task: TaskPaths) -> int:
    """Take the project as it is now, unless it equals the newest snapshot; return the snapshot's number."""
    owner = os.path.dirname(os.path.realpath(task.snapshots))  # stages share those of their group
    with fsio.storage(), fsio.locked(f"{owner}/tmp/snapshot.lock"):
        newest = snapshot.newest(task)
        old = snapshot.load(task.snapshot(newest))
        if not snapshot.changes(old, ws.project):
            return newest
        today = snapshot.scan(ws.project, symlinks=old.symlinks)
        snapshot.build(today, ws.project_name, task.tmp, task.snapshot(newest + 1))
    return newest + 1


def delete_jobs(task: TaskPaths, jobs: list[int]) -> Answer:
    """Delete jobs that do not run; a mark remains, so that they don't come back."""

    def act(open_task: OpenTask) -> Answer:
        state = open_task.state
        chosen = [n for n in jobs if n in state.jobs]
        _settle_unseen(open_task, chosen)
        live = [n for n in chosen if state.jobs[n].state is State.RUNNING]
        open_task.record("delete", time=time.time(), jobs=[n for n in chosen if n not in live])
        open_task.journal.commit()
        with fsio.storage():
            creation.clean(task, state)
        return Answer(live)

    return ask_or_act(task, "delete", act, jobs=jobs)


def add(task: TaskPaths, texts: list[dict[str, str]]) -> Answer:
    """Make jobs of points, which are texts by argument; `refused` are the jobs that had such a point already. Raises
    UsageError for what is no point."""

    def act(open_task: OpenTask) -> Answer:
        new, old = points.add(open_task, kept_config(task), texts)
        open_task.journal.commit()
        with fsio.storage():
            for n in new:
                creation.make_job(task, open_task.state.jobs[n])
        return Answer(old, jobs=new)

    return ask_or_act(task, "add", act, points=texts)


def withdraw(task: TaskPaths, jobs: list[int], texts: list[dict[str, str]]) -> Answer:
    """Take out jobs that never ran: `jobs`, and those with the values of a point; `refused` are those of `jobs` that
    have run. Raises UsageError for a value that no job can have."""

    def act(open_task: OpenTask) -> Answer:
        gone, refused = points.withdraw(open_task, kept_config(task), jobs, texts)
        open_task.journal.commit()
        with fsio.storage():
            creation.clean(task, open_task.state)
        return Answer(refused, jobs=gone)

    return ask_or_act(task, "withdraw", act, jobs=jobs, points=texts)


def kept_config(task: TaskPaths) -> Config:
    """The config of a task or stage, with what was picked when it was made."""
    return best.kept(subnets.kept(tasks.config_of(task), task), task)


def free(task: TaskPaths, jobs: list[int]) -> Answer:
    """Remove the working copies and checkpoints of jobs that ended, but keep what they reported."""

    def act(open_task: OpenTask) -> Answer:
        _settle_unseen(open_task, [n for n in jobs if n in open_task.state.jobs])
        return Answer(disk.free(open_task, jobs))

    return ask_or_act(task, "free", act, jobs=jobs)


def live_jobs(task: TaskPaths) -> list[int]:
    """The jobs that have a live attempt now, or processes that one left behind. Workers that wait are no job."""
    seen = tasks.view(task)
    running = {j.job.index for j in seen.jobs if j.state is State.RUNNING}
    return sorted(running.union(Backends().living(seen.state.token)) - {NO_JOB})


def move_away(task: TaskPaths, to: str) -> None:
    """Move a whole task that nobody runs out of the way; ConflictError while a job or a scheduler lives."""
    lease = journal.acquire(task, tasks.myself())
    try:
        if live := live_jobs(task):
            raise ConflictError(
                f"task {task.name!r} has running jobs: {', '.join(map(str, live))}",
                f"Stop them first: search-ctl stop --task {task.name}",
            )
        workers.end_all(Backends(), task, tasks.view(task).state.token, GRACE_S)
        with fsio.storage():
            os.makedirs(os.path.dirname(to), exist_ok=True)
            os.rename(task.root, to)
            fsio.fsync_dir(os.path.dirname(task.root))
    finally:
        lease.release()


def delete_task(ws: Workspace, task: TaskPaths) -> None:
    """Delete a task that nobody runs."""
    grave = f"{ws.tmp}/{fsio.half_name(f'trash-{task.name}')}"
    move_away(task, grave)
    with fsio.storage():
        fsio.discard(grave)
        tasks.update_summary(ws, {})


def start_background(ws: Workspace, task: TaskPaths, options: dict[str, object]) -> int:
    """Start a scheduler for a task (for a stage: that of the whole) in a session of its own; return its process number
    when it holds the lease.

    Raises SearchkitError with its last words where it ended before that.
    """
    task = ws.task(task.group)
    argv = [sys.executable, "-m", "searchkit.suite.cli.run", "--task", task.name, task.run_config]
    for name, value in options.items():
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", str(value)]
    if journal.is_held(task):
        raise ConflictError(
            f"task {task.name!r} is already being run by {journal.holder(task) or 'another process'}",
            f"Follow it: search-ctl show --task {task.name}    Stop it: search-ctl stop --task {task.name}",
        )
    before = max(journal.generations(task), default=0)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SEARCHKIT_")}
    with open(task.scheduler_log, "ab") as log:
        began = log.tell()
        child = subprocess.Popen(
            argv, cwd=ws.project, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    while child.poll() is None:
        holder = journal.holder(task)
        if journal.is_held(task) and holder and holder.pid == child.pid:
            return child.pid
        if max(journal.generations(task), default=0) > before:
            return child.pid
        time.sleep(0.02)
    if child.returncode in (0, 1):  # it had little to do, and did it
        return child.pid
    output = (fsio.read_bytes(task.scheduler_log, began) or b"").decode("utf-8", "replace").strip()
    e = SearchkitError(f"the scheduler in the background could not start:\n{output}", f"Its log: {task.scheduler_log}")
    e.exit_code = child.returncode
    raise e
