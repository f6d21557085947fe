"""What the events say about every job: `apply(job, event) -> job`, pure, and the replay of a whole task.

pending    will run (again) when a slot is free
running    launched, and no result accepted yet
finished   its last attempt exited with 0
error      its last attempt failed, and no retry is left
stopped    stopped by name; stays so until it is restarted
pruned     ended by an early stopper; pending again where the stopper goes on with it (`promote`)
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from searchkit.suite.store.journal import Event

EXHAUSTED = "the space has no further point"  # why a search is over: `ended`, and the event's `why`


class State(str, enum.Enum):
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    ERROR = "error"
    STOPPED = "stopped"
    PRUNED = "pruned"

    def __str__(self) -> str:
        return self.value


DEFAULTS = 2  # the defaults that new tasks begin with; 1: before searchkit said which
ENDED = (State.FINISHED, State.ERROR, State.STOPPED, State.PRUNED)
BY_STOPPER = ("prune", "pause")  # why a stop was asked
_STATES = {state.value: state for state in State}


class Result(NamedTuple):
    """How one attempt ended, as accepted. Times are seconds since the epoch."""

    attempt: int
    state: State
    rc: int | None  # None: there is no exit line (lost)
    start_s: float | None
    end_s: float | None
    retry: bool  # the job is pending again
    reason: str = ""


@dataclass(frozen=True)
class Job:
    index: int
    values: dict[str, Any]
    text: dict[str, str]
    command: str | list[str]
    attempt: int = 0  # the highest that was launched
    launched_s: float = 0.0
    gpus: tuple[int, ...] = ()
    result: Result | None = None  # of the highest attempt
    held: bool = False  # stopped by name
    stop: str = ""  # why a stop was asked for the running attempt
    snapshot: int = 0  # the code its next attempt takes
    python: dict[str, str] | None = None  # the interpreter that its highest attempt finds: path, version, prefix
    errors: int = 0  # attempts that exited non-zero since the last restart
    lost: int = 0  # attempts that started and were lost since the last restart
    # What its highest attempt reported, for store/numbers.py to unpack; None: nothing is recorded of it.
    numbers: str | None = None
    monitor: str = ""  # the digest of the config by which they were read
    more: int = 0  # scalars that are not among `numbers`
    left: tuple[str, ...] = ()  # what else its callback folder holds: records, pre, after
    shared: tuple[str, ...] = ()  # tags that several of its folders of event files hold, so that they are no series
    freed: str = ""  # its working copies and checkpoint: `begun` to be removed, or `done`
    # Of a job that a sampler chose, or a stopper watches (suite/run/search.py):
    genes: dict[str, float | int] | None = None
    given: bool = False  # enqueued: no sampler chose it
    added: bool = False  # by hand (search-ctl add): beyond the limit of n_trials
    level: tuple[str, ...] = ()  # arguments that share one level of jobs/tree
    reports: tuple[tuple[int, float], ...] = ()  # (step, value) that were judged
    scores: tuple[float, ...] | None = None  # of its last result; one per objective
    paused: bool = False  # pruned, and the stopper may go on with it
    asked: int = 0  # the number of its `create` among the events that searches count
    told: int | None = None  # and that of its last result
    first: tuple[State, tuple[float, ...] | None, int] | None = None  # state, scores and number of its first end
    read_by: int = 0  # the number of the config by which its scores were read

    @property
    def state(self) -> State:
        if self.attempt and self.result is None:
            return State.RUNNING
        if self.result is None or self.result.retry:
            return State.STOPPED if self.held else State.PENDING
        return self.result.state


@dataclass
class TaskState:
    """All of a task, rebuilt by `replay` and kept up to date by its scheduler."""

    token: str = ""
    generation: int = 0
    defaults: int = 1
    options: dict[str, Any] = field(default_factory=dict)  # the flags of the last search-run
    jobs: dict[int, Job] = field(default_factory=dict)
    deleted: dict[int, Job] = field(default_factory=dict)
    early: dict[int, list[Event]] = field(default_factory=dict)  # of jobs whose `create` line is damaged
    retries: int = 0  # of the last search-run
    complete: bool = False  # every job of the expansion was created
    snapshot: int = 0
    python: dict[str, str] | None = None  # what jobs of the last search-run find
    time_s: float = 0.0
    answers: dict[str, Event] = field(default_factory=dict)
    clock: int = 0  # creations and results so far
    changed: set[int] = field(default_factory=set)  # jobs whose events came since whoever asks has emptied it
    warm: list[Event] | None = None  # trials that the search began with; None: not decided yet
    ended: str = ""  # why the search makes no further job
    config: int = 0  # the number of the newest config (store/changes.py)
    reread: int = 0  # the newest config by which scores that were read before are to be read again
    in_order: bool = True  # job n is the n-th point of the grid: no change of the space, nothing added or withdrawn
    next_job: int = 0  # the number of the next job that is made
    added: int = 0  # jobs that were added by hand
    withdrawn: list[dict[str, str]] = field(default_factory=list)  # values of points that a grid leaves out
    stream: int = 0  # how often samplers with a stream began a new one
    streamed_at: int = 0  # the clock when they did so last
    busy_s: float = 0.0  # how long schedulers have run
    opened_s: float = 0.0

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; takes time in proportion to the jobs."""
        counts = Counter(job.state for job in self.jobs.values())
        return {state: counts[state] for state in State}


