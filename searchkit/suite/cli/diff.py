"""search-ctl diff: what differs between two jobs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from searchkit import console
from searchkit.errors import NotFoundError, UsageError
from searchkit.suite.cli.choose import JSON, TASK, open_task, refuse_stages, scalars_of

if TYPE_CHECKING:
    pass

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
    from searchkit.suite.facts import changed_files, command_text, compared, is_same
    from searchkit.suite.store import tasks

    if first == second:
        raise UsageError(f"two different jobs are compared, got {first} twice", "Example: search-ctl diff 3 7")
    ws, task = open_task(task_name)
    refuse_stages(task)
    views = {view.job.index: view for view in tasks.view(task).jobs}
    for n in (first, second):
        if n not in views:
            hint = f"It has jobs {min(views)} to {max(views)}" if views else "It has no job yet"
            raise NotFoundError(f"no job {n} in task {task.name!r}", hint)
    a, b = scalars_of(ws, task, tasks.config_of(task), [views[first], views[second]], light=True)
    sections = compared(task, a, b)
    facts_by_kind = _told_apart(sections)
    same = [name for pairs in facts_by_kind.values() for name, pair in pairs.items() if is_same(pair)]
    files = changed_files(task, a, b)
    commands = [command_text(entry.view.job.command) for entry in (a, b)]
    if as_json:
        differing = {t: {name: list(p) for name, p in pairs.items() if not is_same(p)} for t, pairs in sections.items()}
        facts = {"task": task.name, "jobs": [first, second], "differ": differing, "same": same}
        console.print_json({**facts, "changed_files": files, "commands": commands})
        return
    lines = [["", f"job {first}", f"job {second}"]]
    every = [fact for pairs in facts_by_kind.values() for fact in pairs.items()]
    lines += [[name, *map(_cell, pair)] for name, pair in every if not is_same(pair)]
    click.echo(tables.aligned(lines))
    if files:
        more = f" … ({len(files)} in all)" if len(files) > SHOWN_FILES else ""
        click.echo(f"files of the code that differ: {', '.join(files[:SHOWN_FILES])}{more}")
    click.echo(f"the same: {', '.join(same) or 'nothing'}")
    if commands[0] != commands[1]:
        click.echo("\n".join(f"command of job {n}: {text}" for n, text in zip((first, second), commands, strict=True)))


def _told_apart(sections: dict[str, dict[str, Pair]]) -> dict[str, dict[str, Pair]]:
    """The same facts; a name that is an argument's and a scalar's, say, is written as `table` has it: `param.lr`."""
    times = Counter(name for pairs in sections.values() for name in pairs)
    return {
        title: {f"{PREFIX.get(title, '')}{name}" if times[name] > 1 else name: pair for name, pair in pairs.items()}
        for title, pairs in sections.items()
    }


def _cell(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) <= CELL:
        return text
    return f"…{text[1 - CELL :]}" if text.startswith("/") else f"{text[: CELL - 1]}…"  # paths differ at their ends
