"""A search: which jobs are made next, and when it is over.

Samplers and stoppers decide, and see only the trials (store/trials.py). Like every decision, theirs is an event before
it is acted on; so are the reports that a stopper judged (judging.py). A search that is picked up again knows all that
it knew before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchkit.errors import NotFoundError, SearchkitError, UsageError
from searchkit.records.objective import loss
from searchkit.seeds import ask_seed
from searchkit.suite import algorithms
from searchkit.suite.algorithms import drawing
from searchkit.suite.algorithms.history import Trial, started
from searchkit.suite.config.settings import Config, Objective
from searchkit.suite.space.args import Range
from searchkit.suite.space.expand import shared_level
from searchkit.suite.space.genes import named
from searchkit.suite.space.space import Genes, Space
from searchkit.suite.store import creation, numbers, tasks, trials
from searchkit.suite.store.job import State
from searchkit.suite.store.state import DEFAULTS, EXHAUSTED, TaskState
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.store.trials import History, Readers
from searchkit.suite.workspace import Workspace

ENOUGH, LITTLE = 8, 0.4  # finished trials from which on a tau below this is worth a word
AHEAD = 8  # jobs made before their turn, where no result can change what they are


def make_sampler(config: Config, space: Space, objectives: Sequence[Objective], stream: int = 0) -> Any:
    """The sampler of a config; `stream` numbers the seeds of one that replays its history. Raises UsageError."""
    s = config.search
    kind = algorithms.sampler(s.sampler)
    if algorithms.needs_results(kind) and not objectives:
        raise UsageError(
            f"search.sampler: {s.sampler} needs a score: give task.reward_attribute or search.objectives",
            "a class that looks at no score says so: needs_results = False",
        )
    seed = ask_seed(s.seed, stream) if stream and algorithms.replays(kind) else s.seed
    return algorithms.make("sampler", s.sampler, space, tuple(objectives), seed, **s.sampler_options)


def make_stoppers(config: Config, objectives: Sequence[Objective], defaults: int = DEFAULTS) -> tuple[Any, ...]:
    """The stoppers of a config; all judge the first objective. `defaults`: the version of the defaults that the task
    began with. Raises UsageError."""
    older = {"asha": {"min": 1}} if defaults < 2 else {}
    return tuple(
        algorithms.make("stopper", rule.type, objectives[0], **{**older.get(rule.type, {}), **rule.options})
        for rule in config.search.stop
    )


def rung_lines(config: Config, state: TaskState) -> list[str]:
    """What the rungs of a search said of the final scores, for people."""
    lines = []
    for rule, stopper in zip(config.search.stop, make_stoppers(config, config.objectives, state.defaults), strict=True):
        rungs = stopper.trust(History(state).trials) if hasattr(stopper, "trust") else []
        taus = [f"step {step}: {'-' if tau is None else f'{tau:.2f}'} of {n}" for step, n, tau in rungs]
        if taus:
            lines.append(f"{rule.type}: Kendall's tau of rung and final score, finished trials: {', '.join(taus)}")
        if any(n >= ENOUGH and tau is not None and tau < LITTLE for _, n, tau in rungs):
            lines.append("  early steps say little of the last here: a larger `min` ends fewer good trials")
    return lines


def _suggest(config: Config, sampler: Any, history: Sequence[Trial], n: int) -> list[Genes]:
    """What a sampler suggests. Raises UsageError, also for any other error of a sampler of the user's own."""
    with algorithms.explained("sampler", config.search.sampler):
        points: list[Genes] = sampler.suggest(history, n)
    return points


def preview(config: Config, n: int) -> list[Genes]:
    """The first points that are asked for, before any result. Raises UsageError where there is none."""
    space, objectives = config.space, config.objectives
    points: list[Genes] = []
    for k in range(min(n, len(config.search.enqueue))):
        points.append(_enqueued(config, space, k))
    sampler = make_sampler(config, space, objectives)
    make_stoppers(config, objectives)  # their options are checked when they are made
    points += _suggest(config, sampler, _as_enqueued((), points), n - len(points)) if n > len(points) else []
    if not points:
        raise UsageError("the space has no point", f"task.constraints: {config.task.constraints}")
    return points


