"""search-ctl plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from searchkit.cli.choose import MODE, TASK, best_rows, objectives_of, open_task, ranked_stage
from searchkit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from searchkit.settings import Objective

KINDS = ("history", "parallel", "importance", "pareto")
FORMS = ("png", "svg")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@TASK
@click.option("-o", "--out", required=True, metavar="FILE", help="The picture to write: FILE.png or FILE.svg.")
@click.option("--metric", "metrics", multiple=True, help="An objective (default: the first; pareto: all); repeatable.")
@MODE
def plot(kind: str, task_name: str, out: str, metrics: tuple[str, ...], mode: str | None) -> None:
    """Draw a task: history (objective by job), parallel (arguments and objective), importance (of the arguments, by
    f-ANOVA), pareto (the front of two or three objectives).

    Needs optuna, matplotlib and scikit-learn: pip install 'searchkit[samplers]'

    \b
    Example:
      search-ctl plot history --task lr-sweep --out history.png
    """
    from searchkit import fsio
    from searchkit.store import tasks

    form = os.path.splitext(out)[1][1:].lower()
    if form not in FORMS:
        raise UsageError(f"--out must end in .png or .svg, got {out!r}")
    check_installed(kind)
    from searchkit.cli import pictures

    ws, task = open_task(task_name)
    if tasks.stage_names(task):
        task = ranked_stage(ws, task, None)
    config = tasks.config_of(task)
    wanted = _drawn(kind, objectives_of(config, mode or ""), metrics)
    rows = best_rows(ws, task, config, tasks.view(task).jobs, 1, wanted)
    picture = pictures.render(pictures.draw(kind, rows, config.task.search_args, wanted), form)
    with fsio.storage():
        fsio.atomic_write(os.path.abspath(out), picture)
    click.echo(f"wrote {out}: {kind} of {len(rows)} {'job' if len(rows) == 1 else 'jobs'} of task {task.name}")


def check_installed(kind: str) -> None:
    """Raise UsageError where what draws is not installed."""
    import importlib

    for name in ("optuna", "matplotlib", *(["sklearn"] if kind == "importance" else [])):
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise UsageError(f"search-ctl plot {kind} needs {name} ({e})", "pip install 'searchkit[samplers]'") from e


def _drawn(kind: str, wanted: Sequence[Objective], metrics: Sequence[str]) -> tuple[Objective, ...]:
    """The objectives that a picture shows. Raises UsageError where they don't suit it."""
    names = tuple(o.name for o in wanted)
    for name in metrics:
        if name not in names:
            raise UsageError(f"--metric {name}: no objective of this task{did_you_mean(name, names)}")
    chosen = tuple(o for o in wanted if o.name in metrics) if metrics else tuple(wanted)
    if kind == "pareto":
        if len(chosen) not in (2, 3):
            how = "name two or three: --metric a --metric b" if len(wanted) > 3 else "declare them: search.objectives"
            raise UsageError(f"a Pareto front is drawn of two or three objectives, not of {', '.join(names)}", how)
        return chosen
    if metrics and len(chosen) != 1:
        raise UsageError(f"{kind} shows one objective, got --metric {', '.join(o.name for o in chosen)}")
    return chosen[:1]
