"""search-ctl diff: what differs between two jobs."""

from __future__ import annotations

import filecmp
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from searchkit import console
from searchkit.errors import NotFoundError, SearchkitError, UsageError
from searchkit.suite.cli.choose import JSON, TASK, open_task, refuse_stages, scalars_of
from searchkit.suite.workspace import NAME as WORKSPACE

if TYPE_CHECKING:
    from searchkit.suite.store.ranking import JobScalars
    from searchkit.suite.workspace import TaskPaths

SHOWN_FILES = 5
PREFIX = {"args": "param.", "scalars": "scalar."}
CELL = 40  # characters of a value in the table; --json has all
Pair = tuple[Any, Any]


@click.command()
@click.argument("first", metavar="J1", type=click.IntRange(0))
@click.argument("second", metavar="J2", type=click.IntRange(0))
@TASK
@JSON
def diff(first: int, second: int, task_name: str, as_json: bool) -> None:
    """What differs between two jobs: arguments, code, what they reported last, how long they took, how they ended.

    \b
    Example:
      search-ctl diff 3 7 --task lr-sweep
    """
    from searchkit.suite.cli import tables
    from searchkit.suite.store import tasks

    if first == second:
        raise UsageError(f"two different jobs are compared, got {first} twice", "Example: search-ctl diff 3 7")
    ws, task = open_task(task_name)
    refuse_stages(task)
    views = {view.job.index: view for view in tasks.view(task).jobs}
    for n in (first, second):
        if n not in views:
            have = f"It has jobs {min(views)} to {max(views)}" if views else "It has no job yet"
            raise NotFoundError(f"no job {n} in task {task.name!r}", have)
    a, b = scalars_of(ws, task, tasks.config_of(task), [views[first], views[second]], light=True)
    sections = compare(task, a, b)
    told = _told_apart(sections)
    same = [name for pairs in told.values() for name, pair in pairs.items() if _same(pair)]
    files = _changed_files(task, a, b)
    commands = [tables.command_text(each.view.job.command) for each in (a, b)]
    if as_json:
        found = {t: {name: list(p) for name, p in pairs.items() if not _same(p)} for t, pairs in sections.items()}
        facts = {"task": task.name, "jobs": [first, second], "differ": found, "same": same}
        console.print_json({**facts, "changed_files": files, "commands": commands})
        return
    lines = [["", f"job {first}", f"job {second}"]]
    lines += [[name, *map(_cell, pair)] for pairs in told.values() for name, pair in pairs.items() if not _same(pair)]
    click.echo(tables.aligned(lines))
    if files:
        more = f" … ({len(files)} in all)" if len(files) > SHOWN_FILES else ""
        click.echo(f"files of the code that differ: {', '.join(files[:SHOWN_FILES])}{more}")
    click.echo(f"the same: {', '.join(same) or 'nothing'}")
    if commands[0] != commands[1]:
        click.echo("\n".join(f"command of job {n}: {text}" for n, text in zip((first, second), commands, strict=True)))


def compare(task: TaskPaths, a: JobScalars, b: JobScalars) -> dict[str, dict[str, Pair]]:
    """Every fact of two jobs side by side, by kind: None where one has it not."""
    return {
        "args": _side_by_side(*({name: text for name, text in each.view.job.text.items()} for each in (a, b))),
        "code": _side_by_side(*(_code(task, each) for each in (a, b))),
        "scalars": _side_by_side(*(_last(each) for each in (a, b))),
        "run": _side_by_side(*(_run(each) for each in (a, b))),
    }


def _told_apart(sections: dict[str, dict[str, Pair]]) -> dict[str, dict[str, Pair]]:
    """The same facts; a name that is an argument's and a scalar's, say, is written as `table` has it: `param.lr`."""
    times = Counter(name for pairs in sections.values() for name in pairs)
    return {
        title: {f"{PREFIX.get(title, '')}{name}" if times[name] > 1 else name: pair for name, pair in pairs.items()}
        for title, pairs in sections.items()
    }


def _side_by_side(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Pair]:
    return {name: (a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))}


def _same(pair: Pair) -> bool:
    a, b = pair
    return bool(a == b or (a != a and b != b))  # NaN is NaN here


def _code(task: TaskPaths, each: JobScalars) -> dict[str, Any]:
    from searchkit import fsio

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


def _last(each: JobScalars) -> dict[str, Any]:
    return dict(sorted(each.last().items()))


def _run(each: JobScalars) -> dict[str, Any]:
    view = each.view
    took = view.end_s - view.start_s if view.start_s is not None and view.end_s is not None else None
    return {
        "status": str(view.state),
        "exit code": view.exit_code,
        "duration (s)": None if took is None else round(took, 3),
        "attempt": view.job.attempt,
    }


def _changed_files(task: TaskPaths, a: JobScalars, b: JobScalars) -> list[str]:
    """The files that differ between the snapshots of two jobs."""
    from searchkit.suite.store import snapshot

    one, other = (task.snapshot(each.view.job.snapshot) for each in (a, b))
    if one == other:
        return []
    try:
        first, second = snapshot.load(one), snapshot.load(other)
    except SearchkitError:  # damaged: fsck tells
        return []
    then, now = ({e.path: (e.kind, e.size, e.target) for e in manifest.entries} for manifest in (first, second))
    found = []
    for path in sorted(then.keys() | now.keys()):
        if then.get(path) != now.get(path):
            found.append(path)
        elif then[path][0] == "file":
            try:
                same = filecmp.cmp(
                    f"{one.root}/{first.name}/{path}", f"{other.root}/{second.name}/{path}", shallow=False
                )
            except OSError:
                same = False
            found += [] if same else [path]
    return found


def _cell(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) <= CELL:
        return text
    return f"…{text[1 - CELL :]}" if text.startswith("/") else f"{text[: CELL - 1]}…"  # paths differ at their ends
