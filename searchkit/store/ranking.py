"""Scalars of the jobs of a task, and their order by reward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from searchkit.store import scalars
from searchkit.store.state import State
from searchkit.store.tasks import JobView
from searchkit.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.config import Config


@dataclass(frozen=True)
class JobScalars:
    """What one job reported: `series[name][step] = value`, and the results of its callbacks."""

    view: JobView
    series: dict[str, dict[int, float]]
    pre: dict[str, Any] | None
    after: dict[str, Any] | None
    skipped: int  # undecodable lines

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
        out.append(JobScalars(view, reading.series, pre, after, reading.skipped))
    return out


def reward(job: JobScalars, name: str, mode: str = "", best: bool = False) -> float:
    """The value a job is ranked by: the last reported step (`best`: the best by `mode`). NaN where it has none."""
    series = job.series.get(name)
    if not series:
        return math.nan
    return scalars.best(series, mode or "max") if best else scalars.last(series)


def rank(
    jobs: list[JobScalars], name: str, *, descending: bool, mode: str = "max", best: bool = False
) -> list[JobScalars]:
    """Jobs ordered by reward, NaN and missing last both ways; ties keep the order of the jobs."""

    def key(job: JobScalars) -> tuple[bool, float]:
        value = reward(job, name, mode, best)
        return math.isnan(value), 0.0 if math.isnan(value) else (-value if descending else value)

    return sorted(jobs, key=key)
