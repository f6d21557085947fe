"""Options of verbs that read data sets of any format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from searchkit.nas.data.formats.listing import Options
from searchkit.nas.data.formats.neutral import DataSet
from searchkit.nas.data.formats.table import FORMATS, read

Command = Callable[..., Any]


def reads(command: Command) -> Command:
    """Decorate a verb with --format, --images and --one-based."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option("--format", type=click.Choice(list(FORMATS)), help="To read, where a folder is of several."),
    click.option("--images", metavar="DIR", help="COCO: what file names are relative to, where it isn't found."),
    click.option(
        "--one-based",
        is_flag=True,
        help="Pascal VOC: pixels count from 1, and the last one is in the box, as in the original sets.",
    ),
)


def read_set(path: str, format: str | None, images: str | None, one_based: bool) -> DataSet:
    """The set at a path, in the neutral form."""
    return read(path, format=format, options=Options(images, one_based))
