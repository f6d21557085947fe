"""search-nas data."""

from __future__ import annotations

import click

from searchkit import console
from searchkit.nas.cli.options import seed_of, shared

_KINDS = ("toy-det", "digits-det", "toy-cls", "digits-cls")


@click.command("data", context_settings=console.CONTEXT)
@click.argument("kind", type=click.Choice(_KINDS))
@click.option("--out", required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--images", nargs=3, type=click.IntRange(1), metavar="TRAIN VAL TEST", help="How many of each split.")
@click.option(
    "--size",
    nargs=2,
    type=click.IntRange(32),
    metavar="H W",
    help="Of each image, px.  [default: 128 128; toy-cls 48 48, digits-cls 32 32]",
)
@shared("seed", "json")
def data_command(
    kind: str,
    out: str,
    images: tuple[int, int, int] | None,
    size: tuple[int, int] | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Make data: drawn shapes, or real scanned digits; for object detection in COCO's format (-det), or for
    classification as class folders (-cls).

    \b
    Examples:
      search-nas data digits-det --out digits
      search-nas data toy-det --out shapes --images 200 50 50 --size 96 96
      search-nas data toy-cls --out figures
    """
    from searchkit.nas.data import toy, toy_cls

    make = {
        "toy-det": toy.make_toy_det,
        "digits-det": toy.make_digits_det,
        "toy-cls": toy_cls.make_toy_cls,
        "digits-cls": toy_cls.make_digits_cls,
    }[kind]
    counts = dict(zip(("train", "val", "test"), images, strict=True)) if images else None
    given = {"size": size} if size else {}
    folder = make(out, images=counts, seed=seed_of(seed), **given)
    if as_json:
        console.print_json({"out": folder})
    elif kind.endswith("cls"):
        click.echo(f"{folder}: {{train,val,test}}/<class>/*.png, SOURCE.txt")
    else:
        click.echo(f"{folder}: images/, annotations/instances_{{train,val,test}}.json, SOURCE.txt")
