"""One trial, as the script that tries it sees it: its values, where it runs, and how its end is told."""

from __future__ import annotations

import contextlib
import os
import sys

from searchkit.job import report as worker

TYPE_CHECKING = False  # as in report.py: nothing is imported that the running script does not need
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, Protocol

    class Serving(Protocol):
        """The worker that serves a trial (trials.py)."""

        current: str  # the name of the trial that runs

        def is_stopped(self, *, ring: bool = False) -> bool: ...

        def is_forked(self) -> bool: ...

        def finish(self, code: int, suffix: str = "") -> None: ...


STOPPED = 143  # the exit code of a trial that was stopped: as if by SIGTERM


class TrialStopped(BaseException):
    """Raised by `trial.report` when this trial is to end: it was stopped, pruned, or ran too long.

    No `Exception`, so that `except Exception` in training code lets it pass. `with trial:` ends there, and the loop
    goes on with the next trial.
    """


class Trial:
    """One point of the search, to be tried now."""

    def __init__(self, params: dict[str, Any], serving: Serving | None = None, name: str = "") -> None:
        self.params = params  # the arguments by name, as `searchkit.params` gives them
        self.number = int(os.environ.get("SEARCHKIT_JOB", "0"))  # of the job; 0 by hand
        self.folder = os.getcwd()  # its working folder, which is the current one while it runs
        self.seed = int(os.environ.get("SEARCHKIT_SEED", "0"))
        self._callback = os.environ.get("SEARCHKIT_CALLBACK")
        self._checkpoint = os.environ.get("SEARCHKIT_CHECKPOINT")
        self._serving, self._name = serving, name

    @property
    def checkpoint(self) -> str:
        """The folder that all attempts of the trial share; by hand, `checkpoint` in the current folder."""
        if self._checkpoint is None:
            self._checkpoint = os.path.join(self.folder, "checkpoint")
            os.makedirs(self._checkpoint, exist_ok=True)
        return self._checkpoint

    def report(self, mapping: Mapping[str, Any] | None = None, /, *, step: int | None = None, **scalars: Any) -> None:
        """Hand numbers of this trial to the search, as `searchkit.report` does for a job.

        Raises TrialStopped, after the numbers are written, where the trial is to end; RuntimeError where it has ended;
        TypeError and ValueError as `searchkit.report`.
        """
        if self._serving is not None and self._serving.current != self._name:
            raise RuntimeError(f"trial {self.number} has ended: it can't report any more")
        worker.report_to(self._callback, mapping, step, scalars)
        if self._serving is not None and self._serving.is_stopped(ring=True):
            raise TrialStopped(f"trial {self.number} is to end")

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> bool:
        """The end of the trial. In a worker its exception is the trial's alone: it goes to the log, and no further."""
        if self._serving is None or self._serving.current != self._name or self._serving.is_forked():
            return False
        code = 0
        if isinstance(e, TrialStopped):
            code = STOPPED
        elif isinstance(e, SystemExit):
            code = _exit_code(e)
        elif isinstance(e, Exception):
            with contextlib.suppress(Exception):
                sys.excepthook(type(e), e, tb)
            code = 1
        elif e is not None:
            return False  # Ctrl-C: the whole process ends
        self._serving.finish(code)
        return True


def _exit_code(e: SystemExit) -> int:
    """The code that the process would have ended with."""
    if e.code is None:
        return 0
    if isinstance(e.code, int):
        return e.code & 0xFF
    print(e.code, file=sys.stderr)
    return 1
