"""The families of detectors that a config may be made of, each with its model, its space and its anchors. No torch.

All have a backbone of EfficientNet-Lite's blocks: with the widths of Lite0 where it starts from that network's ImageNet
weights, else with elastic widths around a multiple of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from searchkit.nas.models.backbones.efficientnet_lite_plan import DEPTHS, KERNELS, STEM, WIDTHS
from searchkit.nas.models.heads.faster_rcnn_plan import FasterRCNNOptions
from searchkit.nas.models.heads.retinanet_plan import RetinaNetOptions
from searchkit.nas.models.heads.ssd_plan import SSDOptions
from searchkit.nas.models.plan import multiple_of
from searchkit.nas.setup.anchors import Anchors
from searchkit.nas.setup.data import Facts
from searchkit.nas.space.shapes import height_width

Shape = tuple[int, int]  # (H, W), px; a square is written as its edge

PACKAGE = "efficientnet_lite0"  # of ImageNet weights
WHOLE = 1.0  # the width of Lite0, which its weights need
NARROWER = (2.0, 1.5, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15)  # that are tried without them, as multiples of it
FINEST = (8, 4)  # strides of the finest level that are tried, px
PROPOSALS = (50, 100, 200)  # of an image, that a box head may see: a dimension that needs no training
LEVELS: Mapping[str, int] = {"retinanet": 4, "faster_rcnn": 4}  # an SSD has those of the backbone


@dataclass(frozen=True)
class Body:
    """What a network is made of beside its anchors and input shapes."""

    family: str
    pretrained: bool
    width: float  # of the backbone, as a multiple of Lite0's
    finest: int  # stride of the finest level, px
    classes: int


@dataclass(frozen=True)
class Family:
    """A kind of detector."""

    name: str
    title: str
    multiple: int  # of which the edges of its inputs are, px
    fine: int  # likewise, where there is only one input
    stretches: bool  # images to its input, whatever their aspect
    model: Callable[[Body, Anchors], list[str]]  # the section, without its first line
    default: Callable[[Body, Shape], Anchors]  # as the family has them by itself
    rounded: Callable[[Anchors], Anchors]  # as a config writes them
    dimensions: tuple[str, ...] = ()  # lines of the space that are its own
    counted: str = ""  # of its MACs what is to be known, in words


def space_lines(body: Body) -> list[str]:
    """The dimensions of the space, without the input shape."""
    widths = tuple(multiple_of(w * body.width) for w in WIDTHS)
    least = 2 if body.pretrained else 1  # of the deeper stages
    depths = [[*range(max(1, min(least, d - 1)), d + 1)] for d in DEPTHS]
    if body.pretrained:
        width_lines = [f"  backbone.body.width: {list(widths)}  # those of its weights"]
    else:
        each = [sorted({multiple_of(0.75 * w), w}) for w in widths]
        width_lines = [f"  backbone.body.width: {{choices: {each}}}"]
    expands = [[1], *([[4, 6]] if body.pretrained else [[3, 4, 6]]) * (len(widths) - 1)]
    lines = [
        f"  backbone.stem.width: {multiple_of(STEM * body.width)}",
        *width_lines,
        f"  backbone.body.depth: {{choices: {depths}}}",
        f"  backbone.body.kernel: {list(KERNELS)}",
        f"  backbone.body.expand: {{choices: {expands}}}",
    ]
    return [*lines, *FAMILIES[body.family].dimensions]


def boxes_at(facts: Facts, shape: Shape, stretches: bool) -> np.ndarray:
    """The boxes (M, 4) as a network sees them at an input shape: px where images keep their aspect, parts of the edges
    where they are stretched."""
    sizes = facts.sizes[facts.image]
    if stretches:
        boxes: np.ndarray = facts.boxes / sizes[:, [1, 0, 1, 0]]
        return boxes
    scaled: np.ndarray = facts.boxes * scale_of(sizes, shape)[:, None]
    return scaled


def scale_of(sizes: np.ndarray, shape: Shape) -> np.ndarray:
    """(N,): the factor by which images of these heights and widths (N, 2) are scaled to fit into a shape."""
    factor: np.ndarray = np.minimum(min(shape) / sizes.min(1), max(shape) / sizes.max(1))
    return factor


def _strides(body: Body, shape: Shape, parts: bool) -> tuple[tuple[float, float], ...]:
    strides = [body.finest * 2**i for i in range(_levels(body))]
    if not parts:
        return tuple((float(s), float(s)) for s in strides)
    height, width = height_width(shape)
    return tuple((1 / -(-width // s), 1 / -(-height // s)) for s in strides)


def _levels(body: Body) -> int:
    return LEVELS.get(body.family, len(_expanded(body)))


def _expanded(body: Body) -> list[str]:
    """The features of an SSD, to the backbone's last: what is behind the last one would be computed for nothing."""
    return [*([] if body.finest == 8 else ["c2.expand"]), "c3.expand", "c4.expand", "c5"]


