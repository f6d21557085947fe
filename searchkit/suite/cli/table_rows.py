"""The rows of search-ctl table: which jobs they are, in which order, and what they have in each column."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import click

from searchkit import console
from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.suite.cli.choose import begun_stages, chosen_jobs, objectives_of, open_task, refuse_stages, scalars_of
from searchkit.suite.config.settings import Config, Objective
from searchkit.suite.facts import command_text, reason, run_path
from searchkit.suite.store import ranking, tasks
from searchkit.suite.store.ranking import JobScalars
from searchkit.suite.store.tasks import JobView
from searchkit.suite.workspace import TaskPaths, Workspace

NARROW = 12  # characters to which long cells are cut before a column is left out
GAP = "  "
PREFIXES = ("param", "score", "scalar", "min", "max")


class Row(NamedTuple):
    """One job, or one subnet that a job scored."""

    task: TaskPaths
    entry: JobScalars
    objectives: Mapping[str, Objective]  # of its task, by name
    # Of its job, at hand for each of the columns.
    values: Mapping[str, Any]
    text: Mapping[str, str]


class Missing(Exception):
    """A row has no value of a name."""


class Part(NamedTuple):
    """The jobs of one task, or of one stage of it."""

    ws: Workspace
    task: TaskPaths
    config: Config
    views: list[JobView]


def find(task_names: str, jobs: str | None) -> list[Part]:
    """The jobs of the tasks `a,b`, with all stages that have begun."""
    names = list(dict.fromkeys(name.strip() for name in task_names.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--task {task_names}: names no task", "Example: search-ctl table --task a,b")
    if jobs is not None and len(names) != 1:
        raise UsageError("--jobs names jobs of one task", "Choose among several by --where")
    parts: dict[str, Part] = {}  # by name: `a,a.long` names stage long of a twice
    for name in names:
        ws, group = open_task(name)
        if jobs is not None:
            refuse_stages(group)
        for task in begun_stages(group) if tasks.stage_names(group) else [group]:
            views = chosen_jobs(ws, task, tasks.view(task), jobs)
            parts.setdefault(task.name, Part(ws, task, tasks.config_of(task), views))
    return list(parts.values())


def arguments(parts: Iterable[Part]) -> set[str]:
    """The arguments that any job has."""
    return set().union(*(view.job.text for part in parts for view in part.views))


def gather(parts: Iterable[Part], needed: Sequence[str], where: str = "") -> list[Row]:
    """The rows of these jobs. `needed`: the names that are asked for, some of them by the expression `where`. Raises
    UsageError for one that no row has."""
    rows: list[Row] = []
    for part in parts:
        objectives = {objective.name: objective for objective in part.config.objectives}
        # What was recorded before results had numbers holds the objectives alone: files are read for more only.
        more = [bare(n) for n in needed if n not in FACTS and not _has_argument(part, n.removeprefix("param."))]
        names = [*more, *objectives] if objectives else []
        entries = scalars_of(part.ws, part.task, part.config, part.views, light=True, names=names)
        for entry in ranking.split(entries):
            job = entry.view.job
            rows.append(Row(part.task, entry, objectives, job.values, job.text))
    check_names(rows, needed, where)
    return rows


def _has_argument(part: Part, name: str) -> bool:
    return any(name in view.job.text for view in part.views)


def bare(name: str) -> str:
    prefix, _, rest = name.partition(".")
    return rest if prefix in PREFIXES and rest else name


def check_names(rows: Sequence[Row], needed: Iterable[str], where: str = "") -> None:
    """UsageError for a name that no row has; `where`: the text that names come from, if they are of an expression."""
    for name in needed:
        if name in FACTS or not rows or any(_has(row, name) or _has(row, bare(name)) for row in rows):
            continue
        if several := ranking.ways((row.entry for row in rows), bare(name)):
            raise UsageError(f"{name!r} is in several folders of event files: name one, {' or '.join(several)}")
        if any(bare(name) in row.objectives for row in rows):
            click.echo(f"note: no job has a number for {name!r}", err=True)
            continue
        names = {*FACTS}.union(*(_names(row) for row in rows))
        near = expression.unquoted(where, sorted(names)) or did_you_mean(name, tuple(sorted(names)))
        raise UsageError(f"no job has {name!r}{near}")


def _has(row: Row, name: str) -> bool:
    return name in row.text or name in _names(row)


def _names(row: Row) -> set[str]:
    """What the row has a value of, beside the facts."""
    return {*row.text, *row.entry.names, *row.entry.scores}


def chosen(rows: Sequence[Row], test: expression.Expression) -> list[Row]:
    """The rows for which an expression holds; those that lack a value that it needs are left out, and counted."""

    def reader(name: str) -> Callable[[int], Any]:
        cells = column(rows, name)

        def read(at: int) -> Any:
            value = cells[at]
            if value is None and not (rows[at].text.keys() & {name, bare(name)}):
                raise Missing(name)
            return value

        return read

    holds = expression.function(test, reader)
    kept, lacking = [], 0
    for at, row in enumerate(rows):
        try:
            if holds(at):
                kept.append(row)
        except Missing:
            lacking += 1
    if lacking:
        click.echo(f"left out: {lacking} without a value that {test.text!r} needs", err=True)
    return kept


def ordered(rows: Sequence[Row], key: str, descending: bool) -> list[int]:
    """Where the rows are, by one column: finite numbers, then texts, then rows without a value, or with none that is
    finite, whichever way round."""
    ranked: dict[int, list[tuple[Any, int]]] = {0: [], 1: [], 2: []}
    for at, value in enumerate(column(rows, key)):
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            ranked[0].append((value, at))
        else:
            ranked[2 if value is None or isinstance(value, float) else 1].append((str(value), at))
    for part in (ranked[0], ranked[1]):
        part.sort(key=itemgetter(0), reverse=descending)
    return [at for part in ranked.values() for _, at in part]


def best_first(rows: Sequence[Row], top: int) -> list[int]:
    """Where the rows with all objectives are, the best first."""
    first_rows = {row.task.name: row for row in rows}
    judged = {objectives_of(tasks.config_of(row.task)) for row in first_rows.values()}
    if len(judged) > 1:
        raise UsageError("--top: these tasks are judged by different objectives", "Say which counts: --sort -acc")
    by_id = {id(row.entry): at for at, row in enumerate(rows)}
    best = ranking.scored([row.entry for row in rows], judged.pop(), top) if judged else []
    return [by_id[id(scored.entry)] for scored in best]


def taken(rows: list[Row], order: Sequence[int]) -> tuple[list[Row], Sequence[int]]:
    """The rows at these places, as they lie, and this order of theirs. What is printed is put in order last: the cells
    of 10,000 rows take three times as long where each row lies elsewhere in memory."""
    if len(order) == len(rows):
        return rows, order
    places = {at: i for i, at in enumerate(sorted(order))}
    return [rows[at] for at in places], [places[at] for at in order]


# --- what is in them ------------------------------------------------------------------------------------------------


def _time(row: Row) -> float | None:
    view = row.entry.view
    if not view.start_s:
        return None
    return (view.end_s or time.time()) - view.start_s


FACTS: Mapping[str, Callable[[Row], Any]] = {
    "task": lambda row: row.task.name,
    "job": lambda row: row.entry.name if row.entry.row else row.entry.view.job.index,
    "state": lambda row: row.entry.view.state.value,
    "time": _time,
    "attempt": lambda row: row.entry.view.job.attempt,
    "exit_code": lambda row: row.entry.view.exit_code,
    "start": lambda row: row.entry.view.start_s,
    "end": lambda row: row.entry.view.end_s,
    "reason": lambda row: reason(row.entry.view) or None,
    "command": lambda row: command_text(row.entry.view.job.command),
    "run_path": lambda row: run_path(row.task, row.entry.view),
}


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """The values of a column; None where a row has none."""
    if fact := FACTS.get(name):
        return [fact(row) for row in rows]
    cells: list[Any] = []
    for row in rows:  # 10,000 at a time: what most cells are is found without a further call
        if name in row.values:
            cells.append(row.values[name])
        else:
            score = row.entry.scores.get(name)
            cells.append(score if score is not None and score == score else _reported(row, name))
    return cells


def _reported(row: Row, name: str) -> Any:
    """The value of a column that is neither a fact nor, by its bare name, an argument of the job."""
    for kind in ("score", "scalar"):
        if (number := _number(row, name, kind)) is not None:
            return number
    prefix, _, rest = name.partition(".")
    if prefix == "param":
        return row.values.get(rest)
    return _number(row, rest, prefix) if prefix in PREFIXES else None


def _number(row: Row, name: str, kind: str) -> float | None:
    """A number of a row: the `score` of an objective, the last value of a `scalar`, its `min` or `max`."""
    if kind == "score":
        judged = row.objectives.get(name)
        value = ranking.reward(row.entry, name, judged.mode, judged.score) if judged else math.nan
        return None if value != value else value
    scalar = row.entry.number(name)
    if scalar is None:
        return None
    if kind == "scalar":
        return scalar.last
    end = scalar.low if kind == "min" else scalar.high
    return None if math.isnan(end) else end  # of a series without a finite value


def default_columns(rows: Sequence[Row], several: bool) -> list[str]:
    """The columns that are shown where none are named."""
    params = [row.text for row in rows]
    names = list(dict.fromkeys(chain.from_iterable(params)))
    varying = [name for name in names if any(text.get(name) != params[0].get(name) for text in params)]
    objectives = {id(row.objectives): row.objectives for row in rows}  # one mapping for all rows of a task
    judged = list(dict.fromkeys(name for each in objectives.values() for name in each))
    scalars = judged or list(dict.fromkeys(name for row in rows for name in row.entry.names))
    scalars = [f"scalar.{name}" if name in FACTS or name in names else name for name in scalars]
    varying = [f"param.{name}" if name in FACTS else name for name in varying]
    return [*(["task"] if several else []), "job", "state", *varying, *scalars, "time"]


# --- how it is printed ------------------------------------------------------------------------------------------------


def texts(rows: Sequence[Row], name: str) -> list[str]:
    """A column as it is printed."""
    if name == "time":
        return ["-" if s is None else console.span(s) for s in column(rows, name)]
    if name in ("start", "end"):
        cells = column(rows, name)
        return ["-" if s is None else time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(s)) for s in cells]
    if name in FACTS:
        return _shown(column(rows, name))
    arg = name.removeprefix("param.")
    arg_texts = [row.text.get(arg) for row in rows]
    short: dict[str | None, str] = {text: _short(text) for text in set(arg_texts) if text is not None}
    if not short:
        return _shown(column(rows, name))
    if None not in arg_texts:
        return [short[text] for text in arg_texts]
    return [short.get(text, cell) for text, cell in zip(arg_texts, _shown(column(rows, name)), strict=True)]


def _shown(cells: Iterable[Any]) -> list[str]:
    return [
        f"{cell:.6g}"
        if isinstance(cell, float)
        else "-"
        if cell is None
        else str(cell)
        if isinstance(cell, int)
        else _one_line(str(cell))
        for cell in cells
    ]


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def _short(text: str) -> str:
    """A sampled number with the digits that a table needs; the job's own text where that is not one."""
    try:
        return _one_line(text) if len(text) < 10 else f"{float(text):.6g}"
    except ValueError:
        return _one_line(text)


