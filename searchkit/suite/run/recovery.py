"""Picking up where another scheduler was killed."""

from __future__ import annotations

import time
from itertools import islice

from searchkit import fsio
from searchkit.suite.run import crew as working
from searchkit.suite.run import search as searching
from searchkit.suite.run.attempts import Attempts, Live, watch
from searchkit.suite.store import creation, disk, status, trials
from searchkit.suite.store.state import State


def recover(attempts: Attempts) -> None:
    """Go on where another scheduler was killed: adopt what lives, accept what ended, run again what was lost."""
    state, paths = attempts.task.state, attempts.task.paths
    with fsio.storage():
        creation.clean(paths, state)
        disk.finish(attempts.task)
        _restore_damaged(attempts)
        have = set(creation.listdir(paths.jobs_all))
        for n, job in state.jobs.items():
            if str(n) not in have:
                creation.make_job(paths, job)
    attempts.ready = [n for n in sorted(state.jobs, reverse=True) if state.jobs[n].state is State.PENDING]
    for n in [n for n, job in sorted(state.jobs.items()) if job.state is State.RUNNING]:
        _recover_attempt(attempts, n)
    attempts.ready.sort(reverse=True)


def _restore_damaged(attempts: Attempts) -> None:
    """Mend what damaged lines of the events took away: the expansion still knows every job, and the status files
    which attempts began."""
    if not attempts.task.damaged:
        return
    state = attempts.task.state
    attempts.observer.message(f"note: {attempts.task.damaged} damaged line(s) of the events were skipped")
    seen = max([*state.jobs, *state.deleted, *state.early], default=-1) + 1
    config = attempts.plan.config
    if attempts.search:
        searching.restore(attempts.search)
        seen = 0
    if not attempts.search and not state.in_order:
        _restore_from_folders(attempts)
        seen = 0
    points = trials.space_of(config).points() if seen else ()
    for n, point in enumerate(islice(points, seen)):
        if n not in state.jobs and n not in state.deleted:
            values, text, command = creation.describe(config, point)
            attempts.task.record("create", job=n, values=values, text=text, command=command)
    attempts.points = attempts.remaining_points()
    for n, job in list(state.jobs.items()):
        while (
            job.state is State.PENDING and status.read(attempts.task.paths.job(n).attempt(job.attempt + 1)).exists
        ):  # its `launch` line was damaged
            fields = {"attempt": job.attempt + 1, "gpus": [], "snapshot": job.snapshot}
            attempts.task.record("launch", time=time.time(), job=n, **fields)
            job = state.jobs[n]


def _restore_from_folders(attempts: Attempts) -> None:
    """Where the place of a point in the grid does not say which job it is, the jobs' folders do."""
    state, paths = attempts.task.state, attempts.task.paths
    for n in sorted(map(int, filter(str.isdigit, creation.listdir(paths.jobs_all)))):
        if n not in state.jobs and n not in state.deleted and (found := creation.read_params(paths.job(n).params)):
            attempts.task.record("create", job=n, **found)


def _recover_attempt(attempts: Attempts, n: int) -> None:
    job, launch = attempts.task.state.jobs[n], attempts.launcher.describe(n)
    s = status.read(launch.paths)
    if working.adopt_trial(attempts, job, launch, s):
        return
    handle = attempts.backends.handle(launch.token, launch.paths, s)
    lives = s.exit_code is None and attempts.backends.alive(handle, s) is not False
    if not s.exists and not lives:  # decided, never started: that same attempt starts when its turn comes
        if job.stop:
            attempts.result(n, s)
        else:
            attempts.unstarted.add(n)
            attempts.ready.append(n)
        return
    timeout_s = attempts.plan.config.run.timeout_s
    deadline = (s.start.time_s if s.start else job.launched_s) + timeout_s if timeout_s else None
    live = attempts.live[n] = Live(launch, n, attempts.plan.slots.adopt(job.gpus), deadline=deadline)
    watch(attempts, live, s)
    if lives:
        where = f" on {s.start.host}, by its status file" if live.elsewhere and s.start else ""
        attempts.observer.message(f"job {n} still runs{where}: adopted")
        if job.stop in ("interrupt", "task"):
            attempts.task.record("adopt", time=time.time(), job=n)
    else:
        attempts.settle(n)
