"""The series of attempts that ended, kept so that nobody reads a gigabyte of logs twice.

numbers/<job>.json is written by the holder of the lease when it accepts a result: the series of the highest attempt, by
which monitor they were read, and the size and the last change of each file that they were read from. It is one line
that ends in its own CRC-32. A reader who finds any of this different from what it would read by now reads the files,
and writes nothing. Where the working folder was removed, what came from event files in it is kept here alone, as is
what came from other files that are gone when a job is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from searchkit import fsio
from searchkit.suite.store import journal, scalars
from searchkit.suite.store.job import Job
from searchkit.suite.store.scalars import Reader, Reading, Series
from searchkit.suite.workspace import TaskPaths

FROM_BYTES = 4096  # in files; with less, reading them is as fast


def save(task: TaskPaths, job: Job, monitor: str, reader: Reader, reading: Reading, *, always: bool = False) -> None:
    """Keep what the highest attempt of a job reported in all, where reading it again would take long. Raises OSError.

    monitor: the digest of the config by which it was read. always: however small its files are.
    """
    root = task.job(job.index).attempt(job.attempt).root
    paths = sorted({*reader.files, *([reader.log] if reader.log else [])})
    files = [(os.path.relpath(path, root), *_stat(path)) for path in paths]
    if sum(size for _, size, _ in files) < FROM_BYTES and not reader.from_events and not always:
        return
    record = {
        "attempt": job.attempt,
        "monitor": monitor,
        "workdir": os.path.relpath(reader.workdir or root, root),
        "files": files,
        "from_events": sorted(reader.from_events),
        "skipped": reading.skipped,
        "faults": reading.faults,
        "shared": reading.shared,
        "series": {name: [list(series), list(series.values())] for name, series in reading.series.items()},
    }
    path = task.kept(job.index)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fsio.atomic_write(path, journal.encode(record), tmp=task.tmp, durable=False)


def load(task: TaskPaths, job: Job, monitor: str) -> Reading | None:
    """What the highest attempt of a job reported in all; None where it is not kept, or differs from its files now."""
    paths, record = task.job(job.index).attempt(job.attempt), _record(task, job)
    if record is None or record["monitor"] != monitor:
        return None
    freed = not os.path.isdir(f"{paths.root}/{record['workdir']}")
    stats_of = {f"{paths.root}/{name}": (size, changed) for name, size, changed in record["files"]}
    inside = f"{paths.root}/{record['workdir']}/"
    if any(now != stats_of[path] for path, now in _stats(stats_of) if not (freed and path.startswith(inside))):
        return None
    if any(path not in stats_of for path, is_file in scalars.callback_files(paths.callback) if is_file):
        return None
    shared = {name: tuple(ways) for name, ways in record["shared"].items()}
    return Reading(_series(record, record["series"]), record["skipped"], tuple(record["faults"]), shared)


def removed(task: TaskPaths, job: Job) -> dict[str, Series]:
    """What came from event files in a working folder that is gone, whichever monitor they were read by."""
    record = _record(task, job)
    if record is None or os.path.isdir(f"{task.job(job.index).attempt(job.attempt).root}/{record['workdir']}"):
        return {}
    return _series(record, record["from_events"])


def gone(task: TaskPaths, job: Job, reader: Reader) -> str:
    """Which file of an attempt that `reader` would read is gone since it was written; empty where none is known to be.
    Every attempt has a log and a callback folder; what else it had is known where its series are kept."""
    paths, record = task.job(job.index).attempt(job.attempt), _record(task, job)
    paths_read = [paths.callback, *([reader.log] if reader.log else [])]
    if record is not None:
        names = (name for name, size, _ in record["files"] if size >= 0)
        paths_read += [path for name in names if os.path.dirname(path := f"{paths.root}/{name}") == paths.callback]
    return next((os.path.relpath(path, paths.root) for path in paths_read if not os.path.lexists(path)), "")


def before(task: TaskPaths, job: Job) -> dict[str, Series]:
    """All that is kept of the highest attempt, whichever monitor it was read by, and whatever became of its files."""
    record = _record(task, job)
    return {} if record is None else _series(record, record["series"])


def _record(task: TaskPaths, job: Job) -> dict[str, Any] | None:
    """What is kept of the highest attempt of a job, where it is whole."""
    try:
        record = journal.decode((fsio.read_bytes(task.kept(job.index)) or b"").rstrip(b"\n"))
    except OSError:  # not ours to read
        return None
    return record if record is not None and record["attempt"] == job.attempt else None


def _series(record: dict[str, Any], names: Iterable[str]) -> dict[str, Series]:
    return {name: dict(zip(*record["series"][name], strict=True)) for name in names}


def _stats(paths: Iterable[str]) -> list[tuple[str, tuple[int, int]]]:
    return [(path, _stat(path)) for path in paths]


def _stat(path: str) -> tuple[int, int]:
    """Size and last change (ns) of a file; -1 and 0 where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return -1, 0
    return info.st_size, info.st_mtime_ns