def to_csv(rows: Sequence[Row], order: Iterable[int], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    lines = list(zip(*(column(rows, name) for name in columns), strict=True))
    writer.writerows(lines[at] for at in order)
    return text.getvalue()


def fit(columns: Sequence[Sequence[str]], width: int | None, kept: set[str]) -> tuple[list[str], list[str]]:
    """(lines of at most `width` characters, what was left out) of columns of cells, the first of which is the head.

    Long cells are cut first, then columns left out from the right, but those that are `kept`.
    """
    whole = [max(map(len, cells)) for cells in columns]
    widths = whole.copy()
    order, notes = list(range(len(columns))), []

    def excess() -> int:
        return sum(widths[i] for i in order) + len(GAP) * (len(order) - 1) - (width or 0)

    while width is not None and excess() > 0:
        widest = max(order, key=lambda i: widths[i] - max(NARROW, len(columns[i][0])))
        least = max(NARROW, len(columns[widest][0]))
        if widths[widest] <= least:
            break
        widths[widest] = max(least, widths[widest] - excess())
    while width is not None and excess() > 0 and (free := [i for i in order if columns[i][0] not in kept]):
        order.remove(free[-1])
    if gone := [cells[0] for i, cells in enumerate(columns) if i not in order]:
        notes.append(
            f"no room for {len(gone)} columns: {', '.join(gone)} (--columns names what is shown, --csv has all)"
        )
    # One format for a whole line: 10,000 lines cell by cell take three times as long.
    line = GAP.join(f"%{'' if _are_numbers(columns[i][1:]) else '-'}{widths[i]}s" for i in order)
    shown = [columns[i] if widths[i] == whole[i] else _cut(columns[i], widths[i]) for i in order]
    return [(line % cells).rstrip() for cells in zip(*shown, strict=True)], notes


def _cut(cells: Sequence[str], width: int) -> list[str]:
    """Cells of at most one width."""
    return [text if len(text) <= width else f"{text[: width - 1]}…" for text in cells]


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether each is a number, or "-" in its place, by how it begins."""
    words = tuple(head for head in {text[:1] for text in cells} if head and not head.isdigit() and head not in "+-.")
    return not words or {text for text in cells if text.startswith(words)} <= {"nan", "inf"}
