"""A static detector without regions as an ONNX graph, from an image to boxes: `boxes` of dense.py, in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
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
    decode_in_cell,
    frame,
    give,
    places_of,
    settings,
)
from searchkit.nas.graph.graph import Graph, Value
from searchkit.nas.graph.trace import trace


class Layers(nn.Module):
    """Images (1, 3, H, W), normalised, to the class logits of all levels, then their deltas."""

    def __init__(self, outputs: nn.Module) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class; all one after the other."""
        levels = self.outputs(x)
        return *(logits for logits, _ in levels), *(deltas for _, deltas in levels)


Decoder = Callable[[Value, Value], Value]  # deltas (..., 4) and anchors to boxes


def write(g: Graph, net: Any, outputs: nn.Module, decoder: str) -> dict[str, Any]:
    """The whole detector, and what its file is to say of it; its input and outputs: searchkit.nas.graph.boxes.
    outputs: its `levels` as a module. decoder: a row of heads.boxes.DECODERS."""
    at = frame(g, net.transform)
    divisor = int(net.transform.size_divisible)
    n = len(net.anchor_generator.num_anchors_per_location())
    every = trace(Layers(outputs), at.pixels, divisor)
    g.predictions += [value.name for value in every]
    logits, deltas = every[:n], every[n:]
    grids = anchors(g, net.anchor_generator, deltas, at.padded)
    columns = net.num_classes + int(net.background)
    scores = [_scores(g, net, places_of(x, columns)) for x in logits]
    find = _of_classes if net.candidates_of == "class" else _of_levels
    x, y = net.coder  # the weights of the centre's two deltas, and of the size's two
    boxes_of: Decoder = decode_in_cell if decoder == "cell" else partial(decode, coder=(x, x, y, y))
    find(g, net, boxes_of, scores, [places_of(x, 4) for x in deltas], grids, at)
    return settings(net.transform, net.score_thresh, net.nms_thresh, net.detections_per_image)


def _scores(g: Graph, net: Any, logits: Value) -> Value:
    """Scores (A, classes) of logits (A, classes and perhaps the background)."""
    scores = g.op("Softmax", logits, axis=-1) if net.scores == "softmax" else g.op("Sigmoid", logits)
    if net.scores == "objectness":
        return scores.cut(1, net.num_classes + 1, 1) * scores.cut(0, 1, 1)
    return scores.cut(1, net.num_classes + 1, 1) if net.background else scores


def _of_levels(
    g: Graph,
    net: Any,
    boxes_of: Decoder,
    scores: Sequence[Value],
    deltas: Sequence[Value],
    grids: Sequence[Value],
    at: Frame,
) -> None:
    """The best candidates of each level, whatever their class."""
    boxes, chances, classes = [], [], []
    k = net.num_classes
    for of_level, shifts, grid in zip(scores, deltas, grids, strict=True):
        best, order = of_level.reshape(-1).top(net.candidates, 0)
        place = order / k
        boxes.append(clipped(boxes_of(shifts.at(place), grid.at(place)), at.shown))
        chances.append(best)
        classes.append(order - place * k)
    corners, best, label = (g.concat(parts, 0) for parts in (boxes, chances, classes))
    same = g.op("Equal", label.unsqueeze(0), np.arange(k, dtype=I64)[:, None], dtype=bool)
    table = g.op("Where", same, best.unsqueeze(0), np.array(-1, F32), dtype=F32).unsqueeze(0)  # (1, classes, N)
    kept = column(apart(corners.unsqueeze(0), table, net.detections_per_image, net.nms_thresh, net.score_thresh), 2)
    give(g, corners.at(kept), best.at(kept), label.at(kept) + 1, at, net.detections_per_image)


def _of_classes(
    g: Graph,
    net: Any,
    boxes_of: Decoder,
    scores: Sequence[Value],
    deltas: Sequence[Value],
    grids: Sequence[Value],
    at: Frame,
) -> None:
    """The best candidates of each class, of all levels as one."""
    corners = clipped(boxes_of(g.concat(deltas, 0), g.concat(grids, 0)), at.shown)
    best, order = g.concat(scores, 0).transpose(1, 0).top(net.candidates)  # (classes, candidates)
    boxes, chances = corners.at(order), best.unsqueeze(1)  # (classes, candidates, 4): each class is a group
    kept = apart(boxes, chances, net.detections_per_image, net.nms_thresh, net.score_thresh)
    pair = g.concat([kept.cut(0, 1, 1), kept.cut(2, 3, 1)], 1)
    label = column(kept, 0) + 1
    give(g, g.op("GatherND", boxes, pair), g.op("GatherND", chances, kept), label, at, net.detections_per_image)
