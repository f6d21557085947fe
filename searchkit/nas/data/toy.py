"""Small detection sets that are made, not downloaded: drawn shapes, and scanned digits pasted on canvases.

Both write `images/*.png`, `annotations/instances_<split>.json` (COCO) and `SOURCE.txt` into a folder; the same
arguments give the same bytes (with the same versions of Pillow and scikit-learn).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.nas.data.made import made
from searchkit.seeds import sample_seed

SPLITS = {"train": 400, "val": 100, "test": 100}
SHAPES = ("circle", "square", "triangle")

_TRIES = 30  # places tried for an object before it is left out
_MAX_OVERLAP = 0.1  # of the smaller one of two boxes
_MIN_ALPHA = 0.25  # ink fainter than this does not count for the box


@dataclass(frozen=True)
class Object:
    """One object on a canvas: how much of each pixel it covers, its class and its colour."""

    alpha: np.ndarray  # (h, w) float64 in [0, 1]; its box is that of the values above _MIN_ALPHA
    label: int  # 1..C
    colour: np.ndarray  # (3,) float64, 0..255
    origin: int = -1  # what it was made from, if anything


Draw = Callable[[str, np.random.Generator, np.ndarray], Object]  # (split, rng, colour of the background (3,))


def make_toy_det(
    out: str, *, images: Mapping[str, int] | None = None, size: tuple[int, int] = (128, 128), seed: int = 0
) -> str:
    """Circles, squares and triangles of any colour, turned at random, on noisy canvases; returns `out`.

    images: how many per split (default: SPLITS). size: (height, width) px; objects take 12 % to 40 % of the short edge.
    Raises UsageError where `out` holds something else.
    """
    images = _checked(images, size)
    short = min(size)

    def draw(split: str, rng: np.random.Generator, background: np.ndarray) -> Object:
        label = int(rng.integers(len(SHAPES))) + 1
        alpha = shape(SHAPES[label - 1], rng.uniform(0.12, 0.4) * short, rng.uniform(0, 2 * math.pi))
        return Object(alpha, label, colour(rng, background))

    source = (
        "Drawn by searchkit (make_toy_det): circles, squares and triangles in random colours on noisy canvases.\n"
        "Nothing in it comes from elsewhere.\n"
    )
    return _make(out, source, SHAPES, draw, images, size, seed, (1, 6))


def make_digits_det(
    out: str, *, images: Mapping[str, int] | None = None, size: tuple[int, int] = (128, 128), seed: int = 0
) -> str:
    """Scanned digits (8 x 8 px) enlarged 2 to 5 times, in any colour, on noisy canvases: 10 classes; returns `out`.

    The scans are shared out among the splits, class by class, in the ratio of their images (none gets less than 10 %):
    no scan is used in two splits. images, size and errors: as for `make_toy_det`.
    """
    images = _checked(images, size)
    pixels, digits = scans()
    pools = _pools(digits, images, seed)

    def draw(split: str, rng: np.random.Generator, background: np.ndarray) -> Object:
        digit = int(rng.integers(10))
        scan = int(rng.choice(pools[split][digit]))
        edge = round(8 * rng.uniform(2, 5))
        enlarged = Image.fromarray(np.uint8(pixels[scan] / 16 * 255)).resize((edge, edge), Image.Resampling.BICUBIC)
        return Object(np.asarray(enlarged) / 255.0, digit + 1, colour(rng, background), scan)

    source = (
        "Made by searchkit (make_digits_det) from the scanned digits that come with scikit-learn (load_digits):\n"
        'the test set of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning\n'
        "Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. Each scan (8 x 8 px, 17 grey levels) was\n"
        "enlarged, coloured and pasted on a noisy canvas. The field `scan` of an annotation is its index there.\n"
        "No scan is in two splits, but the scans of one writer may be.\n"
    )
    return _make(out, source, tuple("0123456789"), draw, images, size, seed, (2, 7))


def _checked(images: Mapping[str, int] | None, size: tuple[int, int]) -> Mapping[str, int]:
    images = SPLITS if images is None else images
    if min(size) < 32 or not images or min(images.values()) < 1:
        arguments = f"size {tuple(size)}, images {dict(images)}"
        raise UsageError(f"edges of at least 32 px and at least one image per split are needed; got {arguments}")
    return images


def shape(name: str, edge: float, angle: float) -> np.ndarray:
    """Coverage (h, w) of a shape of about `edge` px, from 4 x 4 samples per pixel."""
    half = math.ceil(edge * 0.75)
    at = (np.arange(8 * half) + 0.5) / 4 - half
    y, x = at[:, None], at[None, :]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if name == "square":
        inside = np.maximum(abs(u), abs(v)) <= edge * 0.42
    elif name == "triangle":  # equilateral, its centre at 0
        inside = (v <= edge * 0.3) & (v >= math.sqrt(3) * abs(u) - edge * 0.6)
    elif name == "cross":
        inside = (np.minimum(abs(u), abs(v)) <= edge * 0.13) & (np.maximum(abs(u), abs(v)) <= edge * 0.5)
    else:
        inside = (u**2 + v**2 <= (edge / 2) ** 2) & _texture(name, u / edge, v / edge)
    return np.asarray(inside.reshape(2 * half, 4, 2 * half, 4).mean((1, 3)))


def _texture(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The part of a disc that is filled; u and v go from -0.5 to 0.5 in it."""
    if name == "ring":
        return np.asarray(u**2 + v**2 >= 0.28**2)
    if name == "stripes":
        return np.asarray(np.floor(u * 5) % 2 == v * 0)
    if name == "checks":
        return np.asarray((np.floor(u * 5) + np.floor(v * 5)) % 2 == 0)
    if name == "dots":
        return np.asarray((u * 5 % 1 - 0.5) ** 2 + (v * 5 % 1 - 0.5) ** 2 <= 0.35**2)
    return np.ones_like(u + v, bool)  # circle


