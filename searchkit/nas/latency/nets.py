"""Whole networks of a space, as a runtime runs them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.nas.latency.eager import Call, net_call
from searchkit.nas.latency.onnx_rows import model_call, package
from searchkit.nas.models.part import NetConfig
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.subnet.extract import sample_images
from searchkit.nas.train import checkpoint as checkpoints
from searchkit.nas.train import net as nets
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch

KEPT_BYTES = 1 << 25  # of an exported network, up to which its file is kept from one round to the next
FOUND = 30  # boxes on an image that detectors with new weights are made to find
HALVINGS = 24  # of the range of thresholds, until it is so: scores of new weights are all but equal


@dataclass(frozen=True)
class Weights:
    """Where the weights of whole networks come from. What a detector does behind its layers depends on what it finds.
    With new weights that would be nothing, or everything: they are then given the score threshold at which they find
    FOUND boxes, as trained ones do."""

    checkpoint: str | None = None  # of the supernet; None: new ones

    def text(self) -> str:
        if self.checkpoint is None:
            return f"new weights that find {FOUND} boxes on noise"
        return "the supernet's weights, an image of data.val"


class Source:
    """Networks of a recipe, with new weights or a supernet's, and images for them."""

    def __init__(self, recipe: Recipe, config: NetConfig, weights: Weights, seed: int) -> None:
        self.recipe, self.config, self.seed = recipe, config, seed
        self.net: Any = None
        self.thresholds: dict[tuple[Arch, InputShape], float] = {}
        if weights.checkpoint is not None:
            loaded = checkpoints.load(weights.checkpoint)
            nets.check_space(recipe, loaded, weights.checkpoint)
            self.net = nets.build_at(recipe, config, recipe.space.maximum(), seed, recipe.space.held())
            nets.load_exactly(self.net, loaded.net, weights.checkpoint, recipe.path)

    def at(self, arch: Arch, shape: InputShape) -> nn.Module:
        """A static network."""
        net: Any = nets.build_at(self.recipe, self.config, arch, self.seed)
        if self.net is not None:
            net = subnet(self.net, arch, self.config)
        self.recipe.task.network.set_scale(net, shape, self.recipe.data)
        static: nn.Module = net.eval()
        if self.net is None:
            self._settle(static, arch, shape)
        return static

    def _settle(self, net: nn.Module, arch: Arch, shape: InputShape) -> None:
        """Give a detector the score threshold at which it finds so many boxes."""
        with_scores = [module for module in net.modules() if isinstance(getattr(module, "score_thresh", None), float)]
        if with_scores and (arch, shape) not in self.thresholds:
            image, low, high = self.image(shape), 0.0, 1.0
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                _set(with_scores, middle)
                with torch.no_grad():
                    too_many = len(net(image)[0]["boxes"]) > FOUND
                low, high = (middle, high) if too_many else (low, middle)
            self.thresholds[arch, shape] = high
        if with_scores:
            _set(with_scores, self.thresholds[arch, shape])

    def image(self, shape: InputShape) -> Any:
        """One image, as the network takes it."""
        height, width = height_width(shape)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
        images: Sequence[Tensor] | Tensor = noise
        if self.net is not None:
            found, _ = sample_images(self.recipe, 1, shape)
            images = torch.stack(found[:1]) if found else noise
        return self.recipe.task.network.inputs_of(images, torch.device("cpu"))


def _set(modules: Sequence[Any], threshold: float) -> None:
    for module in modules:
        module.score_thresh = threshold


def eager_call(source: Source, arch: Arch, shape: InputShape, device: torch.device) -> Call:
    """A call of the whole network, from pixels to what it finds."""
    return net_call(source.at(arch, shape), source.image(shape), device)


class Planned(nn.Module):
    """All that the plan of a network has: its trunk and its heads, without proposals, boxes and their choice."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, regions: Tensor) -> list[Tensor]:
        """x: (1, 3, H, W), normalised. regions: (n, what a box head reads of one); unused without a box head."""
        net = self.net
        if hasattr(net, "roi_heads"):
            scores, deltas = net.rpn.head(list(net.backbone(x).values()))
            boxes = net.roi_heads.box_predictor(net.roi_heads.box_head(regions))
            return [*scores, *deltas, *boxes]
        outputs = net.levels(x) if hasattr(net, "levels") else net(x)
        return [outputs] if isinstance(outputs, Tensor) else [y for pair in outputs for y in pair]


def onnx_call(
    source: Source, arch: Arch, shape: InputShape, device: torch.device, threads: int, regions: int, path: str
) -> Call:
    """A call of trunk and heads, as torch exports them; a small file is kept for the next call with that `path`."""
    net: Any = source.at(arch, shape)
    wide = int(net.roi_heads.box_head.fc6.in_features) if hasattr(net, "roi_heads") else 1
    x, boxes = torch.rand(1, 3, *height_width(shape)), torch.rand(regions, wide)
    if not os.path.exists(path):
        package("onnxscript")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about itself
            program: Any = torch.onnx.export(Planned(net), (x, boxes), dynamo=True, verbose=False)
        program.save(path)
    call = model_call(path, {"x": x.numpy(), "regions": boxes.numpy()}, device, threads)
    if os.path.getsize(path) > KEPT_BYTES:
        os.unlink(path)
    return call
