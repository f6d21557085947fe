"""What a layer of each kind makes of the size of an image, and what it costs: one table, without torch.

searchkit.nas.nn.kinds is the same table with torch: how a layer of each kind is made and run. A kind is a row in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from searchkit.nas.models.plan import Activation, Kind, Layer


@dataclass(frozen=True)
class LayerKind:
    """One kind of layers. Of a convention (searchkit.nas.cost.rules) that a mapping doesn't name, the count is 0."""

    out_size: Callable[[Layer, int], int] = lambda _layer, size: size  # height (or width) of its output, px
    macs: Callable[[Layer], int] = lambda _layer: 0  # multiply-adds for each position of its output, without bias
    params: Callable[[Layer], int] = lambda _layer: 0  # learnable numbers
    inputs: Mapping[str, int] = field(default_factory=dict)  # by convention: operations for each element of its input
    outputs: Mapping[str, int] = field(default_factory=dict)  # for each element of its output
    biases: Mapping[str, int] = field(default_factory=dict)  # as `outputs`, where it has a bias
    no_params: tuple[str, ...] = ()  # conventions by which it has no parameters


def out_size(layer: Layer, size: int) -> int:
    """Height (or width) of a layer's output in pixels, from that of its input: torch's formulas. A "gate" gives out the
    size of what went into the row's last "mean", which only the row knows."""
    return KINDS[layer.kind].out_size(layer, size)


def _window_size(layer: Layer, size: int) -> int:
    if layer.same:
        return -(-size // layer.stride)
    room = size + 2 * layer.padding - layer.dilation * (layer.kernel - 1) - 1
    if not layer.ceil and layer.kind != "avgpool":
        return room // layer.stride + 1
    last = -(-room // layer.stride)
    return last + (last * layer.stride < size + layer.padding)  # a window must not begin beyond the image


def _weights(layer: Layer) -> int:
    return layer.kernel**2 * (layer.cin // layer.groups) * layer.cout


def _biased(layer: Layer) -> int:
    return _weights(layer) + (layer.cout if layer.bias else 0)


def _norm_params(layer: Layer) -> int:
    return 2 * layer.cout * max(1, layer.levels) if layer.bias else 0


_PTFLOPS = {"ptflops": 1}
_BOTH = {"gaia": 1, "ptflops": 1}
_ACTIVATION = LayerKind(outputs=_PTFLOPS)
_POOL = LayerKind(_window_size, inputs=_BOTH)
_UPSAMPLING = LayerKind(lambda layer, size: size * layer.scale)
_JOINT = LayerKind()

KINDS: dict[Kind, LayerKind] = {
    "conv": LayerKind(_window_size, _weights, _biased, biases={"gaia": 1}),
    "linear": LayerKind(macs=_weights, params=_biased),
    "norm": LayerKind(params=_norm_params, outputs={"ptflops": 2}, no_params=("gaia",)),
    **dict.fromkeys(get_args(Activation), _ACTIVATION),
    "relu": LayerKind(outputs=_BOTH),
    "relu6": LayerKind(outputs=_BOTH),
    "maxpool": _POOL,
    "avgpool": _POOL,
    "subsample": LayerKind(_window_size),
    "nearest": _UPSAMPLING,
    "bilinear": _UPSAMPLING,
    "mean": LayerKind(lambda _layer, _size: 1, inputs=_PTFLOPS),
    "gate": _JOINT,
    "add": _JOINT,
    "split": _JOINT,
    "concat": _JOINT,
    "shuffle": _JOINT,
}
