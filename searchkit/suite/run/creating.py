"""Which jobs are made: the next points of a grid, or what a search asks for. Each is an event before it is a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.suite.run import search as searching
from searchkit.suite.run.owners import Run
from searchkit.suite.run.search import Search
from searchkit.suite.space.expand import Point
from searchkit.suite.store import creation
from searchkit.suite.store.job import State

CREATE_AT_ONCE = 64  # jobs whose folders are made in one go
CREATE_BESIDE = 8  # the same, while others run and may end at any moment


def points_left(run: Run) -> Iterator[Point]:
    """The points of a grid that no job has, in order."""
    if run.task.state.complete or run.search:
        return iter(())
    return creation.points_left(run.plan.config.space, run.task.state)


def decide(run: Run) -> list[int]:
    """Record which jobs are made now; returns them."""
    if run.search:
        return _ask(run, run.search)
    if run.task.state.complete:
        return []
    size = CREATE_BESIDE if run.running.live else CREATE_AT_ONCE
    chunk = run.queue.take_points(size)
    first = run.task.state.next_job
    for n, point in enumerate(chunk, first):
        values, text, command = creation.describe(run.plan.config, point)
        run.task.record("create", job=n, values=values, text=text, command=command)
    if len(chunk) < size:
        run.task.record("complete")
    return list(range(first, first + len(chunk)))


def _ask(run: Run, search: Search) -> list[int]:
    """Ask the search what the free slots run next."""
    if not run.asked.launches:
        return []
    live = run.running.live
    busy = sum(one.worker is not None or not one.slot_freed for one in live.values())
    waiting = sum(n in run.task.state.jobs and n not in live for n in set(run.queue.ready))
    room = (run.crew.limit or run.plan.slots.limit) + search.ahead - busy - waiting
    search.fault = None
    try:
        promoted, created = searching.create(search, room, idle=not live and not waiting)
    except UsageError as e:  # of the sampler: what runs may end, and the same command goes on once it is fixed
        search.fault = e
        run.asked.drain("error")
        return []
    run.queue.put_next(*promoted)
    return created


def make_folders(run: Run, created: Iterable[int]) -> None:
    """Act on the events: the folders of these jobs, which wait for their turn from then on. Raises StorageError."""
    for n in created:
        job = run.task.state.jobs[n]
        with fsio.storage():
            creation.make_job(run.task.paths, job)
        if job.state is State.PENDING:
            run.queue.put_last(n)
