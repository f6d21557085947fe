"""Losses of dense detectors, a table each for classes, boxes, and what one image counts.

A loss of classes gives one number for each anchor: of logits (N, A, K), labels (N, A; a column of the logits of a
foreground class, -1 background, -2 ignored), and the quality of a positive (its predicted box's IoU with the true one,
else 0). One of boxes gives one number for each positive: of deltas, true boxes and anchors (P, 4), and the coder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision.ops as ops
from torch import Tensor

from searchkit.nas.models.heads.boxes import decode, encode, encode_in_cell


def focal(logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (https://arxiv.org/abs/1708.02002), summed over the classes: (N, A). alpha: the weight of
    positives, 1 - alpha that of negatives; -1 weighs none."""
    targets = (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits.dtype)
    values: Tensor = ops.sigmoid_focal_loss(logits, targets, alpha, gamma).sum(-1)
    return values * (labels != -2)


def quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Quality focal loss (https://arxiv.org/abs/2006.04388), summed over the classes: (N, A). The score of a positive
    is to be its quality, not 1."""
    places = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    targets = places * quality[..., None].to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((targets - logits.sigmoid()).abs() ** gamma * entropy).sum(-1) * (labels != -2)


def clamped_focal(
    logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-4
) -> Tensor:
    """Focal loss of scores that are kept within eps and 1 - eps, summed over the classes: (N, A). The column of a
    background is to be 0 everywhere."""
    goal = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    scores = logits.sigmoid().clamp(eps, 1 - eps)
    right = torch.where(goal, scores, 1 - scores)
    weight = torch.where(goal, alpha, 1 - alpha) * (1 - right) ** gamma
    return -(weight * right.log()).sum(-1) * (labels != -2)


def multibox(logits: Tensor, labels: Tensor, quality: Tensor, *, negatives: float = 3.0) -> Tensor:
    """Cross-entropy over the background (column 0) and the classes (https://arxiv.org/abs/1512.02325): (N, A).

    Of each image count its positives and, `negatives` times as many, the background anchors of the largest loss. So an
    image without positives counts nothing.
    """
    loss = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none").view_as(labels)
    background = labels == -1
    rank = loss.detach().masked_fill(~background, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    hard = background & (rank < negatives * (labels >= 0).sum(dim=1, keepdim=True))
    return loss * ((labels >= 0) | hard)


def objectness(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy of column 0, whether an anchor is a positive, and of positives that of each class: YOLOv3's
    (https://arxiv.org/abs/1804.02767), (N, A)."""
    goal = (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits.dtype)
    goal[..., 0] = (labels >= 0).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    return entropy[..., 0] * (labels != -2) + entropy[..., 1:].sum(-1) * (labels >= 0)


def box_l1(deltas: Tensor, boxes: Tensor, anchors: Tensor, coder: tuple[float, float]) -> Tensor:
    """The absolute differences of the deltas, summed over the four."""
    return (deltas - encode(boxes, anchors, coder)).abs().sum(1)


def box_smooth_l1(
    deltas: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    coder: tuple[float, float],
    *,
    beta: float = 1.0,
    weight: float = 1.0,
) -> Tensor:
    """As l1, but a parabola below `beta`, and times `weight`."""
    return weight * F.smooth_l1_loss(deltas, encode(boxes, anchors, coder), beta=beta, reduction="none").sum(1)


def box_giou(deltas: Tensor, boxes: Tensor, anchors: Tensor, coder: tuple[float, float]) -> Tensor:
    """1 - generalized IoU (https://arxiv.org/abs/1902.09630) of the predicted boxes with the true ones."""
    values: Tensor = ops.generalized_box_iou_loss(decode(deltas, anchors, coder), boxes)
    return values


def box_in_cell(
    deltas: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    coder: tuple[float, float],
    *,
    centre: float = 2.0,
    size: float = 2.0,
) -> Tensor:
    """Cross-entropy of the centre's place in its cell, and the squared difference of the logarithms of the size, summed
    over the two each, times their weights: YOLOv3's."""
    goal = encode_in_cell(boxes, anchors)
    places = F.binary_cross_entropy_with_logits(deltas[:, :2], goal[:, :2], reduction="none").sum(1)
    return centre * places + size * (deltas[:, 2:] - goal[:, 2:]).square().sum(1)


def by_image(positives: Tensor) -> Tensor:
    """The weight of each image's sum, from how many positives each has, (N,): the mean over the images of the mean over
    the positives, of which there is at least one. Over several ranks it is what it is on one."""
    return 1 / (positives.clamp(min=1) * len(positives))


def by_image_with_positives(positives: Tensor) -> Tensor:
    """As by_image, but an image without positives weighs 0."""
    return (positives > 0) / (positives.clamp(min=1) * len(positives))


def by_batch(positives: Tensor) -> Tensor:
    """The mean over all positives of the batch, of which there is at least one."""
    return (1 / positives.sum().clamp(min=1)).expand(len(positives))


def of_sum(positives: Tensor) -> Tensor:
    """All images weigh 1: losses are sums over the batch, and grow with it."""
    return torch.ones_like(positives, dtype=torch.get_default_dtype())


CLASS_LOSSES: dict[str, Callable[..., Tensor]] = {
    "focal": focal,
    "quality_focal": quality_focal,
    "clamped_focal": clamped_focal,
    "multibox": multibox,
    "objectness": objectness,
}
BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": box_l1,
    "smooth_l1": box_smooth_l1,
    "giou": box_giou,
    "cell": box_in_cell,
}
NORMALIZERS: dict[str, Callable[..., Tensor]] = {
    "image": by_image,
    "image_with_positives": by_image_with_positives,
    "batch": by_batch,
    "sum": of_sum,
}
