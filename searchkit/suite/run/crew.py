"""Warm workers in a running scheduler: how many there are, which trial each gets, and what happens when one dies.

A worker holds a slot for as long as it lives; its trials hold none. A trial that was given to a live worker stays with
it until the worker says that the trial has ended, or dies. Only then is the trial's status file judged, as that of any
attempt. A trial that a dead worker never began (it has no status file) goes to another worker under the same number.
"""

from __future__ import annotations

import contextlib
import os
import time

from searchkit import fsio
from searchkit.errors import SearchkitError, StorageError
from searchkit.suite.backends import contract, workers
from searchkit.suite.backends.base import GRACE_S, CannotStart, Grant, Handle, Launch
from searchkit.suite.backends.workers import Worker
from searchkit.suite.run import results
from searchkit.suite.run.owners import Live, Run
from searchkit.suite.store import snapshot, status
from searchkit.suite.store.job import Job
from searchkit.suite.store.status import Status
from searchkit.suite.workspace import JobPaths

MAX_FAILURES = 3  # workers in a row that end by themselves before they have served a trial
MAX_DEATHS = 10  # the same, ended by a signal
LOG_TAIL = 5  # lines of the log in the error that such workers cause


def muster(run: Run) -> None:
    """Say how many workers there may be, and find those that an earlier scheduler started. Raises StorageError."""
    setting = run.plan.config.run.workers
    if setting is None:
        return
    crew, task, most = run.crew, run.task, run.plan.slots.limit
    crew.limit = most if setting == "auto" else min(int(setting), most)
    if crew.limit < most:
        run.news.say(f"at most {crew.limit} of them: run.workers")
    with fsio.storage():
        crew.bell = workers.open_bell(task.paths)
        for k in workers.numbers(task.paths):
            worker = workers.load(task.paths, task.state.token, k)
            if worker is None:  # half-made
                workers.mark_gone(task.paths.worker(k))
                continue
            worker.handle = workers.handle(run.backends, task.paths, task.state.token, k)
            s = status.read(worker.paths.process)
            alive = run.backends.alive(worker.handle, s)
            if alive is None:  # it can't be asked, or judged, from here; its trial is found as any attempt is
                workers.close(worker)
                continue
            run.plan.slots.adopt(worker.grant.gpus)
            run.backends.adopt(worker.handle, worker.port)
            crew.workers[k] = worker
            if not alive or s.exit_code is not None:
                worker.busy = ""  # its trial is found as any attempt is
                _bury(run, worker)


def adopt_trial(run: Run, job: Job, launch: Launch, s: Status) -> bool:
    """Take over a trial that a live worker runs or was given; return whether there is such a worker."""
    worker = run.crew.by_trial(workers.trial_name(job.index, job.attempt))
    if worker is None:
        return False
    _go_on(run, job.index, launch, worker, s.start.time_s if s.start else job.launched_s)
    if s.exit_code is None:
        run.news.say(f"job {job.index} still runs in worker {worker.number}: adopted")
        if job.stop in ("interrupt", "task"):
            run.task.record("adopt", time=time.time(), job=job.index)
            with fsio.storage():
                workers.say(worker, resume=worker.busy)
    return True


def _go_on(run: Run, n: int, launch: Launch, worker: Worker, since_s: float) -> None:
    live = assign(run, worker, launch, n)
    if timeout_s := run.plan.config.run.timeout_s:
        live.deadline = since_s + timeout_s
    run.running.add(live)


def assign(run: Run, worker: Worker, launch: Launch, n: int) -> Live:
    """Give a trial to a worker that runs, which holds the slot and the port for it. The worker is not told yet."""
    assert worker.handle is not None
    worker.busy = workers.trial_name(n, launch.attempt)
    handle = run.backends.within(worker.handle, launch.token, launch.paths)
    return Live(launch, n, Grant(()), handle, slot_freed=True, worker=worker.number, left=True)


# ---- a trial begins


def hand_over(run: Run, n: int) -> None:
    """Act on a launch event: make the trial's folders, and tell its worker.

    Raises FileExistsError for an attempt that was begun before, StorageError for everything else.
    """
    live = run.running.live[n]
    worker = run.crew.workers[live.worker or 0]
    launch = live.launch
    if os.path.exists(launch.paths.status):
        worker.busy = ""
        raise FileExistsError(launch.paths.status)
    run.launcher.lay_out(n, launch)
    with fsio.storage():
        workers.say(
            worker,
            trial=worker.busy,
            env=contract.job_variables(launch, n),
            work=launch.work,
            status=launch.paths.status,
            log=launch.paths.log,
            next=launch.job.attempt(launch.attempt + 1).root,
            judged=bool(run.search and run.search.stoppers),
            pre=contract.callback_command(launch, "pre", launch.pre),
            after=contract.callback_command(launch, "after", launch.after),
        )


# ---- what workers say, and how they end


