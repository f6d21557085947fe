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
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from searchkit.suite.store.journal import Event
from searchkit.suite.store.status import Status

LOST = "lost: its processes are gone, and it left no exit line"
SIGPIPE = 141  # 128 + 13
BROKEN_PIPE = (
    "a part of a pipe wrote on after the next one had ended (`| head`); write `| sed -n 1,5p`, "
    "which reads to the end, or `run: {shell: sh}`"
)
PYTHON_BROKEN_PIPE = "BrokenPipeError"  # Python ignores SIGPIPE, and fails by this instead
MAX_LOST = 3  # a lost attempt (no exit line, processes gone) is run again this often, whatever `retries` says


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
        found = Counter(job.state for job in self.jobs.values())
        return {state: found[state] for state in State}


def _with(job: Job, **changes: Any) -> Job:
    """`dataclasses.replace`, ten times as fast: whoever looks at 10,000 trials makes 60,000 of these."""
    new = object.__new__(Job)
    new.__dict__.update(job.__dict__, **changes)
    return new


_NEW = Job(0, {}, {}, "")
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
    kind = event["type"]
    if kind == "launch":
        attempt, launched_s, gpus = event["attempt"], event["time"], tuple(event["gpus"])
        return {**_LAUNCHED, "attempt": attempt, "launched_s": launched_s, "gpus": gpus}
    if kind == "result":
        result = Result(
            event["attempt"],
            State(event["state"]),
            event["rc"],
            event["start"],
            event["end"],
            event["retry"],
            event.get("reason", ""),
        )
        scores = event.get("scores")
        errors = job.errors + (event["spent"] == "error")
        lost = job.lost + (event["spent"] == "lost")
        attempt = max(job.attempt, result.attempt)  # the line of its launch may be damaged
        return {
            "attempt": attempt,
            "result": result,
            "errors": errors,
            "lost": lost,
            "held": job.held or (job.stop == "stop" and result.state is State.STOPPED),
            "paused": result.state is State.PRUNED and job.stop == "pause",
            "scores": None if scores is None else tuple(scores),
            **_reported(event),
        }
    if kind == "numbers":
        return _reported(event) if event["attempt"] == job.attempt else {}
    if kind == "trial":
        return _read_again(job, event)
    if kind == "report":
        stop = event.get("stop") if job.state is State.RUNNING and not job.stop else None
        return {"reports": (*job.reports, (event["step"], event["value"])), "stop": stop or job.stop}
    if kind == "late":
        return {"stop": ""}
    if kind == "promote":
        return {"result": job.result and job.result._replace(retry=True), "stop": "", "paused": False}
    if kind == "stop":
        if job.state is State.RUNNING:
            kept = job.stop == "stop" or (job.stop in BY_STOPPER and event["why"] != "stop")
            return {} if kept else {"stop": event["why"]}
        return {"held": True} if event["why"] == "stop" and job.state is State.PENDING else {}
    if kind == "adopt":
        # What was left running (a third Ctrl-C, a killed scheduler) counts again, whatever was once asked of it.
        return {"stop": "" if job.stop in ("interrupt", "task") else job.stop}
    if kind == "restart":
        again = job.result and job.result._replace(retry=True)
        fresh = {"errors": 0, "lost": 0, "reports": (), "paused": False, "held": False}
        return {**fresh, "result": again, "snapshot": event["snapshot"]}
    raise AssertionError(f"unknown event {kind!r}")


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


