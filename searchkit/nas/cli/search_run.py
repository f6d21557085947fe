"""search-run as a child of search-nas search: its folder, its signals, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchkit import fsio, proc
from searchkit.errors import ConflictError, HeldError, OtherConfigError, SearchkitError, UsageError
from searchkit.nas.cli.options import say
from searchkit.nas.cli.search_view import View
from searchkit.nas.space.space import Space
from searchkit.nas.subnet import search
from searchkit.nas.subnet.standing import Standing, Tail
from searchkit.suite.facts import explained
from searchkit.suite.workspace import NAME, Workspace

POLL_S = 0.1
WAIT_S = 60.0  # for the search-run of a killed search to end
HOPELESS = 10  # trials that all failed, and none that did not: the rest would, too
LOCK = ".lock"
_OURS = re.compile(r"search\.(json|yaml|log)|results\.jsonl|calibration-\w+\.json|\.(lock|search-run|searchignore)")
# Become search-run, with SIGTERM when our parent dies, whatever kills it: workers are then stopped, and no GPU is held.
_FOLLOW = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
os.getppid() == int(sys.argv[1]) or os._exit(1)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


# --- its folder ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder_of(
    keep: str, plan: search.Plan, here: search.Here, text: str, begun: bool, overwrite: bool
) -> Iterator[None]:
    """The folder of the search, made ready, ours alone. Nothing is left of it where the search can't begin."""
    before = os.listdir(keep) if os.path.isdir(keep) else None
    config = os.path.join(keep, search.CONFIG)
    with fsio.storage():
        os.makedirs(keep, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(fsio.locked(os.path.join(keep, LOCK), 0))
        except TimeoutError as e:
            hint = "Wait for it or end it: the search then goes on; or name another --work-dir"
            raise ConflictError(f"another search-nas search works in {keep}", hint) from e
        with fsio.storage():
            if overwrite and begun:
                _check_over(keep)
                say(f"moved the old search away: {_move_away(keep)}")
            search.save(keep, plan, here)
            fsio.atomic_write(config, search.as_begun(text, fsio.read_bytes(config) or b""))
            fsio.atomic_write(os.path.join(keep, ".searchignore"), "*\n")  # trials need no file of ours
        try:
            if not os.path.isdir(os.path.join(keep, NAME)):
                _command(keep, "searchkit.suite.cli.init")
            yield
        except UsageError:
            if not begun and not os.path.exists(os.path.join(keep, search.RESULTS)):
                _take_back(keep, before)
            raise


def _check_over(keep: str) -> None:
    """Raises ConflictError while a process of the old search lives: its record would land in the new one's file."""
    task = _task(keep)
    if (task and task["status"] == "running") or _workers(keep):
        raise ConflictError(
            f"the old search in {keep} still runs", f"End it: cd {keep} && search-ctl stop --task {search.TASK}"
        )


def _workers(keep: str) -> list[int]:
    """The workers of a search that live, those without a trial, too."""
    plan, pids = os.path.realpath(os.path.join(keep, search.PLAN)), []
    for pid in proc.numbers():
        words = proc.command(pid)
        if b"score" in words[:-1] and os.path.realpath(os.fsdecode(words[words.index(b"score") + 1])) == plan:
            pids.append(pid)
    return pids


def _move_away(keep: str) -> str:
    """Put all files of an older search into a folder beside the new one's."""
    old = os.path.join(keep, f"{search.OLD}{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    os.mkdir(old)
    for name in sorted(os.listdir(keep), key=search.PLAN.__eq__):  # the plan last: till then this is that search
        if name != LOCK and not name.startswith(search.OLD):
            os.rename(os.path.join(keep, name), os.path.join(old, name))
    return old


def _take_back(keep: str, before: Collection[str] | None) -> None:
    """Remove what we made in a folder that had these names; None: it was not there. What is not ours stays."""
    made = {name for name in os.listdir(keep) if _OURS.fullmatch(name)}.difference(before or ())
    for name in sorted(made, key=(search.PLAN, LOCK).__contains__):  # the plan last: without it the rest is nobody's
        path = os.path.join(keep, name)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
    if before is None:
        with contextlib.suppress(OSError):  # somebody put a file of their own there
            os.rmdir(keep)


def _command(keep: str, *argv: str) -> str:
    """The output of a command of the suite. Raises SearchkitError with what it said where that has no good end."""
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=keep, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise fault_of(done.stderr, done.returncode)
    return done.stdout


def _task(keep: str) -> dict[str, Any] | None:
    """The task of a search, as search-ctl shows it; None where there is none yet, or where that can't be told."""
    if not os.path.exists(Workspace(os.path.join(keep, NAME)).task(search.TASK).run_config):
        return None  # nor is that of a workspace further up taken for it
    with contextlib.suppress(SearchkitError, ValueError):
        facts: dict[str, Any] = json.loads(
            _command(keep, "searchkit.suite.cli.ctl", "show", "--task", search.TASK, "--json")
        )
        return facts
    return None


def _failed(keep: str) -> set[int] | None:
    """The trials that failed for good, in any run of the search; None where that can't be told."""
    task = _task(keep)
    return {job["job"] for job in task["jobs"] if job["status"] == "error"} if task else None


def fault_of(said: str, code: int) -> SearchkitError:
    """What a command of the suite said last, as an error of our own with its exit code."""
    message, _, hint = said.strip().removeprefix("error: ").rpartition("\n  ")
    fault = SearchkitError(message or hint, hint if message else "")
    fault.exit_code = code
    return fault


def fault_of_run(error: Mapping[str, Any]) -> SearchkitError:
    """The fault that search-run told of (see searchkit.suite.facts), in the words of search-nas."""
    message, hint = error["message"], error["hint"].replace("search.enqueue", "--enqueue")
    if error["kind"] == OtherConfigError.kind:  # the plans are equal: it is the paths
        message = "the search was made at another place, or by another Python: it can't go on here"
        hint = "Move its folder back, take that Python; or begin anew (--overwrite), or in another --work-dir"
    elif "search-ctl restart" in hint:  # there is no script of the user's own
        hint = "Fix it and run the same command again"
    kinds = {2: UsageError, 4: ConflictError}
    fault = kinds.get(error["exit"], SearchkitError)(message, hint)
    fault.exit_code = error["exit"]
    return fault


def fault_of_code(code: int, log: str) -> SearchkitError:
    """What is known of a search-run that ended without a word on it."""
    if code < 0:
        return SearchkitError(f"search-run was killed by signal {-code}", "Run the same command again to go on")
    fault = SearchkitError(f"search-run ended with {code}", f"What it said is in {log}")
    fault.exit_code = code
    return fault


# --- search-run ------------------------------------------------------------------------------------------------------


class Run:
    """search-run as a child: signals are passed on to it, and it does not outlive us. What happens in it, it tells by
    `--facts`, see searchkit.suite.facts."""

    def __init__(self, keep: str, options: Sequence[str]) -> None:
        self.keep, self.log = keep, os.path.join(keep, search.LOG)
        self.told = os.path.join(Workspace(os.path.join(keep, NAME)).tmp, fsio.half_name("facts"))
        self.argv = [sys.executable, "-c", _FOLLOW, str(os.getpid()), "searchkit.suite.cli.run", search.CONFIG]
        self.argv += ["--task", search.TASK, "--no-progress", "--facts", self.told, *options]
        self.interrupts, self.ended = 0, False
        self.failures = _failed(keep) or set()  # those of earlier runs, too
        self.earlier = len(self.failures)
        self.child: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, also once more where the one of a killed search still held the task."""
        self.read = 0
        self.end: dict[str, Any] | None = None  # how it ended
        self.error: dict[str, Any] | None = None  # the fault that it ended with
        with fsio.storage(), open(self.log, "ab") as log:
            self.forget()
            self.child = subprocess.Popen(
                self.argv,
                cwd=self.keep,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C of the terminal reaches us alone; we pass it on
            )

    def look(self) -> None:
        """Take in what it has told since the last time."""
        new = fsio.read_bytes(self.told, self.read) or b""
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        for facts in map(json.loads, whole.splitlines()):
            self.end, self.error = facts.get("end", self.end), facts.get("error", self.error)
            if facts.get("status") == "error" and not facts["runs_again"]:
                self.failures.add(facts["job"])

    def forget(self) -> None:
        """Remove what it has told."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.told)

    def pass_on(self, number: int, _: object) -> None:
        """The signal handler."""
        self.interrupts += number == signal.SIGINT
        self.ended = self.ended or number != signal.SIGINT
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup had it ignored
            numbers.append(signal.SIGHUP)
        before = {n: signal.signal(n, self.pass_on) for n in numbers}
        try:
            yield
        finally:
            for n, handler in before.items():
                signal.signal(n, handler)
            if self.child is not None and self.child.poll() is None:  # an error of ours
                self.child.terminate()
                self.child.wait()
            self.forget()


@dataclass(frozen=True)
class End:
    """How search-run ended. `fault`: what it said where that was an error."""

    code: int
    failed: int  # trials, in this run and before
    is_exhausted: bool  # the space has no further subnet
    fault: SearchkitError | None = None


def watch(run: Run, standing: Standing, total: int, space: Space) -> tuple[End, View]:
    """Show the search until search-run ends."""
    tail = Tail(os.path.join(run.keep, search.RESULTS))
    if there := standing.add(tail.new()):
        say(f"{there} subnets have their score already")
    deadline, told, hopeless = time.monotonic() + WAIT_S, 0, False
    with run.signals(), View(standing, total, space, run.earlier) as view:
        while True:
            assert run.child is not None
            code = run.child.poll()
            view.update(standing.add(tail.new()))
            run.look()
            view.failed = len(run.failures)
            if run.interrupts > told:
                told = run.interrupts
                view.note = _on_interrupt(told)
                view.message(view.note)
            new = view.failed - run.earlier
            if new >= HOPELESS and not view.fresh and not run.interrupts:
                run.pass_on(signal.SIGINT, None)
                view.message(f"the first {new} subnets all failed: the search ends")
                told, hopeless = run.interrupts, True
            if code is None:
                time.sleep(POLL_S)
            elif code == 4 and _waits(run) and time.monotonic() < deadline:
                time.sleep(1)  # there is nobody to wake us: the search-run of a killed search ends its workers
                run.start()
            else:
                break
    return _ended(run, 1 if hopeless else code, code), view


def _waits(run: Run) -> bool:
    """Whether the search-run of a killed search still holds the task: it is ending its workers."""
    held = run.error is not None and run.error["kind"] == HeldError.kind
    return held and not (run.interrupts or run.ended)


def _ended(run: Run, code: int, real: int) -> End:
    """`real`: the exit code of search-run, which ends as interrupted where we interrupted it."""
    failed = _failed(run.keep) if run.end is None else run.end["failed"]
    n = len(run.failures if failed is None else failed)
    if run.error is not None or real not in (0, 1, 130, 143):
        fault = fault_of_code(real, run.log) if run.error is None else fault_of_run(run.error)
        return End(fault.exit_code, n, False, fault)
    for job in run.end["why"] if run.end else ():
        say(explained(job))
    return End(code, n, run.end is not None and run.end["exhausted"])


def _on_interrupt(n: int) -> str:
    if n == 1:
        return "Ctrl-C: no further subnet is begun, those that run may finish (again: stop them)"
    return "stopping; the same command goes on" if n == 2 else "left running for the next search-run"
