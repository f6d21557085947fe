"""Whole networks of a space, as a runtime runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.graph.graph import Graph
from searchkit.nas.latency.eager import Call, net_call
from searchkit.nas.latency.onnx_rows import model_call
from searchkit.nas.models.elastic import wiring_of
from searchkit.nas.models.part import NetConfig, WrittenInOnnx
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

    def text(self, image: str) -> str:
        """In words, with what it is that they are run on."""
        if self.checkpoint is None:
            return f"new weights that find {FOUND} boxes on {image}"
        return f"the supernet's weights, {image}"


def pictured(recipe: Recipe) -> bool:
    """Whether the data of a recipe is at hand, for an image of the size that images have: to resize it takes time."""
    try:
        return bool(sample_images(recipe, 1, recipe.scales[0])[0])
    except SearchkitError:  # rows and their sums need no data
        return False


class Source:
    """Networks of a recipe, with new weights or a supernet's, and images for them. on_run: called after each time that
    one is run to be made ready."""

    def __init__(
        self,
        recipe: Recipe,
        config: NetConfig,
        weights: Weights,
        seed: int,
        on_run: Callable[[], None] = lambda: None,
    ) -> None:
        self.recipe, self.config, self.seed, self.on_run = recipe, config, seed, on_run
        self.pictured = pictured(recipe)
        self.net: Any = None
        self.thresholds: dict[tuple[Arch, InputShape], float] = {}
        if weights.checkpoint is not None:
            loaded = checkpoints.load(weights.checkpoint)
            nets.check_space(recipe, loaded, weights.checkpoint)
            space = recipe.supernet
            self.net = nets.build_at(recipe, config, space.maximum(), seed, space.held())
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
                self.on_run()
            self.thresholds[arch, shape] = high
        if with_scores:
            _set(with_scores, self.thresholds[arch, shape])

    def image(self, shape: InputShape) -> Any:
        """One image, as the network takes it: the first of the data, else noise of the input shape."""
        height, width = height_width(shape)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
        images: Sequence[Tensor] | Tensor = noise
        if self.pictured:
            images = torch.stack(sample_images(self.recipe, 1, shape)[0])
        return self.recipe.task.network.inputs_of(images, torch.device("cpu"))


def _set(modules: Sequence[Any], threshold: float) -> None:
    for module in modules:
        module.score_thresh = threshold


def eager_call(source: Source, arch: Arch, shape: InputShape, device: torch.device) -> Call:
    """A call of the whole network, from pixels to what it finds."""
    return net_call(source.at(arch, shape), source.image(shape), device)


def onnx_call(source: Source, arch: Arch, shape: InputShape, device: torch.device, threads: int, path: str) -> Call:
    """A call of the whole network, from pixels to what it finds, as `extract --export onnx` writes it; a small file is
    kept for the next call with that `path`. Raises UsageError for a network that can't be written."""
    if not os.path.exists(path):
        net = source.at(arch, shape)
        form = wiring_of(net).head.form
        if not isinstance(form, WrittenInOnnx):
            raise UsageError(
                f"a {form.KIND} can't be written as ONNX, so that its sums can't be held against whole networks",
                "Measure rows alone (--nets 0), or with --runtime eager",
            )
        graph = Graph()
        form.write_onnx(graph, net, shape)
        with open(path, "wb") as file:
            file.write(graph.proto({}).SerializeToString())
    image = source.image(shape)
    pixels = (torch.stack(image) if isinstance(image, list) else image).mul(255).round().to(torch.uint8)
    call = model_call(path, {"image": pixels.numpy()}, device, threads)
    if os.path.getsize(path) > KEPT_BYTES:
        os.unlink(path)
    return call
