"""search-nas flops."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import click

from searchkit import console, fsio
from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.cli.options import save_picture, say, seed_of, shared
from searchkit.nas.cost.rules import CONVENTIONS, METERS, Convention
from searchkit.records import modelspace


@click.command("flops", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--out", required=True, metavar="FILE", help="Records (JSON lines); a file that was cut short goes on.")
@click.option("--records", "records_path", metavar="FILE", help="Price these records instead of the whole space.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Price N random points of the space.")
@click.option(
    "--range",
    "within",
    nargs=2,
    metavar="LOW HIGH",
    help="Of --sample: points that cost so much: 20G 40G.",
)
@click.option(
    "--meter", metavar="NAME", help="What --range and --png go by: params, ms or another of meters:.  [default: MACs]"
)
@click.option(
    "--parts", is_flag=True, help="With --sample or --records: also of backbone, neck and head, as overhead.parts."
)
@click.option("--png", metavar="FILE", help="Cost and parameters of the points, as a picture.")
@click.option(
    "--convention",
    type=click.Choice(CONVENTIONS),
    default="macs",
    show_default=True,
    help="macs: multiply-adds of conv and linear. gaia: as the GAIA tools count. ptflops: as mmrazor's zoo does, with "
    "norms, activations and pools.",
)
@click.option(
    "--beside",
    type=click.Choice(CONVENTIONS),
    multiple=True,
    help="Another convention, whose count is written as overhead.<its name>; several times for several.",
)
@shared("set", "seed", "json")
def flops_command(
    config: str,
    out: str,
    records_path: str | None,
    sample: int | None,
    within: tuple[str, str] | None,
    meter: str | None,
    parts: bool,
    png: str | None,
    convention: Convention,
    beside: tuple[Convention, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Write the cost of every point of the space: one record a line, first dimension slowest, input shapes fastest.

    All of a network is counted on an image of exactly the input shape (S means S x S), but for a RoI head, which is
    counted on 1,000 boxes, or as many as head.proposals says.

    \b
    Examples:
      search-nas flops cfg.yaml --out flops.jsonl
      search-nas flops cfg.yaml --out flops.jsonl --convention gaia
      search-nas flops cfg.yaml --out flops.jsonl --beside ptflops
      search-nas flops cfg.yaml --out some.jsonl --sample 1000
      search-nas flops cfg.yaml --out some.jsonl --sample 100 --range 20G 40G --parts --png some.png
      search-nas flops cfg.yaml --out some.jsonl --sample 100 --range 5 8 --meter ms --set meters.ms=table.json
    """
    from searchkit.nas.cli.priced import pricing, timing
    from searchkit.nas.cli.records import read
    from searchkit.nas.cost.price import meters_with, read_meters
    from searchkit.nas.cost.write import write_space
    from searchkit.nas.facts import flops_facts
    from searchkit.nas.subnet.records import checked
    from searchkit.nas.tasks import read as configs

    if records_path and sample:
        raise UsageError("--records and --sample exclude each other")
    if within and not sample:
        raise UsageError(
            "--range needs --sample N",
            "Of a table of the whole space, rules pick a range: search-nas select, `where: overhead.flops <= 40G`",
        )
    if parts and not (records_path or sample):
        raise UsageError("--parts needs --sample N or --records FILE", "Of a whole space the table would be too large")
    recipe = configs.load(config, overrides)
    if meter and not (within or png):
        raise UsageError("--meter is for --range and --png, of which neither is given")
    meter = meter or convention
    _check_meter(meter, convention, recipe.meters, beside, bool(png))
    plan_of, tables = pricing(recipe), timing(recipe)
    meters = meters_with(tables)
    began = time.monotonic()
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    if records_path or sample:
        if records_path:
            records = read(records_path)
        elif within:

            def cost_of(arch: Any, shape: Any) -> float:
                cost: float = read_meters(plan_of, arch, shape, (meter,), meters)[meter]
                return cost

            records = _within(recipe, sample or 0, seed_of(seed), within, meter, cost_of)
        else:
            records = _sampled(recipe, sample or 0, seed_of(seed))
        pairs = zip(*checked(records, recipe), strict=True)
        priced = [_priced(recipe, record, arch, plan_of, convention, beside, parts, tables) for record, arch in pairs]
        with fsio.storage():
            fsio.atomic_write(out, "".join(modelspace.dumps(r) + "\n" for r in priced))
        count, fresh = len(priced), len(priced)
    else:
        count = recipe.space.points()
        fresh = write_space(out, plan_of, recipe.space, convention, beside=tuple(dict.fromkeys(beside)), tables=tables)
    seconds = time.monotonic() - began
    if as_json:
        console.print_json(flops_facts(out, count, fresh, seconds, convention))
    else:
        kept = f" ({count - fresh:,} were there)" if fresh < count else ""
        click.echo(f"{out}: {console.counted(count, 'record')}{kept}, convention {convention}, {seconds:.1f} s")
    if png:
        _picture(png, modelspace.load(out), convention, meter)
        say(f"picture: {png}")


