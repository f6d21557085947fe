"""YOLOv3: its costs, its networks, and what it learns and finds, against slow forms written from the paper and from
mmdetection's description."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou

from searchkit.errors import UsageError
from searchkit.nas.cost.price import plans_of, price, price_net
from searchkit.nas.models.backbones.darknet import Darknet
from searchkit.nas.models.heads.assigners import assign_in_cell
from searchkit.nas.models.heads.boxes import decode_in_cell, encode_in_cell
from searchkit.nas.models.heads.dense import flat_level
from searchkit.nas.models.heads.retinanet_plan import RetinaNetOptions
from searchkit.nas.models.heads.yolo import CellAnchors
from searchkit.nas.models.heads.yolo_plan import YOLOConfig, YOLOOptions
from searchkit.nas.models.necks.yolo import YOLONeck
from searchkit.nas.models.necks.yolo_plan import YOLONeckOptions
from searchkit.nas.models.network import build
from searchkit.nas.models.part import levels_of
from searchkit.records.arch import Arch
from tests.support.backbones import written_down
from tests.support.detectors import trained

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SIZE = 3, (96, 64)
ANCHORS = (((8, 10), (14, 9)), ((20, 30), (28, 18)), ((50, 40), (60, 80)))
MOBILE = Arch.of(
    {
        "backbone.stem.width": 32,
        "backbone.body.width": (16, 24, 32, 64, 96, 160, 320),
        "backbone.body.depth": (1, 2, 3, 4, 3, 3, 1),
        "backbone.body.expand": (1, 6, 6, 6, 6, 6, 6),
    }
)
DARKNET53 = Arch.of(
    {
        "backbone.stem.width": 32,
        "backbone.body.width": (64, 128, 256, 512, 1024),
        "backbone.body.depth": (1, 2, 8, 8, 4),
    }
)


def lite(classes: int = 80) -> YOLOConfig:
    """On a MobileNetV2, as mmdetection's yolov3_mobilenetv2_320."""
    anchors = (((10, 15), (24, 36), (72, 42)), ((35, 87), (102, 96), (60, 170)), ((220, 125), (128, 222), (264, 266)))
    return YOLOConfig(
        num_classes=classes,
        backbone="mobilenet_v2",
        backbone_options={"activation": "leaky_relu", "features": ["c3", "c4", "c5"]},
        neck_options=YOLONeckOptions(channels=(96, 96, 96)),
        head_options=YOLOOptions(channels=(96, 96, 96), anchors=anchors),
    )


def test_published_costs() -> None:
    """Those of mmdetection's models: 3,325,533 and 61,949,149 numbers are in its files."""
    darknet = YOLOConfig(num_classes=80, backbone="darknet")
    costs = [price_net(config, arch, 320) for config, arch in ((lite(), MOBILE), (darknet, DARKNET53))]
    assert [(cost.flops, cost.params) for cost in costs] == [(1_604_700_800, 3_325_533), (19_486_412_800, 61_949_149)]
    assert price_net(lite(), MOBILE, 416).flops == 2_711_944_352


def small(**options: Any) -> tuple[Any, YOLOConfig, Arch]:
    """A tiny YOLOv3 that has learnt a little, in eval mode."""
    config = YOLOConfig(
        num_classes=CLASSES,
        backbone="darknet",
        neck_options=YOLONeckOptions(channels=(4, 6, 8)),
        head_options=YOLOOptions(**{"channels": (6, 8, 10), "anchors": ANCHORS, **options}),
    )
    arch = Arch.of(
        {
            "backbone.stem.width": 4,
            "backbone.body.width": (4, 6, 8, 10, 12),
            "backbone.body.depth": (1, 1, 2, 1, 1),
        }
    )
    return trained(build(config, arch, min_size=64, max_size=96)).eval(), config, arch


