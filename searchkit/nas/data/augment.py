"""Random changes of an image together with its boxes, made of torchvision's v2 transforms."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from searchkit.errors import UsageError
from searchkit.reading.kinds import LATER, Fraction, number

Factor = Annotated[float, number(above=0)]
Hue = Annotated[float, number(0, 0.5)]


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
    up to 4 times as long."""
    vflip: Fraction = field(default=0.0, metadata=LATER)  # probability; for images without an up and a down

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
        if not self.min_box > 0:
            wrong.append(f"min_box must be above 0 px (boxes without area can't be trained on); got {self.min_box}")
        if wrong:
            raise UsageError("augment: " + "; ".join(wrong))


def least_box(augment: Augment | None) -> float:
    """A box with a shorter side, in px, is dropped whatever is drawn."""
    return 0.0 if augment is None else augment.min_box / max(1.0, augment.scale[1] if augment.scale else 1.0)


def apply(augment: Augment, image: Tensor, target: dict[str, Tensor], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The image (3, H, W) and its target (see DetectionData) after the random changes of `seed`, and of nothing else.

    torchvision draws from torch's global generator: it is seeded here, and given back as it was. Rows of the target
    stay aligned; `area` becomes that of the boxes.
    """
    height, width = image.shape[-2:]
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(height, width))
    transform = pipeline(augment, len(boxes) > 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        image, boxes = transform(tv_tensors.Image(image), boxes)
    height, width = image.shape[-2:]
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = boxes.as_subclass(Tensor).clamp(min=0).minimum(limit)
    size = boxes[:, 2:] - boxes[:, :2]
    keep = (size >= augment.min_box).all(1)
    changed = {key: target[key][keep] for key in ("labels", "iscrowd")}
    changed |= {"boxes": boxes[keep], "area": size[keep].prod(1)}
    return image.as_subclass(Tensor).contiguous(), target | changed


@lru_cache(maxsize=16)
def pipeline(augment: Augment, has_boxes: bool = True) -> v2.Transform:
    """The transform of (tv_tensors.Image, tv_tensors.BoundingBoxes); it draws from torch's global generator."""
    steps: list[v2.Transform] = []
    if augment.expand:
        steps.append(v2.RandomZoomOut(fill=augment.fill, side_range=(1.0, 4.0), p=augment.expand))
    if augment.crop and has_boxes:  # without a box there is nothing whose IoU could be kept
        steps.append(v2.RandomApply([v2.RandomIoUCrop()], p=augment.crop))
    if augment.scale is not None:
        steps.append(ScaleJitter(augment.scale, augment.fill))
    if augment.hflip:
        steps.append(v2.RandomHorizontalFlip(augment.hflip))
    if augment.vflip:
        steps.append(v2.RandomVerticalFlip(augment.vflip))
    if augment.brightness or augment.contrast or augment.saturation or augment.hue:
        colour = v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation, augment.hue)
        steps.append(v2.RandomApply([colour], p=augment.photometric))
    return v2.Compose(steps) if steps else v2.Identity()


class ScaleJitter(v2.Transform):
    """Scale the content by a factor from [lo, hi] and keep the size of the image: crop, or paste on a canvas.

    torchvision's own ScaleJitter changes the size of the image, which a detector that resizes its input undoes.
    """

    def __init__(self, scale: tuple[float, float], fill: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale = scale
        self.fill = list(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = next(x for x in flat_inputs if isinstance(x, tv_tensors.Image)).shape[-2:]
        factor = float(torch.empty(1).uniform_(*self.scale))
        shown = factor if factor < 1 else 1 / factor  # of each edge: what the content takes, or what is left of it
        rows, cols = max(1, round(height * shown)), max(1, round(width * shown))
        top = int(torch.randint(0, height - rows + 1, ()))
        left = int(torch.randint(0, width - cols + 1, ()))
        return {"shrink": factor < 1, "window": (top, left, rows, cols), "canvas": (height, width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        top, left, rows, cols = params["window"]
        height, width = params["canvas"]
        if not params["shrink"]:
            return v2.functional.resized_crop(inpt, top, left, rows, cols, size=[height, width])
        small = v2.functional.resize(inpt, size=[rows, cols])
        around = [left, top, width - cols - left, height - rows - top]
        return v2.functional.pad(small, padding=around, fill=self.fill)
