"""search-ctl: look at tasks and jobs, rank, stop, restart, delete, export, check."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from searchkit.cli import common
from searchkit.errors import ConflictError, SearchkitError, UsageError, did_you_mean
from searchkit.workspace import TaskPaths, Workspace, find

if TYPE_CHECKING:
    from searchkit.config import Config
    from searchkit.store.ranking import JobScalars
    from searchkit.store.tasks import JobView, TaskView

# Nothing of the suite but errors and paths is imported before a command needs it: `show --help` must answer at once.

TASK = click.option("--task", "task_name", default="default", show_default=True, help="The task's name.")
JOBS = click.option("--jobs", help="0-9,12, @failed, @running, @pending, @finished, @stopped, @all, @best:5")
JSON = click.option("--json", "as_json", is_flag=True, help="Facts for machines: one JSON document.")


@click.group(context_settings=common.CONTEXT)
def group() -> None:
    """Look at the tasks of the nearest .search-run workspace, and steer them."""


def _open(task_name: str) -> tuple[Workspace, TaskPaths]:
    ws = find(os.getcwd())
    return ws, ws.existing_task(task_name)


def _config(task: TaskPaths) -> Config:
    from searchkit import config, fsio

    return config.parse(fsio.read_bytes(task.run_config) or b"", task.run_config)


def _scalars(ws: Workspace, task: TaskPaths, config: Config, jobs: list[JobView]) -> list[JobScalars]:
    from searchkit.store import ranking

    return ranking.read(task, ws.project_name, config, jobs)


def _reward_name(config: Config, metric: str | None) -> str:
    name = metric or config.reward_attribute
    if not name:
        raise UsageError(
            "ranking needs a scalar: the config names no reward_attribute",
            "Name one here: --metric acc    or in the config: monitor: {reward_attribute: acc}",
        )
    return name


def _chosen(ws: Workspace, task: TaskPaths, view: TaskView, jobs: str | None) -> list[JobView]:
    """The jobs that a selector names, in its order; all of them without one."""
    if jobs is None:
        return view.jobs
    from searchkit.store import ranking, select

    def best(k: int) -> list[int]:
        config = _config(task)
        name, mode = _reward_name(config, None), config.monitor.mode
        ranked = ranking.rank(_scalars(ws, task, config, view.jobs), name, descending=mode == "max")
        return [j.view.job.index for j in ranked if ranking.reward(j, name) == ranking.reward(j, name)][:k]

    by_index = {j.job.index: j for j in view.jobs}
    return [by_index[n] for n in select.select(jobs, view.jobs, best)]


@group.command()
@click.option("--task", "task_name", help="One task, with its jobs.")
@JOBS
@JSON
def show(task_name: str | None, jobs: str | None, as_json: bool) -> None:
    """All tasks; or one task and its jobs.

    \b
    Examples:
      search-ctl show
      search-ctl show --task lr-sweep --jobs 0,1
    """
    from searchkit.cli import tables
    from searchkit.store import tasks

    if task_name is None:
        if jobs is not None:
            raise UsageError("--jobs needs --task", "Example: search-ctl show --task default --jobs 0,1")
        ws = find(os.getcwd())
        views = [tasks.view(ws.task(name)) for name in ws.task_names()]
        if as_json:
            facts = [{"task": v.paths.name, "status": v.status, "update_time_s": v.update_s} for v in views]
            common.print_json({"workspace": ws.root, "tasks": facts})
        else:
            click.echo(tables.all_tasks(views))
        tasks.heal_summary(ws, views)
        return
    ws, task = _open(task_name)
    view = tasks.view(task)
    chosen = _chosen(ws, task, view, jobs)
    if as_json:
        facts = [tables.job_facts(task, j) for j in chosen]
        common.print_json({"task": task.name, "status": view.status, "config_file": task.run_config, "jobs": facts})
        return
    click.echo("\n".join([tables.header(task), *(tables.job_block(task, j) for j in chosen)]))
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
@click.option("--metric", help="Rank by this scalar (default: the config's reward_attribute).")
@click.option("--best", is_flag=True, help="Rank by a scalar's best step instead of its last.")
@JSON
def show_scalar(
    task_name: str, jobs: str | None, rt: tuple[bool, int] | None, metric: str | None, best: bool, as_json: bool
) -> None:
    """What jobs reported, ranked. NaN and missing values come last both ways.

    \b
    Examples:
      search-ctl show-scalar --task lr-sweep -rt +5
      search-ctl show-scalar --task lr-sweep -rt -3 --metric Loss
    """
    from searchkit.cli import tables
    from searchkit.store import ranking, tasks

    ws, task = _open(task_name)
    view = tasks.view(task)
    config = _config(task)
    found = _scalars(ws, task, config, _chosen(ws, task, view, jobs))
    if metric and not any(metric in j.series for j in found):
        names = tuple(sorted({name for j in found for name in j.series}))
        raise UsageError(f"no job reported {metric!r}{did_you_mean(metric, names)}")
    if rt is not None:
        name = _reward_name(config, metric)
        found = ranking.rank(found, name, descending=rt[0], mode=config.monitor.mode, best=best)[: rt[1]]
    shown = (*config.monitor.scalars, metric) if config.monitor.scalars and metric else config.monitor.scalars
    found = [j.only(shown) for j in found]
    if as_json:
        common.print_json({"task": task.name, "jobs": [tables.scalar_facts(j) for j in found]})
        return
    click.echo("\n".join([tables.header(task), *(tables.scalar_block(task, j) for j in found)]))
    if skipped := sum(j.skipped for j in found):
        click.echo(f"{skipped} undecodable line(s) were skipped", err=True)


@group.command()
@TASK
@JOBS
@click.option(
    "--grace", "grace_s", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds from TERM to KILL."
)
@click.option("--gone-host", default="", help="Jobs started on this other machine are dead: it is gone for good.")
@JSON
def stop(task_name: str, jobs: str | None, grace_s: float, gone_host: str, as_json: bool) -> int:
    """Stop a task, or some of its jobs; return when none of their processes is left.

    Jobs named here stay stopped until `restart`. A stopped task goes on with the next search-run.
    """
    from searchkit import control
    from searchkit.store import tasks
    from searchkit.store.state import ENDED

    ws, task = _open(task_name)
    chosen = None if jobs is None else [j.job.index for j in _chosen(ws, task, tasks.view(task), jobs)]
    over = {j.job.index for j in tasks.view(task).jobs if j.state in ENDED} if chosen else set()
    answer = control.stop(task, chosen, grace_s, gone_host)
    tasks.refresh_views(ws, task)
    if answer.refused:
        raise ConflictError(
            f"jobs {_ranges(answer.refused)} were started on another machine, and can't be stopped from here",
            "Stop them there; or, if that machine is gone for good, end their search-run and say --gone-host NAME",
        )
    if as_json:
        common.print_json({"task": task_name, "jobs": chosen, "survivors": answer.survivors})
    elif chosen and over.issuperset(chosen):
        click.echo(f"jobs {_ranges(chosen)} of task {task_name} had ended already: no process of them is left")
    elif not answer.survivors:
        stopped = [n for n in chosen or [] if n not in over]
        what = f"task {task_name}" if chosen is None else f"jobs {_ranges(stopped)} of task {task_name}"
        click.echo(f"stopped {what}: no process of it is left")
    for n, pids in answer.survivors.items():
        click.echo(f"job {n if n >= 0 else '?'}: processes {pids} survived SIGKILL", err=True)
    return 1 if answer.survivors else 0


@group.command()
@TASK
@JOBS
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--stop", "stop_first", is_flag=True, help="Stop running jobs first.")
@JSON
def delete(task_name: str, jobs: str | None, yes: bool, stop_first: bool, as_json: bool) -> None:
    """Delete a task, or some of its jobs with all they wrote. Refuses while they run, unless --stop."""
    from searchkit import control
    from searchkit.store import tasks

    ws, task = _open(task_name)
    chosen = None if jobs is None else [j.job.index for j in _chosen(ws, task, tasks.view(task), jobs)]
    what = f"task {task_name!r} and all its jobs" if chosen is None else f"jobs {_ranges(chosen)} of task {task_name!r}"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would delete {what}; nobody is here to ask", "Say --yes")
        click.confirm(f"Delete {what}?", abort=True)
    if stop_first:
        control.stop(task, chosen)
    if chosen is None:
        control.delete_task(ws, task)
    else:
        live = [j.job.index for j in tasks.view(task).jobs if j.job.index in chosen and str(j.state) == "running"]
        refused = live or control.delete_jobs(task, chosen).refused
        if refused:
            raise ConflictError(f"jobs {_ranges(refused)} are running", "Stop them first, or add --stop")
        tasks.refresh_views(ws, task)
    if as_json:
        common.print_json({"task": task_name, "deleted": chosen if chosen is not None else "task"})
    else:
        click.echo(f"deleted {what}")


@group.command()
@TASK
@JOBS
@click.option("--failed", is_flag=True, help="The jobs that ended with an error (as --jobs @failed).")
@click.option("--same-code", is_flag=True, help="Keep the old snapshot instead of the project as it is now.")
@click.option("--no-start", is_flag=True, help="Only mark them pending; start no scheduler.")
@JSON
def restart(task_name: str, jobs: str | None, failed: bool, same_code: bool, no_start: bool, as_json: bool) -> None:
    """Run jobs that ended again, with the project as it is now. Starts a scheduler in the background where none runs.

    \b
    Examples:
      search-ctl restart --task lr-sweep --failed
      search-ctl restart --task lr-sweep --jobs 3,5-7
    """
    from searchkit import control
    from searchkit.store import journal, tasks

    if failed and jobs:
        raise UsageError("--failed and --jobs exclude each other", "--jobs @failed,3 names both")
    ws, task = _open(task_name)
    view = tasks.view(task)
    picked = _chosen(ws, task, view, "@failed" if failed else jobs)
    if jobs is None and not failed:
        picked = [j for j in picked if str(j.state) not in ("running", "pending")]
    chosen = [j.job.index for j in picked]
    if running := [j.job.index for j in picked if str(j.state) == "running"]:
        raise ConflictError(
            f"jobs {_ranges(running)} are running", f"Stop them first: search-ctl stop --task {task_name} --jobs …"
        )
    if not chosen:
        if as_json:
            common.print_json({"task": task_name, "restarted": [], "scheduler_pid": None})
        else:
            click.echo(f"task {task_name}: no {'failed ' if failed else ''}job to restart")
        return
    answer = control.restart(ws, task, chosen, same_code=same_code)
    tasks.refresh_views(ws, task)
    if answer.refused:
        raise ConflictError(f"jobs {_ranges(answer.refused)} are running", "Stop them first")
    pid = None
    if not no_start and not journal.is_held(task):
        pid = control.start_background(ws, task, view.state.options)
    if as_json:
        common.print_json({"task": task_name, "restarted": chosen, "scheduler_pid": pid})
        return
    click.echo(f"restarted jobs {_ranges(chosen)} of task {task_name}")
    if answer.draining:
        click.echo("  its search-run is ending and starts nothing more: run the same search-run again when it has")
        return
    if pid is not None:
        click.echo(f"  a scheduler runs in the background (process {pid}), its log: {task.scheduler_log}")
    click.echo(
        f"  follow: search-ctl logs --task {task_name} --jobs {chosen[0]} -f    search-ctl show --task {task_name}"
    )


@group.command()
@TASK
@click.option("--jobs", default="0", show_default=True, help="One job, or several: 0-9,12, @failed, …")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until the job ends.")
@click.option("--attempt", type=click.IntRange(1), help="An earlier attempt (default: the highest).")
def logs(task_name: str, jobs: str, follow: bool, attempt: int | None) -> None:
    """Print what jobs wrote to stdout and stderr."""
    from searchkit.cli import logs as log_printer
    from searchkit.store import tasks

    ws, task = _open(task_name)
    chosen = _chosen(ws, task, tasks.view(task), jobs)
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
    """One row a job: its state, its arguments, the last value of every scalar."""
    from searchkit.cli.export import rows, to_csv
    from searchkit.store import tasks

    ws, task = _open(task_name)
    found = _scalars(ws, task, _config(task), _chosen(ws, task, tasks.view(task), jobs))
    if form == "json":
        text = common.to_json(rows(task, found)) + "\n"
    else:
        text = to_csv(rows(task, found))
    if out:
        from searchkit import fsio

        with fsio.storage():
            fsio.atomic_write(os.path.abspath(out), text)
        click.echo(f"wrote {len(found)} rows to {out}")
    else:
        click.echo(text, nl=False)


@group.command()
@click.option("--task", "task_name", help="One task (default: all).")
@click.option("--repair", is_flag=True, help="Mend what can be mended from the events.")
@JSON
def fsck(task_name: str | None, repair: bool, as_json: bool) -> int:
    """Check that every file of a workspace is what the events say it must be."""
    from searchkit.store import fsck as checker

    ws = find(os.getcwd())
    names = [ws.existing_task(task_name).name] if task_name else ws.task_names()
    faults: list[Any] = []
    for name in names:
        faults += checker.check(ws.task(name), repair=repair)
    left = [f for f in faults if not f.repaired]
    if as_json:
        common.print_json({"tasks": names, "faults": [f.__dict__ for f in faults]})
    else:
        for f in faults:
            click.echo(f"{f.path}: {f.what}{' (mended)' if f.repaired else ''}")
        click.echo(f"{len(names)} task(s) checked: {len(faults)} fault(s)" + (f", {len(left)} left" if faults else ""))
    return 5 if left else 0


def _ranges(numbers: list[int]) -> str:
    """`0-3,7`."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "none"


def main() -> None:
    common.run(group, "search-ctl")


if __name__ == "__main__":
    main()
