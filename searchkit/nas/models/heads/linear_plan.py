"""The last layer of a classifier as a row. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

from searchkit.errors import UsageError
from searchkit.nas.models.part import Channels, Colour, Deviations, NetConfig, Piece, Pieces, level
from searchkit.nas.models.plan import CACHE, Layer, Row
from searchkit.reading.kinds import LATER, number

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


@dataclass(frozen=True, kw_only=True)
class LinearOptions:
    """The keys of a classifier's head."""

    dropout: Annotated[float, number(0, below=1)] = 0.0  # in front of the last layer, while training

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be from 0 to below 1, but is {self.dropout:g}")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(LinearOptions, NetConfig):
    """A classifier but for its architecture: the mean over the last feature, dropout, one linear layer."""

    image_mean: Colour = (0.485, 0.456, 0.406)  # of values in 0..1
    image_std: Deviations = (0.229, 0.224, 0.225)
    neck: str = field(default="none", repr=False, metadata=LATER)
    head: str = field(default="linear", repr=False, metadata=LATER)

    def __post_init__(self) -> None:
        wrong = []
        if self.num_classes < 1:
            wrong.append(f"num_classes must be at least 1, but is {self.num_classes}")
        if not 0 <= self.dropout < 1:
            wrong.append(f"dropout must be from 0 to below 1, but is {self.dropout:g}")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists of a YAML file
        if not all(std > 0 for std in self.image_std):
            wrong.append(f"image_std must be above 0, but is {self.image_std}")
        if wrong:
            raise UsageError("; ".join(wrong))


class LinearPlan:
    """One linear layer on the mean of the last level; the mean costs no multiply-add."""

    TASK: ClassVar[str] = "cls"
    Config: ClassVar[type[NetConfig]] = ClassifierConfig
    Options: ClassVar[type] = LinearOptions
    NAMES: ClassVar[tuple[str, ...]] = ()
    MODULE: ClassVar[str] = ""
    LOSSES: ClassVar[tuple[str, ...]] = ("loss_ce", "loss_distill")
    EVALUATION: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: LinearOptions, num_classes: int) -> None:
        self.options, self.num_classes = options, num_classes

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """Levels of any width."""
        return label_pieces(levels[-1], self.num_classes)


@lru_cache(CACHE)
def label_pieces(width: int, num_classes: int) -> Pieces:
    """The last layer of a classifier."""
    layers = (Layer("mean", "mean", width, width), Layer("linear", "fc", width, num_classes, bias=True))
    return (Piece((Row("", 0, 0, layers),), level(-1)),)
