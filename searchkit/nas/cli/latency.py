"""search-nas latency: how long the rows of a space take on a device, as a table that prices archs in ms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console
from searchkit.nas.cli.options import Options, input_shape_of, recipe_of, say, shared, takes
from searchkit.nas.cost.latency import FEW

RUNTIMES = ("eager", "onnxruntime")
SHOWN = 0.05  # of a network's time: groups of rows with less are not told


@dataclass(frozen=True, kw_only=True)
class Latency(Options):
    config: str
    runtime: str
    threads: int
    shapes: tuple[str, ...]
    nets: int
    pause: float
    checkpoint: str | None
    out: str


@click.command("latency", context_settings=console.CONTEXT)
@click.argument("config")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="onnxruntime",
    show_default=True,
    help="eager: torch, as it trains. onnxruntime: the exported network.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Of a CPU.")
@click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="S|H,W",
    help="Input shape, one or several.  [default: all of the space]",
)
@click.option(
    "--nets",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Whole networks that the sums are held against; 0: none, then a sum lacks what is no row.",
)
@click.option(
    "--pause",
    type=click.FloatRange(0),
    default=0.02,
    show_default=True,
    metavar="SECONDS",
    help="Between measurements.",
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="The supernet's weights, on which the time behind the layers depends.  [default: new weights]",
)
@click.option("--out", required=True, metavar="FILE", help="The table; one that is there gets the rows that it lacks.")
@shared("set", "seed", "device", "json")
@takes(Latency)
def latency_command(asked: Latency) -> None:
    """Measure each row of the space once, at each size that it runs at, on this machine: a table of times.

    The time of an arch is the sum of its rows, and what is no row, for its input shape. Whole networks say how far such
    sums are off. With `meters: {ms: table.json}` in a config all verbs that price tell `overhead.ms`, and rules,
    constraints and objectives may name ms. What was measured is kept as it is measured: run the same command again to
    go on.

    \b
    Examples:
      search-nas latency cfg.yaml --device cpu --out cpu.json
      search-nas latency cfg.yaml --device cpu --runtime eager --threads 2 --out eager.json
      search-nas latency cfg.yaml --device cuda:0 --nets 50 --out gpu.json
    """
    recipe = recipe_of(asked.config, asked.overrides)
    shapes = tuple(input_shape_of(text, recipe.scales) for text in asked.shapes) or recipe.scales
    import torch

    from searchkit.nas.cli.options import device_of
    from searchkit.nas.cli.progress import Progress
    from searchkit.nas.latency import measure as measuring
    from searchkit.nas.latency.device import device_at
    from searchkit.nas.latency.nets import Weights
    from searchkit.nas.space.shapes import height_width
    from searchkit.nas.train.memory import require_memory
    from searchkit.nas.train.recipe import sized
    from searchkit.nas.train.splits import class_names

    device = device_at(asked.device) if asked.device is not None else device_of(None)
    largest = recipe.space.maximum()
    require_memory(recipe, [(largest, height_width(shape)) for shape in shapes], 1, device)
    torch.set_num_threads(asked.threads)
    config = recipe.model if recipe.classes_given else sized(recipe, class_names(recipe))
    weights = Weights(asked.checkpoint)
    request = measuring.Request(
        recipe,
        config,
        asked.runtime,
        device,
        asked.threads,
        shapes,
        asked.nets,
        asked.pause,
        weights,
        asked.seed_used,
    )
    say(f"measuring with {request.on.text()}")
    os.makedirs(os.path.dirname(os.path.abspath(asked.out)), exist_ok=True)
    bars: dict[str, Progress] = {}

    def watch(title: str, done: int, total: int, note: str) -> None:
        if title not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars[title] = Progress(title, total, done).__enter__()
        bars[title].update(done, note)

    try:
        table = measuring.measure(request, asked.out, watch, say)
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)
    if asked.as_json:
        console.print_json({"out": asked.out, **{key: table[key] for key in table if key not in ("rows", "nets")}})
        return
    _print_check(table)
    click.echo(f"{asked.out}: {len(table['rows']):,} rows; in a config: meters: {{ms: {asked.out}}}")


def _print_check(table: Mapping[str, Any]) -> None:
    """How far sums are from whole networks."""
    check, rest = table["check"], table["rest"]
    if not check:
        say("note: no whole network was measured: sums lack what is no row, and nobody knows how far they are off")
        return
    click.echo(f"whole networks: {check['nets']}, {table['whole']}; of these {check['judged_on']} judge the sums")
    for name, text in (("plain", "sums of rows"), ("corrected", "sums of corrected rows")):
        its = check[name]
        ranks = [f"{key} {'none' if its[key] is None else format(its[key], '.3f')}" for key in ("spearman", "tau")]
        line = f"  {text:24} off by {its['error']:.1%} (median), {its['worst']:.1%} (worst); {', '.join(ranks)}"
        click.echo(line + ("  <- used" if name == check["used"] else ""))
    click.echo("  what is no row: " + ", ".join(f"{ms:.3f} ms at {at[0]} x {at[1]}" for at, ms in rest))
    if correction := table["correction"]:
        on_top = [f"{ms * 1000:+.0f} us for each of {group}" for group, ms in correction["on_top"].items()]
        click.echo("  the correction: " + ", ".join([f"rows {correction['factor']:.3f} times", *on_top]))
        groups = sorted(check["groups"].items(), key=lambda item: -abs(item[1]["times"] - 1) * item[1]["share"])
        large = [(group, its) for group, its in groups if its["share"] >= SHOWN]
        told = [f"{group} {its['times']:.2f} times ({its['share']:.0%} of the time)" for group, its in large]
        click.echo("  rows that do not add up take in networks, of their own time: " + ", ".join(told))
    if check["judged_on"] < FEW:
        say(f"note: {check['judged_on']} networks are too few to judge sums by: --nets 20, or more")
    elif not check["holds"]:
        say("the sums miss what is asked of them (a median error below 5 %, a rank correlation above .95):")
        say("  take them to look for archs, and measure the best whole: search-nas test --speed")
