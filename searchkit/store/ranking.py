"""Scalars of the jobs of a task and of the subnets that they scored, and their order by one scalar or all objectives.

What a search accepted as the scores of a job stands in its result event, and is what ranks it. All else is read from
the files of the jobs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from searchkit.algorithms import pareto
from searchkit.algorithms.history import losses
from searchkit.settings import Objective
from searchkit.store import records, scalars, trials
from searchkit.store.records import Row
from searchkit.store.state import State
from searchkit.store.tasks import JobView
from searchkit.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.config import Config


@dataclass(frozen=True)
class JobScalars:
    """What one job reported: `series[name][step] = value`, the results of its callbacks, the records of its subnets.

    An objective that is an expression is there as if it had been reported. Or one such record as a row of its own
    (`split`): then `row` is it, and `series` its numbers, at step 0. `scores`: of a search, what its result was
    accepted with, by objective.
    """

    view: JobView
    series: dict[str, dict[int, float]]
    pre: dict[str, Any] | None
    after: dict[str, Any] | None
    skipped: int  # undecodable lines
    records: tuple[Row, ...] = ()
    row: Row | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    unread: bool = False  # only its scores are here, not what it reported

    @property
    def name(self) -> str:
        """`3`, or `3:0f3a99c1d2`."""
        return self.row.name if self.row else str(self.view.job.index)

    def only(self, names: tuple[str, ...]) -> JobScalars:
        """The same with the named scalars alone, in that order; with all of them where none is named."""
        return replace(self, series={n: self.series[n] for n in names if n in self.series}) if names else self


@dataclass(frozen=True)
class Scored:
    """A row that has all objectives; `front` counts from 0, the rows that none is better than in every objective."""

    entry: JobScalars
    scores: tuple[float, ...]
    front: int = 0


def read(
    task: TaskPaths, project_name: str, config: Config, jobs: Iterable[JobView], *, light: bool = False
) -> list[JobScalars]:
    """Read the scalars of each job's highest attempt (attempts never mix).

    light: only what ranks them by the objectives, so that of 10,000 jobs with scores no folder is opened, unless it
    holds records.
    """
    out = []
    wanted = config.objectives
    for view in jobs:
        job = view.job
        if job.attempt == 0:
            out.append(JobScalars(view, {}, None, None, 0))
            continue
        accepted = job.scores if view.state in (State.FINISHED, State.PRUNED) else None
        scores = dict(zip((o.name for o in wanted), accepted or (), strict=False))
        paths = task.job(job.index).attempt(job.attempt)
        if light and scores and not os.path.exists(f"{paths.callback}/records.jsonl"):
            out.append(JobScalars(view, {}, None, None, 0, scores=scores, unread=True))
            continue
        reading = trials.series_of(task, project_name, config, job, ended=view.state is not State.RUNNING)
        pre = scalars.read_callback_result(paths.callback, "pre")
        after = scalars.read_callback_result(paths.callback, "after")
        found, skipped = records.read(paths, job.index)
        series = {**reading.series, **_derived(wanted, reading.series)}
        found = tuple(replace(row, values={**row.values, **_row_values(wanted, row)}) for row in found)
        out.append(JobScalars(view, series, pre, after, reading.skipped + skipped, found, scores=scores))
    return out


def _derived(wanted: Iterable[Objective], series: Mapping[str, scalars.Series]) -> dict[str, scalars.Series]:
    """The objectives that are expressions, over the steps that have all they need. Their last value is that of the last
    values: what was reported once, at the first step, holds for all others."""
    found = {}
    for o in wanted:
        needs = trials.scalars_needed([o]) if o.value else ()
        if needs and all(series.get(name) for name in needs):
            end = max(max(series[name]) for name in needs)
            found[o.name] = {**trials.over_steps(o, series), end: trials.at_the_end(o, series)}
    return found


def _row_values(wanted: Iterable[Objective], row: Row) -> dict[str, float]:
    derived = _derived(wanted, {name: {0: value} for name, value in row.values.items()})
    return {name: series[0] for name, series in derived.items()}


def split(jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The rows to rank: one for each record of a job, and each job that has none, or scores of its own."""
    out: list[JobScalars] = []
    for job in jobs:
        for row in job.records:
            series = {name: {0: value} for name, value in row.values.items()}
            out.append(replace(job, series=series, records=(), row=row, scores={}))
        if job.scores or not job.records:
            out.append(replace(job, records=()))
    return out


