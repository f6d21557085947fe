"""search-ctl stop, delete, restart, add and withdraw."""

from __future__ import annotations

import sys

import click

from searchkit import console
from searchkit.errors import ConflictError, UsageError
from searchkit.suite.cli.choose import JOBS, JSON, TASK, begun_stages, chosen_jobs, open_task, ranges, refuse_stages
from searchkit.suite.workspace import TaskPaths, Workspace


@click.command()
@TASK
@JOBS
@click.option(
    "--grace", "grace_s", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds from TERM to KILL."
)
@click.option("--gone-host", default="", help="Jobs started on this other machine are dead: it is gone for good.")
@JSON
def stop(task_name: str, jobs: str | None, grace_s: float, gone_host: str, as_json: bool) -> int:
    """Stop a task, or some of its jobs; return when none of their processes is left.

    Jobs named here stay stopped until `restart`. A stopped task goes on at the next search-run.
    """
    from searchkit.suite import control
    from searchkit.suite.store import reserve, tasks
    from searchkit.suite.store.job import ENDED

    ws, task = open_task(task_name)
    if tasks.stage_names(task) and jobs is None:
        return _stop_stages(ws, task, grace_s, gone_host, as_json)
    chosen = None if jobs is None else [j.job.index for j in chosen_jobs(ws, task, tasks.view(task), jobs)]
    over = {j.job.index for j in tasks.view(task).jobs if j.state in ENDED} if chosen else set()
    with reserve.given_up(ws):
        answer = control.stop(task, chosen, grace_s, gone_host)
        tasks.refresh_views(ws, task)
    _check_stopped(answer.refused)
    if as_json:
        console.print_json({"task": task_name, "jobs": chosen, "survivors": answer.survivors})
    elif chosen and over.issuperset(chosen):
        click.echo(f"jobs {ranges(chosen)} of task {task_name} had ended already: no process of them is left")
    elif not answer.survivors:
        stopped = [n for n in chosen or [] if n not in over]
        target = f"task {task_name}" if chosen is None else f"jobs {ranges(stopped)} of task {task_name}"
        click.echo(f"stopped {target}: no process of it is left")
    return _tell_survivors(answer.survivors)


def _stop_stages(ws: Workspace, task: TaskPaths, grace_s: float, gone_host: str, as_json: bool) -> int:
    from searchkit.suite.run import stages
    from searchkit.suite.store import reserve, tasks

    with reserve.given_up(ws):
        answers = stages.stop(task, grace_s, gone_host)
        for changed in (*begun_stages(task), task):
            tasks.refresh_views(ws, changed)
    survivors = {name: answer.survivors for name, answer in answers.items() if answer.survivors}
    for answer in answers.values():
        _check_stopped(answer.refused)
    if as_json:
        console.print_json({"task": task.name, "jobs": None, "survivors": survivors})
    elif not survivors:
        click.echo(f"stopped task {task.name}: no process of it is left")
    return max([0, *(_tell_survivors(pids) for pids in survivors.values())])


def _check_stopped(refused: list[int]) -> None:
    if refused:
        raise ConflictError(
            f"jobs {ranges(refused)} were started on another machine, and can't be stopped from here",
            "Stop them there; or, if that machine is gone for good, end their search-run and add --gone-host NAME",
        )


def _tell_survivors(survivors: dict[int, list[int]]) -> int:
    for n, pids in survivors.items():
        click.echo(f"job {n if n >= 0 else '?'}: processes {pids} survived SIGKILL", err=True)
    return 1 if survivors else 0


