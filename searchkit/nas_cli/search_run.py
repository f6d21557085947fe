"""search-run as a child of search-nas search: its folder, its signals, its end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from searchkit import fsio
from searchkit.errors import ConflictError, SearchkitError, UsageError
from searchkit.nas_cli.options import say
from searchkit.nas_cli.search_view import View
from searchkit.space.arch import Space
from searchkit.subnet import search
from searchkit.subnet.standing import Standing, Tail

POLL_S = 0.1
WAIT_S = 60.0  # for the search-run of a killed search to end
HOPELESS = 10  # trials that all failed, and none that did not: the rest would, too
LOCK = ".lock"
_FAILED = re.compile(rb"^\[\d+/\S+\] job (\d+) error", re.MULTILINE)
_ERROR = re.compile(r"^error: ", re.MULTILINE)
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
    existed = os.path.isdir(keep)
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
                say(f"moved the old search away: {_move_away(keep)}")
            search.save(keep, plan, here)
            fsio.atomic_write(os.path.join(keep, search.CONFIG), text)
            fsio.atomic_write(os.path.join(keep, ".searchignore"), "*\n")  # trials need no file of ours
        try:
            if not os.path.isdir(os.path.join(keep, ".search-run")):
                _command(keep, "searchkit.cli.init")
            yield
        except UsageError:
            if not begun and not os.path.exists(os.path.join(keep, search.RESULTS)):
                _take_back(keep, existed)
            raise


def _move_away(keep: str) -> str:
    """Put all files of an older search into a folder beside the new one's."""
    old = os.path.join(keep, f"old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    os.mkdir(old)
    for name in os.listdir(keep):
        if name != LOCK and not name.startswith("old-"):
            os.rename(os.path.join(keep, name), os.path.join(old, name))
    return old


def _take_back(keep: str, existed: bool) -> None:
    """Remove what we made in a folder that had nothing."""
    for name in os.listdir(keep):
        path = os.path.join(keep, name)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
    if not existed:
        os.rmdir(keep)


def _command(keep: str, module: str) -> None:
    """Run a command of the suite to its end. Raises SearchkitError with what it said where that is no good one."""
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=keep, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise fault_of(done.stderr, done.returncode)


def fault_of(said: str, code: int) -> SearchkitError:
    """What a command of the suite said last, as an error of our own with its exit code."""
    if code < 0:
        return SearchkitError(f"search-run was killed by signal {-code}", "Run the same command again to go on")
    last = said[max(said.rfind("error: "), 0) :].strip().removeprefix("error: ") or f"search-run ended with {code}"
    message, _, hint = last.rpartition("\n  ")
    if not message:
        message, hint = last, ""
    kinds = {2: UsageError, 4: ConflictError}
    fault = kinds.get(code, SearchkitError)(message, hint.replace("search.enqueue", "--enqueue"))
    fault.exit_code = code
    return fault


# --- search-run ------------------------------------------------------------------------------------------------------


class Run:
    """search-run as a child: signals are passed on to it, and it does not outlive us."""

    def __init__(self, keep: str, options: Sequence[str]) -> None:
        self.keep, self.log = keep, os.path.join(keep, search.LOG)
        self.argv = [sys.executable, "-c", _FOLLOW, str(os.getpid()), "searchkit.cli.run", search.CONFIG]
        self.argv += ["--task", search.TASK, "--no-progress", *options]
        self.interrupts, self.ended = 0, False
        self.failures: set[bytes] = set()
        self.child: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, also once more where the one of a killed search still held the task."""
        with fsio.storage(), open(self.log, "ab") as log:
            self.at = self.read = log.tell()
            self.child = subprocess.Popen(
                self.argv,
                cwd=self.keep,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C of the terminal reaches us alone; we pass it on
            )

    def said(self) -> str:
        """Its output so far."""
        return (fsio.read_bytes(self.log, self.at) or b"").decode("utf-8", "replace")

    def failed(self) -> int:
        """How many trials have failed for good."""
        new = fsio.read_bytes(self.log, self.read) or b""
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        self.failures.update(_FAILED.findall(whole))
        return len(self.failures)

    def pass_on(self, number: int, _: object) -> None:
        """The signal handler."""
        self.interrupts += number == signal.SIGINT
        self.ended = self.ended or number != signal.SIGINT
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {n: signal.signal(n, self.pass_on) for n in numbers}
        try:
            yield
        finally:
            for n, handler in before.items():
                signal.signal(n, handler)
            if self.child is not None and self.child.poll() is None:  # an error of ours
                self.child.terminate()
                self.child.wait()


def watch(run: Run, standing: Standing, total: int, space: Space) -> tuple[int, View]:
    """Show the search until search-run ends. Returns (its exit code, the view). Raises its errors."""
    tail = Tail(os.path.join(run.keep, search.RESULTS))
    if there := standing.add(tail.new()):
        say(f"{there} subnets have their score already")
    deadline, told, hopeless = time.monotonic() + WAIT_S, 0, False
    with run.signals(), View(standing, total, space) as view:
        while True:
            assert run.child is not None
            code = run.child.poll()
            view.update(standing.add(tail.new()))
            view.failed = run.failed()
            if run.interrupts > told:
                told = run.interrupts
                view.note = _on_interrupt(told)
                view.message(view.note)
            if view.failed >= HOPELESS and not view.fresh and not run.interrupts:
                run.pass_on(signal.SIGINT, None)
                view.message(f"the first {view.failed} subnets all failed: the search ends")
                told, hopeless = run.interrupts, True
            if code == 4 and not (run.interrupts or run.ended) and time.monotonic() < deadline:
                time.sleep(1)  # the search-run of a killed search is ending its workers
                run.start()
            elif code is not None:
                break
            else:
                time.sleep(POLL_S)
    said = run.said()
    if code not in (0, 1, 130, 143) or (code == 1 and _ERROR.search(said)):
        raise fault_of(said, code)
    for line in said.splitlines():
        if line.startswith(("  job ", "    | ")):  # why trials failed
            say(line)
    return 1 if hopeless else code, view


def _on_interrupt(n: int) -> str:
    if n == 1:
        return "Ctrl-C: no further subnet is begun, those that run may finish (again: stop them)"
    return "stopping; the same command goes on" if n == 2 else "left running for the next search-run"
