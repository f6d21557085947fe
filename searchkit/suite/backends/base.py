"""What a backend is: where the attempts of a task run, and who answers for them.

The scheduler and search-ctl know where jobs run by these functions alone. `local/` is the backend of this machine's
processes. Another one (pilots in the jobs of a cluster, say) is a folder beside it and a row of `table.BACKENDS`; the
promises that it must keep stand here, with each function.

The truth is in files: an attempt's wrapper writes `start` and `exit` to the attempt's status file, wherever it runs,
and how an attempt ended is read there and nowhere else. A backend is asked what files can't say: where there is room,
whether an attempt without an `exit` still lives, and whether anything is left of one that ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from searchkit.suite.config.shells import SH, Shell
from searchkit.suite.store.status import Status
from searchkit.suite.workspace import AttemptPaths, JobPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.tasks import OpenTask

GRACE_S = 10.0  # between SIGTERM and SIGKILL, where nobody says otherwise
NO_JOB = -1  # what stands for the job where something belongs to none: a worker
WORKER = "worker-"  # before a worker's number: in its token, and as the handle in the `start` lines of its trials

# ---- what is asked of a backend


@dataclass(frozen=True)
class Request:
    """What a run asks of a backend, from the config and the command line."""

    program: str  # the template's first word
    env: Mapping[str, str]  # of search-run
    gpus: str  # auto | none | indices like 0,1
    per_job: int | None  # GPUs of a job; None: one where there are GPUs
    per_gpu: int  # jobs that share a GPU
    cpus: int  # of a job
    mem_bytes: int | None  # of GPU memory that a job needs free
    most: int | None  # jobs at once


@dataclass(frozen=True)
class Grant:
    """What one running job, or worker, holds. A backend may give more than it says here, in a class of its own."""

    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One attempt of a job, or a worker, ready to start. All its folders are there when it starts."""

    job: JobPaths
    attempt: int
    work: str  # the command's working folder
    command: str | list[str]  # a string for the shell, a list for no shell
    token: str  # the mark of its processes, and of no others
    tmp: str  # the task's folder for what is half-made
    name: str  # of its files there
    pre: str = ""
    after: str = ""
    shell: Shell = SH

    @property
    def paths(self) -> AttemptPaths:
        return self.job.attempt(self.attempt)


@dataclass(frozen=True)
class Prepared:
    """A launch that is ready to start, and has not begun: a backend keeps what it needs in a class of its own."""

    launch: Launch


@dataclass(frozen=True)
class Handle:
    """An attempt or a worker that was started, as its backend knows it. Two of one token are the same one.

    A backend adds what it needs to find it again (the number and start time of a process, the id of a cluster's job),
    all of which it can also read from the status file.
    """

    token: str
    backend: str = field(compare=False)  # its row in table.BACKENDS
    paths: AttemptPaths = field(compare=False)


class CannotStart(Exception):
    """This command can't be started on any machine; the text says why."""


# ---- what it answers


class Capacity(Protocol):
    """How many jobs may run at once, and on what: one place grants, one takes back."""

    limit: int  # jobs at once; a cluster's: pilots times the jobs of each
    waits_for: str  # why the last `take` found no place though nothing of ours runs; empty: it did, or ours hold all

    @property
    def alike(self) -> Grant | None:
        """What every job gets, where all get the same: such a job can be prepared before its turn. Else None."""

    @property
    def devices(self) -> list[str]:
        """What jobs run on, for the record of a run."""

    def take(self) -> Grant | None:
        """A place for one more job, or None. Asked again and again while there is none, so it must not wait."""

    def adopt(self, gpus: tuple[int, ...]) -> Grant:
        """Count a job that an earlier scheduler started on these GPUs; what it holds there is its own."""

    def give_back(self, grant: Grant) -> None:
        """The job of this grant, once per grant, is over or was never started."""

    def close(self) -> None:
        """The run is over: let go of what we hold ourselves. What still runs keeps its own."""


