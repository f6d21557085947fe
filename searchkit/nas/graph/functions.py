"""Functions of torch and methods of its tensors as ONNX operators: two tables to what writes them.

A writer takes what the call takes, values in place of tensors, and gives what it gives. Nothing of the file depends on
an image's size, or on how many there are.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from searchkit.nas.graph.graph import Value
from searchkit.nas.graph.line import Edges, Line, UnwrittenError

Pair = int | Sequence[int]
FunctionWriter = Callable[..., Any]  # (line, *what the call takes)


def activation(kind: str, **attributes: Any) -> Callable[..., Value]:
    """An activation that ONNX has."""

    def write(line: Line, input: Value, inplace: bool = False) -> Value:
        return line.op(kind, input, **attributes)

    return write


def relu6(line: Line, input: Value, inplace: bool = False) -> Value:
    """min(max(x, 0), 6)."""
    return line.op("Clip", input, np.array(0, np.float32), np.array(6, np.float32))


def leaky_relu(line: Line, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x, or where that is below 0 so many times x."""
    return line.op("LeakyRelu", input, alpha=negative_slope)


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


FUNCTIONS: Mapping[Any, FunctionWriter] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _of_two("Add")),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _of_two("Sub")),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _of_two("Mul")),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _of_two("Div")),
    **dict.fromkeys((torch.cat, torch.concat), cat),
    **dict.fromkeys((F.relu, torch.relu), activation("Relu")),
    **dict.fromkeys((F.sigmoid, torch.sigmoid), activation("Sigmoid")),
    F.relu6: relu6,
    F.leaky_relu: leaky_relu,
    F.hardswish: activation("HardSwish"),
    F.hardsigmoid: activation("HardSigmoid", alpha=1 / 6, beta=0.5),
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
    "relu": activation("Relu"),
    "sigmoid": activation("Sigmoid"),
    "mean": mean,
    "flatten": flatten,
    "unflatten": unflatten,
    "transpose": transpose,
    "permute": permute,
    "chunk": chunk,
    "size": size,
    "contiguous": same,
}


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
