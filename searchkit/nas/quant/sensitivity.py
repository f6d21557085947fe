"""How much each layer of 8 bits moves what a network gives out, when it alone is rounded; which layers stay float.

The error of a layer is the squared difference that its roundings make to the predictions (class logits, box deltas),
summed, over the sum of their squares: the inverse of a signal-to-noise ratio. The errors of layers add up nearly (Wu et
al., "Integer Quantization for Deep Learning Inference", 2020, §5.3 leave the most sensitive ones float, too).
No torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.graph.graph import import_onnx
from searchkit.nas.quant import qdq
from searchkit.nas.quant.observe import opened, with_outputs
from searchkit.nas.quant.ranges import Range
from searchkit.nas.quant.settings import AUTO, FAR

IMAGES = 4  # that errors are measured on


@dataclass(frozen=True)
class Sensitivity:
    """One layer: what it is called in the network, the names of its operators (several of one that runs on several
    levels), its error."""

    layer: str
    nodes: tuple[str, ...]
    error: float

    @property
    def decibels(self) -> float:
        """The signal-to-noise ratio of the predictions; infinite where nothing moves."""
        return math.inf if self.error == 0 else -10 * math.log10(self.error)


def sensitivities(
    model: Any,
    layers: Collection[str],
    predictions: Sequence[str],
    ranges: Mapping[str, Range],
    images: Sequence[np.ndarray],
    narrow: bool,
) -> list[Sensitivity]:
    """Those of the layers with weights among `layers`, most sensitive first. images: (3, H, W) uint8, of which IMAGES
    are taken."""
    images = images[:IMAGES]
    of_weight: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.name in layers and node.op_type in qdq.WEIGHED:
            of_weight.setdefault(node.input[1], []).append(node)
    exact = _predicted(model, predictions, images)
    signal = sum(float((values.astype(np.float64) ** 2).sum()) for values in exact)
    every = []
    for nodes in of_weight.values():
        names = tuple(node.name for node in nodes)
        seen = _predicted(qdq.rounded(model, names, ranges, narrow), predictions, images)
        noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(exact, seen, strict=True))
        every.append(Sensitivity(layer_name(nodes[0]), names, noise / max(signal, 1e-30)))
    return sorted(every, key=lambda each: -each.error)


def kept_float(every: Sequence[Sensitivity], keep: int | str) -> list[Sensitivity]:
    """Those that stay float: the `keep` most sensitive ones, or with AUTO those whose error is above FAR times the
    mean. Raises UsageError where none would be of 8 bits."""
    if keep == AUTO:
        least = FAR * sum(each.error for each in every) / max(1, len(every))
        return [each for each in every if each.error > least]
    assert isinstance(keep, int)
    if keep >= len(every):
        raise UsageError(
            f"{keep} layers are to stay float, but before the last ones there are only {len(every)}",
            f"Keep {len(every) - 1} at most, or write no file of 8 bits",
        )
    return [*every[:keep]]


def layer_name(node: Any) -> str:
    """What a layer is called in the network: its weights have the names of the modules that they are from."""
    weight: str = node.input[1].removeprefix("net ").split(" ")[0]
    return weight.removesuffix(".weight").removeprefix("outputs.")


def _predicted(model: Any, predictions: Sequence[str], images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a model gives out as its predictions, of one image after the other."""
    onnx = import_onnx()
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in predictions]
    session = opened(with_outputs(model, (), outputs), as_written=False)
    return [values for image in images for values in session.run([*predictions], {"image": image[None]})]