def _backbone(body: Body, features: str) -> list[str]:
    momentum = "" if body.pretrained else ", norm_momentum: 0.1"
    return ["  backbone: efficientnet_lite", f"  backbone_options: {{features: {features}{momentum}}}"]


def _channels(body: Body) -> int:
    """Of a pyramid, and of the towers that read it."""
    return max(24, multiple_of(64 * min(WHOLE, body.width)))


def _names(body: Body) -> str:
    return "[c2, c3, c4, c5]" if body.finest == 4 else "[c3, c4, c5]"


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{v:g}' for v in values)}]"


# --- SSD -------------------------------------------------------------------------------------------------------------


def _ssd(body: Body, anchors: Anchors) -> list[str]:
    features = _expanded(body)
    ratios = ", ".join([_listed(tuple(r for r in anchors.ratios if r != 1))] * len(features))
    return [
        *_backbone(body, f"[{', '.join(features)}]"),
        "  neck: ssd_extras",
        f"  neck_options: {{features: {len(features)}, channels: []}}",
        "  head: ssd",
        "  head_options:",
        f"    ratios: [{ratios}]  # of default boxes, where 1 is a box of the image's aspect",
        f"    scales: {_listed(anchors.sizes)}  # of them, as parts of the image's edges; one more than levels",
        "    prior: 0.01",
        "    logit_norm: false  # in few steps logits learn more with a bias than with a norm behind them",
        "    bias: true",
        "    detections_per_image: 100",
    ]


def _ssd_default(body: Body, shape: Shape) -> Anchors:
    plain = SSDOptions()
    return Anchors("pair", plain.scales[: _levels(body) + 1], (2.0,), _strides(body, shape, True), offset=0.5)


def _ssd_rounded(anchors: Anchors) -> Anchors:
    sizes = tuple(round(s, 3) for s in anchors.sizes)
    ratios = tuple(sorted({round(r, 2) for r in anchors.ratios} - {1.0})) or (1.0,)
    return Anchors(anchors.kind, sizes, ratios, anchors.strides, anchors.scales, anchors.offset)


# --- pyramids --------------------------------------------------------------------------------------------------------


def _retinanet(body: Body, anchors: Anchors) -> list[str]:
    channels, each = _channels(body), len(anchors.ratios) * len(anchors.scales)
    return [
        *_backbone(body, _names(body)),
        "  neck: elastic_fpn",
        f"  neck_options: {{first: 0, out_channel: {channels}, depth: {LEVELS['retinanet']}, norm: bn}}",
        "  head: retinanet",
        "  head_options:",
        f"    width: {channels}",
        "    norm: per_level",
        f"    anchor_sizes: {_listed(anchors.sizes)}  # px of the input, one for each level",
        f"    anchor_scales: {_listed(anchors.scales)}",
        f"    anchor_ratios: {_listed(anchors.ratios)}  # height / width",
        "    assigner: atss",
        f"    assigner_options: {{nearest: {9 * each}}}  # 9 places with {each} anchors each",
        "    class_loss: quality_focal",
        "    box_loss: giou",
        "    detections_per_image: 100",
    ]


