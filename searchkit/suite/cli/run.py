"""search-run: expand a config into jobs and run them."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.suite.config import shells
from searchkit.suite.workspace import TaskPaths, Workspace, check_task_name, find

if TYPE_CHECKING:
    from searchkit.suite.backends.base import Capacity
    from searchkit.suite.backends.table import Backends
    from searchkit.suite.cli.progress import Reward
    from searchkit.suite.cli.told import Told
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.interpreter import Pythons
    from searchkit.suite.store.state import TaskState


@click.command(context_settings=console.CONTEXT)
@click.argument("config_file", metavar="CONFIG")
@click.option("--task", "task_name", default="default", show_default=True, help="The task's name.")
@click.option("--symlinks", is_flag=True, help="Link big files and folders to the project instead of copying them.")
@click.option("--gpus", default="auto", show_default=True, help="auto, none, or indices like 0,1.")
@click.option("--jobs-per-gpu", type=click.IntRange(1), default=1, show_default=True, help="Jobs that share a GPU.")
@click.option("-j", "--max-parallel", type=click.IntRange(1), help="Jobs at once (default: GPU or CPU slots).")
@click.option("--n-trials", type=click.IntRange(1), help="Trials of a search, in place of search.n_trials.")
@click.option("--overwrite", is_flag=True, help="Move a task of this name away first, and begin anew.")
@click.option("--dry-run", is_flag=True, help="Print the commands and the tree; write nothing.")
@click.option("--detach", is_flag=True, help="Run in the background; say how to follow it.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display.")
@click.option("--facts", "facts_file", metavar="FILE", help="Also tell programs what happens: JSON lines.")
def main_command(
    config_file: str,
    task_name: str,
    symlinks: bool,
    gpus: str,
    jobs_per_gpu: int,
    max_parallel: int | None,
    n_trials: int | None,
    overwrite: bool,
    dry_run: bool,
    detach: bool,
    no_progress: bool,
    facts_file: str | None,
) -> int:
    """Run the search of CONFIG as a task. Run the same command again to go on where it was.

    \b
    Examples:
      search-run config.yaml
      search-run --task lr-sweep config.yaml --gpus 0,1 --jobs-per-gpu 2
      search-run --task lr-sweep config.yaml --dry-run

    \b
    Ends with 0 (all jobs finished), 1 (a job failed), 2 (config), 3 (no workspace), 4 (conflict), 5 (storage),
    130 or 143 (signals; run the same command again to go on).
    """
    from searchkit.suite.cli import disk, opening, programs, pythons
    from searchkit.suite.cli.told import Told
    from searchkit.suite.config import read as config_module
    from searchkit.suite.store import reserve

    if detach and facts_file:
        raise UsageError("--facts is of a run that is waited for", "Of one in the background: search-ctl show --json")
    with Told(facts_file) as told:
        ws = find(os.getcwd())
        check_task_name(task_name)
        if ws.project not in sys.path:
            sys.path.insert(0, ws.project)  # where samplers and stoppers of the user's own are found
        begun = None if overwrite else opening.begun(ws.task(task_name))
        config, raw = config_module.load(config_file, begun=begun)
        limited = config
        if n_trials is not None:
            limited = replace(config, search=replace(config.search, n_trials=n_trials))
        parts = {f"{task_name}.{stage.name}": stage.config for stage in config.stages} or {task_name: limited}
        places = [_places(part, gpus, jobs_per_gpu, max_parallel) for part in parts.values()]
        for part in parts.values():
            programs.check(part, ws)
        for note in config.notes:
            click.echo(f"note: {note}", err=True)
        if n_trials is not None and config.stages:
            raise UsageError("--n-trials is for a task of one search", "Set search.n_trials of the stage in the config")
        if dry_run:
            from searchkit.suite.cli import dry

            if os.path.exists(ws.task(task_name).run_config) and not overwrite:
                opening.change_config(ws.task(task_name), config_file, config, raw, dry=True)
            for (name, part), place in zip(parts.items(), places, strict=True):
                dry.run(ws, part, name, place.line, anew=overwrite)
            return 0
        options = {"gpus": gpus, "jobs_per_gpu": jobs_per_gpu, "max_parallel": max_parallel, "n_trials": n_trials}
        asked_pythons = pythons.ask(() if detach else parts.values())
        shell = begun or shells.default()
        task = opening.open_or_create(
            ws, task_name, config_file, config, raw, parts, shell, symlinks=symlinks, overwrite=overwrite
        )
        disk.say_need(ws, task, parts)
        reserve.keep(ws)
        if detach:
            from searchkit.suite import control

            pid = control.start_background(ws, task, options)
            click.echo(f"task {task_name} runs in the background (process {pid})")
            click.echo(f"  follow: search-ctl show --task {task_name}    log: {task.scheduler_log}")
            click.echo(f"  stop:   search-ctl stop --task {task_name}")
            return 0
        live = console.is_terminal() and not no_progress
        how = How(ws, options, gpus == "none", live, asked_pythons, told)
        if config.stages:
            return _run_stages(how, task, config, places)
        from searchkit.suite.store import subnets

        for path in subnets.check_inputs(config, task, ws.project, {}):
            click.echo(f"note: {path} is gone; the jobs that were picked from it are kept", err=True)
        return _schedule(how, task, subnets.kept(limited, task), places[0], {})


@dataclass(frozen=True)
class Places:
    """Where the jobs of a task or stage run, and how many at once."""

    backends: Backends
    slots: Capacity
    line: str  # where the slots come from


@dataclass(frozen=True)
class How:
    """What holds for every task of this search-run."""

    ws: Workspace
    options: dict[str, object]
    hide_gpus: bool
    live: bool
    pythons: Pythons
    told: Told
    said: set[str] = field(default_factory=set)  # notes that hold for several stages
    rewards: list[Reward] = field(default_factory=list)  # of the stages that ran here

    def note(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            click.echo(f"note: {text}", err=True)


def _run_stages(how: How, group: TaskPaths, config: Config, places: list[Places]) -> int:
    """One stage after the other; returns at the first that does not finish. The same command goes on there."""
    from searchkit.suite.cli.progress import listed
    from searchkit.suite.run import stages
    from searchkit.suite.store import journal, tasks

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)  # between two stages; while one runs, its scheduler has its own
    me = tasks.myself()
    open_group = tasks.take(group, journal.acquire(group, me), me, options=how.options)
    tasks.refresh_views(how.ws, group)
    failed = 0
    try:
        for k, stage in enumerate(config.stages):
            turn = stages.begin(how.ws, group, config, k)
            for note in turn.notes:
                click.echo(f"note: {note}", err=True)
            title = f"stage {k + 1} of {len(config.stages)}: {stage.name}"
            state = stages.state_of(turn.task)
            if stages.is_over(turn.config, state) and not any(job.paused for job in state.jobs.values()):
                click.echo(f"{title} has finished already")
                failed += stages.failed(state)
                continue
            click.echo(title)
            code = _schedule(how, turn.task, turn.config, places[k], turn.env)
            tasks.refresh_views(how.ws, group)
            state = stages.state_of(turn.task)
            if code in (0, 1) and stages.is_over(turn.config, state):
                failed += stages.failed(state)
                continue
            if code in (0, 1):
                _say_where_it_stopped(config, k, turn.task, state)
            return code or 1
    finally:
        open_group.close()
        tasks.refresh_views(how.ws, group)
        signal.signal(signal.SIGTERM, before)
    click.echo(f"task {group.name}: all {len(config.stages)} stages finished" + f" ({failed} failed)" * bool(failed))
    if config.reward_attribute:
        if len(how.rewards) == len(config.stages) and not any(reward.jobs for reward in how.rewards):
            click.echo(f"note: no stage reported {config.reward_attribute!r} (reported: {listed(how.rewards)})")
        sign = "-" if config.monitor.mode == "min" or config.unclear_reward else "+"
        click.echo(f"  rank them: search-ctl show-scalar --task {group.name} -rt {sign}5")
    return 1 if failed else 0


def _say_where_it_stopped(config: Config, k: int, task: TaskPaths, state: TaskState) -> None:
    from searchkit.suite.store.job import State

    waiting = ", ".join(stage.name for stage in config.stages[k + 1 :])
    done = (State.FINISHED, State.PRUNED)
    jobs = [(n, job.state) for n, job in sorted(state.jobs.items()) if job.state not in done]
    states = ", ".join(f"job {n} {s}" for n, s in jobs[:5]) + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")
    after = f"; not begun: {waiting}" if waiting else ""
    click.echo(f"task {task.group} stops at stage {config.stages[k].name} ({states}){after}")
    if all(s is State.STOPPED for _, s in jobs):  # all else was said with the summary of the stage
        click.echo(f"  go on: search-ctl restart --task {task.name}")


def _places(config: Config, gpus: str, jobs_per_gpu: int, max_parallel: int | None) -> Places:
    from searchkit.suite.backends.base import Request
    from searchkit.suite.backends.table import Backends

    resources = config.resources
    request = Request(
        config.template.program,
        os.environ,
        gpus,
        resources.gpus,
        jobs_per_gpu,
        resources.cpus,
        resources.gpu_mem_bytes,
        max_parallel or config.run.max_parallel,
    )
    backends = Backends()
    return Places(backends, *backends.main.capacity(request))


def _schedule(how: How, task: TaskPaths, config: Config, places: Places, stage_env: dict[str, str]) -> int:
    from searchkit.suite.cli import pythons
    from searchkit.suite.cli.progress import Progress
    from searchkit.suite.run import loop
    from searchkit.suite.run.launcher import Launcher, Plan
    from searchkit.suite.store import imports, journal, snapshot, tasks

    env = {**os.environ, **config.env, **stage_env}
    python = how.pythons.answer(config.template.program, env)
    me = tasks.myself()
    kept: dict[str, object] = {"options": how.options, "retries": config.run.retries}
    if task.stage and not tasks.view(task).jobs:  # it begins with the newest code, which a restart may have taken
        kept["snapshot"] = snapshot.newest(task)
    if python:
        kept["python"] = python.facts()
    open_task = tasks.take(task, journal.acquire(task, me), me, **kept)
    progress = Progress(how.ws, open_task, config, places.line, live=how.live, told=how.told)
    hide = how.hide_gpus or config.resources.gpus == 0
    installed = imports.installed(python, how.ws.project) if python else imports.Installed()
    shell = shells.located(config.run.shell, env.get("PATH"))
    plan = Plan(how.ws, config, places.backends, places.slots, hide, env, tuple(sys.argv), shell, python, installed)
    launcher = Launcher(plan, open_task)
    try:
        for text in pythons.notes(launcher):
            how.note(text)
        with progress:
            code = loop.run_task(launcher, progress)
    finally:
        places.slots.close()
        open_task.close()
    progress.summary(code)
    how.rewards.append(progress.reward)
    return code


def main() -> None:
    # A shell starts background commands of a script with these two ignored; whoever sends them to us means us. SIGHUP
    # stays ignored where it is: nohup is for that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    console.run(main_command, "search-run")


if __name__ == "__main__":
    main()
