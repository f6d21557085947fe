"""search-nas data convert."""

from __future__ import annotations

import click

from searchkit import console
from searchkit.nas.cli.options import shared, tell
from searchkit.nas.cli.read_options import read_set, reads
from searchkit.nas.data.formats.neutral import DataSet, digest, reading_notes
from searchkit.nas.data.formats.table import FORMATS
from searchkit.nas.data.formats.write import Written, write_coco


@click.command("convert", context_settings=console.CONTEXT)
@click.argument("source", metavar="DIR|FILE")
@click.option("--out", required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--leave", is_flag=True, help="Make no links to the images: name them in the json by their whole paths.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, if it is all from here and nobody changed it.")
@reads
@shared("json")
def convert_command(
    source: str,
    out: str,
    leave: bool,
    overwrite: bool,
    format: str | None,
    images: str | None,
    one_based: bool,
    as_json: bool,
) -> None:
    """Write a data set of any format as COCO: OUT/annotations/instances_<split>.json, and links to the images in
    OUT/images.

    Polygons and masks become the boxes around them. What is left out is counted. The same again changes nothing.

    \b
    Examples:
      search-nas data convert export.yolo --out shapes
      search-nas data convert VOC2007 --one-based --out voc
    """
    data = read_set(source, format, images, one_based)
    written = write_coco(data, out, link=not leave, overwrite=overwrite)
    notes = reading_notes(data)
    if as_json:
        console.print_json(_facts(data, written, notes))
        return
    for name, part in data.splits.items():
        n_images = sum(image.exists for image in part.images)
        numbers = f"{console.counted(n_images, 'image')}, {console.counted(part.n_boxes, 'box', 'boxes')}"
        tell(f"{written.annotations[name]}: {numbers}")
    for note in notes:
        tell(f"note: {note}")
    where = "named by their whole paths, where they are" if leave else f"links in {written.images}"
    classes = console.counted(len(data.classes), "class", "classes")
    tell(f"{out}: COCO of {source} ({FORMATS[data.format].title}), {classes}; images: {where}")


def _facts(data: DataSet, written: Written, notes: list[str]) -> dict[str, object]:
    return {
        "out": written.folder,
        "format": data.format,
        "classes": list(data.classes),
        "digest": digest(data),
        "splits": {
            name: {
                "annotations": written.annotations[name],
                "images": written.images,
                "n_images": sum(image.exists for image in part.images),
                "n_boxes": part.n_boxes,
            }
            for name, part in data.splits.items()
        },
        "notes": notes,
    }
