"""What the events say about one job: `apply(job, event) -> job`, pure.

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
    new = object.__new__(Job)
    object.__setattr__(new, "__dict__", fields)  # as it stands: to fill the one that is there takes twice as long
    return new


NEW = changed(Job(0, {}, {}, ""))
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
    return changed(job, **changes(job, event))


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
