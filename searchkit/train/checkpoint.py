"""Checkpoints: whole files that appear at once, load without running anything, and say what they belong to."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from searchkit import fsio
from searchkit.errors import UsageError

LATEST = "latest.pth"
BEST = "best.pth"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`net`: state dict; `optimizer`: its state dict, empty where none was kept; `step`: steps done; `meta`: plain
    data: categories (names in label order), space (the maximal arch), seed, best (value of the best metric so far)."""

    net: dict[str, torch.Tensor]
    step: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def save(folder: str, name: str, checkpoint: Checkpoint) -> str:
    """Write a checkpoint as `folder/name`; whoever reads that path sees the old one or this one. Returns the path."""
    os.makedirs(folder, exist_ok=True)
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "net": checkpoint.net,
        "optimizer": checkpoint.optimizer,
        "step": checkpoint.step,
        "meta": checkpoint.meta,
    }
    torch.save(content, buffer)
    path = os.path.join(folder, name)
    with fsio.storage():
        fsio.atomic_write(path, buffer.getvalue())
    return path


def load(path: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of ours. Raises UsageError for what is none; nothing in the file is ever run."""
    return load_with_digest(path, device)[0]


def load_with_digest(path: str, device: torch.device | str = "cpu") -> tuple[Checkpoint, str]:
    """(checkpoint, sha256 of the file in hex), of one file even where a training puts a newer one in its place."""
    try:
        with open(path, "rb") as f:
            sha256 = _digest(f)
            f.seek(0)
            content = torch.load(f, map_location=device, weights_only=True)
    except FileNotFoundError as e:
        raise UsageError(f"no checkpoint at {path}") from e
    except Exception as e:  # torch raises many kinds for a broken file
        what = (str(e).splitlines() or [type(e).__name__])[0]
        raise UsageError(f"{path} is no checkpoint that can be loaded safely: {what}") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT or "net" not in content:
        hint = "A checkpoint of another program starts a training: give it as `init:` of the config"
        raise UsageError(f"{path} was not written by search-nas train or finetune", hint)
    return Checkpoint(content["net"], content["step"], content["optimizer"], content["meta"]), sha256


def digest(path: str) -> str:
    """The sha256 of a file in hex."""
    with open(path, "rb") as f:
        return _digest(f)


def _digest(f: BinaryIO) -> str:
    h = hashlib.sha256()
    while part := f.read(1 << 22):
        h.update(part)
    return h.hexdigest()


class Due:
    """When the next checkpoint is due: every so many steps, and every so many minutes."""

    def __init__(self, steps: int | None, minutes: float) -> None:
        self.steps, self.minutes, self.last_s = steps, minutes, time.monotonic()

    def now(self, step: int) -> bool:
        """Whether one is due after `step` steps; the minutes count anew from a yes."""
        due = (self.steps and step % self.steps == 0) or time.monotonic() - self.last_s > 60 * self.minutes
        if due:
            self.last_s = time.monotonic()
        return bool(due)


def sweep(folder: str) -> None:
    """Remove the half-written checkpoints that killed runs left in a folder."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        pid = name.rpartition(".")[2]
        ours = name.startswith((f".{LATEST}.", f".{BEST}."))
        if ours and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def link(target: str, path: str) -> None:
    """Make `path` a relative link to `target`, replacing an older one at once."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    half = os.path.join(folder, fsio.half_name(f".{os.path.basename(path)}"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(half)
    os.symlink(os.path.relpath(target, folder), half)
    os.replace(half, path)


def keep_folder(work_dir: str) -> str:
    """Where checkpoints and results go: in a job the folder that survives its attempts, by hand `work_dir`."""
    return os.environ.get("SEARCHKIT_CHECKPOINT") or work_dir
