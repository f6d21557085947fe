"""Random changes of an image together with its boxes, made of torchvision's v2 transforms."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from searchkit.nas.data.augment import Augment


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
        steps.append(v2.RandomZoomOut(fill=augment.fill, side_range=(1.0, augment.expand_most), p=augment.expand))
    if augment.crop and has_boxes:  # without a box there is nothing whose IoU could be kept
        steps.append(v2.RandomApply([v2.RandomIoUCrop(sampler_options=[*augment.crop_ious])], p=augment.crop))
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
