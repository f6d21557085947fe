"""A task of several stages: each is a task of its own, `<task>.<stage>`, made when its turn comes.

The process that runs the whole task holds the task's own lease, and the lease of one stage after the other. Whatever
ends it, the files on disk say how far it came: a stage is over when all its jobs have an accepted result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from searchkit.errors import ConflictError
from searchkit.suite import control
from searchkit.suite.backends import workers
from searchkit.suite.backends.base import GRACE_S
from searchkit.suite.config.read import Config, Stage, stage_variable
from searchkit.suite.control import Answer
from searchkit.suite.run import search as searching
from searchkit.suite.store import best, journal, subnets, tasks, trials
from searchkit.suite.store.job import State
from searchkit.suite.store.state import TaskState, replay
from searchkit.suite.workspace import TaskPaths, Workspace

POLL_S = 0.05


def folder(task: TaskPaths) -> str:
    """The folder of a stage that later ones are told: the working folder of its only job, or `jobs/all` of several."""
    state = replay(journal.read(task)[0])
    if len(state.jobs) == 1 and not state.deleted:
        (job,) = state.jobs.values()
        return best.working_folder(task, job)
    return task.jobs_all


def environment(ws: Workspace, group: TaskPaths, before: Sequence[Stage]) -> dict[str, str]:
    """`SEARCHKIT_STAGE_<NAME>` of each stage that ended."""
    return {stage_variable(stage.name): folder(ws.task(f"{group.name}.{stage.name}")) for stage in before}


@dataclass(frozen=True)
class Turn:
    """A stage that may run: its task, its config with all values known, its environment, and notes for the user."""

    task: TaskPaths
    config: Config
    env: dict[str, str]
    notes: tuple[str, ...]


def begin(ws: Workspace, group: TaskPaths, config: Config, index: int) -> Turn:
    """Make the task of a stage if it is new; else check that what it was made from has not changed.

    Raises ConflictError (an input file changed), UsageError (its arguments leave no job, or are taken from jobs
    of which none has a score), StorageError.
    """
    stage = config.stages[index]
    task = ws.task(f"{group.name}.{stage.name}")
    env = environment(ws, group, config.stages[:index])
    notes: list[str] = []
    if tasks.exists(task):
        gone = subnets.check_inputs(stage.config, task, ws.project, env)
        notes += [f"{path} is gone; the jobs that were picked from it are kept" for path in gone]
    else:
        picks, rows = subnets.pick(stage.config, ws.project, env), best.pick(group, config, index)
        notes += [note for one in picks for note in one.notes] + [note for one in rows for note in one.notes]
        searching.check_points(best.filled(subnets.picked(stage.config, picks), rows))

        def fill(half: TaskPaths) -> None:
            subnets.keep(picks, half)
            best.keep(rows, half, task)

        tasks.create_stage(ws, group, stage.name, fill)
    return Turn(task, best.kept(subnets.kept(stage.config, task), task), env, tuple(notes))


def state_of(task: TaskPaths) -> TaskState:
    """All that has been decided and accepted for a task."""
    return replay(journal.read(task)[0])


def is_over(config: Config, state: TaskState) -> bool:
    """Whether the next stage may begin: every job of this one finished, by an accepted result.

    A search goes on after trials that failed, and so does the whole task, provided that one finished and `run.on_error`
    does not say otherwise.
    """
    good = [State.FINISHED, State.PRUNED]
    states = {job.state for job in state.jobs.values()}
    if trials.is_search(config) and config.run.on_error == "continue" and State.FINISHED in states:
        good.append(State.ERROR)
    return state.complete and states.issubset(good)


def later(task: TaskPaths) -> tuple[str, set[int]]:
    """(a later stage that is not over, jobs of this stage whose folders later stages link to): what still needs the
    folders of a stage. Empty for a task that is not a stage."""
    if not task.stage:
        return "", set()
    group = task.workspace.task(task.group)
    stages = tasks.config_of(group).stages
    after = 1 + next(k for k, stage in enumerate(stages) if stage.name == task.stage)
    linked: set[int] = set()
    for stage in stages[after:]:
        other = group.workspace.task(f"{group.name}.{stage.name}")
        if not tasks.exists(other) or not is_over(stage.config, state_of(other)):
            return stage.name, linked
        linked |= best.taken(other, task.stage)
    return "", linked


def failed(state: TaskState) -> int:
    """How many jobs of a stage ended in error."""
    return sum(job.state is State.ERROR for job in state.jobs.values())


def stop(group: TaskPaths, grace_s: float = GRACE_S, gone_host: str = "") -> dict[str, Answer]:
    """Stop whichever stage runs, and with it the run of the whole task; return the answers by stage."""
    answers: dict[str, Answer] = {}
    while True:
        for task in _existing(group):
            if journal.is_held(task):
                answers[task.name] = control.stop(task, None, grace_s, gone_host)
        if not journal.is_held(group):
            break
        time.sleep(POLL_S)  # between two stages: the next one is stopped as it begins
    for task in _existing(group):  # what a killed run left running
        if control.live_jobs(task) or workers.numbers(task):
            answers[task.name] = control.stop(task, None, grace_s, gone_host)
    return answers


def _existing(group: TaskPaths) -> list[TaskPaths]:
    return [task for task in tasks.stage_tasks(group) if tasks.exists(task)]


def check_idle(task: TaskPaths) -> None:
    """ConflictError where the task that a stage belongs to is being run, but at another stage."""
    group = task.workspace.task(task.group)
    if task.stage and journal.is_held(group) and not journal.is_held(task):
        raise ConflictError(
            f"task {group.name!r} is being run by {journal.holder(group)}, at another stage than {task.stage!r}",
            f"Wait until it ends, or stop it: search-ctl stop --task {group.name}",
        )


def move_away(group: TaskPaths, to: str) -> None:
    """Move a task with all its stages into the new folder `to`, the last stage first; ConflictError while one runs."""
    _refuse_running(group)
    for task in reversed(_existing(group)):
        control.move_away(task, f"{to}/{task.name}")
    control.move_away(group, f"{to}/{group.name}")


def delete(ws: Workspace, group: TaskPaths) -> None:
    """Delete a task with all its stages, the last one first: if that is cut short, the task that is left can go on."""
    _refuse_running(group)
    for task in reversed(_existing(group)):
        control.delete_task(ws, task)
    control.delete_task(ws, group)


def _refuse_running(group: TaskPaths) -> None:
    journal.acquire(group, tasks.myself()).release()
    for task in _existing(group):
        if live := control.live_jobs(task):
            raise ConflictError(
                f"task {task.name!r} has running jobs: {', '.join(map(str, live))}",
                f"Stop them first: search-ctl stop --task {group.name}",
            )
