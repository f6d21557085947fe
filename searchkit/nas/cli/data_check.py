"""search-nas data check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.options import say, seed_of, shared, tell
from searchkit.nas.cli.read_options import read_set, reads
from searchkit.nas.data.formats.table import FORMATS
from searchkit.nas.data.sets import sheet
from searchkit.nas.data.sets.check import check

WIDTH = 100  # columns, where nobody says how many there are
ROWS = 30  # classes in the table
_LABEL = 12  # columns of the lines below it


@click.command("check", context_settings=console.CONTEXT)
@click.argument("path", metavar="DIR|FILE")
@click.option("--picture", metavar="FILE", help="Draw twelve images with their boxes into it: a PNG, or a JPEG.")
@reads
@shared("seed", "json")
def check_command(
    path: str,
    picture: str | None,
    format: str | None,
    images: str | None,
    one_based: bool,
    seed: int | None,
    as_json: bool,
) -> int:
    """Look at a data set before it is trained on: its format, splits, sizes, boxes, faults.

    Exit code 0 where it can be trained on; 1 where a training would fail, or learn or be scored wrongly, which the
    lines that begin with "wrong" say; 2 where it can't be read.

    \b
    Examples:
      search-nas data check shapes
      search-nas data check export.yolo --picture twelve.png
      search-nas data check instances_train.json --images photos
    """
    data = read_set(path, format, images, one_based)
    checked = check(data)
    wrong, letters = list(checked.wrong), ""
    if picture:
        try:
            faults, letters = sheet.draw(data, sheet.chosen(data, seed_of(seed)), picture)
        except (ValueError, OSError) as e:
            raise UsageError(f"cannot write the picture {picture}: {e}") from e
        wrong += faults
    code = 1 if wrong else 0
    if as_json:
        facts = checked.facts | {"wrong": wrong, "notes": [*checked.notes], "usable": not wrong, "picture": picture}
        console.print_json(facts)
        return code
    for line in _lines(checked.facts, FORMATS[data.format].title):
        tell(line)
    click.echo()
    for line in wrong:
        tell(f"wrong: {line}")
    for line in checked.notes:
        tell(f"note: {line}")
    if picture:
        tell(f"picture: {picture}")
    if letters:
        say(f"note: {letters}")
    tell("not usable as it is: see what is wrong" if wrong else "usable")
    return code


def _lines(facts: dict[str, Any], title: str) -> list[str]:
    """The numbers of a set as lines."""
    splits, classes = facts["splits"], facts["classes"]
    images = sum(split["images"] for split in splits.values())
    parts = [title, console.counted(images, "image")]
    if facts["task"] == "det":
        parts.append(console.counted(facts["boxes"]["count"], "box", "boxes"))
    head = f"{facts['root']}: {', '.join(parts)} in {console.counted(len(classes), 'class', 'classes')}"
    return [head, "", *split_lines(facts), "", *class_lines(facts), "", *_sizes(facts)]


def split_lines(facts: dict[str, Any]) -> list[str]:
    """A row for each split."""
    splits = facts["splits"]
    sources = {name: split["source"].removeprefix(f"{facts['root']}/") for name, split in splits.items()}
    if facts["task"] == "cls":
        rows = [["split", "images", "read from"]]
        rows += [[name, f"{s['images']:,}", sources[name]] for name, s in splits.items()]
        return columns(rows)
    rows = [["split", "images", "boxes", "per image", "without", "read from"]]
    for name, s in splits.items():
        per_image = f"{s['boxes'] / s['images']:.1f}"
        rows.append([name, f"{s['images']:,}", f"{s['boxes']:,}", per_image, f"{s['empty']:,}", sources[name]])
    return columns(rows)


def class_lines(facts: dict[str, Any]) -> list[str]:
    """A row for each class, the commonest ones where there are many."""
    splits, classes = facts["splits"], facts["classes"]
    totals = {name: sum(split["per_class"][name] for split in splits.values()) for name in classes}
    shown = list(classes)
    if len(classes) > ROWS:
        shown = sorted(classes, key=lambda name: -totals[name])[:ROWS]
    rows = [["class", *splits]]
    rows += [[name, *(f"{split['per_class'][name]:,}" for split in splits.values())] for name in shown]
    lines = columns(rows)
    if len(classes) > ROWS:
        left = [totals[name] for name in classes if name not in {*shown}]
        lines.append(f"and {len(left):,} classes with {min(left):,} to {max(left):,} each (--json has all)")
    return lines


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that fits the terminal: texts in the first and last columns on the left, numbers on the right; what is
    too long for its column is cut."""
    from rich.cells import cell_len, set_cell_size

    def cut(text: str, most: int) -> str:
        return text if cell_len(text) <= most else set_cell_size(text, most - 1) + "…"

    rows = [[console.one_line(text) for text in row] for row in rows]
    ends_with_text = not rows[-1][-1].replace(",", "").isdecimal()
    widths = [max(cell_len(row[k]) for row in rows) for k in range(len(rows[0]))]
    middle = sum(widths[1:-1] if ends_with_text else widths[1:]) + 2 * (len(widths) - 1)
    room = max(20, (console.width() or WIDTH) - middle)
    widths[0] = min(widths[0], room // 2 if ends_with_text else room)
    if ends_with_text:
        widths[-1] = max(10, room - widths[0])
    lines = []
    for row in rows:
        cells = [set_cell_size(cut(row[0], widths[0]), widths[0])]
        for k, text in enumerate(row[1:], 1):
            is_text = ends_with_text and k == len(row) - 1
            cells.append(cut(text, widths[k]) if is_text else text.rjust(widths[k]))
        lines.append("  ".join(cells).rstrip())
    return lines


def _sizes(facts: dict[str, Any]) -> list[str]:
    """Lines about sizes of images and boxes."""
    sizes, lines = facts["sizes"], []
    if sizes["different"] == 1:
        lines.append(("image size", f"{_size(sizes['smallest'])} px, all of them"))
    elif sizes["different"]:
        common = ", ".join(f"{_size(size)} ({size[2]:,})" for size in sizes["common"])
        text = f"{_size(sizes['smallest'])} to {_size(sizes['largest'])} px, {sizes['different']:,} different ones"
        lines.append(("image size", f"{text}; commonest {common}"))
    if facts["task"] == "det" and facts["boxes"]["count"]:
        boxes, crowded = facts["boxes"], facts["crowded"]
        smallest, largest = (f"{_size(boxes[key])} px ({boxes[key][2]})" for key in ("smallest", "largest"))
        lines.append(("box size", f"{smallest} to {largest}, median {_size(boxes['median'])} px"))
        share = boxes["tiny"] / boxes["count"]
        lines.append(("tiny", f"{share:.1%} of the boxes ({boxes['tiny']:,}) are below 32 x 32 px"))
        above = f"{console.counted(crowded['images'], 'image')} with more than {crowded['above']}"
        lines.append(
            (
                "crowded",
                f"at most {console.counted(crowded['most'], 'box', 'boxes')} on an image ({crowded['image']}); {above}",
            )
        )
    return [f"{name:{_LABEL}}{text}" for name, text in lines]


def _size(size: Sequence[Any]) -> str:
    return f"{size[0]:g} x {size[1]:g}"
