"""SSD: its losses and boxes, against torchvision's own, and against aw_nas' losses as a slow loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from searchkit.nas.models.heads.assigners import assign_by_iou
from searchkit.nas.models.heads.boxes import encode
from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_losses import by_image_with_positives

CLASSES, SIZE = 4, (96, 96)
CODER = (10.0, 5.0)
# Of torchvision's SSDLite, and of aw_nas' SSD.
MULTIBOX = {"class_loss": "multibox", "box_loss": "smooth_l1", "normalizer": "batch", "scores": "softmax"}
FOCAL = {
    "class_loss": "clamped_focal",
    "box_loss": "smooth_l1",
    "box_loss_options": {"beta": 1 / 9, "weight": 0.25},
    "normalizer": "image_with_positives",
}


def random_boxes(count: int, generator: torch.Generator, size: int = 96) -> Tensor:
    low = torch.rand(count, 2, generator=generator) * size * 0.6
    return torch.cat((low, low + 4 + torch.rand(count, 2, generator=generator) * size * 0.5), 1)


def targets_of(generator: torch.Generator, counts: tuple[int, ...]) -> list[dict[str, Tensor]]:
    return [
        {"boxes": random_boxes(n, generator), "labels": torch.randint(1, CLASSES + 1, (n,), generator=generator)}
        for n in counts
    ]


def default_boxes() -> DefaultBoxGenerator:
    return DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.5, 0.9])


def detector(**options: Any) -> DenseDetector:
    dense = Dense(background=True, coder=CODER, assigner_options={"force": "box"}, **options)
    transform = GeneralizedRCNNTransform(96, 96, [0.5] * 3, [0.5] * 3, size_divisible=1, fixed_size=SIZE)
    return DenseDetector(CLASSES, default_boxes(), transform, **dense.settings())  # type: ignore[arg-type]


def given(generator: torch.Generator, images: int, boxes: int) -> tuple[Tensor, Tensor]:
    """Logits and deltas."""
    logits = torch.randn(images, boxes, CLASSES + 1, generator=generator)
    return logits, torch.randn(images, boxes, 4, generator=generator)


def place_boxes(model: DenseDetector) -> list[Tensor]:
    maps = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)]
    return model.anchors(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), maps)


def torchvisions() -> Any:
    """torchvision's SSD but for its network."""
    theirs: Any = TorchvisionSSD.__new__(TorchvisionSSD)
    torch.nn.Module.__init__(theirs)
    theirs.box_coder = det_utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    theirs.neg_to_pos_ratio = 3.0
    return theirs


def test_multibox_losses_are_torchvisions() -> None:
    own = detector(**MULTIBOX)
    own.assigner = lambda anchors, boxes: assign_by_iou(anchors, boxes, negative=0.5, force="box")
    anchors = place_boxes(own)
    every = torch.cat(anchors)
    matcher = det_utils.SSDMatcher(0.5)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        targets = targets_of(generator, (3, 0, 6))
        targets[2]["boxes"][1] = targets[2]["boxes"][0]  # two boxes that want one anchor: it is the later one's
        logits, deltas = (x.requires_grad_() for x in given(generator, 3, len(every)))
        matched = [
            matcher(box_iou(t["boxes"], every)) if len(t["boxes"]) else torch.full((len(every),), -1) for t in targets
        ]
        expected = torchvisions().compute_loss(
            targets, {"bbox_regression": deltas, "cls_logits": logits}, [every] * 3, matched
        )
        theirs = torch.autograd.grad(sum(expected.values()), (logits, deltas))
        losses = own.losses(logits, deltas, anchors, targets)
        assert list(losses) == ["classification", "bbox_regression"]
        for name, value in losses.items():
            torch.testing.assert_close(value, expected[name])
        for mine, its in zip(torch.autograd.grad(sum(losses.values()), (logits, deltas)), theirs, strict=True):  # type: ignore[type-var]
            torch.testing.assert_close(mine, its)
        assert not theirs[0][1].any()  # an image without boxes teaches nothing


def slow_focal(logits: Tensor, deltas: Tensor, every: Tensor, targets: list[dict[str, Tensor]]) -> tuple[float, float]:
    """aw_nas' focal_loss, an anchor at a time: (of classes, of boxes)."""
    of_classes = of_boxes = 0.0
    for image, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if not len(boxes):
            continue  # no positives: dropped
        iou = box_iou(boxes, every)
        best = iou.max(0)
        goal = [int(g) if v >= 0.5 else -2 if v >= 0.4 else -1 for v, g in zip(best.values, best.indices, strict=True)]
        for number, anchor in enumerate(iou.argmax(1).tolist()):
            goal[anchor] = number
        positives = sum(g >= 0 for g in goal)
        for anchor, g in enumerate(goal):
            if g == -2:
                continue
            for column in range(CLASSES + 1):
                p = min(max(1 / (1 + math.exp(-float(logits[image, anchor, column]))), 1e-4), 1 - 1e-4)
                if g >= 0 and column == int(labels[g]):
                    of_classes += -0.25 * (1 - p) ** 2 * math.log(p) / positives
                else:
                    of_classes += -0.75 * p**2 * math.log(1 - p) / positives
            if g >= 0:
                offsets = encode(boxes[g : g + 1], every[anchor : anchor + 1], CODER)[0]
                for difference in (deltas[image, anchor] - offsets).abs().tolist():
                    small = difference <= 1 / 9
                    of_boxes += (4.5 * difference**2 if small else difference - 1 / 18) / 4 / positives
    return of_classes / len(targets), of_boxes / len(targets)


def test_focal_losses_are_those_of_aw_nas() -> None:
    own = detector(**FOCAL)
    anchors = place_boxes(own)
    every = torch.cat(anchors)
    generator = torch.Generator().manual_seed(1)
    targets = targets_of(generator, (3, 0, 2))
    logits, deltas = given(generator, 3, len(every))
    logits[0, :20] *= 20  # scores beyond the limits
    deltas[2] *= 0.05
    ours = own.losses(logits, deltas, anchors, targets)
    assert [float(x) for x in ours.values()] == [
        pytest.approx(x, rel=1e-4) for x in slow_focal(logits, deltas, every, targets)
    ]
    assert by_image_with_positives(torch.tensor([3, 0, 1])).tolist() == pytest.approx([1 / 9, 0, 1 / 3])


def test_places_are_not_rounded_in_half_precision() -> None:
    """What a network gives out in bfloat16 is compared with default boxes of full precision."""
    own = detector(**MULTIBOX).eval()
    generator = torch.Generator().manual_seed(2)
    out = [(torch.randn(1, a * 5, s, s), torch.randn(1, a * 4, s, s)) for a, s in ((4, 8), (6, 4))]
    own.levels = lambda x: [(a.bfloat16(), b.bfloat16()) for a, b in out]  # type: ignore[method-assign]
    half = own([torch.rand(3, *SIZE, generator=generator)])[0]
    own.levels = lambda x: [(a.bfloat16().float(), b.bfloat16().float()) for a, b in out]  # type: ignore[method-assign]
    full = own([torch.rand(3, *SIZE, generator=generator)])[0]
    assert len(full["boxes"]) > 10 and all(torch.equal(half[key], full[key]) for key in full)
