"""The one way to name jobs on a command line: `0-9,12`, `@failed`, `@best:5`, and lists of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from searchkit.errors import NotFoundError, UsageError, did_you_mean
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.tasks import JobView

WORDS = {
    "all": tuple(State),
    "failed": (State.ERROR,),
    "error": (State.ERROR,),
    "pending": (State.PENDING,),
    "running": (State.RUNNING,),
    "finished": (State.FINISHED,),
    "stopped": (State.STOPPED,),
    "pruned": (State.PRUNED,),
}
HELP = "Jobs: 3, 0-9,12, @failed, @running, @pending, @finished, @stopped, @pruned, @all, @best:5"


def select(
    text: str,
    jobs: list[JobView],
    best: Callable[[int], list[int]],
    option: str = "--jobs",
    gone: Mapping[int, Job] | None = None,
) -> list[int]:
    """The indices that a selector names, ascending and once each (`@best:k` alone: best first).

    `best(k)` ranks; `option` gave the text; `gone` were deleted or withdrawn. Raises UsageError for a selector that
    can't be read, NotFoundError for a job that does not exist.
    """
    existing = {j.job.index for j in jobs}
    chosen: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        if m := re.fullmatch(r"(\d+)", part):
            indices = [int(part)]
        elif m := re.fullmatch(r"(\d+)-(\d+)", part):
            low, high = int(m[1]), int(m[2])
            if low > high:
                raise UsageError(f"{option} {text}: in {part!r} the first number must not be above the second")
            indices = [n for n in range(low, min(high, max(existing, default=-1)) + 1) if n in existing]
            if not indices:
                raise NotFoundError(f"{option} {text}: no job lies in {part}", _range_of(existing))
        elif m := re.fullmatch(r"@best:(\d+)", part):
            indices = best(int(m[1]))
        elif part.startswith("@") and part[1:] in WORDS:
            indices = [j.job.index for j in jobs if j.state in WORDS[part[1:]]]
        else:
            near = did_you_mean(part[1:].partition(":")[0], (*WORDS, "best:5")) if part.startswith("@") else ""
            raise UsageError(f"{option} {text}: {part!r} names no jobs{near}", HELP)
        if missing := [n for n in indices if n not in existing]:
            raise NotFoundError(_absent(missing[0], gone or {}), _range_of(existing))
        chosen += indices
    if re.fullmatch(r"@best:\d+", text.strip()):
        return chosen
    return sorted(set(chosen))


def _absent(n: int, gone: Mapping[int, Job]) -> str:
    if n not in gone:
        return f"no job {n} in this task"
    return f"job {n} was deleted" if gone[n].attempt else f"job {n} was withdrawn before it ran, or deleted"


def _range_of(existing: set[int]) -> str:
    return f"It has jobs {min(existing)} to {max(existing)}" if existing else "It has no job yet"
