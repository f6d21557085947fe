"""Boxes on images, as JPEGs within a page: what is there, and what each candidate finds."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from searchkit.nas.data.coco import CocoSet
from searchkit.nas.data.drawing import COLOURS, label
from searchkit.nas.data.images import decode

SHOWN = 8  # images
EDGE = 300  # px of the longer edge
QUALITY = 72
TEXT = 15  # px above a box for the name of its class


def chosen(data: CocoSet, n: int = SHOWN) -> list[int]:
    """Places of images spread over a set, of those that have objects and whose files are there; by nothing that a
    candidate finds."""
    fitting = [i for i, image in enumerate(data.images) if image.exists and len(image.boxes)]
    return [fitting[int(k * len(fitting) / n)] for k in range(min(n, len(fitting)))] if len(fitting) > n else fitting


def threshold(rows: Sequence[Mapping[str, Any]], objects: int) -> float:
    """The score above which a detector says as many boxes as there are objects."""
    scores = sorted((float(row["score"]) for row in rows), reverse=True)
    return scores[objects - 1] if 0 < objects <= len(scores) else 0.0


def truth(data: CocoSet, i: int) -> list[tuple[Sequence[float], int]]:
    """(x0 y0 x1 y1, label) of the boxes of an image."""
    image = data.images[i]
    return [(box.tolist(), int(label)) for box, label in zip(image.boxes, image.labels, strict=True)]


def found(data: CocoSet, i: int, rows: Sequence[Mapping[str, Any]], least: float) -> list[tuple[Sequence[float], int]]:
    """The same of what a detector finds (COCO's results), from a score on."""
    labels = {number: label for label, (number, _) in enumerate(data.categories, 1)}
    mine = [row for row in rows if row["image_id"] == data.images[i].file_id and row["score"] >= least]
    return [
        ((x, y, x + w, y + h), labels[row["category_id"]])
        for row in mine
        if row["category_id"] in labels
        for x, y, w, h in [row["bbox"]]
    ]


def drawn(data: CocoSet, i: int, boxes: Sequence[tuple[Sequence[float], int]]) -> str:
    """An image with boxes in the colours of their classes, as a data URI."""
    info = data.images[i]
    pixels = decode(info.path, info.width, info.height, data.reading).permute(1, 2, 0).numpy()
    factor = min(1.0, EDGE / max(info.width, info.height)) if max(info.width, info.height) > EDGE else 1.0
    size = (max(1, round(info.width * factor)), max(1, round(info.height * factor)))
    if max(size) < EDGE // 2:
        whole = EDGE // max(size)
        size, factor = (size[0] * whole, size[1] * whole), factor * whole
    canvas = Image.fromarray(np.ascontiguousarray(pixels)).resize(size)
    pen = ImageDraw.Draw(canvas)
    for box, number in boxes:
        left, top, right, bottom = (v * factor for v in box)
        colour = COLOURS[(number - 1) % len(COLOURS)]
        pen.rectangle([left, top, right, bottom], outline=colour, width=2)
        if len(data.names) > len(COLOURS):  # colours alone don't tell them apart
            label(pen, (left, max(0.0, top - TEXT)), data.names[number - 1], colour)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
