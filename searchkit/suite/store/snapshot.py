"""The project as it was when a task started (snapshot), and a job's own working folder made from it.

A snapshot is `snapshot/<k>/<project name>/` and a manifest of everything in it: (kind, path, size, mtime or target).
    dir   a folder                 file  a file, copied          link    a symbolic link of the project itself
    big   a file of 1 MiB or more, linked to the project         shared  a folder, linked whole to the project
The last two kinds appear with --symlinks only; they are not copied, so a change to them reaches jobs that still wait.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from searchkit import fsio
from searchkit.errors import StorageError, UsageError
from searchkit.suite.workspace import NAME, SnapshotPaths, TaskPaths

IGNORE_FILE = ".searchignore"
LINKS_FILE = ".searchlinks"
ALWAYS_IGNORED = (NAME, ".git")
DEFAULT_IGNORED = (
    "__pycache__/",
    "*.py[cod]",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".ipynb_checkpoints/",
    ".cache/",
    ".tox/",
    ".nox/",
    ".hg/",
    ".svn/",
    "node_modules/",
    ".venv/",
)
LINK_FROM_BYTES = 1 << 20  # --symlinks: files from this size on are linked
SHARE_FROM_FILES = 200  # --symlinks: folders with more files than this are linked whole


@dataclass(frozen=True)
class Entry:
    kind: str
    path: str  # relative to the project
    size: int = 0
    mtime_ns: int = 0
    target: str = ""


@dataclass(frozen=True)
class Manifest:
    project: str
    symlinks: bool
    entries: tuple[Entry, ...]
    name: str = ""  # of the folder that holds the copy, in a snapshot
    skipped: tuple[str, ...] = ()  # sockets, pipes, devices

    @property
    def copied_bytes(self) -> int:
        return sum(e.size for e in self.entries if e.kind == "file")

    @property
    def linked(self) -> list[Entry]:
        return [e for e in self.entries if e.kind in ("big", "shared")]


def _matcher(project: str, name: str, first: tuple[str, ...] = ()) -> Callable[[str], bool] | None:
    """Whether a path relative to the project (folders end in '/') is named by a file of gitignore syntax."""
    raw = fsio.read_bytes(os.path.join(project, name))
    if raw is None and not first:
        return None
    from pathspec import GitIgnoreSpec  # kept off the start-up path

    try:
        lines = (raw or b"").decode().splitlines()
        return GitIgnoreSpec.from_lines([*first, *lines]).match_file
    except ValueError as e:
        raise UsageError(f"{name}: not gitignore syntax: {e}") from e


def scan(project: str, *, symlinks: bool = False) -> Manifest:
    """List what a snapshot of the project would hold, in a fixed order. Reads nothing but names and sizes."""
    ignored = _matcher(project, IGNORE_FILE, DEFAULT_IGNORED)
    shared = _matcher(project, LINKS_FILE) if symlinks else None
    skipped: list[str] = []

    def walk(folder: str, prefix: str) -> Iterator[Entry]:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda e: e.name)
        for e in entries:
            path = prefix + e.name
            is_dir = e.is_dir(follow_symlinks=False)
            if e.name in ALWAYS_IGNORED or (ignored and ignored(path + "/" * is_dir)):
                continue
            info = e.stat(follow_symlinks=False)
            if e.is_symlink():
                yield Entry("link", path, target=_absolute_target(project, folder, os.readlink(e.path)))
            elif is_dir:
                if os.path.exists(os.path.join(e.path, "pyvenv.cfg")):
                    continue  # a virtual environment of any name: a copy of it would not work
                if symlinks and ((shared and shared(path + "/")) or _has_many_files(e.path)):
                    yield Entry("shared", path, mtime_ns=info.st_mtime_ns)
                else:
                    yield Entry("dir", path)
                    yield from walk(e.path, path + "/")
            elif stat.S_ISREG(info.st_mode):
                if symlinks and (info.st_size >= LINK_FROM_BYTES or (shared and shared(path))):
                    yield Entry("big", path, info.st_size, info.st_mtime_ns)
                else:
                    yield Entry("file", path, info.st_size, info.st_mtime_ns)
            else:
                skipped.append(path)

    try:
        return Manifest(project, symlinks, tuple(walk(project, "")), skipped=tuple(skipped))
    except PermissionError as e:
        raise UsageError(
            f"cannot read {e.filename}: permission denied", f"Change that, or name it in {IGNORE_FILE} to leave it out"
        ) from e


def _absolute_target(project: str, folder: str, target: str) -> str:
    """Links inside the project stay relative; a relative one that leaves it would point elsewhere from a job."""
    if os.path.isabs(target):
        return target
    full = os.path.normpath(os.path.join(folder, target))
    return target if full == project or full.startswith(project + "/") else full


def _has_many_files(folder: str) -> bool:
    n = 0
    with os.scandir(folder) as entries:
        for e in entries:
            n += not e.is_dir(follow_symlinks=False)
            if n > SHARE_FROM_FILES:
                return True
    return False


def build(manifest: Manifest, project_name: str, tmp: str, final: SnapshotPaths) -> None:
    """Copy the project into a snapshot, durable and visible at once. Raises StorageError, or UsageError where a file
    can't be read."""
    half = os.path.join(tmp, fsio.half_name("snapshot"))
    fsio.discard(half)
    os.makedirs(os.path.join(half, project_name))
    try:
        copied = list(_copy(manifest, manifest.project, os.path.join(half, project_name), durable=True))
    except PermissionError as e:
        fsio.discard(half)
        if e.filename and str(e.filename).startswith(tmp):
            raise
        raise UsageError(
            f"cannot read {e.filename}: permission denied", f"Change that, or name it in {IGNORE_FILE} to leave it out"
        ) from e
    body: dict[str, Any] = {
        "project": manifest.project,
        "name": project_name,
        "symlinks": manifest.symlinks,
        "skipped": manifest.skipped,
        "entries": [[e.kind, e.path, e.size, e.mtime_ns, e.target] for e in copied],
    }
    fsio.write_new(os.path.join(half, "manifest.json"), json.dumps(body).encode())
    os.makedirs(os.path.dirname(final.root), exist_ok=True)
    os.rename(half, final.root)
    fsio.fsync_dir(os.path.dirname(final.root))


