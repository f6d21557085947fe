"""Sizes and ratios of anchors from the boxes of a set, by k-means with the IoU as its distance. numpy alone.

How well anchors fit is their recall: the share of boxes that overlap, with an IoU of MATCH at least, the anchor that
fits them best on its nearest place. So it counts that coarse levels have few places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

MATCH = 0.5  # the IoU from which a matcher takes an anchor for a box: that of RetinaNet and SSD
ROUNDS = 40  # of k-means, at most
MOST = 10_000  # boxes that are looked at
MORE = 0.01  # of recall, for which a further ratio is taken
STEPS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)  # factors by which sizes and ratios are tried
PASSES = 3  # over all of these


@dataclass(frozen=True)
class Anchors:
    """The anchors of a detector on the image that it sees, in px, or as parts of its edges.

    square: on each level `sizes`, each times all `scales`, in all `ratios` (height / width). pair: SSD's default boxes,
    which are squares of a level's size and of its geometric mean with the next one (so there is one size more than
    levels), and a flat and an upright one for each of `ratios` but 1.
    """

    kind: Literal["square", "pair"]
    sizes: tuple[float, ...]  # finest level first
    ratios: tuple[float, ...]
    strides: tuple[tuple[float, float], ...]  # of each level: from one place to the next, along the width and height
    scales: tuple[float, ...] = (1.0,)
    offset: float = 0.0  # of the first place, in strides

    def shapes(self, level: int) -> np.ndarray:
        """(A, 2): width and height of each anchor of a level."""
        size = self.sizes[level]
        if self.kind == "square":
            each = [(size * scale, ratio) for scale in self.scales for ratio in self.ratios]
        else:
            both = [r for ratio in self.ratios if ratio != 1 for r in (ratio, 1 / ratio)]
            each = [(size, 1.0), ((size * self.sizes[level + 1]) ** 0.5, 1.0), *((size, r) for r in both)]
        return np.array([(s / r**0.5, s * r**0.5) for s, r in each], np.float64)


def best_iou(anchors: Anchors, boxes: np.ndarray) -> np.ndarray:
    """The IoU of each box (N, 4: x0 y0 x1 y1, as the anchors are) with the anchor that fits it best."""
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    best = np.zeros(len(boxes))
    for level, stride in enumerate(map(np.array, anchors.strides)):
        away = np.abs((centre - anchors.offset * stride + stride / 2) % stride - stride / 2)  # from the nearest place
        for shape in anchors.shapes(level):
            shared = np.minimum(np.minimum(size, shape), np.maximum(0, (size + shape) / 2 - away)).prod(1)
            best = np.maximum(best, shared / (size.prod(1) + shape.prod() - shared))
    return best


def recall(anchors: Anchors, boxes: np.ndarray) -> float:
    """The share of boxes that have an anchor; 1 where there are no boxes."""
    return float((best_iou(anchors, boxes) >= MATCH).mean()) if len(boxes) else 1.0


def clusters(sizes: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """(k, 2): the widths and heights that stand for those of boxes (N, 2), by k-means whose distance is 1 - IoU of
    boxes with one centre; ascending by area. Fewer than k different boxes are repeated."""
    rng = np.random.default_rng(seed)
    order = np.argsort(sizes.prod(1), kind="stable")
    centres = sizes[order[((np.arange(k) + 0.5) / k * len(sizes)).astype(int)]].astype(np.float64)
    own = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        shared = np.minimum(sizes[:, None], centres[None]).prod(2)
        nearest = (shared / (sizes.prod(1)[:, None] + centres.prod(1)[None] - shared)).argmax(1)
        if (nearest == own).all():
            break
        own = nearest
        for i in range(k):
            members = sizes[own == i]
            centres[i] = np.median(members, axis=0) if len(members) else sizes[rng.integers(len(sizes))]
    ordered: np.ndarray = centres[np.argsort(centres.prod(1), kind="stable")]
    return ordered


def fitted(default: Anchors, boxes: np.ndarray, *, seed: int = 0, most_ratios: int = 3) -> Anchors:
    """Anchors for these boxes on the levels of `default`, with as few ratios as do, and one scale if that does;
    `default` itself where none have a higher recall. More of them are taken if that raises the recall by MORE."""
    if len(boxes) > MOST:
        boxes = boxes[np.random.default_rng(seed).choice(len(boxes), MOST, replace=False)]
    if not len(boxes):
        return default
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9)
    edges = np.sqrt(clusters(size, len(default.sizes), seed).prod(1))
    shape = np.sqrt(size[:, 1] / size[:, 0])
    if default.kind == "pair":
        shape = np.maximum(shape, 1 / shape)
    chosen, best = default, _worth(default, boxes)
    for scales in dict.fromkeys(((1.0,), default.scales)):
        for n in range(1, most_ratios + 1):
            ratios = clusters(np.stack((1 / shape, shape), 1), n, seed)
            each = tuple(sorted({float(height / width) for width, height in ratios}))
            start = replace(default, sizes=tuple(map(float, edges)), ratios=each, scales=scales)
            tried = climbed(start, boxes)
            worth = _worth(tried, boxes)
            if worth > best and (chosen is default or worth[0] >= best[0] + MORE):
                chosen, best = tried, worth
    return chosen


def climbed(anchors: Anchors, boxes: np.ndarray) -> Anchors:
    """The anchors after each size and ratio in turn was moved to where more boxes have one, or fit better."""
    best = _worth(anchors, boxes)
    for _ in range(PASSES):
        before = best
        for name in ("sizes", "ratios"):
            for i in range(len(getattr(anchors, name))):
                for moved in _moved(anchors, name, i):
                    if (worth := _worth(moved, boxes)) > best:
                        anchors, best = moved, worth
        if best == before:
            break
    return anchors


def _moved(anchors: Anchors, name: str, i: int) -> Iterator[Anchors]:
    """The anchors with one size, or one ratio, at other values; they stay in ascending order."""
    values = list(getattr(anchors, name))
    for factor in STEPS:
        changed = [*values[:i], values[i] * factor, *values[i + 1 :]]
        if changed == sorted(set(changed)):
            of_name: dict[str, Any] = {name: tuple(changed)}
            yield replace(anchors, **of_name)


def _worth(anchors: Anchors, boxes: np.ndarray) -> tuple[float, float]:
    """What makes anchors better: more boxes that have one; and as many, those that fit better."""
    iou = best_iou(anchors, boxes)
    return float((iou >= MATCH).mean()), float(iou.mean())
