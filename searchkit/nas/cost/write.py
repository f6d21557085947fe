"""A whole priced space as a file of records, one JSON object a line; what an interrupted run wrote is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from searchkit import fsio
from searchkit.errors import ConflictError
from searchkit.nas.cost.latency import NO_TABLES, Table
from searchkit.nas.cost.price import plain_cost, price_archs, space_scales
from searchkit.nas.cost.rules import Convention, Way
from searchkit.nas.models.part import NetPlan
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch
from searchkit.records.modelspace import dumps

CHUNK = 1 << 20  # bytes per read
PIECE = 1 << 12  # lines per write


def write_space(
    path: str,
    plans: NetPlan,
    space: Space,
    convention: Convention = "macs",
    *,
    beside: Sequence[Convention] = (),
    tables: Mapping[str, Table] = NO_TABLES,
    start: int = 0,
    stop: int | None = None,
) -> int:
    """Write the points `start` up to (not including) `stop` of a space to `path`, in the order of price_space.

    A line is `{"overhead": {"flops": …, "params": …, "convention": …}, "arch": {…}, "data": {"input_shape": …}}`;
    `beside` names further conventions, such as ptflops, for `{"flops": …, "ptflops": …, …}`; so do `tables` of times,
    by name, each with what it is of behind it: `"ms": …, "ms_on": …`. Of a file that is there,
    complete lines stay, a torn last one is cut off, and the rest is added. Returns how many lines were written now.
    Raises ConflictError where the file's last complete line is another than would be written, or another process is
    writing, and StorageError.
    """
    total = space.points() if stop is None else min(stop, space.points())
    with fsio.storage():
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not fsio.try_lock(fd):
                raise ConflictError(f"another process is writing {path}", "Wait for it, or write to another file.")
            done, end, last = _complete_lines(fd)
            lines = space_lines(
                plans, space, convention, beside, tables=tables, start=start + max(0, done - 1), stop=total
            )
            if done and next(lines, "").encode() != last:
                raise ConflictError(
                    f"{path}:{done}: the line is not the one of point {start + done - 1} of this space",
                    "The file is of another space, model, convention or start: move it away, or write to another.",
                )
            os.ftruncate(fd, end)
            os.lseek(fd, end, os.SEEK_SET)
            return _write_lines(fd, lines)
        finally:
            os.close(fd)


def space_lines(
    plans: NetPlan,
    space: Space,
    convention: Convention,
    beside: Sequence[Convention] = (),
    *,
    tables: Mapping[str, Table] = NO_TABLES,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[str]:
    """The records of the points `start` up to `stop` of a space as lines, with their newlines."""
    scales = space_scales(space)
    skip, first = divmod(start, len(scales))
    ends = [json.dumps(shape) + "}}\n" for shape in scales]
    ways: tuple[Way, ...] = (convention, *beside, *tables.values())
    priced = (price_archs(plans, islice(space.enumerate(), skip, None), scales, way) for way in ways)
    names = (*((name, "") for name in beside), *((name, _of(name, table)) for name, table in tables.items()))
    lines = (
        f'{{"overhead": {{"flops": {counts}, {middle}{end}'
        for arch, costs, params in (_joined(names, *priced) if names else next(priced))
        for middle in [_middle(arch, params, convention)]
        for counts, end in zip(costs, ends, strict=True)
    )
    return islice(lines, first, None if stop is None else max(first, stop - skip * len(scales)))


def _joined(
    names: Sequence[tuple[str, str]], first: Iterable[tuple[Arch, tuple[int, ...], int]], *others: Iterable[Any]
) -> Iterator[tuple[Arch, list[str], int]]:
    """Prices with those by other ways beside: `7, "ptflops": 9`. names: of these, each with what follows its number."""
    for (arch, costs, params), *rest in zip(first, *others, strict=True):
        beside = [
            [f', "{name}": {plain_cost(cost)}{end}' for cost in more]
            for (name, end), (_, more, _) in zip(names, rest, strict=True)
        ]
        yield arch, [f"{cost}{''.join(texts)}" for cost, *texts in zip(costs, *beside, strict=True)], params


def _of(name: str, table: Table) -> str:
    """What a time is of, behind it."""
    return f', "{name}_on": {json.dumps(table.text())}'


def _middle(arch: Arch, params: int, convention: Convention) -> str:
    """What the lines of an architecture have in common, between the flops and the input shape."""
    nested = dumps(arch.nested())
    return f'"params": {params}, "convention": "{convention}"}}, "arch": {nested}, "data": {{"input_shape": '


def _complete_lines(fd: int) -> tuple[int, int, bytes]:
    """(how many complete lines a file has, where the last one ends, that line)."""
    count, end, last, torn = 0, 0, b"", b""
    os.lseek(fd, 0, os.SEEK_SET)
    while part := os.read(fd, CHUNK):
        *lines, torn = (torn + part).split(b"\n")
        if lines:
            count += len(lines)
            end += sum(map(len, lines)) + len(lines)
            last = lines[-1] + b"\n"
    return count, end, last


def _write_lines(fd: int, lines: Iterator[str]) -> int:
    """Write lines in large pieces, and make them durable. Returns how many there were."""
    count = 0
    while part := list(islice(lines, PIECE)):
        fsio.write_all(fd, "".join(part).encode())
        count += len(part)
    os.fsync(fd)
    return count
