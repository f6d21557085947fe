"""The names of what an evaluation of a detector tells, and what they stand for. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable

MAX_DETS = 100  # of one class in one image, the best by score; COCO's number
FEWER = (1, 10)  # numbers of detections whose recall is reported, too
PER_CLASS = "bbox_AP/"  # and the name of a class

# area ranges (px^2): suffix of the metrics -> (COCO's name, from, to)
EVERYWHERE = 1e10
AREAS = {
    "s": ("small", 0.0, 32.0**2),
    "m": ("medium", 32.0**2, 96.0**2),
    "l": ("large", 96.0**2, EVERYWHERE),
}
IOUS = {"bbox_mAP_50": 0.5, "bbox_mAP_75": 0.75}  # else the mean over 0.50:0.95


def metric_names(areas: Iterable[str] = (), max_dets: int = MAX_DETS) -> tuple[str, ...]:
    """The metrics of an evaluation except those of single classes; areas: names of further ranges."""
    every = (*AREAS, *areas)
    recalls = ("bbox_AR", *(f"bbox_AR_{n}" for n in FEWER if n < max_dets))
    return ("bbox_mAP", *IOUS, *(f"bbox_mAP_{a}" for a in every), *recalls, *(f"bbox_AR_{a}" for a in every))
