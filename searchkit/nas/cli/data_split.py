"""search-nas data split."""

from __future__ import annotations

import click

from searchkit import console
from searchkit.nas.cli.data_check import class_lines, split_lines
from searchkit.nas.cli.options import seed_of, shared, tell
from searchkit.nas.cli.read_options import read_set, reads
from searchkit.nas.data.formats.coco import UNSPLIT
from searchkit.nas.data.formats.neutral import LEFT_OUT, DataSet, reading_notes
from searchkit.nas.data.formats.table import read
from searchkit.nas.data.formats.write import write_coco, write_folders
from searchkit.nas.data.sets.check import check
from searchkit.nas.data.sets.divide import Divided, divide


@click.command("split", context_settings=console.CONTEXT)
@click.argument("source", metavar="DIR|FILE")
@click.option("--out", required=True, metavar="DIR", help="A new or empty folder.")
@click.option(
    "--portion",
    nargs=3,
    type=click.FloatRange(0, 1),
    default=(0.8, 0.1, 0.1),
    show_default=True,
    metavar="TRAIN VAL TEST",
    help="Of the images; val and test may be 0.",
)
@click.option(
    "--group",
    metavar="REGEX",
    help=r"Images for which it finds the same in their path are in one split, such as frames of a video: '(clip\d+)_'.",
)
@click.option("--of", multiple=True, metavar="SPLIT", help="Divide these alone; others stay.  [default: all together]")
@click.option("--overwrite", is_flag=True, help="Replace OUT, if it is all from here and nobody changed it.")
@reads
@shared("seed", "json")
def split_command(
    source: str,
    out: str,
    portion: tuple[float, float, float],
    group: str | None,
    of: tuple[str, ...],
    overwrite: bool,
    format: str | None,
    images: str | None,
    one_based: bool,
    seed: int | None,
    as_json: bool,
) -> None:
    """Divide a data set into train, val and test, each with its share of every class: by iterative stratification over
    the boxes of the classes, or over the images of a classifier's.

    Writes COCO with links to the images, or class folders of links. Images that are the same byte for byte are in one
    split. The same images, portion and seed give the same splits.

    \b
    Examples:
      search-nas data split shapes --portion .8 .1 .1 --out parted
      search-nas data split shapes --of train --portion .9 .1 0 --out with_val
      search-nas data split clips --group '^(clip\\d+)' --out parted
    """
    data = read_set(source, format, images, one_based)
    divided = divide(data, portion, seed_of(seed), group=group, of=of)
    if data.task == "cls":
        write_folders(divided.data, out, overwrite=overwrite)
    else:
        write_coco(divided.data, out, overwrite=overwrite)
    checked = check(read(out))
    facts, notes = checked.facts, _notes(data, divided, group, of)
    if as_json:
        kept = {"groups": divided.groups, "matched": divided.matched, "doubled": divided.doubled}
        shown = {key: facts[key] for key in ("classes", "digest", "splits")}
        found = {"wrong": [*checked.wrong], "notes": [*notes, *checked.notes]}
        console.print_json({"out": out, "format": data.format, **kept, **shown, **found})
        return
    for line in (*split_lines(facts), "", *class_lines(facts), ""):
        tell(line)
    for line in checked.wrong:
        tell(f"wrong: {line}")
    for line in (*notes, *checked.notes):
        tell(f"note: {line}")
    form = "class folders of links" if data.task == "cls" else "COCO, images are links"
    tell(f"{out}: {form}")


def _notes(data: DataSet, divided: Divided, group: str | None, of: tuple[str, ...]) -> list[str]:
    """What was done, as lines."""
    notes = [note for note in reading_notes(data, LEFT_OUT) if note != UNSPLIT]
    pooled = [name for name in data.splits if name in of or not of]
    if len(pooled) > 1:
        parts = ", ".join(f"{name} {len(data.splits[name].images):,}" for name in pooled)
        notes.append(f"the splits that there were are divided together: {parts}")
    images = sum(len(data.splits[name].images) for name in pooled) - divided.missing
    if group:
        matched = f"{group} matches {divided.matched:,} of {images:,} images"
        notes.append(f"{matched}; {divided.groups:,} groups and single images are shared out")
    if divided.doubled:
        notes.append(f"images that are the same as another one, kept in one split: {divided.doubled:,}")
    return notes
