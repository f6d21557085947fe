"""Finding and ending every process of an attempt: descendants of its wrapper, its session, carriers of its token.

What escapes all three (a process that leaves the session, is adopted by another parent and clears its environment)
is named in docs/contract.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from searchkit import proc
from searchkit.proc import is_alive, start_ticks
from searchkit.suite.backends.base import NO_JOB, Handle
from searchkit.suite.backends.contract import TOKEN

LINGER_S = 0.2  # for what a command that ended has left: a `tee` that writes its last lines, Python's resource tracker
GIVE_UP = 200  # looks at what SIGKILL does not end: a process in the kernel may not die
_NEEDLE = TOKEN.encode() + b"="


@dataclass(frozen=True)
class Process(Handle):
    """An attempt or worker on this machine: its token, and its wrapper's number and start time (of this boot)."""

    pid: int | None = field(default=None, compare=False)
    ticks: int | None = field(default=None, compare=False)  # None: not looked for yet, as a child of ours is no other
    adopted: bool = field(default=False, compare=False)  # its orphans are not our children: they have to be looked for
    part: bool = field(default=False, compare=False)  # a trial: no wrapper is its own


@dataclass(frozen=True)
class Proc:
    pid: int
    ppid: int
    session: int
    token: str | None


def scan(but: Collection[int] = ()) -> list[Proc]:
    """Every process that is not a zombie, with its token where its environment can be read.

    Numbers are listed until there are no new ones: a process that is looked at when it has just ended may have started
    another since they were listed, and both would be missed.
    """
    procs, seen = [], set(but)
    while fresh := [pid for pid in proc.numbers() if pid not in seen]:
        seen.update(fresh)
        for pid in fresh:
            if (p := proc.stat(pid)) is not None and p.state not in proc.ENDED:
                procs.append(Proc(pid, p.ppid, p.session, _token(pid)))
    return procs


def _token(pid: int) -> str | None:
    env = proc.environment(pid)
    if env is None:
        return None
    at = 0 if env.startswith(_NEEDLE) else env.find(b"\0" + _NEEDLE) + 1
    if at == 0 and not env.startswith(_NEEDLE):
        return None
    return env[at + len(_NEEDLE) :].split(b"\0", 1)[0].decode("utf-8", "replace")


def members(targets: Iterable[Process]) -> dict[str, list[int]]:
    """The live processes of each target by token, its wrapper left out."""
    targets = list(targets)
    procs = scan(but=(os.getpid(),))
    children: dict[int, list[int]] = {}
    by_session: dict[int, list[int]] = {}
    by_token: dict[str, list[int]] = {}
    for p in procs:
        children.setdefault(p.ppid, []).append(p.pid)
        by_session.setdefault(p.session, []).append(p.pid)
        if p.token is not None:
            by_token.setdefault(p.token, []).append(p.pid)
    out = {}
    for t in targets:
        pids = set(by_token.get(t.token, ()))
        todo = list(pids)
        # The kernel does not reuse a number while a session carries it: if another process has it, the session is gone.
        if t.pid is not None and start_ticks(t.pid) in (None, t.ticks):
            pids.update(by_session.get(t.pid, ()))
            todo = [*pids, t.pid]
        while todo:
            for child in children.get(todo.pop(), ()):
                if child not in pids:
                    pids.add(child)
                    todo.append(child)
        pids.discard(t.pid or 0)
        out[t.token] = sorted(pids)
    return out


def _will_catch(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM, and is not exiting already."""
    return proc.catches(pid, signal.SIGTERM) and (p := proc.stat(pid)) is not None and not p.flags & proc.EXITING


def send(pids: Iterable[int], sig: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)


@dataclass
class Killer:
    """Ends attempts without blocking: call `step` until it says that nothing is left.

    SIGTERM at once; SIGKILL to whatever is left after `grace_s`; the wrapper, which only notes SIGTERM and then writes
    its exit line, is killed only if it still stands `grace_s` after that.
    """

    since: dict[Process, tuple[float, float]] = field(default_factory=dict)  # (SIGTERM at, grace)
    known: dict[Process, dict[int, int]] = field(default_factory=dict)  # every process ever seen: number -> start ticks

    def add(self, targets: dict[Process, float]) -> None:
        """Begin to end targets, each with its grace in seconds. A second call may shorten the grace of a target."""
        now = time.monotonic()
        fresh = [t for t in targets if t not in self.since]
        for target, grace_s in targets.items():
            since, old_s = self.since.get(target, (now, grace_s))
            self.since[target] = (since, min(old_s, grace_s))
            self.known.setdefault(target, {})
        if fresh:
            live = self._look()
            for t in fresh:
                # What catches SIGTERM may exit with any code. The wrapper is told first, so that it knows the order.
                if any(map(_will_catch, live[t])) and is_alive(t.pid or 0, t.ticks):
                    send([t.pid or 0], signal.SIGTERM)
                send(live[t], signal.SIGTERM)

    def _look(self) -> dict[Process, list[int]]:
        """The live processes of each target; one that was once seen stays ours, even if its parent has died since."""
        live = members(self.since)
        for target, known in self.known.items():
            for pid in live[target.token]:
                if pid not in known and (ticks := start_ticks(pid)) is not None:
                    known[pid] = ticks
        return {t: [pid for pid, ticks in known.items() if is_alive(pid, ticks)] for t, known in self.known.items()}

    def step(self) -> list[Process]:
        """Signal what is still there; return (and forget) the targets of which nothing is left."""
        if not self.since:
            return []
        now = time.monotonic()
        done = []
        live = self._look()
        for target, (since, grace_s) in list(self.since.items()):
            pids, age = live[target], now - since
            if age > grace_s:
                send(pids, signal.SIGKILL)
            wrapper_lives = target.pid is not None and is_alive(target.pid, target.ticks)
            if not pids and not wrapper_lives:
                done.append(target)
                del self.since[target], self.known[target]
            elif not pids and age > 2 * grace_s + 2 and target.pid is not None:
                send([target.pid], signal.SIGKILL)
        return done

    def survivors(self) -> dict[str, list[int]]:
        """The processes that are left of each target now, by token."""
        return {target.token: pids for target, pids in self._look().items()}


def kill_now(target: Process, linger_s: float = 0.0) -> list[str]:
    """SIGKILL everything of a target until nothing is left.

    What ends by itself within `linger_s` is left alone. Returns the command lines of the others.
    """
    names: dict[int, str] = {}
    until = time.monotonic() + linger_s
    for _ in range(GIVE_UP):
        pids = members([target])[target.token]
        while pids and time.monotonic() < until:
            time.sleep(0.01)
            pids = members([target])[target.token]
        if not pids:
            break
        names |= {pid: command_line(pid) for pid in pids if pid not in names}
        send(pids, signal.SIGKILL)
        time.sleep(0.005)
    return [name for name in names.values() if name]


def command_line(pid: int) -> str:
    """The command line of a process; empty where it is gone."""
    return b" ".join(proc.command(pid)).decode("utf-8", "replace")


def carriers(task_token: str, jobs: Collection[int] | None = None) -> dict[int, list[int]]:
    """The live processes that carry a token of a task, by job; of some jobs, or of all, workers (-1) included."""
    pids: dict[int, list[int]] = {}
    for p in scan(but=(os.getpid(),)):
        task, _, rest = (p.token or "").partition("/")
        first = rest.partition("/")[0]
        job = int(first) if first.isdecimal() else NO_JOB
        if task == task_token and (jobs is None or job in jobs):
            pids.setdefault(job, []).append(p.pid)
    return pids
