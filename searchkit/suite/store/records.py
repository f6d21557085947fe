"""The model-space records that a job appended to `callback/records.jsonl`, one for each subnet that it scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.workspace import AttemptPaths

FLOPS, PARAMS, MS, SHAPE = "overhead.flops", "overhead.params", "overhead.ms", "data.input_shape"


@dataclass(frozen=True)
class Row:
    """One record of one job. `values` are its numbers by dotted name: `metric.…`, `overhead.…`."""

    job: int
    arch: str  # the id of its architecture
    shape: str  # of its input: `480`, `480x640`; empty where it has none
    values: Mapping[str, float]
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`3:0f3a99c1d2`."""
        return f"{self.job}:{self.arch}"

    @property
    def convention(self) -> str:
        """How `overhead.flops` was counted: macs, or gaia."""
        overhead = self.record.get("overhead")
        return str(overhead.get("convention", "gaia")) if isinstance(overhead, Mapping) else "gaia"


def arch_id(record: Mapping[str, Any]) -> str:
    """Ten hex digits that name the architecture of a record, whatever it is made of."""
    from hashlib import sha256  # only here: it loads OpenSSL

    from searchkit.records.arch import Arch  # only here: most jobs have no records

    try:
        return Arch.of(record["arch"]).id
    except UsageError:
        return sha256(json.dumps(record["arch"], sort_keys=True).encode()).hexdigest()[:10]


def shape_text(record: Mapping[str, Any]) -> str:
    """The input shape of a record as one word."""
    data = record.get("data")
    shape = data.get("input_shape") if isinstance(data, Mapping) else None
    if shape is None:
        return ""
    if isinstance(shape, (list, tuple)):
        return "x".join(map(str, shape))
    return str(shape).replace(" ", "").replace(",", "x")


def read(paths: AttemptPaths, job: int) -> tuple[tuple[Row, ...], tuple[int, ...]]:
    """The records of one attempt in the order first met, and the numbers of the lines that were no record.

    A record of the same architecture and input shape as an earlier one replaces it.
    """
    try:
        raw = fsio.read_bytes(f"{paths.callback}/records.jsonl")
    except OSError:  # a folder of that name, or a loop of links: the job's own making
        raw = None
    if raw is None:
        return (), ()
    lines = raw.split(b"\n")
    rows: dict[tuple[str, str], Row] = {}
    skipped: list[int] = []
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        row = _row(line, job)
        if row is None:
            skipped += [i + 1] if i != len(lines) - 1 else []  # the last line may be half-written yet
        else:
            rows[row.arch, row.shape] = row
    return tuple(rows.values()), tuple(skipped)


def _row(line: bytes, job: int) -> Row | None:
    from searchkit.records.modelspace import fold

    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    try:
        record = record if "arch" in record else fold(record)  # dotted names, as tables of records have them
    except UsageError:
        return None
    if not isinstance(record.get("arch"), dict):
        return None
    values = {
        name: float(value)
        for name, value in _flat(record, "")
        if name.startswith("metric.") or name in (FLOPS, PARAMS, MS)
        if (isinstance(value, (int, float)) and abs(value) < 1e300) or value != value
    }
    return Row(job, arch_id(record), shape_text(record), values, record)


def _flat(part: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    out = []
    for key, value in part.items():
        if isinstance(value, dict):
            out += _flat(value, f"{prefix}{key}.")
        else:
            out.append((prefix + key, value))
    return out
