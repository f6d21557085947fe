"""search-ctl free; how much disk jobs take, and how much those of a new task will need."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.suite.cli.choose import JSON, TASK, begun_stages, chosen_jobs, open_task, ranges, refuse_stages

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.snapshot import Manifest
    from searchkit.suite.store.tasks import JobView
    from searchkit.suite.workspace import TaskPaths, Workspace


@click.command()
@TASK
@click.option("--keep", required=True, metavar="JOBS", help="Jobs that stay whole: @best:3, 0-9,12, … or none.")
@click.option("--jobs", help="Free only these (default: all that finished, or were pruned for good).")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@JSON
def free(task_name: str, keep: str, jobs: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove working copies and checkpoints of jobs that ended; scores, logs, parameters and callbacks stay.

    What is read as numbers stays too: event files of TensorBoard, and JSON lines (records of search-nas). Nothing is
    removed that a running, pending or paused job or a later stage needs, nor of a job that failed or was stopped,
    unless --jobs names it: restart may go on from its checkpoint. Paused jobs of a search that is over are freed where
    --jobs names them, too: only more trials make them go on. In a pipe it asks nothing.

    \b
    Examples:
      search-ctl free --task lr-sweep --keep @best:3 --dry-run
      search-ctl free --task lr-sweep --keep none --jobs @failed
    """
    from searchkit.suite import control
    from searchkit.suite.run import stages
    from searchkit.suite.store import disk, journal, reserve, tasks
    from searchkit.suite.store.disk import Emptied

    ws, task = open_task(task_name)
    refuse_stages(task)
    stages.check_idle(task)
    view = tasks.view(task)
    named = [j.job.index for j in chosen_jobs(ws, task, view, jobs)]
    kept = set() if keep == "none" else {j.job.index for j in chosen_jobs(ws, task, view, keep, "--keep")}
    later, linked = stages.later(task)
    pairs = [(j.job, j.state) for j in view.jobs if j.job.index in named]
    over = disk.is_over(view.state) and not journal.is_held(task)
    needed = disk.needed(pairs, named=named if jobs else (), over=over, later=later, linked=linked)
    needed = {n: why for n, why in needed.items() if n not in kept}
    chosen = [job for job, _ in pairs if job.index not in kept and job.index not in needed]

    def look() -> dict[int, Emptied]:
        return {job.index: disk.empty(task, job, dry=True) for job in chosen}

    before = look()
    full = [n for n, emptied in before.items() if emptied.files]
    promised = sum(before.values(), Emptied())
    if full and not dry_run:
        if not yes and not as_json and console.is_terminal("stdin"):
            click.confirm(f"Remove {console.size(promised.freed)} of jobs {ranges(full)}?", abort=True)
        with reserve.given_up(ws):
            refused = control.free(task, full).refused
        needed |= dict.fromkeys(refused, "not ended")
        full = [n for n in full if n not in refused]
    left = sum((emptied for n, emptied in look().items() if n in full), Emptied()) if not dry_run else Emptied()
    freed = sum(before[n].freed for n in full) - left.freed
    if as_json:
        facts = {"task": task.name, "dry_run": dry_run, "jobs": full, "bytes": freed, "kept": sorted(kept)}
        console.print_json({**facts, "needed": {str(n): why for n, why in needed.items()}, "left_bytes": left.freed})
        return 5 if left.files else 0
    verb, of = ("would free" if dry_run else "freed"), ("job" if len(full) == 1 else "jobs")
    message = f"{verb} {console.size(freed)}: working copies and checkpoints of {of} {ranges(full)}"
    click.echo(message if full else f"nothing to free in task {task.name}")
    for why, n in Counter(needed.values()).items():
        click.echo(f"  left alone: {n} {'job' if n == 1 else 'jobs'} ({why})")
    if promised.kept and full:
        click.echo(f"  {promised.kept} files of numbers and records stay in these jobs' folders")
    if left.files:
        click.echo(f"error: {left.files} files ({console.size(left.freed)}) could not be removed", err=True)
    return 5 if left.files else 0


# --- what is taken ---------------------------------------------------------------------------------------------------


