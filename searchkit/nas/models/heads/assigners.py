"""Which box each anchor is to find: a table of ways to say so.

An assigner takes anchors by level and the boxes of an image (at least one), both corners in px, and gives for each
anchor the number of its box, -1 for background, or -2 for what no loss looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torchvision.ops as ops
from torch import Tensor


def assign_by_iou(
    anchors: Sequence[Tensor],
    boxes: Tensor,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    force: Literal["none", "anchor", "box"] = "anchor",
) -> Tensor:
    """The box of the largest IoU: from `positive` on it is the anchor's; below `negative` the anchor is background, and
    between the two it is ignored.

    force: what an anchor gets that is the best one of some box, however small their IoU. "anchor": the box that is best
    for the anchor itself, ties included (Faster R-CNN, RetinaNet). "box": that box, the last one if it is so of several
    (SSD). "none": nothing more.
    """
    iou: Tensor = ops.box_iou(boxes, torch.cat(list(anchors)))
    values, best = iou.max(dim=0)
    matched = best.masked_fill(values < positive, -2).masked_fill(values < negative, -1)
    if force == "anchor":
        forced = (iou == iou.max(dim=1, keepdim=True).values).any(dim=0)
        matched = torch.where(forced, best, matched)
    elif force == "box":
        numbers = torch.arange(len(boxes), device=boxes.device)
        matched = matched.scatter_reduce(0, iou.argmax(dim=1), numbers, "amax", include_self=False)
    return matched


def assign_atss(anchors: Sequence[Tensor], boxes: Tensor, *, nearest: int = 9) -> Tensor:
    """Adaptive training sample selection (https://arxiv.org/abs/1912.02424).

    Candidates of a box are the `nearest` anchors of each level by the distance of centres. Those are its own whose IoU
    is at least the mean plus the standard deviation (n - 1) over all its candidates, and whose centre is inside of it.
    An anchor of several boxes goes to that of the largest IoU. `nearest` counts anchors: with A of them on each place
    it is A times the paper's k.
    """
    every = torch.cat(list(anchors))
    iou = ops.box_iou(boxes, every)
    centres, goals = (every[:, :2] + every[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = torch.cdist(goals, centres, compute_mode="donot_use_mm_for_euclid_dist")
    chosen, first = [], 0
    for level in anchors:
        of_level = distances[:, first : first + len(level)]
        chosen.append(first + of_level.topk(min(nearest, len(level)), dim=1, largest=False).indices)
        first += len(level)
    candidates = torch.cat(chosen, dim=1)  # (boxes, candidates)
    overlaps = iou.gather(1, candidates)
    spread = overlaps.std(dim=1, keepdim=True, correction=min(1, overlaps.shape[1] - 1))
    at = centres[candidates]
    sides = torch.cat((at - boxes[:, None, :2], boxes[:, None, 2:] - at), dim=2)  # distances to the four sides, px
    own = (overlaps >= overlaps.mean(dim=1, keepdim=True) + spread) & (sides.min(dim=2).values > 0.01)
    claims = torch.full_like(iou, -1).scatter(1, candidates, torch.where(own, overlaps, -1))
    values, best = claims.max(dim=0)
    return best.masked_fill(values < 0, -1)


def assign_in_cell(anchors: Sequence[Tensor], boxes: Tensor, *, positive: float = 0.5, negative: float = 0.5) -> Tensor:
    """YOLOv3's rule: only the anchors of the cell that holds a box's centre may be its own. Those are whose IoU with it
    is above `positive`, and the best of them, however small its IoU; of several boxes an anchor goes to that of the
    largest IoU, but one that is the best of a box to that box, the last one if it is so of several. Others whose IoU
    with all boxes is at most `negative` are background, and the rest is ignored.

    anchors: (A, 5), the last the edge of the cell.
    """
    every = torch.cat(list(anchors))
    iou, edges = ops.box_iou(boxes, every[:, :4]), every[:, 4, None]
    cells = ((every[:, :2] + every[:, 2:4]) / 2 / edges).floor()
    goals = ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2 / edges).floor()  # (boxes, anchors, 2)
    claims = torch.where((goals == cells).all(2), iou, -1)
    values, best = claims.max(dim=0)
    matched = torch.where(iou.max(dim=0).values <= negative, -1, -2)
    matched = torch.where(values > positive, best, matched)
    forced = (claims >= 0) & (claims == claims.max(dim=1, keepdim=True).values)
    numbers = torch.arange(len(boxes), device=boxes.device)[:, None]
    return torch.where(forced.any(dim=0), torch.where(forced, numbers, -1).amax(dim=0), matched)


ASSIGNERS: dict[str, Callable[..., Tensor]] = {"iou": assign_by_iou, "atss": assign_atss, "cell": assign_in_cell}
