"""A static classifier as source code, and the proof that it computes what the supernet does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from searchkit.errors import SearchkitError
from searchkit.nas.graph.graph import Graph
from searchkit.nas.models import emit
from searchkit.nas.models.heads import linear_onnx
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.records.arch import Arch

KIND = "Image classifier"
TRUNK = "the network"  # what `trunk` is
LAYERS = ""  # see MadeAround


def model_source(net: Any, config: ClassifierConfig, title: str, size: tuple[int, int]) -> str:
    """The text of model.py for a static classifier (of searchkit.nas.models.subnet). `size`: (H, W) of its images, px.

    Raises UsageError for a backbone whose forward can't be traced.
    """
    table, body = emit.straight_line(net.backbone)
    return _TEMPLATE.format(
        title=title,
        layers=table,
        forward=body,
        attach=emit.attach(net.backbone),
        ending=emit.ending("classifier"),
        size=size,
        width=net.fc.in_features,
        outputs=config.num_classes,
        dropout=config.dropout,
        mean=config.image_mean,
        std=config.image_std,
    )


def size_of(net: Any, shape: InputShape) -> tuple[int, int]:
    """(H, W) of the images, px."""
    return height_width(shape)


def size_entry(size: tuple[int, int]) -> dict[str, list[int]]:
    """What config.json says of it."""
    return {"size": list(size)}


def trunk(net: nn.Module) -> nn.Module:
    """The part that torch.export writes."""
    return net


def around(net: Any, layers: nn.Module) -> nn.Module:
    """See MadeAround: a classifier is all layers."""
    return layers


def tensors_of(outputs: Tensor) -> list[Tensor]:
    """What the trunk gives out, as a list."""
    return [outputs]


def write_onnx(g: Graph, net: Any, shape: InputShape) -> dict[str, Any]:
    """See WrittenInOnnx."""
    linear_onnx.write(g, net)
    return {}


@torch.no_grad()
def equality(
    net: Any, plain: Any, images: Sequence[Tensor], ids: Sequence[int | str], shape: InputShape, seed: int
) -> dict[str, Any]:
    """Compare two classifiers in eval mode: features and scores on random input, scores on real images."""
    h, w = height_width(shape)
    noise = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    pairs = list(zip(net.backbone(noise).values(), plain.backbone(noise).values(), strict=True))
    for x in (noise, *(image[None].float() / 255 for image in images)):
        pairs.append((net(x), plain(x)))
    if not all(torch.equal(a, b) for a, b in pairs):
        gaps = [float((a.float() - b.float()).abs().max()) for a, b in pairs if a.shape == b.shape and a.numel()]
        raise SearchkitError(
            "the extracted model does not compute what the source does: they differ by up to "
            f"{max(gaps, default=float('inf')):g}",
            "Nothing was written. Does a part use other layers than those of searchkit.nas.nn and torch.nn?",
        )
    return {"bit_equal": True, "random_input": [2, 3, h, w], "seed": seed, "images": list(ids)}


def counted_on(arch: Arch) -> dict[str, int]:
    """Nothing beside the input's shape."""
    return {}


@torch.no_grad()
def measured_macs(net: Any, config: ClassifierConfig, arch: Arch, shape: InputShape) -> int:
    """Multiply-adds of conv and linear on one image by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, *height_width(shape)))
    return int(counter.get_total_flops()) // 2


_TEMPLATE = '''"""{title}

Needs torch, torchvision (with the numpy and Pillow that it needs) and safetensors:

    import model                  # with this folder on sys.path
    net = model.load()            # in eval mode; images (N, 3, H, W) of 0..1 to scores (N, classes)
    net.train()                   # trains on like any other
    image = model.read("a.jpg")   # a file as the network takes it, of the file's own size: resize it to SIZE
"""

import json
import os
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.ops as ops
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = {size}  # height and width of the images it is made for
MEAN, STD = {mean}, {std}

LAYERS = {{
{layers}}}


class Backbone(nn.Module):
    """Images (N, 3, H, W), normalised, to features, finest first."""

    def __init__(self):
        super().__init__()
        for name, make in LAYERS.items():
            attach(self, name, make())

    def forward(self, x):
{forward}


class Classifier(nn.Module):
    """Images (N, 3, H, W) of 0..1 to scores (N, {outputs}), no softmax."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.fc = nn.Linear({width}, {outputs})

    def forward(self, x):
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (MEAN, STD))
        x = (x - mean[:, None, None]) / std[:, None, None]
        last = list(self.backbone(x).values())[-1]
        return self.fc(F.dropout(last.mean((2, 3)), {dropout}, self.training))


{attach}

def build():
    """The classifier with new weights."""
    return Classifier()


{ending}'''
