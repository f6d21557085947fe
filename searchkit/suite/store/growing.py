"""Files that a job appends to, read as they grow: each part once, and each reading goes on where the last one stopped.

What a file gives does not depend on how often it was read: in one go it gives the same. A file that was truncated or
rewritten is read from its start again. Nothing that a job writes makes a reader fail: what can't be used is counted,
and the places and faults of the first few are kept.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from searchkit.suite.store import tfevents

Series = dict[int, float]  # step -> value

CHUNK = 1 << 20  # bytes read at once
MAX_LINE = 1 << 20  # bytes; a longer line is not looked at
FAULTS = 3  # this many are kept in words
BEFORE = 64  # bytes before the place where reading stopped, by which a rewritten file is recognised
QUOTED = 40  # characters of what a job wrote, in a fault

# What follows a number in a sentence or a list, and is caught with it by groups such as \S+.
_NUMBER = re.compile(
    r"\s*([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))[,;:.!?%)\]}>'\"]*\s*", re.I
)
_UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # what a terminal does not show: colours, and where to write


@dataclass
class File:
    """One file as far as it was read, and what was in it."""

    path: str
    name: str  # how faults call it
    at: int = 0  # the byte where reading goes on: the start of a line, or of a record
    line: int = 1  # the number of that line, as editors count
    stuck: bool = False  # it lies within a line that is too long, or past a corrupt record
    before: bytes = b""  # the last bytes before it
    rest: bytes = b""  # the line that begins there, and has no end yet
    series: dict[str, Series] = field(default_factory=dict)
    top: dict[str, int] = field(default_factory=dict)  # the highest step of each scalar; of JSON under "" of all
    skipped: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, where: str, fault: str) -> None:
        self.skipped += 1
        if len(self.faults) < FAULTS:
            self.faults.append(f"{self.name}{where}: {fault}")


@contextlib.contextmanager
def odd_files() -> Iterator[None]:
    """Ignore what a job did to its own files (removed, a folder, a loop); a failing disk stays an error."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise


def read_json(file: File) -> tuple[File, File]:
    """Go on with a file of JSON lines: (where to go on next time, what it has said so far). A line that has no end yet
    counts only if it is whole."""
    file = _go_on(file, b"\n", _take_json)
    return file, _with_rest(file, _take_json) if isinstance(_parse(file.rest), dict) else file


def read_log(
    file: File, patterns: Sequence[re.Pattern[str]], *, ended: bool, most: float = math.inf
) -> tuple[File, File]:
    """Go on with a log, as `read_json`. Carriage returns end lines too. Unless the job ended, its last line may be cut
    off in the middle of a number, and does not count without its end. `most`: after so many bytes the rest is left."""

    def take(file: File, block: bytes) -> None:
        _take_log(file, block, patterns)

    file = _go_on(file, b"\n\r", take, most)
    return file, _with_rest(file, take) if ended else file


def _with_rest(file: File, take: Callable[[File, bytes], None]) -> File:
    if file.rest:
        file = copy.deepcopy(file)
        take(file, file.rest)
    return file


def read_events(file: File) -> File:
    """Go on with an event file of TensorBoard."""
    file, before = File(file.path, file.name), file
    with odd_files(), open(file.path, "rb") as f:
        file = before if _goes_on(before, f) else file
        if file.stuck:
            return file
        scalars, file.at, corrupt = tfevents.read_scalars(f, file.at)
        for tag, step, value in scalars:
            file.series.setdefault(tag, {})[step] = value
        if corrupt:
            file.stuck = True
            file.fault("", f"a corrupt record at byte {file.at}; what follows is left out")
        _remember(file, f)
    return file


# --- where reading goes on -------------------------------------------------------------------------------------------


def _goes_on(file: File, f: BinaryIO) -> bool:
    """Whether a file still begins with what was read of it."""
    f.seek(file.at - len(file.before))
    return f.read(len(file.before)) == file.before


def _remember(file: File, f: BinaryIO) -> None:
    start = max(0, file.at - BEFORE)
    f.seek(start)
    file.before = f.read(file.at - start)


