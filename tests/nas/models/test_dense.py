"""What dense detectors learn and find, against torchvision's own, and against slow loops written from the papers."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, box_iou

from searchkit.errors import UsageError
from searchkit.nas.models.heads import dense as dense_file
from searchkit.nas.models.heads import dense_plan
from searchkit.nas.models.heads.assigners import assign_atss, assign_by_iou
from searchkit.nas.models.heads.boxes import apart, decode, encode, paired_iou
from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_losses import by_batch, by_image, quality_focal
from searchkit.nas.models.heads.dense_rows import TABLES

CLASSES, SIZE = 7, (96, 128)
SIZES, RATIOS = ((24, 30), (48, 60), (96, 120)), (0.5, 1.0, 2.0)


def random_boxes(count: int, generator: torch.Generator, size: tuple[int, int] = SIZE) -> Tensor:
    """Boxes of 4 px to about a half of an image."""
    h, w = size
    low = torch.rand(count, 2, generator=generator) * torch.tensor([w * 0.6, h * 0.6])
    return torch.cat((low, low + 4 + torch.rand(count, 2, generator=generator) * (min(size) * 0.5)), 1)


def anchors_of() -> AnchorGenerator:
    return AnchorGenerator(SIZES, (RATIOS,) * len(SIZES))


class Given(DenseDetector):
    """A detector whose network gives out what it is told."""

    given: list[tuple[Tensor, Tensor]]

    def levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.given


def detector(dense: Dense) -> Given:
    transform = GeneralizedRCNNTransform(min(SIZE), max(SIZE), [0.5] * 3, [0.5] * 3)
    return Given(CLASSES, anchors_of(), transform, **dense.settings())


def outputs(generator: torch.Generator, images: int = 2, columns: int = CLASSES) -> list[tuple[Tensor, Tensor]]:
    a = len(SIZES[0]) * len(RATIOS)
    maps = [(12, 16), (6, 8), (3, 4)]
    return [
        (
            torch.randn(images, a * columns, *hw, generator=generator),
            torch.randn(images, a * 4, *hw, generator=generator) * 0.3,
        )
        for hw in maps
    ]


def targets_of(generator: torch.Generator, counts: tuple[int, ...]) -> list[dict[str, Tensor]]:
    return [
        {"boxes": random_boxes(n, generator), "labels": torch.randint(1, CLASSES + 1, (n,), generator=generator)}
        for n in counts
    ]


@pytest.mark.parametrize("coder", [(1.0, 1.0), (10.0, 5.0)])
def test_deltas_are_those_of_torchvision(coder: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = det_utils.BoxCoder((coder[0], coder[0], coder[1], coder[1]))
    anchors, boxes = random_boxes(50, generator), random_boxes(50, generator)
    deltas = encode(boxes, anchors, coder)
    assert torch.allclose(deltas, theirs.encode_single(boxes, anchors), atol=1e-5)
    assert torch.allclose(decode(deltas, anchors, coder), boxes, atol=1e-3)
    wild = torch.randn(50, 4, generator=generator) * 8  # beyond the limit of a size
    assert torch.allclose(decode(wild, anchors, coder), theirs.decode_single(wild, anchors), rtol=1e-5)
    assert torch.allclose(paired_iou(anchors, boxes), box_iou(anchors, boxes).diag())


@pytest.mark.parametrize("count", [0, 1, 30, 1000, 1001, 1700])
@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.9])
def test_the_best_apart_are_those_that_torchvision_keeps(count: int, overlap: float) -> None:
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(count, generator)
    labels = torch.randint(1, 4, (count,), generator=generator)
    ties = (torch.rand(count, generator=generator) * 50).round() / 50  # as scores of 16 bits have them
    for scores in (torch.rand(count, generator=generator), ties):
        theirs = batched_nms(boxes, scores, labels, overlap).sort()[0]
        theirs = theirs[scores[theirs].sort(descending=True, stable=True)[1]]
        for most in (1, 7, 100, 5000):
            assert torch.equal(apart(boxes, scores, labels, overlap, most), theirs[:most])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("forced", [True, False])
def test_assignment_by_iou_is_that_of_torchvision(seed: int, forced: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, boxes = random_boxes(400, generator), random_boxes(6, generator)
    boxes[3] = boxes[2] + 0.5  # two boxes that quarrel about the same anchors
    anchors[10] = anchors[11]  # and a tie
    theirs = det_utils.Matcher(0.6, 0.3, allow_low_quality_matches=forced)(box_iou(boxes, anchors))
    force = "anchor" if forced else "none"
    own = assign_by_iou(anchors.split([300, 100]), boxes, positive=0.6, negative=0.3, force=force)  # type: ignore[arg-type]
    assert torch.equal(own, theirs) and {-2, -1} <= set(own.tolist())


def test_the_best_anchor_of_a_box_can_be_forced_to_be_its_own() -> None:
    generator = torch.Generator().manual_seed(1)
    anchors, boxes = random_boxes(300, generator), random_boxes(5, generator)
    theirs = det_utils.SSDMatcher(0.5)(box_iou(boxes, anchors))
    assert torch.equal(assign_by_iou([anchors], boxes, positive=0.5, negative=0.5, force="box"), theirs)


def slow_atss(anchors: list[Tensor], boxes: Tensor, k: int) -> list[int]:
    """Algorithm 1 of https://arxiv.org/abs/1912.02424, a step at a time."""
    every = torch.cat(anchors).tolist()
    claims: list[list[tuple[float, int]]] = [[] for _ in every]
    for g, box in enumerate(boxes.tolist()):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, first = [], 0
        for level in anchors:
            far = []
            for i, (x1, y1, x2, y2) in enumerate(level.tolist()):
                far.append((math.hypot((x1 + x2) / 2 - cx, (y1 + y2) / 2 - cy), first + i))
            candidates += [i for _, i in sorted(far)[:k]]
            first += len(level)
        ious = [float(box_iou(boxes[g : g + 1], torch.tensor([every[i]]))) for i in candidates]
        mean = sum(ious) / len(ious)
        deviation = math.sqrt(sum((iou - mean) ** 2 for iou in ious) / (len(ious) - 1))
        for iou, i in zip(ious, candidates, strict=True):
            x, y = (every[i][0] + every[i][2]) / 2, (every[i][1] + every[i][3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if iou >= mean + deviation and inside:
                claims[i].append((iou, g))
    return [max(claim)[1] if claim else -1 for claim in claims]


@pytest.mark.parametrize("seed", range(4))
def test_atss_is_the_papers_algorithm(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors = [random_boxes(n, generator) for n in (150, 60, 5)]
    boxes = random_boxes(12, generator)  # close enough that some anchors are claimed twice
    own = assign_atss(anchors, boxes, nearest=9)
    assert own.tolist() == slow_atss(anchors, boxes, 9)
    assert (own >= 0).sum() > 5


def test_atss_of_a_single_candidate() -> None:
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    assert assign_atss([boxes + 1.0], boxes).tolist() == [0]


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_losses_and_detections_are_those_of_torchvisions_retinanet(box_loss: str) -> None:
    generator = torch.Generator().manual_seed(3)
    own = detector(Dense(box_loss=box_loss, score_thresh=0.6, detections_per_image=40, candidates=50))
    own.given = outputs(generator)
    targets = targets_of(generator, (4, 0))
    head: Any = RetinaNetHead(8, anchors_of().num_anchors_per_location()[0], CLASSES)
    head.regression_head._loss_type = box_loss

    class Body(torch.nn.Module):
        out_channels = 8

    theirs: Any = RetinaNet(Body(), CLASSES, head=head, anchor_generator=anchors_of())
    theirs.score_thresh, theirs.detections_per_img, theirs.topk_candidates = 0.6, 40, 50
    images = [torch.rand(3, *SIZE, generator=generator) for _ in range(2)]
    batch, _ = own.transform(images)
    anchors = own.anchors(batch, [deltas for _, deltas in own.given])
    logits = [dense_file.flat_level(x, CLASSES) for x, _ in own.given]
    deltas = [dense_file.flat_level(x, 4) for _, x in own.given]
    expected = theirs.compute_loss(
        [{**t, "labels": t["labels"] - 1} for t in targets],  # torchvision's counts from 0
        {"cls_logits": torch.cat(logits, 1), "bbox_regression": torch.cat(deltas, 1)},
        [torch.cat(anchors)] * 2,
    )
    losses = own.train()(images, targets)
    assert set(losses) == set(dense_plan.LOSSES)
    for name, value in losses.items():
        assert torch.allclose(value, expected[name], rtol=1e-5), name
    found = own.eval()(images)
    expected = theirs.postprocess_detections(
        {"cls_logits": logits, "bbox_regression": deltas}, [anchors] * 2, [SIZE] * 2
    )
    for mine, its in zip(found, expected, strict=True):
        assert len(mine["boxes"]) == 40
        assert torch.allclose(mine["boxes"], its["boxes"], atol=1e-3)
        assert torch.equal(mine["scores"], its["scores"])
        assert torch.equal(mine["labels"], its["labels"] + 1)


def test_detections_of_a_softmax_are_those_of_torchvisions_ssd() -> None:
    from torchvision.models.detection.ssd import SSD

    generator = torch.Generator().manual_seed(4)
    dense = Dense(
        background=True,
        scores="softmax",
        coder=(10.0, 5.0),
        score_thresh=0.1,
        candidates=30,
        candidates_of="class",
        nms_thresh=0.45,
        detections_per_image=100,
    )
    own = detector(dense).eval()
    own.given = outputs(generator, columns=CLASSES + 1)
    images = [torch.rand(3, *SIZE, generator=generator) for _ in range(2)]
    batch, _ = own.transform(images)
    anchors = torch.cat(own.anchors(batch, [deltas for _, deltas in own.given]))
    theirs: Any = SSD.__new__(SSD)
    torch.nn.Module.__init__(theirs)
    theirs.box_coder = det_utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    theirs.score_thresh, theirs.topk_candidates, theirs.nms_thresh, theirs.detections_per_img = 0.1, 30, 0.45, 100
    given = {
        "cls_logits": torch.cat([dense_file.flat_level(x, CLASSES + 1) for x, _ in own.given], 1),
        "bbox_regression": torch.cat([dense_file.flat_level(x, 4) for _, x in own.given], 1),
    }
    for mine, its in zip(own(images), theirs.postprocess_detections(given, [anchors] * 2, [SIZE] * 2), strict=True):
        assert len(mine["boxes"]) > 20
        assert torch.allclose(mine["boxes"], its["boxes"], atol=1e-3)
        assert torch.allclose(mine["scores"], its["scores"])
        assert torch.equal(mine["labels"], its["labels"])


def test_quality_focal_loss_is_the_papers_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    labels, quality = torch.tensor([[2, -1, -2, 0]]), torch.tensor([[0.7, 0.0, 0.0, 0.2]])
    values = quality_focal(logits, labels, quality)[0].tolist()
    for row, label, y, value in zip(logits[0].tolist(), labels[0].tolist(), quality[0].tolist(), values, strict=True):
        total = 0.0
        for column, x in enumerate(row):
            s, target = 1 / (1 + math.exp(-x)), y if column == label else 0.0
            total += abs(target - s) ** 2 * -((1 - target) * math.log(1 - s) + target * math.log(s))
        assert value == pytest.approx(0.0 if label == -2 else total, rel=1e-6)


def test_quality_is_the_overlap_of_the_predicted_box() -> None:
    """Where a prediction is right in class and place, quality focal loss is near 0 and pulls no box."""
    dense = Dense(assigner="atss", class_loss="quality_focal", box_loss="giou")
    own = detector(dense).train()
    generator = torch.Generator().manual_seed(6)
    own.given = outputs(generator, images=1)
    targets = targets_of(generator, (3,))
    images = [torch.rand(3, *SIZE, generator=generator)]
    batch, _ = own.transform(images)
    anchors = own.anchors(batch, [deltas for _, deltas in own.given])
    every = torch.cat(anchors)
    matched = assign_atss(anchors, targets[0]["boxes"])
    perfect = torch.zeros(1, len(every), 4)
    at = matched >= 0
    perfect[0, at] = encode(targets[0]["boxes"][matched[at]], every[at], (1.0, 1.0))
    logits = torch.full((1, len(every), CLASSES), -12.0)
    logits[0, at, targets[0]["labels"][matched[at]] - 1] = 12.0
    losses = own.losses(logits, perfect.requires_grad_(), anchors, targets)
    assert losses["classification"] < 1e-3 and losses["bbox_regression"] < 1e-3
    assert not losses["classification"].requires_grad  # no way from the classes to the boxes


def test_how_much_an_image_counts() -> None:
    positives = torch.tensor([3, 0, 1])
    assert torch.allclose(by_image(positives), torch.tensor([1 / 9, 1 / 3, 1 / 3]))
    assert torch.allclose(by_batch(positives), torch.full((3,), 1 / 4))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"assigner": "attss"}, "did you mean atss"),
        ({"class_loss": "mse"}, "must be one of focal, quality_focal"),
        ({"box_loss": "giou", "box_loss_options": {"beta": 1}}, "giou has no option 'beta'; it has none"),
        ({"assigner_options": {"positve": 0.5}}, "did you mean positive"),
        ({"coder": (1.0,)}, "two weights"),
        ({"scores": "softmax"}, "needs background: true"),
    ],
)
def test_options_that_do_not_exist(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Dense(**keys)


def test_the_options_are_those_of_the_functions() -> None:
    def keywords_of(function: Any) -> tuple[str, ...]:
        return tuple(p.name for p in signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)

    keywords = {name: {row: keywords_of(function) for row, function in rows.items()} for name, rows in TABLES.items()}
    assert keywords == dense_plan.ROWS


def test_its_source_stands_alone(tmp_path: Any) -> None:
    """The emitted text defines a detector that computes the same losses, without searchkit."""
    dense = Dense(assigner="atss", assigner_options={"nearest": 18}, class_loss="quality_focal", box_loss="giou")
    text = (
        "from __future__ import annotations\nimport math\nfrom functools import partial\nimport torch\n"
        "import torch.nn.functional as F\nimport torchvision.ops as ops\nfrom torch import Tensor, nn\n\n\n"
        f"{dense_file.source(dense)}\n\nSETTINGS = {dense_file.settings_source(dense)}\n"
    )
    assert "searchkit" not in text
    names: dict[str, Any] = {}
    exec(compile(text, "model.py", "exec"), names)
    generator = torch.Generator().manual_seed(7)
    given, targets = outputs(generator), targets_of(generator, (4, 2))
    images = [torch.rand(3, *SIZE, generator=generator) for _ in range(2)]
    own = detector(dense)
    other = names["DenseDetector"](CLASSES, anchors_of(), own.transform, **names["SETTINGS"])
    own.given, other.levels = given, lambda x: given
    expected, found = own.train()(images, targets), other.train()(images, targets)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
