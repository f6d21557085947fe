"""A static Faster R-CNN as an ONNX graph, from an image to boxes.

What torchvision does behind the layers (its RegionProposalNetwork, MultiScaleRoIAlign and RoIHeads in eval mode), in
its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.nas.graph.boxes import (
    F32,
    I64,
    Frame,
    anchors,
    apart,
    clipped,
    column,
    decode,
    frame,
    give,
    places_of,
    settings,
    without_small,
)
from searchkit.nas.graph.graph import Graph, Value
from searchkit.nas.graph.trace import trace

PLAIN = (1.0, 1.0, 1.0, 1.0)  # weights of the proposals' deltas


class Layers(nn.Module):
    """Backbone, neck and region proposal head: images (1, 3, H, W), normalised, to the levels, their objectness and
    their deltas."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.backbone, self.head = net.backbone, net.rpn.head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class; all one after the other."""
        levels = list(self.backbone(x).values())
        objectness, deltas = self.head(levels)
        return *levels, *objectness, *deltas


def write(g: Graph, net: Any) -> dict[str, Any]:
    """The whole detector, and what its file is to say of it; its input and outputs: searchkit.nas.graph.boxes."""
    at = frame(g, net.transform)
    divisor = int(net.transform.size_divisible)
    with torch.no_grad():
        names = [*net.backbone(torch.zeros(1, 3, 2 * divisor, 2 * divisor))]
    n, outputs = len(names), trace(Layers(net), at.pixels, divisor)
    levels, objectness, deltas = outputs[:n], outputs[n : 2 * n], outputs[2 * n :]
    g.predictions += [value.name for value in outputs[n:]]
    proposals = propose(g, net.rpn, objectness, deltas, at)
    maps = [x for name, x in zip(names, levels, strict=True) if name in net.roi_heads.box_roi_pool.featmap_names]
    heads = net.roi_heads
    detect(g, heads, *regions_of(g, scaled_pool(net), maps, proposals), at)
    return settings(net.transform, heads.score_thresh, heads.nms_thresh, heads.detections_per_img)


def propose(g: Graph, rpn: Any, objectness: Sequence[Value], deltas: Sequence[Value], at: Frame) -> Value:
    """The proposals (P, 4), best first, in px of the padded image."""
    boxes, scores = [], []
    kept = rpn.post_nms_top_n()
    for grid, level, shifts in zip(
        anchors(g, rpn.anchor_generator, deltas, at.padded), objectness, deltas, strict=True
    ):
        best, order = places_of(level, 1).reshape(-1).top(rpn.pre_nms_top_n(), 0)
        corners = clipped(decode(places_of(shifts, 4).at(order), grid.at(order), PLAIN), at.shown)
        chances = without_small(g.op("Sigmoid", best), corners, rpn.min_size)
        chances = chances.reshape(1, 1, -1)
        index = column(apart(corners.unsqueeze(0), chances, kept, rpn.nms_thresh, _below(rpn.score_thresh)), 2)
        boxes.append(corners.at(index))
        scores.append(chances.reshape(-1).at(index))
    _, order = g.concat(scores, 0).top(kept, 0)
    return g.concat(boxes, 0).at(order)


def scaled_pool(net: Any) -> Any:
    """The pooling of a detector once it has seen an image: torchvision tells the scales of levels from its first."""
    if net.roi_heads.box_roi_pool.scales is None:
        edge = net.transform.min_size[-1]
        with torch.no_grad():
            net([torch.zeros(3, edge, edge)])
    return net.roi_heads.box_roi_pool