def check_points(config: Config) -> None:
    """Raise UsageError for what can't be run or searched, before anything is written."""
    if not trials.is_search(config):
        creation.check_points(config)
        return
    space = config.space
    for k in range(len(config.search.enqueue)):
        _enqueued(config, space, k)
    for genes in preview(config, 1):
        creation.describe(config, space.point(genes))


def _enqueued(config: Config, space: Space, k: int) -> Genes:
    """The k-th enqueued point; what it leaves open is drawn."""
    try:
        fixed = space.genes(config.search.enqueue[k])
        if space.measure and not space.fault(fixed) and not space.feasible(fixed):  # nothing is left to draw
            raise UsageError(f"does not meet the constraints ({named(space.measured(fixed))})")
        genes = drawing.filled(space, fixed, config.search.seed, k)
    except UsageError as e:
        raise UsageError(f"search.enqueue[{k}]: {e.message}", e.hint) from e
    return genes


@dataclass
class Read:
    """What was seen of an attempt's reports: the files as they were, and the steps in them."""

    attempt: int
    mark: object
    at_s: float
    steps: set[int]
    in_events: bool  # event files of TensorBoard were looked for, which `mark` does not know of


@dataclass
class Search:
    """What a search knows beside its events, all of which can be made anew from them."""

    config: Config
    task: OpenTask
    project_name: str
    say: Callable[[str], None]
    space: Space
    objectives: tuple[Objective, ...]
    sampler: Any
    stoppers: tuple[Any, ...]
    history: History
    level: tuple[str, ...]  # arguments that share one level of jobs/tree
    asked_at: int = -1  # the clock of the last ask that gave nothing
    read: dict[int, Read] = field(default_factory=dict)  # by job
    told: set[str] = field(default_factory=set)  # said once
    fault: SearchkitError | None = None  # why nothing more is asked for
    readers: Readers = field(init=False)
    shared: dict[str, tuple[str, ...]] = field(init=False)  # tags that several folders of a job so far hold
    withdrawn: int = field(init=False)  # rules of what was withdrawn that the sampler knows of

    def __post_init__(self) -> None:
        self.readers = Readers(self.task.paths, self.project_name, self.config)
        self.shared = trials.shared(self.task.state.jobs.values())
        self.withdrawn = len(self.task.state.withdrawn)

    @property
    def ahead(self) -> int:
        """How many jobs may be made that no slot is free for yet."""
        s = self.config.search
        free = not algorithms.needs_results(self.sampler) and s.target is None and s.time_budget_s is None
        return AHEAD if free and not self.stoppers else 0


def begin(config: Config, ws: Workspace, task: OpenTask, say: Callable[[str], None]) -> Search | None:
    """The search of a task, as its events left it; None for a task whose jobs are all known from the start.

    Raises UsageError where it lacks something that it needs.
    """
    state = task.state
    left_out = creation.withdrawn_line(config, state)
    if not trials.is_search(config):
        if state.complete and state.ended:  # by a limit that there was (--n-trials), of which some points are left
            task.record("reopen")
        if left_out and not state.complete:
            say(left_out)
        return None
    space, objectives = config.space, config.objectives
    _as_trials(task, space)
    if state.warm is None:
        try:
            warm, line = _warm(config, space, objectives, ws)
        except SearchkitError as e:
            if not state.reread:
                raise
            warm, line = [], f"note: the trials of the warm start are left out, as they can't be read again: {e}"
        task.record("warm", trials=warm)
        if line:
            say(line)
    level = () if config.search.sampler == "grid" else shared_level(space)
    sampler = make_sampler(config, creation.without(space, state), objectives, state.stream)
    stoppers = make_stoppers(config, objectives, state.defaults)
    history = History(state, first=algorithms.replays(sampler))
    search = Search(config, task, ws.project_name, say, space, objectives, sampler, stoppers, history, level)
    if state.complete and not _why_over(search):
        task.record("reopen")
    if left_out and not state.complete:
        say(left_out)
    return search


