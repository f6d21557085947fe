"""What detectors do to images before their first layer, once for many networks that do the same."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Prepared(list[Tensor]):
    """Images (3, H, W), with the batch that a transform has made of them."""

    def __init__(self, images: Iterable[Tensor], batch: ImageList) -> None:
        super().__init__(images)
        self.batch = batch


class Transform(GeneralizedRCNNTransform):
    """torchvision's, which has nothing left to do with images that are prepared."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """See GeneralizedRCNNTransform."""
        return (images.batch, targets) if isinstance(images, Prepared) else super().forward(images, targets)

    @property
    def key(self) -> Hashable:
        """Transforms of equal keys make the same of an image, but in training."""
        sizes = (self.min_size, self.max_size, self.fixed_size, self.size_divisible)
        return str((*sizes, self.image_mean, self.image_std))


def as_ours(theirs: GeneralizedRCNNTransform) -> Transform:
    """The same transform as one of ours."""
    return Transform(
        theirs.min_size,
        theirs.max_size,
        theirs.image_mean,
        theirs.image_std,
        theirs.size_divisible,
        theirs.fixed_size,
    )
