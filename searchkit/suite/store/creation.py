"""The folders of jobs and attempts, each step idempotent: made whole under tmp/, then renamed to where it belongs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.config import template
from searchkit.suite.space.expand import escape, tree_path
from searchkit.suite.space.genes import named
from searchkit.suite.store import snapshot, subnets, trials
from searchkit.suite.store.job import Job
from searchkit.suite.store.snapshot import Manifest
from searchkit.suite.store.state import TaskState
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.space.args import Gene
    from searchkit.suite.space.expand import Point
    from searchkit.suite.space.space import Dim, Space

MOST_JOBS = 1_000_000  # of a grid: each is a folder, a line of the events, and a row of every table
COUNTED = 100_000  # points that are looked at one by one before a task is made, which takes a second


def listdir(path: str) -> list[str]:
    """The names in a folder; none where it does not exist."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def describe(config: Config, point: Point) -> tuple[dict[str, Any], dict[str, str], str | list[str]]:
    """(values, source texts, rendered command) of one point of the space."""
    command = template.render(config.template, point)
    return {name: value.data for name, value in point.items()}, {n: value.text for n, value in point.items()}, command


def check_points(config: Config) -> int | None:
    """How many jobs a grid makes; None where they are not counted in advance, since too many would have to be looked at
    (more than COUNTED, with constraints). Tried before anything is written: a fault of the last point is one of the
    config. Of more than COUNTED points each value is tried instead.

    Raises UsageError for such a fault, for more than MOST_JOBS jobs, and where there is no job.
    """
    space = config.space
    size = space.size() or 0
    if size <= COUNTED:
        n: int | None = sum(1 for point in space.points() if describe(config, point))
    else:
        if size > MOST_JOBS and not space.constraints:
            raise UsageError(
                f"the grid has {size:,} points, and a task makes {MOST_JOBS:,} jobs at most",
                "Try some of them: search: {n_trials: 1000} (the first ones), or with sampler: random; or add "
                "constraints, or remove values",
            )
        for point in _each_value(space):
            describe(config, point)
        n = None if space.constraints else size
        if n is None and next(space.points(), None) is None:
            n = 0
    if n == 0:
        fault = "the constraints leave no point of the space"
        if space.measure and space.args:
            from searchkit.suite.algorithms.drawing import TRIES

            fault += f": {space.reach(TRIES, random.Random(config.search.seed))}"
        raise UsageError(fault, f"task.constraints: {'; '.join(space.constraints)}")
    return n


def _each_value(space: Space) -> Iterator[Point]:
    """Points in which every value of a list stands once, the others at their first; of ranges the ends."""
    dims = space.dims()
    for dim in dims:
        for gene in range(int(dim.high) + 1) if dim.kind == "index" else (dim.low, dim.high):
            yield space.point(space.complete(partial(_first, dim, gene)))


def _first(chosen: Dim, gene: Gene, dim: Dim) -> Gene:
    return gene if dim is chosen else dim.low


def without(space: Space, state: TaskState) -> Space:
    """A space whose grid lacks what was withdrawn of a task."""
    return replace(space, withdrawn=tuple(frozenset(rule.items()) for rule in state.withdrawn))


def withdrawn_line(config: Config, state: TaskState) -> str:
    """How many points of its grid a task leaves out, for people; empty where it leaves none out. More than COUNTED
    points are not counted."""
    if not state.withdrawn or (trials.is_search(config) and config.search.sampler != "grid"):
        return ""
    rules = " or ".join(dict.fromkeys(named(rule) for rule in state.withdrawn))
    space = config.space
    if (space.size() or 0) > COUNTED:
        return f"points with {rules} are withdrawn, and not made"
    existing = {_texts(job.text) for job in state.jobs.values()}
    narrow = without(space, state)
    n = sum(
        narrow.is_withdrawn(p) and _texts({k: v.text for k, v in p.items()}) not in existing for p in space.points()
    )
    return f"{n} point{'s' * (n > 1)} with {rules} {'are' if n > 1 else 'is'} withdrawn, and not made" if n else ""


def points_left(space: Space, state: TaskState) -> Iterator[Point]:
    """The points of a grid that are no job yet, in its order. Raises UsageError as `Space.points`."""
    if state.in_order:
        yield from itertools.islice(space.points(), state.next_job, None)
        return
    existing = Counter(_texts(job.text) for jobs in (state.jobs, state.deleted) for job in jobs.values())
    for point in without(space, state).points():
        text = {name: value.text for name, value in point.items()}
        key = _texts(text)
        if existing[key] > 0:
            existing[key] -= 1
        else:
            yield point


