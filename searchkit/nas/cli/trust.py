"""search-nas trust."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.options import (
    Options,
    device_of,
    ranks_of,
    recipe_of,
    save_picture,
    say,
    shared,
    show_kept,
    takes,
)
from searchkit.nas.cli.progress import Reporter
from searchkit.nas.subnet.records import folder_name
from searchkit.nas.train.memory import memory_advice, require_memory

# One hue from light to dark, told apart by form, too: for any colour vision, and in print.
SHADES, FORMS = ("#9ecae1", "#4292c6", "#08519c", "#041f4a"), "os^Dv<>p"
NAMES = {"raw": "raw", "calibrated": "calibrated", "macs": "MACs"}


@dataclass(frozen=True)
class Trust(Options):
    config: str
    checkpoint: str
    n: int
    bins: int
    epochs: float | None
    steps: int | None
    out: str
    work_dir: str
    split: str | None
    png: str | None


@click.command("trust", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--n", default=12, show_default=True, type=click.IntRange(2), help="Archs to compare.")
@click.option(
    "--bins",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Bins of MACs with equally many archs of the space: within each there is a tau, too.",
)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Of each own training.  [default: see --steps]")
@click.option(
    "--steps", type=click.IntRange(1), help="Of each own training.  [default: a quarter of those of the train section]"
)
@click.option(
    "--out",
    default="trust.jsonl",
    show_default=True,
    metavar="FILE",
    help="Results; what is in it is not done again, nor an own training for another supernet.",
)
@click.option(
    "--work-dir", default="trust", show_default=True, metavar="DIR", help="One folder with a checkpoint an arch."
)
@shared("split")
@click.option("--png", metavar="FILE", help="Own score over calibrated score, as a picture.")
@shared("checkpoint", "set", "seed", "device", "json")
@takes(Trust)
def trust_command(asked: Trust) -> None:
    """How well a supernet's scores rank archs: n of them are trained on their own, from new weights, and compared.

    The archs are drawn at random, equally many of each bin of MACs. Kendall's tau-b with their own scores is told for
    the supernet's raw scores, for those with batch-norm statistics calibrated, and for plain MACs, which a supernet
    must beat. A killed comparison goes on; with a larger --n the archs so far are kept.

    \b
    Examples:
      search-nas trust cfg.yaml --checkpoint work/latest.pth --n 12 --png trust.png
      search-nas trust cfg.yaml --checkpoint work/latest.pth --n 24 --epochs 5
      search-nas trust cfg.yaml --checkpoint other/latest.pth --out trust.jsonl   # own trainings are kept
    """
    if asked.epochs is not None and asked.steps is not None:
        raise UsageError("--epochs and --steps exclude each other")
    if asked.n < 2 * asked.bins:
        hint = "Take more archs, or fewer bins"
        raise UsageError(f"--n must be at least two archs for each of the {asked.bins} bins, not {asked.n}", hint)
    recipe = recipe_of(asked.config, asked.overrides)
    from searchkit.nas.facts import trust_facts
    from searchkit.nas.subnet import sweep, trust
    from searchkit.nas.subnet.results import open_results
    from searchkit.nas.train import checkpoint as checkpoints

    ranks, device = ranks_of(), device_of(asked.device)
    require_memory(recipe, [(recipe.space.minimum(), recipe.scales[0])], recipe.test.batch_size, device)
    keep = checkpoints.keep_folder(asked.work_dir)
    with memory_advice("train"):
        session = sweep.open_session(
            recipe,
            asked.checkpoint,
            split=asked.split,
            device=device,
            seed=asked.seed_used,
            tune=False,
            say=say if ranks.first else lambda _: None,
        )
        own = trust.open_own(recipe, asked.epochs, asked.steps)
        drawn = trust.draw(recipe, session.config, asked.n, asked.bins, asked.seed_used)
        records = [trust.record_of(d, recipe.scales[0]) for d in drawn]
        results = open_results(asked.out, trust.CALIBRATED, ranks.first)
        results.keep_calibration(session.bench.calibration)
        known = trust.Known(results)
        protocols = [trust.protocols(session, own, record) for record in records]
        ours = [i for i in range(len(drawn)) if i % ranks.world == ranks.rank]
        todo = [i for i in ours if known.whole(records[i], protocols[i]) is None]
        if ranks.first:
            _say_plan(len(drawn), asked, len(ours) - len(todo), own.steps)
        for k, i in enumerate(todo, 1):
            folder = os.path.join(keep, folder_name(records[i], drawn[i].arch, recipe))
            with Reporter(f"own {k}/{len(todo)} {drawn[i].arch.id}", None) as reporter:
                compared = trust.compare(session, own, records[i], drawn[i].arch, known, folder, reporter.step)
            results.add(compared)
            known.add(compared)
            say(f"{k}/{len(todo)} {drawn[i].arch.id}: {_scores(compared, recipe)}")
    if not ranks.first:
        return
    show_kept(keep, asked.work_dir)
    results.read()  # what the other ranks have measured by now; the last one is seen by running it again
    known = trust.Known(results)
    metric = recipe.task.objective.record_name(recipe.data, recipe.metric)
    ended = [(d, known.whole(r, p)) for d, r, p in zip(drawn, records, protocols, strict=True)]
    there = [(d, r) for d, r in ended if r is not None]
    if len(there) < len(drawn):
        say(f"{len(there)} of {len(drawn)} archs are compared yet: run it again when the other processes have ended")
    rows = [trust.row_of(r, d, metric) for d, r in there]
    report = {"metric": metric, "steps": own.steps, "split": session.bench.split, **trust.report(rows)}
    picture = asked.png if asked.png and _picture(asked.png, rows, report) else None
    if asked.as_json:
        console.print_json(trust_facts(report, [r for _, r in there], asked.out, picture))
        return
    _print(report, rows, [d.arch for d, _ in there], recipe)
    click.echo(f"results: {asked.out}" + (f"  picture: {picture}" if picture else ""))


def _say_plan(drawn: int, asked: Trust, done: int, steps: int) -> None:
    if drawn < asked.n:
        say(f"the space has {drawn} archs, not {asked.n}: all of them are compared")
    there = f"; {done} are in {asked.out} already" if done else ""
    say(f"{drawn} archs, each trained on its own for {steps} steps{there}")


def _scores(record: Mapping[str, Any], recipe: Any) -> str:
    """The three scores in one line."""
    from searchkit.nas.subnet import trust

    name = recipe.task.objective.record_name(recipe.data, recipe.metric)
    tags = {"raw": trust.RAW, "calibrated": trust.CALIBRATED, "own": trust.OWN}
    return "  ".join(f"{label} {record['metric'][tag][name]:.3f}" for label, tag in tags.items())


def _print(report: Mapping[str, Any], rows: Sequence[Any], archs: Sequence[Any], recipe: Any) -> None:
    """The archs, the taus and the verdict as tables that fit the terminal."""
    from rich.table import Table

    from searchkit.nas.cli.records import human, short

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arch", "MACs", "bin", "raw", "calibrated", "own"):
        table.add_column(name, justify="left" if name == "arch" else "right", no_wrap=True)
    for row, arch in zip(rows, archs, strict=True):
        scores = (f"{v:.3f}" for v in (row.raw, row.calibrated, row.own))
        table.add_row(short(arch, recipe.space), human(row.macs), str(row.bin + 1), *scores)
    shown = console.rich_console(200)
    shown.print(table)
    click.echo(f"\nKendall's tau-b with the own {report['metric']} (of {report['steps']} steps):")
    table = Table(box=None, pad_edge=False, header_style="bold")
    bins = report["bins"]
    each = [f"{human(b['macs_min'])}..{human(b['macs_max'])} ({b['archs']})" for b in bins] if len(bins) > 1 else []
    for name in ("", "all", "p", *each, *(("mean of bins", "p") if each else ())):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, shown_as in NAMES.items():
        tau = report["tau"][name]
        within = [*tau["within"], tau["within_mean"], tau["within_p"]] if each else []
        table.add_row(shown_as, *map(_number, (tau["all"], tau["p"], *within)))
    shown.print(table)
    click.echo(f"\n{report['why']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _picture(path: str, rows: Sequence[Any], report: Mapping[str, Any]) -> bool:
    """Own score over calibrated score; False where there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("no picture: it needs matplotlib (pip install 'searchkit[nas]')")
        return False
    from searchkit.nas.cli.records import human

    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    numbers = sorted({row.bin for row in rows})
    for i, (b, part) in enumerate(zip(numbers, report["bins"], strict=True)):
        some = [row for row in rows if row.bin == b]
        shade = SHADES[i * (len(SHADES) - 1) // max(1, len(numbers) - 1)]
        axes.scatter(
            [row.calibrated for row in some],
            [row.own for row in some],
            c=shade,
            marker=FORMS[i % len(FORMS)],
            edgecolors="black",
            linewidths=0.6,
            label=f"{human(part['macs_min'])} to {human(part['macs_max'])} MACs",
        )
    metric, tau = report["metric"], report["tau"]["calibrated"]
    axes.set_xlabel(f"{metric} with the supernet's weights, calibrated")
    axes.set_ylabel(f"{metric} after {report['steps']} steps on its own")
    axes.set_title(f"tau {_number(tau['all'])} over all, {_number(tau['within_mean'])} within bins", fontsize=10)
    axes.legend(fontsize=8)
    save_picture(figure, path)
    return True
