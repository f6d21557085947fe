"""SSD (https://arxiv.org/abs/1512.02325): default boxes at every place of each level, and the layers that read them.

Matching, losses and post-processing are those of dense.py; the default boxes are torchvision's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.errors import UsageError
from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_head import ClassRows, DenseHead
from searchkit.nas.models.heads.ssd_plan import CLASSES, Style, anchors_at, head_pieces, head_rows
from searchkit.nas.models.necks.ssd_extras import normal_convs
from searchkit.nas.models.part import NEVER, Channels, Misfit, NetConfig, Pieces, PlainConfig
from searchkit.nas.models.plan import Row
from searchkit.nas.nn import Chain, attach, norm_of
from searchkit.nas.nn.transforms import Choices as Held
from searchkit.nas.nn.transforms import Transform, transform_filters
from searchkit.reading.kinds import LATER, Count, Fraction, Positive, Whole

if TYPE_CHECKING:
    from searchkit.nas.models.trunk import Trunk
    from searchkit.records.arch import Arch

# What the rows of a class hold, by the tensor's name within its level, that is never predicted.
_NEVER = {"1.weight": 0.0, "1.bias": NEVER, "2.weight": 0.0, "2.bias": NEVER}
_NEVER |= {"2.running_mean": 0.0, "2.running_var": 1.0}


@dataclass(frozen=True, kw_only=True)
class SSDOptions(Dense):
    """The head of an SSD. Defaults are aw_nas'.

    A level has in each cell squares of its scale s and of the geometric mean of s and the next level's, and for each of
    its ratios a flat and an upright box as large as the first square.
    """

    ratios: tuple[tuple[Positive, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # beside 1, for each level
    scales: tuple[Positive, ...] = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)  # of the image's edges; one more than levels
    kernel: Count = 3  # of the filters, where the space has no `head.kernel`; odd
    activation: Literal["relu", "relu6"] = "relu"
    bias: bool = False  # of the last convs
    logit_norm: bool = True  # batch norms behind the last convs
    prior: float = 0.5  # the score of all classes before training, where scores are sigmoids; RetinaNet's is 0.01
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1
    norm: Literal["bn", "sync_bn"] = field(default="bn", metadata=LATER)
    norm_ranks: Whole = field(default=0, metadata=LATER)  # of a training, whose images a sync_bn sees together; 0: all
    transform: Transform = field(default="none", metadata=LATER)  # of the largest kernel to smaller ones, see backbones
    # Of Dense, with other defaults:
    assigner_options: Mapping[str, Any] = field(default_factory=lambda: {"force": "box"}, hash=False)
    class_loss: str = "clamped_focal"
    box_loss: str = "smooth_l1"
    box_loss_options: Mapping[str, Any] = field(default_factory=lambda: {"beta": 1 / 9, "weight": 0.25}, hash=False)
    normalizer: str = "image_with_positives"
    coder: tuple[float, float] = (10.0, 5.0)
    background: bool = True
    score_thresh: float = 0.01
    detections_per_image: int = 200
    candidates: int = 2268  # that enter NMS at most, of each class: all of an image of 300 x 300 px
    candidates_of: Literal["level", "class"] = "class"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ratios", tuple(tuple(of_level) for of_level in self.ratios))  # lists of a YAML file
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.ratios or len(self.scales) != len(self.ratios) + 1:
            raise UsageError(
                f"ratios must have a list for each level, and scales one value more: there are {len(self.ratios)} and "
                f"{len(self.scales)}"
            )
        if not all(x > 0 for x in (*self.scales, *(ratio for of_level in self.ratios for ratio in of_level))):
            raise UsageError("scales and ratios must be above 0")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd and at least 1, but is {self.kernel}")
        if not 0 < self.prior < 1:
            raise UsageError(f"prior must be between 0 and 1, but is {self.prior:g}")
        if self.prior != 0.5 and self.scores == "softmax":
            raise UsageError("prior needs scores: sigmoid")
        if not (self.bias or self.logit_norm):
            raise UsageError("one of bias and logit_norm must be true, or both")


@dataclass(frozen=True, kw_only=True)
class SSDConfig(PlainConfig):
    """An SSD but for its architecture."""

    neck: str = field(default="ssd_extras", repr=False, metadata=LATER)
    head: str = field(default="ssd", repr=False, metadata=LATER)


class SSDHead(DenseHead):
    """The head `ssd`. `head.kernel` of an architecture, which may be left out, are the sizes of the filters: one number
    for all levels, or one for each."""

    KIND: ClassVar[str] = "SSD"
    Config: ClassVar[type[NetConfig]] = SSDConfig
    Options: ClassVar[type] = SSDOptions
    NAMES: ClassVar[tuple[str, ...]] = ("kernel",)
    CHOICES: ClassVar[tuple[str, ...]] = ("kernel",)
    STRETCHES: ClassVar[bool] = True

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """See Head of searchkit.nas.models.part."""
        return head_pieces(self.rows(arch, levels))

    def rows(self, arch: Arch, levels: Channels) -> tuple[tuple[Row, Row], ...]:
        """What makes class logits and box deltas of each level. Raises UsageError where they don't fit."""
        options, kernel = self.options, arch.get("kernel", self.options.kernel)
        if len(levels) != len(options.ratios):
            raise Misfit(
                f"the SSD's head has default boxes for {len(options.ratios)} levels, but the neck gives out "
                f"{len(levels)}",
                "Give head_options.ratios a list for each level, and head_options.scales one number more.",
                keys=(
                    "model.head_options.ratios",
                    "model.neck_options.channels",
                    "model.neck_options.features",
                    "model.neck",
                ),
            )
        kernels = (kernel,) * len(levels) if isinstance(kernel, int) else kernel
        if len(kernels) != len(levels):
            told = f"head.kernel must be 1 number, or one for each of {len(levels)} levels, but is {kernel}"
            raise Misfit(told, keys=("space.head.kernel",))
        style = Style(options.activation, options.bias, options.logit_norm)
        columns = self.num_classes + int(options.background)
        return head_rows(levels, anchors_at(options.ratios), kernels, columns, style)

    def default_boxes(self) -> DefaultBoxGenerator:
        """The default boxes of all levels."""
        return DefaultBoxGenerator([list(ratios) for ratios in self.options.ratios], scales=list(self.options.scales))

    def network(
        self,
        trunk: Trunk,
        arch: Arch,
        config: Any,
        min_size: int | tuple[int, ...] = 300,
        max_size: int = 300,
        held: Held | None = None,
    ) -> SSD:
        """An SSD around a backbone with its neck; held: the choices of a supernet's kernels."""
        return SSD(trunk, Predictors(self, arch, trunk.channels, held), self.transform(config, min_size, max_size))

    def transform(self, config: Any, min_size: int | tuple[int, ...], max_size: int) -> GeneralizedRCNNTransform:
        """What images go through first: each becomes one of min_size x min_size px, until set_scale says otherwise."""
        edge = min_size if isinstance(min_size, int) else min_size[0]
        mean, std = list(config.image_mean), list(config.image_std)
        return GeneralizedRCNNTransform(edge, edge, mean, std, size_divisible=1, fixed_size=(edge, edge))

    def class_rows(self) -> list[ClassRows]:
        """See DenseHead: the last convs, and the norms behind them."""
        return [
            ClassRows(f"{CLASSES}.{i}.{tensor}", anchors, never)
            for i, anchors in enumerate(anchors_at(self.options.ratios))
            for tensor, never in _NEVER.items()
        ]

    def anchors_source(self, net: Any) -> str:
        """The default boxes as text."""
        boxes = net.anchor_generator
        return f"DefaultBoxGenerator({boxes.aspect_ratios}, scales={boxes.scales})"


