"""search-ctl best; and the Pareto front, for it and for show-scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from searchkit import console
from searchkit.errors import NotFoundError, UsageError, did_you_mean
from searchkit.suite.cli.choose import JSON, MODE, TASK, best_rows, objectives_of, open_task, ranked_stage, scalars_of

if TYPE_CHECKING:
    from searchkit.suite.config.settings import Objective
    from searchkit.suite.store.ranking import Scored
    from searchkit.suite.workspace import TaskPaths


@click.command()
@TASK
@click.option("-k", "k", type=click.IntRange(1), help="How many (default: 1; with several objectives the whole front).")
@MODE
@JSON
def best(task_name: str, k: int | None, mode: str | None, as_json: bool) -> None:
    """The best job, or the best k: objectives, arguments, command, folder. With several objectives the Pareto front.

    Jobs count that finished, or were ended by an early stopper.

    \b
    Examples:
      search-ctl best --task lr-sweep
      search-ctl best --task lr-sweep -k 5 --json
    """
    from searchkit.suite.cli import tables
    from searchkit.suite.facts import best_facts, objective_facts
    from searchkit.suite.store import ranking, tasks

    ws, task = open_task(task_name)
    if tasks.stage_names(task):
        task = ranked_stage(ws, task, None)
    config = tasks.config_of(task)
    objectives, view = objectives_of(config, mode or ""), tasks.view(task)
    if config.unclear_reward and not mode:
        click.echo(f"note: no mode was given for {config.unclear_reward!r}, so this search took max", err=True)
    rows = best_rows(ws, task, config, view.jobs, k or 1, objectives)
    if not rows:
        names = ", ".join(objective.name for objective in objectives)
        message = f"no job of task {task.name!r} ended with a value of {names} ({tables.counted(view.jobs)})"
        hint = f"See what jobs reported: search-ctl show-scalar --task {task.name}"
        entries = scalars_of(ws, task, config, view.jobs, light=True)
        for line in ranking.never_scored(ranking.split(entries), objectives):
            click.echo(f"note: {line}", err=True)
        for objective in objectives:
            if ways := ranking.ways(entries, objective.name):
                hint = f"{objective.name} is in several folders of event files: name one, {' or '.join(ways)}"
        raise NotFoundError(message, hint)
    front = [row for row in rows if row.front == 0]
    chosen = rows[: k or 1] if k or len(objectives) == 1 else front
    if as_json:
        facts = {
            "task": task.name,
            "objectives": objective_facts(objectives),
            "jobs": [best_facts(task, row, objectives) for row in chosen],
        }
        console.print_json(facts)
        return
    if len(objectives) > 1:
        jobs = console.counted(len(rows), "job")
        click.echo(f"{_described(objectives)}: {len(front)} of {jobs} on the Pareto front\n")
    click.echo("\n".join(_block(task, row, objectives) for row in chosen), nl=False)


def _described(objectives: Sequence[Objective]) -> str:
    """`acc (max), macs (min)`."""
    return ", ".join(f"{objective.name} ({objective.mode})" for objective in objectives)


def _block(task: TaskPaths, row: Scored, objectives: Sequence[Objective]) -> str:
    from searchkit.suite.facts import command_text, run_path

    view = row.entry.view
    lines = [f"#Job Name: {row.entry.name}"]
    lines += [
        f"  {objective.name:14}: {score:.6g} ({objective.mode})"
        for objective, score in zip(objectives, row.scores, strict=True)
    ]
    args = "  ".join(f"{name}={text}" for name, text in view.job.text.items())
    lines += [
        f"  status        : {view.state}",
        f"  args          : {args or '-'}",
        f"  command       : {command_text(view.job.command)}",
        f"  run_path      : {run_path(task, view)}",
    ]
    return "\n".join(lines) + "\n"


# --- the Pareto front ------------------------------------------------------------------------------------------------


def parse_reference(text: str | None, objectives: Sequence[Objective]) -> dict[str, float]:
    """`acc=0,macs=1e9` as numbers by objective; also `macs=1G`. Raises UsageError."""
    import math

    from searchkit.reading import expression

    reference: dict[str, float] = {}
    if text is None:
        return reference
    names = tuple(objective.name for objective in objectives)
    if len(objectives) < 2:
        raise UsageError("--reference is for a Pareto front, and the config has no two objectives")
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.rpartition("="))
        if not equals or name not in names:
            raise UsageError(
                f"--reference {text}: {part!r} is no NAME=NUMBER of an objective{did_you_mean(name, names)}"
            )
        try:
            reference[name] = float(expression.evaluate(expression.parse(value), {}))
        except (UsageError, TypeError, ValueError, OverflowError) as e:
            raise UsageError(f"--reference {text}: {value!r} is no number") from e
        if not math.isfinite(reference[name]):
            raise UsageError(f"--reference {text}: {value!r} is no finite number")
    return reference


def pareto_text(rows: Sequence[Scored], objectives: Sequence[Objective], reference: dict[str, float]) -> str:
    """The front as a table, with the arguments that differ among all rows, and its hypervolume."""
    from searchkit.suite.cli import tables
    from searchkit.suite.facts import pareto_facts

    facts = pareto_facts(rows, objectives, reference)
    if not rows:
        return f"Pareto front of {_described(objectives)}: no job ended with a value of each\n"
    front = [row for row in rows if row.front == 0]
    texts: dict[str, set[str | None]] = {}
    for row in rows:
        for name in row.entry.view.job.text:
            texts.setdefault(name, set())
    for row in rows:
        for name, seen in texts.items():
            seen.add(row.entry.view.job.text.get(name))
    varying = [name for name, seen in texts.items() if len(seen) > 1]
    lines = [["job", *(objective.name for objective in objectives), *varying]]
    for row in front:
        text = row.entry.view.job.text
        lines.append(
            [row.entry.name, *(f"{x:.6g}" for x in row.scores), *(_short(text.get(name, "-")) for name in varying)]
        )
    by = ", ".join(f"{name}={value:.6g}" for name, value in facts["reference"].items())
    of = "the worst of these jobs"
    if reference:
        of = "as given" if len(reference) == len(objectives) else "partly as given"
    volume = "too large a front" if facts["hypervolume"] is None else f"{facts['hypervolume']:.6g}"
    return (
        f"Pareto front of {_described(objectives)}: {len(front)} of {console.counted(len(rows), 'job')}\n"
        f"{tables.aligned(lines)}\n"
        f"hypervolume: {volume} (reference point: {by}, {of})\n"
    )


def _short(text: str) -> str:
    """A sampled number with the digits that a table needs; the job's own text where that is not one."""
    try:
        return text if len(text) < 10 else f"{float(text):.6g}"
    except ValueError:
        return text