def _with(job: Job, **changes: Any) -> Job:
    """`dataclasses.replace`, ten times as fast: whoever looks at 10,000 trials makes 60,000 of these."""
    fields = job.__dict__.copy()
    fields.update(changes)
    new = object.__new__(Job)
    object.__setattr__(new, "__dict__", fields)  # as it stands: to fill the one that is there takes twice as long
    return new


_NEW = _with(Job(0, {}, {}, ""))
_LAUNCHED: dict[str, Any] = {  # what a launch sets, whichever it is
    "result": None,
    "stop": "",
    "numbers": None,
    "monitor": "",
    "more": 0,
    "left": (),
    "shared": (),
    "freed": "",
}


def apply(job: Job, event: Event) -> Job:
    """The job after an event that concerns it."""
    return _with(job, **changes(job, event))


def changes(job: Job, event: Event) -> dict[str, Any]:
    """The fields of a job that an event sets."""
    return _CHANGES[event["type"]](job, event)


def _launched(_: Job, event: Event) -> dict[str, Any]:
    gpus = tuple(event["gpus"])
    return {**_LAUNCHED, "attempt": event["attempt"], "launched_s": event["time"], "gpus": gpus}


def _ended(job: Job, event: Event) -> dict[str, Any]:
    attempt, state, spent, scores = event["attempt"], _STATES[event["state"]], event["spent"], event.get("scores")
    reason = event.get("reason", "")
    return {
        "attempt": max(job.attempt, attempt),  # the line of its launch may be damaged
        "result": Result(attempt, state, event["rc"], event["start"], event["end"], event["retry"], reason),
        "errors": job.errors + (spent == "error"),
        "lost": job.lost + (spent == "lost"),
        "held": job.held or (job.stop == "stop" and state is State.STOPPED),
        "paused": job.stop == "pause" and state is State.PRUNED,
        "scores": None if scores is None else tuple(scores),
        **_reported(event),
    }


def _renumbered(job: Job, event: Event) -> dict[str, Any]:
    return _reported(event) if event["attempt"] == job.attempt else {}


def _judged(job: Job, event: Event) -> dict[str, Any]:
    stop = event.get("stop") if not job.stop and job.state is State.RUNNING else None
    return {"reports": (*job.reports, (event["step"], event["value"])), "stop": stop or job.stop}


def _promoted(job: Job, _: Event) -> dict[str, Any]:
    return {"result": job.result and job.result._replace(retry=True), "stop": "", "paused": False}


def _stopped(job: Job, event: Event) -> dict[str, Any]:
    if job.state is State.RUNNING:
        kept = job.stop == "stop" or (job.stop in BY_STOPPER and event["why"] != "stop")
        return {} if kept else {"stop": event["why"]}
    return {"held": True} if event["why"] == "stop" and job.state is State.PENDING else {}