def outcome(
    job: Job, s: Status, retries: int, timeout_s: float | None, behind: Sequence[str] = (), last_line: str = ""
) -> Event:
    """The fields of the `result` event for the end of a job's highest attempt: pure, so that whoever finds it agrees.

    A stop that reached the command wins over any exit code: a script may answer SIGTERM by saving its state and exiting
    with 0. What had ended by itself before counts as what it ended as, whatever was asked meanwhile.
    behind: the command lines of processes that outlived its command, and were ended. last_line: of its log.
    """
    stopped = job.stop if s.stop_came_first else ""
    spent, reason = "", ""
    if stopped in BY_STOPPER:
        state, retry = State.PRUNED, False
    elif stopped in ("stop", "task", "interrupt"):
        state, retry = State.STOPPED, stopped != "stop"
    elif s.exit_code is None:
        state, reason = State.ERROR, LOST
        # A wrapper that died before its first line cost the job nothing; without any status file, the job removed it.
        spent = "" if s.exists and not s.start else "lost"
        retry = job.lost + (spent == "lost") <= MAX_LOST
    elif s.exit_code == 0 and not stopped:
        state, retry = State.FINISHED, False
        reason = f"the after callback failed with exit code {s.after_code}" if s.after_code else ""
    else:
        state, spent, retry = State.ERROR, "error", job.errors < retries and job.stop != "stop"
        if stopped:
            reason = f"timeout: ran longer than {timeout_s:g} s" if timeout_s else "timeout"
        elif s.pre_failed:
            reason = "the pre callback failed, the command was not run"
        elif s.exit_code == SIGPIPE:
            reason = f"exit code {SIGPIPE}, SIGPIPE: {BROKEN_PIPE}"
        elif last_line.startswith(PYTHON_BROKEN_PIPE) and isinstance(job.command, str) and "|" in job.command:
            reason = f"exit code {s.exit_code}, {PYTHON_BROKEN_PIPE}: {BROKEN_PIPE}"
    if behind and s.exit_code is not None and not stopped:
        code = f"exit code {s.exit_code}" if s.exit_code and not reason else ""
        reason = "; ".join(filter(None, (reason, code, _left_running(behind))))
    now = time.time()
    return {
        "time": now,
        "job": job.index,
        "attempt": job.attempt,
        "state": state.value,
        "rc": s.exit_code,
        "start": s.start.time_s if s.start else None,
        "end": s.end_s if s.end_s is not None else (now if s.start else None),
        "retry": retry,
        "reason": reason,
        "spent": spent,
    }


def _left_running(behind: Sequence[str]) -> str:
    """What a command left running, by name, those of one name together."""
    counts = Counter(line if len(line) <= 80 else line[:77] + "..." for line in behind)
    names = [f"`{line}`" + (f" ({n} times)" if n > 1 else "") for line, n in counts.items()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"left running at its end, and killed: {', '.join(names[:3])}{more}"


def advance(task: TaskState, event: Event, *, alone: bool = False) -> None:
    """Move a task's state over one event. Events about deleted or unknown jobs change nothing.

    alone: nobody else holds a job of it yet, so that they are changed where they are, at half the time.
    """
    kind = event["type"]
    task.time_s = event.get("time", task.time_s)
    if task.opened_s and kind != "open":
        task.busy_s += max(0.0, task.time_s - task.opened_s)
        task.opened_s = max(task.opened_s, task.time_s)
    if kind == "create":
        n = event["job"]
        task.next_job = max(task.next_job, n + 1)
        if n not in task.jobs and n not in task.deleted:
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
    elif kind in ("launch", "result", "numbers", "adopt", "report", "late", "promote"):
        n = event["job"]
        if n in task.jobs:
            job = task.jobs[n]
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
        elif n not in task.deleted:
            task.early.setdefault(n, []).append(event)
    elif kind in ("free", "freed"):
        for n in event["jobs"]:
            if n in task.jobs and (kind == "free" or task.jobs[n].freed):
                task.jobs[n] = _with(task.jobs[n], freed="begun" if kind == "free" else "done")
    elif kind in ("stop", "restart"):
        if kind == "restart":
            task.snapshot = event["snapshot"]
        for n in event["jobs"]:
            if n in task.jobs:
                task.jobs[n] = apply(task.jobs[n], event)
                task.changed.add(n)
    elif kind in ("delete", "withdraw"):
        for n in event["jobs"]:
            if n in task.jobs:
                task.deleted[n] = task.jobs.pop(n)
                task.changed.add(n)
        if points := event.get("points"):
            task.withdrawn += points
            task.in_order = False
    elif kind == "trial":
        for jobs in (task.jobs, task.deleted):
            if event["job"] in jobs:
                jobs[event["job"]] = apply(jobs[event["job"]], event)
                task.changed.add(event["job"])
    elif kind == "config":
        _change_config(task, event)
    elif kind == "open":
        task.token = task.token or event["token"]
        task.defaults = event.get("defaults", task.defaults)
        task.generation = event["generation"]
        task.options = event.get("options", task.options)
        task.retries = event.get("retries", task.retries)
        task.snapshot = event.get("snapshot", task.snapshot)
        task.python = event.get("python", task.python)
        task.opened_s = event["time"]
    elif kind == "complete":
        task.complete, task.ended = True, event.get("why", "")
    elif kind == "reopen":
        task.complete, task.ended = False, ""
    elif kind == "warm":
        task.warm = event["trials"]
    elif kind == "answer":
        task.answers[event["id"]] = event


def _change_config(task: TaskState, event: Event) -> None:
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


def replay(events: Iterable[Event]) -> TaskState:
    """The state after all events of a task, in order."""
    task = TaskState()
    for event in events:
        advance(task, event, alone=True)
    return task
