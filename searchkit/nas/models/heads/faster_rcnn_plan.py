"""The heads of a Faster R-CNN as rows. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from searchkit.nas.models.plan import CACHE, Layer, Row


@dataclass(frozen=True)
class HeadSizes:
    """What decides the cost of a Faster R-CNN after its backbone (https://arxiv.org/abs/1506.01497, with an FPN)."""

    num_classes: int  # without background
    fpn_channels: int = 256
    levels: int = 5  # of the pyramid; those that the backbone has no feature for are max-pooled from the coarsest
    anchors: int = 3  # per location
    rpn_activation: Literal["sigmoid", "softmax"] = "sigmoid"  # 1 or 2 outputs per anchor
    class_agnostic: bool = False  # 4 box outputs in all, not 4 per class (background included, as in torchvision)
    box_head_width: int = 1024
    roi_size: int = 7
    proposals: int = 1000  # that the box head is priced on, per image


@lru_cache(CACHE)
def rpn_row(heads: HeadSizes) -> Row:
    """The region proposal head, which runs at every level of the pyramid; its last two convs both read the first."""
    wide, scores = heads.fpn_channels, heads.anchors * (2 if heads.rpn_activation == "softmax" else 1)
    return Row(
        "rpn.head",
        0,
        0,
        (
            Layer("conv", "conv.0.0", wide, wide, kernel=3, padding=1, bias=True),
            Layer("conv", "cls_logits", wide, scores, bias=True),
            Layer("conv", "bbox_pred", wide, 4 * heads.anchors, bias=True),
        ),
    )


@lru_cache(CACHE)
def box_row(heads: HeadSizes) -> Row:
    """The box head, which runs on every proposal: two hidden layers; its last two layers both read the second."""
    wide, classes = heads.box_head_width, heads.num_classes + 1
    return Row(
        "roi_heads",
        0,
        0,
        (
            Layer("linear", "box_head.fc6", heads.fpn_channels * heads.roi_size**2, wide, bias=True),
            Layer("relu", "relu", wide, wide),
            Layer("linear", "box_head.fc7", wide, wide, bias=True),
            Layer("relu", "relu", wide, wide),
            Layer("linear", "box_predictor.cls_score", wide, classes, bias=True),
            Layer("linear", "box_predictor.bbox_pred", wide, 4 if heads.class_agnostic else 4 * classes, bias=True),
        ),
    )
