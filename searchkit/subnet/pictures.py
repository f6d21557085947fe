"""Boxes drawn on images."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from searchkit.data.images import decode
from searchkit.errors import UsageError
from searchkit.models.subnet import subnet
from searchkit.space.arch import Arch
from searchkit.subnet.extract import load_folder, open_source
from searchkit.train import config as configs
from searchkit.train.detection import set_scale

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TEXT_PX = 13
SMALL = 480  # pictures are enlarged by a whole factor until their short edge has this many pixels, so that text fits


def open_model(path: str, config: str | None, arch: str | None) -> tuple[nn.Module, list[str]]:
    """(detector in eval mode, names by label) from an extracted folder, or a checkpoint with its config."""
    if os.path.isdir(path):
        net = load_folder(path)
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            return net, ["background", *json.load(f)["categories"]]
    if config is None:
        raise UsageError(f"{path} is a checkpoint: its config is needed", "Give --config FILE, or an extracted folder")
    recipe = configs.load(config)
    source = open_source(recipe, path, 0)
    chosen: Arch = recipe.space.named(arch) if arch else source.maximum
    static = subnet(source.net, chosen, source.config)
    set_scale(static, source.input_shape or recipe.scales[0], recipe.data)
    return static, ["background", *source.categories]


def read(path: str) -> Tensor:
    """An image file as (3, H, W) uint8. Raises UsageError where it can't be decoded."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:  # what Pillow raises on broken files
        raise UsageError(f"{path} is no image that can be read: {e}") from e
    return decode(path, width, height)


@torch.no_grad()
def draw(net: nn.Module, picture: Tensor, names: list[str], threshold: float, target: str) -> list[dict[str, Any]]:
    """Write `picture` ((3, H, W) uint8) with its boxes as PNG; return the boxes (xyxy px, score, name)."""
    device = next(net.parameters()).device
    (output,) = net([picture.to(device).float() / 255])
    keep = output["scores"] >= threshold
    boxes, scores, labels = (output[k][keep].cpu() for k in ("boxes", "scores", "labels"))
    factor = max(1, -(-SMALL // min(picture.shape[1:])))
    shown = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    canvas = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())
    pen = ImageDraw.Draw(canvas)
    for box, score, label in zip((boxes * factor).tolist(), scores.tolist(), labels.tolist(), strict=True):
        colour = COLOURS[(label - 1) % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=2)
        text, at = f"{names[label]} {score:.2f}", (box[0], max(0.0, box[1] - TEXT_PX - 3))
        pen.rectangle(pen.textbbox(at, text, font_size=TEXT_PX), fill=colour)
        pen.text(at, text, fill="white", font_size=TEXT_PX)
    canvas.save(target)
    return [
        {"box": [round(v, 2) for v in box.tolist()], "score": round(float(score), 4), "name": names[int(label)]}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