def _go_on(file: File, ends: bytes, take: Callable[[File, bytes], None], most: float = math.inf) -> File:
    """Give `take` the blocks of whole lines that were added since the last time; returns the file as it is then.

    ends: the bytes that end lines. A line past MAX_LINE counts as a fault as soon as it is that long.
    """
    file, before = File(file.path, file.name), file
    with odd_files(), open(file.path, "rb") as f:
        file = before if _goes_on(before, f) else file
        f.seek(file.at)
        unread = b""
        while most > 0 and (chunk := f.read(CHUNK)):
            most -= len(chunk)
            unread += chunk
            if file.stuck:
                end = min((i + 1 for i in (unread.find(bytes([c])) for c in ends) if i >= 0), default=len(unread))
                file.stuck = unread[end - 1] not in ends
                unread = _passed(file, unread, end)
            end = max(unread.rfind(bytes([c])) + 1 for c in ends)
            if end:
                take(file, unread[:end])
                unread = _passed(file, unread, end)
            if len(unread) > MAX_LINE:
                _too_long(file, file.line)
                file.stuck = True
                unread = _passed(file, unread, len(unread))
        file.rest = unread
        _remember(file, f)
    return file


def _passed(file: File, data: bytes, end: int) -> bytes:
    file.line += data.count(b"\n", 0, end)
    file.at += end
    return data[end:]


def _too_long(file: File, line: int) -> None:
    file.fault(f" line {line}", f"longer than {MAX_LINE} bytes")


# --- what lines hold -------------------------------------------------------------------------------------------------


def _take_json(file: File, block: bytes) -> None:
    for number, line in enumerate(block.split(b"\n"), file.line):
        if len(line) > MAX_LINE:
            _too_long(file, number)
        elif line and not line.isspace():
            fault = _take_record(file, _parse(line))
            if fault:
                file.fault(f" line {number}", fault)


def _take_record(file: File, record: object) -> str:
    """Add the scalars of one line; returns what is wrong with it, if anything."""
    if not isinstance(record, dict):
        return "no JSON object"
    reported_step = record.pop("step", None)
    step = file.top.get("", 0) + 1 if reported_step is None else _whole_step(reported_step)
    if step is None:
        return f"step {_quoted(reported_step)} is no whole number"
    fault = ""
    for name, value in record.items():
        number = _number(value)
        if number is None or not _is_name(name):
            reason = "is no name" if not _is_name(name) else f"{_quoted(value)} is no number"
            fault = fault or f"{name.encode('ascii', 'backslashreplace').decode()[:QUOTED]}: {reason}"
            continue
        file.series.setdefault(name, {})[step] = number
        file.top[""] = max(file.top.get("", 0), step)
    return fault


def _take_log(file: File, block: bytes, patterns: Sequence[re.Pattern[str]]) -> None:
    for number, line in enumerate(block.split(b"\n"), file.line):
        for part in line.split(b"\r") if b"\r" in line else (line,):
            if len(part) > MAX_LINE:
                _too_long(file, number)
                continue
            text = part.decode("utf-8", "replace")
            shown = _UNSEEN.sub("", text) if "\x1b" in text else text
            for pattern in patterns:
                # A pattern that names the colours themselves is looked for in what was written.
                where = text if shown is not text and not pattern.search(shown) else shown
                for match in pattern.finditer(where):
                    _take_match(file, number, match.groupdict())


def _take_match(file: File, line: int, groups: dict[str, str | None]) -> None:
    reported_step = groups.pop("step", None)
    step = None if reported_step is None else text_number(reported_step)
    if reported_step is not None and (step is None or not step.is_integer()):
        file.fault(f" line {line}", f"step {_quoted(reported_step)} is no whole number")
        return
    for name, text in groups.items():
        if text is None:  # a group that took no part
            continue
        value = text_number(text)
        if value is None:
            file.fault(f" line {line}", f"{name}: {_quoted(text)} is no number")
            continue
        at = file.top.get(name, 0) + 1 if step is None else int(step)
        file.top[name] = max(file.top.get(name, 0), at)
        file.series.setdefault(name, {})[at] = value


def text_number(text: str) -> float | None:
    """The number of a text; punctuation after it does not count: `0.9,` is 0.9, and `85%` is 85."""
    try:
        return float(text)
    except ValueError:
        match = _NUMBER.fullmatch(text)
        return float(match[1]) if match else None


def _parse(text: bytes) -> object:
    """The JSON value of a text, or None where it has none."""
    try:
        value: object = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    return value


def _quoted(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an int of more digits than Python prints
        return "what is there"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def _number(value: object) -> float | None:
    """A float from a number; None from anything else, texts, nested values and null included."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # an int past 1e308
        return None


def _whole_step(value: object) -> int | None:
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
