"""Scalars of the jobs of a task and of the subnets that they scored, and their order by reward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from searchkit.store import records, scalars
from searchkit.store.records import Row
from searchkit.store.state import State
from searchkit.store.tasks import JobView
from searchkit.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.config import Config


@dataclass(frozen=True)
class JobScalars:
    """What one job reported: `series[name][step] = value`, the results of its callbacks, the records of its subnets.

    Or one such record as a row of its own (`split`): then `row` is it, and `series` its numbers, at step 0.
    """

    view: JobView
    series: dict[str, dict[int, float]]
    pre: dict[str, Any] | None
    after: dict[str, Any] | None
    skipped: int  # undecodable lines
    records: tuple[Row, ...] = ()
    row: Row | None = None

    @property
    def name(self) -> str:
        """`3`, or `3:0f3a99c1d2`."""
        return self.row.name if self.row else str(self.view.job.index)

    def only(self, names: tuple[str, ...]) -> JobScalars:
        """The same with the named scalars alone, in that order; with all of them where none is named."""
        return replace(self, series={n: self.series[n] for n in names if n in self.series}) if names else self


def read(task: TaskPaths, project_name: str, config: Config, jobs: Iterable[JobView]) -> list[JobScalars]:
    """Read the scalars of each job's highest attempt (attempts never mix)."""
    monitor = config.monitor
    out = []
    for view in jobs:
        if view.job.attempt == 0:
            out.append(JobScalars(view, {}, None, None, 0))
            continue
        paths = task.job(view.job.index).attempt(view.job.attempt)
        reading = scalars.read(
            paths.callback,
            log=paths.log if monitor.regex else None,
            regex=monitor.regex,
            workdir=f"{paths.root}/{project_name}",
            tensorboard=monitor.tensorboard,
            newer_than_s=view.job.launched_s,
            ended=view.state is not State.RUNNING,
        )
        pre = scalars.read_callback_result(paths.callback, "pre")
        after = scalars.read_callback_result(paths.callback, "after")
        found, skipped = records.read(paths, view.job.index)
        out.append(JobScalars(view, reading.series, pre, after, reading.skipped + skipped, found))
    return out


def split(jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The rows to rank: one for each record of a job, and each job that has none."""
    out: list[JobScalars] = []
    for job in jobs:
        for row in job.records:
            series = {name: {0: value} for name, value in row.values.items()}
            out.append(replace(job, series=series, records=(), row=row))
        if not job.records:
            out.append(job)
    return out


def joined(rows: Iterable[JobScalars], jobs: Iterable[JobScalars]) -> list[JobScalars]:
    """The jobs of these rows in the order of their first one, each with those of its records that are among them."""
    by_index = {job.view.job.index: job for job in jobs}
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.view.job.index, []).extend([row.row] if row.row else [])
    return [replace(by_index[n], records=tuple(kept)) for n, kept in found.items()]


def reward(job: JobScalars, name: str, mode: str = "", best: bool = False) -> float:
    """The value a job is ranked by: the last reported step (`best`: the best by `mode`), else that of its best record.
    NaN where it has none."""
    series = job.series.get(name)
    if not series:
        values = dict(enumerate(row.values[name] for row in job.records if name in row.values))
        return scalars.best(values, mode or "max") if values else math.nan
    return scalars.best(series, mode or "max") if best else scalars.last(series)


def rank(
    jobs: list[JobScalars], name: str, *, descending: bool, mode: str = "max", best: bool = False
) -> list[JobScalars]:
    """Jobs ordered by reward, NaN and missing last both ways; ties keep the order of the jobs."""

    def key(job: JobScalars) -> tuple[bool, float]:
        value = reward(job, name, mode, best)
        return math.isnan(value), 0.0 if math.isnan(value) else (-value if descending else value)

    return sorted(jobs, key=key)