def load(paths: SnapshotPaths) -> Manifest:
    """The manifest of a snapshot; StorageError where it is missing or damaged."""
    try:
        body = json.loads(fsio.read_bytes(paths.manifest) or b"")
        entries = tuple(Entry(*e) for e in body["entries"])
        return Manifest(body["project"], body["symlinks"], entries, body["name"], tuple(body["skipped"]))
    except (ValueError, KeyError, TypeError) as e:
        raise StorageError(f"the snapshot {paths.root} is missing or damaged ({e})", "See: search-ctl fsck") from e


def newest(task: TaskPaths) -> int:
    """The number of a task's newest snapshot; StorageError where it has none."""
    try:
        return max(int(name) for name in os.listdir(task.snapshots) if name.isdecimal())
    except (FileNotFoundError, ValueError) as e:
        raise StorageError(f"task {task.name!r} has no snapshot in {task.snapshots}", "See: search-ctl fsck") from e


def materialise(manifest: Manifest, snapshot: SnapshotPaths, project: str, folder: str) -> None:
    """Make a job's working folder from a snapshot. `project`: where the project is now; it may have been moved."""
    fsio.discard(folder)
    os.mkdir(folder)
    for _ in _copy(manifest, f"{snapshot.root}/{manifest.name}", folder, links_to=project):
        pass


def _copy(manifest: Manifest, src: str, dst: str, *, links_to: str = "", durable: bool = False) -> Iterator[Entry]:
    """Lay the entries out below `dst`, and yield those that were made. Linked kinds become links into `links_to`, or
    are only listed where that is empty."""
    for e in manifest.entries:
        if e.kind == "file":
            try:
                fsio.copy_file(f"{src}/{e.path}", f"{dst}/{e.path}", durable=durable)
            except FileNotFoundError:
                if os.path.lexists(f"{src}/{e.path}") or links_to:
                    raise
                continue  # gone between the listing and the copy: a temporary file of an editor, say
        elif e.kind == "dir":
            os.mkdir(f"{dst}/{e.path}")
        elif e.kind == "link":
            os.symlink(e.target, f"{dst}/{e.path}")
        elif links_to:
            os.symlink(f"{links_to}/{e.path}", f"{dst}/{e.path}")
        yield e


def changes(manifest: Manifest, project: str) -> list[str]:
    """The paths that differ between a snapshot and the project as it is now (by size and mtime), sorted."""
    then = {e.path: (e.kind, e.size, e.mtime_ns) for e in manifest.entries if e.kind != "shared"}
    today = scan(project, symlinks=manifest.symlinks)
    now = {e.path: (e.kind, e.size, e.mtime_ns) for e in today.entries if e.kind != "shared"}
    return sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))


def changed_links(manifest: Manifest, project: str) -> list[str]:
    """Files that jobs see through a link and that are no longer what they were when the task started."""
    out = []
    for e in manifest.entries:
        if e.kind == "big":
            try:
                info = os.stat(f"{project}/{e.path}")
            except OSError:
                out.append(e.path)
                continue
            if (info.st_size, info.st_mtime_ns) != (e.size, e.mtime_ns):
                out.append(e.path)
    return out
