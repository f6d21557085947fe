"""What is known of tasks and jobs, as plain data: what tables are made of and --json prints. Texts are the commands'.

Times are seconds since the epoch.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import SearchkitError
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.state import EXHAUSTED
from searchkit.suite.store.tasks import JobView, TaskView
from searchkit.suite.workspace import NAME as WORKSPACE
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:  # `show` ranks nothing, and spares itself the imports
    from searchkit.suite.config.settings import Objective
    from searchkit.suite.store.ranking import JobScalars, Scored

Pair = tuple[Any, Any]


# --- tasks and jobs --------------------------------------------------------------------------------------------------


def task_facts(view: TaskView) -> dict[str, Any]:
    """How a task is, and how many of its jobs are in each state."""
    counts = dict(Counter(str(j.state) for j in view.jobs))
    return {"task": view.paths.name, "status": view.status, "counts": counts, "config_file": view.paths.run_config}


def stage_facts(task: TaskPaths, views: dict[str, TaskView | None]) -> list[dict[str, Any]]:
    """The stages in order, each with its jobs; one that has not begun has none."""
    return [
        {
            "stage": name,
            "task": f"{task.name}.{name}",
            "status": view.status if view else "pending",
            "jobs": [job_facts(view.paths, j) for j in view.jobs] if view else [],
        }
        for name, view in views.items()
    ]


def command_text(command: str | list[str]) -> str:
    """A command as the shell would take it."""
    return command if isinstance(command, str) else shlex.join(command)


def run_path(task: TaskPaths, view: JobView) -> str:
    """The folder of a job's highest attempt."""
    return task.job(view.job.index).attempt(max(1, view.job.attempt)).root


def reason(view: JobView) -> str:
    """Why a job is in its state, where there is something to say."""
    if view.state is not State.PRUNED or not view.job.reports:
        return view.reason
    step, value = view.job.reports[-1]
    return f"{'paused' if view.job.paused else 'ended'} by an early stopper, after {value:.6g} at step {step}"


def job_facts(task: TaskPaths, view: JobView) -> dict[str, Any]:
    """What is known of a job, by the reference's names."""
    paths = task.job(view.job.index).attempt(max(1, view.job.attempt))
    return {
        "job": view.job.index,
        "status": str(view.state),
        "command": command_text(view.job.command),
        "params": view.job.values,
        "run_path": paths.root,
        "log_path": paths.log,
        "start_time_s": view.start_s,
        "end_time_s": view.end_s,
        "callback_path": paths.callback,
        "attempt": view.job.attempt,
        "exit_code": view.exit_code,
        "reason": reason(view),
        "freed": bool(view.job.freed),
    }


# --- how a run goes, and how it ends ---------------------------------------------------------------------------------


def result_facts(job: Job) -> dict[str, Any]:
    """How an attempt of a job ended, and whether the job will run again by itself."""
    result = job.result
    assert result is not None
    return {
        "job": job.index,
        "attempt": job.attempt,
        "status": str(result.state),
        "exit_code": result.rc,
        "reason": result.reason,
        "runs_again": bool(result.retry) and result.state is not State.STOPPED,
    }


