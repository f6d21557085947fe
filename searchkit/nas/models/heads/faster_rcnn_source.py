"""A static detector as source code, and the proof that it computes what the supernet does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from searchkit.errors import SearchkitError
from searchkit.nas.graph.graph import Graph
from searchkit.nas.models import emit
from searchkit.nas.models.heads import faster_rcnn_onnx
from searchkit.nas.models.heads.faster_rcnn_plan import PROPOSALS, DetectorConfig, settings
from searchkit.nas.models.part import HEAD
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.records.arch import Arch

KIND = "Faster R-CNN"
TRUNK = "backbone and neck"  # what `trunk` is


def model_source(net: Any, config: DetectorConfig, title: str, size: tuple[int, int]) -> str:
    """The text of model.py for a static detector (of searchkit.nas.models.subnet). `size`: its short and long edge, px.

    Raises UsageError for a backbone or neck whose forward can't be traced.
    """
    table, body = emit.straight_line(net.backbone)
    rpn_head, predictor = type(net.rpn.head), type(net.roi_heads.box_predictor)
    ours = [cls for cls in (rpn_head, predictor) if not cls.__module__.startswith("torchvision.")]
    channels = net.backbone.out_channels
    return _TEMPLATE.format(
        title=title,
        layers=table,
        forward=body,
        attach=emit.attach(net.backbone),
        ending=emit.ending("detector", "arguments"),
        classes="".join(f"\n\n{inspect.getsource(cls).rstrip()}\n" for cls in ours),
        out_channels=channels,
        min_size=size[0],
        max_size=size[1],
        anchor_sizes=tuple((s,) for s in config.anchor_sizes),
        ratios=tuple(config.anchor_ratios),
        levels=len(config.anchor_sizes),
        rpn_head=rpn_head.__name__,
        anchors=len(config.anchor_ratios),
        maps=[name for name in net.roi_heads.box_roi_pool.featmap_names],
        roi_size=config.roi_size,
        box_in=channels * config.roi_size**2,
        box_width=config.box_head_width,
        predictor=predictor.__name__,
        outputs=config.num_classes + 1,
        arguments=emit.arguments(settings(config)),
    )


def size_of(net: Any, shape: InputShape) -> tuple[int, int]:
    """The short and the long edge that a detector resizes images to, px."""
    return net.transform.min_size[0], net.transform.max_size


def size_entry(size: tuple[int, int]) -> dict[str, int]:
    """What config.json says of it."""
    return {"min_size": size[0], "max_size": size[1]}


def trunk(net: Any) -> nn.Module:
    """The part that torch.export writes."""
    backbone: nn.Module = net.backbone
    return backbone


def tensors_of(outputs: Any) -> list[Tensor]:
    """What the trunk gives out, as a list."""
    return list(outputs.values())


def write_onnx(g: Graph, net: Any, shape: InputShape) -> dict[str, Any]:
    """See WrittenInOnnx."""
    return faster_rcnn_onnx.write(g, net)


@torch.no_grad()
def equality(
    net: Any, plain: Any, images: Sequence[Tensor], ids: Sequence[int | str], shape: InputShape, seed: int
) -> dict[str, Any]:
    """Compare two detectors in eval mode: pyramid, heads and boxes on random input, boxes on real images."""
    h, w = height_width(shape)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 3, h, w, generator=generator)
    regions = torch.rand(8, plain.backbone.out_channels, *net.roi_heads.box_roi_pool.output_size, generator=generator)
    pairs = list(zip(_outputs(net, noise, regions), _outputs(plain, noise, regions), strict=True))
    pictures = [noise[0], *(image.float() / 255 for image in images)]
    checked = len(pairs)
    for picture in pictures:
        expected, actual = net([picture])[0], plain([picture])[0]
        pairs += [(expected[key], actual[key]) for key in ("boxes", "scores", "labels")]
    if not all(torch.equal(a, b) for a, b in pairs):
        gaps = [float((a.float() - b.float()).abs().max()) for a, b in pairs if a.shape == b.shape and a.numel()]
        worst = max(gaps, default=float("inf"))
        raise SearchkitError(
            f"the extracted model does not compute what the source does: they differ by up to {worst:g}",
            "Nothing was written. Does a part use other layers than those of searchkit.nas.nn and torch.nn?",
        )
    boxes = sum(len(a) for i, (a, _) in enumerate(pairs[checked:]) if i % 3 == 0)
    return {
        "bit_equal": True,
        "random_input": [2, 3, h, w],
        "seed": seed,
        "images": list(ids),
        "boxes_compared": boxes,
    }


def _outputs(net: Any, noise: Tensor, regions: Tensor) -> list[Tensor]:
    """The pyramid, what the RPN makes of it, and what the box head makes of regions."""
    levels = list(net.backbone(noise).values())
    objectness, deltas = net.rpn.head(levels)
    return [*levels, *objectness, *deltas, *net.roi_heads.box_predictor(net.roi_heads.box_head(regions))]


def counted_on(arch: Arch) -> dict[str, int]:
    """What the RoI head's cost is stated for."""
    return {"boxes": arch.get(f"{HEAD}.proposals", PROPOSALS)}


@torch.no_grad()
def measured_macs(net: Any, config: DetectorConfig, arch: Arch, shape: InputShape) -> int:
    """Multiply-adds of conv and linear by torch's own counter: backbone, FPN and RPN on an image, RoI head on as many
    boxes as `counted_on` says."""
    h, w = height_width(shape)
    with FlopCounterMode(display=False) as counter:
        levels = list(net.backbone(torch.zeros(1, 3, h, w)).values())
        net.rpn.head(levels)
        net.roi_heads.box_predictor(
            net.roi_heads.box_head(
                torch.zeros(counted_on(arch)["boxes"], net.backbone.out_channels, config.roi_size, config.roi_size)
            )
        )
    return int(counter.get_total_flops()) // 2


_TEMPLATE = '''"""{title}

Needs torch, torchvision (with the numpy and Pillow that it needs) and safetensors:

    import model                  # with this folder on sys.path
    net = model.load()            # a torchvision FasterRCNN, in eval mode
    net.train()                   # trains on like any other
    image = model.read("a.jpg")   # a file as the network takes it: net([image])
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
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

HERE = os.path.dirname(os.path.abspath(__file__))

LAYERS = {{
{layers}}}

ARGUMENTS = {arguments}


class Backbone(nn.Module):
    """Backbone and FPN: images (N, 3, H, W) to the levels of the pyramid, finest first."""

    out_channels = {out_channels}

    def __init__(self):
        super().__init__()
        for name, make in LAYERS.items():
            attach(self, name, make())

    def forward(self, x):
{forward}


{attach}{classes}

def build(**arguments):
    """The detector with new weights; `arguments` go over those of FasterRCNN here."""
    anchors = AnchorGenerator({anchor_sizes}, ({ratios},) * {levels})
    return FasterRCNN(
        Backbone(),
        rpn_anchor_generator=anchors,
        rpn_head={rpn_head}({out_channels}, {anchors}),
        box_roi_pool=ops.MultiScaleRoIAlign({maps}, {roi_size}, sampling_ratio=2),
        box_head=TwoMLPHead({box_in}, {box_width}),
        box_predictor={predictor}({box_width}, {outputs}),
        **{{**ARGUMENTS, "min_size": {min_size}, "max_size": {max_size}, **arguments}},
    )


{ending}'''
