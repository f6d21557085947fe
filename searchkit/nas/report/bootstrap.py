"""How far an AP, and the difference of two, may be chance: the images of a test set drawn anew, many times.

The AP of a draw is COCO's: of the same matches, each image counted as often as it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)  # COCO's
RECALLS = np.linspace(0, 1, 101)  # COCO's
DRAWS = 400
SPREAD = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, eq=False)
class Matches:
    """What a detector found of one class on a set of images, best first."""

    image: np.ndarray  # (N,) the image of each detection
    hit: np.ndarray  # (T, N) bool: it is an object, at each threshold of the IoU
    counted: np.ndarray  # (T, N) bool: it counts at all
    objects: np.ndarray  # (images,) how many there are to find


@dataclass(frozen=True)
class Spread:
    """A number, and between which two it lies in 95 of 100 draws."""

    value: float
    low: float
    high: float


def matches_of(compared: Sequence[tuple[Sequence[int], Sequence[Any], np.ndarray]]) -> list[Matches]:
    """Of what `Evaluator.matches` gives."""
    out = []
    for _, rows, objects in compared:
        there = [(i, row) for i, row in enumerate(rows) if row is not None and len(row["dtScores"])]
        scores = np.concatenate([[], *(row["dtScores"] for _, row in there)])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.zeros(0, int), *(np.full(len(row["dtScores"]), i) for i, row in there)])[order]
        hit = [np.asarray(row["dtMatches"]) > 0 for _, row in there]
        counted = [~np.asarray(row["dtIgnore"], bool) for _, row in there]
        none = np.zeros((len(IOUS), 0), bool)
        out.append(
            Matches(
                image,
                np.concatenate([none, *hit], axis=1)[:, order],
                np.concatenate([none, *counted], axis=1)[:, order],
                objects,
            )
        )
    return out


def ap(classes: Sequence[Matches], times: np.ndarray) -> float:
    """The AP, each image counted so many times (images,); -1 where there is nothing to find."""
    found = []
    for each in classes:
        objects = float((each.objects * times).sum())
        if objects:
            found.append(_ap_of(each, times, objects))
    return float(np.mean(found)) if found else -1.0


def _ap_of(each: Matches, times: np.ndarray, objects: float) -> float:
    weight = times[each.image] * each.counted  # (T, N)
    true = np.cumsum(weight * each.hit, axis=1)
    every = np.cumsum(weight, axis=1)
    precision = true / np.maximum(every, 1e-12)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for row, best in zip(true / objects, precision, strict=True):
        at = np.searchsorted(row, RECALLS, side="left")
        total += float(np.where(at < len(best), best[np.minimum(at, len(best) - 1)], 0.0).mean()) if len(best) else 0.0
    return total / len(each.hit)


def draws(images: int, n: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(n, images): how often each image is drawn, with replacement."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(n)])


def spread_of(a: Sequence[Matches], b: Sequence[Matches] | None, images: int, n: int = DRAWS, seed: int = 0) -> Spread:
    """The AP of a, or with b the difference a - b on the same images, and how it spreads over draws."""
    once = np.ones(images)
    value = ap(a, once) - (ap(b, once) if b is not None else 0.0)
    each = [ap(a, times) - (ap(b, times) if b is not None else 0.0) for times in draws(images, n, seed)]
    low, high = np.percentile(each, SPREAD)
    return Spread(value, float(low), float(high))
