"""SSD (https://arxiv.org/abs/1512.02325): default boxes at every place of each level, and the layers that read them.

Matching, losses and post-processing are those of dense.py; the default boxes are torchvision's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.heads.dense import DenseDetector
from searchkit.nas.models.heads.dense_head import ClassRows, DenseHead
from searchkit.nas.models.heads.inputs import Transform
from searchkit.nas.models.heads.ssd_plan import CLASSES, SSDPlan, anchors_at
from searchkit.nas.models.necks.ssd_extras import normal_convs
from searchkit.nas.models.part import NEVER, Channels
from searchkit.nas.models.plan import Row
from searchkit.nas.nn import Chain, attach, norm_of
from searchkit.nas.nn.transforms import Choices as Held
from searchkit.nas.nn.transforms import transform_filters

if TYPE_CHECKING:
    from searchkit.nas.models.trunk import Trunk
    from searchkit.records.arch import Arch

# What the rows of a class hold, by the tensor's name within its level, that is never predicted.
_NEVER = {"1.weight": 0.0, "1.bias": NEVER, "2.weight": 0.0, "2.bias": NEVER}
_NEVER |= {"2.running_mean": 0.0, "2.running_var": 1.0}


class SSDHead(SSDPlan, DenseHead):
    """The head `ssd`."""

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
        return Transform(edge, edge, mean, std, size_divisible=1, fixed_size=(edge, edge))

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
