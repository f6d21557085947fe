"""An elastic feature pyramid as pieces. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, feature, level
from searchkit.nas.models.plan import CACHE, Layer, Row
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import Count, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

NAMES = ("out_channel", "kernel", "depth")


@dataclass(frozen=True, kw_only=True)
class ElasticFPNOptions:
    """A feature pyramid with further levels made by convs. Defaults are those of torchvision's retinanet_resnet50_fpn.

    Where the space has `neck.out_channel`, `neck.kernel` or `neck.depth`, that goes instead of the first two, and up to
    the third.
    """

    out_channel: Count = 256  # of all levels
    kernel: Count = 3  # of the convs that give out the levels; odd
    depth: Count = 5  # levels, finest first: one for each feature that is read, then each half the size of the last
    first: Whole = 1  # the finest feature that is read; the backbone's finest is 0
    norm: Literal["none", "bn", "sync_bn"] = "none"  # of the convs on features; the further levels have none
    norm_ranks: Whole = 0  # of a training, whose images a sync_bn sees together; 0: all
    p6: Literal["c5", "lateral", "p5"] = "p5"  # what the first further level is made of: feature, its lateral, or level
    p7_relu: bool = True  # whether a relu stands before the convs of those after it

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[At]:
        for name, least in (("out_channel", 1), ("kernel", 1), ("depth", 1), ("first", 0), ("norm_ranks", 0)):
            if getattr(self, name) < least:
                yield At(name, f"must be at least {least}, but is {getattr(self, name)}")
        if self.kernel > 0 and self.kernel % 2 == 0:
            yield At("kernel", f"must be odd, but is {self.kernel}")
        if self.norm not in ("none", "bn", "sync_bn"):
            yield At("norm", f"must be none, bn or sync_bn, but is {self.norm!r}")
        if self.p6 not in ("c5", "lateral", "p5"):
            yield At("p6", f"must be c5, lateral or p5, but is {self.p6!r}")


class ElasticFPNPlan:
    """What an elastic pyramid is made of. Dimensions: `neck.out_channel`, `neck.kernel`, `neck.depth` (levels)."""

    Options: ClassVar[type] = ElasticFPNOptions
    NAMES: ClassVar[tuple[str, ...]] = NAMES
    MODULE: ClassVar[str] = "fpn"

    def __init__(self, options: ElasticFPNOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """See Neck of searchkit.nas.models.part."""
        return pyramid(self.options, sizes_of(self.options, arch), features)


class Sizes(NamedTuple):
    """What of a pyramid is elastic, at one architecture."""

    out_channel: int
    kernel: int
    depth: int


def sizes_of(options: ElasticFPNOptions, arch: Arch) -> Sizes:
    """What runs at an architecture (its names below `neck.`). Raises UsageError for values of another form."""
    values = {name: arch.get(name, getattr(options, name)) for name in NAMES}
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            keys = (f"space.neck.{name}",)
            raise Misfit(f"neck.{name} must be one integer of at least 1, but is {value}", keys=keys)
    if values["kernel"] % 2 == 0:
        raise Misfit(f"neck.kernel must be odd, but is {values['kernel']}", keys=("space.neck.kernel",))
    return Sizes(**values)


@lru_cache(CACHE)
def pyramid(options: ElasticFPNOptions, sizes: Sizes, features: Channels) -> Pieces:
    """A piece for each level, finest first, on features of so many channels (all that the backbone has).

    Names are those of torchvision's FeaturePyramidNetwork with LastLevelP6P7: `inner_blocks`, `layer_blocks`,
    `extra_blocks`. Raises UsageError where it can't read such features, or has another number of levels.
    """
    read = features[options.first :]
    if not read:
        raise Misfit(
            f"neck_options.first: the pyramid's finest feature is number {options.first}, but the backbone has "
            f"{len(features)}, from 0 on",
            "Set first to a smaller number.",
            keys=("model.neck_options.first", "model.neck"),
        )
    if not len(read) <= sizes.depth <= options.depth:
        raise Misfit(
            f"the pyramid must have at least {len(read)} levels, one for each feature that it reads, and at most "
            f"{options.depth}, its neck_options.depth, but has {sizes.depth}",
            "Change neck.depth of the space, or neck_options: first, the finest feature that is read, and depth.",
            keys=(
                *(("space.neck.depth",) if len(read) <= options.depth else ()),
                "model.neck_options.depth",
                "model.neck_options.first",
                *(f"model.{key}anchor_sizes" for key in ("head_options.", "")),
            ),
        )
    pieces = [
        Piece(on_feature(i, width, sizes, options.norm), feature(options.first + i), "level")
        for i, width in enumerate(read)
    ]
    for i in range(sizes.depth - len(read)):
        source, where = sizes.out_channel, level(-1)
        if i == 0 and options.p6 != "p5":
            source, where = (read[-1] if options.p6 == "c5" else source), feature(-1)
        pieces.append(Piece((further_row(i, source, sizes, options.p7_relu and i > 0),), where, "level"))
    return tuple(pieces)


@lru_cache(CACHE)
def on_feature(number: int, width: int, sizes: Sizes, norm: str) -> tuple[Row, Row]:
    """The rows that make a level of a feature: its lateral, to which the coarser level is added, and the output."""
    return (
        Row("", number, 0, _conv(f"inner_blocks.{number}", width, sizes.out_channel, 1, norm)),
        Row("", number, 1, _conv(f"layer_blocks.{number}", sizes.out_channel, sizes.out_channel, sizes.kernel, norm)),
    )


def _conv(name: str, cin: int, cout: int, kernel: int, norm: str) -> tuple[Layer, ...]:
    conv = Layer("conv", f"{name}.0", cin, cout, kernel=kernel, padding=kernel // 2, bias=norm == "none")
    return (conv,) if norm == "none" else (conv, Layer("norm", f"{name}.1", cout, cout, bias=True))


@lru_cache(CACHE)
def further_row(number: int, cin: int, sizes: Sizes, relu: bool) -> Row:
    """A level, counted from 0, for which the backbone has no feature: P6, P7, ... where three features are read."""
    conv = Layer(
        "conv",
        f"extra_blocks.p{6 + number}",
        cin,
        sizes.out_channel,
        kernel=sizes.kernel,
        stride=2,
        padding=sizes.kernel // 2,
        bias=True,
    )
    return Row("", number, 2, (Layer("relu", "relu", cin, cin), conv) if relu else (conv,))
