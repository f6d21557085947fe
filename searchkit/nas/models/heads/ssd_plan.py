"""The head of an SSD as rows. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from searchkit.nas.models.heads.dense_plan import Dense, DensePlan
from searchkit.nas.models.part import Channels, Misfit, NetConfig, Piece, Pieces, PlainConfig, level
from searchkit.nas.models.plan import CACHE, Layer, Row
from searchkit.nas.styles import Transform
from searchkit.reading.keys import At
from searchkit.reading.kinds import LATER, Count, Fraction, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

CLASSES, BOXES = "head.classification_head.module_list", "head.regression_head.module_list"  # torchvision's names


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
        object.__setattr__(self, "ratios", tuple(tuple(of_level) for of_level in self.ratios))  # lists of a YAML file
        object.__setattr__(self, "scales", tuple(self.scales))
        super().__post_init__()

    def faults(self) -> Iterator[At]:
        """As of Dense."""
        yield from super().faults()
        if not self.ratios or len(self.scales) != len(self.ratios) + 1:
            there = f"there are {len(self.ratios)} and {len(self.scales)}"
            what = f"must have a list for each level, and scales one value more: {there}"
            yield At("ratios", what, beside=("scales",))
        if not all(ratio > 0 for of_level in self.ratios for ratio in of_level):
            yield At("ratios", f"must be above 0, but are {[list(of_level) for of_level in self.ratios]}")
        if not all(scale > 0 for scale in self.scales):
            yield At("scales", f"must be above 0, but are {list(self.scales)}")
        if list(self.scales) != sorted(self.scales):
            yield At("scales", f"must ascend (coarser levels find larger objects), but are {list(self.scales)}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            yield At("kernel", f"must be odd and at least 1, but is {self.kernel}")
        if not 0 < self.prior < 1:
            yield At("prior", f"must be between 0 and 1, but is {self.prior:g}")
        if self.prior != 0.5 and self.scores == "softmax":
            yield At("prior", "needs scores: sigmoid", beside=("scores",))
        if not (self.bias or self.logit_norm):
            yield At("logit_norm", "must be true where bias is false", beside=("bias",))


@dataclass(frozen=True, kw_only=True)
class SSDConfig(PlainConfig):
    """An SSD but for its architecture."""

    neck: str = field(default="ssd_extras", repr=False, metadata=LATER)
    head: str = field(default="ssd", repr=False, metadata=LATER)


class Style(NamedTuple):
    """What the layers of all levels have in common."""

    activation: Literal["relu", "relu6"]
    bias: bool  # of the last convs
    logit_norm: bool  # norms behind the last convs


class Level(NamedTuple):
    """One level of the head at one architecture."""

    number: int  # from 0
    width: int  # channels that it reads
    anchors: int  # default boxes in each cell
    kernel: int


class SSDPlan(DensePlan):
    """What an SSD's head is made of. `head.kernel` of an architecture, which may be left out, are the sizes of the
    filters: one number for all levels, or one for each."""

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


def anchors_at(ratios: tuple[tuple[float, ...], ...]) -> tuple[int, ...]:
    """Default boxes in each cell of each level: two squares, and a flat and an upright one for each ratio."""
    return tuple(2 + 2 * len(of_level) for of_level in ratios)


@lru_cache(CACHE)
def head_rows(
    levels: Channels, anchors: tuple[int, ...], kernels: tuple[int, ...], columns: int, style: Style
) -> tuple[tuple[Row, Row], ...]:
    """What makes class logits (`columns` for each default box) and box deltas of each level. Raises UsageError."""
    each = (Level(i, *sizes) for i, sizes in enumerate(zip(levels, anchors, kernels, strict=True)))
    return tuple((level_row(CLASSES, at, columns, style), level_row(BOXES, at, 4, style)) for at in each)


@lru_cache(CACHE)
def head_pieces(rows: tuple[tuple[Row, Row], ...]) -> Pieces:
    """Where these rows run."""
    return tuple(Piece((row,), level(i)) for i, pair in enumerate(rows) for row in pair)


@lru_cache(CACHE)
def level_row(name: str, at: Level, columns: int, style: Style) -> Row:
    """What reads one level: a filter for each channel, norm and activation, and a 1x1 conv. name: CLASSES or BOXES."""
    wide, outputs = at.width, at.anchors * columns
    if min(wide, at.kernel) < 1 or at.kernel % 2 == 0:
        raise Misfit(
            f"level {at.number + 1} of the SSD's head: width must be at least 1 and kernel odd, but they are {wide} "
            f"and {at.kernel}",
            keys=("space.head.kernel", "model.head_options.kernel"),
        )
    layers = [
        Layer("conv", "0.0", wide, wide, kernel=at.kernel, padding=at.kernel // 2, groups=wide),
        Layer("norm", "0.1", wide, wide, bias=True),
        Layer(style.activation, style.activation, wide, wide),
        Layer("conv", "1", wide, outputs, bias=style.bias),
    ]
    if style.logit_norm:
        layers.append(Layer("norm", "2", outputs, outputs, bias=True))
    return Row(f"{name}.{at.number}", at.number, 0, tuple(layers))
