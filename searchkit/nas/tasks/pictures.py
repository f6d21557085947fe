"""What models find on images, and how it is drawn: boxes, or the name of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from searchkit.nas.data.drawing import COLOURS, TEXT_PX, label
from searchkit.nas.data.label_augment import fit
from searchkit.nas.data.label_stores import AS_IS, decode
from searchkit.nas.data.pixels import Reading, header
from searchkit.nas.space.shapes import height_width
from searchkit.nas.train.task import Pictures

SMALL = 480  # pictures are enlarged by a whole factor until their short edge has this many pixels, so that text fits
TOP = 5  # classes that are told of an image


@dataclass(frozen=True)
class Model:
    """A network in eval mode, and what it takes and says."""

    net: nn.Module
    names: tuple[str, ...]  # of the classes, without a background
    size: tuple[int, int] | None = None  # (H, W) px of a classifier's images; a detector resizes them itself
    reading: Reading = AS_IS  # how image files are read


def read(path: str, reading: Reading) -> Tensor:
    """An image file as (3, H, W) uint8, upright. Raises UsageError where it can't be decoded."""
    return torch.from_numpy(decode(path, path, reading))


def is_deep(path: str) -> bool:
    """Whether an image file is a grey of more than 8 bits."""
    return header(path).deep


def of_unknown_range(path: str, reading: Reading) -> bool:
    """Whether an image file is a deep grey, of a range that the model doesn't know."""
    return reading.range is None and is_deep(path)


@torch.no_grad()
def classes_of(model: Model, picture: Tensor, threshold: float = 0.0) -> list[dict[str, Any]]:
    """The likeliest classes of a picture ((3, H, W) uint8), best first: name and probability, none left out. It is
    shown to the classifier as in evaluation."""
    assert model.size is not None
    device = _device_of(model.net)
    shown = torch.from_numpy(fit(picture.numpy(), model.size).copy())
    scores = model.net(shown[None].to(device).float() / 255)[0, : len(model.names)].float().cpu()
    chances = scores.softmax(0)
    order = chances.argsort(descending=True, stable=True)[:TOP].tolist()
    return [{"name": model.names[i], "probability": round(float(chances[i]), 4)} for i in order]


@torch.no_grad()
def boxes_of(model: Model, picture: Tensor, threshold: float) -> list[dict[str, Any]]:
    """The boxes of a picture ((3, H, W) uint8) from a score on: box (xyxy px), score, name."""
    device = _device_of(model.net)
    (output,) = model.net([picture.to(device).float() / 255])
    keep = output["scores"] >= threshold
    boxes, scores, labels = (output[k][keep].cpu() for k in ("boxes", "scores", "labels"))
    return [
        {
            "box": [round(v, 2) for v in box.tolist()],
            "score": round(float(score), 4),
            "name": model.names[int(label) - 1],
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def _device_of(net: nn.Module) -> torch.device:
    """Where its images go; a file of another runtime has no weights that would say so, and takes them on the CPU."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def draw_classes(model: Model, picture: Tensor, classes: Sequence[dict[str, Any]], target: str) -> None:
    """Write a picture as PNG with the name of its likeliest class."""
    canvas, pen, _ = _canvas(picture)
    best = classes[0]
    label(pen, (0.0, 0.0), f"{best['name']} {best['probability']:.2f}", _colour(model, best["name"]))
    canvas.save(target)


def draw_boxes(model: Model, picture: Tensor, boxes: Sequence[dict[str, Any]], target: str) -> None:
    """Write a picture as PNG with its boxes."""
    canvas, pen, factor = _canvas(picture)
    for item in boxes:
        box = [v * factor for v in item["box"]]
        colour = _colour(model, item["name"])
        pen.rectangle(box, outline=colour, width=2)
        label(pen, (box[0], max(0.0, box[1] - TEXT_PX - 3)), f"{item['name']} {item['score']:.2f}", colour)
    canvas.save(target)


def _canvas(picture: Tensor) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """(the picture, enlarged where it is small, what draws on it, the factor)."""
    factor = max(1, -(-SMALL // min(picture.shape[1:])))
    shown = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    canvas = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())
    return canvas, ImageDraw.Draw(canvas), factor


def _colour(model: Model, name: str) -> str:
    return COLOURS[model.names.index(name) % len(COLOURS)]


BOXES = Pictures(
    key="boxes",
    size_of=lambda shape: None,
    find=boxes_of,
    draw=draw_boxes,
    names=lambda boxes: [box["name"] for box in boxes],
    text=lambda boxes: f"{len(boxes)} boxes",
)
CLASSES = Pictures(
    key="classes",
    size_of=height_width,
    find=classes_of,
    draw=draw_classes,
    names=lambda classes: [classes[0]["name"]],
    text=lambda classes: ", ".join(f"{c['name']} {c['probability']:.2f}" for c in classes),
)
