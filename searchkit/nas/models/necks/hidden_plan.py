"""A hidden layer on the mean of the last feature, as rows. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, feature
from searchkit.nas.models.plan import CACHE, Activation, Layer, Row
from searchkit.reading.kinds import number

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


@dataclass(frozen=True)
class HiddenOptions:
    """A layer between the mean of the last feature and the scores (https://arxiv.org/abs/1905.02244)."""

    width: Annotated[int, number(1)] = 1280  # where an architecture has no `neck.width`
    activation: Activation = "hswish"
    bias: bool = False  # torchvision's MobileNetV3 has one, OFA's and AttentiveNAS have none


class HiddenPlan:
    """One level of one position."""

    Options: ClassVar[type] = HiddenOptions
    NAMES: ClassVar[tuple[str, ...]] = ("width",)
    MODULE: ClassVar[str] = "hidden"

    def __init__(self, options: HiddenOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """`neck.width` channels, made from the mean of the last feature."""
        width = arch.get("width", self.options.width)
        if not isinstance(width, int) or width < 1:
            keys = ("space.neck.width", "model.neck_options.width")
            raise Misfit(f"neck.width must be an integer of at least 1, but is {width!r}", keys=keys)
        return hidden_pieces(features[-1], width, self.options)


@lru_cache(CACHE)
def hidden_pieces(cin: int, width: int, options: HiddenOptions) -> Pieces:
    """A 1x1 conv, that is, a linear layer, on the mean."""
    layers = (
        Layer("mean", "mean", cin, cin),
        Layer("conv", "conv", cin, width, bias=options.bias),
        Layer(options.activation, options.activation, width, width),
    )
    return (Piece((Row("", 0, 0, layers),), feature(-1), "level"),)
