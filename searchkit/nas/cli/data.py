"""search-nas data: data sets of any format, looked at, converted, divided; and toy data made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from searchkit import console
from searchkit.nas.cli.options import seed_of, shared

# verb -> (module, one line)
VERBS: Mapping[str, tuple[str, str]] = {
    "check": ("data_check", "Look at a data set: its format, numbers, faults, twelve images."),
    "convert": ("data_convert", "Write a data set of any format as COCO."),
    "split": ("data_split", "Divide a data set into train, val and test."),
}
# kind -> (module, function, one line)
KINDS: Mapping[str, tuple[str, str, str]] = {
    "toy-det": ("toy", "make_toy_det", "Make drawn shapes, for detection."),
    "digits-det": ("toy", "make_digits_det", "Make scanned digits on canvases, for detection."),
    "toy-cls": ("toy_cls", "make_toy_cls", "Make drawn figures, for classification."),
    "digits-cls": ("toy_cls", "make_digits_cls", "Make scanned digits, for classification."),
}


class DataVerbs(click.Group):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *KINDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in KINDS:
            return _maker(name)
        if name not in VERBS:
            return None
        module, _ = VERBS[name]
        command: click.Command = getattr(importlib.import_module(f"searchkit.nas.cli.{module}"), f"{name}_command")
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The kind of toy data may stand behind its options, as it could when there was nothing else."""
        kind = next((word for word in args if word in KINDS), None)
        if kind and args[0].startswith("-"):
            args = [kind, *(word for i, word in enumerate(args) if i != args.index(kind))]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])
        with formatter.section("Toy data"):
            formatter.write_dl([(name, line) for name, (_, _, line) in KINDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from searchkit.errors import did_you_mean

        if args and args[0] not in VERBS and args[0] not in KINDS and not args[0].startswith("-"):
            raise click.UsageError(f"No verb {args[0]!r}{did_you_mean(args[0], (*VERBS, *KINDS))}.", ctx)
        return super().resolve_command(ctx, args)


@click.command("data", cls=DataVerbs, context_settings=console.CONTEXT)
def data_command() -> None:
    """Look at a data set, convert it, divide it; or make toy data.

    Sets may be COCO json files, YOLO folders, Pascal VOC, LabelMe, or class folders. Trainings read COCO and class
    folders; convert writes COCO of the others.

    \b
    Examples:
      search-nas data check shapes
      search-nas data convert export.yolo --out shapes
      search-nas data split shapes --portion .8 .1 .1 --out parted
      search-nas data digits-det --out digits
    """


def _maker(kind: str) -> click.Command:
    """The command that makes toy data of a kind."""
    module, function, line = KINDS[kind]

    @click.command(kind, context_settings=console.CONTEXT, short_help=line)
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
    def command(
        out: str,
        images: tuple[int, int, int] | None,
        size: tuple[int, int] | None,
        seed: int | None,
        as_json: bool,
    ) -> None:
        make: Callable[..., str] = getattr(importlib.import_module(f"searchkit.nas.data.{module}"), function)
        counts = dict(zip(("train", "val", "test"), images, strict=True)) if images else None
        given = {"size": size} if size else {}
        folder = make(out, images=counts, seed=seed_of(seed), **given)
        if as_json:
            console.print_json({"out": folder})
        elif kind.endswith("cls"):
            click.echo(f"{folder}: {{train,val,test}}/<class>/*.png, SOURCE.txt")
        else:
            click.echo(f"{folder}: images/, annotations/instances_{{train,val,test}}.json, SOURCE.txt")

    form = "as class folders" if kind.endswith("cls") else "in COCO's format"
    command.help = (
        f"{line.removesuffix('.')}, {form}.\n\n\b\nExample:\n  search-nas data {kind} --out DIR --images 200 50 50"
    )
    return command
