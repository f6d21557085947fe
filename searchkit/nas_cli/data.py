"""search-nas data."""

from __future__ import annotations

import click

from searchkit import console
from searchkit.nas_cli.options import seed_of, shared


@click.command("data", context_settings=console.CONTEXT)
@click.argument("kind", type=click.Choice(["toy-det", "digits-det"]))
@click.option("--out", required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--images", nargs=3, type=click.IntRange(1), metavar="TRAIN VAL TEST", help="How many of each split.")
@click.option("--size", nargs=2, type=click.IntRange(32), metavar="H W", default=(128, 128), show_default=True)
@shared("seed", "json")
def data_command(
    kind: str, out: str, images: tuple[int, int, int] | None, size: tuple[int, int], seed: int | None, as_json: bool
) -> None:
    """Make data for object detection in COCO's format: shapes, or real scanned digits on canvases.

    \b
    Examples:
      search-nas data digits-det --out digits
      search-nas data toy-det --out shapes --images 200 50 50 --size 96 96
    """
    from searchkit.data import toy

    make = {"toy-det": toy.make_toy_det, "digits-det": toy.make_digits_det}[kind]
    counts = dict(zip(("train", "val", "test"), images, strict=True)) if images else None
    folder = make(out, images=counts, size=size, seed=seed_of(seed))
    if as_json:
        console.print_json({"out": folder})
    else:
        click.echo(f"{folder}: images/, annotations/instances_{{train,val,test}}.json, SOURCE")
