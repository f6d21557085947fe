"""What a person sees while search-run works: a live display in a terminal; in a pipe a line for each job that ended,
and one a minute for those that still run."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from searchkit import console
from searchkit.records.objective import loss
from searchkit.suite.cli.told import Told
from searchkit.suite.facts import end_facts, explained
from searchkit.suite.run import search as searching
from searchkit.suite.store import ranking, tasks, trials
from searchkit.suite.store.job import ENDED, Job, State
from searchkit.suite.store.tasks import OpenTask
from searchkit.suite.workspace import Workspace

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config

REFRESH_S = 0.25
PULSE_S = 60.0  # in a pipe, between two looks at the jobs that run
PULSE_JOBS = 3  # at most so many of them get a line
PULSE_WIDTH = 120  # characters of such a line
LOG_TAIL_LINES = 5
EXPLAINED = 3  # jobs that failed, of which the end of the log is shown
SHOWN_RUNNING = 8  # rows of running jobs in the live display


def judged_by(config: Config) -> str:
    """`; acc (max), macs (min)`: what the jobs are judged by, and which end of it is best; empty where nothing is."""
    if config.unclear_reward and not config.is_search:
        return f"; {config.unclear_reward} (max or min is not said)"
    names = ", ".join(f"{objective.name} ({objective.mode})" for objective in config.objectives)
    return f"; {names}" if names else ""


@dataclass
class Reward:
    """How many of the jobs that ended have a reward, and what the others reported instead."""

    jobs: int = 0
    without: dict[int, set[str]] = field(default_factory=dict)
    ways: tuple[str, ...] = ()  # what the reward may be called, where several folders of event files have it


def listed(rewards: Iterable[Reward]) -> str:
    """What was reported instead of the reward."""
    return trials.listed(sorted({name for reward in rewards for names in reward.without.values() for name in names}))


class Progress:
    """An Observer that prints. Use as a context manager around the scheduler."""

    def __init__(
        self, ws: Workspace, task: OpenTask, config: Config, slots_line: str, *, live: bool, told: Told
    ) -> None:
        self._ws, self._task, self._config, self._slots_line = ws, task, config, slots_line
        self._told = told
        self._live: Any = None
        self._wants_live = live
        self._began = time.monotonic()
        self._drawn = 0.0
        self._pulse = self._began  # when the jobs that run were told last
        self._over: set[int] = set()  # jobs that will not run again, as far as is known
        self._durations: list[float] = []
        self._best: tuple[float, float, int] | None = None  # its loss, its reward, the job
        self.reward = Reward()

    def __enter__(self) -> Progress:
        tasks.refresh_views(self._ws, self._task.paths)
        self._over = {n for n, job in self._task.state.jobs.items() if job.state in ENDED}
        if self._wants_live:
            from rich.live import Live

            self._live = Live(console=console.rich_console(), auto_refresh=False, transient=True)
            self._live.start()
        self.message(f"task {self._task.paths.name}: {self._slots_line}{judged_by(self._config)}")
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def message(self, text: str) -> None:
        try:
            if self._live is not None:
                self._live.console.print(text, highlight=False, markup=False)
            else:
                click.echo(text)
        except OSError:
            self._go_silent()

    def _go_silent(self) -> None:
        """Nobody reads any more (a closed pipe, a terminal that hung up): the run goes on in silence."""
        self._live = None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def job(self, job: Job) -> None:
        result = job.result
        if result is None:
            self._over.discard(job.index)
            return  # launched: the live display shows it, a pipe is told when it ended
        self._told.job(job)
        seconds = (result.end_s or 0) - (result.start_s or 0) if result.start_s else 0.0
        if result.state in (State.FINISHED, State.PRUNED):
            self._durations.append(seconds)
            self._note_best(job)
        if not result.retry:
            self._over.add(job.index)
        why = f"  {result.reason}" if result.reason else (f"  exit code {result.rc}" if result.rc else "")
        if result.state is State.PRUNED:
            why = f"  at step {job.reports[-1][0]}" if job.reports else ""
        again = "  will run again" if result.retry and result.state is not State.STOPPED else ""
        if self._live is None or result.state is not State.FINISHED or result.reason:
            self.message(f"{self._done()} job {job.index} {result.state} after {seconds:.1f} s{why}{again}")

    def _done(self) -> str:
        return f"[{len(self._over)}/{self._total()}]"

    def _tell_running(self) -> None:
        """Now and then, say how far the longest-running jobs are: the last lines of their logs."""
        if time.monotonic() - self._pulse < PULSE_S:
            return
        self._pulse, now = time.monotonic(), time.time()
        running = [j for j in self._task.state.jobs.values() if j.state is State.RUNNING]
        long = sorted((j for j in running if now - j.launched_s >= PULSE_S / 2), key=lambda j: j.launched_s)
        for job in long[:PULSE_JOBS]:
            shown = last_line(self._task.paths.job(job.index).attempt(job.attempt).log) or "(no output yet)"
            line = f"{self._done()} job {job.index} running for {console.span(now - job.launched_s)}: {shown}"
            self.message(line if len(line) <= PULSE_WIDTH else f"{line[: PULSE_WIDTH - 1]}…")
        if len(long) > PULSE_JOBS:
            self.message(f"  … and {len(long) - PULSE_JOBS} more running")

    def _total(self) -> str:
        """How many jobs there will be; `12+` where more may come."""
        state = self._task.state
        if not state.complete and self._config.search.n_trials is not None:
            return str(self._config.search.n_trials + state.added)
        return f"{len(state.jobs)}{'' if state.complete else '+'}"

    def _note_best(self, job: Job) -> None:
        name = self._config.reward_attribute
        if not name:
            return
        view = tasks.view_job(self._task.paths, job)
        jobs, project = [view], self._ws.project_name
        read = ranking.read(self._task.paths, project, self._config, jobs, light=True, names=[name])[0]
        value = ranking.reward(read, name, self._config.monitor.mode, self._config.monitor.score)
        if self._config.unclear_reward:
            return
        worth = loss(value, self._config.monitor.mode)
        if not math.isnan(value) and (self._best is None or worth < self._best[0]):
            self._best = (worth, value, job.index)

    def tick(self, task: OpenTask, running: int) -> None:
        if self._live is None:
            self._tell_running()
            return
        if time.monotonic() - self._drawn < REFRESH_S:
            return
        self._drawn = time.monotonic()
        try:
            self._live.update(self._render(), refresh=True)
        except OSError:
            self._go_silent()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._task.state
        counts, ended = state.counts(), _ended(self._task)
        line = Text(f"{ended}/{self._total()} ended")
        line.append(f"   {counts[State.RUNNING]} running", style="cyan")
        line.append(f"   {counts[State.FINISHED]} finished", style="green")
        if counts[State.PRUNED]:
            line.append(f"   {counts[State.PRUNED]} pruned", style="yellow")
        if counts[State.ERROR]:
            line.append(f"   {counts[State.ERROR]} failed", style="red")
        line.append(f"   {self._eta(counts)}")
        if self._best is not None:
            line.append(
                f"   best {self._config.reward_attribute} {self._best[1]:.6g} (job {self._best[2]})", style="bold"
            )
        bar = Table.grid()  # a bar alone does not end its line
        total = int(self._total().rstrip("+"))
        bar.add_row(ProgressBar(total=max(1, total), completed=min(ended, total), width=60))
        rows: list[Any] = [line, bar]
        running = [j for j in state.jobs.values() if j.state is State.RUNNING]
        for job in running[:SHOWN_RUNNING]:
            gpus = f" GPU {','.join(map(str, job.gpus))}" if job.gpus else ""
            arguments = " ".join(f"{k}={v}" for k, v in job.text.items())
            row = Text(f"  job {job.index}{gpus}  {time.time() - job.launched_s:.0f} s  {arguments}", style="dim")
            rows.append(_one_line(row))
        if len(running) > SHOWN_RUNNING:
            rows.append(Text(f"  … and {len(running) - SHOWN_RUNNING} more running", style="dim"))
        return Group(*rows)

    def _eta(self, counts: dict[State, int]) -> str:
        left = int(self._total().rstrip("+")) - _ended(self._task)
        if not self._durations or not left:
            return ""
        mean_s = sum(recent := self._durations[-200:]) / len(recent)
        return f"about {console.span(mean_s * left / max(1, counts[State.RUNNING]))} left"

    def summary(self, code: int) -> None:
        """The last lines: how the jobs ended, and what to do next. Brings the views up to date."""
        view = tasks.refresh_views(self._ws, self._task.paths)
        counts = {s: sum(j.state is s for j in view.jobs) for s in State}
        states = ", ".join(f"{n} {s}" for s, n in counts.items() if n) or "no job"
        name = self._task.paths.name
        self.message(f"task {name}: {view.status} ({states}) in {console.span(time.monotonic() - self._began)}")
        # A search says it of each kind of failed trial; of stages it is enough that one reports the reward.
        self.reward = self._rewards(view.jobs)
        if self.reward.without and not trials.is_search(self._config) and not self._task.paths.stage:
            self._say_unscored()
        for line in self._never_scored(view.jobs):
            self.message(f"note: {line}")
        if view.state.ended:
            self.message(f"  over: {view.state.ended}")
        for line in searching.rung_lines(self._config, view.state) if self._config.search.stop else ():
            self.message(f"  {line}")
        failed = [j for j in view.jobs if j.state is State.ERROR]
        why = [self._why(job) for job in failed[:EXPLAINED]]
        for job in why:
            self.message(explained(job))
        if len(failed) > EXPLAINED:
            self.message(f"  … and {len(failed) - EXPLAINED} more: search-ctl show --task {name} --jobs @failed")
        if failed:
            self.message(f"  run them again, with the code as it is then: search-ctl restart --task {name} --failed")
        if counts[State.PENDING] or not view.state.complete:
            self.message("  run the same command again to go on")
        if trials.is_search(self._config) and any(j.job.scores is not None for j in view.jobs):
            self.message(f"  the best: search-ctl best --task {name}")
        if self._config.reward_attribute and counts[State.FINISHED] and not self._task.paths.stage:
            sign = "-" if self._config.monitor.mode == "min" or self._config.unclear_reward else "+"
            self.message(f"  rank them: search-ctl show-scalar --task {name} -rt {sign}5")
        self._told.end(end_facts(view, code, why))

    def _never_scored(self, jobs: list[tasks.JobView]) -> list[str]:
        objectives = [objective for objective in self._config.objectives if objective.value]
        if not objectives:
            return []
        read = ranking.read(self._task.paths, self._ws.project_name, self._config, jobs, light=True)
        return ranking.never_scored(ranking.split(read), objectives)

    def _rewards(self, jobs: list[tasks.JobView]) -> Reward:
        """Which jobs of the whole task have the reward, whenever they ran."""
        name, reward = self._config.reward_attribute, Reward()
        if not name:
            return reward
        ended = [job for job in jobs if job.state in (State.FINISHED, State.PRUNED)]
        paths, project = self._task.paths, self._ws.project_name
        for read in ranking.read(paths, project, self._config, ended, light=True, names=[name]):
            value = ranking.reward(read, name, self._config.monitor.mode, self._config.monitor.score)
            if not math.isnan(value) or ranking.reports(read, name):
                reward.jobs += 1
                continue
            reward.without[read.view.job.index] = {n for part in ranking.split([read]) for n in part.names}
            reward.ways = reward.ways or ranking.ways([read], name)
        return reward

    def _say_unscored(self) -> None:
        jobs, scored = sorted(self.reward.without), self.reward.jobs
        which = "no job ever reported"
        if scored:
            which = f"{len(jobs)} of {len(jobs) + scored} jobs (the first is {jobs[0]}) never reported"
        self.message(f"note: {which} {self._config.reward_attribute!r} (reported: {listed([self.reward])})")
        if self.reward.ways:
            self.message(f"  it is in several folders of event files: name one, {' or '.join(self.reward.ways)}")

    def _why(self, view: tasks.JobView) -> dict[str, Any]:
        log = self._task.paths.job(view.job.index).attempt(view.job.attempt).log
        reason = view.reason or f"exit code {view.exit_code}"
        return {"job": view.job.index, "reason": reason, "log_path": log, "log_tail": tail(log, LOG_TAIL_LINES)}


def _ended(task: OpenTask) -> int:
    counts = task.state.counts()
    return sum(counts[s] for s in ENDED)


def _one_line(text: Any) -> Any:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def tail(path: str, lines: int, limit_bytes: int = 8192) -> list[str]:
    """The last lines of a file, undecodable bytes replaced."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - limit_bytes))
            raw = f.read()
    except OSError:
        return []
    return raw.decode("utf-8", "replace").splitlines()[-lines:]


_UNPRINTED = re.compile(r"\x1b\].*?(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -~]|[\x00-\x1f\x7f-\x9f]")


def last_line(path: str) -> str:
    """The last line of a log that shows something, as a terminal would: of a progress bar its newest state, without
    colours and control characters. Empty where there is none."""
    shown = (_UNPRINTED.sub("", line.replace("\t", " ")).strip() for line in reversed(tail(path, sys.maxsize)))
    return next((line for line in shown if line), "")
