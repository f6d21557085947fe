"""What the jobs of a task take on disk, and giving back what is no longer needed of it.

Of a job that ended, its working copies and its checkpoint are large, and can be made again by running it again. What it
reported can't: `empty` leaves event files of TensorBoard (numbers are read from them) and JSON lines (records of
search-nas, results of its sweeps) where they are, unless they came with the project.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from searchkit.errors import StorageError
from searchkit.suite.store import snapshot
from searchkit.suite.store.job import ENDED, Job, State
from searchkit.suite.store.state import TaskState
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.workspace import JOB_FILE, TaskPaths

BLOCK = 512  # bytes of a unit of st_blocks, see stat(2)
DONE = (State.FINISHED, State.PRUNED)
_KEPT = re.compile(r".*tfevents.*|.*\.jsonl")
_Given = Mapping[str, tuple[int, int]]  # files of the project: size and time of change (ns), by relative path


@dataclass(frozen=True)
class Usage:
    """Bytes of one job: its working copies, its checkpoint, and what says how it went (logs, callbacks, status)."""

    copies: int = 0
    checkpoint: int = 0
    logs: int = 0

    @property
    def total(self) -> int:
        return self.copies + self.checkpoint + self.logs

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.copies + other.copies, self.checkpoint + other.checkpoint, self.logs + other.logs)


@dataclass(frozen=True)
class Emptied:
    """What `empty` removed, or would: bytes that the file system gets back, and the files that stay."""

    freed: int = 0
    files: int = 0
    kept: int = 0

    def __add__(self, other: Emptied) -> Emptied:
        return Emptied(self.freed + other.freed, self.files + other.files, self.kept + other.kept)


def usage(task: TaskPaths, n: int, seen: set[tuple[int, int]]) -> Usage:
    """What a job takes: blocks that are allocated, so holes cost nothing; a file with several names counts once among
    all calls with the same `seen`, a link to the project as what the link takes."""
    copies = checkpoint = logs = 0
    for path, kind in _parts(task.job(n).root):
        size = size_of(path, seen)
        copies += size if kind == "copy" else 0
        checkpoint += size if kind == "checkpoint" else 0
        logs += size if kind == "log" else 0
    return Usage(copies, checkpoint, logs)


def size_of(path: str, seen: set[tuple[int, int]]) -> int:
    """The bytes of a file, or of a folder with all below it; what disappears meanwhile counts as nothing."""
    total = 0
    waiting = [path]
    while waiting:
        current = waiting.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            info = os.lstat(current)
            if info.st_nlink > 1 and not os.path.isdir(current):
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            total += info.st_blocks * BLOCK
            if os.path.isdir(current) and not os.path.islink(current):
                waiting += [entry.path for entry in os.scandir(current)]
    return total


def _parts(root: str) -> Iterator[tuple[str, str]]:
    """(path, kind) of what is in a job's folder, or in that of a later attempt. A working copy is what is none of the
    job's own files: it has the name that the project had then."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        path = f"{root}/{name}"
        if re.fullmatch(r"attempt-\d+", name):
            yield from _parts(path)
        elif JOB_FILE.fullmatch(name):
            yield path, "checkpoint" if name == "checkpoint" else "log"
        else:
            yield path, "copy" if os.path.isdir(path) and not os.path.islink(path) else "log"


# --- giving back -----------------------------------------------------------------------------------------------------


