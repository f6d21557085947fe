"""RetinaNet (https://arxiv.org/abs/1708.02002): a tower of convs for classes and one for boxes, on every level.

Its depth, width and kernel are dimensions. Losses, anchors and boxes: searchkit.nas.models.heads.dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_head import ClassRows, DenseHead, conv_rows
from searchkit.nas.models.heads.retinanet_plan import NAMES, PER_LEVEL, head_pieces, towers_of
from searchkit.nas.models.part import Channels, Misfit, NetConfig, Pieces, PlainConfig
from searchkit.nas.models.trunk import Trunk
from searchkit.nas.nn import Cuts, add_layers, norm_of, run_layers
from searchkit.reading.fill import At
from searchkit.reading.kinds import LATER, Count, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

CLS = "head.classification_head.cls_logits"


@dataclass(frozen=True, kw_only=True)
class RetinaNetOptions(Dense):
    """The head of a RetinaNet. Defaults are those of torchvision's retinanet_resnet50_fpn."""

    depth: Count = 4  # convs of a tower before the last one, where the space has no `head.cls.depth`
    width: Count = 256  # of these
    kernel: Count = 3  # of these; odd
    norm: Literal["none", "per_level", "group", "sync_bn"] = "none"
    """Of these; per_level: a batch norm for each level; sync_bn: the same over the ranks of a training."""
    norm_ranks: Whole = field(default=0, metadata=LATER)  # of a training, whose images a sync_bn sees together; 0: all
    norm_group: Count = 8  # channels of a group, all widths are multiples of it; for `group`
    prior: float = 0.01  # the score of all classes before training
    anchor_sizes: tuple[Count, ...] = (32, 64, 128, 256, 512)  # px, one for each level, finest first
    anchor_scales: tuple[Positive, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # of these sizes, rounded down to px
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)  # height / width

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("anchor_sizes", "anchor_scales", "anchor_ratios"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)  # lists of a YAML file
            if not values or not all(value > 0 for value in values):
                raise At(name, f"must have at least one value, all above 0, but is {list(values)}")
        for name in ("depth", "width", "kernel", "norm_group"):
            if getattr(self, name) < 1:
                raise At(name, f"must be at least 1, but is {getattr(self, name)}")
        if self.kernel % 2 == 0:
            raise At("kernel", f"must be odd, but is {self.kernel}")
        if self.norm not in ("none", "per_level", "group", "sync_bn"):
            raise At("norm", f"must be none, per_level, group or sync_bn, but is {self.norm!r}")
        if self.norm_ranks < 0:
            raise At("norm_ranks", f"must be at least 0, but is {self.norm_ranks}")
        if not 0 < self.prior < 1:
            raise At("prior", f"must be between 0 and 1, but is {self.prior:g}")
        if self.background:
            raise At("background", "must be false: a RetinaNet has no logits of a background")

    @property
    def anchors(self) -> int:
        """Anchors on each place."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def anchor_generator(self, levels: int) -> AnchorGenerator:
        """The anchors of the finest levels."""
        sizes = tuple(tuple(int(size * scale) for scale in self.anchor_scales) for size in self.anchor_sizes[:levels])
        return AnchorGenerator(sizes, (self.anchor_ratios,) * levels)


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfig(PlainConfig):
    """A RetinaNet but for its architecture."""

    neck: str = field(default="elastic_fpn", repr=False, metadata=LATER)
    head: str = field(default="retinanet", repr=False, metadata=LATER)

    def neck_defaults(self) -> dict[str, Any]:
        """As many levels as there are sizes of anchors."""
        sizes = (self.head_options or RetinaNetOptions()).anchor_sizes
        return {"elastic_fpn": {"depth": len(sizes)}, "fpn": {"levels": len(sizes)}}.get(self.neck, {})


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

    def __init__(self, backbone: nn.Module, head: Towers, transform: GeneralizedRCNNTransform) -> None:
        options = head.options
        anchors = options.anchor_generator(head.levels)
        super().__init__(head.num_classes, anchors, transform, **options.settings())
        self.backbone = backbone
        self.head = head

    def levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See DenseDetector."""
        outputs: list[tuple[Tensor, Tensor]] = self.head([*self.backbone(x).values()])
        return outputs

    def anchors(self, batch: Any, maps: Sequence[Tensor]) -> list[Tensor]:
        """See DenseDetector; of the levels that the pyramid gives out now."""
        if len(maps) != len(self.anchor_generator.sizes):
            self.anchor_generator = self.head.options.anchor_generator(len(maps))
        return super().anchors(batch, maps)


class RetinaNetHead(DenseHead):
    """The head `retinanet`. Dimensions: `head.cls.depth`, `.width`, `.kernel`, and the same of `head.box`, each of
    which is that of `head.cls` where the space lacks it."""

    KIND: ClassVar[str] = "RetinaNet"
    Config: ClassVar[type[NetConfig]] = RetinaNetConfig
    Options: ClassVar[type] = RetinaNetOptions
    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """See Head of searchkit.nas.models.part."""
        if len(levels) > len(self.options.anchor_sizes):
            raise self._other_levels(len(levels))
        return head_pieces(self.options, towers_of(self.options, arch), self.num_classes, levels)

    def network(
        self, trunk: Trunk, arch: Arch, config: Any, min_size: int | tuple[int, ...] = 800, max_size: int = 1333
    ) -> RetinaNet:
        """See Head. Raises UsageError for a neck that gives out another number of levels than anchors are for."""
        most = getattr(trunk.neck, "most_levels", len(trunk.channels))
        if most != len(self.options.anchor_sizes):
            raise self._other_levels(most)
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

    def _other_levels(self, levels: int) -> Misfit:
        sizes = len(self.options.anchor_sizes)
        return Misfit(
            f"head_options.anchor_sizes must have a size for each of the {levels} levels of the neck, but has {sizes}",
            "Give another list of sizes, or say in neck_options how many levels there are.",
            keys=(
                "model.head_options.anchor_sizes",
                "model.neck_options.depth",
                "model.neck_options.levels",
                "space.neck.depth",
                "model.neck",
            ),
        )