def show_tasks(ws: Workspace, paths: Sequence[TaskPaths], *, as_json: bool) -> None:
    """What each task takes on disk, one a line."""
    from searchkit.suite.store import disk, tasks
    from searchkit.suite.store.disk import Usage

    seen: set[tuple[int, int]] = set()
    facts = []
    for task in paths:
        used = sum((disk.usage(task, j.job.index, seen) for j in tasks.view(task).jobs), Usage())
        snapshots = 0 if os.path.islink(task.snapshots) else disk.size_of(task.snapshots, seen)
        facts.append({"task": task.name, **used.__dict__, "snapshots": snapshots, "total": used.total + snapshots})
    _print(ws, facts, "task", ("copies", "checkpoint", "logs", "snapshots", "total"), as_json, {})


def show_jobs(ws: Workspace, task: TaskPaths, jobs: Iterable[JobView], *, as_json: bool) -> None:
    """What each job takes on disk, one a line; jobs of a stage as `<stage>/<number>`."""
    from searchkit.suite.store import disk, tasks

    seen: set[tuple[int, int]] = set()
    facts = []
    stages = begun_stages(task) if tasks.stage_names(task) else []
    for part in stages or [task]:
        for view in tasks.view(part).jobs if stages else jobs:
            used = disk.usage(part, view.job.index, seen)
            name = f"{part.stage}/{view.job.index}" if stages else view.job.index
            facts.append({"job": name, "status": str(view.state), **used.__dict__, "total": used.total})
    _print(ws, facts, "job", ("copies", "checkpoint", "logs", "total"), as_json, {"task": task.name})


def _print(
    ws: Workspace, facts: list[dict[str, Any]], kind: str, columns: Sequence[str], as_json: bool, more: dict[str, Any]
) -> None:
    from searchkit.suite.cli.tables import aligned

    total = {name: sum(row[name] for row in facts) for name in columns}
    room = _room(ws.root)
    if as_json:
        console.print_json({**more, f"{kind}s": facts, "all": total, "free_bytes": room})
        return
    words = [name for name in facts[0] if name not in columns] if facts else [kind]
    lines = [[*words, *columns]]
    lines += [[*(str(row[w]) for w in words), *(console.size(row[name]) for name in columns)] for row in facts]
    lines += [["all", *[""] * (len(words) - 1), *(console.size(total[name]) for name in columns)]]
    click.echo(aligned(lines))
    click.echo(f"free on this file system: {console.size(room)}")


def _room(path: str) -> int:
    """Bytes that a user may still write."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


# --- what will be needed ---------------------------------------------------------------------------------------------


def say_need(ws: Workspace, task: TaskPaths, parts: Mapping[str, Config]) -> None:
    """Say on stderr what the working copies of the jobs to come will take, where that is over half of what is free.
    `parts`: what is run, by the names of its tasks."""
    from searchkit.suite.store import probe, snapshot, tasks

    manifest = snapshot.load(task.snapshot(snapshot.newest(task)))
    most = {name: _how_many(part) for name, part in parts.items()}
    room = _room(ws.root)
    if too_much(sum(most.values()), manifest, room):
        begun = [ws.task(name) for name in parts if tasks.exists(ws.task(name))]
        most = {**most, **{t.name: most[t.name] - _with_a_copy(t) for t in begun}}
        line = too_much(sum(max(0, n) for n in most.values()), manifest, room)
        if line and not probe.copies_share(ws.tmp):  # reflinks take nothing
            click.echo(f"note: {line}", err=True)


def too_much(jobs: int, manifest: Manifest, room: int) -> str:
    """A line on what copies for so many jobs take, if that is over half of `room` bytes; else empty."""
    size = manifest.copied_bytes  # links take nothing
    if jobs * size <= room / 2:
        return ""
    way = "" if manifest.symlinks else ", --symlinks links big ones"
    return (
        f"{jobs:,} jobs x {console.size(size)}, each one's copy of the project, take {console.size(jobs * size)}, and "
        f"{console.size(room)} are free (.searchignore leaves files out{way}; search-ctl free)"
    )


def _with_a_copy(task: TaskPaths) -> int:
    from searchkit.suite.store import tasks

    return sum(job.attempt > 0 and job.freed != "done" for job in tasks.view(task).state.jobs.values())


def _how_many(config: Config) -> int:
    """How many jobs a config may make at most; one if that is not known yet."""
    from searchkit.suite.store import best, subnets, trials

    if trials.is_search(config) and config.search.n_trials is not None:
        return config.search.n_trials
    if subnets.subnets(config) or best.bests(config):
        return 1
    try:
        return config.space.size() or 1
    except UsageError:
        return 1
