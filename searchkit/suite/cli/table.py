"""search-ctl table: one row a job, of one task or of several; chosen, ordered, cut to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.suite.cli.choose import JOBS, JSON

if TYPE_CHECKING:
    from searchkit.suite.cli.table_rows import Part


@click.command()
@click.option("--task", "task_names", default="default", show_default=True, help="A task, or several: a,b.")
@JOBS
@click.option("--sort", metavar="KEY", help="Order by this column, lowest first; -KEY: highest first.")
@click.option("--where", metavar="EXPR", help="Only rows for which this holds: \"acc > 0.9 and state == 'finished'\".")
@click.option("--columns", metavar="A,B,…", help="These columns in place of those that are shown by default.")
@click.option("--top", type=click.IntRange(1), help="The first so many rows; without --sort, the best.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, with all columns in full.")
@JSON
def table(
    task_names: str,
    jobs: str | None,
    sort: str | None,
    where: str | None,
    columns: str | None,
    top: int | None,
    as_csv: bool,
    as_json: bool,
) -> list[Part]:
    """Jobs as a table: state, the arguments that vary, objectives (else all scalars), time.

    Columns, keys and expressions name arguments and scalars (the last value), and: task, job, state, time (seconds),
    attempt, exit_code, start, end, reason, command, run_path. Where names clash: param.X, score.X, scalar.X; min.X and
    max.X are the lowest and the highest finite value of a scalar. Rows without a value, or with none that is finite,
    come last.

    \b
    Examples:
      search-ctl table --task lr-sweep --sort -acc --top 10
      search-ctl table --task a,b --where "lr < 0.1 and state == 'finished'" --columns job,lr,acc,max.acc
    """
    from searchkit.reading import expression
    from searchkit.suite.cli import table_rows

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other", "Give one of them")
    listed = [name.strip() for name in columns.split(",") if name.strip()] if columns else []
    key, descending = ((sort or "").removeprefix("-"), (sort or "").startswith("-"))
    parts = table_rows.find(task_names, jobs)
    test = expression.parse(where, table_rows.arguments(parts)) if where else None
    needed = [*listed, *([key] if key else []), *(test.names if test else ())]
    rows = table_rows.gather(parts, needed, where or "")
    several = len({row.task.name for row in rows}) > 1
    shown = listed or table_rows.default_columns(rows, several)
    total = len(rows)
    if test is not None:
        rows = table_rows.chosen(rows, test)
    order: Sequence[int] = range(len(rows))
    if key:
        order = table_rows.ordered(rows, key, descending)
    elif top:
        order = table_rows.best_first(rows, top)
    rows, order = table_rows.taken(rows, order[:top])
    if key and key not in shown and not listed:
        shown.append(key)
    if as_json:
        by_name = {name: table_rows.column(rows, name) for name in shown}
        body = [dict(zip(by_name, cells, strict=True)) for cells in zip(*by_name.values(), strict=True)]
        in_order = [body[at] for at in order]
        console.print_json({"tasks": task_names.split(","), "columns": shown, "rows": in_order})
        return parts
    if as_csv:
        click.echo(table_rows.to_csv(rows, order, shown), nl=False)
        return parts
    (head, *lines), notes = table_rows.fit(
        [[name, *table_rows.texts(rows, name)] for name in shown], console.width(), {"task", "job", key, *listed[:1]}
    )
    click.echo("\n".join([head, *(lines[at] for at in order)]))
    if len(rows) < total:
        click.echo(f"{len(rows)} of {total} rows", err=True)
    for note in notes:
        click.echo(note, err=True)
    return parts  # for console.run to keep: see leave_at_once
