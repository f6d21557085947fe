"""The head of a RetinaNet as pieces: a tower for classes and one for boxes, on every level. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from searchkit.nas.models.heads.dense_plan import Dense, DensePlan
from searchkit.nas.models.part import LEVELS, Channels, Misfit, NetConfig, Piece, Pieces, PlainConfig
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row
from searchkit.reading.keys import At
from searchkit.reading.kinds import LATER, Count, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

SIZES = ("depth", "width", "kernel")
PER_LEVEL = ("per_level", "sync_bn")  # the norms of which each level has its own
NAMES = tuple(f"{tower}.{size}" for tower in ("cls", "box") for size in SIZES)


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
        for name in ("anchor_sizes", "anchor_scales", "anchor_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists of a YAML file
        super().__post_init__()

    def faults(self) -> Iterator[At]:
        """As of Dense."""
        yield from super().faults()
        for name in ("anchor_sizes", "anchor_scales", "anchor_ratios"):
            values = getattr(self, name)
            if not values or not all(value > 0 for value in values):
                yield At(name, f"must have at least one value, all above 0, but is {list(values)}")
        for name in ("depth", "width", "kernel", "norm_group"):
            if getattr(self, name) < 1:
                yield At(name, f"must be at least 1, but is {getattr(self, name)}")
        if self.kernel > 0 and self.kernel % 2 == 0:
            yield At("kernel", f"must be odd, but is {self.kernel}")
        if self.norm not in ("none", "per_level", "group", "sync_bn"):
            yield At("norm", f"must be none, per_level, group or sync_bn, but is {self.norm!r}")
        if self.norm_ranks < 0:
            yield At("norm_ranks", f"must be at least 0, but is {self.norm_ranks}")
        if not 0 < self.prior < 1:
            yield At("prior", f"must be between 0 and 1, but is {self.prior:g}")
        if self.background:
            yield At("background", "must be false: a RetinaNet has no logits of a background")

    @property
    def anchors(self) -> int:
        """Anchors on each place."""
        return len(self.anchor_scales) * len(self.anchor_ratios)


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfig(PlainConfig):
    """A RetinaNet but for its architecture."""

    neck: str = field(default="elastic_fpn", repr=False, metadata=LATER)
    head: str = field(default="retinanet", repr=False, metadata=LATER)

    def neck_defaults(self) -> dict[str, Any]:
        """As many levels as there are sizes of anchors."""
        sizes = (self.head_options or RetinaNetOptions()).anchor_sizes
        return {"elastic_fpn": {"depth": len(sizes)}, "fpn": {"levels": len(sizes)}}.get(self.neck, {})


class Tower(NamedTuple):
    """One tower at one architecture."""

    depth: int  # convs before the last one
    width: int  # of these
    kernel: int  # of these; the last one has 3


class RetinaNetPlan(DensePlan):
    """What a RetinaNet's head is made of. Dimensions: `head.cls.depth`, `.width`, `.kernel`, and the same of
    `head.box`, each of which is that of `head.cls` where the space lacks it."""

    KIND: ClassVar[str] = "RetinaNet"
    Config: ClassVar[type[NetConfig]] = RetinaNetConfig
    Options: ClassVar[type] = RetinaNetOptions
    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """See Head of searchkit.nas.models.part."""
        if len(levels) > len(self.options.anchor_sizes):
            raise self.other_levels(len(levels))
        return head_pieces(self.options, towers_of(self.options, arch), self.num_classes, levels)

    def other_levels(self, levels: int) -> Misfit:
        """What to say of a neck that gives out another number of levels than anchors are for."""
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


def towers_of(options: RetinaNetOptions, arch: Arch) -> tuple[Tower, Tower]:
    """The towers of classes and of boxes at an architecture (its names below `head.`). What it has no `box.` name for
    is as in the tower of classes. Raises UsageError for values of another form."""
    cls = _tower("cls", Tower(options.depth, options.width, options.kernel), options, arch)
    return cls, _tower("box", cls, options, arch)


def _tower(name: str, default: Tower, options: RetinaNetOptions, arch: Arch) -> Tower:
    values = {size: arch.get(f"{name}.{size}", getattr(default, size)) for size in SIZES}
    for size, value in values.items():
        if not isinstance(value, int) or value < 1:
            keys = (f"space.head.{name}.{size}",)
            raise Misfit(f"head.{name}.{size} must be one integer of at least 1, but is {value}", keys=keys)
    if values["kernel"] % 2 == 0:
        of_either = (f"space.head.{name}.kernel", "space.head.cls.kernel")
        raise Misfit(f"head.{name}.kernel must be odd, but is {values['kernel']}", keys=of_either)
    if options.norm == "group" and values["width"] % options.norm_group:
        raise Misfit(
            f"head.{name}.width must be a multiple of head_options.norm_group, {options.norm_group}, but is "
            f"{values['width']}",
            keys=(f"space.head.{name}.width", "space.head.cls.width", "model.head_options.norm_group"),
        )
    return Tower(**values)


def head_pieces(options: RetinaNetOptions, towers: tuple[Tower, Tower], num_classes: int, levels: Channels) -> Pieces:
    """The two towers on levels of so many channels, with torchvision's names. Raises UsageError where the levels are
    not equally wide."""
    if len(set(levels)) != 1:
        raise Misfit(
            f"the towers are the same for all levels, which must be equally wide, but they have {levels} channels",
            "Take a neck that gives out one width, such as elastic_fpn.",
            keys=("model.neck", "model.head"),
        )
    return _pieces(towers, options.norm, options.anchors, num_classes, levels[0], len(levels))


@lru_cache(CACHE)
def _pieces(
    towers: tuple[Tower, Tower], norm: str, anchors: int, num_classes: int, cin: int, levels: int
) -> tuple[Piece, Piece]:
    own = levels if norm in PER_LEVEL else 0
    cls, box = towers
    return (
        Piece(tower_rows("classification_head", "cls_logits", cls, cin, anchors * num_classes, norm, own), LEVELS),
        Piece(tower_rows("regression_head", "bbox_reg", box, cin, anchors * 4, norm, own), LEVELS),
    )


@lru_cache(CACHE)
def tower_rows(name: str, last: str, tower: Tower, cin: int, outputs: int, norm: str, levels: int) -> Plan:
    """The convs of a tower, with norm and relu, and the last one, 3x3 with `outputs` channels."""
    rows = []
    for i in range(tower.depth):
        wide, size = tower.width, tower.kernel
        conv = f"{name}.conv.{i}"
        layers = [Layer("conv", f"{conv}.0", cin, wide, kernel=size, padding=size // 2, bias=norm == "none")]
        if norm != "none":
            layers.append(Layer("norm", f"{conv}.1", wide, wide, bias=True, levels=levels))
        layers.append(Layer("relu", "relu", wide, wide))
        rows.append(Row("head", 0, i, tuple(layers)))
        cin = wide
    logits = Layer("conv", f"{name}.{last}", cin, outputs, kernel=3, padding=1, bias=True)
    return (*rows, Row("head", 0, tower.depth, (logits,)))
