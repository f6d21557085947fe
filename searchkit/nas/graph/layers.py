"""Layers as ONNX operators: one table to what writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from searchkit.nas.graph.functions import (
    activation,
    avg_pool,
    flatten,
    global_pool,
    leaky_relu,
    max_pool,
    relu6,
    same,
    silu,
)
from searchkit.nas.graph.graph import Value
from searchkit.nas.graph.line import Line, UnwrittenError
from searchkit.nas.nn.written import Conv2dSame

LayerWriter = Callable[[Line, str, Any, Value], Value]  # (line, the layer's name, the layer, its input)


@dataclass(frozen=True)
class Scaled:
    """A batch norm that has learnt: y = scale x + shift, for each channel."""

    scale: Tensor  # float64
    shift: Tensor


def scaled(norm: Any) -> Scaled:
    """What a batch norm computes once it has learnt."""
    if norm.running_mean is None or norm.running_var is None:
        raise UnwrittenError("a batch norm without statistics")
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    return Scaled(scale, (0 if norm.bias is None else norm.bias.double()) - mean * scale)


def conv(line: Line, name: str, layer: nn.Conv2d, x: Value, norm: Scaled | None = None) -> Value:
    """A conv, and the batch norm behind it where it becomes a part of the weights."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise UnwrittenError(f"a conv with padding_mode {layer.padding_mode}, padding {layer.padding}")
    weight, bias = layer.weight, layer.bias
    if norm is not None:
        bias = (norm.shift + (0 if bias is None else bias.double() * norm.scale)).float()
        weight = (weight.double() * norm.scale[:, None, None, None]).float()
    given = [line.weight(f"{name}.weight", weight), *([] if bias is None else [line.weight(f"{name}.bias", bias)])]
    about: dict[str, Any] = {
        "kernel_shape": [*layer.kernel_size],
        "strides": [*layer.stride],
        "dilations": [*layer.dilation],
        "group": layer.groups,
    }
    if not _is_same(layer):
        return line.op("Conv", x, *given, pads=[*layer.padding] * 2, **about)
    room = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if {*layer.stride} == {1}:
        return line.op("Conv", x, *given, pads=[*(r // 2 for r in room), *(r - r // 2 for r in room)], **about)
    if {*layer.dilation} == {1}:
        return line.op("Conv", x, *given, auto_pad="SAME_UPPER", **about)
    strides = np.array(layer.stride, np.int64)  # auto_pad is for a dilation of 1 alone
    size = x.shape(2, 4)
    steps = (size + (strides - 1)) / strides - 1
    missing = line.graph.op("Max", steps * strides + np.array(room, np.int64) + 1 - size, np.zeros(2, np.int64))
    first = missing / 2
    none = line.graph.constant(np.zeros(2, np.int64))
    padded = line.op("Pad", x, line.graph.concat([none, first, none, missing - first], 0))
    return line.op("Conv", padded, *given, **about)


def _batch_norm(line: Line, name: str, layer: Any, x: Value) -> Value:
    scaled(layer)
    channels = len(layer.running_mean)
    parts = {
        "weight": torch.ones(channels) if layer.weight is None else layer.weight,
        "bias": torch.zeros(channels) if layer.bias is None else layer.bias,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }
    given = (line.weight(f"{name}.{part}", tensor) for part, tensor in parts.items())
    return line.op("BatchNormalization", x, *given, epsilon=layer.eps)


def _group_norm(line: Line, name: str, layer: nn.GroupNorm, x: Value) -> Value:
    groups = layer.num_groups
    flat = line.op("Reshape", x, np.array([0, groups, -1], np.int64))
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    even = line.op("InstanceNormalization", flat, ones, zeros, epsilon=layer.eps)
    y = line.op("Reshape", even, x.shape())
    if not layer.affine:
        return y
    each = (-1, *(1,) * (line.edges(x) - 2))
    y = line.op("Mul", y, line.weight(f"{name}.weight", layer.weight.reshape(each)))
    return line.op("Add", y, line.weight(f"{name}.bias", layer.bias.reshape(each)))


def _linear(line: Line, name: str, layer: nn.Linear, x: Value) -> Value:
    bias = [] if layer.bias is None else [line.weight(f"{name}.bias", layer.bias)]
    if line.edges(x) == 2:
        return line.op("Gemm", x, line.weight(f"{name}.weight", layer.weight), *bias, transB=1)
    y = line.op("MatMul", x, line.weight(f"{name}.weight", layer.weight.T))
    return line.op("Add", y, *bias) if bias else y


def _max_pool_layer(line: Line, name: str, layer: nn.MaxPool2d, x: Value) -> Value:
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return max_pool(line, x, *sizes, layer.ceil_mode, layer.return_indices)


def _avg_pool_layer(line: Line, name: str, layer: nn.AvgPool2d, x: Value) -> Value:
    sizes = (layer.kernel_size, layer.stride, layer.padding)
    return avg_pool(line, x, *sizes, layer.ceil_mode, layer.count_include_pad, layer.divisor_override)


def _by(function: Callable[..., Value], *names: str) -> LayerWriter:
    """A layer that is a function, with these attributes of its own."""
    return lambda line, _name, layer, x: function(line, x, *(getattr(layer, name) for name in names))


LAYERS: Mapping[str, LayerWriter] = {  # by the name of the class: that of an extracted folder is of its own text
    nn.Conv2d.__name__: conv,
    Conv2dSame.__name__: conv,
    nn.BatchNorm2d.__name__: _batch_norm,
    FrozenBatchNorm2d.__name__: _batch_norm,
    nn.GroupNorm.__name__: _group_norm,
    nn.Linear.__name__: _linear,
    nn.MaxPool2d.__name__: _max_pool_layer,
    nn.AvgPool2d.__name__: _avg_pool_layer,
    nn.AdaptiveAvgPool2d.__name__: _by(global_pool, "output_size"),
    nn.ReLU.__name__: _by(activation("Relu")),
    nn.ReLU6.__name__: _by(relu6),
    nn.LeakyReLU.__name__: _by(leaky_relu, "negative_slope"),
    nn.Hardswish.__name__: _by(activation("HardSwish")),
    nn.Hardsigmoid.__name__: _by(activation("HardSigmoid", alpha=1 / 6, beta=0.5)),
    nn.SiLU.__name__: _by(silu),
    nn.Sigmoid.__name__: _by(activation("Sigmoid")),
    nn.Flatten.__name__: _by(flatten, "start_dim", "end_dim"),
    nn.Dropout.__name__: _by(same),
    nn.Identity.__name__: _by(same),
}


def is_layer(module: nn.Module) -> bool:
    """Whether a module has a row of its own: it is of torch or torchvision, or Conv2dSame, which an extracted folder
    has from its own text."""
    home = type(module).__module__.partition(".")[0]
    return type(module).__name__ in LAYERS and (home in ("torch", "torchvision") or is_conv(module))


def is_conv(module: nn.Module) -> bool:
    """Whether it is a conv that `conv` writes."""
    return type(module) is nn.Conv2d or (isinstance(module, nn.Conv2d) and _is_same(module))


def is_batch_norm(module: nn.Module) -> bool:
    """Whether `scaled` can tell what it computes."""
    return type(module) in (nn.BatchNorm2d, FrozenBatchNorm2d)


def _is_same(module: nn.Module) -> bool:
    return type(module).__name__ == Conv2dSame.__name__


def write_layer(line: Line, name: str, layer: nn.Module, x: Value) -> Value:
    """A call of a layer. Raises UnwrittenError for one that has no row."""
    if not is_layer(layer):
        raise UnwrittenError(f"a layer {type(layer).__name__}")
    return LAYERS[type(layer).__name__](line, name, layer, x)
