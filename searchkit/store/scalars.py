"""The numbers an attempt reported, read from its files.

For one name, the first of these that has it gives its whole series:
1. `callback/scalars.jsonl`, by `searchkit.report` or appended by any program, merged with the `scalars.<pid>.jsonl` of
   further processes (for a step that several hold, `scalars.jsonl` wins, then the highest pid);
2. TensorBoard event files below the working folder (of files that hold the same tag and step, the last path wins);
3. regular expressions over the log.

A line without `step` gets the highest step so far in its file plus one, and a match without `step` the highest step of
that name so far plus one: both count 1, 2, 3, … where no step is ever given. A repeated step replaces.
Nothing that a job writes makes a reader fail: what can't be used is left out and counted.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from searchkit import fsio
from searchkit.store import tfevents

Series = dict[int, float]  # step -> value, steps ascending

LOG_CHUNK = 1 << 20  # bytes; a log line longer than this is not looked at


@dataclass(frozen=True)
class Reading:
    """The series by name, and how many lines, matches and records could not be used in full."""

    series: dict[str, Series]
    skipped: int


def read(
    callback: str,
    *,
    log: str | None = None,
    regex: Sequence[str] = (),
    workdir: str | None = None,
    tensorboard: bool | str = False,
    newer_than_s: float = 0.0,
    names: Collection[str] = (),
    ended: bool = True,
) -> Reading:
    """Read all that an attempt reported; whatever file or folder is missing holds nothing.

    callback: the attempt's callback folder.
    log, regex: patterns to look for in each line of the log. Each named group is a scalar of that name, but for the
        group `step`. Carriage returns end lines too, as progress bars write them.
    workdir, tensorboard: True for all event files below the folder, or a glob relative to it (of files or folders).
    newer_than_s: Unix time; older event files were not written by this attempt but copied with the project.
    names: the names to look for; all where empty. Sources that can't add one of them are not read at all.
    ended: False while the job runs: the last line of the log may then be cut off in the middle of a number, so it
        doesn't count without its newline.

    Raises OSError where a file is there but can't be read, and re.error for a bad pattern.
    """
    wanted = frozenset(names)
    series, skipped = _from_callback(callback)
    if workdir and tensorboard and not _has_all(series, wanted):
        found, bad = _from_tensorboard(workdir, tensorboard, newer_than_s)
        series, skipped = {**found, **series}, skipped + bad
    if log and regex and not _has_all(series, wanted):
        found, bad = _from_log(log, regex, ended)
        series, skipped = {**found, **series}, skipped + bad
    ascending = {name: dict(sorted(s.items())) for name, s in series.items() if not wanted or name in wanted}
    return Reading(ascending, skipped)


def make_durable(callback: str, *, log: str | None, workdir: str, tensorboard: bool | str, newer_than_s: float) -> None:
    """Sync every file that `read` and `read_callback_result` read for a job, so that a result, once it is accepted,
    does not lose its numbers to a power loss. Arguments as for `read`. Raises OSError."""
    paths = [entry.path for entry in _scan(callback) if entry.is_file()] + ([log] if log else [])
    if tensorboard:
        paths += _event_files(workdir, tensorboard)
    for path in paths:
        with _odd_files():
            if path.startswith(workdir) and os.stat(path).st_mtime < newer_than_s:
                continue  # came with the project
            fsio.fsync_file(path)
    for folder in {os.path.dirname(path) for path in paths}:
        with _odd_files():
            fsio.fsync_file(folder)


@contextlib.contextmanager
def _odd_files() -> Iterator[None]:
    """Pass over what a job made of its own files (removed, a folder, a loop); a failing disk stays an error."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def mark(callback: str, log: str | None) -> object:
    """What differs as soon as there is more to read in the callback folder, or in the log."""
    found = []
    for entry in _scan(callback):
        if entry.name.startswith("scalars."):
            with contextlib.suppress(OSError):
                info = entry.stat()
                found.append((entry.name, info.st_size, info.st_mtime_ns))
    with contextlib.suppress(OSError):
        found += [("", os.stat(log).st_size, 0)] if log else []
    return sorted(found)


def last(series: Series) -> float:
    """The value at the highest step. Raises ValueError for an empty series."""
    return series[max(series)]


def best(series: Series, mode: str) -> float:
    """The highest value (mode "max") or the lowest ("min"); NaN only where all are. Raises ValueError where empty."""
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    if not series:
        raise ValueError("an empty series has no best value")
    values = [v for v in series.values() if not math.isnan(v)]
    if not values:
        return math.nan
    return max(values) if mode == "max" else min(values)


