"""Small classification sets that are made, not downloaded: drawn figures, and scanned digits.

Both write `<split>/<class>/*.png` (ImageNet's layout) and `SOURCE.txt` into a folder; the same arguments give the same
bytes (with the same versions of Pillow and scikit-learn).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.made import made
from searchkit.nas.data.toy import scans, shape
from searchkit.seeds import sample_seed

FIGURES = ("checks", "circle", "cross", "dots", "ring", "square", "stripes", "triangle")
TOY_SPLITS = {"train": 2400, "val": 400, "test": 400}
DIGITS_SPLITS = {"train": 1197, "val": 300, "test": 300}  # all scans that there are


def make_toy_cls(
    out: str, *, images: Mapping[str, int] | None = None, size: tuple[int, int] = (48, 48), seed: int = 0
) -> str:
    """Eight classes of figures, of any colours and turned at random, on noisy canvases with smaller ones of any class
    beside them; returns `out`. Colours say nothing about the class.

    images: how many per split (default: TOY_SPLITS), shared out evenly among the classes. size: (height, width) px; a
    figure takes 50 % to 80 % of the short edge. Raises UsageError where `out` holds something else.
    """
    images = _checked(TOY_SPLITS if images is None else images, size, len(FIGURES))
    text = (
        "Drawn by searchkit.nas.data.make_toy_cls: figures in random colours on noisy canvases.\n"
        "Nothing in it comes from elsewhere.\n"
    )

    def fill(folder: str) -> None:
        for k, (split, n) in enumerate(images.items()):
            for i in range(n):
                rng = np.random.Generator(np.random.PCG64(sample_seed(seed, k, i)))
                name = FIGURES[i % len(FIGURES)]
                _save(folder, split, name, i, Image.fromarray(_canvas(name, size, rng)))

    return made(out, _text(text, images, size, seed), fill)


def make_digits_cls(
    out: str, *, images: Mapping[str, int] | None = None, size: tuple[int, int] = (32, 32), seed: int = 0
) -> str:
    """Scanned digits (8 x 8 px, 1797 of them), each enlarged to `size`, in grey; ten classes; returns `out`.

    images: how many per split (default: DIGITS_SPLITS, all of them); digits are shared out evenly as far as there are
    enough. No scan is in two splits. Raises UsageError where there are not enough, or `out` holds something else.
    """
    images = _checked(DIGITS_SPLITS if images is None else images, size, 10)
    pixels, digits = scans()
    if sum(images.values()) > len(digits):
        raise UsageError(f"there are {len(digits)} scanned digits; got images {dict(images)}")
    order = _interleaved(digits, seed)
    text = (
        "The scanned digits that come with scikit-learn (load_digits), enlarged by searchkit (make_digits_cls):\n"
        'the test set of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning\n'
        "Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. A file's number is the scan's index there.\n"
        "No scan is in two splits, but the scans of one writer may be.\n"
    )

    def fill(folder: str) -> None:
        first = 0
        for split, n in images.items():
            for scan in order[first : first + n].tolist():
                grey = Image.fromarray(np.uint8(pixels[scan] / 16 * 255))
                enlarged = grey.resize((size[1], size[0]), Image.Resampling.BICUBIC)
                _save(folder, split, str(digits[scan]), scan, enlarged)
            first += n

    return made(out, _text(text, images, size, seed), fill)


def _checked(images: Mapping[str, int], size: tuple[int, int], classes: int) -> Mapping[str, int]:
    if min(size) < 32 or not images or min(images.values()) < classes:
        arguments = f"size {tuple(size)}, images {dict(images)}"
        raise UsageError(f"edges of at least 32 px and at least {classes} images per split are needed; got {arguments}")
    return images


def _text(source: str, images: Mapping[str, int], size: tuple[int, int], seed: int) -> str:
    return f"{source}\nimages {dict(images)}, size (height, width) {tuple(size)}, seed {seed}\n"


def _save(folder: str, split: str, name: str, number: int, image: Image.Image) -> None:
    os.makedirs(os.path.join(folder, split, name), exist_ok=True)
    image.save(os.path.join(folder, split, name, f"{number:05d}.png"), compress_level=4)


def _interleaved(digits: np.ndarray, seed: int) -> np.ndarray:
    """All scans in an order of which every stretch holds about as many of each digit."""
    rng = np.random.Generator(np.random.PCG64(sample_seed(seed)))
    parts: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for digit in range(10):
        own = rng.permutation(np.flatnonzero(digits == digit))
        parts.append(own)
        places.append((np.arange(len(own)) + (digit + 0.5) / 10) / len(own))
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.asarray(np.concatenate(parts)[order])


def _canvas(name: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 with one large figure of the class `name`."""
    height, width = size
    short = min(size)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j][..., None]
    background = rng.uniform(0, 255, 3)
    slope = rng.uniform(-40, 40, (2, 3))  # light that fades over the canvas
    canvas = background + y * slope[0] + x * slope[1]
    for figure, edge in _figures(name, short, rng):
        alpha = shape(figure, edge, rng.uniform(0, 2 * math.pi))
        away = rng.uniform(90, 127, 3) * np.where(background > 127, -1, 1)
        _paste(canvas, alpha, background + away * rng.permutation([1.0, rng.random(), rng.random()]), edge, rng)
    noise = rng.normal(0, rng.uniform(3, 12), canvas.shape)
    return np.asarray(np.clip(canvas + noise, 0, 255), np.uint8)


def _figures(name: str, short: int, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """(figure, edge px): small ones of any class below the large one that the image is about."""
    for _ in range(int(rng.integers(0, 3))):
        yield FIGURES[int(rng.integers(len(FIGURES)))], rng.uniform(0.12, 0.25) * short
    yield name, rng.uniform(0.5, 0.8) * short


def _paste(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray, edge: float, rng: np.random.Generator) -> None:
    """Draws into the canvas, the centre at most where three quarters of the figure are to be seen."""
    height, width = canvas.shape[:2]
    margin = edge * 0.4
    top = round(rng.uniform(margin, height - margin)) - alpha.shape[0] // 2
    left = round(rng.uniform(margin, width - margin)) - alpha.shape[1] // 2
    ink = alpha[max(0, -top) : height - top, max(0, -left) : width - left, None]
    patch = canvas[max(0, top) : top + alpha.shape[0], max(0, left) : left + alpha.shape[1]]
    patch += ink * (colour - patch)
