"""Scalars of the jobs of a task and of the subnets that they scored, and their order by one scalar or all objectives.

What a search accepted as the scores of a job stands in its result event, and is what ranks it. The event also says of
each scalar the last and the best value (store/numbers.py), which is all that ranking and tables need; whole series are
read from the files of the jobs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from searchkit.reading import expression
from searchkit.records import pareto
from searchkit.records.objective import losses
from searchkit.suite.config.settings import Objective
from searchkit.suite.store import numbers, records, scalars, trials
from searchkit.suite.store.job import State
from searchkit.suite.store.numbers import Summary
from searchkit.suite.store.records import Row
from searchkit.suite.store.tasks import JobView
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config

COUNTED = (State.FINISHED, State.PRUNED)  # the states of jobs whose scores rank them


class JobScalars(NamedTuple):
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
    scores: Mapping[str, float] = MappingProxyType({})
    known: Mapping[str, Summary] | None = None  # what the events say of its scalars; then `series` was not read
    faults: tuple[str, ...] = ()  # where the first undecodable lines are, and what is wrong with them
    shared: tuple[str, ...] = ()  # tags that several folders of its event files hold

    @property
    def name(self) -> str:
        """`3`, or `3:0f3a99c1d2`."""
        return self.row.name if self.row else str(self.view.job.index)

    @property
    def names(self) -> tuple[str, ...]:
        """The scalars that it reported."""
        return tuple(self.series if self.known is None else self.known)

    def number(self, name: str) -> Summary | None:
        """One scalar's last and best; None where it did not report it."""
        if self.known is not None:
            return self.known.get(name)
        return numbers.summary(series) if (series := self.series.get(name)) else None

    def last(self) -> dict[str, float]:
        """The last value of each scalar."""
        if self.known is not None:
            return {name: summary.last for name, summary in self.known.items()}
        return {name: scalars.last(series) for name, series in self.series.items() if series}

    def only(self, names: tuple[str, ...]) -> JobScalars:
        """The same with the named scalars alone, in that order; with all of them where none is named."""
        if not names:
            return self
        known = None if self.known is None else {n: self.known[n] for n in names if n in self.known}
        return self._replace(series={n: self.series[n] for n in names if n in self.series}, known=known)


class Scored(NamedTuple):
    """A row that has all objectives; `front` counts from 0, the rows that none is better than in every objective."""

    entry: JobScalars
    scores: tuple[float, ...]
    front: int = 0


def read(
    task: TaskPaths,
    project_name: str,
    config: Config,
    jobs: Iterable[JobView],
    *,
    light: bool = False,
    names: Collection[str] = (),
    scored: bool = True,
) -> list[JobScalars]:
    """Read the scalars of each job's highest attempt (attempts never mix).

    light: the last and best value of each are enough, so that no folder is opened of a job whose result holds them,
    unless it left records, or results of callbacks; a tag that several folders of any of these jobs hold is then the
    scalar of none, as it would rank the training's curve among those of validation. names: then, the scalars that are
    needed (empty: all). scored: a score stands for the number of that name.
    """
    out = []
    objectives, monitor = config.objectives, numbers.digest(config)
    objective_names = [objective.name for objective in objectives]
    for view in jobs:
        job = view.job
        if job.attempt == 0:
            out.append(JobScalars(view, {}, None, None, 0))
            continue
        scores: dict[str, float] = {}
        if job.scores is not None and view.state in COUNTED:
            scores = dict(zip(objective_names, job.scores, strict=False))
        known, left = numbers.of(job, monitor, names) if light else None, job.left
        if known is None:
            left = tuple(numbers.LEFT.values())
            if light and names and scored and scores.keys() >= set(names):
                # Written before results had numbers.
                known, left = {}, ("records",)
        if known is not None and not left:
            out.append(JobScalars(view, {}, None, None, 0, scores=scores, known=known, shared=job.shared))
            continue
        paths = task.job(job.index).attempt(job.attempt)
        series: dict[str, scalars.Series] = {}
        skipped, shared = 0, job.shared
        faults: tuple[str, ...] = ()
        if known is None:
            reading = trials.series_of(task, project_name, config, job, ended=view.state is not State.RUNNING)
            series = {**reading.series, **trials.derived(objectives, reading.series)}
            skipped, faults, shared = reading.skipped, reading.faults, tuple(reading.shared)
        pre, after = (
            scalars.read_callback_result(paths.callback, which) if which in left else None for which in ("pre", "after")
        )
        rows, bad = records.read(paths, job.index) if "records" in left else ((), ())
        rows = tuple(replace(row, values={**row.values, **_row_values(objectives, row)}) for row in rows)
        faults += tuple(f"records.jsonl line {line}: no record of an arch" for line in bad)
        skipped += len(bad)
        out.append(JobScalars(view, series, pre, after, skipped, rows, None, scores, known, faults, shared))
    return _without(out, {tag for job in out for tag in job.shared}, objectives) if light else out


def _without(jobs: list[JobScalars], tags: set[str], objectives: Iterable[Objective]) -> list[JobScalars]:
    """The jobs without these tags as scalars, and without the objectives that are made of them."""
    if not tags:
        return jobs
    gone = tags.union(
        objective.name for objective in objectives if not tags.isdisjoint(trials.scalars_needed([objective]))
    )

    def left(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in by_name.items() if name not in gone}

    return [
        job._replace(
            series=left(job.series), scores=left(job.scores), known=None if job.known is None else left(job.known)
        )
        for job in jobs
    ]


