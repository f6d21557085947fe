"""search-nas flops."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import UsageError
from searchkit.nas.cli.options import seed_of, shared
from searchkit.nas.cost.rules import CONVENTIONS, Convention
from searchkit.records import modelspace


@click.command("flops", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--out", required=True, metavar="FILE", help="Records (JSON lines); a file that was cut short goes on.")
@click.option("--records", "records_path", metavar="FILE", help="Price these records instead of the whole space.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Price N random points of the space.")
@click.option(
    "--convention",
    type=click.Choice(CONVENTIONS),
    default="macs",
    show_default=True,
    help="macs: multiply-adds of conv and linear. gaia: as the GAIA tools count. ptflops: as mmrazor's zoo does, with "
    "norms, activations and pools.",
)
@shared("set", "seed", "json")
def flops_command(
    config: str,
    out: str,
    records_path: str | None,
    sample: int | None,
    convention: Convention,
    overrides: tuple[str, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Write the cost of every point of the space: one record a line, first dimension slowest, input shapes fastest.

    Backbone, FPN and RPN are counted on an image of exactly the input shape (S means S x S), the RoI head on 1,000
    boxes.

    \b
    Examples:
      search-nas flops cfg.yaml --out flops.jsonl
      search-nas flops cfg.yaml --out flops.jsonl --convention gaia
      search-nas flops cfg.yaml --out some.jsonl --sample 1000
    """
    from searchkit.nas.cli.priced import pricing
    from searchkit.nas.cli.records import read
    from searchkit.nas.cost.write import write_space
    from searchkit.nas.facts import flops_facts
    from searchkit.nas.subnet.sweep import checked
    from searchkit.nas.tasks import read as configs

    if records_path and sample:
        raise UsageError("--records and --sample exclude each other")
    recipe = configs.load(config, overrides)
    plan_of = pricing(recipe)
    began = time.monotonic()
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    if records_path or sample:
        records = read(records_path) if records_path else _sampled(recipe, sample or 0, seed_of(seed))
        pairs = zip(*checked(records, recipe), strict=True)
        priced = [_priced(recipe, record, arch, plan_of, convention) for record, arch in pairs]
        with fsio.storage():
            fsio.atomic_write(out, "".join(modelspace.dumps(r) + "\n" for r in priced))
        count, fresh = len(priced), len(priced)
    else:
        count = recipe.space.points()
        fresh = write_space(out, plan_of, recipe.space, convention)
    seconds = time.monotonic() - began
    if as_json:
        console.print_json(flops_facts(out, count, fresh, seconds, convention))
    else:
        kept = f" ({count - fresh:,} were there)" if fresh < count else ""
        click.echo(f"{out}: {console.counted(count, 'record')}{kept}, convention {convention}, {seconds:.1f} s")


def _sampled(recipe: Any, n: int, seed: int) -> list[dict[str, Any]]:
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.seeds import rng_of

    rng = rng_of(seed, "flops")
    scales = recipe.scales
    return [
        {"arch": recipe.space.sample(rng).nested(), "data": {"input_shape": plain_shape(rng.choice(scales))}}
        for _ in range(n)
    ]


def _priced(recipe: Any, record: dict[str, Any], arch: Any, plan_of: Any, convention: Any) -> dict[str, Any]:
    from searchkit.nas.cost.price import price
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.subnet.sweep import shape_of

    shape = shape_of(record, recipe)
    cost = price(plan_of, arch, shape, convention)
    overhead = {**record.get("overhead", {}), "flops": cost.flops, "params": cost.params, "convention": convention}
    data = {**record.get("data", {})}
    data.setdefault("input_shape", plain_shape(shape))
    return {**record, "overhead": overhead, "data": data}
