"""Random changes of images that have one label, and how images are shown to a classifier that is tested.

What is drawn is a function of (seed, epoch, index of the image): numbers come from a hash (see hashing.py), not from a
generator, so that those of a whole batch cost as much as those of one image. What is done with them is torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from searchkit.nas.data.augment import LabelAugment
from searchkit.nas.data.hashing import uniforms
from searchkit.seeds import sample_seed

CROP_RATIO = 0.875  # 224 / 256, what large images are tested with since AlexNet
FILL = (124, 116, 104)  # RGB of what is cut out; ImageNet's mean

_AUGMENT = 2  # the stream of random numbers; 0 and 1 are those of loader.py
_TRIES = 10  # boxes drawn before the central one is taken, as in torchvision
# The columns of an image's random numbers:
_FLIP, _TOP, _LEFT, _CUT_Y, _CUT_X, _BRIGHTNESS, _CONTRAST, _SATURATION, _ORDER, _BOX = range(10)
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def augment(image: Tensor, a: LabelAugment, seed_parts: tuple[int, int, int], size: int | tuple[int, int]) -> Tensor:
    """The image (3, H, W) uint8 after the random changes of seed_parts = (seed, epoch, index), and of nothing else:
    (3, *size) uint8. size: height and width, or the edge of a square."""
    seed, epoch, index = seed_parts
    return augment_batch([image.numpy()], a, seed, epoch, [index], size)[0]


def augment_batch(
    images: Sequence[np.ndarray],
    a: LabelAugment,
    seed: int,
    epoch: int,
    indices: Sequence[int],
    size: int | tuple[int, int],
) -> Tensor:
    """(n, 3, *size) uint8: image by image what `augment` gives. The images (3, H, W) are only read."""
    height, width = _pair(size)
    columns = _BOX + 2 * _TRIES if a.crop == "random_resized" else _BOX
    drawn = uniforms(sample_seed(seed, _AUGMENT, epoch), indices, columns)
    flips = (drawn[:, _FLIP] < a.flip).tolist()
    out = np.zeros((len(images), 3, height, width), np.uint8)
    if a.crop == "random_resized":
        for i, image in enumerate(images):
            box = _box(a, image.shape[-2:], drawn[i].tolist())
            part = v2.functional.resized_crop(_tensor(image), *box, size=[height, width], antialias=True).numpy()
            out[i] = part[:, :, ::-1] if flips[i] else part
    else:
        pad = a.padding if a.crop == "pad" else 0
        downs = ((drawn[:, _TOP] * (2 * pad + 1)).astype(np.int64) - pad).tolist()
        rights = ((drawn[:, _LEFT] * (2 * pad + 1)).astype(np.int64) - pad).tolist()
        ratio = CROP_RATIO if a.crop == "center" else 1.0
        for i, image in enumerate(images):
            _shift(fit(image, (height, width), ratio), out[i], downs[i], rights[i], flips[i])
    if a.color_jitter:
        for i in range(len(out)):
            _jitter(out[i], a.color_jitter, drawn[i].tolist())
    if a.cutout:
        tops = (drawn[:, _CUT_Y] * height).astype(np.int64) - a.cutout // 2
        lefts = (drawn[:, _CUT_X] * width).astype(np.int64) - a.cutout // 2
        for i, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
            part = out[i, :, max(0, top) : top + a.cutout, max(0, left) : left + a.cutout]
            part[:] = np.array(FILL, np.uint8)[:, None, None]
    return torch.from_numpy(out)


def fit(image: np.ndarray, size: int | tuple[int, int], crop_ratio: float = CROP_RATIO) -> np.ndarray:
    """What a classifier is tested on: (3, *size) uint8, perhaps the image itself.

    An image of that size stays as it is. One that is larger is resized until size / crop_ratio (rounded) just fits into
    it, and the middle is taken: for a square input, the short edge becomes round(size / crop_ratio). Of one that is no
    larger than the input in either direction no border is given away: it is resized until `size` just fits into it.
    """
    height, width = _pair(size)
    h, w = image.shape[-2:]
    if (h, w) == (height, width):
        return image
    if h <= height and w <= width:
        crop_ratio = 1.0
    shown_h, shown_w = max(height, round(height / crop_ratio)), max(width, round(width / crop_ratio))
    if shown_h / h >= shown_w / w:  # int(), and this order of factors: as torchvision's Resize
        edges = [shown_h, max(shown_w, int(shown_h * w / h))]
    else:
        edges = [max(shown_h, int(shown_w * h / w)), shown_w]
    resized = v2.functional.resize(_tensor(image), edges, antialias=True)
    return np.asarray(v2.functional.center_crop(resized, [height, width]).numpy())


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image))  # a copy: torch wants arrays that it could write to


def _shift(image: np.ndarray, out: np.ndarray, down: int, right: int, flip: bool) -> None:
    """out (3, H, W), all black, becomes the window of the image, of the same size, that begins at (down, right)."""
    height, width = out.shape[-2:]
    if flip:
        out = out[:, :, ::-1]
    rows, cols = height - abs(down), width - abs(right)
    if rows <= 0 or cols <= 0:  # more padding than image
        return
    top, left = max(0, down), max(0, right)  # in the image
    to, at = max(0, -down), max(0, -right)  # in the window
    out[:, to : to + rows, at : at + cols] = image[:, top : top + rows, left : left + cols]


def _box(a: LabelAugment, shape: tuple[int, ...], drawn: list[float]) -> tuple[int, int, int, int]:
    """top, left, height, width, distributed as those of torchvision's RandomResizedCrop."""
    height, width = shape
    low, high = math.log(a.ratio[0]), math.log(a.ratio[1])
    for first in range(_BOX, _BOX + 2 * _TRIES, 2):
        area = height * width * (a.scale[0] + drawn[first] * (a.scale[1] - a.scale[0]))
        ratio = math.exp(low + drawn[first + 1] * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(drawn[_TOP] * (height - h + 1)), int(drawn[_LEFT] * (width - w + 1)), h, w
    # The largest central part of an allowed ratio; of an image 1 px wide or high there may be none, but never 0 px.
    w, h = min(width, max(1, round(height * a.ratio[1]))), min(height, max(1, round(width / a.ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def _jitter(image: np.ndarray, strength: float, drawn: list[float]) -> None:
    """Changes the image (3, H, W) uint8 in place, as torchvision's ColorJitter."""
    low = max(0.0, 1 - strength)
    factors = [low + drawn[k] * (1 + strength - low) for k in (_BRIGHTNESS, _CONTRAST, _SATURATION)]
    changes = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    changed = torch.from_numpy(image)
    for k in _ORDERS[int(drawn[_ORDER] * len(_ORDERS))]:
        changed = changes[k](changed, factors[k])
    image[:] = changed.numpy()
