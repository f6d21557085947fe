"""Detectors of torchvision whose weights are fine-tuned beside a search, as what people take from a shelf."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.setup.budget import price_text
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.families import Shape

MOST = 800  # px of a short edge
MULTIPLE = 32  # of which edges are, px


@dataclass(frozen=True)
class Detector:
    """One of torchvision's detectors as the sections of a config."""

    name: str
    has: tuple[str, ...]  # tensors that its weights have
    lacks: tuple[str, ...]  # and those of its relatives
    model: tuple[str, ...]  # the section, without its first line and the classes
    space: tuple[str, ...]  # its one architecture
    square: int  # px, of the edge of its input; 0: images keep their aspect


_R50 = (
    "  backbone.stem.width: 64",
    "  backbone.body.width: [64, 128, 256, 512]",
    "  backbone.body.depth: [3, 4, 6, 3]",
)
_RESNET = ("  backbone: resnet", "  backbone_options: {norm: frozen}")
_HIDDEN = "[16, 0, 0, 0, 64, 72, 0, 0, 72, 120, 120, 0, 240, 200, 184, 184, 480, 672, 0, 0, 672, 480, 480, 0]"
DETECTORS = (
    Detector(
        "ssdlite320_mobilenet_v3_large",
        ("head.classification_head.module_list.0.1.weight", "backbone.features.0.0.0.weight"),
        (),
        (
            "  backbone: mobilenet_v3",
            "  backbone_options: {features: [c4.expand, tail], norm_eps: 0.001, norm_momentum: 0.03}",
            "  neck: ssd_extras",
            "  neck_options: {hidden_of: out, linear: false, activation: relu6, norm_eps: 0.001, norm_momentum: 0.03}",
            "  head: ssd",
            "  head_options:",
            "    ratios: [[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]]",
            "    scales: [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]",
            "    activation: relu6",
            "    bias: true",
            "    logit_norm: false",
            "    norm_eps: 0.001",
            "    norm_momentum: 0.03",
            "    assigner_options: {force: box, negative: 0.5}",
            "    class_loss: multibox",
            "    box_loss_options: {}",
            "    normalizer: batch",
            "    scores: softmax",
            "    score_thresh: 0.001",
            "    nms_thresh: 0.55",
            "    candidates: 300",
            "  image_mean: [0.5, 0.5, 0.5]",
            "  image_std: [0.5, 0.5, 0.5]",
        ),
        (
            "  backbone.stem.width: 16",
            "  backbone.body.width: [16, 24, 40, 80, 112, 80]",
            "  backbone.body.depth: [1, 2, 3, 4, 2, 3]",
            "  backbone.body.kernel: [3, 3, 5, 3, 3, 5]",
            "  backbone.body.expand: [1, 6, 6, 6, 6, 6]",
            f"  backbone.body.hidden: {_HIDDEN}",
            "  backbone.head.width: 480",
        ),
        320,
    ),
    Detector(
        "retinanet_resnet50_fpn",
        ("head.regression_head.bbox_reg.weight", "backbone.body.layer3.5.conv3.weight"),
        ("head.classification_head.conv.0.1.weight", "backbone.body.layer3.6.conv3.weight"),
        (*_RESNET, "  head: retinanet"),
        _R50,
        0,
    ),
    Detector(
        "fasterrcnn_resnet50_fpn",
        ("roi_heads.box_head.fc6.weight", "backbone.body.layer3.5.conv3.weight"),
        ("roi_heads.mask_head.mask_fcn1.weight", "backbone.body.layer3.6.conv3.weight"),
        _RESNET,
        _R50,
        0,
    ),
)
BY_NAME = {each.name: each for each in DETECTORS}


@dataclass(frozen=True)
class Pretrained:
    """A detector with weights that are at hand."""

    detector: Detector
    init: str  # where its weights are, as a config says it
    shape: Shape
    macs: float

    def sections(self, classes: int) -> list[str]:
        """Those of a config that say what the network is."""
        return _sections(self.detector, self.shape, classes)


def open_pretrained(given: str, facts: Facts, seed: int) -> Pretrained:
    """The detector of a name of torchvision's, or of a file of its weights, perhaps with other classes. Raises
    UsageError where its weights are not at hand, or it is none of DETECTORS."""
    name = given.removeprefix("torchvision:")
    if os.path.isdir(given):
        has_model = os.path.exists(os.path.join(given, "model.py"))
        raise _refused(given, "is an extracted network" if has_model else "is a folder")
    is_file = os.path.exists(given)
    if not is_file and name not in BY_NAME:
        hint = f"Give a file of weights, or one of {', '.join(BY_NAME)}"
        raise UsageError(
            f"--pretrained {given}: there is no such file or detector{did_you_mean(name, tuple(BY_NAME))}", hint
        )
    init = os.path.abspath(given) if is_file else f"torchvision:{name}"
    from searchkit.nas.models.init.sources import read_weights

    try:
        tensors, meta = read_weights(init)
    except UsageError as e:
        hint = (e.hint or "").replace("init: path/to/", "--pretrained path/to/")
        raise UsageError(f"--pretrained {given}: {e.message}", hint) from e
    detector = _detector_of({key.removeprefix("module.") for key in tensors})
    if detector is None:
        raise _refused(given, "is a checkpoint of search-nas" if "space" in meta else "holds other weights")
    shape = (detector.square, detector.square) if detector.square else _shape_of(facts)
    priced = price_text("\n".join(_sections(detector, shape, len(facts.classes))) + "\n", (shape,), seed)
    return Pretrained(detector, init, shape, float(priced.largest[0]))


def _refused(given: str, what: str) -> UsageError:
    """The error for all that is not weights of one of DETECTORS; what: it is instead."""
    return UsageError(
        f"--pretrained {given}: it must be a file of weights of {', '.join(BY_NAME)}, perhaps with other classes, but "
        f"it {what}",
        "A detector of your own is compared by its records: train or tune it on this data by its own config, score it "
        "(search-nas test --split test --tag test --detections found.json --out candidate.jsonl), and add "
        "pretrained=candidate.jsonl to search-nas report",
    )


def _detector_of(names: Collection[str]) -> Detector | None:
    for each in DETECTORS:
        if all(name in names for name in each.has) and not any(name in names for name in each.lacks):
            return each
    return None


def _shape_of(facts: Facts) -> Shape:
    """The images' own size, as far as that is not too large."""
    factor = min(1.0, MOST / min(facts.size))
    height, width = (max(MULTIPLE, round(edge * factor / MULTIPLE) * MULTIPLE) for edge in facts.size)
    return height, width


def _sections(detector: Detector, shape: Shape, classes: int) -> list[str]:
    height, width = shape
    shapes = json.dumps([height if height == width else [height, width]])
    lines = ["model:", *detector.model, f"  num_classes: {classes}", "", "space:", *detector.space]
    return [*lines, f"  data.input_shape: {{choices: {shapes}}}"]
