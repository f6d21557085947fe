"""The head of a YOLOv3 as rows. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from searchkit.nas.models.heads.dense_plan import Dense, DensePlan
from searchkit.nas.models.part import Channels, Misfit, NetConfig, Piece, Pieces, PlainConfig, level
from searchkit.nas.models.plan import CACHE, Activation, Layer, Row
from searchkit.reading.keys import At
from searchkit.reading.kinds import LATER, Count, Fraction, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

BRIDGES, CLASSES, BOXES = "head.bridges", "head.classes", "head.boxes"
Edges = tuple[Positive, Positive]  # width and height, px
OF_COCO = (  # at 416 px, by k-means
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclass(frozen=True, kw_only=True)
class YOLOOptions(Dense):
    """The head of a YOLOv3. Defaults are those of Darknet-53 for images of 416 px; the Lite form on a MobileNetV2 has
    channels of 96, 96, 96. The score of a box is its class's times its objectness.
    """

    CELLS: ClassVar[bool] = True

    anchors: tuple[tuple[Edges, ...], ...] = OF_COCO  # widths and heights of each level's, px, finest level first
    channels: tuple[Count, ...] = (256, 512, 1024)
    """Of the 3x3 convs before the last ones, finest level first, where the space has no `head.width`."""
    activation: Activation = "leaky_relu"  # of these
    prior: float = 0.01  # objectness, and the score of all classes, before training
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1
    norm: Literal["bn", "sync_bn"] = field(default="bn", metadata=LATER)
    norm_ranks: Whole = field(default=0, metadata=LATER)  # of a training, whose images a sync_bn sees together; 0: all
    # Of Dense, with other defaults:
    assigner: str = "cell"
    class_loss: str = "objectness"
    box_loss: str = "cell"
    box_loss_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    normalizer: str = "sum"
    decoder: str = field(default="cell", metadata=LATER)
    background: bool = True
    scores: Literal["sigmoid", "softmax", "objectness"] = "objectness"
    nms_thresh: float = 0.45
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        pairs = tuple(tuple(tuple(pair) for pair in of_level) for of_level in self.anchors)  # lists of a YAML file
        object.__setattr__(self, "anchors", pairs)
        object.__setattr__(self, "channels", tuple(self.channels))
        super().__post_init__()

    def faults(self) -> Iterator[At]:
        """As of Dense."""
        yield from super().faults()
        if not self.anchors or not all(self.anchors):
            yield At("anchors", "must have a list for each level, of at least one anchor")
        if not all(len(pair) == 2 and min(pair) > 0 for of_level in self.anchors for pair in of_level):
            yield At("anchors", "must be pairs of a width and a height above 0")
        if len(self.channels) != len(self.anchors):
            there = f"there are {len(self.channels)} and {len(self.anchors)}"
            yield At("channels", f"must have a number for each level, as anchors have: {there}", beside=("anchors",))
        if min(self.channels, default=1) < 1:
            yield At("channels", f"must be at least 1, but are {list(self.channels)}")
        if not 0 < self.prior < 1:
            yield At("prior", f"must be between 0 and 1, but is {self.prior:g}")
        if self.scores != "objectness" or not self.background:
            yield At("scores", "must be objectness, with background: true, of a YOLO", beside=("background",))


@dataclass(frozen=True, kw_only=True)
class YOLOConfig(PlainConfig):
    """A YOLOv3 but for its architecture."""

    neck: str = field(default="yolo", repr=False, metadata=LATER)
    head: str = field(default="yolo", repr=False, metadata=LATER)


class LevelRows(NamedTuple):
    """What reads one level."""

    bridge: Row  # a 3x3 conv
    classes: Row  # of its output: objectness and class logits
    boxes: Row  # of the same: box deltas


class YOLOPlan(DensePlan):
    """What a YOLOv3's head is made of. `head.width` of an architecture, which may be left out, are the channels of the
    3x3 convs: one number for all levels, or one for each, finest first."""

    KIND: ClassVar[str] = "YOLOv3"
    Config: ClassVar[type[NetConfig]] = YOLOConfig
    Options: ClassVar[type] = YOLOOptions
    NAMES: ClassVar[tuple[str, ...]] = ("width",)

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """See Head of searchkit.nas.models.part."""
        return head_pieces(self.rows(arch, levels))

    def rows(self, arch: Arch, levels: Channels) -> tuple[LevelRows, ...]:
        """What reads each level. Raises UsageError where they don't fit."""
        options = self.options
        n, width = len(options.anchors), arch.get("width", options.channels)
        if len(levels) != n:
            raise Misfit(
                f"the YOLO's head has anchors for {n} levels, but the neck gives out {len(levels)}",
                "Give head_options.anchors a list for each level, and head_options.channels a number.",
                keys=("model.head_options.anchors", "model.neck_options.channels", "model.neck"),
            )
        widths = (width,) * n if isinstance(width, int) else width
        if len(widths) != n or min(widths) < 1:
            told = f"head.width must be 1 number of at least 1, or one for each of {n} levels, but is {width}"
            raise Misfit(told, keys=("space.head.width",))
        anchors = tuple(len(of_level) for of_level in options.anchors)
        return head_rows(levels, widths, anchors, 1 + self.num_classes, options.activation)


@lru_cache(CACHE)
def head_rows(
    levels: Channels, widths: Channels, anchors: tuple[int, ...], columns: int, activation: Activation
) -> tuple[LevelRows, ...]:
    """What reads each level; columns: of each anchor, objectness and classes."""
    sizes = zip(levels, widths, anchors, strict=True)
    return tuple(level_rows(i, cin, width, a, columns, activation) for i, (cin, width, a) in enumerate(sizes))


@lru_cache(CACHE)
def level_rows(number: int, cin: int, width: int, anchors: int, columns: int, activation: Activation) -> LevelRows:
    """What reads one level, counted from 0. The two last convs are one in other implementations."""
    bridge = (
        Layer("conv", "conv", cin, width, kernel=3, padding=1),
        Layer("norm", "bn", width, width, bias=True),
        Layer(activation, activation, width, width),
    )
    return LevelRows(
        Row(f"{BRIDGES}.{number}", number, 0, bridge),
        Row(f"{CLASSES}.{number}", number, 1, (Layer("conv", "conv", width, anchors * columns, bias=True),)),
        Row(f"{BOXES}.{number}", number, 2, (Layer("conv", "conv", width, anchors * 4, bias=True),)),
    )


@lru_cache(CACHE)
def head_pieces(rows: tuple[LevelRows, ...]) -> Pieces:
    """Where these rows run."""
    return tuple(
        Piece(part, level(i)) for i, each in enumerate(rows) for part in ((each.bridge, each.classes), (each.boxes,))
    )
