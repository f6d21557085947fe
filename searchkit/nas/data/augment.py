"""What of a training image may change at random, of a detector's and of a classifier's. No torch.

The changes themselves: box_augment.py and label_augment.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from searchkit.errors import UsageError
from searchkit.reading.kinds import LATER, Fraction, Whole, number

Factor = Annotated[float, number(above=0)]
Hue = Annotated[float, number(0, 0.5)]
Share = Annotated[float, number(most=1, above=0)]
Ratio = Annotated[float, number(above=0)]


@dataclass(frozen=True)
class Augment:
    """What may change, and how much; the default flips, as the reference detectors of torchvision do.

    The image keeps its size, but for `expand` and `crop`. Boxes are clipped to what is left of the image; those that
    end up smaller than `min_box` in width or height are dropped, with their labels.
    """

    hflip: Fraction = 0.5  # probability
    scale: tuple[Factor, Factor] | None = None
    """Large-scale jitter (https://arxiv.org/abs/2012.07177): the content is scaled by a factor drawn uniformly from
    [lo, hi]; above 1 a random part is shown, below 1 the rest of the canvas is `fill`."""
    crop: Fraction = 0.0
    """Probability of SSD's crop with a minimal IoU to some box (https://arxiv.org/abs/1512.02325, §2.2)."""
    brightness: Fraction = 0.0  # factor drawn from [1 - v, 1 + v]; the same for contrast and saturation
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Hue = 0.0  # of the colour circle, up to 0.5; costs ten times as much time as the other three together
    photometric: Fraction = 0.5  # probability of the four above
    min_box: Factor = 2.0  # px
    fill: tuple[int, int, int] = (124, 116, 104)  # RGB; ImageNet's mean
    expand: Fraction = field(default=0.0, metadata=LATER)
    """Probability of SSD's expansion, before all else: the image becomes a part of a canvas, of `fill`, whose edges are
    up to `expand_most` times as long."""
    vflip: Fraction = field(default=0.0, metadata=LATER)  # probability; for images without an up and a down
    expand_most: Annotated[float, number(1)] = field(default=4.0, metadata=LATER)
    """How many times as long the edges of expansion's canvas are at most."""
    crop_ious: tuple[Fraction, ...] = field(default=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), metadata=LATER)
    """Of these `crop` draws the minimal IoU; 0 allows any crop; of 1, which must be there, the image stays whole."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be a probability, in [0, 1]; got {getattr(self, name)}"
            for name in ("hflip", "vflip", "crop", "expand", "photometric")
            if not 0 <= getattr(self, name) <= 1
        ]
        for name, top in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= top:
                wrong.append(f"{name} must lie in [0, {top}]; got {getattr(self, name)}")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            wrong.append(f"scale must be [lo, hi] with 0 < lo <= hi; got {list(self.scale)}")
        if not 1 <= self.expand_most < math.inf:
            wrong.append(f"expand_most must be at least 1; got {self.expand_most}")
        if not self.crop_ious or not all(0 <= iou <= 1 for iou in self.crop_ious):
            wrong.append(f"crop_ious must be of [0, 1], at least one; got {list(self.crop_ious)}")
        elif 1 not in self.crop_ious:  # then crops would be drawn without an end for boxes that none fits
            wrong.append(f"crop_ious must have 1, the image as it is, among them; got {list(self.crop_ious)}")
        if not self.min_box > 0:
            wrong.append(f"min_box must be above 0 px (boxes without area can't be trained on); got {self.min_box}")
        if wrong:
            raise UsageError("augment: " + "; ".join(wrong))


def least_box(augment: Augment | None) -> float:
    """A box with a shorter side, in px, is dropped whatever is drawn."""
    return 0.0 if augment is None else augment.min_box / max(1.0, augment.scale[1] if augment.scale else 1.0)


@dataclass(frozen=True)
class LabelAugment:
    """What may change, and how much. The default flips and nothing else. The crop comes first, then flip, colour,
    cutout.

    crop: how an image becomes one of the input's size. All keep its aspect ratio, but for random_resized.
    - none: short edge to that of the input, and the middle of it; an image of the input's size stays as it is;
    - pad: the same, then `padding` black px around it, and a crop at random (CIFAR);
    - random_resized: a part of `scale` of the area and `ratio` of width to height, resized (ImageNet);
    - center: as in evaluation, see `fit`.
    """

    flip: Fraction = 0.5  # probability, left to right
    crop: Literal["none", "pad", "random_resized", "center"] = "none"
    padding: Whole = 4  # px
    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    color_jitter: Annotated[float, number(0)] = 0.0
    """Brightness, contrast and saturation are each changed by a factor from [1 - v, 1 + v], in any order."""
    cutout: Whole = 0
    """Edge in px of a square at a random place that is made grey; it may reach beyond the image
    (https://arxiv.org/abs/1708.04552)."""

    def __post_init__(self) -> None:
        wrong = []
        if not 0 <= self.flip <= 1:
            wrong.append(f"flip must be a probability, in [0, 1]; got {self.flip}")
        if self.crop not in ("none", "pad", "random_resized", "center"):
            wrong.append(f"crop must be none, pad, random_resized or center; got {self.crop}")
        for name in ("padding", "cutout", "color_jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                wrong.append(f"{name} must be at least 0; got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            wrong.append(f"scale must be [lo, hi] with 0 < lo <= hi <= 1; got {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            wrong.append(f"ratio must be [lo, hi] with 0 < lo <= hi; got {list(self.ratio)}")
        if wrong:
            raise UsageError("augment: " + "; ".join(wrong))