@click.command()
@TASK
@JOBS
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--stop", "stop_first", is_flag=True, help="Stop running jobs first.")
@JSON
def delete(task_name: str, jobs: str | None, yes: bool, stop_first: bool, as_json: bool) -> None:
    """Delete a task, or some of its jobs with all they wrote. Refuses while they run, unless --stop."""
    from searchkit.suite import control
    from searchkit.suite.run import stages
    from searchkit.suite.store import reserve, tasks

    ws, task = open_task(task_name)
    has_stages = bool(tasks.stage_names(task))
    chosen = None if jobs is None else [j.job.index for j in chosen_jobs(ws, task, tasks.view(task), jobs)]
    target = (
        f"task {task_name!r} and all its jobs" if chosen is None else f"jobs {ranges(chosen)} of task {task_name!r}"
    )
    if not yes:
        if not console.is_terminal("stdin"):
            raise UsageError(f"this would delete {target}; nobody is here to ask", "Say --yes")
        click.confirm(f"Delete {target}?", abort=True)
    stages.check_idle(task)
    with reserve.given_up(ws):
        if stop_first and has_stages:
            stages.stop(task)
        elif stop_first:
            control.stop(task, chosen)
        if has_stages:
            stages.delete(ws, task)
        elif chosen is None:
            control.delete_task(ws, task)
        else:
            live = [j.job.index for j in tasks.view(task).jobs if j.job.index in chosen and str(j.state) == "running"]
            refused = live or control.delete_jobs(task, chosen).refused
            if refused:
                raise ConflictError(f"jobs {ranges(refused)} are running", "Stop them first, or add --stop")
            tasks.refresh_views(ws, task)
    if as_json:
        console.print_json({"task": task_name, "deleted": chosen if chosen is not None else "task"})
    else:
        click.echo(f"deleted {target}")


@click.command()
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
    from searchkit.suite import control
    from searchkit.suite.run import stages
    from searchkit.suite.store import tasks

    if failed and jobs:
        raise UsageError("--failed and --jobs exclude each other", "--jobs @failed,3 names both")
    ws, task = open_task(task_name)
    if jobs is not None:
        refuse_stages(task)
    picked = {}
    for part in begun_stages(task) if tasks.stage_names(task) else [task]:
        stages.check_idle(part)
        if chosen := _restartable(ws, part, jobs, failed):
            picked[part] = chosen
    if not picked:
        if as_json:
            console.print_json({"task": task_name, "restarted": [], "scheduler_pid": None})
        else:
            click.echo(f"task {task_name}: no {'failed ' if failed else ''}job to restart")
        return
    draining = False
    for part, chosen in picked.items():
        answer = control.restart(ws, part, chosen, same_code=same_code)
        tasks.refresh_views(ws, part)
        if answer.refused:
            raise ConflictError(f"jobs {ranges(answer.refused)} are running", "Stop them first")
        draining = draining or answer.draining
    first, chosen = next(iter(picked.items()))
    owner = ws.task(task.group)
    pid = None if no_start else _start(ws, owner)
    if as_json:
        numbers: object = {part.stage: jobs_of for part, jobs_of in picked.items()} if first != task else chosen
        console.print_json({"task": task_name, "restarted": numbers, "scheduler_pid": pid})
        return
    for part, jobs_of in picked.items():
        click.echo(f"restarted jobs {ranges(jobs_of)} of task {part.name}")
    if draining:
        click.echo("  its search-run is ending and starts nothing more: run the same search-run again when it has")
        return
    if pid is not None:
        click.echo(f"  a scheduler runs in the background (process {pid}), its log: {owner.scheduler_log}")
    click.echo(
        f"  follow: search-ctl logs --task {first.name} --jobs {chosen[0]} -f    search-ctl show --task {owner.name}"
    )


def _start(ws: Workspace, owner: TaskPaths) -> int | None:
    """Start a scheduler in the background, with the flags of the last one, where none runs; its process number."""
    from searchkit.suite import control
    from searchkit.suite.store import journal, tasks

    if journal.is_held(owner):
        return None
    return control.start_background(ws, owner, tasks.view(owner).state.options)


def _points(ws: Workspace, task: TaskPaths, texts: tuple[str, ...]) -> list[dict[str, str]]:
    """The points of a command line."""
    from searchkit.suite import control
    from searchkit.suite.run import points

    if ws.project not in sys.path:
        sys.path.insert(0, ws.project)  # where measures of the user's own are found
    config = control.kept_config(task)
    return [points.parse(config, text) for text in texts]