def joined(rows: Iterable[JobScalars], jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The jobs of these rows in the order of their first one, each with those of its records that are among them."""
    by_index = {job.view.job.index: job for job in jobs}
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.view.job.index, []).extend([row.row] if row.row else [])
    return [replace(by_index[n], records=tuple(kept)) for n, kept in found.items()]


def reward(job: JobScalars, name: str, mode: str = "", best: bool = False) -> float:
    """The value a job is ranked by: its score, else the last reported step (`best`: the best by `mode`), else that of
    its best record. NaN where it has none."""
    if name in job.scores and not best:
        return job.scores[name]
    series = job.series.get(name)
    if not series:
        values = dict(enumerate(row.values[name] for row in job.records if name in row.values))
        return scalars.best(values, mode or "max") if values else math.nan
    return scalars.best(series, mode or "max") if best else scalars.last(series)


def reports(job: JobScalars, name: str) -> bool:
    """Whether a job, or a record of it, has any value of that name, be it no number."""
    return name in job.scores or bool(job.series.get(name)) or any(name in row.values for row in job.records)


def rank(
    jobs: list[JobScalars], name: str, *, descending: bool, mode: str = "max", best: bool = False
) -> list[JobScalars]:
    """Jobs ordered by reward, NaN and missing last both ways; ties keep the order of the jobs."""

    def key(job: JobScalars) -> tuple[bool, float]:
        value = reward(job, name, mode, best)
        return math.isnan(value), 0.0 if math.isnan(value) else (-value if descending else value)

    return sorted(jobs, key=key)


# --- by objectives ---------------------------------------------------------------------------------------------------


def scored(rows: Iterable[JobScalars], wanted: Sequence[Objective], first: int = 1) -> list[Scored]:
    """The rows that have every objective as a finite number, best first: by front, then by the first objective, then in
    order. A job counts once it ended by itself or by a stopper; a record counts as soon as it is there.

    first: how many rows are wanted in that order. Fronts are looked for until they have so many; what is left counts as
    one more front.
    """
    found: list[tuple[tuple[float, ...], JobScalars]] = []
    for row in rows:
        if row.row is None and row.view.state not in (State.FINISHED, State.PRUNED):
            continue
        scores = tuple(reward(row, o.name, o.mode) for o in wanted)
        if all(map(math.isfinite, scores)):
            found.append((scores, row))
    ordered: list[Scored] = []
    modes, number = [o.mode for o in wanted], 0

    def add(rows: Iterable[tuple[tuple[float, ...], JobScalars]]) -> None:
        in_order = sorted(rows, key=lambda each: losses(each[0], wanted))
        ordered.extend(Scored(row, scores, number) for scores, row in in_order)

    while len(wanted) > 1 and found and len(ordered) < first:
        front = set(pareto.front([scores for scores, _ in found], modes))
        add(each for i, each in enumerate(found) if i in front)
        found = [each for i, each in enumerate(found) if i not in front]
        number += 1
    add(found)
    return ordered


def worst(rows: Iterable[Scored], wanted: Sequence[Objective]) -> tuple[float, ...]:
    """The worst value of each objective among the rows; none where there is no row."""
    columns = zip(*(each.scores for each in rows), strict=True)
    return tuple(min(column) if o.mode == "max" else max(column) for o, column in zip(wanted, columns, strict=False))
