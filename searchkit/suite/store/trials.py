"""Jobs as the trials of a search: what was asked for, what each reported, and its scores.

All that samplers and stoppers see comes from the events, so whoever replays them sees the same.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.reading import expression
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.config.settings import Objective
from searchkit.suite.store import kept, scalars
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.scalars import Reader, Reading, Series
from searchkit.suite.store.state import TaskState
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.space.space import Genes, Space

# Why a job has no scores: one of these is in its reason, and begins the last part of that.
NEVER, NOT_FINITE, IN_FOLDERS = "never reported", "is no finite number", "is in several folders of event files"
_WHY = re.compile(rf"(?:\A|; )(?:{NEVER} |[^;]*(?:{NOT_FINITE}|{IN_FOLDERS})).*", re.DOTALL)
NAMES_SHOWN = 12  # scalars that jobs reported in place of what was looked for
# Increased whenever the same files come to be read as other numbers; not when merely more of them can be used: each
# look at a task begun before would then read all of its logs again.
READER = 1

_STATES = {State.FINISHED: "finished", State.PRUNED: "pruned", State.ERROR: "failed", State.STOPPED: "failed"}


def is_search(config: Config) -> bool:
    return config.is_search


# --- what a job reported ---------------------------------------------------------------------------------------------


def series_of(
    task: TaskPaths, project_name: str, config: Config, job: Job, *, ended: bool, names: Collection[str] = ()
) -> Reading:
    """What the highest attempt of a job reported. `names`: those that are looked for; all where empty."""
    stored = kept.load(task, job, digest(config)) if ended and job.result is not None else None
    return stored or reader_of(task, project_name, config, job).read(names, ended=ended)


def reader_of(task: TaskPaths, project_name: str, config: Config, job: Job) -> Reader:
    """What reads all that the highest attempt of a job reports."""
    monitor = config.monitor
    paths = task.job(job.index).attempt(job.attempt)
    workdir = f"{paths.root}/{project_name}"
    is_gone = job.result is not None and not os.path.isdir(workdir)
    return Reader(
        paths.callback,
        log=paths.log if monitor.regex else None,
        regex=monitor.regex,
        workdir=workdir,
        tensorboard=monitor.tensorboard,
        newer_than_s=job.launched_s,
        named=_paths(config),
        removed=kept.removed(task, job) if is_gone else {},
    )


def digest(config: Config) -> str:
    """Eight hex digits of all in a config that says which numbers a job's files hold."""
    monitor = config.monitor
    values = [[objective.name, objective.value] for objective in config.objectives if objective.value]
    readings = [READER, monitor.regex, monitor.tensorboard, values, _paths(config)]
    return f"{zlib.crc32(json.dumps(readings).encode('utf-8', 'surrogateescape')):08x}"


def _paths(config: Config) -> tuple[str, ...]:
    """The scalars that a config names which may be a tag of TensorBoard after a folder."""
    names = (*scalars_needed(config.objectives), *config.monitor.scalars)
    return tuple(dict.fromkeys(name for name in names if "/" in name)) if config.monitor.tensorboard else ()


class Readers:
    """What reads the reports of the running attempts, each file from where it was last read."""

    def __init__(self, task: TaskPaths, project_name: str, config: Config) -> None:
        self._task, self._project_name, self._config = task, project_name, config
        self._open: dict[int, tuple[int, Reader]] = {}  # by job: attempt, its reader

    def of(self, job: Job) -> Reader:
        """That of the highest attempt of a job."""
        attempt, reader = self._open.get(job.index, (0, None))
        if reader is None or attempt != job.attempt:
            reader = reader_of(self._task, self._project_name, self._config, job)
            self._open[job.index] = job.attempt, reader
        return reader

    def close(self, job: Job) -> None:
        """Forget what was read of a job that ended."""
        self._open.pop(job.index, None)


