"""One picture of twelve images of a set, with what its files say is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from searchkit import fonts
from searchkit.nas.data import pixels
from searchkit.nas.data.drawing import COLOURS, TEXT_PX, font_of, label, lacking
from searchkit.nas.data.formats.neutral import DataImage, DataSet
from searchkit.nas.data.pixels import UNDECODABLE
from searchkit.seeds import rng_of

COLUMNS, ROWS = 4, 3
CELL = (400, 300)  # px, of each image
LINE = TEXT_PX + 7  # px, of a line of text
LABELLED = 12  # boxes up to which each has its name; the colours tell the others
_NAME = 52  # letters of a file's name


@dataclass(frozen=True)
class Shown:
    """An image of the picture."""

    split: str
    image: DataImage


def chosen(data: DataSet, seed: int = 0) -> list[Shown]:
    """Twelve images of a set: first of its rarest classes, then any, none twice; in the order of splits."""
    everything = [Shown(split, image) for split, part in data.splits.items() for image in part.images if image.exists]
    order = rng_of(seed, "sheet").sample(range(len(everything)), len(everything))
    counts = np.sum([part.counts(len(data.classes)) for part in data.splits.values()], 0)
    taken: dict[int, None] = {}
    with_class = {k: [i for i in order if k in everything[i].image.labels] for k in np.argsort(counts, kind="stable")}
    for images in with_class.values():
        free = [i for i in images if i not in taken]
        if free and len(taken) < COLUMNS * ROWS:
            taken[free[0]] = None
    with_boxes = sorted(order, key=lambda i: not len(everything[i].image.labels))  # stable: at random otherwise
    for i in with_boxes:
        if len(taken) < COLUMNS * ROWS:
            taken.setdefault(i)
    return [everything[i] for i in sorted(taken)]


def draw(data: DataSet, shown: Sequence[Shown], target: str) -> tuple[list[str], str]:
    """Write the picture; returns (what is wrong with images that can't be drawn, the note about letters that no font
    has)."""
    rows = -(-len(shown) // COLUMNS) or 1
    names = _names(shown, data)
    legend = names if data.task == "det" else []
    height = rows * (CELL[1] + LINE) + LINE * bool(legend)
    canvas = Image.new("RGB", (COLUMNS * CELL[0], height), "white")
    pen = ImageDraw.Draw(canvas)
    faults = []
    for k, item in enumerate(shown):
        at = (k % COLUMNS * CELL[0], k // COLUMNS * (CELL[1] + LINE))
        try:
            _draw(canvas, pen, data, item, at)
        except UNDECODABLE as e:
            faults.append(pixels.broken(item.image.path, e).message)
            pen.text((at[0] + 6, at[1] + LINE + 6), "can't be decoded", fill="black", font_size=TEXT_PX)
    x = 4.0
    for name in legend:
        label(pen, (x, height - LINE + 2), name, _colour(data, name))
        x += pen.textlength(name, font=font_of(name), font_size=TEXT_PX) + 12
    canvas.save(target)
    return faults, fonts.note(lacking([*names, *(item.image.name for item in shown)]))


def _names(shown: Sequence[Shown], data: DataSet) -> list[str]:
    """The classes on these images, in their order."""
    used = {int(label) for item in shown for label in item.image.labels}
    return [data.classes[label] for label in sorted(used)]


def _colour(data: DataSet, name: str) -> str:
    return COLOURS[data.classes.index(name) % len(COLOURS)]


def _draw(canvas: Image.Image, pen: ImageDraw.ImageDraw, data: DataSet, item: Shown, at: tuple[int, int]) -> None:
    """An image in its cell, below the line with its name."""
    image = item.image
    title = f"{item.split}: {image.name}"
    if data.task == "cls":
        title = f"{data.classes[image.labels[0]]} ({item.split}: {image.name})"
    title = title if len(title) <= _NAME else f"{title[: _NAME - 1]}…"
    pen.text((at[0] + 4, at[1] + 2), title, fill="black", font=font_of(title), font_size=TEXT_PX)
    rgb = _pixels(image)
    factor = min((CELL[0] - 4) / rgb.shape[1], (CELL[1] - 4) / rgb.shape[0])
    size = [max(1, round(side * factor)) for side in rgb.shape[1::-1]]
    how = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.BICUBIC
    left, top = at[0] + 2, at[1] + LINE
    canvas.paste(Image.fromarray(rgb).resize((size[0], size[1]), how), (left, top))
    boxes = np.concatenate([image.boxes[:, :2], image.boxes[:, :2] + image.boxes[:, 2:]], 1) * factor
    boxes = np.clip(boxes, 0, [*size, *size]) + np.array([left, top, left, top])
    for (x0, y0, x1, y1), number in zip(boxes.tolist(), image.labels.tolist(), strict=bool(len(boxes))):
        name = data.classes[number]
        pen.rectangle([x0, y0, x1, y1], outline=_colour(data, name), width=2)
        if len(boxes) <= LABELLED:
            label(pen, (x0, max(top, y0 - TEXT_PX - 3)), name, _colour(data, name))


def _pixels(image: DataImage) -> np.ndarray:
    """(H, W, 3) uint8 as it is shown to a training; a deep grey by its own values."""
    path = image.path
    span = pixels.range_of(1, lambda _: pixels.values_of(path))[0] if pixels.header(path).deep else None
    with Image.open(path) as file:
        rgb, turn = pixels.stored(file, span)
    size = (image.width, image.height) if image.width else None
    if turn != 1 and pixels.is_applied(pixels.Reading(), turn, rgb.shape[1::-1], size):
        return pixels.upright(rgb, turn)
    return rgb
