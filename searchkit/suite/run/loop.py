"""The loop that runs a task: collect what ended -> decide -> write -> launch -> settle -> sync -> show -> wait.

One turn, up to five times a second, and at once when a child ends, a signal comes or a worker has news:

1. Collect: which attempts have ended? Their places are free. Those with a GPU are settled here (4), as the next job
   needs that GPU free for sure.
2. Obey signals, and what search-ctl asks; have the early stoppers judge what was reported.
3. Decide which jobs are launched, **write** that, and launch them. No SIGKILL can undo what is written; a power loss
   might, and then nothing that was launched lives. So a free place need not wait for the disk.
4. Settle what ended: end what it left behind, make its numbers durable, accept its result.
5. Decide which jobs are made. **Sync** all of the above. Only now results are shown.
6. Act on the rest: folders, jobs to stop, workers, answers to search-ctl.
7. Make one of the next jobs ready, if there is one, and wait.

Every decision is an event that is written before it is acted on, and synced before anybody is shown a result. If we are
killed half-way, the next scheduler finds out how far we came (`recovery.recover`): an attempt without a status file
never started, one whose wrapper lives is adopted, one with an exit line is accepted, and one with neither is lost and
run again.

What changes from turn to turn has its owners in owners.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

from searchkit.suite.run import attempts, creating, orders, recovery, rereading
from searchkit.suite.run import crew as working
from searchkit.suite.run import search as searching
from searchkit.suite.run.launcher import Launcher
from searchkit.suite.run.owners import Asked, News, Observer, Reports, Run
from searchkit.suite.store import trials
from searchkit.suite.store.job import State

TICK_S = 0.2  # how often adopted jobs, timeouts and intents are looked at


def run_task(launcher: Launcher, observer: Observer) -> int:
    """Run until all jobs have ended, or until told to stop. Returns the exit code; raises StorageError, and UsageError
    where a search lacks something that it needs."""
    asked = Asked()
    with _signals(asked.on_signal) as wake_fd:
        run = _begin(launcher, asked, News(observer))
        ahead = _turn(run)
        while not _is_over(run):
            ahead |= attempts.prepare(run)
            select.select([wake_fd, *run.crew.fds], [], [], 0 if ahead else TICK_S)
            with contextlib.suppress(BlockingIOError):
                os.read(wake_fd, 4096)
            ahead = _turn(run)
    _end(run)
    if fault := run.crew.fault or (run.search and run.search.fault):
        raise fault
    return _exit_code(run)


def _begin(launcher: Launcher, asked: Asked, news: News) -> Run:
    """What the files say of the task, and of what an earlier scheduler left running."""
    plan, task = launcher.plan, launcher.task
    plan.backends.open(task, plan.config)
    rereading.read_again(task, plan.config, news.say)
    search = searching.begin(plan.config, plan.ws, task, news.say)
    readers = search.readers if search else trials.Readers(task.paths, plan.ws.project_name, plan.config)
    run = Run(launcher, asked, news, search, Reports(readers))
    run.queue.refill(creating.points_left(run))
    working.muster(run)
    recovery.recover(run)
    return run


def _turn(run: Run) -> bool:
    """One turn, up to the wait; return whether there is more to do at once."""
    ended = attempts.collect(run)
    orders.obey(run)
    attempts.judge(run)

    launches = attempts.decide(run)
    run.task.journal.write()
    for n in launches:
        attempts.start(run, n)
    attempts.settle(run, ended)

    waiting = len(run.queue.ready)
    created = creating.decide(run)
    ahead = bool(created) or len(run.queue.ready) > waiting
    run.task.journal.commit()
    run.news.durable()

    creating.make_folders(run, created)
    run.launcher.keep_provenance(n for n in launches if n in run.running.live)
    attempts.end_stopped(run)
    working.end_stopped(run)
    working.keep(run)
    orders.answer(run)
    run.news.observer.tick(run.task, len(run.running.live))
    attempts.read_ahead(run)
    return ahead


def _is_over(run: Run) -> bool:
    """Whether nothing is left to do, or nothing that we may do."""
    if run.asked.leaves_jobs:
        return True
    if run.crew.workers or run.asked.intents or run.running.endable():
        return False
    if run.asked.draining:
        return True
    if run.running.live or (run.search and not searching.is_over(run.search)):
        return False
    state = run.task.state
    return state.complete and not state.counts()[State.PENDING] and not run.queue.decided


def _end(run: Run) -> None:
    """Leave nothing half-made."""
    run.task.journal.commit()
    working.let_go(run)
    run.launcher.discard_prepared()
    run.backends.close(leave=run.asked.leaves_jobs)


def _exit_code(run: Run) -> int:
    if run.asked.terminated:
        return 143
    if run.asked.interrupts or run.asked.is_stopped:
        return 130
    return 1 if run.task.state.counts()[State.ERROR] else 0


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[int]:
    """Yield a file descriptor that becomes readable when a child ends or a signal arrives."""
    r, w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old = {
        signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: on_signal(number)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: on_signal(number)),
    }
    wakeup = signal.set_wakeup_fd(w, warn_on_full_buffer=False)
    try:
        yield r
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(r)
        os.close(w)