def _adopted(job: Job, _: Event) -> dict[str, Any]:
    # What was left running (a third Ctrl-C, a killed scheduler) counts again, whatever was once asked of it.
    return {"stop": "" if job.stop in ("interrupt", "task") else job.stop}


def _restarted(job: Job, event: Event) -> dict[str, Any]:
    again = job.result and job.result._replace(retry=True)
    fresh = {"errors": 0, "lost": 0, "reports": (), "paused": False, "held": False}
    return {**fresh, "result": again, "snapshot": event["snapshot"]}


def _reported(event: Event) -> dict[str, Any]:
    return {
        "numbers": event.get("numbers"),
        "monitor": event.get("monitor", ""),
        "more": event.get("more", 0),
        "left": tuple(event.get("left", ())),
        "shared": tuple(event.get("shared", ())),
    }


def _read_again(job: Job, event: Event) -> dict[str, Any]:
    """A job as the trial that the newest config makes of it. What the event does not name stays."""
    moved = {"genes": event["genes"]} if "genes" in event else {}
    if "scores" not in event:
        return moved
    scores = None if event["scores"] is None else tuple(event["scores"])
    return {
        **moved,
        "scores": scores,
        "reports": tuple((step, value) for step, value in event["reports"]),
        "result": job.result and job.result._replace(reason=event["reason"]),
        "first": job.first and (job.first[0], scores, job.first[2]),
        "read_by": event["config"],
    }


_CHANGES: Mapping[str, Callable[[Job, Event], dict[str, Any]]] = {
    "launch": _launched,
    "result": _ended,
    "numbers": _renumbered,
    "trial": _read_again,
    "report": _judged,
    "late": lambda job, event: {"stop": ""},
    "promote": _promoted,
    "stop": _stopped,
    "adopt": _adopted,
    "restart": _restarted,
}


def advance(task: TaskState, event: Event, *, alone: bool = False) -> None:
    """Move a task's state over one event. Events about deleted or unknown jobs change nothing.

    alone: nobody else holds a job of it yet, so that they are changed where they are, at half the time.
    """
    kind = event["type"]
    time_s = event.get("time")
    if time_s is not None:
        task.time_s = time_s
        if task.opened_s and kind != "open":
            task.busy_s += max(0.0, time_s - task.opened_s)
            task.opened_s = max(task.opened_s, time_s)
    if step := _STEPS.get(kind):
        step(task, event, alone)


def _create(task: TaskState, event: Event, _: bool) -> None:
    n = event["job"]
    task.next_job = max(task.next_job, n + 1)
    if n in task.jobs or n in task.deleted:
        return
    if event.get("added"):
        task.added, task.in_order = task.added + 1, False
    job = _with(
        _NEW,
        index=n,
        values=event["values"],
        text=event["text"],
        command=event["command"],
        snapshot=task.snapshot,
        genes=event.get("genes"),
        given=event.get("given", False),
        added=event.get("added", False),
        level=tuple(event.get("level", ())),
        python=task.python,
        asked=_tick(task, n),
    )
    for early in task.early.pop(n, ()):
        job = apply(job, early)
    task.jobs[n] = job


def _change_job(task: TaskState, event: Event, alone: bool) -> None:
    n, kind = event["job"], event["type"]
    job = task.jobs.get(n)
    if job is None:
        if n not in task.deleted:
            task.early.setdefault(n, []).append(event)
        return
    new = changes(job, event)
    if kind == "launch":
        new["python"] = task.python
        if task.config:
            new["read_by"] = task.config
    elif kind == "result":
        new["told"], new["read_by"] = _tick(task, n), task.config
        if job.first is None and not event["retry"]:
            new["first"] = (new["result"].state, new["scores"], new["told"])
    if alone:
        job.__dict__.update(new)
    else:
        task.jobs[n] = _with(job, **new)
    task.changed.add(n)


