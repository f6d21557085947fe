"""Picking up where another scheduler was killed."""

from __future__ import annotations

import time
from itertools import islice

from searchkit import fsio
from searchkit.suite.run import creating, results
from searchkit.suite.run import crew as working
from searchkit.suite.run import search as searching
from searchkit.suite.run.owners import Live, Run
from searchkit.suite.store import creation, disk, status
from searchkit.suite.store.job import State


def recover(run: Run) -> None:
    """Go on where another scheduler was killed: adopt what lives, accept what ended, run again what was lost."""
    state, paths = run.task.state, run.task.paths
    with fsio.storage():
        creation.clean(paths, state)
        disk.finish(run.task)
        _restore_damaged(run)
        present = set(creation.listdir(paths.jobs_all))
        for n, job in state.jobs.items():
            if str(n) not in present:
                creation.make_job(paths, job)
    run.queue.put_in_order(n for n, job in state.jobs.items() if job.state is State.PENDING)
    for n in [n for n, job in sorted(state.jobs.items()) if job.state is State.RUNNING]:
        _recover_attempt(run, n)
    run.queue.sort()


def _restore_damaged(run: Run) -> None:
    """Restore what damaged lines of the events lost: the expansion still knows every job, and the status files know
    which attempts began."""
    if not run.task.damaged:
        return
    state = run.task.state
    run.news.say(f"note: {run.task.damaged} damaged line(s) of the events were skipped")
    seen = max([*state.jobs, *state.deleted, *state.early], default=-1) + 1
    config = run.plan.config
    if run.search:
        searching.restore(run.search)
        seen = 0
    if not run.search and not state.in_order:
        _restore_from_folders(run)
        seen = 0
    points = config.space.points() if seen else ()
    for n, point in enumerate(islice(points, seen)):
        if n not in state.jobs and n not in state.deleted:
            values, text, command = creation.describe(config, point)
            run.task.record("create", job=n, values=values, text=text, command=command)
    run.queue.refill(creating.points_left(run))
    for n, job in list(state.jobs.items()):
        while (
            job.state is State.PENDING and status.read(run.task.paths.job(n).attempt(job.attempt + 1)).exists
        ):  # its `launch` line was damaged
            fields = {"attempt": job.attempt + 1, "gpus": [], "snapshot": job.snapshot}
            run.task.record("launch", time=time.time(), job=n, **fields)
            job = state.jobs[n]


def _restore_from_folders(run: Run) -> None:
    """Where the place of a point in the grid does not say which job it is, the jobs' folders do."""
    state, paths = run.task.state, run.task.paths
    for n in sorted(map(int, filter(str.isdigit, creation.listdir(paths.jobs_all)))):
        if n not in state.jobs and n not in state.deleted and (params := creation.read_params(paths.job(n).params)):
            run.task.record("create", job=n, **params)


def _recover_attempt(run: Run, n: int) -> None:
    job, launch = run.task.state.jobs[n], run.launcher.describe(n)
    s = status.read(launch.paths)
    if working.adopt_trial(run, job, launch, s):
        return
    handle = run.backends.handle(launch.token, launch.paths, s)
    lives = s.exit_code is None and run.backends.alive(handle, s) is not False
    if not s.exists and not lives:  # decided, never started: that same attempt starts when its turn comes
        if job.stop:
            results.accept(run, n, s)
        else:
            run.queue.put_decided(n)
        return
    timeout_s = run.plan.config.run.timeout_s
    deadline = (s.start.time_s if s.start else job.launched_s) + timeout_s if timeout_s else None
    live = Live(launch, n, run.plan.slots.adopt(job.gpus), deadline=deadline)
    run.running.add(live)
    results.watch(run, live, s)
    if lives:
        where = f" on {s.start.host}, by its status file" if live.elsewhere and s.start else ""
        run.news.say(f"job {n} still runs{where}: adopted")
        if job.stop in ("interrupt", "task"):
            run.task.record("adopt", time=time.time(), job=n)
    else:
        results.settle(run, n)
