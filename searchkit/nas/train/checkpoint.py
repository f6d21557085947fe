"""Checkpoints: whole files that appear at once, load without running anything, and say what they belong to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from searchkit import fsio, proc
from searchkit.errors import ConflictError, UsageError

LATEST = "latest.pth"
BEST = "best.pth"
LOCK = ".lock"
ABOVE = "_above"  # in the folder that survives attempts: what is asked for beside the working folder
ATTEMPT = re.compile(r"attempt-\d+")
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`net`: state dict; `optimizer`: its state dict, empty where none was kept; `step`: steps done; `meta`: plain
    data: categories (names in label order), space (the maximal arch), seed, best (value of the best metric so far);
    `extras`: state dict of what learns beside the network."""

    net: dict[str, torch.Tensor]
    step: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, torch.Tensor] = field(default_factory=dict)


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
        **({"extras": checkpoint.extras} if checkpoint.extras else {}),
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
    extras = content.get("extras", {})
    return Checkpoint(content["net"], content["step"], content["optimizer"], content["meta"], extras), sha256


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
        if ours and pid.isdecimal() and not proc.exists(pid):
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
    """Where checkpoints and results go. By hand, and for what lies outside a job's folder, `work_dir` itself. In a job
    its counterpart in the folder that survives attempts: the same for every attempt, though their working folders
    differ, and another for each `work_dir`.
    """
    kept = os.environ.get("SEARCHKIT_CHECKPOINT")
    if not kept:
        return work_dir
    kept = os.path.realpath(kept)
    job = os.path.dirname(kept)
    whole = os.path.abspath(work_dir)
    # An older attempt may have left a link at the last part: where it leads to is what is asked for here.
    path = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    inside = _in_attempt(job, path)
    if inside is None or os.path.commonpath([kept, path]) == kept:
        return work_dir
    project = (_in_attempt(job, os.getcwd()) or [""])[0]
    rest = inside[1:] if inside[:1] == [project] else [ABOVE, *inside]
    return os.path.join(kept, *rest)


def _in_attempt(job: str, path: str) -> list[str] | None:
    """The parts of a path below the folder of its attempt; None for one that is not below the job's folder."""
    parts = os.path.relpath(path, job).split(os.sep)
    if parts[0] == os.pardir:
        return None
    return [p for p in (parts[1:] if ATTEMPT.fullmatch(parts[0]) else parts) if p != os.curdir]


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
    """Let this process alone write the checkpoints of a folder. Raises ConflictError naming who does so already.

    The kernel gives the lock back when the process dies, however. It belongs to the process, not to the open file as
    flock's does, so that the workers of a loader, which outlive a killed training by seconds, don't keep it.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"checkpoints need a folder, but {folder} is a file", "Name another one")
    with fsio.storage():
        os.makedirs(folder, exist_ok=True)
        fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            pid = _holder(fd)
            raise ConflictError(
                f"another process{f' (pid {pid})' if pid > 0 else ''} trains in {folder}",
                "Wait for it or end it: training then goes on from its last checkpoint; or name another --work-dir",
            ) from e
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> int:
    """The process that holds the lock of a file; 0 or less where it can't be told (it let go, or is not of here)."""
    form = "hhqqi"  # struct flock: type, whence, start, length, pid
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(form, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack(form, answer)
    return int(pid) if kind != fcntl.F_UNLCK else 0