def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) float64 0..16, and their digits (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise UsageError("the scanned digits come with scikit-learn", "pip install scikit-learn") from e
    digits = load_digits()
    return digits.images, digits.target


def _pools(digits: np.ndarray, images: Mapping[str, int], seed: int) -> dict[str, list[np.ndarray]]:
    """The scans of each digit that a split may use: disjoint."""
    shares = np.array([max(0.1, n / max(1, sum(images.values()))) for n in images.values()])
    cuts = np.cumsum(shares / shares.sum())[:-1]
    rng = np.random.Generator(np.random.PCG64(sample_seed(seed)))
    pools: dict[str, list[np.ndarray]] = {split: [] for split in images}
    for digit in range(10):
        scans = rng.permutation(np.flatnonzero(digits == digit))
        for split, part in zip(images, np.split(scans, (cuts * len(scans)).astype(int)), strict=True):
            pools[split].append(part)
    return pools


def colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A colour that stands out: at least 100 grey levels away from the background in some channel."""
    away = rng.uniform(100, 127, 3) * np.where(background > 127, -1, 1)
    some = rng.permutation(np.array([True, rng.random() < 0.5, rng.random() < 0.5]))
    return np.clip(np.where(some, background + away, rng.uniform(0, 255, 3)), 0, 255)


def _make(
    out: str,
    source: str,
    names: tuple[str, ...],
    draw: Draw,
    images: Mapping[str, int],
    size: tuple[int, int],
    seed: int,
    objects: tuple[int, int],
) -> str:
    """Write the set into `out`, which appears only when complete; an existing one is kept."""
    text = f"{source}\nimages {dict(images)}, size (height, width) {tuple(size)}, seed {seed}\n"

    def fill(folder: str) -> None:
        os.makedirs(os.path.join(folder, "images"))
        os.makedirs(os.path.join(folder, "annotations"))
        for k, (split, n) in enumerate(images.items()):
            coco = _split(os.path.join(folder, "images"), split, n, names, draw, size, objects, (seed, k))
            path = os.path.join(folder, "annotations", f"instances_{split}.json")
            fsio.write_new(path, json.dumps(coco).encode(), durable=False)

    return made(out, text, fill)


def _split(
    folder: str,
    split: str,
    n: int,
    names: tuple[str, ...],
    draw: Draw,
    size: tuple[int, int],
    objects: tuple[int, int],
    seed: tuple[int, int],
) -> dict[str, object]:
    """The images of one split, and its COCO annotations. Every image has random numbers of its own."""
    height, width = size
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i in range(1, n + 1):
        rng = np.random.Generator(np.random.PCG64(sample_seed(*seed, i)))
        canvas, objects_drawn = _image(size, objects, split, draw, rng)
        name = f"{split}_{i:05d}.png"
        Image.fromarray(canvas).save(os.path.join(folder, name), compress_level=4)
        entries.append({"id": i, "file_name": name, "width": width, "height": height})
        for item, (x0, y0, x1, y1) in objects_drawn:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            scan = {"scan": item.origin} if item.origin >= 0 else {}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": item.label} | box | scan)
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


Box = tuple[int, int, int, int]  # x0 y0 x1 y1 px


def _image(
    size: tuple[int, int], objects: tuple[int, int], split: str, draw: Draw, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[Object, Box]]]:
    """One canvas (H, W, 3) uint8 and what is on it."""
    height, width = size
    background = rng.uniform(0, 255, 3)
    slope = rng.uniform(-30, 30, (2, 3))  # light that fades over the canvas
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j][..., None]
    canvas = background + y * slope[0] + x * slope[1]
    placed: list[tuple[Object, Box]] = []
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        item = draw(split, rng, background)
        rows, cols = (np.flatnonzero((item.alpha > _MIN_ALPHA).any(axis)) for axis in (1, 0))
        ink = item.alpha[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        box = _place(ink.shape, size, [box for _, box in placed], rng)
        if box is None:
            continue
        x0, y0, x1, y1 = box
        patch = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = patch + ink[:, :, None] * (item.colour - patch)
        placed.append((item, box))
    noise = rng.normal(0, rng.uniform(4, 16), canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), placed


def _place(shape: tuple[int, ...], size: tuple[int, int], boxes: list[Box], rng: np.random.Generator) -> Box | None:
    """A box of `shape` (h, w) inside the canvas that hardly overlaps with those taken; None where none was found."""
    h, w = shape
    if h > size[0] or w > size[1]:
        return None
    for _ in range(_TRIES):
        y0, x0 = int(rng.integers(size[0] - h + 1)), int(rng.integers(size[1] - w + 1))
        box = (x0, y0, x0 + w, y0 + h)
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in boxes):
            return box
    return None


def _overlap(a: Box, b: Box) -> float:
    """Intersection over the area of the smaller one."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return max(0, w) * max(0, h) / min(areas)
