"""search-nas space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from searchkit import console
from searchkit.nas.cli.options import save_picture, say, seed_of, shared

BINS = 24


@click.command("space", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--png", metavar="FILE", help="The histogram as a picture.")
@shared("set", "seed", "json")
def space_command(config: str, png: str | None, overrides: tuple[str, ...], seed: int | None, as_json: bool) -> None:
    """How large the space of CONFIG is, and what its archs cost (MACs: multiply-adds of conv and linear).

    \b
    Examples:
      search-nas space cfg.yaml
      search-nas space cfg.yaml --png macs.png
    """
    from searchkit.nas.cli.priced import pricing
    from searchkit.nas.cli.records import human
    from searchkit.nas.facts import macs_of, space_facts
    from searchkit.nas.tasks import read as configs

    recipe = configs.load(config, overrides)
    for note in recipe.notes:
        say(f"note: {note}")
    space = recipe.space
    plan_of = pricing(recipe)
    macs, whole = macs_of(recipe, plan_of, seed_of(seed))
    facts = space_facts(recipe, plan_of, macs, whole)
    scales, named = recipe.scales, facts["named"]
    if png:
        _picture(png, macs, named)
    if as_json:
        console.print_json(facts)
        return
    for dim in space.dims:
        each = " | ".join(f"{c[0]}..{c[-1]} ({len(c)})" if len(c) > 1 else str(c[0]) for c in dim.choices)
        click.echo(f"{dim.key:26} {each}{_remarks(dim)}")
    click.echo(f"{'data.input_shape':26} {', '.join(map(str, scales))}")
    archs, shapes = console.counted(space.count(), "arch"), console.counted(len(scales), "input shape")
    click.echo(f"\n{archs} x {shapes} = {console.counted(space.count() * len(scales), 'point')}\n")
    click.echo(f"{'arch':8} {'input':>12} {'MACs':>9} {'params':>9}")
    for row in named:
        cost = [human(row[k]) for k in ("macs", "params")]
        click.echo(f"{row['name']:8} {row['input_shape']!s:>12} {cost[0]:>9} {cost[1]:>9}")
    if counted := _on_regions(recipe, plan_of):
        click.echo(counted)
    click.echo(f"\nMACs of {facts['macs_of']}:")
    for line in histogram(macs):
        click.echo(line)
    if png:
        click.echo(f"\npicture: {png}")


def _on_regions(recipe: Any, plans: Any) -> str:
    """How many boxes of an image are counted, where rows of a network run on boxes; and how many it keeps if that is
    another number."""
    from searchkit.nas.cost.price import regions_of
    from searchkit.nas.models.part import HEAD

    least, most = (regions_of(plans, arch) for arch in (recipe.space.minimum(), recipe.space.maximum()))
    if not most:
        return ""
    kept = getattr(plans.head, "regions_kept", None)
    used = most if kept is None else kept(recipe.space.maximum().part(HEAD))
    also = "" if used == most else f", but it keeps {used:,}: `space.head.proposals: {used}` counts these"
    return f"what runs on boxes is counted on {least:,}{f' to {most:,}' if most > least else ''} boxes an image{also}"


def _remarks(dim: Any) -> str:
    """What else is declared of a dimension."""
    words = (dim.slope.text() if dim.ascending else "", dim.strategy or "", "scheduled" if dim.phases else "")
    return "".join(f"  {word}" for word in words if word)


def bins_of(values: Sequence[int]) -> tuple[list[int], float, float]:
    """(how many values in each bin, where the first begins, width of a bin); one bin where all are the same."""
    low, high = min(values), max(values)
    if low == high:
        return [len(values)], low, 1.0
    width = (high - low) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / width))] += 1
    return counts, low, width


def histogram(values: Sequence[int], columns: int = 50) -> list[str]:
    """Lines of a histogram for a terminal."""
    from searchkit.nas.cli.records import human

    counts, low, width = bins_of(values)
    most = max(counts)
    return [
        f"{human(low + i * width):>8} {'█' * round(columns * n / most) or '▏' * min(n, 1)} {n or ''}".rstrip()
        for i, n in enumerate(counts)
    ]


def _picture(path: str, macs: Sequence[int], named: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist([m / 1e9 for m in macs], bins=60, color="0.6", edgecolor="0.4")
    for row in named:
        axes.axvline(row["macs"] / 1e9, color="black", linewidth=0.8, linestyle=":")
        axes.text(
            row["macs"] / 1e9,
            1.01,
            f"{row['name']}@{row['input_shape']}",
            rotation=60,
            fontsize=6,
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xlabel("GMACs (multiply-adds of conv and linear)")
    axes.set_ylabel("points of the space")
    save_picture(figure, path)
