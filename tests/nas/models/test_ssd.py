"""SSD: its losses and boxes, against torchvision's own, and against aw_nas' losses as a slow loop."""

from __future__ import annotations

import math
from dataclasses import replace
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

from searchkit.errors import UsageError
from searchkit.nas.models.heads.assigners import assign_by_iou
from searchkit.nas.models.heads.boxes import encode
from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_losses import by_image_with_positives
from searchkit.nas.models.heads.ssd import Predictors, SSDHead
from searchkit.nas.models.heads.ssd_plan import SSDOptions
from searchkit.nas.models.necks.ssd_extras import SSDExtras
from searchkit.nas.models.necks.ssd_extras_plan import SSDExtrasOptions
from searchkit.nas.models.part import levels_of
from searchkit.nas.nn import window
from searchkit.records.arch import Arch

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


ALL = Arch(())
TWO = SSDExtrasOptions(channels=(64, 64))
SSDLITE_NECK = SSDExtrasOptions(hidden_of="out", linear=False, activation="relu6", norm_eps=0.001, norm_momentum=0.03)
SSDLITE_HEAD = SSDOptions(
    ratios=((2, 3),) * 6,
    scales=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
    activation="relu6",
    bias=True,
    logit_norm=False,
    norm_eps=0.001,
    norm_momentum=0.03,
    assigner_options={"force": "box", "negative": 0.5},
    class_loss="multibox",
    box_loss_options={},
    normalizer="batch",
    scores="softmax",
    score_thresh=0.001,
    nms_thresh=0.55,
    detections_per_image=300,
    candidates=300,
)


def test_default_boxes_are_those_of_aw_nas_and_of_ssdlite() -> None:
    def boxes(options: SSDOptions, size: int, maps: tuple[int, ...]) -> Tensor:
        image = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
        made: Tensor = SSDHead(options, 3).default_boxes()(image, [torch.zeros(1, 1, s, s) for s in maps])[0]
        return made

    aw_nas = boxes(SSDOptions(), 300, (19, 10, 5, 3, 2, 1))
    assert len(aw_nas) == 2268
    # the first cell: centre (i + .5) / size; s, sqrt(s s'), and the ratio 2 both ways; the last one clipped
    s, t, r = 0.15, math.sqrt(0.15 * 0.3), math.sqrt(2)
    expected = [
        (300 * (0.5 / 19 - w / 2), 300 * (0.5 / 19 + h / 2))
        for w, h in ((s, s), (t, t), (s * r, s / r), (s / r, s * r))
    ]
    assert aw_nas[:4, [0, 3]].flatten().tolist() == pytest.approx([x for pair in expected for x in pair], abs=1e-4)
    assert aw_nas[-3].tolist() == pytest.approx(
        [300 * (0.5 - math.sqrt(0.9 * 1.05) / 2)] * 2 + [300 * (0.5 + math.sqrt(0.9 * 1.05) / 2)] * 2, abs=1e-3
    )
    assert aw_nas[-2].tolist() == pytest.approx([0, 150 - 135 / r, 300, 150 + 135 / r], abs=1e-3)
    ssdlite = boxes(SSDLITE_HEAD, 320, (20, 10, 5, 3, 2, 1))
    theirs = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    image = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    assert len(ssdlite) == 3234
    assert torch.equal(ssdlite, theirs(image, [torch.zeros(1, 1, s, s) for s in (20, 10, 5, 3, 2, 1)])[0])


@pytest.mark.parametrize(
    ("neck", "arch", "widths", "insides"),
    [
        (SSDExtrasOptions(), {}, (112, 960, 512, 256, 256, 128), (480, 256, 128, 128)),  # aw_nas: half of the input
        (SSDLITE_NECK, {}, (112, 960, 512, 256, 256, 128), (256, 128, 128, 64)),  # half of the output
        (TWO, {"width": (64, 40), "kernel": (5, 3)}, (112, 960, 64, 40), (480, 32)),
        (TWO, {"width": 40}, (112, 960, 40, 40), (480, 24)),
        (replace(TWO, features=1), {"width": (64, 40), "hidden": (17, 9)}, (960, 64, 40), (17, 9)),
    ],
)
def test_widths_of_the_extra_levels(
    neck: SSDExtrasOptions, arch: dict[str, Any], widths: tuple[int, ...], insides: tuple[int, ...]
) -> None:
    part = SSDExtras(neck)
    pieces = part.plan(Arch.of(arch), (40, 112, 960))
    assert levels_of(pieces, (40, 112, 960)) == widths
    assert tuple(row.layers[0].cout for row in pieces[-1].rows) == insides
    assert [row["1.0"].kernel for row in pieces[-1].rows] == list(arch.get("kernel", (3,) * len(insides)))


