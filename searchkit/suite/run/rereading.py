"""Numbers of jobs read again from their files, where the config now says otherwise how to read them.

Nothing is run for that: the logs, callback files and event files of every attempt are kept. What they say now is
recorded as `numbers` events and, in a search, as `trial` events. If we are killed, some jobs keep their old numbers
until the next search-run reads them. Where files of a job are gone, what was read from them before stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from searchkit import fsio
from searchkit.suite.config.settings import Config
from searchkit.suite.run import judging
from searchkit.suite.run import search as searching
from searchkit.suite.store import kept, numbers, ranking, tasks, trials
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.scalars import Reading
from searchkit.suite.store.state import TaskState
from searchkit.suite.store.tasks import OpenTask

AT_ONCE = 50  # jobs whose numbers are recorded before they are synced


def read_again(task: OpenTask, config: Config, say: Callable[[str], None]) -> None:
    """Bring the numbers of a task up to date with its config. Raises StorageError, and UsageError for stoppers that
    can't be made."""
    state = task.state
    if not state.reread:
        return
    is_search, monitor = trials.is_search(config), numbers.digest(config)
    old = [n for n, job in sorted(state.jobs.items()) if _is_old(job, state, is_search, monitor)]
    if is_search:
        for n, job in sorted(state.deleted.items()):
            if job.scores is not None and job.read_by < state.reread:  # its files are gone
                task.record("trial", job=n, scores=None, reports=[], reason="deleted", config=state.config)
    if not old:
        return
    if all(state.jobs[n].genes is None and state.jobs[n].monitor == monitor for n in old):  # of a grid until now
        say(f"{len(old)} job(s) become trials of the search, with scores from their files; none is run again")
    else:
        say(f"what is read of jobs has changed: {len(old)} job(s) are read again from their files, none is run again")
    stoppers = searching.make_stoppers(config, config.objectives, state.defaults) if is_search else ()
    scored, gone = 0, dict[int, str]()
    shared = trials.shared(job for job in state.jobs.values() if job.monitor == monitor)
    for k, n in enumerate(old, 1):
        reading, lost = _reading(task, config, n)
        shared.update(reading.shared)
        reading = replace(reading, shared={**shared, **reading.shared})  # as in judging.scores
        if is_search:
            scored += _record_trial(task, config, n, reading, stoppers)
        gone.update({n: lost} if lost else {})
        if k % AT_ONCE == 0:
            task.journal.commit()
    task.journal.commit()
    if gone:
        n, lost = next(iter(gone.items()))
        say(f"note: files of {len(gone)} of them are gone (job {n}: {lost}); what was read of those before stays")
    names = ", ".join(objective.name for objective in config.objectives)
    if is_search:
        after = f"; from job {state.next_job} on the search goes by these numbers"
        say(f"{scored} of them have {names or 'no objective'}{after}")
    elif names:
        say(_counted(task, config, old))


def _is_old(job: Job, state: TaskState, is_search: bool, monitor: str) -> bool:
    if not job.attempt:
        return False
    ended = job.result is not None and job.result.rc is not None
    trial = is_search and job.read_by < state.reread and (job.result is not None or bool(job.reports))
    return trial or (ended and job.monitor != monitor)


def _reading(task: OpenTask, config: Config, n: int) -> tuple[Reading, str]:
    """(what a job reported, by the present config; which of its files are gone). Numbers from files that are gone stay
    as they were read before."""
    job, paths, monitor = task.state.jobs[n], task.paths, numbers.digest(config)
    reader = trials.reader_of(paths, paths.workspace.project_name, config, job)
    with fsio.storage():
        reading = reader.read(ended=job.result is not None)
        # What never exited may never have had them.
        gone = kept.gone(paths, job, reader) if job.result and job.result.rc is not None else ""
        if gone:
            before = {**numbers.points(job), **kept.before(paths, job)}
            reading = replace(reading, series={**before, **reading.series})
        if job.result is not None and not job.result.retry:
            kept.save(paths, job, monitor, reader, reading, always=bool(gone))
    if job.result is not None and not job.result.retry:
        task.record("numbers", job=n, attempt=job.attempt, **numbers.recorded(config, reading, reader.callback))
    return reading, gone


def _counted(task: OpenTask, config: Config, jobs: Sequence[int]) -> str:
    """How many of these jobs of a grid have all objectives, be it in a record; what they reported where none has."""
    objectives, paths = config.objectives, task.paths
    views = [tasks.view_job(paths, task.state.jobs[n]) for n in jobs]
    needed = [objective.name for objective in objectives]
    rows = ranking.split(ranking.read(paths, paths.workspace.project_name, config, views, light=True, names=needed))
    complete = {
        row.view.job.index
        for row in rows
        if all(
            math.isfinite(ranking.reward(row, objective.name, objective.mode, objective.score))
            for objective in objectives
        )
    }
    instead = "" if complete else f" (reported: {trials.listed(sorted({name for row in rows for name in row.names}))})"
    return f"{len(complete)} of them have {', '.join(needed)}{instead}"


def _record_trial(task: OpenTask, config: Config, n: int, reading: Reading, stoppers: Sequence[Any]) -> bool:
    """Record what a job of a search is as a trial; return whether it has scores."""
    fields = _as_trial(config, task.state.jobs[n], stoppers, reading)
    task.record("trial", job=n, config=task.state.config, **fields)
    return fields["scores"] is not None


def _as_trial(config: Config, job: Job, stoppers: Sequence[Any], reading: Reading) -> dict[str, Any]:
    """A job as a trial: the reports that the stoppers would have seen of it until it ended, and its scores."""
    state = job.result.state if job.result else State.RUNNING
    series = trials.over_steps(config.objectives[0], reading.series) if config.objectives else {}
    last = job.reports[-1][0] if job.reports and state is not State.FINISHED else math.inf
    seen = [(step, value) for step, value in series.items() if step <= last]
    if stoppers:
        reports = judging.wanted_reports(stoppers, dict(seen))
    else:
        reports = [report for report in seen if report[0] in dict(job.reports)]
    reason = job.result.reason if job.result else ""
    if state not in (State.FINISHED, State.PRUNED):
        return {"scores": None, "reports": reports, "reason": trials.explained(reason, "")}
    job = replace(job, reports=tuple(reports))
    scores, why = trials.scores_of(job, config.objectives, reading, pruned=state is State.PRUNED)
    return {"scores": scores, "reports": reports, "reason": trials.explained(reason, why)}