def read_callback_result(callback: str, which: str) -> dict[str, Any] | None:
    """What the `pre` or `after` callback printed as its result; None where there is none (that can be read)."""
    if which not in ("pre", "after"):
        raise ValueError(f"which must be 'pre' or 'after', got {which!r}")
    raw = None
    with _odd_files():
        raw = fsio.read_bytes(f"{callback}/{which}.json")
    result = _parse(raw) if raw is not None else None
    return result if isinstance(result, dict) else None


def _has_all(series: dict[str, Series], wanted: frozenset[str]) -> bool:
    return bool(wanted) and wanted <= series.keys()


def _from_callback(folder: str) -> tuple[dict[str, Series], int]:
    series: dict[str, Series] = {}
    skipped = 0
    files = []
    for entry in _scan(folder):
        if entry.name.startswith("scalars.") and entry.name.endswith(".jsonl"):
            if entry.is_file():  # a folder or a pipe of that name would fail, or block
                files.append(entry.name)
            else:
                skipped += 1
    # What is read later replaces: the pids ascending (as numbers: longer names last), then the main file.
    files.sort(key=lambda name: (name == "scalars.jsonl", len(name), name))
    for name in files:
        raw = None
        with _odd_files():
            raw = fsio.read_bytes(f"{folder}/{name}")
        if raw:
            skipped += _add_lines(raw, series)
    return series, skipped


def _add_lines(raw: bytes, series: dict[str, Series]) -> int:
    """Add the scalars of one JSON-lines file; how many lines could not be used in full."""
    top = skipped = 0
    lines = raw.split(b"\n")
    unfinished = len(lines) - 1  # the last line, where its newline is missing; it counts only if it is whole
    for i, line in enumerate(lines):
        if not line or line.isspace():
            continue
        record = _parse(line)
        if not isinstance(record, dict):
            skipped += i != unfinished
            continue
        step = record.pop("step", None)
        step = top + 1 if step is None else _whole(step)
        if step is None:
            skipped += 1
            continue
        complete = True
        for name, value in record.items():
            number = _number(value)
            if number is None or not _is_name(name):
                complete = False
                continue
            series.setdefault(name, {})[step] = number
            top = max(top, step)
        skipped += not complete
    return skipped


def _parse(text: bytes) -> object:
    """The JSON value of a text, or None where it has none."""
    try:
        value: object = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    return value


def _number(value: object) -> float | None:
    """A float from a number or a text of one; None from anything else, nested values and null included."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # an int past 1e308
        return None


def _whole(value: object) -> int | None:
    """A step: an int, or a float without a fraction."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _is_name(name: str) -> bool:
    """Not empty, and something that can be printed: JSON may hold halves of characters, which can't."""
    if name.isascii():
        return bool(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_tensorboard(workdir: str, which: bool | str, newer_than_s: float) -> tuple[dict[str, Series], int]:
    series: dict[str, Series] = {}
    skipped = 0
    for path in sorted(set(_event_files(workdir, which))):
        scalars: list[tfevents.Scalar] = []
        with _odd_files():
            if os.stat(path).st_mtime < newer_than_s:
                continue
            scalars, bad = tfevents.read_scalars(path)
            skipped += bad
        for tag, step, value in scalars:
            series.setdefault(tag, {})[step] = value
    return series, skipped


def _event_files(workdir: str, which: bool | str) -> Iterator[str]:
    if which is True:
        yield from _event_files_below(workdir)
        return
    for path in glob.iglob(os.path.join(glob.escape(workdir), str(which)), recursive=True):
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


def _from_log(log: str, patterns: Sequence[str], ended: bool) -> tuple[dict[str, Series], int]:
    series: dict[str, Series] = {}
    top: dict[str, int] = {}
    skipped = 0
    compiled = [re.compile(pattern) for pattern in patterns]
    for line in _log_lines(log, ended):
        for pattern in compiled:
            for match in pattern.finditer(line):
                groups = match.groupdict()
                step_text = groups.pop("step", None)
                step = None if step_text is None else _text_number(step_text)
                if step_text is not None and (step is None or not step.is_integer()):
                    skipped += 1
                    continue
                for name, text in groups.items():
                    if text is None:  # a group that took no part
                        continue
                    value = _text_number(text)
                    if value is None:
                        skipped += 1
                        continue
                    at = top.get(name, 0) + 1 if step is None else int(step)
                    top[name] = max(top.get(name, 0), at)
                    series.setdefault(name, {})[at] = value
    return series, skipped


def _text_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _log_lines(path: str, ended: bool) -> Iterator[str]:
    """The lines of a log, whatever bytes it holds; a line over LOG_CHUNK is left out up to that length."""
    rest = b""
    with _odd_files(), open(path, "rb") as f:
        while chunk := f.read(LOG_CHUNK):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > LOG_CHUNK:
                rest = b""
            for line in lines:
                yield line.decode("utf-8", "replace")
    if rest and ended:
        yield rest.decode("utf-8", "replace")
