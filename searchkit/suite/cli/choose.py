"""How a command line names a task, a stage of it, and jobs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from searchkit.errors import NotFoundError, UsageError
from searchkit.suite.workspace import TaskPaths, Workspace, find

if TYPE_CHECKING:
    from searchkit.suite.config.settings import Config, Objective
    from searchkit.suite.store.ranking import JobScalars, Scored
    from searchkit.suite.store.tasks import JobView, TaskView

# Nothing of the suite but errors and paths is imported before a command needs it: `show --help` must answer at once.

TASK = click.option("--task", "task_name", default="default", show_default=True, help="The task's name.")
JOBS = click.option("--jobs", help="0-9,12, @failed, @running, @pending, @finished, @stopped, @pruned, @all, @best:5")
MODE = click.option(
    "--mode", type=click.Choice(["max", "min"]), help="Which end is best (default: as the config says)."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Facts for machines: one JSON document.")


def open_task(task_name: str) -> tuple[Workspace, TaskPaths]:
    ws = find(os.getcwd())
    return ws, ws.existing_task(task_name)


def begun_stages(task: TaskPaths) -> list[TaskPaths]:
    """The stages of a task that have begun; none for a task of its own jobs."""
    from searchkit.suite.store import tasks

    return [stage for stage in tasks.stage_tasks(task) if tasks.exists(stage)]


def refuse_stages(task: TaskPaths) -> None:
    """Refuse a task with stages: jobs are numbered within a stage, so a command must name one."""
    from searchkit.suite.store import tasks

    if names := tasks.stage_names(task):
        which = ", ".join(f"{task.name}.{name}" for name in names)
        raise UsageError(f"task {task.name!r} has stages, and jobs are named within one: {which}", "Name it by --task")


def scalars_of(
    ws: Workspace,
    task: TaskPaths,
    config: Config,
    jobs: list[JobView],
    *,
    light: bool = False,
    names: Collection[str] = (),
    scored: bool = True,
) -> list[JobScalars]:
    from searchkit.suite.store import ranking

    return ranking.read(task, ws.project_name, config, jobs, light=light, names=names, scored=scored)


def ranked_by(config: Config, metric: str | None) -> tuple[str, str]:
    """(what ranks the jobs, max or min): the scalar or objective of that name, else the config's reward, else its first
    objective. Raises UsageError where there is none."""
    first = config.search.objectives[0].name if config.search.objectives else None
    name = metric or config.reward_attribute or first
    if not name:
        raise UsageError(
            "ranking needs a scalar: the config names no reward_attribute",
            "Name one here: --metric acc    or in the config: monitor: {reward_attribute: acc}",
        )
    return name, next(
        (objective.mode for objective in config.search.objectives if objective.name == name), config.monitor.mode
    )


def objectives_of(config: Config, mode: str = "") -> tuple[Objective, ...]:
    """What the jobs are judged by; `mode`: which end of the reward is best, whatever the config says. Raises UsageError
    where neither says it, or there is nothing to judge by."""
    if mode and config.search.objectives:
        raise UsageError("--mode: search.objectives says of each which end is best", "Leave --mode out")
    if config.unclear_reward and not config.is_search and not mode:
        raise UsageError(
            f"which is best? {config.unclear_reward!r} sounds as if less of it were better, and the config has no mode",
            "Say it here: search-ctl best --mode min    or in the config: monitor: {mode: min}",
        )
    if objectives := config.objectives:
        return tuple(replace(objective, mode=mode) for objective in objectives) if mode else objectives
    raise UsageError(
        "the config names neither search.objectives nor a reward_attribute: no job is better than another",
        "Rank by any scalar: search-ctl show-scalar --metric acc -rt +5",
    )


def best_rows(
    ws: Workspace,
    task: TaskPaths,
    config: Config,
    jobs: list[JobView],
    first: int,
    objectives: Sequence[Objective] = (),
) -> list[Scored]:
    """The rows of these jobs that have all objectives (`objectives`: only these), the `first` best in order."""
    from searchkit.suite.store import ranking

    objectives = objectives or objectives_of(config)
    rows = ranking.split(
        scalars_of(ws, task, config, jobs, light=True, names=[objective.name for objective in objectives])
    )
    return ranking.scored(rows, objectives, first)


def chosen_jobs(
    ws: Workspace, task: TaskPaths, view: TaskView, jobs: str | None, option: str = "--jobs"
) -> list[JobView]:
    """The jobs that a selector, given by `option`, names, in its order; all of them without one."""
    if jobs is None:
        return view.jobs
    refuse_stages(task)
    from searchkit.suite.store import select, tasks

    def best(k: int) -> list[int]:
        rows = best_rows(ws, task, tasks.config_of(task), view.jobs, k)
        return list(dict.fromkeys(row.entry.view.job.index for row in rows))[:k]

    by_index = {j.job.index: j for j in view.jobs}
    return [by_index[n] for n in select.select(jobs, view.jobs, best, option, view.state.deleted)]


def ranked_stage(ws: Workspace, task: TaskPaths, metric: str | None) -> TaskPaths:
    """The last stage that reported what ranks the jobs, or `metric`; the last that began where none did."""
    from searchkit.suite.store import ranking, tasks

    begun = begun_stages(task)
    if not begun:
        raise NotFoundError(f"no stage of task {task.name!r} has begun", "Start it: run the same search-run again")
    for stage in reversed(begun):
        config = tasks.config_of(stage)
        first = config.search.objectives[0].name if config.search.objectives else None
        name = metric or config.reward_attribute or first
        if not name:
            continue
        jobs = tasks.view(stage).jobs
        for entry in ranking.split(scalars_of(ws, stage, config, jobs, light=True, names=[name])):
            if name in entry.scores or name in entry.names:
                return stage
    return begun[-1]


def check_out(out: str) -> None:
    """Raise UsageError where no file can be written as --out says: its folder is missing, or it is one itself."""
    folder = os.path.dirname(out)
    if folder and not os.path.isdir(folder):
        raise UsageError(f"--out {out}: no folder {folder}", f"Make it first: mkdir -p {shlex.quote(folder)}")
    if os.path.isdir(out):
        raise UsageError(f"--out {out}: that is a folder", f"Name a file in it: {os.path.join(out, 'NAME')}")


def ranges(numbers: list[int]) -> str:
    """`0-3,7`."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "none"
