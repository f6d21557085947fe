"""Progress of long work: a bar in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from searchkit.nas_cli.options import is_terminal, say

QUIET_S = 15.0  # between two lines in a pipe


class Progress:
    """`with Progress("train", total) as p: p.update(done, "loss 1.23")`."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.first = what, total, done
        self.began = self.said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.first, note="")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """`done` of the total are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif now - self.said >= QUIET_S or (done == self.total and now - self.began >= QUIET_S):
            self.said = now
            fresh = done - self.first
            left_s = (now - self.began) / fresh * (self.total - done) if fresh else 0.0
            say(f"{self.what} {done}/{self.total}  {note}" + (f"  {left_s:.0f} s left" if done < self.total else ""))