def _change_jobs(task: TaskState, event: Event, _: bool) -> None:
    if event["type"] == "restart":
        task.snapshot = event["snapshot"]
    for n in event["jobs"]:
        if n in task.jobs:
            task.jobs[n] = apply(task.jobs[n], event)
            task.changed.add(n)


def _free(task: TaskState, event: Event, _: bool) -> None:
    begun = event["type"] == "free"
    for n in event["jobs"]:
        if n in task.jobs and (begun or task.jobs[n].freed):
            task.jobs[n] = _with(task.jobs[n], freed="begun" if begun else "done")


def _delete(task: TaskState, event: Event, _: bool) -> None:
    for n in event["jobs"]:
        if n in task.jobs:
            task.deleted[n] = task.jobs.pop(n)
            task.changed.add(n)
    if points := event.get("points"):
        task.withdrawn += points
        task.in_order = False


def _change_trial(task: TaskState, event: Event, _: bool) -> None:
    n = event["job"]
    for jobs in (task.jobs, task.deleted):
        if n in jobs:
            jobs[n] = apply(jobs[n], event)
            task.changed.add(n)


def _open(task: TaskState, event: Event, _: bool) -> None:
    task.token = task.token or event["token"]
    task.defaults = event.get("defaults", task.defaults)
    task.generation = event["generation"]
    task.options = event.get("options", task.options)
    task.retries = event.get("retries", task.retries)
    task.snapshot = event.get("snapshot", task.snapshot)
    task.python = event.get("python", task.python)
    task.opened_s = event["time"]


def _complete(task: TaskState, event: Event, _: bool) -> None:
    task.complete, task.ended = True, event.get("why", "")


def _reopen(task: TaskState, _: Event, __: bool) -> None:
    task.complete, task.ended = False, ""


def _warm(task: TaskState, event: Event, _: bool) -> None:
    task.warm = event["trials"]


def _answer(task: TaskState, event: Event, _: bool) -> None:
    task.answers[event["id"]] = event


def _change_config(task: TaskState, event: Event, _: bool) -> None:
    """From here on another config holds. Genes stay those of the newest space: the index of a value may have moved."""
    task.config = event["number"]
    if moved := event.get("genes"):
        for jobs in (task.jobs, task.deleted):
            for n, job in jobs.items():
                if job.genes is not None:
                    jobs[n] = _with(job, genes=_moved(job.genes, moved))
        task.warm = task.warm and [{**trial, "genes": _moved(trial["genes"], moved)} for trial in task.warm]
        task.changed.update(task.jobs, task.deleted)
    if event.get("space"):
        task.in_order = False
    if event.get("more"):
        task.complete, task.ended = False, ""
    if event.get("reread"):
        task.reread = task.config
    if event.get("objectives"):
        task.warm = task.warm and None  # taken again: its scores are by the objectives of then
    if event.get("space") or event.get("reread"):
        task.stream, task.streamed_at = task.stream + 1, task.clock


def _moved(genes: dict[str, float | int], moved: dict[str, list[int]]) -> dict[str, float | int]:
    return {name: moved[name][int(gene)] if name in moved else gene for name, gene in genes.items()}


def _tick(task: TaskState, n: int) -> int:
    task.clock += 1
    task.changed.add(n)
    return task.clock


_STEPS: Mapping[str, Callable[[TaskState, Event, bool], None]] = {
    "open": _open,
    "create": _create,
    "launch": _change_job,
    "result": _change_job,
    "numbers": _change_job,
    "adopt": _change_job,
    "report": _change_job,
    "late": _change_job,
    "promote": _change_job,
    "stop": _change_jobs,
    "restart": _change_jobs,
    "free": _free,
    "freed": _free,
    "delete": _delete,
    "withdraw": _delete,
    "trial": _change_trial,
    "config": _change_config,
    "complete": _complete,
    "reopen": _reopen,
    "warm": _warm,
    "answer": _answer,
}


def replay(events: Iterable[Event]) -> TaskState:
    """The state after all events of a task, in order."""
    task = TaskState()
    for event in events:
        advance(task, event, alone=True)
    return task
