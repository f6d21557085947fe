"""Boxes beside anchors: deltas from one to the other and back, the overlap of pairs, and NMS.

What is here, in assigners.py, dense_losses.py and in dense.py's DenseDetector is also written into extracted folders,
as it stands: it uses math, torch, F, ops (torchvision.ops) and each other, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torchvision.ops as ops
from torch import Tensor


def encode(boxes: Tensor, anchors: Tensor, coder: tuple[float, float]) -> Tensor:
    """Deltas that lead from anchors to boxes, both (P, 4) corners in px: centre by the anchor's size, logarithm of the
    size, times the coder's two weights (of centres, of sizes)."""
    size, target = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    centre, goal = anchors[:, :2] + 0.5 * size, boxes[:, :2] + 0.5 * target
    return torch.cat((coder[0] * (goal - centre) / size, coder[1] * torch.log(target / size)), dim=1)


def decode(deltas: Tensor, anchors: Tensor, coder: tuple[float, float]) -> Tensor:
    """The boxes that deltas lead to from anchors; a box is at most 1000 / 16 times its anchor's size."""
    size = anchors[:, 2:] - anchors[:, :2]
    centre = deltas[:, :2] / coder[0] * size + (anchors[:, :2] + 0.5 * size)
    half = 0.5 * (torch.exp(torch.clamp(deltas[:, 2:] / coder[1], max=math.log(1000 / 16))) * size)
    return torch.cat((centre - half, centre + half), dim=1)


def encode_in_cell(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What deltas of anchors (P, 5), the last the edge of the cell, are to say of boxes (P, 4): the place of the centre
    in the cell, from 0 to 1, and the logarithm of the size by the anchor's."""
    low, high = anchors[:, :2], anchors[:, 2:4]
    offset = ((boxes[:, :2] + boxes[:, 2:]) - (low + high)) / 2 / anchors[:, 4:]
    growth = ((boxes[:, 2:] - boxes[:, :2]) / (high - low)).clamp(min=1e-6)
    return torch.cat(((offset + 0.5).clamp(1e-6, 1 - 1e-6), growth.log()), dim=1)


def decode_in_cell(deltas: Tensor, anchors: Tensor, coder: tuple[float, float]) -> Tensor:
    """The boxes that deltas lead to from anchors (P, 5), the last the edge of the cell: the centre stays in the cell,
    at the sigmoid of the first two (https://arxiv.org/abs/1804.02767, §2.1). The coder has no part in it."""
    low, high = anchors[:, :2], anchors[:, 2:4]
    centre = (low + high) / 2 + (deltas[:, :2].sigmoid() - 0.5) * anchors[:, 4:]
    half = 0.5 * (torch.exp(torch.clamp(deltas[:, 2:], max=math.log(1000 / 16))) * (high - low))
    return torch.cat((centre - half, centre + half), dim=1)


DECODERS: dict[str, Callable[..., Tensor]] = {"anchor": decode, "cell": decode_in_cell}


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes with boxes, row by row: (P, 4) and (P, 4) -> (P,)."""
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    common = sides.prod(1)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return common / (areas - common).clamp(min=1e-7)


def apart(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float, most: int) -> Tensor:
    """The first `most` of what ops.batched_nms keeps of boxes (N, 4), to the bit: indices, best first, and of equal
    scores the first one first (there any of them).

    Which of the best boxes are kept is decided by these alone, so the boxes are looked at in order of their scores
    until enough are kept: NMS of all of them takes a CPU longer than the network of a small detector.
    """
    order = scores.sort(descending=True, stable=True)[1]
    if not len(order):
        return order
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    moved = boxes.numel() <= (4000 if boxes.device.type == "cpu" else 100_000)  # as batched_nms does
    if moved:  # each class to a place of its own
        boxes = boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None]
    kept = order[:0]  # places in the order
    for more in torch.arange(len(order), device=order.device).split(2 * most):
        tried = torch.cat((kept, more))
        groups = [tried] if moved else [tried[labels[tried] == label] for label in labels[tried].unique()]
        kept = torch.cat([group[ops.nms(boxes[group], scores[group], overlap)] for group in groups]).sort()[0]
        if len(kept) >= most:
            break
    return order[kept[:most]]
