"""search-ctl: look at tasks and jobs, rank, export, check; steer.py stops, restarts, deletes, adds."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from searchkit import console
from searchkit.errors import SearchkitError, UsageError, did_you_mean
from searchkit.suite.cli import best, diff, disk, plot, steer, table
from searchkit.suite.cli.choose import (
    JOBS,
    JSON,
    TASK,
    begun_stages,
    check_out,
    chosen_jobs,
    objectives_of,
    open_task,
    ranked_by,
    ranked_stage,
    refuse_stages,
    scalars_of,
)
from searchkit.suite.workspace import find

# Nothing of the suite but errors and paths is imported before a command needs it: `show --help` must answer at once.


@click.group(context_settings=console.CONTEXT)
def group() -> None:
    """Look at the tasks of the nearest .search-run workspace, and steer them."""


@group.command()
@click.option("--task", "task_name", help="One task, with its jobs.")
@JOBS
@click.option("--disk", "on_disk", is_flag=True, help="What they take on disk: working copies, checkpoints, logs.")
@JSON
def show(task_name: str | None, jobs: str | None, on_disk: bool, as_json: bool) -> None:
    """All tasks; or one task and its jobs.

    \b
    Examples:
      search-ctl show
      search-ctl show --task lr-sweep --jobs 0,1
    """
    from searchkit.suite.cli import tables
    from searchkit.suite.facts import job_facts, stage_facts, task_facts
    from searchkit.suite.store import tasks

    if task_name is None:
        if jobs is not None:
            raise UsageError("--jobs needs --task", "Example: search-ctl show --task default --jobs 0,1")
        ws = find(os.getcwd())
        if on_disk:
            disk.show_tasks(ws, [ws.task(name) for name in ws.task_names()], as_json=as_json)
            return
        views = [tasks.view(ws.task(name)) for name in ws.task_names()]
        if as_json:
            facts = [{**task_facts(v), "update_time_s": v.update_s} for v in views]
            console.print_json({"workspace": ws.root, "tasks": facts})
        else:
            click.echo(tables.all_tasks(views))
        tasks.heal_summary(ws, views)
        return
    ws, task = open_task(task_name)
    view = tasks.view(task)
    chosen = chosen_jobs(ws, task, view, jobs)
    if on_disk:
        disk.show_jobs(ws, task, chosen, as_json=as_json)
        return
    if tasks.stage_names(task):
        stages = {stage.stage: tasks.view(stage) if tasks.exists(stage) else None for stage in tasks.stage_tasks(task)}
        if as_json:
            console.print_json({**task_facts(view), "stages": stage_facts(task, stages)})
        else:
            click.echo(tables.stages(task, stages))
        return
    if as_json:
        facts = [job_facts(task, j) for j in chosen]
        console.print_json({**task_facts(view), "jobs": facts})
        return
    counts = f"jobs       : {tables.counted(view.jobs)}"
    click.echo("\n".join([tables.header(task, counts), *(tables.job_block(task, j) for j in chosen)]))
    if view.damaged:
        click.echo(
            f"{view.damaged} damaged line(s) of the events were skipped: search-ctl fsck --task {task.name}", err=True
        )


def _parse_rt(_: click.Context, __: click.Parameter, value: str | None) -> tuple[bool, int] | None:
    if value is None:
        return None
    if not (m := re.fullmatch(r"([+-])([1-9]\d*)", value)):
        raise click.BadParameter(f"must be +k (highest first) or -k (lowest first), as -rt +5; got {value!r}")
    return m[1] == "+", int(m[2])


@group.command("show-scalar")
@TASK
@JOBS
@click.option(
    "-rt", "rt", metavar="+k|-k", callback=_parse_rt, help="The k first by reward: +k highest first, -k lowest."
)
@click.option(
    "--metric", help="Rank by this scalar or objective (default: reward_attribute, else the first objective)."
)
@click.option("--best", "by_best", is_flag=True, help="Rank by a scalar's best step instead of its last.")
@click.option("--reference", help="The point up to which the hypervolume counts: acc=0,macs=1e9 (default: the worst).")
@JSON
def show_scalar(
    task_name: str,
    jobs: str | None,
    rt: tuple[bool, int] | None,
    metric: str | None,
    by_best: bool,
    reference: str | None,
    as_json: bool,
) -> None:
    """What jobs reported, ranked. NaN, infinities and missing values come last both ways.

    With several objectives: also their Pareto front, and its hypervolume.

    \b
    Examples:
      search-ctl show-scalar --task lr-sweep -rt +5
      search-ctl show-scalar --task lr-sweep -rt -3 --metric Loss
    """
    from searchkit.suite.cli import tables
    from searchkit.suite.facts import pareto_facts, row_facts, scalar_facts
    from searchkit.suite.store import ranking, tasks

    ws, task = open_task(task_name)
    if tasks.stage_names(task):
        task = ranked_stage(ws, task, metric)
    config = tasks.config_of(task)
    objectives = config.objectives
    reference_point = best.parse_reference(reference, objectives)
    views = chosen_jobs(ws, task, tasks.view(task), jobs)
    name, mode = ranked_by(config, metric) if rt else ("", "")
    several: tuple[str, ...] = ()
    score = "best" if by_best else config.monitor.score
    if score == "best" and name and name == config.unclear_reward:
        objectives_of(config)  # asks
    # The last and best numbers are in the events: to rank 10,000 jobs by them, only those that are shown are opened.
    needed = (name, *(objective.name for objective in objectives)) if len(objectives) > 1 else (name,)
    entries = scalars_of(ws, task, config, views, light=rt is not None, names=needed, scored=not by_best)
    rows = ranking.split(entries)
    front = ranking.scored(rows, objectives) if len(objectives) > 1 else None
    never = ranking.never_scored(rows, objectives)
    if name and not metric and rows and not any(ranking.reports(row, name) for row in rows):
        near = did_you_mean(name, tuple(sorted({known for row in rows for known in row.names})))
        lacks = f"no job reported {name!r}{near}: rows stand in the order of their jobs; --metric ranks by another"
        never += [] if ranking.ways(rows, name) else [lacks]
    if metric and not any(metric in j.names or metric in j.scores for j in [*entries, *rows]):
        names = tuple(sorted({name for j in [*entries, *rows] for name in j.names}))
        if several := ranking.ways(entries, metric):
            raise UsageError(f"{metric!r} is in several folders of event files: name one, {' or '.join(several)}")
        raise UsageError(f"no job reported {metric!r}{did_you_mean(metric, names)}")
    if rt is not None:
        rows = ranking.rank(rows, name, descending=rt[0], mode=mode, score=score, scored=not by_best)
        several = ranking.ways(rows, name)
        rows = rows[: rt[1]]
        chosen = {row.view.job.index for row in rows}
        entries = [j for j in entries if j.view.job.index in chosen]
        read = scalars_of(ws, task, config, [j.view for j in entries if j.known is not None])
        by_index = {j.view.job.index: j for j in [*read, *(j for j in entries if j.known is None)]}
        rows = [row if row.row else by_index[row.view.job.index]._replace(records=()) for row in rows]
        entries = ranking.joined(rows, by_index.values())
    shown = config.monitor.scalars and (
        *config.monitor.scalars,
        *([metric] if metric else []),
        *(objective.name for objective in objectives),
    )
    if as_json:
        entries, rows = [j.only(shown) for j in entries], [j.only(shown) for j in rows]
        facts = {"jobs": [scalar_facts(j) for j in entries], "rows": [row_facts(j) for j in rows]}
        pareto = {} if front is None else {"pareto": pareto_facts(front, objectives, reference_point)}
        console.print_json({"task": task.name, **facts, **pareto})
        return
    click.echo("\n".join([tables.header(task), *tables.scalar_blocks(task, entries if rt is None else rows, shown)]))
    if front is not None:
        click.echo(best.pareto_text(front, objectives, reference_point), nl=False)
    for line in never:
        click.echo(f"note: {line}", err=True)
    if several:
        click.echo(f"note: {name} is in several folders of event files: name one, {' or '.join(several)}", err=True)
    if any(j.skipped for j in entries):
        click.echo(tables.undecodable(entries), err=True)


@group.command()
@TASK
@click.option("--jobs", default="0", show_default=True, help="One job, or several: 0-9,12, @failed, …")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until the job ends.")
@click.option("--attempt", type=click.IntRange(1), help="An earlier attempt (default: the highest).")
def logs(task_name: str, jobs: str, follow: bool, attempt: int | None) -> None:
    """Print what jobs wrote to stdout and stderr."""
    from searchkit.suite.cli import logs as log_printer
    from searchkit.suite.store import tasks

    ws, task = open_task(task_name)
    chosen = chosen_jobs(ws, task, tasks.view(task), jobs)
    if follow and len(chosen) != 1:
        raise UsageError(f"-f follows one job, got {len(chosen)}", "Example: search-ctl logs --jobs 3 -f")
    for view in chosen:
        k = attempt or view.job.attempt
        if k > view.job.attempt:
            raise SearchkitError(f"job {view.job.index} has no attempt {k}; it was started {view.job.attempt} time(s)")
        log_printer.print_log(task, view.job.index, k, follow=follow, title=len(chosen) > 1)


@group.command()
@TASK
@JOBS
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("-o", "--out", help="A file (default: stdout).")
def export(task_name: str, jobs: str | None, form: str, out: str | None) -> None:
    """One row a job: its state, its arguments, the last value of every scalar. A subnet that a job scored is a row."""
    from searchkit.suite.cli.export import to_csv
    from searchkit.suite.facts import flat_rows
    from searchkit.suite.store import tasks, trials

    if out:
        check_out(out)
    ws, task = open_task(task_name)
    if jobs is not None:
        refuse_stages(task)
    table = []
    for part in begun_stages(task) if tasks.stage_names(task) else [task]:
        config = tasks.config_of(part)
        entries = scalars_of(ws, part, config, chosen_jobs(ws, part, tasks.view(part), jobs), light=True)
        objectives = config.objectives if config.search.objectives or trials.is_search(config) else ()
        prefix = f"{part.stage}/" if part != task else ""
        table += flat_rows(part, entries, prefix, wanted=objectives, whole=form == "json")
    text = console.to_json(table) + "\n" if form == "json" else to_csv(table)
    if out:
        from searchkit import fsio

        with fsio.storage():
            fsio.atomic_write(os.path.abspath(out), text)
        click.echo(f"wrote {len(table)} rows to {out}")
    else:
        click.echo(text, nl=False)


@group.command()
@click.option("--task", "task_name", help="One task (default: all).")
@click.option("--repair", is_flag=True, help="Repair what can be repaired from the events.")
@JSON
def fsck(task_name: str | None, repair: bool, as_json: bool) -> int:
    """Check that every file of a workspace is what the events say it must be."""
    from searchkit.suite.store import fsck as checker

    ws = find(os.getcwd())
    names = [ws.existing_task(task_name).name] if task_name else ws.task_names()
    faults: list[Any] = []
    for name in names:
        faults += checker.check(ws.task(name), repair=repair)
    unrepaired = [f for f in faults if not f.repaired]
    if as_json:
        console.print_json({"tasks": names, "faults": [f.__dict__ for f in faults]})
    else:
        for f in faults:
            click.echo(f"{f.path}: {f.what}{' (repaired)' if f.repaired else ''}")
        left = f", {len(unrepaired)} left" if faults else ""
        click.echo(f"{len(names)} task(s) checked: {len(faults)} fault(s){left}")
    return 5 if unrepaired else 0


@group.command()
def schema() -> None:
    """The JSON Schema of configs, by which editors complete and check them.

    \b
    search-init writes it to .search-run/config.schema.json. An editor with a YAML language server reads it where
    a config says, in a line of its own:
      # yaml-language-server: $schema=.search-run/config.schema.json
    """
    from searchkit.suite.config import schema as configs

    click.echo(configs.text(), nl=False)


for command in (
    best.best,
    diff.diff,
    plot.plot,
    table.table,
    disk.free,
    steer.stop,
    steer.delete,
    steer.restart,
    steer.add,
    steer.withdraw,
):
    group.add_command(command)


def main() -> None:
    import gc

    # Whatever a look at 10,000 jobs allocates is kept to the end: collecting garbage would take a tenth of the time.
    gc.set_threshold(1_000_000)
    console.run(group, "search-ctl", console.leave_at_once)


if __name__ == "__main__":
    main()
