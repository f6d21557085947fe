"""Whether the files of a task are what its events say they must be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from searchkit import fsio
from searchkit.errors import StorageError
from searchkit.suite.store import best, creation, journal, snapshot, status, subnets, tasks
from searchkit.suite.store.job import Job
from searchkit.suite.store.state import TaskState, replay
from searchkit.suite.workspace import TaskPaths


@dataclass(frozen=True)
class Finding:
    path: str
    what: str
    repaired: bool = False


def check(task: TaskPaths, *, repair: bool) -> list[Finding]:
    """All faults of a task. With `repair`, what the events can restore is restored: params.json, links, job folders.

    Nothing is repaired while a scheduler runs: only that may write.
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
    findings: list[Finding] = []
    if events.damaged:
        findings.append(Finding(task.events, f"{events.damaged} damaged line(s), skipped"))
    if not fsio.read_bytes(task.run_config):
        findings.append(Finding(task.run_config, "missing or empty"))
    findings += _check_configs(task, state)
    for k in sorted({job.snapshot for job in state.jobs.values()}):
        findings += _check_snapshot(task, k)
    linked = _links(task)
    for job in state.jobs.values():
        findings += _check_job(task, job, linked, repair)
    findings += _check_strays(task, state)
    findings += [Finding(path, "missing or damaged: the picked records") for path in subnets.missing(task)]
    findings += [Finding(path, "missing or damaged: taken from an earlier stage") for path in best.missing(task)]
    return findings


def _check_configs(task: TaskPaths, state: TaskState) -> list[Finding]:
    """Whether each config of a task that changed is there, and the newest is the one that people see."""
    if not state.config:
        return []
    missing = [task.config(k) for k in range(state.config + 1) if not fsio.read_bytes(task.config(k))]
    findings = [Finding(path, "missing or empty") for path in missing]
    if not missing and fsio.read_bytes(task.run_config) != fsio.read_bytes(task.config(state.config)):
        findings.append(Finding(task.run_config, f"differs from config {state.config}; the next search-run repairs it"))
    return findings


def _check_snapshot(task: TaskPaths, k: int) -> list[Finding]:
    paths = task.snapshot(k)
    try:
        manifest = snapshot.load(paths)
    except StorageError as e:
        return [Finding(paths.root, e.message)]
    findings = []
    for entry in manifest.entries:
        path = f"{paths.root}/{manifest.name}/{entry.path}"
        if entry.kind == "file" and (not os.path.isfile(path) or os.path.getsize(path) != entry.size):
            findings.append(Finding(path, f"must be a file of {entry.size} bytes"))
    return findings


def _check_job(task: TaskPaths, job: Job, linked: set[int], repair: bool) -> list[Finding]:
    paths = task.job(job.index)
    if not os.path.isdir(paths.root):
        if repair:
            creation.make_job(task, job)
        return [Finding(paths.root, "the job's folder is missing", repair)]
    findings = []
    if fsio.read_bytes(paths.params) != creation.params_bytes(job):
        if repair:
            fsio.atomic_write(paths.params, creation.params_bytes(job), tmp=task.tmp)
        findings.append(Finding(paths.params, "differs from the event that made it", repair))
    if job.text and job.index not in linked:
        if repair:
            creation.link(task, job)
        findings.append(Finding(task.jobs_tree, f"job {job.index} has no link here", repair))
    if job.result and job.result.rc is not None and job.result.reason.startswith("cannot be started"):
        return findings
    if job.attempt and job.result:
        s = status.read(paths.attempt(job.attempt))
        if s.damaged:
            findings.append(Finding(paths.attempt(job.attempt).status, f"{s.damaged} undecodable line(s)"))
        if s.exit_code != job.result.rc:
            fault = f"says exit code {s.exit_code}, the accepted result says {job.result.rc}"
            findings.append(Finding(paths.attempt(job.attempt).status, fault))
    return findings


def _links(task: TaskPaths) -> set[int]:
    """The jobs that a link of the tree leads to."""
    jobs = set()
    for folder, folders, files in os.walk(task.jobs_tree):
        for name in [*folders, *files]:
            path = f"{folder}/{name}"
            if os.path.islink(path):
                target = os.path.normpath(f"{folder}/{os.readlink(path)}")
                if os.path.dirname(target) == task.jobs_all and os.path.basename(target).isdigit():
                    jobs.add(int(os.path.basename(target)))
    return jobs


def _check_strays(task: TaskPaths, state: TaskState) -> list[Finding]:
    names = {str(n) for n in state.jobs}
    return [
        Finding(f"{task.jobs_all}/{name}", "no event knows this job")
        for name in sorted(creation.listdir(task.jobs_all))
        if name not in names
    ]
