"""What stands behind the towers of United-Perception's BigNAS RetinaNets: losses, anchors, assignment, the choice of
boxes (`post_process`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchkit.nas.convert.parts import count
from searchkit.reading.cursor import Cursor

CLASS_LOSSES = {"quality_focal_loss": "quality_focal", "sigmoid_focal_loss": "focal"}
STRIDES = [8, 16, 32, 64, 128]  # of P3 to P7
# Of its one published RetinaNet, where a file has none of its own.
PUBLISHED: Mapping[str, Any] = {
    "anchor_sizes": STRIDES,
    "anchor_scales": [6, 8],
    "anchor_ratios": [1],
    "assigner": "atss",
    "assigner_options": {"nearest": 18},
    "class_loss": "quality_focal",
    "box_loss": "giou",
    "detections_per_image": 100,
}


def read_post_process(at: Cursor, notes: list[str]) -> dict[str, Any]:
    """The options of a RetinaNet's head that a part `post_process` says."""
    cfg = at.get("cfg")
    options: dict[str, Any] = {}
    if cfg is None:
        return options
    loss = text_at(cfg, "cls_loss", "type")
    if loss in CLASS_LOSSES:
        options["class_loss"] = CLASS_LOSSES[loss]
    elif loss is not None:
        notes.append(f"post_process: cls_loss {loss} has no counterpart that is known: left out")
    if text_at(cfg, "loc_loss", "kwargs", "loss_type") == "giou":
        options["box_loss"] = "giou"
    given = _at(cfg, "anchor_generator", "kwargs")
    if given is not None:
        options |= {
            "anchor_sizes": STRIDES,
            "anchor_scales": [item.data for item in given["anchor_scales"].items] if "anchor_scales" in given else [4],
            "anchor_ratios": [item.data for item in given["anchor_ratios"].items] if "anchor_ratios" in given else [1],
        }
        notes.append("anchors are so many times their level's stride there: anchor_sizes are the strides of P3 to P7")
    if text_at(cfg, "roi_supervisor", "type") == "atss":
        nearest = _at(cfg, "roi_supervisor", "kwargs", "top_n")
        options |= {"assigner": "atss"} | ({} if nearest is None else {"assigner_options": {"nearest": count(nearest)}})
    predictor = _at(cfg, "roi_predictor", "kwargs")
    if predictor is not None:
        for name, place in (
            ("score_thresh", _at(predictor, "pre_nms_score_thresh")),
            ("candidates", _at(predictor, "pre_nms_top_n")),
            ("nms_thresh", _at(predictor, "merger", "kwargs", "nms", "nms_iou_thresh")),
            ("detections_per_image", _at(predictor, "merger", "kwargs", "top_n")),
        ):
            if place is not None:
                options[name] = place.data
    return options


def text_at(at: Cursor, *keys: str) -> str | None:
    """The text of a key within others; None where it is not there."""
    inside = _at(at, *keys)
    return None if inside is None or inside.node.is_null else str(inside.data)


def _at(at: Cursor, *keys: str) -> Cursor | None:
    inside: Cursor | None = at
    for key in keys:
        inside = None if inside is None else inside.get(key)
    return inside
