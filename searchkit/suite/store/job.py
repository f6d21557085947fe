"""What the events say about one job: `apply(job, event) -> job`, pure; `change(job, event)` where nobody else holds it.

pending    will run (again) when a slot is free
running    launched, and no result accepted yet
finished   its last attempt exited with 0
error      its last attempt failed, and no retry is left
stopped    stopped by name; stays so until it is restarted
pruned     ended by an early stopper; pending again where the stopper goes on with it (`promote`)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from searchkit.suite.store.journal import Event


class State(str, enum.Enum):
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    ERROR = "error"
    STOPPED = "stopped"
    PRUNED = "pruned"

    def __str__(self) -> str:
        return self.value


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


def changed(job: Job, **changes: Any) -> Job:
    """`dataclasses.replace`, ten times as fast: whoever looks at 10,000 trials makes 60,000 of these."""
    fields = job.__dict__.copy()
    fields.update(changes)
    return of_fields(fields)


def of_fields(fields: dict[str, Any]) -> Job:
    """The job whose fields these are, all of them; it keeps the mapping."""
    new = object.__new__(Job)
    object.__setattr__(new, "__dict__", fields)  # as it stands: to fill the one that is there takes twice as long
    return new


NEW: Mapping[str, Any] = vars(Job(0, {}, {}, ""))  # the fields of a job of which nothing is known
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
    new = changed(job)
    change(new, event)
    return new


def change(job: Job, event: Event) -> None:
    """Take a job that nobody else holds over an event, in place: half the time of `apply`."""
    _CHANGES[event["type"]](job, vars(job), event)


# Each sets fields of a job; what it reads of the job first, it may set then.


def _launched(_: Job, fields: dict[str, Any], event: Event) -> None:
    fields.update(_LAUNCHED)
    fields["attempt"], fields["launched_s"], fields["gpus"] = event["attempt"], event["time"], tuple(event["gpus"])


def _ended(job: Job, fields: dict[str, Any], event: Event) -> None:
    attempt, state, spent, scores = event["attempt"], _STATES[event["state"]], event["spent"], event.get("scores")
    reason = event.get("reason", "")
    fields["attempt"] = max(job.attempt, attempt)  # the line of its launch may be damaged
    fields["result"] = Result(attempt, state, event["rc"], event["start"], event["end"], event["retry"], reason)
    if spent == "error":
        fields["errors"] = job.errors + 1
    elif spent == "lost":
        fields["lost"] = job.lost + 1
    if job.stop == "stop" and state is State.STOPPED:
        fields["held"] = True
    fields["paused"] = job.stop == "pause" and state is State.PRUNED
    fields["scores"] = None if scores is None else tuple(scores)
    _reported(fields, event)


def _renumbered(job: Job, fields: dict[str, Any], event: Event) -> None:
    if event["attempt"] == job.attempt:
        _reported(fields, event)


def _judged(job: Job, fields: dict[str, Any], event: Event) -> None:
    if (stop := event.get("stop")) and not job.stop and job.state is State.RUNNING:
        fields["stop"] = stop
    fields["reports"] = (*job.reports, (event["step"], event["value"]))


def _late(_: Job, fields: dict[str, Any], __: Event) -> None:
    fields["stop"] = ""


def _promoted(job: Job, fields: dict[str, Any], _: Event) -> None:
    fields.update(result=job.result and job.result._replace(retry=True), stop="", paused=False)


def _stopped(job: Job, fields: dict[str, Any], event: Event) -> None:
    if job.state is State.RUNNING:
        if job.stop != "stop" and (job.stop not in BY_STOPPER or event["why"] == "stop"):
            fields["stop"] = event["why"]
    elif event["why"] == "stop" and job.state is State.PENDING:
        fields["held"] = True


def _adopted(job: Job, fields: dict[str, Any], _: Event) -> None:
    # What was left running (a third Ctrl-C, a killed scheduler) counts again, whatever was once asked of it.
    if job.stop in ("interrupt", "task"):
        fields["stop"] = ""


def _restarted(job: Job, fields: dict[str, Any], event: Event) -> None:
    fields["result"] = job.result and job.result._replace(retry=True)
    fields.update(errors=0, lost=0, reports=(), paused=False, held=False, snapshot=event["snapshot"])


def _reported(fields: dict[str, Any], event: Event) -> None:
    fields["numbers"] = event.get("numbers")
    fields["monitor"] = event.get("monitor", "")
    fields["more"] = event.get("more", 0)
    fields["left"] = tuple(event.get("left", ()))
    fields["shared"] = tuple(event.get("shared", ()))


def _read_again(job: Job, fields: dict[str, Any], event: Event) -> None:
    """A job as the trial that the newest config makes of it. What the event does not name stays."""
    if "genes" in event:
        fields["genes"] = event["genes"]
    if "scores" not in event:
        return
    scores = None if event["scores"] is None else tuple(event["scores"])
    fields["scores"] = scores
    fields["reports"] = tuple((step, value) for step, value in event["reports"])
    fields["result"] = job.result and job.result._replace(reason=event["reason"])
    fields["first"] = job.first and (job.first[0], scores, job.first[2])
    fields["read_by"] = event["config"]


_CHANGES: Mapping[str, Callable[[Job, dict[str, Any], Event], None]] = {
    "launch": _launched,
    "result": _ended,
    "numbers": _renumbered,
    "trial": _read_again,
    "report": _judged,
    "late": _late,
    "promote": _promoted,
    "stop": _stopped,
    "adopt": _adopted,
    "restart": _restarted,
}
