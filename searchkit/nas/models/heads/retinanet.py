"""RetinaNet (https://arxiv.org/abs/1708.02002): a tower of convs for classes and one for boxes, on every level.

Its depth, width and kernel are dimensions. Losses, anchors and boxes: searchkit.nas.models.heads.dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.heads.dense import DenseDetector
from searchkit.nas.models.heads.dense_head import ClassRows, DenseHead, conv_rows
from searchkit.nas.models.heads.retinanet_plan import PER_LEVEL, RetinaNetOptions, RetinaNetPlan, head_pieces, towers_of
from searchkit.nas.models.part import Channels, Pieces
from searchkit.nas.models.trunk import Trunk
from searchkit.nas.nn import Cuts, add_layers, norm_of, run_layers

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

CLS = "head.classification_head.cls_logits"


def anchor_generator(options: RetinaNetOptions, levels: int) -> AnchorGenerator:
    """The anchors of the finest levels."""
    sizes = tuple(tuple(int(size * scale) for scale in options.anchor_scales) for size in options.anchor_sizes[:levels])
    return AnchorGenerator(sizes, (options.anchor_ratios,) * levels)


class Towers(nn.Module):
    """Class logits and box deltas of levels, at any architecture up to the one that it is made at, with torchvision's
    names."""

    def __init__(self, options: RetinaNetOptions, num_classes: int, arch: Arch, levels: Channels) -> None:
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        self.set_arch(arch, levels)
        kind = {"group": "gn", "sync_bn": "sync_bn"}.get(options.norm, "bn")
        norm = norm_of(kind, options.norm_group, 1e-5, ranks=options.norm_ranks)
        for piece in self._pieces:
            for row in piece.rows:
                add_layers(self, row, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bias = self.get_parameter("classification_head.cls_logits.bias")
        nn.init.constant_(bias, math.log(options.prior / (1 - options.prior)))

    def set_arch(self, arch: Arch, levels: Channels) -> None:
        """Run this architecture from now on, on levels of so many channels."""
        self._pieces: Pieces = head_pieces(self.options, towers_of(self.options, arch), self.num_classes, levels)
        self.arch = arch
        self.levels = len(levels)

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """levels: (N, C, h, w), finest first -> class logits (N, A classes, h, w) and box deltas (N, A 4, h, w)."""
        outputs = []
        cuts: Cuts = {}
        for number, x in enumerate(levels):
            ends = []
            for piece in self._pieces:
                y = x
                for row in piece.rows:
                    y = run_layers(self, row.layers, y, number, cuts)
                ends.append(y)
            outputs.append((ends[0], ends[1]))
        return outputs


class RetinaNet(DenseDetector):
    """A RetinaNet; its towers and its pyramid may be elastic, the number of levels too."""

    head: Towers

    def __init__(self, backbone: nn.Module, head: Towers, transform: GeneralizedRCNNTransform) -> None:
        options = head.options
        anchors = anchor_generator(options, head.levels)
        super().__init__(head.num_classes, anchors, transform, **options.settings())
        self.backbone = backbone
        self.head = head

    def anchors(self, batch: Any, maps: Sequence[Tensor]) -> list[Tensor]:
        """See DenseDetector; of the levels that the pyramid gives out now."""
        if len(maps) != len(self.anchor_generator.sizes):
            self.anchor_generator = anchor_generator(self.head.options, len(maps))
        return super().anchors(batch, maps)


class RetinaNetHead(RetinaNetPlan, DenseHead):
    """The head `retinanet`."""

    def network(
        self, trunk: Trunk, arch: Arch, config: Any, min_size: int | tuple[int, ...] = 800, max_size: int = 1333
    ) -> RetinaNet:
        """See Head. Raises UsageError for a neck that gives out another number of levels than anchors are for."""
        most = getattr(trunk.neck, "most_levels", len(trunk.channels))
        if most != len(self.options.anchor_sizes):
            raise self.other_levels(most)
        towers = Towers(self.options, self.num_classes, arch, trunk.channels)
        return RetinaNet(trunk, towers, self.transform(config, min_size, max_size))

    def class_rows(self) -> Sequence[ClassRows]:
        """Those of the last conv."""
        return conv_rows(CLS, self.options.anchors)

    @property
    def norms_of_one(self) -> bool:
        """The coarsest level may be one place, and have a norm of its own."""
        options: RetinaNetOptions = self.options
        return options.norm not in PER_LEVEL
