"""The records that a `Subnet` argument picks: decided once, when its task is made, and kept below the task's folder.

    subnets/<argument>/0000.jsonl …     the records of one job each
    subnets/<argument>/index.json       which file is which value, and digests of the files they were picked from

A job's attempt folder has a link `subnets` to them beside its working folder, so that the path in its command stays
true where the workspace is moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import ConflictError, StorageError, UsageError
from searchkit.suite.space.args import Subnet, Value
from searchkit.suite.space.expand import escape
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config

LINK = "subnets"  # beside a working folder
CHUNK = 1 << 22
_VARIABLE = re.compile(r"\$\{?(SEARCHKIT_STAGE_[A-Za-z0-9_]+)\}?")


@dataclass(frozen=True)
class Input:
    """A file as it was when it was read."""

    path: str
    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Pick:
    """What one argument picked: (file name, text shown for it, its lines) of each job, and the inputs."""

    name: str
    jobs: tuple[tuple[str, str, str], ...]
    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[Value, ...]:
        return _values(self.name, [(file, text) for file, text, _ in self.jobs])


def pick(config: Config, project: str, stages: Mapping[str, str]) -> list[Pick]:
    """Decide the records of every Subnet argument; write nothing.

    project: relative paths begin there. stages: `SEARCHKIT_STAGE_…` to folders.
    Raises UsageError for a file that can't be read, and for rules that leave no record.
    """
    return [_pick(arg, config.search.seed, project, stages) for arg in subnets(config)]


def subnets(config: Config) -> list[Subnet]:
    """The Subnet arguments of a config."""
    return [arg for arg in config.task.search_args if isinstance(arg, Subnet)]


def _pick(arg: Subnet, seed: int, project: str, stages: Mapping[str, str]) -> Pick:
    from searchkit.records.modelspace import dumps, load
    from searchkit.suite.store.records import arch_id, shape_text

    space = _path(arg.space, project, stages)
    inputs = [_look(space, arg)]
    records = load(space)
    notes: tuple[str, ...] = ()
    if arg.rules is not None:
        from searchkit.reading import nodes
        from searchkit.records import rules

        path = _path(arg.rules, project, stages)
        inputs.append(_look(path, arg))
        rule = rules.read(nodes.load(path))
        outcome = rules.apply(rule, records, seed if arg.seed is None else arg.seed)
        records, notes = outcome.records, tuple(f"{arg.name}: {note}" for note in outcome.notes)
    if not records:
        by = f"the rules of {arg.rules} leave no record of" if arg.rules else "there is no record in"
        hint = f"See which rule empties it: search-nas select {space} --rules {arg.rules} --dry-run"
        raise UsageError(f"search arg {arg.name!r}: {by} {space}", hint if arg.rules else "Name a file with records")
    groups = [records[i : i + arg.per_job] for i in range(0, len(records), arg.per_job)]
    width = max(4, len(str(len(groups) - 1)))
    jobs = []
    for i, group in enumerate(groups):
        stem = f"{i:0{width}d}"
        text = f"{arch_id(group[0])}-{shape_text(group[0])}".rstrip("-") if arg.per_job == 1 else stem
        jobs.append((f"{stem}.jsonl", text, "".join(dumps(record).rstrip("\n") + "\n" for record in group)))
    return Pick(arg.name, tuple(jobs), tuple(inputs), notes)


def _path(text: str, project: str, stages: Mapping[str, str]) -> str:
    def folder(m: re.Match[str]) -> str:
        if m[1] not in stages:
            raise UsageError(f"{text}: ${m[1]} is not set", "It names a stage of this task that ended before")
        return stages[m[1]]

    text = _VARIABLE.sub(folder, text)
    return os.path.normpath(os.path.join(project, os.path.expanduser(text)))


def _look(path: str, arg: Subnet) -> Input:
    from hashlib import sha256  # only here: it loads OpenSSL

    digest = sha256()
    try:
        with open(path, "rb") as f:
            info = os.fstat(f.fileno())
            while part := f.read(CHUNK):
                digest.update(part)
    except OSError as e:
        raise UsageError(
            f"search arg {arg.name!r}: can't read {path}: {e.strerror}",
            "It must be a file of records (.json, .jsonl) or of rules (.yaml); relative paths begin in the project",
        ) from e
    return Input(path, digest.hexdigest(), info.st_size, info.st_mtime_ns)


def keep(picks: list[Pick], task: TaskPaths) -> None:
    """Write the picked records below a task that is being made. Raises OSError."""
    for one in picks:
        folder = f"{task.subnets}/{escape(one.name)}"
        os.makedirs(folder)
        for file, _, lines in one.jobs:
            fsio.write_new(f"{folder}/{file}", lines.encode(), durable=False)
        for file, _, _ in one.jobs:
            fsio.fsync_file(f"{folder}/{file}")
        body = {"inputs": [asdict(i) for i in one.inputs], "jobs": [[file, text] for file, text, _ in one.jobs]}
        fsio.write_new(f"{folder}/index.json", json.dumps(body, ensure_ascii=False).encode())
        fsio.fsync_dir(folder)
    if picks:
        fsio.fsync_dir(task.subnets)


def _index(task: TaskPaths, name: str) -> tuple[list[tuple[str, str]], list[Input]]:
    path = f"{task.subnets}/{escape(name)}/index.json"
    try:
        body: dict[str, Any] = json.loads(fsio.read_bytes(path) or b"")
        return [(file, text) for file, text in body["jobs"]], [Input(**i) for i in body["inputs"]]
    except (ValueError, KeyError, TypeError) as e:
        raise StorageError(f"{path} is missing or damaged ({e})", f"See: search-ctl fsck --task {task.name}") from e


def _values(name: str, jobs: list[tuple[str, str]]) -> tuple[Value, ...]:
    paths = [f"../{LINK}/{escape(name)}/{file}" for file, _ in jobs]
    return tuple(Value(path, text, path) for path, (_, text) in zip(paths, jobs, strict=True))


def resolve(config: Config, values: Mapping[str, tuple[Value, ...]]) -> Config:
    """The config with the values of its Subnet arguments filled in."""
    args = tuple(replace(a, values=values[a.name]) if isinstance(a, Subnet) else a for a in config.task.search_args)
    return replace(config, task=replace(config.task, search_args=args))


def picked(config: Config, picks: list[Pick]) -> Config:
    """The config with what was just picked."""
    return resolve(config, {one.name: one.values for one in picks})


def kept(config: Config, task: TaskPaths) -> Config:
    """The config with what was picked when the task was made. Raises StorageError where that is damaged."""
    return resolve(config, {arg.name: _values(arg.name, _index(task, arg.name)[0]) for arg in subnets(config)})


def check_inputs(config: Config, task: TaskPaths, project: str, stages: Mapping[str, str]) -> list[str]:
    """Raise ConflictError where an input is not what it was; return those that are gone."""
    gone = []
    for arg in subnets(config):
        inputs = _index(task, arg.name)[1]
        paths = [_path(text, project, stages) for text in (arg.space, arg.rules) if text is not None]
        for path, then in zip(paths, inputs, strict=True):
            try:
                info = os.stat(path)
            except OSError:
                gone.append(path)
                continue
            if (path, info.st_size, info.st_mtime_ns) == (then.path, then.size, then.mtime_ns):
                continue
            if _look(path, arg).sha256 != then.sha256:
                raise ConflictError(
                    f"{path} is not what it was when task {task.name!r} picked its jobs from it ({arg.name!r})",
                    f"Put the old file back; or pick again: search-ctl delete --task {task.name}, "
                    "then the same search-run again",
                )
    return gone


def link(task: TaskPaths, attempt_root: str) -> None:
    """Link what the task keeps for its arguments, if anything, beside an attempt's working folder."""
    for folder in (task.subnets, task.best):
        if os.path.isdir(folder):
            with contextlib.suppress(FileExistsError):
                os.symlink(os.path.relpath(folder, attempt_root), f"{attempt_root}/{os.path.basename(folder)}")


def missing(task: TaskPaths) -> list[str]:
    """Files of kept records that are missing."""
    out = []
    for folder in sorted(os.listdir(task.subnets)) if os.path.isdir(task.subnets) else ():
        try:
            body = json.loads(fsio.read_bytes(f"{task.subnets}/{folder}/index.json") or b"")
            files = [file for file, _ in body["jobs"]]
        except (ValueError, KeyError, TypeError):
            out.append(f"{task.subnets}/{folder}/index.json")
            continue
        out += [path for file in files if not os.path.isfile(path := f"{task.subnets}/{folder}/{file}")]
    return out