def _as_trials(task: OpenTask, space: Space) -> None:
    """Make trials of the jobs of a grid that has become a search."""
    state = task.state
    every = [*state.jobs.items(), *state.deleted.items()]
    taken = {space.key(job.genes) for _, job in every if job.genes is not None}
    for n, job in every:
        if job.genes is None:
            with contextlib.suppress(UsageError):  # added by hand, with values that the space does not have
                genes = _one_of_its_own(space, space.genes(job.values), taken)
                taken.add(space.key(genes))
                task.record("trial", job=n, genes=genes)


def _one_of_its_own(space: Space, genes: Genes, taken: Collection[str]) -> Genes:
    """A point of the same values whose key is not `taken`, if there is one: a value listed twice has two genes."""
    same = []
    for arg in space.args:
        if arg.key in genes and not isinstance(arg, Range):
            point = arg.at(genes[arg.key])
            same.append([(arg.key, i) for i, other in enumerate(arg.points()) if other == point])
    candidates = ({**genes, **dict(candidate)} for candidate in itertools.product(*same))
    return next((candidate for candidate in candidates if space.key(candidate) not in taken), genes)


def _warm(
    config: Config, space: Space, objectives: Sequence[Objective], ws: Workspace
) -> tuple[list[dict[str, Any]], str]:
    """(finished trials of another task or a CSV, what to say of them)."""
    source = config.search.warm_start
    if source is None:
        return [], ""
    if source.csv is not None:
        finished, left_out = trials.warm_from_csv(os.path.join(ws.project, source.csv), space, objectives)
        name = source.csv
    else:
        name = f"task {source.task}"
        source_task = ws.task(str(source.task))
        if not tasks.exists(source_task):
            raise NotFoundError(f"search.warm_start: no task {source.task!r} in {ws.root}")
        source_config = tasks.config_of(source_task)
        jobs = [view.job for view in tasks.view(source_task).jobs if view.state in (State.FINISHED, State.PRUNED)]
        names, monitor = trials.scalars_needed(objectives), numbers.digest(source_config)
        read = [
            (job.values, numbers.series_of(source_task, ws.project_name, source_config, job, names, monitor))
            for job in jobs
        ]
        finished, left_out = trials.warm_from_jobs(read, space, objectives)
    note = f", {left_out} left out (values that are not of this space, or no score)" if left_out else ""
    return finished, f"warm start: {len(finished)} trials of {name}{note}"


# --- which jobs are made ---------------------------------------------------------------------------------------------


def create(search: Search, room: int, *, idle: bool) -> tuple[list[int], list[int]]:
    """Decide what `room` free slots run next: first paused jobs, then new ones. `idle`: nothing runs or waits.

    Returns (jobs that go on, new jobs).
    """
    task, state = search.task, search.task.state
    if room <= 0:
        return [], []
    history = search.history.update()
    promoted = _promote(search, room)
    room -= len(promoted)
    if state.complete:
        return promoted, []
    why = _why_over(search)
    if why:
        task.record("complete", why=why, time=time.time())
        return promoted, []
    if room <= 0 or search.asked_at == state.clock:
        return promoted, []
    made = _made(state)
    most = search.config.search.n_trials
    n = room if most is None else min(room, most - made)
    n_enqueued = max(0, min(n, len(search.config.search.enqueue) - made))
    points = [(_enqueued(search.config, search.space, made + k), True) for k in range(n_enqueued)]
    if n > n_enqueued:
        if search.withdrawn != len(state.withdrawn):
            search.sampler = make_sampler(
                search.config, creation.without(search.space, state), search.objectives, state.stream
            )
            search.withdrawn = len(state.withdrawn)
        shown = [*history, *_as_enqueued(history, [genes for genes, _ in points])]
        suggested = _suggest(search.config, search.sampler, shown, n - n_enqueued)
        points += [(_checked(search, genes), False) for genes in suggested]
    if not points:
        search.asked_at = state.clock
        if idle and not promoted:
            task.record("complete", why=EXHAUSTED, time=time.time())
        return promoted, []
    first = state.next_job
    for n, (genes, is_given) in enumerate(points, first):
        values, text, command = creation.describe(search.config, search.space.point(genes))
        more: dict[str, Any] = {"level": search.level} if search.level else {}
        if is_given:
            more["given"] = True
        task.record("create", job=n, values=values, text=text, command=command, genes=genes, **more)
    return promoted, list(range(first, first + len(points)))


