"""An FPN as rows. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, feature, level
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row
from searchkit.reading.kinds import Count

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


@dataclass(frozen=True)
class FPNOptions:
    """A feature pyramid (https://arxiv.org/abs/1612.03144)."""

    channels: Count = 256  # of every level
    levels: Count | None = None  # those beyond the features are subsampled from the coarsest; left out: one


class FPNPlan:
    """What an FPN is made of; it has no dimensions of its own, and reads features of any width."""

    Options: ClassVar[type] = FPNOptions
    NAMES: ClassVar[tuple[str, ...]] = ()
    MODULE: ClassVar[str] = "fpn"

    def __init__(self, options: FPNOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """Two convs for each feature, and the levels beyond them. Raises UsageError where there are too many."""
        return fpn_pieces(features, self.options.channels, self.levels(features))

    def levels(self, features: Channels) -> int:
        """How many levels it gives out."""
        levels = len(features) + 1 if self.options.levels is None else self.options.levels
        if not 0 < len(features) <= levels:
            raise Misfit(
                f"the backbone must give out 1 to {levels} features, one for each level of the pyramid, "
                f"but it gives out {len(features)}",
                "Mark its rows with `output=True`, or change the number of levels (of a Faster R-CNN: one for each of "
                "anchor_sizes).",
                keys=("model.neck_options.levels", "model.anchor_sizes", "model.head_options.anchor_sizes"),
            )
        return levels


@lru_cache(CACHE)
def fpn_pieces(features: Channels, channels: int, levels: int) -> Pieces:
    """An FPN with that many levels, each of that many channels."""
    own = [Piece((row,), feature(i), "level") for i, row in enumerate(fpn_rows(features, channels))]
    pool = Row("", 0, 0, (Layer("subsample", "pool", channels, channels, stride=2),))
    return (*own, *(Piece((pool,), level(-1), "level") for _ in range(levels - len(features))))


@lru_cache(CACHE)
def fpn_rows(widths: Channels, out_channels: int) -> Plan:
    """An FPN's convs, a row for each feature, finest first, with torchvision's names.

    Row i works at the size of feature i, `widths[i]` wide.
    """
    return tuple(
        Row(
            "",
            i,
            0,
            (
                Layer("conv", f"inner_blocks.{i}.0", width, out_channels, bias=True),
                Layer("conv", f"layer_blocks.{i}.0", out_channels, out_channels, kernel=3, padding=1, bias=True),
            ),
        )
        for i, width in enumerate(widths)
    )