def needed(
    jobs: Iterable[tuple[Job, State]],
    *,
    named: Collection[int] = (),
    over: bool = False,
    later: str = "",
    linked: Collection[int] = (),
) -> dict[int, str]:
    """The jobs whose folders something still needs, each with what that is.

    Those that failed or were stopped may go on from their checkpoints, so they are included unless they are `named`; so
    may paused ones, but where the search is `over`, only more trials make them go on.
    later: a later stage that is not over. linked: the jobs that later stages have taken.
    """
    reasons: dict[int, str] = {}
    for job, state in jobs:
        n = job.index
        if {state, job.state} & {State.RUNNING, State.PENDING}:
            reasons[n] = "not ended"
        elif state is State.PRUNED and job.paused:
            if over and n in named and not later and n not in linked:
                continue
            reasons[n] = "paused; the search is over: freed where --jobs names them" if over else "paused"
        elif later:
            reasons[n] = f"needed by stage {later}"
        elif n in linked:
            reasons[n] = "taken by a later stage"
        elif state not in DONE and n not in named:
            reasons[n] = f"{state}: restart may go on from it"
    return reasons


def is_over(state: TaskState) -> bool:
    """Whether all jobs of a task are made and have ended, where no scheduler holds it: nothing goes on by itself."""
    return state.complete and all(job.state in ENDED for job in state.jobs.values())


def free(open_task: OpenTask, jobs: Iterable[int], *, running: bool = False) -> list[int]:
    """Remove what these jobs don't need any more, decided before it is done; returns those that were left out, since
    they have not ended, or are paused while the search is not over. `running`: a scheduler holds the task, which may
    go on with a paused one at any moment. Raises StorageError."""
    state = open_task.state
    jobs = set(jobs) & state.jobs.keys()
    with_paused = is_over(state) and not running
    ended = [n for n in sorted(jobs) if state.jobs[n].state in ENDED and (with_paused or not state.jobs[n].paused)]
    open_task.record("free", time=time.time(), jobs=ended)
    open_task.journal.commit()
    finish(open_task)
    return sorted(jobs.difference(ended))


def finish(open_task: OpenTask) -> None:
    """Remove what was decided to be removed, also by a process that was killed meanwhile. A folder that can't be
    removed is no error: the caller looks at what is left."""
    begun = [n for n, job in sorted(open_task.state.jobs.items()) if job.freed == "begun"]
    for n in begun:
        with contextlib.suppress(OSError):
            empty(open_task.paths, open_task.state.jobs[n])
    if begun:
        open_task.record("freed", time=time.time(), jobs=begun)
        open_task.journal.commit()


def empty(task: TaskPaths, job: Job, *, dry: bool = False) -> Emptied:
    """Remove the working copies and the checkpoint of a job; doing it again changes nothing. Raises OSError."""
    project_files = _project_files(task, job)
    done = Emptied()
    for path, kind in list(_parts(task.job(job.index).root)):
        if kind in ("copy", "checkpoint"):
            done += _empty(path, project_files if kind == "copy" else {}, dry)
    return done


def _project_files(task: TaskPaths, job: Job) -> _Given:
    try:
        manifest = snapshot.load(task.snapshot(job.snapshot))
    except StorageError:  # damaged: then nothing is known to have come with the project, and more is kept
        return {}
    return {e.path: (e.size, e.mtime_ns) for e in manifest.entries if e.kind == "file"}


def _empty(root: str, project_files: _Given, dry: bool) -> Emptied:
    """In place, from the leaves up: whatever ends it, the files that stay are where they were."""
    freed = files = n_kept = 0
    for folder, folders, names in os.walk(root, topdown=False):
        for name in [*names, *(link for link in folders if os.path.islink(f"{folder}/{link}"))]:
            path = f"{folder}/{name}"
            info = os.lstat(path)
            from_project = project_files.get(os.path.relpath(path, root)) == (info.st_size, info.st_mtime_ns)
            if _KEPT.fullmatch(name) and not from_project:
                n_kept += 1
                continue
            files += 1
            freed += info.st_blocks * BLOCK if info.st_nlink == 1 else 0
            if not dry:
                os.unlink(path)
        blocks = os.lstat(folder).st_blocks
        with contextlib.suppress(OSError):  # not empty: something in it stays
            if not dry:
                os.rmdir(folder)
                freed += blocks * BLOCK
    return Emptied(freed, files, n_kept)
