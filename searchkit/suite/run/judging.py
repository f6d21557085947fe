"""What reports decide in a search: which jobs are ended early, and how those that ended are scored.

Reports are judged in the order of their steps while their job runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.suite.algorithms.history import Verdict
from searchkit.suite.config.settings import Config
from searchkit.suite.run.search import Read, Search, once
from searchkit.suite.store import scalars, trials
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.scalars import Reading, Series
from searchkit.suite.store.tasks import OpenTask

EVENT_FILES_S = 2.0  # between two looks for event files of TensorBoard
WHY = {
    Verdict.STOP: "prune",
    Verdict.PAUSE: "pause",
}


def judge(search: Search, running: Iterable[int]) -> None:
    """Look at what the running jobs reported since the last time, and stop those that their stoppers give up."""
    if search.stoppers:
        for n in sorted(running):
            if not search.task.state.jobs[n].stop:
                _judge_reports(search, n)


def _judge_reports(search: Search, n: int) -> None:
    """Judge the new reports of a job in order, up to the first where a stopper ends it. Report and verdict are one
    event: a kill between the two would leave a report that nobody judges."""
    job = search.task.state.jobs[n]
    for step, value, wanting in _new_reports(search.stoppers, job.reports, _series(search, job) or {}):
        with search.history.as_if(n, (step, value)) as (history, trial):
            verdicts = {stopper.judge(history, trial) for stopper in wanting}
        why = next((WHY[v] for v in (Verdict.STOP, Verdict.PAUSE) if v in verdicts), "")
        more = {"stop": why} if why else {}
        search.task.record("report", time=time.time(), job=n, step=step, value=value, **more)
        if why:
            return


def _new_reports(
    stoppers: Sequence[Any], judged: Sequence[tuple[int, float]], series: Series
) -> Iterator[tuple[int, float, list[Any]]]:
    """(step, value, the stoppers that want to see it) of the reports that are not judged yet, by step."""
    last = judged[-1][0] if judged else None
    for step, value in series.items():
        if last is None or step > last:
            wanting = [stopper for stopper in stoppers if stopper.wants(step, last)]
            if wanting:
                last = step
                yield step, value, wanting


def wanted_reports(stoppers: Sequence[Any], series: Series) -> list[tuple[int, float]]:
    """The (step, value) of a whole series that stoppers would have asked for, ascending."""
    return [(step, value) for step, value, _ in _new_reports(stoppers, (), series)]


def take_in(task: OpenTask, config: Config, stoppers: Sequence[Any], job: Job, reported: Mapping[str, Series]) -> None:
    """Record what a job that finished by itself reported since it was last judged, even after a verdict that came too
    late. No verdict counts any more, but other jobs are compared with all of its reports."""
    if not stoppers:
        return
    objective = config.objectives[0]
    for step, value, _ in _new_reports(stoppers, job.reports, trials.over_steps(objective, reported)):
        task.record("report", time=time.time(), job=job.index, step=step, value=value, after_end=True)


def _series(search: Search, job: Job) -> Series | None:
    """The first objective of a running job over its steps; None where its files did not change since the last time."""
    task = search.task.paths
    paths = task.job(job.index).attempt(job.attempt)
    monitor = search.config.monitor
    mark = scalars.mark(paths.callback, paths.log if monitor.regex else None)
    before = search.read.get(job.index)
    if before and before.attempt != job.attempt:
        before = None
    objective, now = search.objectives[0], time.monotonic()
    if before and before.mark == mark and not (before.in_events and now - before.at_s >= EVENT_FILES_S):
        return None
    reader = search.readers.of(job)
    reading = reader.read(trials.scalars_needed([objective]), ended=False)
    series = trials.over_steps(objective, reading.series)
    old = before.steps if before else set()
    if old and (late := sorted(step for step in series if step not in old and step < max(old))):
        message = f"job {job.index} reported step {late[0]} of {objective.name} after step {max(old)}"
        once(search, f"{message}: steps that go back are kept and shown, but not judged")
    search.read[job.index] = Read(job.attempt, mark, now, set(series), reader.events is not None)
    return series


def scores(search: Search, n: int, outcome: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """What a search adds to the result of a job with these reports: its scores, or why it has none. Its last reports
    are recorded first."""
    if outcome["retry"] or outcome["state"] not in (State.FINISHED.value, State.PRUNED.value):
        return {}
    job = search.task.state.jobs[n]
    if outcome["state"] == State.FINISHED.value:
        take_in(search.task, search.config, search.stoppers, job, reading.series)
    pruned = outcome["state"] == State.PRUNED.value
    # A tag that several folders of one job hold is no series of any later job: which folder that one lacks is unknown.
    search.shared.update(reading.shared)
    reading = replace(reading, shared={**search.shared, **reading.shared})
    values, why = trials.scores_of(job, search.objectives, reading, pruned=pruned)
    if values is None:
        once(search, f"{why.replace('never', 'a job never', 1)}; it counts as a failed trial")
        return {"scores": None, "reason": trials.explained(outcome["reason"], why)}
    return {"scores": values}
