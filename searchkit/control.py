"""What search-ctl does to a task: leave an intent for the scheduler that holds it, or take the lease and act itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from searchkit import fsio
from searchkit.backends import procs
from searchkit.backends.procs import Target
from searchkit.errors import ConflictError, SearchkitError
from searchkit.store import creation, intents, journal, snapshot, status, tasks
from searchkit.store.state import State, outcome
from searchkit.store.tasks import OpenTask
from searchkit.workspace import TaskPaths, Workspace

GRACE_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What became of a request: jobs that were left out, and processes that SIGKILL did not end, by job."""

    refused: list[int] = field(default_factory=list)
    survivors: dict[int, list[int]] = field(default_factory=dict)


def ask_or_act(task: TaskPaths, op: str, act: Callable[[OpenTask], Answer], **fields: object) -> Answer:
    """Have `op` done by whoever decides for the task: its scheduler, or if there is none, `act` in our own hands.

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
            for event in next(fresh):
                if event["type"] == "answer" and event["id"] == intent.id:
                    survivors = {int(n): pids for n, pids in event["survivors"].items()}
                    return Answer(event["refused"], survivors)
            time.sleep(0.03)
        for event in next(fresh):  # it may have answered as its last act
            if event["type"] == "answer" and event["id"] == intent.id:
                return Answer(event["refused"], {int(n): pids for n, pids in event["survivors"].items()})


def stop(task: TaskPaths, jobs: list[int] | None, grace_s: float = GRACE_S, gone_host: str = "") -> Answer:
    """End jobs (None: the whole task), and return when no process of them is left.

    Jobs stopped by name stay stopped until `restart`; those of a stopped task are pending for the next search-run.
    A job that another machine started is refused, unless `gone_host` says that this machine is gone for good.
    """

    def act(open_task: OpenTask) -> Answer:
        chosen = open_task.state.jobs if jobs is None else {n for n in jobs if n in open_task.state.jobs}
        why = "task" if jobs is None else "stop"
        running = sorted(n for n in chosen if open_task.state.jobs[n].state is State.RUNNING)
        for n in running:
            s = tasks.read_status(task, open_task.state.jobs[n])
            if s.exit_code is not None:  # it ended while no scheduler looked
                open_task.record("result", **outcome(open_task.state.jobs[n], s, _retries(task), None))
        running = [n for n in running if open_task.state.jobs[n].state is State.RUNNING]
        hosts = {n: tasks.read_status(task, open_task.state.jobs[n]).elsewhere for n in running}
        refused = [n for n, host in hosts.items() if host and host != gone_host]
        running = [n for n in running if n not in refused]
        asked = running if jobs is None else sorted(set(chosen).difference(refused))
        open_task.record("stop", time=time.time(), jobs=asked, why=why)
        open_task.journal.commit()
        targets = {n: _target(open_task, n) for n in running}
        left = procs.end_all(targets.values(), grace_s)
        for n in running:
            job = open_task.state.jobs[n]
            open_task.record("result", **outcome(job, tasks.read_status(task, job), 0, None))
        return Answer(refused, {n: left[t.token] for n, t in targets.items() if t.token in left})

    fields: dict[str, object] = {"grace_s": grace_s, "whole_task": jobs is None, "jobs": jobs or []}
    answer = ask_or_act(task, "stop", act, **fields)
    # Whoever acted: look once more, at every process that carries a token of these jobs, whatever attempt it was of.
    token = tasks.view(task).state.token
    for _ in range(200 if jobs is None else 0):  # its scheduler has said its last word, and is about to let go
        if not journal.is_held(task):
            break
        time.sleep(0.02)
    prefixes = {f"{token}/{n}/": n for n in jobs} if jobs is not None else {f"{token}/": -1}
    survivors = dict(answer.survivors)
    for prefix, n in prefixes.items():
        if pids := _sweep(prefix):
            survivors[n] = pids
    return Answer(answer.refused, survivors)


def _retries(task: TaskPaths) -> int:
    from searchkit import config  # only where a job is found that ended unseen

    return config.parse(fsio.read_bytes(task.run_config) or b"", task.run_config).run.retries


def _sweep(prefix: str, tries: int = 100) -> list[int]:
    for _ in range(tries):
        pids = procs.carriers([prefix]).get(prefix, [])
        if not pids:
            return []
        procs.send(pids, procs.signal.SIGKILL)
        time.sleep(0.02)
    return pids


def _target(open_task: OpenTask, n: int) -> Target:
    job = open_task.state.jobs[n]
    token = f"{open_task.state.token}/{n}/{job.attempt}"
    s = tasks.read_status(open_task.paths, job)
    if s.start and s.start.boot_id == status.boot_id():
        return Target(token, s.start.pid, s.start.start_ticks)
    return Target(token)


def restart(ws: Workspace, task: TaskPaths, jobs: list[int], *, same_code: bool) -> Answer:
    """Make ended jobs pending again, with the project as it is now unless `same_code`."""
    k = _new_snapshot(ws, task) if not same_code else tasks.view(task).state.snapshot
    snapshot.load(task.snapshot(k))  # a damaged one is told now, not by a scheduler that nobody watches

    def act(open_task: OpenTask) -> Answer:
        state = open_task.state
        live = [n for n in jobs if n in state.jobs and tasks.view_job(task, state.jobs[n]).state is State.RUNNING]
        chosen = [n for n in jobs if n in state.jobs and n not in live]
        for n in chosen:
            if state.jobs[n].state is State.RUNNING:  # ended while no scheduler looked
                open_task.record("result", **outcome(state.jobs[n], tasks.read_status(task, state.jobs[n]), 0, None))
        open_task.record("restart", time=time.time(), jobs=chosen, snapshot=k)
        return Answer(live)

    return ask_or_act(task, "restart", act, jobs=jobs, snapshot=k)


def _new_snapshot(ws: Workspace, task: TaskPaths) -> int:
    """Take the project as it is now, unless it equals the newest snapshot; return the snapshot's number."""
    numbers = [int(n) for n in creation.listdir(task.snapshots) if n.isdigit()]
    newest = max(numbers)
    old = snapshot.load(task.snapshot(newest))
    with fsio.storage(), fsio.locked(f"{task.tmp}/snapshot.lock"):
        today = snapshot.scan(ws.project, symlinks=old.symlinks)
        if today.entries == old.entries:
            return newest
        snapshot.build(today, ws.project_name, task.tmp, task.snapshot(newest + 1))
    return newest + 1


