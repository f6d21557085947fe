"""The neck of a YOLOv3 as pieces, named as mmdetection's. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, feature
from searchkit.nas.models.plan import CACHE, Activation, Layer, Row
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import LATER, Count, Fraction, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch, Width


@dataclass(frozen=True, kw_only=True)
class YOLONeckOptions:
    """The neck of a YOLOv3 (https://arxiv.org/abs/1804.02767, §2.3), from the coarsest level to the finest: five convs,
    1x1 and 3x3 in turn, on a feature beside the level before it, which went through a 1x1 conv and became twice as
    large. Defaults are Darknet-53's; the Lite form on a MobileNetV2 has channels of 96, 96, 96.
    """

    channels: tuple[Count, ...] = (128, 256, 512)  # of each level, finest first: of so many features, the coarsest ones
    activation: Activation = "leaky_relu"  # of all convs
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1
    norm: Literal["bn", "sync_bn"] = field(default="bn", metadata=LATER)
    norm_ranks: Whole = field(default=0, metadata=LATER)  # of a training, whose images a sync_bn sees together; 0: all

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # a list of a YAML file
        refuse(self._faults())

    def _faults(self) -> Iterator[At]:
        if not self.channels or min(self.channels) < 1:
            yield At("channels", f"must be of at least one level, each at least 1, but are {list(self.channels)}")
        if not self.norm_eps > 0:
            yield At("norm_eps", f"must be above 0, but is {self.norm_eps:g}")
        if not 0 <= self.norm_momentum <= 1:
            yield At("norm_momentum", f"must be from 0 to 1, but is {self.norm_momentum:g}")
        if self.norm_ranks < 0:
            yield At("norm_ranks", f"must be at least 0, but is {self.norm_ranks}")


class Rows(NamedTuple):
    """What makes the levels, finest first."""

    detect: tuple[Row, ...]  # a level of a feature, and of what came of the coarser level
    up: tuple[Row, ...]  # of the next coarser level, before it is enlarged, for all levels but the coarsest


class YOLONeckPlan:
    """What a YOLOv3's neck is made of.

    `neck.hidden` of an architecture are the channels that the 3x3 convs of a level give out, one number for all levels
    or one for each, finest first; without it they are twice the level's.
    """

    Options: ClassVar[type] = YOLONeckOptions
    NAMES: ClassVar[tuple[str, ...]] = ("hidden",)
    MODULE: ClassVar[str] = "yolo"

    def __init__(self, options: YOLONeckOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """See Neck of searchkit.nas.models.part."""
        return _pieces(self.rows(arch, features), len(features))

    def rows(self, arch: Arch, features: Channels) -> Rows:
        """What runs at an architecture, on features of so many channels. Raises UsageError where they don't fit."""
        return neck_rows(self.options.channels, self.options.activation, arch.get("hidden"), features)


@lru_cache(CACHE)
def neck_rows(channels: Channels, activation: Activation, hidden: Width | None, features: Channels) -> Rows:
    """The rows of all levels; `channels` of the levels. Raises UsageError."""
    n = len(channels)
    if len(features) < n:
        raise Misfit(
            f"the YOLO's neck makes {n} levels, of one feature each, but the backbone gives out {len(features)}",
            "Give neck_options.channels fewer numbers, or name more of the backbone's features.",
            keys=("model.neck_options.channels", "model.backbone_options.features"),
        )
    inside = tuple(2 * c for c in channels) if hidden is None else hidden
    inside = (inside,) * n if isinstance(inside, int) else inside
    if len(inside) != n or min(inside) < 1:
        told = f"neck.hidden must be 1 number of at least 1, or one for each of {n} levels, but is {hidden}"
        raise Misfit(told, keys=("space.neck.hidden", "model.neck_options.channels"))
    read = features[-n:]
    above = (*channels[:-1], 0)  # channels that come of the coarser level: as many as the level's own
    return Rows(
        tuple(_detect(n - i, above[i] + read[i], channels[i], inside[i], activation) for i in range(n)),
        tuple(_up(n - 1 - i, channels[i + 1], channels[i], activation) for i in range(n - 1)),
    )


@lru_cache(CACHE)
def _detect(number: int, cin: int, width: int, hidden: int, activation: Activation) -> Row:
    """Five convs; the coarsest level is number 1."""
    sizes = ((cin, width), (width, hidden), (hidden, width), (width, hidden), (hidden, width))
    convs = (_conv(f"conv{1 + i}.", *pair, 3 if i % 2 else 1, activation) for i, pair in enumerate(sizes))
    return Row(f"detect{number}", number, 0, tuple(layer for conv in convs for layer in conv), output=True)


@lru_cache(CACHE)
def _up(number: int, cin: int, cout: int, activation: Activation) -> Row:
    """The 1x1 conv behind the level of that number."""
    return Row(f"conv{number}", number, 1, _conv("", cin, cout, 1, activation))


def _conv(name: str, cin: int, cout: int, kernel: int, activation: Activation) -> tuple[Layer, ...]:
    return (
        Layer("conv", f"{name}conv", cin, cout, kernel=kernel, padding=kernel // 2),
        Layer("norm", f"{name}bn", cout, cout, bias=True),
        Layer(activation, activation, cout, cout),
    )


@lru_cache(CACHE)
def _pieces(rows: Rows, features: int) -> Pieces:
    """Where they run: on the last of so many features."""
    first = features - len(rows.detect)
    levels = (Piece((row,), feature(first + i), "level") for i, row in enumerate(rows.detect))
    return (*levels, *(Piece((row,), feature(first + 1 + i)) for i, row in enumerate(rows.up)))