class Backend(Protocol):
    """Where attempts run. One object serves one scheduler, or one act of search-ctl. All that it knows can be read
    again from the files of the attempts, so it may die with its process at any moment.

    A worker is started, ended and looked for as an attempt is.
    """

    name: str

    def capacity(self, request: Request) -> tuple[Capacity, str]:
        """The places of a run, and one line for people that says where they come from.

        Raises UsageError where one job needs more than there is.
        """

    def open(self, task: OpenTask, config: Config) -> None:
        """A scheduler begins, the only one that writes to this task. What a backend asks of others (a job of a cluster,
        say) is an event before it is asked, and what an earlier scheduler asked is found again here. search-ctl does
        not call this."""

    def close(self, *, leave: bool) -> None:
        """The scheduler ends. `leave`: what runs goes on, for the next scheduler; else nothing that it could end runs
        any more, and what was held for later jobs is given up."""

    # -- starting

    def port(self, token: str) -> int:
        """A TCP port for an attempt or a worker, the same at each call until that attempt is cleared; 0 if the port is
        chosen where the job runs."""

    def prepare(self, launch: Launch, env: Mapping[str, str], grant: Grant) -> Prepared:
        """Do what can be done for a start before it is decided. Nothing of the job runs, nothing is written except
        below `launch.tmp`, and if we die, it undoes itself. `env`: that of the contract, without the devices of the
        grant and the port, which are added here.

        Raises CannotStart, and OSError for what is no fault of the command.
        """

    def start(self, prepared: Prepared) -> Handle:
        """Let it begin, without waiting until it has begun. The decision is an event by now, and may be acted on twice:
        by us and, if we die, by the next scheduler. So an attempt begins when its status file is made, here or where it
        runs, and only if there is none yet. From now on `alive` says that it lives, however long its first line takes.

        Raises FileExistsError for an attempt that was begun before, CannotStart, and OSError for anything else.
        """

    def discard(self, prepared: Prepared) -> None:
        """Undo `prepare`; nothing of it is left."""

    # -- finding

    def handle(self, token: str, paths: AttemptPaths, s: Status) -> Handle:
        """The handle of an attempt that somebody else started, from its status file. Where that file has no first line
        yet, or is missing, only the attempt's token is known. This watches nothing: see `adopt`."""

    def within(self, outer: Handle, token: str, paths: AttemptPaths) -> Handle:
        """The handle of a trial that a worker runs: its processes have the trial's token, and no wrapper."""

    def alive(self, handle: Handle, s: Status) -> bool | None:
        """Whether an attempt without an exit line may still write to its folder. `s`: what its status file says now,
        including whether the wrapper's lock is held. Without a status file: whether whoever was told to begin the
        attempt lives, and may still do so.

        None where that can't be known from here; then nobody here judges the attempt dead, or ends it. The liveness of
        another host is never judged by a process number, which means something only on its own machine and boot. A
        backend that reaches other hosts needs a witness there, such as a lock that holds between hosts or a heartbeat.
        The queue of a cluster is no such witness: what it calls dead may still write, and what it calls running may be
        gone.
        """

    def adopt(self, handle: Handle, port: int = 0) -> None:
        """Watch what an earlier scheduler started as if we had started it: `ended` reports its end. `port`: the one
        that it has, which nobody else may get."""

    # -- ending

    def ended(self) -> list[Handle]:
        """What ended since the last call, each once. Of those that we started or adopted: any that has an exit line or
        is dead. Of those being cancelled: only any of which nothing lives.

        Never waits. It is called five times a second, so a backend makes expensive requests (to a cluster's queue) at
        its own pace; until it has an answer, nothing has ended.
        """

    def cancel(self, graces_s: Mapping[Handle, float]) -> None:
        """Begin to end these, each with its grace in seconds: SIGTERM to all its processes, SIGKILL to what is left
        after the grace; its wrapper is spared, so that it can write the exit line. A second call may shorten the
        grace.

        Does not wait. `ended` reports the end, when nothing of it lives, wherever it ran; before that nobody may say
        that it was stopped. `Backends.end` is the form that waits, and returns when nothing of it lives.
        """

    def survivors(self) -> dict[str, list[int]]:
        """What still lives of all that is being cancelled, by token: process numbers, or the engine's own names."""

    def remains(self, handle: Handle) -> list[int]:
        """What lives of an attempt or worker now, except its wrapper; the same numbers."""

    def clear(self, handle: Handle, s: Status, *, look: bool = False) -> list[str]:
        """End at once what is left of an attempt or worker that has ended, and forget it, so that nothing of it lives
        beside its successor. Returns the command lines of what had to be killed; what ends by itself within a moment
        after the exit line is not counted. `s`: what its status file says. `look`: it is known to have left something,
        or not known to have left nothing.
        """

    # -- a whole task

    def living(self, task_token: str) -> dict[int, list[int]]:
        """All that lives of a task, of whatever attempt, by job and number; NO_JOB: of workers."""

    def sweep(self, task_token: str, jobs: Collection[int] | None, leave: Collection[int]) -> dict[int, list[int]]:
        """Kill all that lives of these jobs of a task (None: of all, workers too), except those in `leave`, until
        nothing is left; returns what survives that, by job."""
