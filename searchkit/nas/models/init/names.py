"""What other projects call the tensors of networks that we have too: a table of backbones, a table of whole networks.

The names of a row come from the project's own model, and a test holds the row to that model's state dict: its names and
shapes are kept in tests/assets/names where the project is not installed for tests. Where that can't be done there is no
row: names are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from searchkit.nas.models.backbones import (
    efficientnet_lite_plan,
    mobilenet_plan,
    mobilenet_v3_plan,
    regnet_plan,
    shufflenet_plan,
)
from searchkit.nas.models.part import BACKBONE, HEAD, NECK

Tensors = Mapping[str, Tensor]
Rules = tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]
Change = Callable[[Tensor, Tensor, Tensors], Tensor]  # (the file's value, ours, the file) -> the value as we have it


def renamed(names: Collection[str], rules: Rules) -> dict[str, str]:
    """Ours by theirs, for the names whose beginning one of the rules knows."""
    ours: dict[str, str] = {}
    for name in names:
        for pattern, new in rules:
            if match := pattern.match(name):
                ours[name] = (new(match) if callable(new) else match.expand(new)) + name[match.end() :]
                break
    return ours


# --- backbones -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BackboneNames:
    """How the files of some projects name the tensors of one of our backbones."""

    whose: str
    kind: str  # of searchkit.nas.models.elastic.BACKBONES
    marks: tuple[str, ...]  # names that all these files have, and files of no other row
    ours: Callable[[Collection[str]], Mapping[str, str]]  # ours by theirs; those of a last layer begin with "fc."
    kernel: tuple[str, int] | None = None  # where the names are another network's too: a conv, and its kernel's edge

    def fit(self, tensors: Tensors) -> bool:
        """Whether the tensors of a file are named so."""
        if not all(mark in tensors for mark in self.marks):
            return False
        return self.kernel is None or tuple(tensors[self.kernel[0]].shape[2:]) == 2 * (self.kernel[1],)


def _same(names: Collection[str]) -> Mapping[str, str]:
    return {name: name for name in names}


_TIMM_RESNET_D: Rules = (
    (re.compile(r"conv1\.(\d)\."), r"stem.\1."),
    (re.compile(r"bn1\."), "stem.7."),
    (re.compile(r"(?=layer\d\.|fc\.)"), ""),
)
# The parts of a timm block, and of one that does not expand.
_TIMM_EXPANDED = {"conv_pw": "expand.0", "bn1": "expand.1", "conv_dw": "depthwise.0", "bn2": "depthwise.1"}
_TIMM_EXPANDED |= {"conv_pwl": "project.0", "bn3": "project.1"}
_TIMM_PLAIN = {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "project.0", "bn2": "project.1"}
_TIMM_ENDS: Rules = (
    (re.compile(r"conv_stem\."), "stem.0."),
    (re.compile(r"bn1\."), "stem.1."),
    (re.compile(r"conv_head\."), "head.0."),
    (re.compile(r"bn2\."), "head.1."),
    (re.compile(r"classifier\."), "fc."),
)
_TIMM_BLOCK = re.compile(r"(blocks\.(\d+)\.(\d+)\.)(\w+)\.")


def _of_timm(names: Collection[str]) -> Mapping[str, str]:
    """timm's names of a network of inverted residuals."""
    ours = renamed(names, _TIMM_ENDS)
    for name in names:
        if match := _TIMM_BLOCK.match(name):
            block, stage, number, layer = match.groups()
            layers = _TIMM_EXPANDED if f"{block}conv_pwl.weight" in names else _TIMM_PLAIN
            if layer in layers:
                ours[name] = f"stages.{stage}.{number}.{layers[layer]}.{name[match.end() :]}"
    return ours


_MM_CONV = {"expand_conv": "expand", "depthwise_conv": "depthwise", "linear_conv": "project"}
_MM_LAYER = {"conv": 0, "bn": 1}
_MM_MOBILENET: Rules = (
    (re.compile(r"conv1\.(conv|bn)\."), lambda m: f"stem.{_MM_LAYER[m[1]]}."),
    (re.compile(r"conv2\.(conv|bn)\."), lambda m: f"head.{_MM_LAYER[m[1]]}."),
    (
        re.compile(r"layer(\d)\.(\d+)\.(expand_conv|depthwise_conv|linear_conv)\.(conv|bn)\."),
        lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.{_MM_CONV[m[3]]}.{_MM_LAYER[m[4]]}.",
    ),
)


def _of_a_detector(names: Collection[str]) -> Mapping[str, str]:
    """torchvision's MobileNetV3 within a detector, which has its features alone."""
    begin = "features."
    ours = mobilenet_v3_plan.from_torchvision([begin + name for name in names])
    return {name.removeprefix(begin): own for name, own in ours.items()}