def regions_of(g: Graph, pool: Any, maps: Sequence[Value], proposals: Value) -> tuple[Value, Value]:
    """(features (P, C, h, w) of proposals, these proposals in the order of the features: by level)."""
    if len(maps) == 1:
        return _aligned(g, pool, maps[0], proposals, pool.scales[0]), proposals
    mapper = pool.map_levels
    sides = proposals.cut(2, 4, 1) - proposals.cut(0, 2, 1)
    edge = g.op("Sqrt", column(sides, 0) * column(sides, 1))
    doublings = g.op("Log", edge / float(mapper.s0)) / float(np.log(2))
    level = g.op("Floor", float(mapper.lvl0) + doublings + float(mapper.eps))
    level = g.op("Clip", level, np.array(mapper.k_min, F32), np.array(mapper.k_max, F32)).to(I64)
    features, boxes = [], []
    for number, (x, scale) in enumerate(zip(maps, pool.scales, strict=True)):
        on_it = g.op("Equal", level, np.array(mapper.k_min + number, I64), dtype=bool)
        of_level = proposals.at(g.op("NonZero", on_it, dtype=I64).reshape(-1))
        features.append(_aligned(g, pool, x, of_level, scale))
        boxes.append(of_level)
    return g.concat(features, 0), g.concat(boxes, 0)


def _aligned(g: Graph, pool: Any, x: Value, boxes: Value, scale: float) -> Value:
    """The features of boxes on one level."""
    image = g.op("Expand", np.zeros(1, I64), boxes.shape(0, 1))
    height, width = pool.output_size
    return g.op(
        "RoiAlign",
        x,
        boxes,
        image,
        output_height=height,
        output_width=width,
        sampling_ratio=pool.sampling_ratio,
        spatial_scale=float(scale),
        coordinate_transformation_mode="output_half_pixel",
    )


def detect(g: Graph, heads: Any, features: Value, proposals: Value, at: Frame) -> None:
    """The boxes of the classes, from the features of proposals."""
    x = features.reshape(-1, heads.box_head.fc6.in_features)
    for layer in (heads.box_head.fc6, heads.box_head.fc7):
        x = g.op("Relu", _linear(g, x, layer), layer=True)
    logits, deltas = (_linear(g, x, layer) for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred))
    g.predictions += [logits.name, deltas.name]
    columns = heads.box_predictor.cls_score.out_features
    scores = g.op("Softmax", logits, axis=-1).transpose(1, 0).cut(1, columns, 0)  # (classes, P), without background
    each = decode(deltas.reshape(-1, deltas_of(heads), 4), proposals.unsqueeze(1), heads.box_coder.weights)
    boxes = clipped(each, at.shown).transpose(1, 0, 2)  # (classes, P, 4), or one for all classes
    if deltas_of(heads) > 1:
        boxes = boxes.cut(1, columns, 0)
    scores = without_small(scores, boxes, 1e-2)
    if deltas_of(heads) > 1:  # each class has boxes of its own: a group of one class
        scores = scores.unsqueeze(1)
        kept = apart(boxes, scores, heads.detections_per_img, heads.nms_thresh, heads.score_thresh)
        chosen = g.op("GatherND", boxes, g.concat([kept.cut(0, 1, 1), kept.cut(2, 3, 1)], 1))
        label = column(kept, 0) + 1
    else:
        scores = scores.unsqueeze(0)
        kept = apart(boxes, scores, heads.detections_per_img, heads.nms_thresh, heads.score_thresh)
        chosen, label = boxes.reshape(-1, 4).at(column(kept, 2)), column(kept, 1) + 1
    give(g, chosen, g.op("GatherND", scores, kept), label, at, heads.detections_per_img)


def deltas_of(heads: Any) -> int:
    """How many boxes the head makes of a proposal: one for each class and the background, or one for all."""
    return int(heads.box_predictor.bbox_pred.out_features) // 4


def _linear(g: Graph, x: Value, layer: nn.Linear) -> Value:
    return g.linear(x, layer.weight.detach().numpy(), layer.bias.detach().numpy())


def _below(threshold: float) -> float:
    """For a score that is to be at least `threshold`, what it must be above. Boxes left out have -1."""
    return float(np.nextafter(np.float32(threshold), np.float32(-1)))
