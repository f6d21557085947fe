"""The heads of a Faster R-CNN (https://arxiv.org/abs/1506.01497, with an FPN) as rows. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from searchkit.errors import UsageError
from searchkit.nas.models.part import (
    LEVELS,
    SCORES,
    Channels,
    Colour,
    Misfit,
    NetConfig,
    Piece,
    Pieces,
    Setting,
    regions,
)
from searchkit.nas.models.plan import CACHE, Layer, Row
from searchkit.reading.keys import At
from searchkit.reading.kinds import LATER

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

PROPOSALS = 1000  # that the box head is priced on, per image


@dataclass(frozen=True, kw_only=True)
class FasterRCNNOptions:
    """The keys of a Faster R-CNN's heads. Defaults are those of torchvision's fasterrcnn_resnet50_fpn."""

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

    def __post_init__(self) -> None:
        if self.rpn_activation not in ("sigmoid", "softmax"):
            raise UsageError(f"rpn_activation must be sigmoid or softmax, but is {self.rpn_activation!r}")
        for name in ("anchor_sizes", "anchor_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists of a YAML file
        if not self.anchor_sizes or not self.anchor_ratios:
            raise UsageError("anchor_sizes and anchor_ratios must have at least one value each")


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(NetConfig):
    """The key of an FPN that stands in `model:` itself."""

    fpn_channels: int = 256  # `channels` of neck fpn


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(FasterRCNNOptions, PyramidConfig):
    """A Faster R-CNN but for its architecture."""

    image_mean: Colour = (0.485, 0.456, 0.406)  # of values in 0..1
    image_std: Colour = (0.229, 0.224, 0.225)
    neck: str = field(default="fpn", repr=False, metadata=LATER)
    head: str = field(default="faster_rcnn", repr=False, metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 1:
            raise UsageError(f"num_classes must be at least 1 (background not counted), but is {self.num_classes}")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.neck != "fpn" and self.fpn_channels != PyramidConfig.fpn_channels:
            raise At("fpn_channels", f"is of the neck fpn, but the neck is {self.neck}", beside=("neck",))

    def neck_defaults(self) -> dict[str, Any]:
        """The channels of an FPN, and of either pyramid as many levels as there are sizes of anchors."""
        levels = len(self.anchor_sizes)
        fpn = {"channels": self.fpn_channels, "levels": levels}
        return {"fpn": fpn, "elastic_fpn": {"depth": levels}}.get(self.neck, {})


class FasterRCNNPlan:
    """What the heads of a Faster R-CNN are made of: proposals on every level, boxes on each proposal."""

    TASK: ClassVar[str] = "det"
    Config: ClassVar[type[NetConfig]] = DetectorConfig
    Options: ClassVar[type] = FasterRCNNOptions
    NAMES: ClassVar[tuple[str, ...]] = ()
    MODULE: ClassVar[str] = ""
    LOSSES: ClassVar[tuple[str, ...]] = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    EVALUATION: ClassVar[tuple[str, ...]] = (
        "rpn_pre_nms_test",
        "rpn_post_nms_test",
        "score_thresh",
        "nms_thresh",
        "detections_per_image",
    )
    LEARNT_FOR: ClassVar[tuple[str, ...]] = ("anchor_sizes", "anchor_ratios")
    SETTINGS: ClassVar[Mapping[str, Setting]] = {"proposals": Setting("rpn_post_nms_test"), **SCORES}

    def __init__(self, options: FasterRCNNOptions, num_classes: int, proposals: int = PROPOSALS) -> None:
        """num_classes: without background. proposals: that the box head is priced on, per image, where an architecture
        says nothing of them."""
        self.options, self.num_classes, self.proposals = options, num_classes, proposals

    def regions_kept(self, arch: Arch) -> int:
        """Of an image in evaluation, at most, by architectures up to this one: so many times its box head runs, however
        many it is priced on."""
        kept: int = arch.get("proposals", self.options.rpn_post_nms_test)
        return kept

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """Raises UsageError for levels of several widths, or another number of them than there are anchor sizes."""
        sizes = self.options.anchor_sizes
        if len(set(levels)) != 1:
            told = f"the levels of a Faster R-CNN must be of one width, but they have {levels} channels"
            raise Misfit(told, keys=("model.neck",))
        if len(sizes) != len(levels):
            raise Misfit(
                f"anchor_sizes must have a size for each of the {len(levels)} levels of the neck, but has {len(sizes)}",
                keys=(
                    "model.anchor_sizes",
                    "model.head_options.anchor_sizes",
                    "space.neck.depth",
                    "model.neck_options.depth",
                    "model.neck_options.levels",
                ),
            )
        proposals = arch.get("proposals", self.proposals)
        return faster_rcnn_pieces(self.options, self.num_classes, levels[0], proposals)


@lru_cache(CACHE)
def faster_rcnn_pieces(options: FasterRCNNOptions, num_classes: int, channels: int, proposals: int) -> Pieces:
    """The region proposal head on every level, and the box head on so many proposals."""
    scores = len(options.anchor_ratios) * (2 if options.rpn_activation == "softmax" else 1)
    rpn = rpn_row(channels, scores, 4 * len(options.anchor_ratios))
    classes = num_classes + 1
    box_in, wide = channels * options.roi_size**2, options.box_head_width
    boxes = box_row(box_in, wide, classes, 4 if options.class_agnostic else 4 * classes)
    return Piece((rpn,), LEVELS), Piece((boxes,), regions(proposals))


@lru_cache(CACHE)
def rpn_row(channels: int, scores: int, deltas: int) -> Row:
    """The region proposal head; its last two convs both read the first."""
    layers = (
        Layer("conv", "conv.0.0", channels, channels, kernel=3, padding=1, bias=True),
        Layer("conv", "cls_logits", channels, scores, bias=True),
        Layer("conv", "bbox_pred", channels, deltas, bias=True),
    )
    return Row("rpn.head", 0, 0, layers)


@lru_cache(CACHE)
def box_row(box_in: int, wide: int, scores: int, deltas: int) -> Row:
    """The box head: two hidden layers; its last two layers both read the second."""
    layers = (
        Layer("linear", "box_head.fc6", box_in, wide, bias=True),
        Layer("relu", "relu", wide, wide),
        Layer("linear", "box_head.fc7", wide, wide, bias=True),
        Layer("relu", "relu", wide, wide),
        Layer("linear", "box_predictor.cls_score", wide, scores, bias=True),
        Layer("linear", "box_predictor.bbox_pred", wide, deltas, bias=True),
    )
    return Row("roi_heads", 0, 0, layers)


def settings(config: DetectorConfig) -> dict[str, Any]:
    """What torchvision's FasterRCNN is called with, but for its parts and its input size."""
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
