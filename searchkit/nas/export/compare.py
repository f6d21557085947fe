"""How far two networks' outputs for the same images are apart: boxes found by both, boxes found by one alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

AT_THE_CUT = 1e-4  # boxes with a score so near to the end of a list (see `end_of`) may be in one of two lists alone
ALONE = (
    0.05  # of all boxes, that may be found by one network only: those of proposals, or of IoUs, that roundings decide
)

Found = Mapping[str, np.ndarray]  # boxes (n, 4), scores (n,), labels (n,)


class Near(NamedTuple):
    """How far the corners and the scores of two boxes of a class may differ, if they are to be the same box. least:
    what one of them must score to be told of at all."""

    px: float
    score: float
    least: float = 0.0


SAME = Near(0.1, 1e-3)  # where roundings of floating-point numbers alone differ


@dataclass(frozen=True)
class Boxes:
    """What two lists of boxes have in common. px, score: the largest differences of boxes that are the same; alone:
    boxes that one list alone has; at_cut: those whose score is at the end of their list, where roundings decide."""

    pairs: int
    px: float
    score: float
    alone: int
    at_cut: int

    def said(self) -> dict[str, Any]:
        """As a proof has it."""
        return {
            "boxes": self.pairs,
            "largest_distance_px": self.px,
            "largest_score_difference": self.score,
            "boxes_of_one_alone": self.alone,
            "at_the_cut": self.at_cut,
        }

    @property
    def fault(self) -> str:
        """What is too far apart, in words; empty where nothing is."""
        if self.alone > ALONE * (self.pairs + self.alone):
            return f"{self.alone} of {self.pairs + self.alone} boxes are found by one of the two alone"
        return ""


def same_boxes(a: Found, b: Found, most: int, least: float, within: Near = SAME) -> Boxes:
    """Each box of `a` with the nearest box of `b` of its class that is no other's, if it is near enough. most: boxes
    that a full list has; least: the score that all are above."""
    near = np.abs(a["boxes"][:, None] - b["boxes"][None]).max(-1, initial=0)
    off = np.abs(a["scores"][:, None] - b["scores"][None])
    near = np.where((a["labels"][:, None] == b["labels"][None]) & (off <= within.score), near, np.inf)
    every: list[tuple[int, int]] = []
    for i in range(len(near)):  # best first
        j = int(near[i].argmin()) if near.shape[1] else 0
        if near.shape[1] and near[i, j] <= within.px:
            every.append((i, j))
            near[:, j] = np.inf
    pairs = [(i, j) for i, j in every if max(a["scores"][i], b["scores"][j]) >= within.least]
    distances = [np.abs(a["boxes"][i] - b["boxes"][j]).max() for i, j in pairs]
    scores = [abs(a["scores"][i] - b["scores"][j]) for i, j in pairs]
    rest = [_unpaired(a, {i for i, _ in every}, within), _unpaired(b, {j for _, j in every}, within)]
    cut = sum(
        int((alone <= end_of(of, most, least) + AT_THE_CUT).sum()) for alone, of in zip(rest, (a, b), strict=True)
    )
    return Boxes(
        len(pairs), float(max(distances, default=0)), float(max(scores, default=0)), sum(map(len, rest)) - cut, cut
    )


def together(each: Iterable[Boxes]) -> Boxes:
    """Of several images."""
    every = [*each]
    return Boxes(
        sum(b.pairs for b in every),
        max((b.px for b in every), default=0.0),
        max((b.score for b in every), default=0.0),
        sum(b.alone for b in every),
        sum(b.at_cut for b in every),
    )


def _unpaired(found: Found, paired: set[int], within: Near) -> np.ndarray:
    """The scores of the others, as far as they are told of."""
    scores = enumerate(found["scores"])
    return np.array([s for i, s in scores if i not in paired and s >= within.least], np.float32)


def end_of(found: Found, most: int, least: float) -> float:
    """The score below which a list has nothing: that of its weakest box where it is full, else the threshold."""
    return float(found["scores"].min()) if len(found["scores"]) >= most else least


def largest_difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Between the numbers of arrays, of which both have the same shapes."""
    return max((float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True) if x.size), default=0.0)