@click.command()
@click.argument("points", metavar="POINT...", nargs=-1, required=True)
@TASK
@click.option("--no-start", is_flag=True, help="Only add them; start no scheduler.")
@JSON
def add(points: tuple[str, ...], task_name: str, no_start: bool, as_json: bool) -> None:
    """Add points to a task as jobs, also while it runs. Starts a scheduler in the background where none runs.

    A point is NAME=VALUE,… A grid also takes values that its lists do not have. In a search, what a point leaves open
    is drawn, and it comes on top of n_trials. A point that a job has already is not added again.

    \b
    Examples:
      search-ctl add --task lr-sweep lr=0.1,epochs=3
      search-ctl add --task lr-sweep lr=0.1,epochs=3 lr=0.2,epochs=3
    """
    from searchkit.suite import control
    from searchkit.suite.run import stages
    from searchkit.suite.store import tasks

    ws, task = open_task(task_name)
    refuse_stages(task)
    stages.check_idle(task)
    answer = control.add(task, _points(ws, task, points))
    tasks.refresh_views(ws, task)
    owner = ws.task(task.group)
    pid = _start(ws, owner) if answer.jobs and not no_start else None
    if as_json:
        console.print_json(
            {"task": task_name, "added": answer.jobs, "there_already": answer.refused, "scheduler_pid": pid}
        )
        return
    if answer.refused:
        click.echo(f"task {task_name} has these points already: jobs {ranges(answer.refused)}")
    if not answer.jobs:
        return
    click.echo(f"added jobs {ranges(answer.jobs)} to task {task_name}")
    if answer.draining:
        click.echo("  its search-run is ending and starts nothing more: run the same search-run again when it has")
    elif pid is not None:
        click.echo(f"  a scheduler runs in the background (process {pid}), its log: {owner.scheduler_log}")
    click.echo(f"  follow: search-ctl show --task {task_name} --jobs {ranges(answer.jobs)}")


@click.command()
@click.argument("points", metavar="[POINT]...", nargs=-1)
@TASK
@JOBS
@JSON
def withdraw(points: tuple[str, ...], task_name: str, jobs: str | None, as_json: bool) -> None:
    """Withdraw points of a task that have not run: jobs by number, or all with the values of a POINT, NAME=VALUE,…

    They are gone, and a grid does not make them later. What has run stays: `stop` keeps such a job from running again,
    `delete` removes it.

    \b
    Examples:
      search-ctl withdraw --task lr-sweep --jobs 12-15
      search-ctl withdraw --task lr-sweep lr=0.3
    """
    from searchkit.suite import control
    from searchkit.suite.run import stages
    from searchkit.suite.run.points import leaves_out
    from searchkit.suite.store import reserve, tasks

    ws, task = open_task(task_name)
    refuse_stages(task)
    stages.check_idle(task)
    if not points and jobs is None:
        raise UsageError("nothing is named to withdraw", "Name values or jobs: lr=0.1,epochs=3, or --jobs @pending")
    named = [] if jobs is None else [j.job.index for j in chosen_jobs(ws, task, tasks.view(task), jobs)]
    parsed = _points(ws, task, points)
    with reserve.given_up(ws):
        answer = control.withdraw(task, named, parsed)
        tasks.refresh_views(ws, task)
    if as_json:
        console.print_json({"task": task_name, "withdrawn": answer.jobs, "refused": answer.refused})
    else:
        later = " or ".join(points) if parsed and leaves_out(control.kept_config(task)) else ""
        if answer.jobs:
            click.echo(f"withdrew jobs {ranges(answer.jobs)} of task {task_name}")
        elif parsed:
            click.echo(f"task {task_name}: no job that has not run has these values")
        elif not answer.refused:
            click.echo(f"task {task_name}: nothing to withdraw, --jobs {jobs} names no job")
        if later:
            click.echo(f"  points with {later} will not be made later (search-ctl add makes one all the same)")
    if answer.refused:
        raise ConflictError(
            f"jobs {ranges(answer.refused)} have run, or are running",
            f"search-ctl stop --task {task_name} --jobs … keeps them from running again, delete removes them",
        )


def _restartable(ws: Workspace, task: TaskPaths, jobs: str | None, failed: bool) -> list[int]:
    """The jobs to restart; ConflictError where one that was named is running."""
    from searchkit.suite.store import tasks

    picked = chosen_jobs(ws, task, tasks.view(task), "@failed" if failed else jobs)
    if jobs is None and not failed:
        picked = [j for j in picked if str(j.state) not in ("running", "pending")]
    if running := [j.job.index for j in picked if str(j.state) == "running"]:
        raise ConflictError(
            f"jobs {ranges(running)} are running", f"Stop them first: search-ctl stop --task {task.name} --jobs …"
        )
    return [j.job.index for j in picked]
