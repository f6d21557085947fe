"""Whether the files of a task are what its events say they must be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from searchkit import fsio
from searchkit.errors import StorageError
from searchkit.suite.store import best, creation, journal, snapshot, status, subnets, tasks
from searchkit.suite.store.state import Job, TaskState, replay
from searchkit.suite.workspace import TaskPaths


@dataclass(frozen=True)
class Finding:
    path: str
    what: str
    repaired: bool = False


def check(task: TaskPaths, *, repair: bool) -> list[Finding]:
    """All faults of a task. With `repair`, what the events can restore is restored: params.json, links, job folders.

    Repairs are left out while a scheduler runs; it is the one who writes.
    """
    lease = journal.try_acquire(task, tasks.myself()) if repair else None
    try:
        return _check(task, repair=lease is not None)
    finally:
        if lease is not None:
            lease.release()


def _check(task: TaskPaths, *, repair: bool) -> list[Finding]:
    events = journal.Events(task)
    state = replay(events)
    found: list[Finding] = []
    if events.damaged:
        found.append(Finding(task.events, f"{events.damaged} damaged line(s), skipped"))
    if not fsio.read_bytes(task.run_config):
        found.append(Finding(task.run_config, "missing or empty"))
    found += _check_configs(task, state)
    for k in sorted({job.snapshot for job in state.jobs.values()}):
        found += _check_snapshot(task, k)
    linked = _links(task)
    for job in state.jobs.values():
        found += _check_job(task, job, linked, repair)
    found += _check_strays(task, state)
    found += [Finding(path, "missing or damaged: the picked records") for path in subnets.missing(task)]
    found += [Finding(path, "missing or damaged: taken from an earlier stage") for path in best.missing(task)]
    return found


def _check_configs(task: TaskPaths, state: TaskState) -> list[Finding]:
    """Whether each config of a task that changed is there, and the newest is the one that people see."""
    if not state.config:
        return []
    missing = [task.config(k) for k in range(state.config + 1) if not fsio.read_bytes(task.config(k))]
    found = [Finding(path, "missing or empty") for path in missing]
    if not missing and fsio.read_bytes(task.run_config) != fsio.read_bytes(task.config(state.config)):
        found.append(Finding(task.run_config, f"differs from config {state.config}; the next search-run mends it"))
    return found


def _check_snapshot(task: TaskPaths, k: int) -> list[Finding]:
    paths = task.snapshot(k)
    try:
        manifest = snapshot.load(paths)
    except StorageError as e:
        return [Finding(paths.root, e.message)]
    found = []
    for entry in manifest.entries:
        path = f"{paths.root}/{manifest.name}/{entry.path}"
        if entry.kind == "file" and (not os.path.isfile(path) or os.path.getsize(path) != entry.size):
            found.append(Finding(path, f"must be a file of {entry.size} bytes"))
    return found


def _check_job(task: TaskPaths, job: Job, linked: set[int], repair: bool) -> list[Finding]:
    paths = task.job(job.index)
    if not os.path.isdir(paths.root):
        if repair:
            creation.make_job(task, job)
        return [Finding(paths.root, "the job's folder is missing", repair)]
    found = []
    if fsio.read_bytes(paths.params) != creation.params_bytes(job):
        if repair:
            fsio.atomic_write(paths.params, creation.params_bytes(job), tmp=task.tmp)
        found.append(Finding(paths.params, "differs from the event that made it", repair))
    if job.text and job.index not in linked:
        if repair:
            creation.link(task, job)
        found.append(Finding(task.jobs_tree, f"job {job.index} has no link here", repair))
    if job.result and job.result.rc is not None and job.result.reason.startswith("cannot be started"):
        return found
    if job.attempt and job.result:
        s = status.read(paths.attempt(job.attempt))
        if s.damaged:
            found.append(Finding(paths.attempt(job.attempt).status, f"{s.damaged} undecodable line(s)"))
        if s.exit_code != job.result.rc:
            what = f"says exit code {s.exit_code}, the accepted result says {job.result.rc}"
            found.append(Finding(paths.attempt(job.attempt).status, what))
    return found


def _links(task: TaskPaths) -> set[int]:
    """The jobs that a link of the tree leads to."""
    found = set()
    for folder, folders, files in os.walk(task.jobs_tree):
        for name in [*folders, *files]:
            path = f"{folder}/{name}"
            if os.path.islink(path):
                target = os.path.normpath(f"{folder}/{os.readlink(path)}")
                if os.path.dirname(target) == task.jobs_all and os.path.basename(target).isdigit():
                    found.add(int(os.path.basename(target)))
    return found


def _check_strays(task: TaskPaths, state: TaskState) -> list[Finding]:
    known = {str(n) for n in state.jobs}
    return [
        Finding(f"{task.jobs_all}/{name}", "no event knows this job")
        for name in sorted(creation.listdir(task.jobs_all))
        if name not in known
    ]
