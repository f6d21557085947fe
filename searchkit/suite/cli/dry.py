"""What search-run --dry-run prints: the jobs that it would run. It writes nothing."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from searchkit import console
from searchkit.suite.workspace import TaskPaths, Workspace

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.state import TaskState

DRY_RUN_JOBS = 20


def run(ws: Workspace, config: Config, task_name: str, slots_line: str, *, anew: bool) -> None:
    """Print what would run, or for a task that exists (unless `anew`) what more it would run; write nothing."""
    from searchkit.suite.cli.progress import judged_by
    from searchkit.suite.config.read import STAGE_VARIABLE
    from searchkit.suite.facts import command_text
    from searchkit.suite.space.expand import tree_path
    from searchkit.suite.store import best, subnets, trials
    from searchkit.suite.store.creation import check_points, describe, points_left, withdrawn_line

    late = [a.name for a in subnets.subnets(config) if STAGE_VARIABLE.search(f"{a.space} {a.rules}")]
    late += [name for a in best.bests(config) for name in a.names]
    slots_line += judged_by(config)
    if late:
        names = ", ".join(late)
        click.echo(f"task {task_name}: its jobs are known when the stages before it have ended ({names}), {slots_line}")
        return
    config = subnets.picked(config, subnets.pick(config, ws.project, {}))
    if trials.is_search(config):
        _search(config, task_name, slots_line)
        return
    space = config.space
    counted = check_points(config)  # none is an error
    n = counted or space.size() or 0
    jobs = console.counted(n, "job") if counted else f"at most {n:,} jobs, which constraints make fewer"
    click.echo(f"task {task_name}: {jobs}, {slots_line} (dry run: nothing is written)")
    points, first = space.points(), 0
    if not anew and (state := _made(ws.task(task_name))).jobs and counted:
        left = list(points_left(space, state))
        points, first, n = iter(left), state.next_job, len(left)
        gone = f", {len(state.deleted)} were deleted or withdrawn" if state.deleted else ""
        there = console.counted(len(state.jobs), "job is", "jobs are")
        click.echo(f"{n} of them are new, {there} there already{gone}")
        if left_out := withdrawn_line(config, state):
            click.echo(left_out)
    for i, point in enumerate(points if n <= 2 * DRY_RUN_JOBS else islice(points, DRY_RUN_JOBS), first):
        click.echo(f"#{i} {command_text(describe(config, point)[2])}")
        if point:
            click.echo(f"   jobs/tree/{'/'.join(tree_path(point))} -> jobs/all/{i}")
    if n > 2 * DRY_RUN_JOBS:
        click.echo(f"… and {n - DRY_RUN_JOBS} more")


def _made(task: TaskPaths) -> TaskState:
    """The state of a task, as if its config had changed; an empty one where it does not exist."""
    from searchkit.suite.store import journal
    from searchkit.suite.store.state import replay

    state = replay(journal.Events(task))
    state.in_order = False
    return state


def _search(config: Config, task_name: str, slots_line: str) -> None:
    """Print what a search begins with."""
    from searchkit.suite.facts import command_text
    from searchkit.suite.run import search as searching
    from searchkit.suite.store.creation import describe
    from searchkit.suite.store.state import EXHAUSTED

    s, space = config.search, config.space
    limits = [console.counted(s.n_trials, "trial")] if s.n_trials is not None else []
    limits += [f"{s.time_budget_s:g} s"] if s.time_budget_s is not None else []
    limits += [f"{objective.name} {s.target:g}" for objective in config.objectives[:1] if s.target is not None]
    size = space.size()
    points = f"{console.counted(size, 'point')} before constraints" if size is not None else "a continuum of points"
    message = f"search by {s.sampler}, until {' or '.join(limits) or EXHAUSTED}; {points}"
    first = searching.preview(config, min(DRY_RUN_JOBS, s.n_trials or DRY_RUN_JOBS))  # a sampler that lacks is an error
    click.echo(f"task {task_name}: {message}; {slots_line} (dry run: nothing is written)")
    click.echo("the first points, before any result:")
    for i, genes in enumerate(first):
        point = space.point(genes)
        values = "" if config.template.names else "  " + " ".join(f"{k}={v.text}" for k, v in point.items())
        click.echo(f"#{i} {command_text(describe(config, point)[2])}{values}")