def end_facts(view: TaskView, code: int, why: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the run of a task ended. code: of search-run, unless a later stage changes it; why: what the first jobs that
    failed said last. `exhausted`: a search found no further point."""
    failed = [view_.job.index for view_ in view.jobs if view_.state is State.ERROR]
    exhausted = view.state.complete and view.state.ended == EXHAUSTED
    return {"end": {**task_facts(view), "exit": code, "exhausted": exhausted, "failed": failed, "why": list(why)}}


def explained(why: Mapping[str, Any]) -> str:
    """One of `why` of `end_facts`, for people: the reason, and the end of the log."""
    head = f"  job {why['job']}: {why['reason']}; log: {why['log_path']}"
    return "\n".join([head, *(f"    | {line}" for line in why["log_tail"])])


# --- what jobs reported ----------------------------------------------------------------------------------------------


def scalar_facts(job: JobScalars) -> dict[str, Any]:
    """All that a job reported: the series of each scalar by step, what its callbacks said, its records."""
    return {
        "job": job.view.job.index,
        "status": str(job.view.state),
        "params": job.view.job.values,
        "scores": job.scores,
        "scalars": {k: {str(s): v for s, v in series.items()} for k, series in job.series.items()},
        "pre_callback_result": job.pre,
        "after_callback_result": job.after,
        "records": [{"row": row.name, "arch_id": row.arch, **row.record} for row in job.records],
        "undecodable_lines": job.skipped,
        "undecodable": list(job.faults),
    }


def row_facts(entry: JobScalars) -> dict[str, Any]:
    """One row of a ranking: its name, its job, and the last value of every scalar."""
    facts: dict[str, Any] = {"row": entry.name, "job": entry.view.job.index}
    if entry.row:
        facts.update(arch=entry.row.arch, input_shape=entry.row.shape)
    return {**facts, "scores": entry.scores, "scalars": entry.last()}


def flat_rows(
    task: TaskPaths,
    jobs: list[JobScalars],
    prefix: str = "",
    *,
    wanted: Sequence[Objective] = (),
    whole: bool = False,
) -> list[dict[str, Any]]:
    """The table of a task: one row a job; for a job that scored subnets, one row a subnet.

    Columns: job (`3`, or `3:<arch>` for a subnet; after `prefix`), status, attempt, times, exit code; `param.<name>` as
    the user wrote it; `score.<name>` of each objective `wanted`, where the job ended with all of them; `scalar.<name>`,
    the last reported value; of a subnet its input and how its cost was counted (`whole`: its record); `pre.<name>`,
    `after.<name>` of the callbacks; command, run_path.
    """
    from searchkit.suite.store import ranking

    rows = []
    parts = ranking.split(jobs)
    scores = {id(each.entry): each.scores for each in ranking.scored(parts, wanted)} if wanted else {}
    for j in parts:
        job = j.view.job
        row: dict[str, Any] = {
            "job": f"{prefix}{j.name}" if prefix or j.row else job.index,
            "status": str(j.view.state),
            "attempt": job.attempt,
            "start_time_s": j.view.start_s,
            "end_time_s": j.view.end_s,
            "exit_code": j.view.exit_code,
        }
        row.update((f"param.{name}", text) for name, text in job.text.items())
        row.update((f"score.{o.name}", score) for o, score in zip(wanted, scores.get(id(j), ()), strict=False))
        row.update((f"scalar.{name}", value) for name, value in j.last().items())
        if j.row:
            row.update({"data.input_shape": j.row.shape, "overhead.convention": j.row.convention})
            row.update({"record": j.row.record} if whole else {})
        for which, result in (("pre", j.pre), ("after", j.after)):
            row.update((f"{which}.{name}", value) for name, value in (result or {}).items())
        row["command"] = command_text(job.command)
        row["run_path"] = run_path(task, j.view)
        rows.append(row)
    return rows


# --- the best, and the Pareto front ----------------------------------------------------------------------------------


def objective_facts(wanted: Iterable[Objective]) -> list[dict[str, str | None]]:
    """What is searched for."""
    return [{"name": o.name, "mode": o.mode, "value": o.value} for o in wanted]


def scored_facts(row: Scored, wanted: Sequence[Objective]) -> dict[str, Any]:
    """A job, or a subnet that one scored, with its scores by objective."""
    view = row.entry.view
    return {
        "row": row.entry.name,
        "job": view.job.index,
        "status": str(view.state),
        "scores": dict(zip((o.name for o in wanted), row.scores, strict=True)),
        "params": view.job.values,
    }


def best_facts(task: TaskPaths, row: Scored, wanted: Sequence[Objective]) -> dict[str, Any]:
    """One of the best: as `scored_facts`, with its front (0: none is better in all), command and folder."""
    view = row.entry.view
    return {
        **scored_facts(row, wanted),
        "front": row.front,
        "command": command_text(view.job.command),
        "run_path": run_path(task, view),
    }


def pareto_facts(rows: Sequence[Scored], wanted: Sequence[Objective], given: dict[str, float]) -> dict[str, Any]:
    """The front of these rows and its hypervolume, up to a reference point: the worst value of each objective among the
    rows where none is given."""
    from searchkit.records import pareto
    from searchkit.suite.store import ranking

    worst = ranking.worst(rows, wanted)
    reference = [given.get(o.name, value) for o, value in zip(wanted, worst, strict=True)] if rows else []
    front = [row for row in rows if row.front == 0]
    modes = [o.mode for o in wanted]
    # Exact, so its time grows with the power of one less than the objectives: beyond some ten seconds it is left out.
    quick = len(front) ** (len(wanted) - 1) <= 10**9
    volume = pareto.hypervolume([row.scores for row in front], reference, modes) if rows and quick else None
    return {
        "objectives": objective_facts(wanted),
        "rows": len(rows),
        "front": [scored_facts(row, wanted) for row in front],
        "reference": dict(zip((o.name for o in wanted), reference, strict=False)),
        "hypervolume": volume,
    }


# --- two jobs side by side -------------------------------------------------------------------------------------------


def compared(task: TaskPaths, a: JobScalars, b: JobScalars) -> dict[str, dict[str, Pair]]:
    """Every fact of two jobs side by side, by kind: None where one has it not."""
    return {
        "args": _side_by_side(*({name: text for name, text in each.view.job.text.items()} for each in (a, b))),
        "code": _side_by_side(*(_code(task, each) for each in (a, b))),
        "scalars": _side_by_side(*(dict(sorted(each.last().items())) for each in (a, b))),
        "run": _side_by_side(*(_run(each) for each in (a, b))),
    }


def is_same(pair: Pair) -> bool:
    """Whether two facts are equal; NaN is NaN here."""
    a, b = pair
    return bool(a == b or (a != a and b != b))


def changed_files(task: TaskPaths, a: JobScalars, b: JobScalars) -> list[str]:
    """The files that differ between the snapshots of two jobs."""
    import filecmp

    from searchkit.suite.store import snapshot

    one, other = (task.snapshot(each.view.job.snapshot) for each in (a, b))
    if one == other:
        return []
    try:
        first, second = snapshot.load(one), snapshot.load(other)
    except SearchkitError:  # damaged: fsck tells
        return []
    then, now = ({e.path: (e.kind, e.size, e.target) for e in manifest.entries} for manifest in (first, second))
    changed = []
    for path in sorted(then.keys() | now.keys()):
        if then.get(path) != now.get(path):
            changed.append(path)
        elif then[path][0] == "file":
            try:
                same = filecmp.cmp(
                    f"{one.root}/{first.name}/{path}", f"{other.root}/{second.name}/{path}", shallow=False
                )
            except OSError:
                same = False
            changed += [] if same else [path]
    return changed


def _side_by_side(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Pair]:
    return {name: (a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))}


def _code(task: TaskPaths, each: JobScalars) -> dict[str, Any]:
    k, python = each.view.job.snapshot, each.view.job.python or {}
    try:
        git = json.loads(fsio.read_bytes(task.snapshot(k).provenance) or b"{}").get("git") or {}
    except (OSError, ValueError, AttributeError):
        git = {}
    commit = git.get("commit")
    dirty = [line for line in git.get("uncommitted") or () if not line[3:].startswith(WORKSPACE)]
    return {
        "snapshot": k,
        "git commit": f"{commit[:12]}{' + changes' if dirty else ''}" if commit else None,
        "python": python.get("version"),
        "interpreter": python.get("path"),
        "environment": python.get("prefix"),
    }


def _run(each: JobScalars) -> dict[str, Any]:
    view = each.view
    took = view.end_s - view.start_s if view.start_s is not None and view.end_s is not None else None
    return {
        "status": str(view.state),
        "exit code": view.exit_code,
        "duration (s)": None if took is None else round(took, 3),
        "attempt": view.job.attempt,
    }
