"""A static dense detector as source code, and the proof that it computes what the supernet does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.anchor_utils import AnchorGenerator

from searchkit.errors import SearchkitError
from searchkit.nas.graph.graph import Graph
from searchkit.nas.models import emit
from searchkit.nas.models.heads import dense, dense_onnx
from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.records.arch import Arch

AROUND = ("anchor_generator", "transform")  # the modules of a detector that are none of its layers


class Outputs(nn.Module):
    """Images (N, 3, H, W), normalised, to class logits and box deltas of the levels, with the names of its detector."""

    def __init__(self, net: DenseDetector) -> None:
        super().__init__()
        for name, module in net.named_children():
            if name not in AROUND:
                self.add_module(name, module)
        self.run = net.levels

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """As DenseDetector.levels."""
        return self.run(x)


class Around:
    """What a detector does whose layers are one module, which gives out what `levels` does."""

    layers: nn.Module

    def levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See DenseDetector."""
        return list(self.layers(x))


class DenseForm:
    """The form of dense detectors: see Form of searchkit.nas.models.part.

    kind: of detector. options: how it learns and what it makes of its outputs. anchors: the text of an expression, of a
    net's anchors. more: the text of what that expression names.
    """

    TRUNK = "backbone, neck and towers"
    LAYERS = "layers"

    def __init__(self, kind: str, options: Dense, anchors: Callable[[Any], str], more: str = "") -> None:
        self.KIND = kind
        self.options = options
        self.anchors = anchors
        self.more = more

    def model_source(self, net: Any, config: Any, title: str, size: tuple[int, int]) -> str:
        """The text of model.py; size: the short and the long edge, px."""
        outputs = Outputs(net)
        table, body = emit.straight_line(outputs)
        return _TEMPLATE.format(
            title=title,
            kind=self.KIND,
            layers=table,
            forward=body,
            attach=emit.attach(outputs),
            ending=emit.ending("detector", "settings"),
            definitions=dense.source(self.options) + (f"\n\n{self.more}" if self.more else ""),
            settings=dense.settings_source(self.options),
            classes=config.num_classes,
            anchors=self.anchors(net),
            generator=_torchvisions(net.anchor_generator),
            transform=_transform_source(net.transform, size),
        )

    def size_of(self, net: Any, shape: InputShape) -> tuple[int, int]:
        """The short and the long edge that a detector resizes images to, px."""
        return net.transform.min_size[0], net.transform.max_size

    def size_entry(self, size: tuple[int, int]) -> dict[str, Any]:
        """What config.json says of it."""
        return {"min_size": size[0], "max_size": size[1]}

    def trunk(self, net: Any) -> nn.Module:
        """The part that torch.export writes."""
        return Outputs(net)

    def around(self, net: Any, layers: nn.Module) -> nn.Module:
        """See MadeAround."""
        outer: nn.Module = copy.deepcopy(net)
        for name in [name for name, _ in net.named_children() if name not in AROUND]:
            delattr(outer, name)
        outer.layers = layers
        outer.__class__ = type("Around", (Around, type(net)), {})
        return outer

    def tensors_of(self, outputs: Any) -> list[Tensor]:
        """What the trunk gives out, as a list."""
        return [x for pair in outputs for x in pair]

    def write_onnx(self, g: Graph, net: Any, shape: InputShape) -> dict[str, Any]:
        """See WrittenInOnnx."""
        return dense_onnx.write(g, net, Outputs(net), self.options.decoder)

    @torch.no_grad()
    def equality(
        self, net: Any, plain: Any, images: Sequence[Tensor], ids: Sequence[int | str], shape: InputShape, seed: int
    ) -> dict[str, Any]:
        """Compare two detectors in eval mode: logits and deltas on random input, boxes on that and on real images."""
        h, w = height_width(shape)
        noise = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
        pairs = list(zip(self.tensors_of(net.levels(noise)), self.tensors_of(plain.levels(noise)), strict=True))
        checked = len(pairs)
        for picture in (noise[0], *(image.float() / 255 for image in images)):
            expected, actual = net([picture])[0], plain([picture])[0]
            pairs += [(expected[key], actual[key]) for key in ("boxes", "scores", "labels")]
        if not all(torch.equal(a, b) for a, b in pairs):
            gaps = [float((a.float() - b.float()).abs().max()) for a, b in pairs if a.shape == b.shape and a.numel()]
            raise SearchkitError(
                "the extracted model does not compute what the source does: they differ by up to "
                f"{max(gaps, default=float('inf')):g}",
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

    def counted_on(self, arch: Arch) -> dict[str, int]:
        """Nothing beside the input's shape."""
        return {}

    @torch.no_grad()
    def measured_macs(self, net: Any, config: Any, arch: Arch, shape: InputShape) -> int:
        """Multiply-adds of conv and linear on one image by torch's own counter."""
        with FlopCounterMode(display=False) as counter:
            net.levels(torch.zeros(1, 3, *height_width(shape)))
        return int(counter.get_total_flops()) // 2


def _torchvisions(generator: Any) -> str:
    """The class of torchvision that a text with a generator imports; it may have a class of its own beside that."""
    theirs = type(generator).__module__.partition(".")[0] == "torchvision"
    return type(generator).__name__ if theirs else AnchorGenerator.__name__


def _transform_source(transform: Any, size: tuple[int, int]) -> str:
    """What resizes and normalises images, as text."""
    arguments = [*map(str, size), str(list(transform.image_mean)), str(list(transform.image_std))]
    if transform.fixed_size is not None:
        arguments += [f"size_divisible={transform.size_divisible}", f"fixed_size={transform.fixed_size}"]
    return f"GeneralizedRCNNTransform({', '.join(arguments)})"


_TEMPLATE = '''"""{title}

Needs torch, torchvision (with the numpy and Pillow that it needs) and safetensors:

    import model                  # with this folder on sys.path
    net = model.load()            # as a torchvision detector, in eval mode
    net.train()                   # trains on: net(images, targets) gives its losses, labels count from 1
    image = model.read("a.jpg")   # a file as the network takes it: net([image])
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.ops as ops
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import {generator}
from torchvision.models.detection.transform import GeneralizedRCNNTransform

HERE = os.path.dirname(os.path.abspath(__file__))

LAYERS = {{
{layers}}}


{attach}

{definitions}

SETTINGS = {settings}


class Detector(DenseDetector):
    """{kind}."""

    def __init__(self, transform, **settings):
        super().__init__({classes}, {anchors}, transform, **{{**SETTINGS, **settings}})
        for name, make in LAYERS.items():
            attach(self, name, make())

    def levels(self, x):
{forward}


def build(**settings):
    """The detector with new weights; `settings` go over those of SETTINGS."""
    return Detector({transform}, **settings)


{ending}'''
