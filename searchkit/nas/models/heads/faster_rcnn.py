"""Faster R-CNN (https://arxiv.org/abs/1506.01497) with an FPN on an elastic backbone.

RPN, RoI heads, losses and post-processing are torchvision's own, unmodified. The only state of the search is
`net.backbone.body.arch`. `subnet` (searchkit.nas.models.subnet) cuts an independent detector out of a larger one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import PART, Held, make_backbone
from searchkit.nas.models.heads.faster_rcnn_plan import HeadSizes
from searchkit.nas.models.necks.fpn import FPN
from searchkit.reading.kinds import Count
from searchkit.records.arch import Arch


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector but for its architecture. Defaults are those of torchvision's fasterrcnn_resnet50_fpn.

    backbone: one of searchkit.nas.models.elastic.BACKBONES, or the user's own class as "path/to/file.py:Class" or
    "package.module:Class". It is called with
    the names of the architecture below `backbone.` and `backbone_options`, and has `arch` (settable), `plan(arch)`,
    `channels(arch)` (of the features, finest first), and a forward from images (N, 3, H, W) to an OrderedDict of
    features "0", "1", ...
    """

    num_classes: Count  # without background
    backbone: str = "resnet"
    backbone_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fpn_channels: int = 256
    rpn_activation: Literal["sigmoid", "softmax"] = "sigmoid"  # one output per anchor, or background and foreground
    class_agnostic: bool = False  # one box for all classes, not one for each
    box_head_width: int = 1024
    roi_size: int = 7
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)  # pixels, one per level of the pyramid, finest first
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rpn_pre_nms_train: int = 2000  # proposals of a level that enter NMS
    rpn_pre_nms_test: int = 1000
    rpn_post_nms_train: int = 2000  # proposals of an image that leave it
    rpn_post_nms_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_batch_per_image: int = 256  # anchors in the loss
    box_batch_per_image: int = 512  # proposals in the loss
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_image: int = 100
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of values in 0..1
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"num_classes must be at least 1 (background not counted), but is {self.num_classes}")
        if self.rpn_activation not in ("sigmoid", "softmax"):
            raise UsageError(f"rpn_activation must be sigmoid or softmax, but is {self.rpn_activation!r}")
        for name in ("anchor_sizes", "anchor_ratios", "image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists of a YAML file
        if not self.anchor_sizes or not self.anchor_ratios:
            raise UsageError("anchor_sizes and anchor_ratios must have at least one value each")

    @property
    def heads(self) -> HeadSizes:
        """What decides the cost of everything after the backbone."""
        return HeadSizes(
            num_classes=self.num_classes,
            fpn_channels=self.fpn_channels,
            levels=len(self.anchor_sizes),
            anchors=len(self.anchor_ratios),
            rpn_activation=self.rpn_activation,
            class_agnostic=self.class_agnostic,
            box_head_width=self.box_head_width,
            roi_size=self.roi_size,
        )


class Backbone(nn.Module):
    """The backbone proper (`body`) and its FPN, named as in torchvision's BackboneWithFPN.

    maximum: the architecture it is built at; no other may exceed it.
    """

    def __init__(self, body: nn.Module, fpn: FPN, maximum: Arch) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = fpn.out_channels
        self.maximum = maximum

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> the levels of the pyramid, finest first."""
        levels: OrderedDict[str, Tensor] = self.fpn(self.body(x))
        return levels


class SoftmaxRPNHead(RPNHead):
    """Two outputs per anchor: first the background of all, then the foreground of all.

    Their difference is the objectness: its sigmoid is the softmax of the two, and its binary cross-entropy theirs.
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__(in_channels, num_anchors)
        self.cls_logits = nn.Conv2d(in_channels, 2 * num_anchors, kernel_size=1)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        nn.init.zeros_(self.cls_logits.bias)  # type: ignore[arg-type]

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """x: levels (N, C, H, W) -> objectness (N, A, H, W) and box deltas (N, 4 A, H, W) of each."""
        logits, deltas = super().forward(x)
        pairs = [level.chunk(2, dim=1) for level in logits]
        return [front - back for back, front in pairs], deltas


class AgnosticPredictor(FastRCNNPredictor):
    """Class scores, and one box for all classes, given out once for each."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.num_classes = num_classes
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (R, in_channels) -> scores (R, num_classes), box deltas (R, 4 num_classes)."""
        scores, deltas = super().forward(x)
        return scores, deltas.repeat(1, self.num_classes)


def build(
    config: DetectorConfig,
    arch: Arch,
    min_size: int | tuple[int, ...] = 800,
    max_size: int = 1333,
    held: Held | None = None,
) -> FasterRCNN:
    """A detector with new weights whose sizes are those of `arch`: a supernet at the maximal one, else a static net.

    min_size, max_size: pixels of the image's short and long edge after resizing; of several short edges, training draws
    one per image from torch's global generator. held: see make_backbone. Raises
    UsageError where config and arch don't fit together.
    """
    body = make_backbone(config.backbone, config.backbone_options, arch, held)
    widths = body.channels(arch.part(PART))
    levels = len(config.anchor_sizes)
    if levels < len(widths):
        raise UsageError(
            f"anchor_sizes must have a size for each of the {len(widths)} features of the backbone, but has {levels}"
        )
    fpn = FPN(widths, config.fpn_channels, extra=levels - len(widths))
    heads, channels, width = config.heads, config.fpn_channels, config.box_head_width
    rpn_head = SoftmaxRPNHead if config.rpn_activation == "softmax" else RPNHead
    predictor = AgnosticPredictor if config.class_agnostic else FastRCNNPredictor
    return FasterRCNN(
        Backbone(body, fpn, arch),
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in config.anchor_sizes), (config.anchor_ratios,) * levels
        ),
        rpn_head=rpn_head(channels, heads.anchors),
        box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(len(widths))], config.roi_size, sampling_ratio=2),
        box_head=TwoMLPHead(channels * config.roi_size**2, width),
        box_predictor=predictor(width, config.num_classes + 1),
        **settings(config),
    )


def settings(config: DetectorConfig) -> dict[str, Any]:
    """What FasterRCNN is called with, but for its parts and its input size."""
    return {
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "rpn_pre_nms_top_n_train": config.rpn_pre_nms_train,
        "rpn_pre_nms_top_n_test": config.rpn_pre_nms_test,
        "rpn_post_nms_top_n_train": config.rpn_post_nms_train,
        "rpn_post_nms_top_n_test": config.rpn_post_nms_test,
        "rpn_nms_thresh": config.rpn_nms_thresh,
        "rpn_batch_size_per_image": config.rpn_batch_per_image,
        "box_score_thresh": config.score_thresh,
        "box_nms_thresh": config.nms_thresh,
        "box_detections_per_img": config.detections_per_image,
        "box_batch_size_per_image": config.box_batch_per_image,
    }


__all__ = [
    "AgnosticPredictor",
    "Backbone",
    "DetectorConfig",
    "SoftmaxRPNHead",
    "build",
    "settings",
]