def test_smaller_necks_and_heads_are_slices_of_the_larger() -> None:
    """At the widths and kernels of an arch the modules compute what modules of that size with the slices do."""
    neck, head = (
        SSDExtras(SSDExtrasOptions(channels=(32, 16))),
        SSDHead(SSDOptions(ratios=((2,),) * 4, scales=(1,) * 5), 3),
    )
    full, part = (
        Arch.of({"width": (32, 16), "kernel": 5, "hidden": (24, 16)}),
        Arch.of({"width": (16, 8), "kernel": (3, 5), "hidden": (8, 8)}),
    )
    wide, narrow = (8, 24), (4, 20)

    def made(arch: Arch, features: tuple[int, ...], kernel: int) -> tuple[Any, Any, Arch, tuple[int, ...]]:
        levels = levels_of(neck.plan(arch, features), features)
        sizes = Arch.of({"kernel": kernel})
        return neck.module(arch, features), Predictors(head, sizes, levels), sizes, levels

    torch.manual_seed(0)
    extras, reads, _, _ = made(full, wide, 5)
    small, small_reads, sizes, levels = made(part, narrow, 3)
    extras.set_arch(part, narrow)
    reads.set_arch(sizes, levels)
    for large, own in ((extras, small), (reads, small_reads)):
        tensors = {**dict(large.named_parameters()), **dict(large.named_buffers())}
        with torch.no_grad():
            for name, tensor in (*own.named_parameters(), *own.named_buffers()):
                tensor.copy_(window(tensors[name], tensor.shape))
        large.eval(), own.eval()
    x = {"0": torch.randn(2, 4, 12, 10), "1": torch.randn(2, 20, 6, 5)}
    outputs = [run(list(neck(x).values())) for neck, run in ((extras, reads), (small, small_reads))]
    assert [tuple(a.shape[1:]) for a, _ in outputs[0]] == [(16, 12, 10), (16, 6, 5), (16, 3, 3), (16, 2, 2)]
    assert all(torch.equal(a, b) for mine, its in zip(*outputs, strict=True) for a, b in zip(mine, its, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda: SSDOptions(scales=(0.1, 0.2)), "one value more"),
        (lambda: SSDOptions(scales=(0.9, 0.75, 0.6, 0.45, 0.3, 0.15, 0.1)), "must ascend"),
        (lambda: SSDOptions(scores="softmax", prior=0.01), "prior needs scores: sigmoid"),
        (lambda: SSDExtras(SSDExtrasOptions()).plan(ALL, (16,)), "takes the last 2 features of the backbone"),
        (
            lambda: SSDExtras(SSDExtrasOptions()).plan(Arch.of({"kernel": (3, 3)}), (16, 32)),
            "of which neck_options.channels names 4, but it has 2",
        ),
        (lambda: SSDExtras(SSDExtrasOptions()).plan(Arch.of({"kernel": 4}), (16, 32)), "kernels odd"),
        (lambda: SSDExtras(TWO).plan(Arch.of({"width": (64,)}), (16, 32)), "channels names 2, but it has 1"),
        (
            lambda: SSDHead(SSDOptions(), 3).plan(ALL, (16, 32, 8)),
            "default boxes for 6 levels, but the neck gives out 3",
        ),
    ],
)
def test_what_does_not_fit(options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options()


def test_scores_before_training() -> None:
    predictors = Predictors(SSDHead(SSDOptions(ratios=((2,),), scales=(0.2, 0.3), prior=0.01), 3), ALL, (8,))
    logits, deltas = predictors.eval()([torch.zeros(1, 8, 2, 2)])[0]
    assert logits.sigmoid().flatten().tolist() == pytest.approx([0.01] * logits.numel())
    assert not deltas.any()
