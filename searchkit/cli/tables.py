"""The texts of search-ctl, line by line those of the reference document."""

from __future__ import annotations

import shlex
from typing import Any

from searchkit.store.ranking import JobScalars
from searchkit.store.tasks import JobView, TaskView, stamp
from searchkit.workspace import TaskPaths

FENCE = "#" * 30


def all_tasks(views: list[TaskView]) -> str:
    lines = ["All tasks:"]
    for v in views:
        lines += [v.paths.name, f"        status: {v.status}", f"        update_time: {stamp(v.update_s)}"]
    return "\n".join(lines)


def header(task: TaskPaths) -> str:
    return "\n".join(
        [
            FENCE,
            f"Task Name  : {task.name}",
            f"config file: {task.run_config}",
            f"pavi_compare_url: {task.jobs_tree}",
            FENCE,
            "",
            "Jobs:",
        ]
    )


def command_text(command: str | list[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def job_facts(task: TaskPaths, view: JobView) -> dict[str, Any]:
    """What is known of a job, by the reference's names; times in seconds since the epoch."""
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
        "reason": view.reason,
    }


def job_block(task: TaskPaths, view: JobView) -> str:
    paths = task.job(view.job.index).attempt(max(1, view.job.attempt))
    root = paths.root
    start = stamp(view.start_s) if view.start_s else "-"
    end = stamp(view.end_s) if view.end_s else "-"
    why = f"  reason        : {view.reason}\n" if view.reason else ""
    return (
        f"#Job Name: {view.job.index}\n"
        f"  status        : {view.state.value}\n"
        f"{why}"
        f"  command       : {command_text(view.job.command)}\n"
        f"  run_path      : {root}\n"
        f"  log_path      : {root}/log\n"
        f"  start_time    : {start}\n"
        f"  end_time      : {end}\n"
        f"  callback_path : {root}/callback\n"
        f"  pavi_training_url : {root}/callback/scalars.jsonl\n"
    )


def scalar_block(task: TaskPaths, job: JobScalars) -> str:
    root = task.job(job.view.job.index).attempt(max(1, job.view.job.attempt)).root
    lines = [
        f"#Job Name: {job.view.job.index}",
        f"  scalar_info   : {job.series}",
        f"  pavi_training_url : {root}/callback/scalars.jsonl",
    ]
    for name, result in (("pre_callback_result", job.pre), ("after_callback_result", job.after)):
        if result is not None:
            lines.append(f"  {name}:")
            width = max((len(k) for k in result), default=0)
            lines += [
                f"    {k:{width}}: {v!r}" if not isinstance(v, str) else f"    {k:{width}}: {v}"
                for k, v in result.items()
            ]
    return "\n".join(lines) + "\n"


def scalar_facts(job: JobScalars) -> dict[str, Any]:
    return {
        "job": job.view.job.index,
        "status": str(job.view.state),
        "params": job.view.job.values,
        "scalars": {k: {str(s): v for s, v in series.items()} for k, series in job.series.items()},
        "pre_callback_result": job.pre,
        "after_callback_result": job.after,
        "undecodable_lines": job.skipped,
    }