BACKBONE_NAMES: tuple[BackboneNames, ...] = (
    BackboneNames("torchvision, timm, mmdetection, GAIA", "resnet", ("conv1.weight", "layer1.0.conv1.weight"), _same),
    BackboneNames("mmdetection, GAIA", "resnet", ("stem.0.weight", "layer1.0.conv1.weight"), _same),
    BackboneNames(
        "timm", "resnet", ("conv1.0.weight", "layer1.0.conv1.weight"), lambda names: renamed(names, _TIMM_RESNET_D)
    ),
    BackboneNames(
        "torchvision",
        "mobilenet_v2",
        ("features.0.0.weight", "features.1.conv.0.0.weight"),
        mobilenet_plan.from_torchvision,
    ),
    BackboneNames(
        "timm",
        "mobilenet_v2",
        ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.2.0.conv_dw.weight", "bn2.weight"),
        _of_timm,
        kernel=("blocks.2.0.conv_dw.weight", 3),  # EfficientNet-Lite has 5 there
    ),
    BackboneNames(
        "mmdetection",
        "mobilenet_v2",
        ("conv1.conv.weight", "layer1.0.depthwise_conv.conv.weight"),
        lambda names: renamed(names, _MM_MOBILENET),
    ),
    BackboneNames(
        "torchvision",
        "mobilenet_v3",
        ("features.0.0.weight", "features.1.block.0.0.weight"),
        mobilenet_v3_plan.from_torchvision,
    ),
    BackboneNames("torchvision", "mobilenet_v3", ("0.0.weight", "1.block.0.0.weight"), _of_a_detector),
    BackboneNames(
        "efficientnet-lite-pytorch",
        "efficientnet_lite",
        ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight"),
        efficientnet_lite_plan.from_package,
    ),
    BackboneNames(
        "torchvision",
        "shufflenet_v2",
        ("conv1.0.weight", "stage2.0.branch1.0.weight"),
        shufflenet_plan.from_torchvision,
    ),
    BackboneNames(
        "torchvision",
        "regnet",
        ("stem.0.weight", "trunk_output.block1.block1-0.proj.0.weight"),
        regnet_plan.from_torchvision,
    ),
    BackboneNames(
        "timm",
        "efficientnet_lite",
        ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.2.0.conv_dw.weight", "bn2.weight"),
        _of_timm,
        kernel=("blocks.2.0.conv_dw.weight", 5),
    ),
)


def backbone_names(tensors: Tensors) -> BackboneNames | None:
    """The row that the tensors of a backbone are named by, without a prefix; None for names that no row knows."""
    return next((row for row in BACKBONE_NAMES if row.fit(tensors)), None)


# --- whole networks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the tensors of one part lie whose names begin so, and their names below that part here."""

    begins: re.Pattern[str]
    part: str
    ours: str = ""
    change: Change | None = None  # of the values: the order of classes, say


@dataclass(frozen=True)
class Layout:
    """How the files of some projects put a network of ours together from a backbone, a neck and a head."""

    whose: str
    neck: str  # of searchkit.nas.models.table.NECKS
    head: str  # of its HEADS
    marks: tuple[str, ...]  # beginnings of names: such a file has some of each
    places: tuple[Place, ...]  # the first that a name begins with counts

    def fits(self, names: Collection[str]) -> bool:
        """Whether a file's tensors are laid out so."""
        return all(any(name.startswith(mark) for name in names) for mark in self.marks)


def _background_first(value: Tensor, _: Tensor, __: Tensors) -> Tensor:
    """Rows of classes, the background's last, in our order."""
    return torch.cat([value[-1:], value[:-1]])


def _boxes_with_background(value: Tensor, into: Tensor, _: Tensors) -> Tensor:
    """Rows of boxes for each class; ours begin with the background's, of which nothing is ever read."""
    if into.shape[0] != value.shape[0] + 4:
        return value
    return torch.cat([value.new_zeros(4, *value.shape[1:]), value])


def _backgrounds_first(value: Tensor, _: Tensor, tensors: Tensors) -> Tensor:
    """Rows of a softmax over the foreground and background of each anchor; ours begin with all backgrounds."""
    boxes = tensors.get("rpn_head.rpn_reg.bias")
    is_softmax = boxes is not None and value.shape[0] == boxes.shape[0] // 2
    return torch.cat([value[1::2], value[0::2]]) if is_softmax else value


def _place(begins: str, part: str, ours: str = "", change: Change | None = None) -> Place:
    return Place(re.compile(begins), part, ours, change)