def collect(run: Run, gone: set[Handle]) -> set[int]:
    """Read what workers have said, and settle those that are gone. Returns the jobs whose trials ended."""
    over: set[int] = set()
    run.crew.hush()
    for worker in list(run.crew.workers.values()):
        with fsio.storage():
            for message in workers.news(worker):
                _heed(run, worker, message, over)
        if worker.handle is None or worker.handle in gone:
            _bury(run, worker, over)
    return over


def _heed(run: Run, worker: Worker, message: dict[str, object], over: set[int]) -> None:
    live = _trial_of(run, worker)
    if "ready" in message:
        worker.ready = True
    elif "bye" in message:  # it waited too long for a scheduler, and begins nothing any more
        worker.ending_s = worker.ending_s or time.monotonic()
        if live and not os.path.exists(live.launch.paths.status):
            _take_back(run, worker, live)
    elif message.get("refused", "") == worker.busy != "" and live:
        if not os.path.exists(live.launch.paths.status):
            raise StorageError(
                f"worker {worker.number} cannot begin job {live.job}: {message.get('why')}",
                "Run the same command again when that is fixed",
            )
        # It was begun before, by somebody else: its status file says by whom.
        worker.busy, live.worker = "", None
        results.watch(run, live, status.read(live.launch.paths))
    elif message.get("done", "") == worker.busy != "":
        run.crew.failures = run.crew.deaths = 0
        worker.served += 1
        if worker.killed:
            return  # it is being killed; its trial is over when nothing is left of it
        worker.busy = ""
        if live:
            live.left = bool(message.get("left"))
            over.add(live.job)
            if message.get("stopped") and not run.task.state.jobs[live.job].stop:
                # It obeyed an earlier scheduler before it heard that it may go on.
                run.task.record("stop", time=time.time(), jobs=[live.job], why="interrupt")


def _trial_of(run: Run, worker: Worker) -> Live | None:
    job = worker.busy.partition("/")[0]
    live = run.running.live.get(int(job)) if job else None
    return live if live and live.worker == worker.number else None


def _take_back(run: Run, worker: Worker, live: Live) -> None:
    """A trial that its worker never began, and never will: it starts elsewhere, under the same number."""
    worker.busy = ""
    run.running.drop(live.job)
    if run.task.state.jobs[live.job].stop:
        results.accept(run, live.job, Status(exists=False))
    else:
        run.queue.put_decided(live.job)


def _bury(run: Run, worker: Worker, over: set[int] | None = None) -> None:
    """Settle the end of a worker: end what is left of it, free its slot, and judge its trial."""
    if worker.handle:
        run.backends.clear(worker.handle, status.read(worker.paths.process), look=not worker.killed)
    with fsio.storage():
        for message in workers.news(worker):  # its last words
            _heed(run, worker, message, over if over is not None else set())
    live = _trial_of(run, worker)
    began = live is not None and os.path.exists(live.launch.paths.status)
    if live and began and over is not None:
        live.left = True
        over.add(live.job)
    elif live:
        _take_back(run, worker, live)
    began_itself = worker.handle is not None and not worker.adopted
    if not began and not worker.served and worker.ending_s is None and not worker.killed and began_itself:
        _count_failure(run, worker)
    run.plan.slots.give_back(worker.grant)
    workers.close(worker)
    with fsio.storage():
        workers.mark_gone(worker.paths)
    del run.crew.workers[worker.number]


def _count_failure(run: Run, worker: Worker) -> None:
    """A worker ended before any trial, and nobody had asked it to: its script is at fault, or the machine is."""
    crew, code = run.crew, status.read(worker.paths.process).exit_code
    by_itself = code is not None and code <= 128
    crew.failures += by_itself
    crew.deaths += not by_itself
    if crew.fault or not (code == 0 or crew.failures >= MAX_FAILURES or crew.deaths >= MAX_DEATHS):
        return
    log = worker.paths.process.log
    lines = (fsio.read_bytes(log) or b"")[-4096:].decode("utf-8", "replace").splitlines()[-LOG_TAIL:]
    tail = "".join(f"\n    | {line}" for line in lines)
    if code == 0:
        message = "the script ended without asking for a trial" if not worker.ready else "the script served no trial"
        hint = "With run.workers it must loop: `for trial in searchkit.trials():`"
    else:
        n = crew.failures if by_itself else crew.deaths
        how = f"the last with exit code {code}" if code is not None else "the last was killed"
        message = f"{n} workers in a row ended before they served a trial, {how}"
        hint = "Fix the script"
    task = run.task.paths.name
    crew.fault = SearchkitError(
        f"{message}; log: {log}{tail}", f"{hint}. Then run with it: search-ctl restart --task {task} --jobs @pending"
    )
    run.asked.drain("error")


# ---- how many there are