def scalars_needed(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """The names of the scalars that objectives are made of."""
    return tuple(dict.fromkeys(name for objective in objectives for name in _names(objective)))


def _names(objective: Objective) -> tuple[str, ...]:
    return expression.parse(objective.value).names if objective.value else (objective.name,)


def over_steps(objective: Objective, series: Mapping[str, Series]) -> Series:
    """An objective at every step that has all of its scalars."""
    if not objective.value:
        return series.get(objective.name, {})
    parsed = expression.parse(objective.value)
    parts = [series.get(name, {}) for name in parsed.names]
    steps = sorted(set.intersection(*map(set, parts))) if parts else []
    return {
        step: _value(objective, {name: part[step] for name, part in zip(parsed.names, parts, strict=True)})
        for step in steps
    }


def shared(jobs: Iterable[Job]) -> dict[str, tuple[str, ...]]:
    """Tags that several folders of event files of any of these jobs hold, and the names to choose from."""
    names_of: dict[str, tuple[str, ...]] = {}
    for job in jobs:
        for tag in job.shared:
            if tag not in names_of:
                names = (entry.split(" ", 1)[0] for entry in (job.numbers or "").split("|"))
                names_of[tag] = tuple(name for name in names if name.endswith(f"/{tag}"))
    return names_of


def at_the_end(objective: Objective, series: Mapping[str, Series]) -> float:
    """The value of an objective that ranks a job: made of the last value of each of its scalars, or the best over the
    steps; NaN where one was not reported, or no value is finite."""
    if objective.score == "best":
        over = (
            derived([objective], series).get(objective.name, {}) if objective.value else series.get(objective.name, {})
        )
        return scalars.best(over, objective.mode) if over else math.nan
    names = _names(objective)
    if any(not series.get(name) for name in names):
        return math.nan
    last = {name: scalars.last(series[name]) for name in names}
    return _value(objective, last) if objective.value else last[objective.name]


def derived(objectives: Iterable[Objective], series: Mapping[str, Series]) -> dict[str, Series]:
    """The objectives that are expressions, from the first step on that has all they need. What was reported once, at
    the first step, holds for all others, so their last value is that of the last values."""
    derived_series: dict[str, Series] = {}
    for objective in objectives:
        needs = _names(objective) if objective.value else ()
        if not needs or not all(series.get(name) for name in needs):
            continue
        values: dict[str, float] = {}
        over: Series = derived_series.setdefault(objective.name, {})
        for step in sorted(set().union(*(series[name] for name in needs))):
            values.update((name, series[name][step]) for name in needs if step in series[name])
            if len(values) == len(needs):
                over[step] = _value(objective, values)
    return derived_series


def _value(objective: Objective, values: Mapping[str, float]) -> float:
    try:
        return _evaluated(objective, values)
    except (UsageError, OverflowError):  # a division by zero at this one point
        return math.nan


def _evaluated(objective: Objective, values: Mapping[str, float]) -> float:
    value = expression.evaluate(expression.parse(objective.value or objective.name), values)
    try:
        return float(value)
    except (TypeError, ValueError) as e:
        raise UsageError(f"it gives {value!r}, which is no number") from e


def why_unscored(objectives: Iterable[Objective], last: Mapping[str, float]) -> str:
    """Why these objectives have no value where the last values are these; empty where all have one."""
    objectives = tuple(objectives)
    missing = [name for name in scalars_needed(objectives) if name not in last]
    if missing:
        instead = expression.unquoted(" ".join(objective.value or "" for objective in objectives), last)
        names = sorted(set(last).difference(objective.name for objective in objectives))
        return f"{NEVER} {', '.join(missing)} (reported: {listed(names)}){instead}"
    return "; ".join(filter(None, (_fault(objective, last) for objective in objectives)))


def explained(reason: str, why: str) -> str:
    """The reason of a result with why it has no scores, in place of the one before."""
    return "; ".join(filter(None, (_WHY.sub("", reason), why)))


def listed(names: Sequence[str]) -> str:
    """The names of scalars in one line."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "nothing") + more


def _fault(objective: Objective, last: Mapping[str, float]) -> str:
    where = "at any step" if objective.score == "best" else "at the last step"
    try:
        value = _evaluated(objective, last) if objective.value else last[objective.name]
    except (UsageError, OverflowError) as e:
        return f"{objective.name} {NOT_FINITE} {where}: {e.message if isinstance(e, UsageError) else e}"
    return "" if math.isfinite(value) else f"{objective.name} {NOT_FINITE} {where}"


def scores_of(
    job: Job, objectives: Sequence[Objective], reading: Reading, *, pruned: bool
) -> tuple[list[float] | None, str]:
    """(scores in the order of `wanted`, why there are none) of a job that ended, and of all that it reported. All have
    to be numbers. `pruned`: a stopper ended it, so it is scored by the reports that it was judged by, whatever came
    after."""
    reported = reading.series
    for name in scalars_needed(objectives):
        if name in reading.shared:
            return None, f"{name} {IN_FOLDERS}: name one, {' or '.join(reading.shared[name])}"
    scores = [at_the_end(objective, reported) for objective in objectives]
    if pruned and job.reports and scores:
        best = objectives[0].score == "best"
        scores[0] = scalars.best(dict(job.reports), objectives[0].mode) if best else job.reports[-1][1]
    bad = [objective.name for objective, score in zip(objectives, scores, strict=True) if not math.isfinite(score)]
    if not bad:
        return scores, ""
    last = {name: scalars.last(series) for name, series in reported.items() if series}
    lacking = [objective for objective in objectives if objective.name in bad]
    return None, why_unscored(lacking, last) or f"{', '.join(bad)} {NOT_FINITE}"


# --- trials ----------------------------------------------------------------------------------------------------------


class History:
    """The trials of a task, kept up to date with its state; `trials` is in the order in which they were made.

    `first`: each is what it was when it ended for the first time, whatever a restart has made of it; and those that
    existed when a new stream began were given to it. For samplers that replay what they were told.
    """

    def __init__(self, state: TaskState, *, first: bool = False) -> None:
        self._first = first
        self.trials: list[Trial] = [
            Trial(k - len(state.warm or ()), w["genes"], "finished", tuple(w["scores"]), given=True)
            for k, w in enumerate(state.warm or ())
        ]
        self._place: dict[int, int] = {}
        self._state = state
        state.changed.update(state.jobs, state.deleted)
        self.update()

    def update(self) -> Sequence[Trial]:
        """Take in what changed; returns the trials."""
        state = self._state
        for n in sorted(state.changed):
            deleted = n not in state.jobs
            job = state.deleted.get(n) if deleted else state.jobs[n]
            if job is None or job.genes is None:
                continue
            trial = trial_of(job, deleted, first=self._first)
            if self._first and state.stream and job.asked <= state.streamed_at and not trial.given:
                trial = replace(trial, given=True)
            if n in self._place:
                self.trials[self._place[n]] = trial
            else:
                self._place[n] = len(self.trials)
                self.trials.append(trial)
        state.changed.clear()
        return self.trials

    @contextlib.contextmanager
    def as_if(self, n: int, report: tuple[int, float]) -> Iterator[tuple[Sequence[Trial], Trial]]:
        """(the trials, that of job `n`) as they are once it has made this report, within the block."""
        self.update()
        place = self._place[n]
        before = self.trials[place]
        trial = self.trials[place] = replace(before, reports=(*before.reports, report))
        try:
            yield self.trials, trial
        finally:
            self.trials[place] = before


def trial_of(job: Job, deleted: bool = False, *, first: bool = False) -> Trial:
    """A job as a trial; one that was deleted before it ended counts as failed. `first`: as it first ended."""
    now, scores, told = (job.first if first else None) or (job.state, job.scores, job.told)
    state = _STATES.get(now, "failed" if deleted else "running")
    if state == "finished" and scores is None:
        state = "failed"
    if state not in ("finished", "pruned"):
        scores = None
    if state == "running":
        told = None
    return Trial(job.index, job.genes or {}, state, scores, job.reports, job.asked, told, job.given)


# --- trials from elsewhere -------------------------------------------------------------------------------------------


def warm_from_csv(path: str, space: Space, objectives: Sequence[Objective]) -> tuple[list[dict[str, Any]], int]:
    """(trials, rows left out) of a CSV with a column for each argument and objective. Raises UsageError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = list(csv.DictReader(f))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"search.warm_start: can't read {path}: {e}") from e
    columns = set(rows[0]) if rows else set()
    lacking = [objective.name for objective in objectives if objective.name not in columns]
    if rows and lacking:
        hint = f"its columns: {', '.join(map(str, columns))}"
        raise UsageError(f"search.warm_start: {path} has no column {', '.join(lacking)}", hint)
    names = {name for arg in space.args for name in arg.names}
    points = [
        ({k: v for k, v in row.items() if k in names}, [row[objective.name] for objective in objectives])
        for row in rows
    ]
    return _warm(space, points)


def warm_from_jobs(
    jobs: Iterable[tuple[Mapping[str, Any], Mapping[str, Series]]], space: Space, objectives: Sequence[Objective]
) -> tuple[list[dict[str, Any]], int]:
    """(trials, jobs left out) from the values of other jobs and what they reported."""
    names = {name for arg in space.args for name in arg.names}
    points = [
        ({k: v for k, v in values.items() if k in names}, [at_the_end(objective, series) for objective in objectives])
        for values, series in jobs
    ]
    return _warm(space, points)


def _warm(space: Space, points: Iterable[tuple[Mapping[str, Any], Sequence[Any]]]) -> tuple[list[dict[str, Any]], int]:
    trials: dict[str, dict[str, Any]] = {}
    left_out = 0
    for values, scores in points:
        try:
            numbers = [float(score) for score in scores]
            genes: Genes = space.genes(values)
        except (UsageError, TypeError, ValueError):
            left_out += 1
            continue
        if space.fault(genes) or not all(map(math.isfinite, numbers)) or not space.feasible(genes):
            left_out += 1
            continue
        trials.setdefault(space.key(genes), {"genes": genes, "scores": numbers})
    return list(trials.values()), left_out
