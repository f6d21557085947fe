"""The numbers an attempt reported, read from its files.

For one name, the first of these that has it gives its whole series:
1. `callback/scalars.jsonl`, by `searchkit.report` or appended by any program, merged with the `scalars.<pid>.jsonl` of
   further processes (for a step that several hold, `scalars.jsonl` wins, then the highest pid);
2. TensorBoard event files below the working folder (of files in one folder that hold the same tag and step, the last
   path wins; a tag that several folders hold gets their names, see store/tags.py);
3. regular expressions over the log.

A line without `step` gets the highest step so far in its file plus one, and a match without `step` the highest step of
that name so far plus one: both count 1, 2, 3, … where no step is ever given. A repeated step replaces.
Nothing that a job writes makes a reader fail: what can't be used is left out and counted.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchkit import fsio
from searchkit.suite.store import growing, tags
from searchkit.suite.store.growing import File, Series, odd_files

__all__ = ["Reader", "Reading", "Series", "best", "last", "make_durable", "mark", "read", "read_callback_result"]


@dataclass(frozen=True)
class Reading:
    """The series by name, steps ascending; how many lines, matches and records could not be used in full, and where the
    first few of them are.

    shared: names that stand for no series, as several folders of event files have that tag: the names to choose from.
    """

    series: dict[str, Series]
    skipped: int
    faults: tuple[str, ...] = ()
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class Reader:
    """All that one attempt reports, read as its files grow: each part of them once. Whatever is missing holds nothing.

    callback: the attempt's callback folder.
    log, regex: patterns to look for in each line of the log. Each named group is a scalar of that name, but for the
        group `step`. Carriage returns end lines too, as progress bars write them.
    workdir, tensorboard: True for all event files below the folder, or a glob relative to it (of files or folders).
    newer_than_s: Unix time; older event files were not written by this attempt but copied with the project.
    named: the names in the config. One that is a tag after the end of its folder's path always means that series.
    removed: what was read from event files, where the working folder is gone since.
    """

    callback: str
    log: str | None = None
    regex: Sequence[str] = ()
    workdir: str | None = None
    tensorboard: bool | str = False
    newer_than_s: float = 0.0
    named: Collection[str] = ()
    removed: Mapping[str, Series] = field(default_factory=dict)
    from_events: Collection[str] = ()  # the names of the last reading that are from event files
    events: list[str] | None = None  # the event files that the last reading found; None: it did not look for any
    files: dict[str, File] = field(default_factory=dict)  # by path, those of the last reading

    def read(self, names: Collection[str] = (), *, ended: bool = True) -> Reading:
        """All that is there by now.

        names: the names to look for; all where empty. Sources that can't add one of them are not read at all.
        ended: False while the job runs: the last line of the log may then be cut off in the middle of a number, so it
            doesn't count without its newline.

        Raises OSError for a failing disk, and re.error for a bad pattern.
        """
        names_needed = frozenset(names)
        before, self.files, now = self.files, {}, []
        series: dict[str, Series] = {}
        shared: Mapping[str, tuple[str, ...]] = {}
        skipped = 0

        def known(path: str, name: str) -> File:
            return before.get(path) or File(path, name)

        def keep(file: File, current: File) -> File:
            self.files[file.path] = file
            now.append(current)
            return current

        for path, is_file in callback_files(self.callback):
            name = os.path.basename(path)
            if not is_file:  # a folder or a pipe of that name would fail, or block
                skipped += 1
                now.append(File(path, name, faults=[f"{name}: no regular file"]))
                continue
            for scalar, more in keep(*growing.read_json(known(path, name))).series.items():
                series[scalar] = {**series[scalar], **more} if scalar in series else more
        self.events = None
        if self.workdir and self.tensorboard and not (names_needed and names_needed <= series.keys()):
            folders: dict[str, dict[str, Series]] = {}
            self.events = sorted(set(event_files(self.workdir, self.tensorboard, self.newer_than_s)))
            for path in self.events:
                folder, name = os.path.split(os.path.relpath(path, self.workdir))
                folder_series = folders.setdefault(folder or ".", {})
                file = growing.read_events(known(path, os.path.join(folder, name)))
                for tag, more in keep(file, file).series.items():
                    folder_series[tag] = {**folder_series[tag], **more} if tag in folder_series else more
            from_events, shared = tags.named(folders, self.named)
            from_events = from_events or dict(self.removed)
            self.from_events = from_events.keys() - series.keys()
            series = {**from_events, **series}
        if self.log and self.regex and not (names_needed and names_needed <= series.keys()):
            patterns = [re.compile(pattern) for pattern in self.regex]
            log = keep(*growing.read_log(known(self.log, "log"), patterns, ended=ended))
            series = {**log.series, **series}
        self.files = {**before, **self.files}
        skipped += sum(file.skipped for file in now)
        faults = tuple(fault for file in now for fault in file.faults)[: growing.FAULTS]
        ascending = {
            name: dict(sorted(s.items())) for name, s in series.items() if not names_needed or name in names_needed
        }
        return Reading(ascending, skipped, faults, {n: ways for n, ways in shared.items() if n not in series})

    def read_ahead(self, most: int) -> int:
        """Go on with the log by about so many bytes, so that a later `read` has less to do; returns how many it was.
        Raises as `read`."""
        if not (self.log and self.regex):
            return 0
        file = self.files.get(self.log) or File(self.log, "log")
        start = file.at
        patterns = [re.compile(pattern) for pattern in self.regex]
        self.files[self.log], _ = growing.read_log(file, patterns, ended=False, most=most)
        return max(0, self.files[self.log].at - start)


def read(callback: str, *, names: Collection[str] = (), ended: bool = True, **places: Any) -> Reading:
    """All that an attempt reported, in one go: `Reader(callback, **places).read(names, ended=ended)`."""
    return Reader(callback, **places).read(names, ended=ended)


def callback_files(folder: str) -> list[tuple[str, bool]]:
    """The files of scalars and whether they are regular ones. What is read later replaces: the pids ascending (as
    numbers: longer names last), then the main file."""
    entries = [e for e in _scan(folder) if e.name.startswith("scalars.") and e.name.endswith(".jsonl")]
    entries.sort(key=lambda e: (e.name == "scalars.jsonl", len(e.name), e.name))
    return [(e.path, e.is_file()) for e in entries]


def make_durable(reader: Reader) -> None:
    """Sync every file that a reader and `read_callback_result` read for a job, so that a result, once it is accepted,
    does not lose its numbers to a power loss. Raises OSError."""
    paths = [e.path for e in _scan(reader.callback) if e.is_file()] + ([reader.log] if reader.log else [])
    if reader.events is not None:
        paths += reader.events
    elif reader.workdir and reader.tensorboard:
        paths += event_files(reader.workdir, reader.tensorboard, reader.newer_than_s)
    for path in paths:
        with odd_files():
            fsio.fsync_file(path)
    for folder in {os.path.dirname(path) for path in paths}:
        with odd_files():
            fsio.fsync_file(folder)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def mark(callback: str, log: str | None) -> object:
    """A value that changes as soon as there is more to read in the callback folder, or in the log."""
    stats = []
    for entry in _scan(callback):
        if entry.name.startswith("scalars."):
            with contextlib.suppress(OSError):
                info = entry.stat()
                stats.append((entry.name, info.st_size, info.st_mtime_ns))
    with contextlib.suppress(OSError):
        stats += [("", os.stat(log).st_size, 0)] if log else []
    return sorted(stats)


def last(series: Series) -> float:
    """The value at the highest step. Raises ValueError for an empty series."""
    return series[max(series)]


def best(series: Series, mode: str) -> float:
    """The highest finite value (mode "max") or the lowest ("min"); NaN where none is finite. Raises ValueError where
    empty."""
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    if not series:
        raise ValueError("an empty series has no best value")
    values = [v for v in series.values() if math.isfinite(v)]
    if not values:
        return math.nan
    return max(values) if mode == "max" else min(values)


def read_callback_result(callback: str, which: str) -> dict[str, Any] | None:
    """What the `pre` or `after` callback printed as its result; None where there is none (that can be read)."""
    if which not in ("pre", "after"):
        raise ValueError(f"which must be 'pre' or 'after', got {which!r}")
    raw = None
    with odd_files():
        raw = fsio.read_bytes(f"{callback}/{which}.json")
    try:
        result = json.loads((raw or b"").decode())
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def event_files(workdir: str, pattern: bool | str, newer_than_s: float) -> Iterator[str]:
    """The event files of TensorBoard that an attempt wrote; arguments as for `Reader`."""
    for path in _all_event_files(workdir, pattern):
        with odd_files():
            if os.stat(path).st_mtime >= newer_than_s:
                yield path


def _all_event_files(workdir: str, pattern: bool | str) -> Iterator[str]:
    if pattern is True:
        yield from _event_files_below(workdir)
        return
    for path in glob.iglob(os.path.join(glob.escape(workdir), str(pattern)), recursive=True):
        if os.path.isdir(path):
            yield from _event_files_below(path)
        elif os.path.isfile(path) and "tfevents" in os.path.basename(path):
            yield os.path.normpath(path)


def _event_files_below(folder: str) -> Iterator[str]:
    for parent, _, files in os.walk(folder):  # doesn't follow links: they lead to data shared by all jobs
        for name in files:
            path = os.path.join(parent, name)
            if name.startswith("events.out.tfevents.") and os.path.isfile(path):
                yield os.path.normpath(path)
