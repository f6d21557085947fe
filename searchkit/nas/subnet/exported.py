"""Records of subnets that are exported: what each file of theirs is, scores and takes. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from searchkit import fsio
from searchkit.nas.export.table import SCORED
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.records import modelspace
from searchkit.records.arch import Arch

FACTS = ("bytes", "ms", "threads", "device", "method")


def record_of(
    record: Mapping[str, Any] | None, arch: Arch, shape: InputShape, proof: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """The record of an arch, as it was or made of the proof's costs, with `files`: for each form its path, bytes, ms,
    threads, device, of 8 bits also the method of its ranges, and its scores by the names of metrics (bbox_mAP,
    bbox_AP/circle …)."""
    cost = proof["cost"]
    made = {
        "overhead": {"flops": cost["macs"], "params": cost["params"], "convention": "macs"},
        "arch": arch.nested(),
        "data": {"input_shape": plain_shape(shape)},
    }
    files = {
        form: {
            "path": os.path.join(folder, said["file"]),
            **{name: said[name] for name in FACTS if name in said},
            **said.get("score", {}),
        }
        for form, said in proof["files"].items()
        if form in SCORED
    }
    return {**made, **(record or {}), "files": files}


def keep_record(path: str, record: Mapping[str, Any]) -> None:
    """Append a record to a file of them."""
    line = f"{modelspace.dumps(record)}\n".encode()
    with fsio.storage():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fsio.write_all(fd, line)
        finally:
            os.close(fd)
