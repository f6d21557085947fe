"""Progress of long work: a bar in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from searchkit import console
from searchkit.nas.cli.options import say

QUIET_S = 15.0  # between two lines in a pipe


class Progress:
    """`with Progress("train", total) as p: p.update(done, "loss 1.23")`."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.first = title, total, done
        self.began = self.said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if console.is_terminal("stderr"):
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            shown = console.rich_console(stderr=True)
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=shown, transient=True)
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.first, note="")
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
            say(f"{self.title} {done}/{self.total}  {note}" + (f"  {left_s:.0f} s left" if done < self.total else ""))


def nothing(*_: object) -> None:
    """What the other ranks show."""


class Reporter:
    """Shows training steps, and hands their numbers to the job, and to TensorBoard where it is installed."""

    EVERY = 20  # steps between two reported lines

    def __init__(self, title: str, log_dir: str | None) -> None:
        self.title, self.log_dir = title, log_dir
        self.progress: Progress | None = None
        self.board: Any = None
        self.done = 0
        self.losses: dict[str, float] = {}
        self.metrics: dict[str, dict[str, float]] = {}

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
        if self.board is not None:
            self.board.close()

    def step(self, r: Any) -> None:
        """A StepReport."""
        if self.progress is None:
            self.progress = Progress(self.title, r.steps, r.step)
            self.progress.__enter__()
        self.done, self.losses = r.step + 1, dict(r.losses)
        self.progress.update(self.done, f"loss {r.losses['loss']:.3f}  lr {r.lr:.2g}  {r.images_per_s:.1f} images/s")
        if self.done % self.EVERY == 0 or self.done == r.steps:
            self.report(self.done, {**r.losses, "lr": r.lr})

    def scored(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
        """An evaluation of a named arch."""
        from searchkit.nas.cli.records import is_shown

        shown = {k: v for k, v in metrics.items() if is_shown(k)}
        say(f"step {step}  {name}: " + "  ".join(f"{k} {v:.3f}" for k, v in shown.items()))
        self.metrics[name] = dict(metrics)
        self.report(step, {f"{name}.{k}": v for k, v in shown.items()})

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        if os.environ.get("SEARCHKIT_CALLBACK"):
            from searchkit.job.report import report

            report(dict(numbers), step=step)
        if self.log_dir is None:
            return
        if self.board is None:  # not before there is a number: a training that is refused leaves no file
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.log_dir = None
                return
            self.board = SummaryWriter(os.path.join(self.log_dir, "tensorboard"))
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