def _sampled(recipe: Any, n: int, seed: int) -> list[dict[str, Any]]:
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.seeds import rng_of

    rng = rng_of(seed, "flops")
    scales = recipe.scales
    return [
        {"arch": recipe.space.sample(rng).nested(), "data": {"input_shape": plain_shape(rng.choice(scales))}}
        for _ in range(n)
    ]


def _check_meter(name: str, convention: str, tables: Collection[str], beside: Collection[str], drawn: bool) -> None:
    """Raises UsageError for a meter that there is not, and for one to be drawn that records don't have."""
    known = (*METERS, *tables)
    if name not in known:
        hint = "" if tables else "Milliseconds come from a table: search-nas latency, and meters: of the config"
        raise UsageError(f"--meter: there is no meter {name!r}{did_you_mean(name, known)}", hint)
    if drawn and name not in (convention, "params", *tables, *beside):
        raise UsageError(f"--png by --meter {name}: records don't have it", f"Write it, too: --beside {name}")


def _within(recipe: Any, n: int, seed: int, within: tuple[str, str], meter: str, cost_of: Any) -> list[dict[str, Any]]:
    """Random points whose cost is within a range."""
    from searchkit.nas.cost.sample import Range, sample_points
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.seeds import rng_of

    rng = rng_of(seed, "flops", "within")
    unit = "" if meter in CONVENTIONS else f" {meter}"
    points, drawn = sample_points(recipe.space, recipe.scales, n, rng, Range.of(within, unit), cost_of)
    say(f"{len(points):,} of {drawn:,} random points cost {' to '.join(within)}{unit}")
    return [{"arch": arch.nested(), "data": {"input_shape": plain_shape(shape)}} for arch, shape in points]


class _Axis(NamedTuple):
    """What a meter is in records, and in a picture."""

    key: str
    unit: float
    title: str


def _axis(meter: str, convention: str) -> _Axis:
    if meter == "params":
        return _Axis(meter, 1e6, "parameters, millions")
    if meter not in CONVENTIONS:
        return _Axis(meter, 1.0, meter)
    return _Axis(
        "flops" if meter == convention else meter, 1e9, f"{'GMACs' if meter == 'macs' else 'GFLOPs'} ({meter})"
    )


def _picture(path: str, records: Sequence[dict[str, Any]], convention: str, meter: str) -> None:
    """Parameters over what a meter says, or over it MACs where it counts parameters; a colour for each input shape."""
    from matplotlib.figure import Figure

    from searchkit.nas.space.shapes import shape_text

    shapes: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        shapes.setdefault(shape_text(modelspace.edge(record["data"]["input_shape"])), []).append(record["overhead"])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    x, y = (_axis(name, convention) for name in (meter, convention if meter == "params" else "params"))
    for shape, costs in shapes.items():
        axes.scatter([c[x.key] / x.unit for c in costs], [c[y.key] / y.unit for c in costs], s=8, label=shape)
    axes.set_xlabel(x.title)
    axes.set_ylabel(y.title)
    axes.legend(title="input shape", fontsize=7, title_fontsize=7)
    save_picture(figure, path)


def _priced(
    recipe: Any,
    record: dict[str, Any],
    arch: Any,
    plan_of: Any,
    convention: Any,
    beside: Any,
    parts: bool,
    tables: Any,
) -> dict[str, Any]:
    from searchkit.nas.cost.price import of_tables, plain_cost, price, price_parts, read_meters
    from searchkit.nas.space.shapes import height_width, plain_shape
    from searchkit.nas.subnet.records import shape_of

    shape = shape_of(record, recipe)
    cost = price(plan_of, arch, shape, convention)
    overhead = {**record.get("overhead", {}), "flops": cost.flops, "params": cost.params, "convention": convention}
    overhead |= read_meters(plan_of, arch, shape, beside) | of_tables(tables, plan_of, arch, shape)
    if parts:
        of_parts = price_parts(plan_of, arch, shape, convention)
        shares = {part: {"flops": c.flops, "params": c.params} for part, c in of_parts.items()}
        for name, table in tables.items():
            times = price_parts(plan_of, arch, shape, table)
            for part, cost in times.items():
                shares[part][name] = plain_cost(cost.flops)
            shares.setdefault("rest", {})[name] = plain_cost(sum(table.begin((height_width(shape),))))
        overhead["parts"] = shares
    data = {**record.get("data", {})}
    data.setdefault("input_shape", plain_shape(shape))
    return {**record, "overhead": overhead, "data": data}
