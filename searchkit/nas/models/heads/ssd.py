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

from searchkit.errors import UsageError
from searchkit.nas.models.heads.dense import LOSSES, Dense
from searchkit.nas.models.heads.ssd_plan import Style, anchors_at, head_pieces, head_rows
from searchkit.nas.models.necks.ssd_extras import normal_convs
from searchkit.nas.models.part import Channels, Pieces
from searchkit.nas.models.plan import Row
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


@dataclass(frozen=True, kw_only=True)
class SSDOptions(Dense):
    """The head of an SSD. Defaults are aw_nas'; docs/supernets.md has those of torchvision's SSDLite.

    A level has in each cell squares of its scale s and of the geometric mean of s and the next level's, and for each of
    its ratios a flat and an upright box as large as the first square.
    """

    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # beside 1, for each level
    scales: tuple[float, ...] = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)  # of the image's edges; one more than levels
    kernel: int = 3  # of the filters, where the space has no `head.kernel`; odd
    activation: Literal["relu", "relu6"] = "relu"
    bias: bool = False  # of the last convs
    logit_norm: bool = True  # batch norms behind the last convs
    prior: float = 0.5  # the score of all classes before training, where scores are sigmoids; RetinaNet's is 0.01
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
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
    candidates: int = 2268  # all default boxes of an image of 300 x 300 px
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
        if self.prior != 0.5 and (self.scores == "softmax" or not (self.bias or self.logit_norm)):
            raise UsageError("prior needs scores: sigmoid, and bias: true or logit_norm: true to be a value of")


class SSDHead:
    """The head `ssd`. `head.kernel` of an architecture, which may be left out, are the sizes of the filters: one number
    for all levels, or one for each."""

    TASK: ClassVar[str] = "det"
    Options: ClassVar[type] = SSDOptions
    NAMES: ClassVar[tuple[str, ...]] = ("kernel",)
    MODULE: ClassVar[str] = "head"
    LOSSES: ClassVar[tuple[str, ...]] = LOSSES
    EVALUATION: ClassVar[tuple[str, ...]] = (
        "score_thresh",
        "nms_thresh",
        "detections_per_image",
        "candidates",
        "candidates_of",
    )

    def __init__(self, options: SSDOptions, num_classes: int) -> None:
        self.options = options
        self.num_classes = num_classes

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """See Head of searchkit.nas.models.part."""
        return head_pieces(self.rows(arch, levels))

    def rows(self, arch: Arch, levels: Channels) -> tuple[tuple[Row, Row], ...]:
        """What makes class logits and box deltas of each level. Raises UsageError where they don't fit."""
        options, kernel = self.options, arch.get("kernel", self.options.kernel)
        if len(levels) != len(options.ratios):
            raise UsageError(
                f"the SSD's head has default boxes for {len(options.ratios)} levels, but the neck gives out "
                f"{len(levels)}",
                "Give head_options.ratios a list for each level, and head_options.scales one number more.",
            )
        kernels = (kernel,) * len(levels) if isinstance(kernel, int) else kernel
        if len(kernels) != len(levels):
            raise UsageError(f"head.kernel must be 1 number, or one for each of {len(levels)} levels, but is {kernel}")
        style = Style(options.activation, options.bias, options.logit_norm)
        columns = self.num_classes + int(options.background)
        return head_rows(levels, anchors_at(options.ratios), kernels, columns, style)

    def default_boxes(self) -> DefaultBoxGenerator:
        """The default boxes of all levels."""
        return DefaultBoxGenerator([list(ratios) for ratios in self.options.ratios], scales=list(self.options.scales))


class Predictors(nn.Module):
    """The layers that read each level, at any architecture up to the one that they are made at, with the names and
    initial values of torchvision's SSDLite."""

    def __init__(self, head: SSDHead, arch: Arch, levels: Channels) -> None:
        super().__init__()
        self.part = head
        self.set_arch(arch, levels)
        options = head.options
        norm = norm_of("bn", 1, options.norm_eps, options.norm_momentum)
        for row in (row for pair in self._rows for row in pair):
            attach(self, _below(row), Chain(row, norm))
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