def _row_values(objectives: Iterable[Objective], row: Row) -> dict[str, float]:
    derived = trials.derived(objectives, {name: {0: value} for name, value in row.values.items()})
    return {name: series[0] for name, series in derived.items()}


def split(jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The rows to rank: one for each record of a job, and each job that has none, or scores of its own."""
    out: list[JobScalars] = []
    for job in jobs:
        for row in job.records:
            series = {name: {0: value} for name, value in row.values.items()}
            out.append(job._replace(series=series, records=(), row=row, scores={}, known=None))
        if job.scores or not job.records:
            out.append(job._replace(records=()) if job.records else job)
    return out


def joined(rows: Iterable[JobScalars], jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The jobs of these rows in the order of their first one, each with those of its records that are among them."""
    by_index = {job.view.job.index: job for job in jobs}
    records_of: dict[int, list[Row]] = {}
    for row in rows:
        records_of.setdefault(row.view.job.index, []).extend([row.row] if row.row else [])
    return [by_index[n]._replace(records=tuple(records)) for n, records in records_of.items()]


def reward(job: JobScalars, name: str, mode: str = "", score: str = "last", *, scored: bool = True) -> float:
    """The value a job is ranked by: its score, else (and where `scored` is false) the last reported step, or where
    `score` is "best" the best by `mode`, else that of its best record. NaN where it has none."""
    if name in job.scores and scored:
        return job.scores[name]
    number = job.number(name)
    if number is None:
        values = dict(enumerate(row.values[name] for row in job.records if name in row.values))
        return scalars.best(values, mode or "max") if values else math.nan
    return number.value(score, mode or "max")


def never_scored(rows: Iterable[JobScalars], objectives: Iterable[Objective]) -> list[str]:
    """A line for each objective that is an expression and gives no number for any of the rows that ended: what these
    lack, and what they have instead."""
    ended = [row for row in rows if row.row or row.view.state in COUNTED]
    lines = []
    for objective in objectives if ended else ():
        if objective.value and not any(math.isfinite(reward(row, objective.name, objective.mode)) for row in ended):
            last = {name: value for row in reversed(ended) for name, value in row.last().items()}
            folders = {name: ways(ended, name) for name in trials.scalars_needed([objective])}
            why = trials.why_unscored([objective], last)
            for name, names in folders.items():
                if names:
                    why = f"{name} {trials.IN_FOLDERS}: name one, {' or '.join(map(expression.quoted, names))}"
            lines.append(f"no job has a number for {objective.name}, `{objective.value}`: {why}")
    return lines


def reports(job: JobScalars, name: str) -> bool:
    """Whether a job, or a record of it, has any value of that name, even one that is no number."""
    return name in job.scores or name in job.names or any(name in row.values for row in job.records)


def ways(rows: Iterable[JobScalars], name: str) -> tuple[str, ...]:
    """The names to choose from, where `name` alone is a tag of TensorBoard that several folders of a job hold."""
    matches = [[n for n in row.names if n.endswith(f"/{name}")] for row in rows if row.number(name) is None]
    return tuple(dict.fromkeys(n for names in matches if len(names) > 1 for n in names))


def rank(
    jobs: list[JobScalars], name: str, *, descending: bool, mode: str = "max", score: str = "last", scored: bool = True
) -> list[JobScalars]:
    """Jobs ordered by reward; NaN, infinities and missing values last both ways; ties keep the order of the jobs."""

    def key(job: JobScalars) -> tuple[bool, float]:
        value = reward(job, name, mode, score, scored=scored)
        return not math.isfinite(value), (-value if descending else value) if math.isfinite(value) else 0.0

    return sorted(jobs, key=key)


# --- by objectives ---------------------------------------------------------------------------------------------------


def scored(rows: Iterable[JobScalars], objectives: Sequence[Objective], first: int = 1) -> list[Scored]:
    """The rows that have every objective as a finite number, best first: by front, then by the first objective, then in
    order. A job counts once it ended by itself or by a stopper; a record counts as soon as it is there.

    first: how many rows are wanted in that order. Fronts are looked for until they have so many; what is left counts as
    one more front.
    """
    candidates: list[tuple[tuple[float, ...], JobScalars]] = []
    for row in rows:
        if row.row is None and row.view.state not in COUNTED:
            continue
        scores = tuple(reward(row, objective.name, objective.mode, objective.score) for objective in objectives)
        if all(map(math.isfinite, scores)):
            candidates.append((scores, row))
    ordered: list[Scored] = []
    modes, number = [objective.mode for objective in objectives], 0

    def add(rows: Iterable[tuple[tuple[float, ...], JobScalars]]) -> None:
        in_order = sorted(rows, key=lambda candidate: losses(candidate[0], objectives))
        ordered.extend(Scored(row, scores, number) for scores, row in in_order)

    while len(objectives) > 1 and candidates and len(ordered) < first:
        front = set(pareto.front([scores for scores, _ in candidates], modes))
        add(candidate for i, candidate in enumerate(candidates) if i in front)
        candidates = [candidate for i, candidate in enumerate(candidates) if i not in front]
        number += 1
    add(candidates)
    return ordered


def worst(rows: Iterable[Scored], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The worst value of each objective among the rows; none where there is no row."""
    columns = zip(*(row.scores for row in rows), strict=True)
    return tuple(
        min(column) if objective.mode == "max" else max(column)
        for objective, column in zip(objectives, columns, strict=False)
    )
