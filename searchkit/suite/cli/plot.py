"""search-ctl plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from searchkit import fonts
from searchkit.errors import UsageError, did_you_mean
from searchkit.suite.cli.choose import (
    MODE,
    TASK,
    best_rows,
    check_out,
    objectives_of,
    open_task,
    ranked_stage,
    scalars_of,
)

if TYPE_CHECKING:
    from searchkit.suite.config.settings import Config, Objective

KINDS = ("history", "parallel", "importance", "pareto", "curves")
FORMS = ("png", "svg")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@TASK
@click.option("-o", "--out", required=True, metavar="FILE", help="The picture to write: FILE.png or FILE.svg.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="Any scalar, or an objective (default: the first; pareto: all); repeatable.",
)
@MODE
def plot(kind: str, task_name: str, out: str, metrics: tuple[str, ...], mode: str | None) -> None:
    """Draw a task: history (objective by job), parallel (arguments and objective), importance (of the arguments, by
    f-ANOVA), pareto (the front of two or three objectives), curves (a scalar by step, a line for each job).

    Needs matplotlib, and but for curves optuna and scikit-learn: pip install 'searchkit[samplers]'

    \b
    Examples:
      search-ctl plot history --task lr-sweep --out history.png
      search-ctl plot curves --task lr-sweep --metric val_loss --out curves.png
    """
    from searchkit import fsio
    from searchkit.suite.store import tasks

    form = os.path.splitext(out)[1][1:].lower()
    if form not in FORMS:
        raise UsageError(f"--out must end in .png or .svg, got {out!r}")
    check_out(out)
    check_installed(kind)
    from searchkit.suite.cli import curves, pictures

    ws, task = open_task(task_name)
    if tasks.stage_names(task):
        task = ranked_stage(ws, task, metrics[0] if metrics else None)
    config, jobs = tasks.config_of(task), tasks.view(task).jobs
    objectives = _drawn(kind, config, metrics, mode or "")
    if kind == "curves":
        figure, n = curves.draw(scalars_of(ws, task, config, jobs), objectives[0])
    else:
        rows = best_rows(ws, task, config, jobs, 1, objectives)
        if not rows and metrics:
            _check_reported([name for job in scalars_of(ws, task, config, jobs) for name in job.names], metrics)
        figure, n = pictures.draw(kind, rows, config.task.search_args, objectives), len(rows)
    if note := fonts.note(fonts.spell(figure)):
        click.echo(f"note: {note}", err=True)
    picture = pictures.render(figure, form)
    with fsio.storage():
        fsio.atomic_write(os.path.abspath(out), picture)
    which = ", ".join(f"{objective.name} ({objective.mode})" for objective in objectives)
    click.echo(f"wrote {out}: {kind} of {n} {'job' if n == 1 else 'jobs'} of task {task.name}, {which}")


def check_installed(kind: str) -> None:
    """Raise UsageError where what draws is not installed."""
    import importlib

    for name in (
        "matplotlib",
        *(["optuna"] if kind != "curves" else []),
        *(["sklearn"] if kind == "importance" else []),
    ):
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise UsageError(f"search-ctl plot {kind} needs {name} ({e})", "pip install 'searchkit[samplers]'") from e


def _drawn(kind: str, config: Config, metrics: Sequence[str], mode: str) -> tuple[Objective, ...]:
    """What a picture shows: the scalars that are named, else the objectives. Raises UsageError where they don't suit
    it."""
    several = kind == "pareto"
    chosen = tuple(_scalar(config, name, mode) for name in dict.fromkeys(metrics)) or objectives_of(config, mode)
    if several and len(chosen) not in (2, 3):
        how = "name two or three: --metric a --metric b" if len(chosen) > 3 else "declare them: search.objectives"
        names = ", ".join(objective.name for objective in chosen)
        raise UsageError(f"a Pareto front is drawn of two or three objectives, not of {names}", how)
    if not several and len(metrics) > 1:
        raise UsageError(f"{kind} shows one scalar, got --metric {', '.join(objective.name for objective in chosen)}")
    return chosen if several else chosen[:1]


def _scalar(config: Config, name: str, mode: str) -> Objective:
    """A scalar, with the end of it that is best: as is said here, or in the config, else as its name sounds."""
    from searchkit.records.objective import sounds_low
    from searchkit.suite.config.settings import Objective

    declared = next((objective for objective in config.objectives if objective.name == name), None)
    if declared and not mode and name != config.unclear_reward:
        return declared
    return Objective(name, mode or ("min" if sounds_low(name) else "max"), declared.value if declared else None)


def _check_reported(names: Sequence[str], metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in names:
            raise UsageError(f"no job reported {name!r}{did_you_mean(name, tuple(sorted(set(names))))}")
