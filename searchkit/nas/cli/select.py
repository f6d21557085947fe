"""search-nas select."""

from __future__ import annotations

from collections.abc import Sequence

import click

from searchkit import console, fsio
from searchkit.errors import UsageError
from searchkit.nas.cli.options import say, seed_of, shared
from searchkit.records import modelspace
from searchkit.records.rules import Stage


@click.command("select", context_settings=console.CONTEXT)
@click.argument("space")
@click.option("--rules", "rules_path", required=True, metavar="FILE", help="The rules (YAML).")
@click.option("--out", metavar="FILE", help="Where the picked records go (JSON lines).")
@click.option("--dry-run", is_flag=True, help="Print the rows after every stage; write nothing.")
@shared("seed", "json")
def select_command(
    space: str, rules_path: str, out: str | None, dry_run: bool, seed: int | None, as_json: bool
) -> None:
    """Pick records of the file SPACE by rules.

    \b
    Examples:
      search-nas select flops.jsonl --rules rules.yaml --out picked.jsonl
      search-nas select flops.jsonl --rules rules.yaml --dry-run
    """
    from searchkit.nas.cli.records import choose, print_table

    if not out and not dry_run:
        raise UsageError("nowhere to write", "Give --out FILE, or --dry-run to look at the stages alone")
    records = modelspace.load(space)
    outcome = choose(rules_path, records, seed_of(seed))
    for note in outcome.notes:
        say(note)
    if out and not dry_run:
        with fsio.storage():
            fsio.atomic_write(out, "".join(modelspace.dumps(record) + "\n" for record in outcome.records))
    if as_json:
        console.print_json(outcome.records)
        return
    if dry_run:
        _print_stages(outcome.stages, len(records))
    print_table(outcome.records)
    click.echo(f"{len(outcome.records)} of {len(records)} records" + (f": {out}" if out and not dry_run else ""))


def _print_stages(stages: Sequence[Stage], total: int) -> None:
    click.echo(f"{'stage':50} groups  rows")
    click.echo(f"{'(all)':50} {1:6d}  {total}")
    for stage in stages:
        rows = ", ".join(map(str, stage.after[:12])) + (", …" if len(stage.after) > 12 else "")
        click.echo(
            f"{stage.label[:50]:50} {len(stage.after):6d}  {sum(stage.after)}"
            + (f"  ({rows})" if len(stage.after) > 1 else "")
        )
