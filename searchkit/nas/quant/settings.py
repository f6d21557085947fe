"""How a network is rounded to 8 bits. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.nas.quant.ranges import METHODS

AUTO = "auto"
FAR = 3.0  # with AUTO a layer stays float if its error is above so many times the mean of all
LEARNT, AVERAGED = "learnt", "averaged"  # how scales move in training
IMAGES = 32  # training images that ranges are taken from, where there are as many


@dataclass(frozen=True)
class Rounding:
    """How the range of each activation is told from training images, and which layers are left as they are.

    percentile: of the values, that the range holds (of method percentile). keep_float: how many of the layers that
    move the outputs most stay float, or AUTO: those that move them far more than others; see
    searchkit.nas.quant.sensitivity. scales: of a network that is trained with roundings.
    """

    method: str = "minmax"
    percentile: float = 99.99
    images: int = IMAGES
    keep_float: int | str = 0
    scales: str = LEARNT

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"percentile must be above 50 and at most 100, not {self.percentile:g}")
        if self.images < 1:
            raise UsageError("there must be at least one image to take ranges from")
        if self.keep_float != AUTO and (not isinstance(self.keep_float, int) or self.keep_float < 0):
            raise UsageError(f"keep_float must be a number of layers or {AUTO}, not {self.keep_float!r}")

    @property
    def text(self) -> str:
        """The method, in words."""
        return f"{self.method} {self.percentile:g}" if self.method == "percentile" else self.method


def require_images(train: object) -> None:
    """UsageError where a config has no training images (its data.train is None)."""
    if train is None:
        raise UsageError(
            "files of 8 bits take the ranges of activations from training images, but the config has no data.train",
            "Give data.train, or write no file of 8 bits",
        )