def delete_jobs(task: TaskPaths, jobs: list[int]) -> Answer:
    """Delete jobs that do not run; a mark stays, so that they don't come back."""

    def act(open_task: OpenTask) -> Answer:
        state = open_task.state
        live = [n for n in jobs if n in state.jobs and tasks.view_job(task, state.jobs[n]).state is State.RUNNING]
        open_task.record("delete", time=time.time(), jobs=[n for n in jobs if n in state.jobs and n not in live])
        open_task.journal.commit()
        with fsio.storage():
            creation.clean(task, state)
        return Answer(live)

    return ask_or_act(task, "delete", act, jobs=jobs)


def live_jobs(task: TaskPaths) -> list[int]:
    """The jobs that have a live attempt now."""
    return [j.job.index for j in tasks.view(task).jobs if j.state is State.RUNNING]


def move_away(task: TaskPaths, to: str) -> None:
    """Move a whole task that nobody runs out of the way; ConflictError while a job or a scheduler lives."""
    lease = journal.acquire(task, tasks.myself())
    try:
        if live := live_jobs(task):
            raise ConflictError(
                f"task {task.name!r} has running jobs: {', '.join(map(str, live))}",
                f"Stop them first: search-ctl stop --task {task.name}",
            )
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
    """Start a scheduler for a task in a session of its own; return its process number when it holds the lease.

    Raises SearchkitError with its last words where it ended before that.
    """
    argv = [sys.executable, "-m", "searchkit.cli.run", "--task", task.name, task.run_config]
    for name, value in options.items():
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", str(value)]
    before = max(journal.generations(task), default=0)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SEARCHKIT_")}
    with open(task.scheduler_log, "wb") as log:
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
    said = (fsio.read_bytes(task.scheduler_log) or b"").decode("utf-8", "replace").strip()
    raise SearchkitError(f"the scheduler in the background ended with {child.returncode}: {said}", task.scheduler_log)
