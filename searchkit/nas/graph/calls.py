"""Calls of torch as ONNX operators: one table from functions, one from methods of tensors, one from layers, to what
writes them.

A writer takes what the call takes, values in place of tensors, and gives what it gives. Nothing of the file depends on
an image's size, or on how many there are.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from searchkit.nas.graph.graph import Graph, Operand, Value
from searchkit.nas.nn.written import Conv2dSame

Sizes = tuple[int, ...]
Pair = int | Sequence[int]


class UnwrittenError(Exception):
    """A call that has no row here, or not with these arguments."""


@dataclass
class Line:
    """A straight line on its way into a graph. shapes: of values, by name, on an example image: their number of edges
    and of channels hold for all images."""

    graph: Graph
    shapes: dict[str, Sizes] = field(default_factory=dict)

    def op(self, kind: str, *inputs: Operand | Tensor | None, **attributes: Any) -> Value:
        """An operator of the network."""
        given = (numbers(x) if isinstance(x, Tensor) else x for x in inputs)
        return self.graph.op(kind, *given, layer=True, **attributes)

    def weight(self, name: str, tensor: Tensor) -> Value:
        """A layer's weights, under their name."""
        return self.graph.weight(name, numbers(tensor))

    def edges(self, x: Value) -> int:
        """How many a value has."""
        return len(self.shapes[x.name])

    def reshaped(self, x: Value, *parts: int | Value) -> Value:
        """With edges of these lengths, some of which are other values'."""
        arrays = (part if isinstance(part, Value) else np.array([part], np.int64) for part in parts)
        every = [self.graph.constant(part) if isinstance(part, np.ndarray) else part for part in arrays]
        return self.op("Reshape", x, self.graph.concat(every, 0))


@dataclass(frozen=True)
class Edges:
    """The shape of a value, or a part of it, whose numbers are those of the image that the file is given."""

    of: Value
    axes: range

    def __getitem__(self, index: Any) -> Edges:
        part = self.axes[index]
        return Edges(self.of, part if isinstance(part, range) else range(part, part + 1))

    def value(self) -> Value:
        """As (n,) int64."""
        if self.axes.step != 1:
            raise UnwrittenError("edges of a shape that are not side by side")
        return self.of.shape(self.axes.start, self.axes.stop)


def numbers(tensor: Tensor) -> np.ndarray:
    """A tensor as an array."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


# ---- layers ----


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


# ---- functions ----


def _as(kind: str, **attributes: Any) -> Callable[..., Value]:
    """An activation that ONNX has."""

    def write(line: Line, input: Value, inplace: bool = False) -> Value:
        return line.op(kind, input, **attributes)

    return write


def relu6(line: Line, input: Value, inplace: bool = False) -> Value:
    """min(max(x, 0), 6)."""
    return line.op("Clip", input, np.array(0, np.float32), np.array(6, np.float32))


def silu(line: Line, input: Value, inplace: bool = False) -> Value:
    """x sigmoid(x)."""
    return line.op("Mul", input, line.op("Sigmoid", input))


def _of_two(kind: str) -> Callable[..., Value]:
    """Arithmetic of values and numbers."""

    def write(line: Line, input: Any, other: Any) -> Value:
        if isinstance(input, Edges) or isinstance(other, Edges):
            raise UnwrittenError("arithmetic with the size of an image")
        return line.op(kind, input, other)

    return write


def same(line: Line, input: Value, *_: Any, **__: Any) -> Value:
    """What is nothing once a network has learnt."""
    return input


def dropout(line: Line, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Nothing, in eval mode."""
    if training:
        raise UnwrittenError("a dropout that goes on in eval mode")
    return input