def _retinanet_default(body: Body, shape: Shape) -> Anchors:
    plain, levels = RetinaNetOptions(), LEVELS["retinanet"]
    sizes = tuple(map(float, plain.anchor_sizes[:levels]))
    return Anchors("square", sizes, plain.anchor_ratios, _strides(body, shape, False), plain.anchor_scales)


def _faster_rcnn(body: Body, anchors: Anchors) -> list[str]:
    return [
        *_backbone(body, _names(body)),
        f"  fpn_channels: {_channels(body)}",
        f"  box_head_width: {max(64, multiple_of(256 * min(WHOLE, body.width)))}",
        f"  anchor_sizes: {_listed(anchors.sizes)}  # px of the input, one for each level",
        f"  anchor_ratios: {_listed(anchors.ratios)}  # height / width",
        "  rpn_pre_nms_train: 600",
        "  rpn_pre_nms_test: 400",
        "  rpn_post_nms_train: 300",
        f"  rpn_post_nms_test: {PROPOSALS[-1]}  # while it trains; the space says what an arch has",
        "  rpn_batch_per_image: 128",
        "  box_batch_per_image: 128",
        "  detections_per_image: 100",
    ]


def _faster_rcnn_default(body: Body, shape: Shape) -> Anchors:
    plain, levels = FasterRCNNOptions(), LEVELS["faster_rcnn"]
    sizes = tuple(map(float, plain.anchor_sizes[:levels]))
    return Anchors("square", sizes, plain.anchor_ratios, _strides(body, shape, False))


def _rounded(anchors: Anchors) -> Anchors:
    sizes = tuple(float(max(1, round(s))) for s in anchors.sizes)
    ratios = tuple(sorted({round(r, 2) for r in anchors.ratios}))
    return Anchors(anchors.kind, sizes, ratios, anchors.strides, anchors.scales, anchors.offset)


_DEPTHS = ("  head.cls.depth: {choices: [1, 2]}",)
_KEPT = (f"  head.proposals: {{choices: {list(PROPOSALS)}}}  # regions that its box head sees; it needs no training",)
_COUNTED = f"the box head on as many regions as head.proposals says, {PROPOSALS[0]} to {PROPOSALS[-1]}"
FAMILIES: Mapping[str, Family] = {
    "ssd": Family("ssd", "SSD", 16, 8, True, _ssd, _ssd_default, _ssd_rounded),
    "retinanet": Family("retinanet", "RetinaNet", 32, 32, False, _retinanet, _retinanet_default, _rounded, _DEPTHS),
    "faster_rcnn": Family(
        "faster_rcnn", "Faster R-CNN", 32, 32, False, _faster_rcnn, _faster_rcnn_default, _rounded, _KEPT, _COUNTED
    ),
}
# The family for a budget: the first whose limit (MACs) is not below it. On a CPU what stands behind the network of a
# Faster R-CNN (proposals, their NMS, regions) takes as long as a small network, so it is for larger budgets there.
UP_TO: Mapping[str, tuple[tuple[str, float], ...]] = {
    "cpu": (("ssd", 1e9), ("retinanet", 4e9), ("faster_rcnn", float("inf"))),
    "cuda": (("ssd", 0.5e9), ("retinanet", 2e9), ("faster_rcnn", float("inf"))),
}


def family_for(budget_macs: float, device: str) -> Family:
    """The family that the rule above takes; device: cpu, cuda, cuda:0 …"""
    name = next(name for name, most in UP_TO[device.partition(":")[0]] if budget_macs <= most)
    return FAMILIES[name]
