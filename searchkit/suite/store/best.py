"""The rows of a `Best` argument: what the best jobs of an earlier stage had, decided once, when the stage's task is
made, and kept with it.

    best.json                  for each such argument its rows: the job that each is from, its scores, values and texts
    best/<argument>/<job>      a link to what the job left, for the arguments that are a folder of it
    best/<argument>/<file>     a copy, for arguments that were a file of records in that stage

A job's attempt folder has a link `best` to them beside its working folder, so that the paths in its command stay true
where the workspace is moved.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from searchkit import fsio
from searchkit.errors import StorageError, UsageError
from searchkit.records import pareto
from searchkit.records.objective import loss
from searchkit.suite.config.settings import Config, Objective
from searchkit.suite.space.args import Best, Point, Subnet, Value
from searchkit.suite.space.expand import escape
from searchkit.suite.store import journal, ranking, snapshot, tasks
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.state import TaskState, replay
from searchkit.suite.workspace import TaskPaths

LINK = "best"  # beside a working folder


@dataclass(frozen=True)
class Row:
    """One job of the earlier stage: its number, the attempt that was accepted, its scores, its values."""

    job: int
    attempt: int
    scores: tuple[float, ...]
    values: Point


@dataclass(frozen=True)
class Pick:
    """What one argument takes: its rows, the best first. `files`: (place below `best/`, what it is a link to or a copy
    of), each once."""

    stage: str
    rows: tuple[Row, ...]
    files: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def bests(config: Config) -> list[Best]:
    """The Best arguments of a config."""
    return [arg for arg in config.task.search_args if isinstance(arg, Best)]


def working_folder(task: TaskPaths, job: Job) -> str:
    """Where the last attempt of a job ran. Where the project was renamed since, the folder has the old name."""
    root = task.job(job.index).attempt(max(1, job.attempt)).root
    folder = f"{root}/{task.workspace.project_name}"
    return folder if os.path.isdir(folder) else f"{root}/{snapshot.load(task.snapshot(job.snapshot)).name}"


# --- which jobs are best ---------------------------------------------------------------------------------------------


def pick(group: TaskPaths, config: Config, index: int) -> list[Pick]:
    """Decide the rows of each Best argument of a stage of `config`; write nothing.

    By the objectives of the stage that they are from: finished jobs that have all scores as finite numbers, by the
    Pareto front that they are on, then by the first objective, then by number. Jobs that would give the same row count
    as one. Raises UsageError where no job has a score, or where what it left is gone.
    """
    earlier = {stage.name: stage.config for stage in config.stages[:index]}
    return [_pick(arg, earlier, group) for arg in bests(config.stages[index].config)]


def _pick(arg: Best, earlier: Mapping[str, Config], group: TaskPaths) -> Pick:
    source, config = _Source(group, arg.stage, earlier[arg.stage]), earlier[arg.stage]
    paths = _paths(config, earlier) & set(arg.args)
    rows: list[Row] = []
    files: dict[str, str] = {}
    seen: set[str] = set()
    for job, scores in source.best_first:
        if len(rows) == arg.number:
            break
        row, more = _row(arg, paths, source.task, job, scores)
        same = json.dumps([[name, value.text, value.data] for name, value in row.values.items()])
        if same not in seen:
            seen.add(same)
            rows.append(row)
            files.update(more)
    if not rows:
        raise UsageError(
            f"{_named(arg)}: stage {arg.stage!r} has no best job: none has finished with {source.objective_names} as a "
            f"finite number ({source.summary})",
            f"Correct what its jobs report, then run them again: search-ctl restart --task {source.task.name}",
        )
    gone = next((path for path in files.values() if not os.path.exists(path)), None)
    if gone:
        raise UsageError(
            f"stage {arg.stage!r}: {gone} is gone, of one of its best jobs",
            f"Put it back, or run the job again: search-ctl restart --task {source.task.name}",
        )
    notes: tuple[str, ...] = ()
    if len(rows) < arg.number:
        same = ", some with the same values" if len(rows) < len(source.best_first) else ""
        notes = (f"{_named(arg)}: stage {arg.stage!r} gives {len(rows)} of {arg.number} rows ({source.summary}{same})",)
    return Pick(arg.stage, tuple(rows), tuple(files.items()), notes)


@dataclass(frozen=True)
class _Source:
    """A stage that ended, and the order of its jobs."""

    group: TaskPaths
    stage: str
    config: Config

    @cached_property
    def task(self) -> TaskPaths:
        return self.group.workspace.task(f"{self.group.name}.{self.stage}")

    @cached_property
    def state(self) -> TaskState:
        return replay(journal.Events(self.task))

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        return self.config.objectives

    @property
    def objective_names(self) -> str:
        return " and ".join(objective.name for objective in self.objectives)

    @cached_property
    def scored(self) -> list[tuple[Job, tuple[float, ...]]]:
        """The finished jobs, with scores that may be no numbers."""
        jobs = [job for _, job in sorted(self.state.jobs.items()) if job.state is State.FINISHED]
        return [(job, job.scores or self._read(job)) for job in jobs]

    @cached_property
    def best_first(self) -> list[tuple[Job, tuple[float, ...]]]:
        good = [(job, scores) for job, scores in self.scored if all(map(math.isfinite, scores))]
        modes = [objective.mode for objective in self.objectives]
        ranks = pareto.ranks([scores for _, scores in good], modes)
        order = sorted(range(len(good)), key=lambda i: (ranks[i], loss(good[i][1][0], modes[0])))
        return [good[i] for i in order]

    def _read(self, job: Job) -> tuple[float, ...]:
        """The scores of a job whose result holds none: no search made it. That of one that scored subnets is the best
        of its records."""
        (reported,) = self._reported([job])
        return tuple(
            ranking.reward(reported, objective.name, objective.mode, objective.score) for objective in self.objectives
        )

    def _reported(self, jobs: Iterable[Job]) -> list[ranking.JobScalars]:
        views = [tasks.view_job(self.task, job) for job in jobs]
        return ranking.read(self.task, self.task.workspace.project_name, self.config, views, light=True)

    @property
    def summary(self) -> str:
        """How its jobs ended, and what those without a score reported."""
        counts = Counter(f"{job.state}" for job in self.state.jobs.values() if job.state is not State.FINISHED)
        bad = [job for job, scores in self.scored if not all(map(math.isfinite, scores))]
        parts = [f"{len(self.best_first)} finished with {self.objective_names}"] if self.best_first else []
        parts += [f"{n} {state}" for state, n in counts.items()]
        if bad:
            names = {
                n
                for reported in self._reported(bad)
                for n in (*reported.names, *(n for r in reported.records for n in r.values))
            }
            parts.append(f"{len(bad)} finished without, reported: {', '.join(sorted(names)) or 'nothing'}")
        return f"of {len(self.state.jobs)} jobs: {', '.join(parts)}"


def _paths(config: Config, earlier: Mapping[str, Config]) -> set[str]:
    """The arguments of a stage that are a path relative to a working folder, and kept with its task."""
    names: set[str] = set()
    for arg in config.task.search_args:
        if isinstance(arg, Subnet):
            names.add(arg.name)
        if isinstance(arg, Best):
            names.update(arg.folders)
            names |= _paths(earlier[arg.stage], earlier) & set(arg.args)
    return names


def _row(
    arg: Best, paths: set[str], source: TaskPaths, job: Job, scores: tuple[float, ...]
) -> tuple[Row, dict[str, str]]:
    """The row of a job, and the files that its values name."""
    values = {name: Value(job.values[name], job.text[name]) for name in arg.args if name in job.text}
    files: dict[str, str] = {}
    root = source.job(job.index).attempt(max(1, job.attempt)).root

    def path(name: str, entry: str, text: str, at: str) -> None:
        place = f"{escape(name)}/{entry}"
        files[place] = os.path.realpath(at)
        values[name] = Value(f"../{LINK}/{place}", text, f"../{LINK}/{place}")

    for name in sorted(paths & values.keys()):
        old = values[name]
        path(name, os.path.basename(old.data), old.text, f"{root}/{str(old.data).removeprefix('../')}")
    if arg.folder:
        path(arg.folder, str(job.index), str(job.index), working_folder(source, job))
    if arg.checkpoint:
        path(arg.checkpoint, str(job.index), str(job.index), source.job(job.index).checkpoint)
    return Row(job.index, job.attempt, scores, values), files


def _named(arg: Best) -> str:
    return ", ".join(arg.names[:3]) + (", …" if len(arg.names) > 3 else "")


# --- what is kept with the task --------------------------------------------------------------------------------------


def keep(picks: Sequence[Pick], half: TaskPaths, final: TaskPaths) -> None:
    """Write the rows below a task that is being made, and will be at `final`. Raises OSError."""
    folders: set[str] = set()
    for place, source in (file for one in picks for file in one.files):
        path = f"{half.best}/{place}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        folders.add(os.path.dirname(path))
        if os.path.lexists(path):  # two arguments that take from the same stage
            continue
        if os.path.isdir(source):
            os.symlink(os.path.relpath(source, os.path.dirname(f"{final.best}/{place}")), path)
        else:
            fsio.copy_file(source, path, durable=True)
    for folder in (*sorted(folders), *([half.best] if folders else [])):
        fsio.fsync_dir(folder)
    if picks:
        body = [{"stage": one.stage, "rows": [_dump(row) for row in one.rows]} for one in picks]
        fsio.write_new(half.best_rows, json.dumps(body, indent=1).encode() + b"\n")


def _dump(row: Row) -> dict[str, Any]:
    return {
        "job": row.job,
        "attempt": row.attempt,
        "scores": row.scores,
        "values": {name: value.data for name, value in row.values.items()},
        "text": {name: value.text for name, value in row.values.items()},
        "paths": [name for name, value in row.values.items() if value.argument is not None],
    }


def taken(task: TaskPaths, stage: str) -> set[int]:
    """The jobs of an earlier stage whose folders a stage has links to. Raises StorageError where that is damaged."""
    picks = _load(task) if os.path.exists(task.best_rows) else []
    return {row.job for one in picks if one.stage == stage for row in one.rows}


def _load(task: TaskPaths) -> list[Pick]:
    """What was kept. Raises StorageError where that is damaged."""
    try:
        body = json.loads(fsio.read_bytes(task.best_rows) or b"")
        return [Pick(one["stage"], tuple(map(_row_of, one["rows"]))) for one in body]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        hint = f"See: search-ctl fsck --task {task.name}"
        raise StorageError(f"{task.best_rows} is missing or damaged ({e})", hint) from e


def _row_of(body: Mapping[str, Any]) -> Row:
    data, paths = body["values"], body["paths"]
    values = {n: Value(data[n], text, data[n] if n in paths else None) for n, text in body["text"].items()}
    return Row(body["job"], body["attempt"], tuple(body["scores"]), values)


def filled(config: Config, picks: Sequence[Pick]) -> Config:
    """The config of a stage with the rows of its Best arguments filled in, in their order."""
    remaining = iter(picks)
    args = tuple(
        replace(arg, rows=tuple(row.values for row in next(remaining).rows)) if isinstance(arg, Best) else arg
        for arg in config.task.search_args
    )
    return replace(config, task=replace(config.task, search_args=args))


def kept(config: Config, task: TaskPaths) -> Config:
    """The config of a stage with what was decided when its task was made. Raises StorageError where that is damaged."""
    stages = [arg.stage for arg in bests(config)]
    if not stages:
        return config
    picks = _load(task)
    if [one.stage for one in picks] != stages:
        raise StorageError(f"{task.best_rows} does not fit the config", f"See: search-ctl fsck --task {task.name}")
    return filled(config, picks)


def missing(task: TaskPaths) -> list[str]:
    """The kept files that are missing."""
    if not task.stage:
        return []
    try:
        if not os.path.exists(task.best_rows):
            return [task.best_rows] if bests(tasks.config_of(task)) else []
        picks = _load(task)
    except StorageError:
        return [task.best_rows]
    except UsageError:  # the config can't be read, which is said elsewhere
        return []
    rows = [row for one in picks for row in one.rows]
    paths = {value.argument for row in rows for value in row.values.values() if value.argument is not None}
    kept_paths = [f"{task.best}/{path.removeprefix(f'../{LINK}/')}" for path in sorted(paths)]
    return [path for path in kept_paths if not os.path.exists(path)]