def cat(line: Line, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Side by side."""
    return line.op("Concat", *tensors, axis=dim)


def max_pool(
    line: Line,
    input: Value,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """F.max_pool2d."""
    if return_indices:
        raise UnwrittenError("a max pool that says where its values are from")
    more = {"dilations": _pair(dilation), "ceil_mode": int(ceil_mode)}
    return line.op("MaxPool", input, **_window(kernel_size, stride, padding), **more)


def avg_pool(
    line: Line,
    input: Value,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """F.avg_pool2d."""
    if divisor_override is not None:
        raise UnwrittenError("an average pool with a divisor")
    more = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad)}
    return line.op("AveragePool", input, **_window(kernel_size, stride, padding), **more)


def _window(kernel: Pair, stride: Pair | None, padding: Pair) -> dict[str, list[int]]:
    return {
        "kernel_shape": _pair(kernel),
        "strides": _pair(kernel if stride is None else stride),
        "pads": _pair(padding) * 2,
    }


def _pair(size: Pair) -> list[int]:
    return [size, size] if isinstance(size, int) else [*size]


def global_pool(line: Line, input: Value, output_size: Pair) -> Value:
    """F.adaptive_avg_pool2d to one place."""
    if _pair(output_size) != [1, 1]:
        raise UnwrittenError(f"an adaptive pool to {output_size}")
    return line.op("GlobalAveragePool", input)


def mean(line: Line, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Over the places of an image."""
    if dim is None or line.edges(input) != 4 or {d % 4 for d in _pair(dim)} != {2, 3}:
        raise UnwrittenError(f"a mean over the edges {dim}")
    y = line.op("GlobalAveragePool", input)
    return y if keepdim else line.op("Flatten", y, axis=1)


def interpolate(
    line: Line,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """F.interpolate, nearest or bilinear."""
    if mode not in _RESIZES or align_corners or antialias or recompute_scale_factor:
        raise UnwrittenError(f"interpolate of mode {mode} with these settings")
    how = _RESIZES[mode]
    if scale_factor is not None:
        scales = [scale_factor] * 2 if isinstance(scale_factor, int | float) else [*scale_factor]
        return line.op("Resize", input, None, np.array([1, 1, *scales], np.float32), **how)
    parts = [size] if isinstance(size, Edges) else [*(size if isinstance(size, tuple | list) else (size, size))]
    edges = [part.value() if isinstance(part, Edges) else _one(line, part) for part in parts]
    return line.op("Resize", input, None, None, line.graph.concat([input.shape(0, 2), *edges], 0), **how)


_RESIZES: dict[str, dict[str, str]] = {
    "nearest": {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
}


def _one(line: Line, number: int) -> Value:
    return line.graph.constant(np.array([number], np.int64))


def flatten(line: Line, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Edges start_dim, ..., end_dim as one."""
    n = line.edges(input)
    start, end = start_dim % n, end_dim % n
    if (start, end) == (1, n - 1):
        return line.op("Flatten", input, axis=1)
    return line.reshaped(input, *_between(input, 0, start), -1, *_between(input, end + 1, n))


def unflatten(line: Line, input: Value, dim: int, sizes: Sequence[int]) -> Value:
    """One edge as several."""
    n = line.edges(input)
    if not all(isinstance(size, int) for size in sizes):
        raise UnwrittenError("unflatten by the size of an image")
    return line.reshaped(input, *_between(input, 0, dim % n), *sizes, *_between(input, dim % n + 1, n))


def _between(x: Value, first: int, last: int) -> list[Value]:
    return [x.shape(first, last)] if last > first else []


def transpose(line: Line, input: Value, dim0: int, dim1: int) -> Value:
    """Two edges exchanged."""
    order = [*range(line.edges(input))]
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return line.op("Transpose", input, perm=order)


def permute(line: Line, input: Value, *dims: Any) -> Value:
    """Edges in another order."""
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims
    return line.op("Transpose", input, perm=[d % len(order) for d in order])


def chunk(line: Line, input: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """Channels in parts of equal size, the last one perhaps smaller."""
    if dim != 1:
        raise UnwrittenError(f"chunks of the edge {dim}")
    c = line.shapes[input.name][1]
    each = math.ceil(c / chunks)
    sizes = np.array([min(each, c - first) for first in range(0, c, each)], np.int64)
    return line.graph.ops("Split", input, sizes, dtypes=(None,) * len(sizes), layer=True, axis=1)


def getitem(line: Line, values: Any, index: Any) -> Any:
    """One of several values, or a part of a shape."""
    if isinstance(values, Value):
        raise UnwrittenError(f"a part [{index}] of a tensor")
    return values[index]


def attribute(line: Line, value: Any, name: str) -> Any:
    """The shape of a value."""
    if name != "shape":
        raise UnwrittenError(f"the attribute {name} of a tensor")
    return size(line, value)


def size(line: Line, input: Value, dim: int | None = None) -> Edges:
    """The shape of a value, or one edge of it."""
    every = Edges(input, range(line.edges(input)))
    return every if dim is None else every[dim]


FunctionWriter = Callable[..., Any]  # (line, *what the call takes)
LayerWriter = Callable[[Line, str, Any, Value], Value]  # (line, the layer's name, the layer, its input)

FUNCTIONS: Mapping[Any, FunctionWriter] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _of_two("Add")),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _of_two("Sub")),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _of_two("Mul")),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _of_two("Div")),
    **dict.fromkeys((torch.cat, torch.concat), cat),
    **dict.fromkeys((F.relu, torch.relu), _as("Relu")),
    **dict.fromkeys((F.sigmoid, torch.sigmoid), _as("Sigmoid")),
    F.relu6: relu6,
    F.hardswish: _as("HardSwish"),
    F.hardsigmoid: _as("HardSigmoid", alpha=1 / 6, beta=0.5),
    F.silu: silu,
    F.max_pool2d: max_pool,
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: global_pool,
    F.interpolate: interpolate,
    F.dropout: dropout,
    torch.mean: mean,
    torch.flatten: flatten,
    torch.transpose: transpose,
    torch.permute: permute,
    torch.chunk: chunk,
    operator.getitem: getitem,
    getattr: attribute,
}
METHODS: Mapping[str, FunctionWriter] = {
    "add": _of_two("Add"),
    "mul": _of_two("Mul"),
    "relu": _as("Relu"),
    "sigmoid": _as("Sigmoid"),
    "mean": mean,
    "flatten": flatten,
    "unflatten": unflatten,
    "transpose": transpose,
    "permute": permute,
    "chunk": chunk,
    "size": size,
    "contiguous": same,
}
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
    nn.ReLU.__name__: _by(_as("Relu")),
    nn.ReLU6.__name__: _by(relu6),
    nn.Hardswish.__name__: _by(_as("HardSwish")),
    nn.Hardsigmoid.__name__: _by(_as("HardSigmoid", alpha=1 / 6, beta=0.5)),
    nn.SiLU.__name__: _by(silu),
    nn.Sigmoid.__name__: _by(_as("Sigmoid")),
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


def write_call(
    line: Line, target: Any, writer: FunctionWriter | None, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> Any:
    """A call of a function or a method. Raises UnwrittenError for one that has no row, or takes arguments that are
    unknown here."""
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    if writer is None:
        raise UnwrittenError(f"a call of {name}")
    try:
        bound = inspect.signature(writer).bind(line, *args, **kwargs)
    except TypeError as e:
        raise UnwrittenError(f"a call of {name}: {e}") from e
    return writer(*bound.args, **bound.kwargs)
