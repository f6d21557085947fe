"""The table of a task: one row a job; for a job that scored subnets, one row a subnet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from searchkit.suite.cli.tables import command_text
from searchkit.suite.config.settings import Objective
from searchkit.suite.store import ranking
from searchkit.suite.store.ranking import JobScalars
from searchkit.suite.workspace import TaskPaths

# The kinds of columns in their order, after those of the job itself.
KINDS = ("param", "score", "scalar", "data", "overhead", "record", "pre", "after", "command", "run_path")


def rows(
    task: TaskPaths,
    jobs: list[JobScalars],
    prefix: str = "",
    *,
    wanted: Sequence[Objective] = (),
    whole: bool = False,
) -> list[dict[str, Any]]:
    """Columns: job (`3`, or `3:<arch>` for a subnet; after `prefix`), status, attempt, times (seconds since the epoch),
    exit code; `param.<name>` as the user wrote it; `score.<name>` of each objective `wanted`, where the job ended with
    all of them; `scalar.<name>`, the last reported value; of a subnet its input and how its cost was counted (`whole`:
    its record); `pre.<name>`, `after.<name>` of the callbacks; command, run_path."""
    out = []
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
        row["run_path"] = task.job(job.index).attempt(max(1, job.attempt)).root
        out.append(row)
    return out


def _kind(column: str) -> int:
    kind = column.partition(".")[0]
    return KINDS.index(kind) if kind in KINDS else -1


def to_csv(table: list[dict[str, Any]]) -> str:
    """CSV with every column that any row has: kind by kind, and of one kind in order of first appearance. (The first
    row may be of a job that reported nothing.)"""
    columns = sorted(dict.fromkeys(name for row in table for name in row), key=_kind)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
