"""What the events say about a task and all its jobs: the replay of a whole task, and one event more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from searchkit.suite.store.job import NEW, Job, State, apply, change, changed, of_fields
from searchkit.suite.store.journal import Event

EXHAUSTED = "the space has no further point"  # why a search is over: `ended`, and the event's `why`


DEFAULTS = 2  # the defaults that new tasks begin with; 1: before searchkit said which


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


def advance(task: TaskState, event: Event, *, alone: bool = False) -> None:
    """Move a task's state over one event. Events about deleted or unknown jobs change nothing.

    alone: nobody else holds a job of it yet, so that they are changed where they are, at half the time.
    """
    kind = event["type"]
    time_s = event.get("time")
    if time_s is not None:
        task.time_s = time_s
        if task.opened_s and kind != "open" and time_s > task.opened_s:
            task.busy_s += time_s - task.opened_s
            task.opened_s = time_s
    if step := _STEPS.get(kind):
        step(task, event, alone)


def _create(task: TaskState, event: Event, _: bool) -> None:
    n = event["job"]
    task.next_job = max(task.next_job, n + 1)
    if n in task.jobs or n in task.deleted:
        return
    fields = {**NEW, "index": n, "values": event["values"], "text": event["text"], "command": event["command"]}
    fields["snapshot"], fields["python"], fields["asked"] = task.snapshot, task.python, _tick(task, n)
    fields["genes"], fields["given"] = event.get("genes"), event.get("given", False)
    fields["level"] = tuple(event.get("level", ()))
    if event.get("added"):
        fields["added"] = True
        task.added, task.in_order = task.added + 1, False
    job = of_fields(fields)
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
    if not alone:
        job = task.jobs[n] = changed(job)
    change(job, event)
    fields = vars(job)
    if kind == "launch":
        fields["python"] = task.python
        if task.config:
            fields["read_by"] = task.config
    elif kind == "result":
        fields["told"], fields["read_by"] = _tick(task, n), task.config
        if job.first is None and not event["retry"]:
            fields["first"] = (fields["result"].state, job.scores, job.told)
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
            task.jobs[n] = changed(task.jobs[n], freed="begun" if begun else "done")


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
                    jobs[n] = changed(job, genes=_moved(job.genes, moved))
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
