"""How search-run comes by its task: a new one is made, one that exists goes on, with another config where it may."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from searchkit.errors import UsageError
from searchkit.suite.workspace import TaskPaths, Workspace

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.config.shells import Shell

BIG_COPY_BYTES = 1 << 30
CODE = (".py", ".sh", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".h", ".pyx", ".jl", ".r", ".R", ".lua", ".pl", ".js")


def begun(task: TaskPaths) -> Shell | None:
    """The shell that the task was begun with; None where it is new."""
    from searchkit.suite.store import tasks

    return tasks.shell_of(task) if tasks.exists(task) else None


def open_or_create(
    ws: Workspace,
    name: str,
    config_file: str,
    config: Config,
    raw: bytes,
    parts: dict[str, Config],
    shell: Shell,
    *,
    symlinks: bool,
    overwrite: bool,
) -> TaskPaths:
    """The task of that name, made if it is new. ConflictError where it can't go on with the config of `config_file`.
    `parts`: what is run of it, stage by stage."""
    from searchkit.suite import control
    from searchkit.suite.run import search as searching
    from searchkit.suite.run import stages
    from searchkit.suite.store import best, snapshot, subnets, tasks

    task = ws.task(name)
    if os.path.exists(task.run_config) and not overwrite:
        change_config(task, config_file, config, raw)
        _say_what_changed(task, config_file, symlinks)
        return task
    # All that can be checked is checked before anything is written; stages that take arguments from others wait.
    picks = subnets.pick(config, ws.project, {})
    known = [part for part in parts.values() if not (subnets.subnets(part) or best.bests(part))]
    for part in known if config.stages else [subnets.picked(part, picks) for part in parts.values()]:
        _say_size(part)
        searching.check_points(part)
    for note in (note for pick in picks for note in pick.notes):
        click.echo(f"note: {note}", err=True)
    manifest = snapshot.scan(ws.project, symlinks=symlinks)
    if manifest.copied_bytes > BIG_COPY_BYTES and not symlinks:
        click.echo(
            f"note: the project holds {manifest.copied_bytes / 2**30:.1f} GiB, copied for every job; --symlinks spares "
            f"that, {snapshot.IGNORE_FILE} leaves things out",
            err=True,
        )
    if manifest.skipped:
        click.echo(f"note: left out (no regular file): {', '.join(manifest.skipped)}", err=True)
    for e in manifest.linked:
        if e.kind == "shared":
            click.echo(f"note: all jobs share the project's folder {e.path}/", err=True)
    if os.path.exists(task.run_config):
        to = f"{ws.attic}/{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        (stages if tasks.stage_names(task) else control).move_away(task, to)
        click.echo(f"moved the old task away: {to}")
    names = tuple(stage.name for stage in config.stages)
    fill = lambda half: subnets.keep(picks, half)  # noqa: E731
    return tasks.create(ws, name, raw, manifest, shell=shell, stages=names, fill=fill)


def _say_size(config: Config) -> None:
    """Say at once how many points a large grid has."""
    from searchkit.suite.store import creation, trials

    size = None if trials.is_search(config) else config.space.size()
    if size is not None and size > creation.COUNTED and (size <= creation.MOST_JOBS or config.task.constraints):
        how = " before constraints, which are looked at as the jobs are made" if config.task.constraints else ""
        click.echo(f"the grid has {size:,} points{how}")


def _say_what_changed(task: TaskPaths, config_file: str, symlinks: bool) -> None:
    """A resumed task keeps its snapshot; say in one line how today's project differs from it, code first,
    without `config_file`."""
    from searchkit.suite.store import snapshot

    manifest = snapshot.load(task.snapshot(snapshot.newest(task)))
    project = task.workspace.project
    if changed := [
        path for path in snapshot.changes(manifest, project) if path != os.path.relpath(config_file, project)
    ]:
        changed.sort(key=lambda path: not path.endswith(CODE))
        names = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        click.echo(f"note: the task keeps the project as it was; changed since: {names} (restart takes them)", err=True)
    if linked := snapshot.changed_links(manifest, project):
        click.echo(f"note: jobs see these changed files through links: {', '.join(linked[:5])}", err=True)
    if symlinks != manifest.symlinks:
        mode = "with" if manifest.symlinks else "without"
        click.echo(f"note: the task was started {mode} --symlinks and goes on so", err=True)


def change_config(task: TaskPaths, config_file: str, config: Config, raw: bytes, *, dry: bool = False) -> None:
    """Let a task go on with the config of `config_file`, and say what differs. Raises ConflictError where it may not.
    `dry`: only say it."""
    from searchkit.suite.store import changes, tasks

    if tasks.newest_config(task) != raw:
        _check_direction(tasks.config_of(task), config, config_file)
    elif not config.stages:
        return
    steps = changes.steps(task, config)
    if refused := [part for step in steps for part in step.change.refused]:
        raise changes.refusal(task, config_file, raw, refused)
    for step in steps:
        if not step.change.parts:
            continue  # comments and layout differ, the meaning does not
        parts = step.change.parts
        if step.task == task:  # of a task of stages, those that have begun say it themselves
            begun = tuple(f"stages[{k}]." for k, stage in enumerate(tasks.stage_tasks(task)) if tasks.exists(stage))
            parts = tuple(part for part in parts if not part.key.startswith(begun or " "))
        changed = "; ".join(f"{part.key}: {part.what}" for part in parts)
        number = "another config" if dry else f"config {changes.record(step, raw)}"
        if changed:
            click.echo(f"task {step.task.name} {'would go' if dry else 'goes'} on with {number}: {changed}")


def _check_direction(old: Config, new: Config, config_file: str) -> None:
    """A new config may change the mode of a loss, but not drop one that was set: the default is the other mode. Raises
    UsageError."""
    before = {"": old, **{stage.name: stage.config for stage in old.stages}}
    for name, part in {"": new, **{stage.name: stage.config for stage in new.stages}}.items():
        if part.unclear_reward and name in before and before[name].monitor.mode_given:
            began = before[name].monitor.mode
            missing = f"{config_file}: monitor.mode: missing for {part.unclear_reward!r}"
            raise UsageError(
                f"{missing}, and the task was begun with `{began}`", "Say it again: `mode: min` or `mode: max`"
            )