# torchvision named the convs of its pyramid and of its region proposals otherwise before 0.14.
_TORCHVISION_TRUNK = (
    _place(r"backbone\.body\.", BACKBONE),
    _place(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(?=weight|bias)", NECK, r"\1_blocks.\2.0."),
    _place(r"backbone\.fpn\.", NECK),
)
_MM_TRUNK = (
    _place(r"backbone\.", BACKBONE),
    _place(r"neck\.lateral_convs\.(\d+)\.conv\.", NECK, r"inner_blocks.\1.0."),
)
_MM_LEVEL, _MM_BOX = r"neck\.fpn_convs\.", r"roi_head\.bbox_head\."
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "torchvision",
        "fpn",
        "faster_rcnn",
        ("backbone.body.", "backbone.fpn.inner_blocks.", "rpn.head.cls_logits.", "roi_heads.box_head.fc6."),
        (
            *_TORCHVISION_TRUNK,
            _place(r"rpn\.head\.conv\.(?=weight|bias)", HEAD, "rpn.head.conv.0.0."),
            _place("", HEAD),
        ),
    ),
    Layout(
        "mmdetection, GAIA",
        "fpn",
        "faster_rcnn",
        ("backbone.", "neck.lateral_convs.", "rpn_head.rpn_conv.", "roi_head.bbox_head.shared_fcs."),
        (
            *_MM_TRUNK,
            _place(_MM_LEVEL + r"(\d+)\.conv\.", NECK, r"layer_blocks.\1.0."),
            _place(r"neck\.", NECK),
            _place(r"rpn_head\.rpn_conv\.", HEAD, "rpn.head.conv.0.0."),
            _place(r"rpn_head\.rpn_cls\.", HEAD, "rpn.head.cls_logits.", _backgrounds_first),
            _place(r"rpn_head\.rpn_reg\.", HEAD, "rpn.head.bbox_pred."),
            _place(_MM_BOX + r"shared_fcs\.0\.", HEAD, "roi_heads.box_head.fc6."),
            _place(_MM_BOX + r"shared_fcs\.1\.", HEAD, "roi_heads.box_head.fc7."),
            _place(_MM_BOX + r"fc_cls\.", HEAD, "roi_heads.box_predictor.cls_score.", _background_first),
            _place(_MM_BOX + r"fc_reg\.", HEAD, "roi_heads.box_predictor.bbox_pred.", _boxes_with_background),
            _place("", HEAD),
        ),
    ),
    Layout(
        "torchvision",
        "elastic_fpn",
        "retinanet",
        ("backbone.body.", "backbone.fpn.", "head.classification_head.cls_logits.", "head.regression_head.bbox_reg."),
        (
            *_TORCHVISION_TRUNK,
            _place("", HEAD),
        ),
    ),
    # ssdlite320_mobilenet_v3_large: its backbone is in two pieces, the second of which begins within block 13.
    Layout(
        "torchvision",
        "ssd_extras",
        "ssd",
        (
            "backbone.features.0.13.",
            "backbone.features.1.0.",
            "backbone.extra.",
            "head.classification_head.module_list.",
        ),
        (
            _place(r"backbone\.features\.0\.13\.", BACKBONE, "features.13.block.0."),
            _place(r"backbone\.features\.0\.", BACKBONE, "features."),
            _place(r"backbone\.features\.1\.0\.", BACKBONE, "features.13.block."),
            _place(r"backbone\.features\.1\.1\.", BACKBONE, "features.14."),
            _place(r"backbone\.features\.1\.2\.", BACKBONE, "features.15."),
            _place(r"backbone\.features\.1\.3\.", BACKBONE, "features.16."),
            _place(r"backbone\.extra\.", NECK),
            _place("", HEAD),
        ),
    ),
    Layout(
        "mmdetection",
        "elastic_fpn",
        "retinanet",
        ("backbone.", "neck.lateral_convs.", "bbox_head.retina_cls.", "bbox_head.retina_reg."),
        (
            *_MM_TRUNK,
            _place(_MM_LEVEL + r"([012])\.conv\.", NECK, r"layer_blocks.\1.0."),
            _place(_MM_LEVEL + r"3\.conv\.", NECK, "extra_blocks.p6."),
            _place(_MM_LEVEL + r"4\.conv\.", NECK, "extra_blocks.p7."),
            _place(r"neck\.", NECK),
            _place(r"bbox_head\.cls_convs\.(\d+)\.conv\.", HEAD, r"head.classification_head.conv.\1.0."),
            _place(r"bbox_head\.reg_convs\.(\d+)\.conv\.", HEAD, r"head.regression_head.conv.\1.0."),
            _place(r"bbox_head\.retina_cls\.", HEAD, "head.classification_head.cls_logits."),
            _place(r"bbox_head\.retina_reg\.", HEAD, "head.regression_head.bbox_reg."),
            _place("", HEAD),
        ),
    ),
)


def layout(names: Collection[str]) -> Layout | None:
    """How the tensors of a file are laid out; None for one of no row."""
    return next((row for row in LAYOUTS if row.fits(names)), None)