class SSD(DenseDetector):
    """An SSD; its extra levels and the filters of its head may be elastic. Every image becomes one of the same height
    and width."""

    def __init__(self, backbone: nn.Module, head: Predictors, transform: GeneralizedRCNNTransform) -> None:
        part = head.part
        super().__init__(part.num_classes, part.default_boxes(), transform, **part.options.settings())
        self.backbone = backbone
        self.head = head

    def levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See DenseDetector."""
        outputs: list[tuple[Tensor, Tensor]] = self.head([*self.backbone(x).values()])
        return outputs


class Predictors(nn.Module):
    """The layers that read each level, at any architecture up to the one that they are made at, with the names and
    initial values of torchvision's SSDLite."""

    def __init__(self, head: SSDHead, arch: Arch, levels: Channels, held: Held | None = None) -> None:
        super().__init__()
        self.part = head
        self.set_arch(arch, levels)
        options = head.options
        norm = norm_of(options.norm, 1, options.norm_eps, options.norm_momentum, options.norm_ranks)
        for row in (row for pair in self._rows for row in pair):
            attach(self, _below(row), Chain(row, norm))
        for side in zip(*self._rows, strict=True):  # classes, then boxes
            filters = [f"{_below(row)}.0.0" for row in side]
            self.held = transform_filters(self, filters, options.transform, held)
        normal_convs(self)
        if options.prior != 0.5:
            for classes, _ in self._rows:
                last = self.get_submodule(f"{_below(classes)}.{classes.layers[-1].name}")
                nn.init.constant_(last.get_parameter("bias"), math.log(options.prior / (1 - options.prior)))

    def set_arch(self, arch: Arch, levels: Channels) -> None:
        """Run this architecture from now on, on levels of so many channels."""
        self._rows = self.part.rows(arch, levels)
        self.arch = arch

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """levels: (N, C_i, H_i, W_i), finest first -> class logits (N, A_i K, H_i, W_i) and box deltas
        (N, A_i 4, H_i, W_i) of each; the channels of a default box stand side by side."""
        return [(self._run(a, x), self._run(b, x)) for (a, b), x in zip(self._rows, levels, strict=True)]

    def _run(self, row: Row, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(_below(row))(x, row)
        return y


def _below(row: Row) -> str:
    """The name of a row's module within the head."""
    return row.name.removeprefix(f"{SSDHead.MODULE}.")