def _checked(search: Search, genes: Genes) -> Genes:
    """What a sampler suggested. Raises UsageError where that is no point of the space (a sampler of the user's own)."""
    fault = search.space.fault(genes)
    if not fault and not search.space.feasible(genes):
        fault = "it does not meet the constraints"
    if fault:
        message = f"the sampler {search.config.search.sampler} gave {genes}: {fault}"
        raise UsageError(message, "searchkit.suite.algorithms.conformance checks samplers")
    return genes


def _as_enqueued(history: Sequence[Trial], points: Sequence[Genes]) -> list[Trial]:
    """Enqueued points as the trials that they are about to be."""
    return [replace(trial, given=True) for trial in started(history, points)] if points else []


def _made(state: TaskState) -> int:
    """How many jobs the search has made, without those that were added by hand."""
    return len(state.jobs) + len(state.deleted) - state.added


def _why_over(search: Search) -> str:
    """Why no further job is made; empty where there may be one."""
    s, state = search.config.search, search.task.state
    made = _made(state)
    if s.n_trials is not None and made >= s.n_trials:
        return f"all {s.n_trials} trials were made"
    if s.time_budget_s is not None:
        spent = state.busy_s + (time.time() - state.opened_s if state.opened_s else 0.0)
        if spent >= s.time_budget_s:
            return f"the time budget of {s.time_budget_s:g} s is spent"
    if s.target is not None and search.objectives:
        objective = search.objectives[0]
        goal = loss(s.target, objective.mode)
        for t in search.history.update():
            if t.scores is not None and t.index >= 0 and loss(t.scores[0], objective.mode) <= goal:
                return f"job {t.index} reached {objective.name} {t.scores[0]:g} (target: {s.target:g})"
    return ""


def _promote(search: Search, room: int) -> list[int]:
    """Go on with paused jobs that deserve it."""
    promoted: list[int] = []
    for stopper in search.stoppers:
        while len(promoted) < room and (n := _next_paused(search, stopper)) is not None:
            search.task.record("promote", job=n, time=time.time())
            promoted.append(n)
    return promoted


def _next_paused(search: Search, stopper: Any) -> int | None:
    """The paused job that a stopper would go on with first. It is not shown what was pruned for good."""
    jobs = search.task.state.jobs
    paused = {n for n, job in jobs.items() if job.paused and job.state is State.PRUNED}
    if not paused:
        return None
    shown = [t for t in search.history.update() if t.state != "pruned" or t.index in paused]
    n: int | None = stopper.promote(shown)
    return n if n in paused else None


def is_over(search: Search) -> bool:
    """Whether no job, new or paused, is left to run, given that nothing runs."""
    return search.task.state.complete and all(_next_paused(search, stopper) is None for stopper in search.stoppers)


def once(search: Search, line: str) -> None:
    if line not in search.told:
        search.told.add(line)
        search.say(f"note: {line}")


def restore(search: Search) -> None:
    """Restore the jobs that damaged lines of the events lost, from their files: their values say which they are."""
    task, state = search.task, search.task.state
    for n in sorted(map(int, filter(str.isdigit, creation.listdir(task.paths.jobs_all)))):
        values = None
        if n not in state.jobs and n not in state.deleted:
            params = creation.read_params(task.paths.job(n).params)
            values = params and params["values"]
        if values is not None:
            genes = search.space.genes(values)
            described, text, command = creation.describe(search.config, search.space.point(genes))
            more = {"level": search.level} if search.level else {}
            task.record("create", job=n, values=described, text=text, command=command, genes=genes, **more)
    search.history = History(state, first=algorithms.replays(search.sampler))