def keep(run: Run) -> None:
    """Start the workers that are needed, and let go of the others. Raises StorageError."""
    crew = run.crew
    if not crew.limit:
        return
    none_left = run.task.state.complete and not run.queue.ready
    if not run.asked.launches or none_left:
        _dismiss(run, [w for w in crew.workers.values() if not w.busy])
    elif run.queue.ready:
        _recruit(run)
    now = time.monotonic()
    hurry = run.asked.stopping_all or run.asked.draining == "task"
    for worker in crew.workers.values():
        patience_s = 0.0 if not worker.ready else 1.0 if hurry else GRACE_S
        can_be_killed = worker.handle is not None and not worker.killed
        if worker.ending_s is not None and can_be_killed and now - worker.ending_s >= patience_s:
            kill(run, worker, GRACE_S)


def _dismiss(run: Run, chosen: list[Worker]) -> None:
    """Tell workers that there is no trial left for them."""
    with fsio.storage():
        for worker in chosen:
            if worker.ending_s is None:
                worker.ending_s = time.monotonic()
                workers.say(worker, end=True)


def _recruit(run: Run) -> None:
    """Start workers, at most one for each trial that is left; those with other code make room."""
    crew, slots = run.crew, run.plan.slots
    job = run.task.state.jobs.get(run.queue.ready[-1])
    if job is None:  # just deleted
        return
    staying = [w for w in crew.workers.values() if w.ending_s is None]
    fit = sum(w.snapshot == job.snapshot for w in staying)
    target = min(crew.limit, len(run.queue.ready) + len(run.running.live))
    _dismiss(run, [w for w in staying if not w.busy][: max(0, len(staying) - crew.limit)])  # more were adopted
    missing = target - len(staying) if fit else 1
    while missing > 0:
        grant = slots.take() if len(crew.workers) < crew.limit else None
        if grant is None:
            if not fit:
                _dismiss(run, [w for w in staying if not w.busy])
            run.news.waits_for(slots.waits_for)
            return
        run.news.has_place()
        missing -= 1
        if not _start(run, job, grant):
            return


def _start(run: Run, job: Job, grant: Grant) -> bool:
    """Start a worker; False where its command can never start."""
    task, plan, launcher = run.task, run.plan, run.launcher
    with fsio.storage():
        worker = workers.make(task.paths, task.state.token, job.snapshot, grant, run.backends.main.port)
        work = f"{worker.paths.root}/{plan.ws.project_name}"
        snapshot.materialise(launcher.manifest(job.snapshot), task.paths.snapshot(job.snapshot), plan.ws.project, work)
    paths = JobPaths(worker.paths.root)
    name = f"worker-{worker.number}"
    launch = Launch(paths, 1, work, job.command, worker.token, task.paths.tmp, name, shell=plan.shell)
    env = launcher.environment(job.index, launch)
    for variable in contract.job_variables(launch, job.index):
        del env[variable]
    env |= {"SEARCHKIT_WORKER": paths.root, contract.TOKEN: worker.token}
    run.crew.workers[worker.number] = worker
    try:
        backend = run.backends.main
        worker.handle = backend.start(backend.prepare(launch, env, grant))
    except CannotStart as e:
        worker.ending_s = time.monotonic()
        run.crew.fault = SearchkitError(f"a worker cannot be started: {e}", "Fix the template")
        run.asked.drain("error")
        return False
    except OSError as e:
        worker.ending_s = time.monotonic()
        raise StorageError(f"cannot start a worker: {e}", "Run the same command again when that is fixed") from e
    return True


# ---- how a trial is ended


def end_stopped(run: Run) -> None:
    """Ask the trials that are to end; where one has not ended within its grace, kill its worker."""
    if run.asked.leaves_jobs:
        return  # leave them running
    now = time.monotonic()
    for n, live in run.running.live.items():
        if live.worker is None or live.ending is not None or not run.task.state.jobs[n].stop:
            continue
        worker = run.crew.workers[live.worker]
        if results.came_too_late(run, live, status.read(live.launch.paths)):
            continue
        if live.asked_s is None:
            live.asked_s, live.deadline = now, None
            with fsio.storage():
                workers.say(worker, stop=worker.busy)
        if now - live.asked_s >= live.grace_s:
            kill(run, worker, live.grace_s)
            live.ending = worker.handle


def kill(run: Run, worker: Worker, grace_s: float) -> None:
    """SIGTERM to all processes of a worker, SIGKILL after the grace. A worker that catches SIGTERM to save what its
    trial has done takes no other trial."""
    assert worker.handle is not None
    worker.killed = True
    graces_s = {worker.handle: grace_s}
    if (live := _trial_of(run, worker)) and live.handle:
        graces_s[live.handle] = grace_s  # what it started may have left the session
        with fsio.storage():  # its wrapper lives on, to write the trial's exit line
            fsio.atomic_write(worker.paths.open_trial, f"{live.launch.paths.status}\n", durable=False)
            workers.say(worker, end=True)
    run.backends.cancel(graces_s)


def let_go(run: Run) -> None:
    """Close our files of all workers, whatever happens to the workers."""
    with contextlib.suppress(OSError):
        if not run.crew.workers:
            os.unlink(run.task.paths.bell)
    run.crew.close()