class Conv(nn.Module):
    """mmdetection's ConvModule."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)), 0.1)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width // 2), Conv(width // 2, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class TheirDarknet(nn.Module):
    def __init__(self, stem: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = Conv(3, stem, 3)
        for i, (cin, width, depth) in enumerate(zip((stem, *widths), widths, depths, strict=False)):
            stage = nn.Sequential()
            stage.add_module("conv", Conv(cin, width, 3, 2))
            for n in range(depth):
                stage.add_module(f"res{n}", Block(width))
            self.add_module(f"conv_res_block{i + 1}", stage)
        self.stages = len(widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, out = self.conv1(x), []
        for i in range(self.stages):
            x = self.get_submodule(f"conv_res_block{i + 1}")(x)
            out.append(x)
        return out


class Detect(nn.Module):
    def __init__(self, cin: int, n: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Conv(cin, n), Conv(n, 2 * n, 3), Conv(2 * n, n)
        self.conv4, self.conv5 = Conv(n, 2 * n, 3), Conv(2 * n, n)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))
        return y


class TheirNeck(nn.Module):
    """Of three features and levels, coarsest first."""

    def __init__(self, cin: tuple[int, int, int], n: tuple[int, int, int]) -> None:
        super().__init__()
        self.detect1, self.conv1, self.conv2 = Detect(cin[0], n[0]), Conv(n[0], n[1]), Conv(n[1], n[2])
        self.detect2, self.detect3 = Detect(n[1] + cin[1], n[1]), Detect(n[2] + cin[2], n[2])

    def forward(self, c5: Tensor, c4: Tensor, c3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p5 = self.detect1(c5)
        p4 = self.detect2(torch.cat((F.interpolate(self.conv1(p5), scale_factor=2), c4), 1))
        return p5, p4, self.detect3(torch.cat((F.interpolate(self.conv2(p4), scale_factor=2), c3), 1))


def test_the_network_is_mmdetections() -> None:
    """The same numbers under the same names, from features to what the head gives out."""
    net, _, _ = small()
    body = TheirDarknet(4, (4, 6, 8, 10, 12), (1, 1, 2, 1, 1)).eval()
    neck = TheirNeck((12, 10, 8), (8, 6, 4)).eval()
    body.load_state_dict(net.backbone.body.state_dict())
    neck.load_state_dict(net.backbone.yolo.state_dict())
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        features, levels = body(x), net.backbone(x)
        theirs = neck(*features[:1:-1])
        assert [*levels] == ["0", "1", "2"]
        for ours, expected in zip(reversed(levels.values()), theirs, strict=True):
            torch.testing.assert_close(ours, expected)
        for i, (logits, deltas) in enumerate(net.levels(x)):
            parts = ("bridges", "classes", "boxes")
            bridge, of_classes, of_boxes = (net.get_submodule(f"head.{part}.{i}") for part in parts)
            y = F.leaky_relu(bridge.bn(bridge.conv(theirs[2 - i])), 0.1)
            assert logits.shape[1] == 2 * (1 + CLASSES) and deltas.shape[1] == 2 * 4
            torch.testing.assert_close(logits, of_classes.conv(y))
            torch.testing.assert_close(deltas, of_boxes.conv(y))


def test_darknet_written_down_is_the_same() -> None:
    arch = Arch.of({"stem.width": 4, "body.width": (6, 8), "body.depth": (1, 2), "body.hidden": (3, 5)})
    net = trained(Darknet(arch, features=["c1", "c2"])).eval()
    x = torch.randn(1, 3, 33, 20)
    with torch.no_grad():
        features, plain = net(x), written_down(net)(x)
    assert [f.shape[1:] for f in features.values()] == [(6, 17, 10), (8, 9, 5)]
    assert all(torch.equal(a, b) for a, b in zip(features.values(), plain.values(), strict=True))


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ({"body.width": (6, 8), "body.depth": (1,)}, "one number for each stage"),
        ({"body.width": (6, 8), "body.depth": (1, 0)}, "at least 1"),
        ({"body.width": (6, 8), "body.depth": (1, 1), "body.kernel": 3}, "no dimension 'body.kernel'"),
    ],
)
def test_darknets_that_can_not_be(arch: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Darknet(Arch.of({"stem.width": 4, **arch}))


def test_a_level_is_of_the_last_features_and_of_the_level_before() -> None:
    """More features than levels; what is inside a level is elastic, what it gives out is not."""
    neck = YOLONeck(YOLONeckOptions(channels=(4, 6)))
    features = (3, 5, 8)
    for arch, hidden in ((Arch(()), (8, 12)), (Arch.of({"hidden": 7}), (7, 7)), (Arch.of({"hidden": (2, 9)}), (2, 9))):
        pieces = neck.plan(arch, features)
        assert levels_of(pieces, features) == (4, 6)
        fine, coarse = (piece.rows[0] for piece in pieces[:2])
        assert (fine.name, fine.cin, coarse.name, coarse.cin) == ("detect2", 4 + 5, "detect1", 8)
        assert (fine["conv2.conv"].cout, coarse["conv4.conv"].cout) == hidden
        assert [(piece.where.number, piece.rows[0].name) for piece in pieces[2:]] == [(2, "conv1")]
    for wrong, words in (((1, 2, 3), "neck.hidden must be 1 number"), (0, "at least 1")):
        with pytest.raises(UsageError, match=words):
            neck.plan(Arch.of({"hidden": wrong}), features)
    with pytest.raises(UsageError, match="makes 2 levels, of one feature each, but the backbone gives out 1"):
        neck.plan(Arch(()), (3,))


# ---- what it learns and finds ----


def anchors_of(size: tuple[int, int] = SIZE) -> list[Tensor]:
    """Those of an image, by level."""
    maps = [torch.zeros(1, 1, size[0] // s, size[1] // s) for s in (8, 16, 32)]
    every = CellAnchors(ANCHORS)(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0]
    return list(every.split([2 * x.shape[2] * x.shape[3] for x in maps]))


def random_boxes(rng: random.Random, count: int) -> Tensor:
    h, w = SIZE
    edges = [(rng.uniform(3, 0.8 * w), rng.uniform(3, 0.8 * h)) for _ in range(count)]
    low = [(rng.uniform(0, w - a), rng.uniform(0, h - b)) for a, b in edges]
    return torch.tensor([(x, y, x + a, y + b) for (x, y), (a, b) in zip(low, edges, strict=True)])


def places() -> list[tuple[int, int, int, tuple[int, int]]]:
    """The stride, the row and the column of the cell, and the size of each anchor, in order."""
    return [
        (s, row, column, pair)
        for s, pairs in zip((8, 16, 32), ANCHORS, strict=True)
        for row in range(SIZE[0] // s)
        for column in range(SIZE[1] // s)
        for pair in pairs
    ]


def test_anchors_are_in_the_middle_of_their_cells() -> None:
    every = torch.cat(anchors_of())
    for at, (s, row, column, (w, h)) in zip(every.tolist(), places(), strict=True):
        x, y = (column + 0.5) * s, (row + 0.5) * s
        assert at == [x - w / 2, y - h / 2, x + w / 2, y + h / 2, s]


def slow_assign(boxes: Tensor) -> list[int]:
    """An anchor at a time; a box's own are those of the cell with its centre, and its best one is forced."""
    every = torch.cat(anchors_of())
    iou = box_iou(boxes, every[:, :4])
    own = [[False] * len(every) for _ in boxes]
    for g, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for a, (s, row, column, _) in enumerate(places()):
            own[g][a] = (int((y1 + y2) / 2 // s), int((x1 + x2) / 2 // s)) == (row, column)
    result = []
    for a in range(len(every)):
        mine = [(float(iou[g, a]), -g) for g in range(len(boxes)) if own[g][a]]
        best = max(mine, default=(-1.0, 0))
        goal = -1 if max(iou[:, a].tolist()) <= 0.5 else -2
        result.append(-best[1] if best[0] > 0.5 else goal)
    for g in range(len(boxes)):
        candidates = [a for a in range(len(every)) if own[g][a]]
        top = max(float(iou[g, a]) for a in candidates)
        for a in candidates:
            result[a] = g if float(iou[g, a]) == top else result[a]
    return result


@pytest.mark.parametrize("seed", range(6))
def test_positives_are_in_the_cell_of_the_centre(seed: int) -> None:
    rng = random.Random(seed)
    boxes = random_boxes(rng, 5)
    boxes[4] = boxes[3] + 0.25  # two boxes that want the same anchors
    matched = assign_in_cell(anchors_of(), boxes)
    assert matched.tolist() == slow_assign(boxes)
    every, (anchor,) = torch.cat(anchors_of()), (matched >= 0).nonzero(as_tuple=True)
    centre = (boxes[matched[anchor], :2] + boxes[matched[anchor], 2:]) / 2
    away = (centre - (every[anchor, :2] + every[anchor, 2:4]) / 2).abs()
    assert (away <= every[anchor, 4:] / 2).all()
    assert {4} <= {*matched[anchor].tolist()}


def test_deltas_lead_there_and_back() -> None:
    boxes = random_boxes(random.Random(7), 8)
    every = torch.cat(anchors_of())
    matched = assign_in_cell(anchors_of(), boxes)
    (at,) = (matched >= 0).nonzero(as_tuple=True)
    goal = encode_in_cell(boxes[matched[at]], every[at])
    deltas = torch.cat((goal[:, :2].logit(), goal[:, 2:]), 1)
    torch.testing.assert_close(decode_in_cell(deltas, every[at], (1.0, 1.0)), boxes[matched[at]], atol=1e-3, rtol=1e-5)


def entropy(logit: float, goal: float) -> float:
    s = 1 / (1 + math.exp(-logit))
    return -(goal * math.log(s) + (1 - goal) * math.log(1 - s))


def test_losses_are_sums_over_the_batch() -> None:
    """An anchor at a time, from the paper's loss with mmdetection's weights; an image without boxes counts, too."""
    net, _, _ = small()
    rng = random.Random(3)
    generator = torch.Generator().manual_seed(3)
    boxes = [random_boxes(rng, 4), torch.zeros(0, 4)]
    labels = [torch.tensor([rng.randint(1, CLASSES) for _ in b], dtype=torch.int64) for b in boxes]
    targets = [{"boxes": b, "labels": each} for b, each in zip(boxes, labels, strict=True)]
    every = torch.cat(anchors_of())
    logits = torch.randn(2, len(every), 1 + CLASSES, generator=generator)
    deltas = torch.randn(2, len(every), 4, generator=generator)
    losses = net.losses(logits, deltas, anchors_of(), targets)
    of_classes = of_boxes = 0.0
    for image, target in enumerate(targets):
        matched = slow_assign(target["boxes"]) if len(target["boxes"]) else [-1] * len(every)
        for a, (g, (s, row, column, (w, h))) in enumerate(zip(matched, places(), strict=True)):
            objectness, *classes = logits[image, a].tolist()
            of_classes += 0.0 if g == -2 else entropy(objectness, float(g >= 0))
            if g >= 0:
                label = int(target["labels"][g])
                of_classes += sum(entropy(x, float(1 + c == label)) for c, x in enumerate(classes))
                x1, y1, x2, y2 = target["boxes"][g].tolist()
                tx, ty, tw, th = deltas[image, a].tolist()
                of_boxes += 2 * entropy(tx, (x1 + x2) / 2 / s - column) + 2 * entropy(ty, (y1 + y2) / 2 / s - row)
                of_boxes += 2 * (tw - math.log((x2 - x1) / w)) ** 2 + 2 * (th - math.log((y2 - y1) / h)) ** 2
    assert losses["classification"] == pytest.approx(of_classes, rel=1e-5)
    assert losses["bbox_regression"] == pytest.approx(of_boxes, rel=1e-4)


def test_what_is_found() -> None:
    """Boxes at the paper's b = sigmoid(t) + c and p e^t, in cells and px, scores of class and objectness together."""
    net, _, _ = small(score_thresh=0.3, candidates=40, detections_per_image=30)
    generator = torch.Generator().manual_seed(4)
    maps = [(SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)]
    given = [
        (torch.randn(1, 2 * (1 + CLASSES), *hw, generator=generator), torch.randn(1, 8, *hw, generator=generator) * 0.4)
        for hw in maps
    ]
    net.levels = lambda x: given
    (found,) = net([torch.rand(3, *SIZE, generator=generator)])
    rows: list[tuple[list[float], float, int]] = []
    first = 0
    for logits, deltas in given:
        classes, shifts = flat_level(logits, 1 + CLASSES)[0].sigmoid(), flat_level(deltas, 4)[0]
        of_level = []
        for (s, row, column, (w, h)), chances, t in zip(
            places()[first : first + len(shifts)], classes.tolist(), shifts.tolist(), strict=True
        ):
            x, y = ((1 / (1 + math.exp(-a)) + c) * s for a, c in zip(t[:2], (column, row), strict=True))
            w, h = w * math.exp(t[2]), h * math.exp(t[3])
            box = [max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, SIZE[1]), min(y + h / 2, SIZE[0])]
            of_level += [(box, chances[0] * p, 1 + c) for c, p in enumerate(chances[1:]) if chances[0] * p > 0.3]
        rows += sorted(of_level, key=lambda each: -each[1])[:40]
        first += len(shifts)
    boxes, scores, labels = (torch.tensor([row[i] for row in rows]) for i in range(3))
    kept = batched_nms(boxes, scores, labels, 0.45)[:30]
    assert len(kept) > 5 and torch.equal(found["labels"], labels[kept])
    torch.testing.assert_close(found["scores"], scores[kept])
    torch.testing.assert_close(found["boxes"], boxes[kept], atol=1e-3, rtol=1e-5)


def test_images_keep_their_aspect_ratio_and_are_padded() -> None:
    net, _, _ = small()
    net.transform.min_size, net.transform.max_size = (64,), 64
    batch, _ = net.transform([torch.rand(3, 120, 90)])
    assert batch.image_sizes == [(64, 48)] and batch.tensors.shape[2:] == (64, 64)


def test_objectness_and_classes_begin_at_the_prior() -> None:
    net, config, arch = small()
    net = build(config, arch)
    logits, deltas = zip(*net.levels(torch.randn(1, 3, 64, 64)), strict=True)
    assert all((x.sigmoid() - 0.01).abs().max() < 0.01 for x in logits)
    assert all(x.abs().max() < 0.5 for x in deltas)


def test_factors_are_of_forty_places() -> None:
    """The reference's hook: the last conv of the finest level, before its norm."""
    darknet = YOLOConfig(num_classes=80, backbone="darknet", backbone_options={"features": ["c3", "c4", "c5"]})
    for config, arch, channels in ((lite(), MOBILE, 96), (darknet, DARKNET53, 128)):
        with torch.device("meta"):
            net: Any = build(config, arch).eval()
            module, seen = net.get_submodule("backbone.yolo.detect3.conv5.conv"), []
            module.register_forward_hook(lambda _module, _given, y, seen=seen: seen.append(y.shape))
            net.levels(torch.zeros(1, 3, 320, 320))
        assert seen == [(1, channels, 40, 40)]


def test_an_anchor_teaches_by_its_objectness_and_class() -> None:
    net, _, _ = small()
    logits = net.wiring.head.class_logits(net)
    theirs = logits.flat(net.levels(torch.randn(2, 3, *SIZE)))
    scores = theirs.sigmoid()
    torch.testing.assert_close(logits.counts(theirs), scores[..., 0] * scores[..., 1:].amax(-1))


def test_an_arch_is_priced_by_what_is_elastic() -> None:
    _, config, arch = small()
    most = Arch.of({**dict(arch.items), "neck.hidden": (8, 12, 16), "head.width": (6, 8, 10)})
    plans = plans_of(config, most)
    assert price(plans, most, 64) == price(plans, arch, 64)
    less = Arch.of({**dict(most.items), "neck.hidden": (8, 12, 15)})
    # Of the coarsest level, 2 x 2 places: a channel less between 8 and 8, in each of two pairs of 3x3 and 1x1 convs.
    assert price(plans, most, 64).flops - price(plans, less, 64).flops == 2 * (9 + 1) * 8 * 4
    assert price(plans, most, 64).params - price(plans, less, 64).params == 2 * ((9 + 1) * 8 + 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anchors": ANCHORS[:2]}, "a number for each level"),
        ({"anchors": (((0, 3),),) * 3}, "above 0"),
        ({"assigner": "atss"}, "must be cell of a YOLO"),
        ({"box_loss": "giou"}, "must be cell of a YOLO"),
        ({"scores": "sigmoid"}, "objectness goes with scores: objectness alone"),
        ({"scores": "sigmoid", "class_loss": "focal"}, "must be objectness, with background: true"),
        ({"prior": 1.0}, "between 0 and 1"),
    ],
)
def test_options_that_can_not_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        YOLOOptions(**options)
    with pytest.raises(UsageError, match="can be cell of a YOLO alone"):
        RetinaNetOptions(decoder="cell")


def test_heads_that_do_not_fit() -> None:
    net, config, arch = small()
    for items, words in (({"head.width": (1, 2)}, "one for each of 3 levels"), ({"head.width": 0}, "at least 1")):
        with pytest.raises(UsageError, match=words):
            plans_of(config, Arch.of({**dict(arch.items), **items}))
    with pytest.raises(UsageError, match="anchors for 3 levels, but the neck gives out 2"):
        net.head.part.plan(Arch(()), (4, 4))