def _texts(text: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(text.items()))


def params_bytes(job: Job) -> bytes:
    """The content of params.json, a function of the job alone."""
    body = {"job": job.index, "values": job.values, "text": job.text, "command": job.command}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def read_params(path: str) -> dict[str, Any] | None:
    """What a params.json holds: `values`, `text`, `command`; None where it can't be read."""
    try:
        body = json.loads((fsio.read_bytes(path) or b"").decode("utf-8", "surrogateescape"))
        return {"values": dict(body["values"]), "text": dict(body["text"]), "command": body["command"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_job(task: TaskPaths, job: Job) -> None:
    """Make the folder of a job and its link in the tree, unless they are there."""
    final = task.job(job.index)
    if os.path.isdir(final.root):
        return
    half = f"{task.tmp}/{fsio.half_name(f'job-{job.index}')}"
    fsio.discard(half)
    os.mkdir(half)
    # Not synced one by one: the `create` event that is on disk already says all that is in it.
    fsio.write_new(f"{half}/params.json", params_bytes(job), durable=False)
    os.mkdir(f"{half}/callback")
    os.mkdir(f"{half}/checkpoint")
    link(task, job)
    os.rename(half, final.root)


def link(task: TaskPaths, job: Job) -> None:
    """Make a job's link in the tree, unless it is there."""
    for path, target in _link_places(task, job):
        try:
            os.symlink(target, path)
            return
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)
            return
        except FileExistsError:
            with contextlib.suppress(OSError):
                if os.readlink(path) == target:
                    return


def _link_places(task: TaskPaths, job: Job) -> Iterator[tuple[str, str]]:
    """Where a job's link may stand, and what it says: two points may have the same texts (a value given twice), so the
    later ones get ~2, ~3 …"""
    names = tree_path_of(job)
    if not names:
        return
    folder = "/".join([task.jobs_tree, *names[:-1]])
    target = f"{'../' * len(names)}all/{job.index}"
    for i in itertools.count(1):
        yield f"{folder}/{names[-1] if i == 1 else escape(f'{names[-1]}~{i}')}", target


def tree_path_of(job: Job) -> tuple[str, ...]:
    from searchkit.suite.space.args import Value

    point = {name: Value(job.values[name], text) for name, text in job.text.items()}
    return tree_path(point, job.level)


def make_work(task: TaskPaths, job: Job, manifest: Manifest) -> str:
    """Lay out the working folder of a job's next attempt under tmp/, where it can wait for its turn."""
    half = f"{task.tmp}/{fsio.half_name(f'work-{job.index}')}"
    snapshot.materialise(manifest, task.snapshot(job.snapshot), task.workspace.project, half)
    return half


def make_attempt(task: TaskPaths, job: Job, manifest: Manifest, work: str | None) -> None:
    """Make the folders of a job's highest attempt: callback/, checkpoint/, and the working folder from its snapshot
    (`work`: laid out already, by `make_work`)."""
    paths = task.job(job.index)
    attempt = paths.attempt(job.attempt)
    _ensure_params(task, job)
    if job.attempt > 1:
        _mkdir(attempt.root)
    _mkdir(attempt.callback)
    _mkdir(paths.checkpoint)
    subnets.link(task, attempt.root)
    final = f"{attempt.root}/{task.workspace.project_name}"
    if not os.path.isdir(final):
        os.rename(work or make_work(task, job, manifest), final)
    elif work:
        fsio.discard(work)


def _mkdir(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def _ensure_params(task: TaskPaths, job: Job) -> None:
    """After a power loss a params.json that was not synced may be empty; the event still knows its content."""
    path = task.job(job.index).params
    if os.path.getsize(path) == 0:
        fsio.atomic_write(path, params_bytes(job), tmp=task.tmp)


def clean(task: TaskPaths, state: TaskState) -> None:
    """Finish deletions, and remove what a killed scheduler left half-made."""
    fsio.sweep(task.tmp)
    for n, job in state.deleted.items():
        root = task.job(n).root
        if os.path.isdir(root):
            unlink(task, job)
            fsio.remove_tree(root, task.tmp)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(task.kept(n))


def unlink(task: TaskPaths, job: Job) -> None:
    """Remove a job's link from the tree, with the folders that are empty then."""
    for path, target in _link_places(task, job):
        try:
            if os.readlink(path) != target:
                continue
            os.unlink(path)
        except OSError:  # there is no link
            return
        folder = os.path.dirname(path)
        while folder != task.jobs_tree:
            try:
                os.rmdir(folder)
            except OSError:  # not empty
                return
            folder = os.path.dirname(folder)
        return
