"""Where a file of 8 bits rounds, told as calls of the network that it was written from. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.nas.graph.graph import import_onnx
from searchkit.nas.quant.qdq import WEIGHED, rounded_values


@dataclass(frozen=True)
class Point:
    """A value that is rounded. call: the number of the call that gives it out. steps: the name of its scale, which
    several values may share. top: the greatest value that there can be, where the file leaves it to the rounding that
    no greater one comes out."""

    call: int
    value: str
    steps: str
    scale: float
    zero: int
    top: float | None


@dataclass(frozen=True)
class Weights:
    """A layer whose weights are rounded. call: a number of a call of it. scales: (C,), one for each output channel."""

    call: int
    name: str
    scales: np.ndarray


def unfollowed(model: Any, layers: Collection[str], calls: Mapping[str, int]) -> set[str]:
    """Those of the layers that read or give out a value in the midst of a call of the network (such as the sigmoid of a
    SiLU): training can't round it."""
    inside = {name for name in rounded_values(model, layers) if name not in calls}
    return {node.name for node in model.graph.node if node.name in layers and inside & {*node.input, *node.output}}


def points_of(model: Any, made: Any, calls: Mapping[str, int]) -> tuple[list[Point], list[Weights]]:
    """What of a model is rounded in the one `made` of it: its values, its layers' weights."""
    numbers = {tensor.name: tensor for tensor in made.graph.initializer}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    to_array = import_onnx().numpy_helper.to_array
    before = {output: node for node in model.graph.node for output in node.output}
    points = []
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            value, scale, zero = node.input
            clip = before.get(value)
            bounded = clip is not None and clip.op_type == "Clip" and len(clip.input) > 2
            top = float(to_array(constants[clip.input[2]])) if bounded and clip is not None else None
            points.append(
                Point(calls[value], value, scale, float(to_array(numbers[scale])), int(to_array(numbers[zero])), top)
            )
    from_steps = {node.output[0]: node for node in made.graph.node if node.op_type == "DequantizeLinear"}
    own = {node.name: node for node in model.graph.node}
    weights: dict[str, Weights] = {}
    for node in made.graph.node:
        if node.op_type in WEIGHED and node.input[1] in from_steps:
            was = own[node.name]
            scales = to_array(numbers[from_steps[node.input[1]].input[1]])
            weights.setdefault(was.input[1], Weights(calls[was.output[0]], was.input[1], scales))
    return points, [*weights.values()]
