"""Results of a sweep over subnets: an append-only file of records, each with the protocol of its numbers.

A sweep that dies goes on where it was: what the file has under the same key (arch, tag, protocol with checkpoint and
input shape) is not measured again. In a job the file lies in the folder that survives attempts, and every record goes
to callback/records.jsonl as well, where search-ctl reads it. Several processes may append to one file.

Beside it, calibration-<digest>.json lists the calibration images once; records have the digest in their protocol.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.nas.train import checkpoint
from searchkit.nas.train.bench import Calibration
from searchkit.records import modelspace
from searchkit.records.arch import Arch

Record = dict[str, Any]


def key_of(record: Mapping[str, Any], tag: str) -> str:
    """What tells one measurement from another."""
    protocol = record.get("protocol", {}).get(tag)
    body = [Arch.of(record["arch"]).id, tag, protocol]  # the protocol has the input shape
    return json.dumps(body, sort_keys=True)


def calibration_file(records: str, digest: str) -> str:
    """Where the calibration images of the scores in a file of records are listed."""
    return os.path.join(os.path.dirname(records), f"calibration-{digest}.json")


@dataclass
class Results:
    """The file of a sweep, open for appending."""

    path: str  # where the user asked for it
    kept: str  # where it is written
    tag: str
    mirror: str | None = None  # callback/records.jsonl of a job
    records: dict[str, Record] = field(default_factory=dict)  # by key

    def find(self, record: Mapping[str, Any]) -> Record | None:
        """The record of the same arch, measured in the same way, if there is one."""
        return self.records.get(key_of(record, self.tag))

    def add(self, record: Record) -> None:
        """Append a measured record; it is on disk when this returns."""
        self.records[key_of(record, self.tag)] = record
        line = modelspace.dumps(record).encode() + b"\n"
        with fsio.storage(), _locked(self.kept) as fd:
            _append(fd, line)
            if self.mirror:
                with _locked(self.mirror) as mirror_fd:
                    _append(mirror_fd, line)

    def keep_calibration(self, calibration: Calibration) -> None:
        """Write down which images calibration uses, unless they are written down already."""
        if not calibration.ids:
            return
        path_kept, shown = (calibration_file(path, calibration.digest) for path in (self.kept, self.path))
        with fsio.storage():
            if not os.path.exists(path_kept):
                content = {
                    "calibration_ids": calibration.digest,
                    "annotations": calibration.annotations,
                    "sha256": calibration.sha256,
                    "image_ids": list(calibration.ids),
                }
                fsio.atomic_write(path_kept, json.dumps(content) + "\n")
            if os.path.abspath(path_kept) != os.path.abspath(shown):
                checkpoint.link(path_kept, shown)

    def read(self) -> None:
        """Take in what is in the file, of other processes too; a half-written record of a killed sweep is cut off."""
        with fsio.storage(), _locked(self.kept) as fd:
            _cut_torn_line(fd, self.kept)
            size = os.fstat(fd).st_size
        for record in modelspace.load(self.kept) if size else ():
            if "arch" not in record:
                raise UsageError(f"{self.kept} is no results file: a record has no arch", "Give another --out")
            self.records[key_of(record, self.tag)] = record


def open_results(path: str, tag: str, first: bool = True) -> Results:
    """The results at `path`, with those that exist already. `first`: this is the rank that mirrors old records."""
    if not path.endswith((".json", ".jsonl")):
        raise UsageError(f"--out must be a .jsonl file, not {path}")
    keep = checkpoint.keep_folder(os.path.dirname(os.path.abspath(path)))
    path_kept = os.path.join(keep, os.path.basename(path))
    callback = os.environ.get("SEARCHKIT_CALLBACK")
    results = Results(path, path_kept, tag, os.path.join(callback, "records.jsonl") if callback else None)
    with fsio.storage():
        os.makedirs(keep, exist_ok=True)
    results.read()
    if first and os.path.abspath(path_kept) != os.path.abspath(path):
        with fsio.storage():
            checkpoint.link(path_kept, path)
    if first and results.mirror and results.records:
        _mirror_old(path_kept, results.mirror)
    return results


def _mirror_old(results: str, mirror: str) -> None:
    """Append what older attempts measured; a job may have several results files, and one mirror."""
    with fsio.storage(), _locked(results), _locked(mirror) as fd:
        mirrored = set((fsio.read_bytes(mirror) or b"").splitlines())
        lines = [line for line in (fsio.read_bytes(results) or b"").splitlines() if line not in mirrored]
        _append(fd, b"".join(line + b"\n" for line in lines))


def _locked(path: str) -> AbstractContextManager[int]:
    """The file, made if missing, open for reading and appending by us alone."""
    return fsio.locked(path, flags=os.O_APPEND)


def _append(fd: int, line: bytes) -> None:
    fsio.write_all(fd, line)
    os.fsync(fd)


def _cut_torn_line(fd: int, path: str) -> None:
    raw = fsio.read_bytes(path)
    if raw and not raw.endswith(b"\n"):
        os.ftruncate(fd, raw.rfind(b"\n") + 1)
