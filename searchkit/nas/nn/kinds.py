"""How a layer of each kind is made and run: one table, with torch.

searchkit.nas.models.layer_kinds is the same table without: sizes and costs. A kind is a row in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.nn.layers import Conv2d, Cuts, Linear, SameConv2d

Norm = Callable[[int], nn.Module]  # channels -> the norm


class LayerSpec(Protocol):
    """What this package reads of searchkit.nas.models.plan.Layer, which is a layer above."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def cin(self) -> int: ...
    @property
    def cout(self) -> int: ...
    @property
    def kernel(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def padding(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def bias(self) -> bool: ...
    @property
    def branch(self) -> bool: ...
    @property
    def dilation(self) -> int: ...
    @property
    def same(self) -> bool: ...
    @property
    def ceil(self) -> bool: ...
    @property
    def scale(self) -> int: ...
    @property
    def levels(self) -> int: ...


@dataclass
class Paths:
    """A row while it runs: the modules that it is run by, and the values that its layers meet at."""

    root: nn.Module
    start: Tensor  # the row's input
    level: int = 0  # of a pyramid, which the row is run on
    cuts: Cuts | None = None  # weights that the runs on all levels share
    side: Tensor | None = None  # the shortcut, as far as it has run; a half of the input after a "split"
    whole: Tensor | None = None  # what went into the last "mean"

    def given(self, y: Tensor) -> bool:
        """Whether a value is used elsewhere too, so that it must not be written to."""
        return any(y is value for value in (self.start, self.side, self.whole))


@dataclass(frozen=True)
class LayerKind:
    """One kind of layers."""

    run: Callable[[Paths, LayerSpec, Tensor], Tensor]
    make: Callable[[LayerSpec, Norm], nn.Module] | None = None  # None: it has no module


def _make_conv(layer: LayerSpec, _norm: Norm) -> nn.Module:
    sizes = (layer.cin, layer.cout, layer.kernel, layer.stride)
    if layer.same:
        return SameConv2d(*sizes, 0, layer.dilation, layer.groups, layer.bias)
    return Conv2d(*sizes, layer.padding, layer.dilation, layer.groups, layer.bias)


def _run_conv(paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    out: Tensor = paths.root.get_submodule(layer.name)(y, layer.cout, layer.kernel, layer.groups, paths.cuts)
    return out


def _run_linear(paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    out: Tensor = paths.root.get_submodule(layer.name)(y, layer.cout)
    return out


def _make_norm(layer: LayerSpec, norm: Norm) -> nn.Module:
    if not layer.levels:
        return norm(layer.cout)
    return nn.ModuleList(norm(layer.cout) for _ in range(layer.levels))


def _run_norm(paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    name = f"{layer.name}.{paths.level}" if layer.levels else layer.name
    out: Tensor = paths.root.get_submodule(name)(y)
    return out


def _run_module(paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    out: Tensor = paths.root.get_submodule(layer.name)(y)
    return out


def _make_maxpool(layer: LayerSpec, _norm: Norm) -> nn.Module:
    return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil)


def _make_avgpool(layer: LayerSpec, _norm: Norm) -> nn.Module:
    return nn.AvgPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=True, count_include_pad=False)


def _rectified(function: Callable[..., Tensor], paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    """In place where nothing else uses the value: the gradient is told from the output."""
    return function(y, inplace=not paths.given(y))


def _activated(function: Callable[[Tensor], Tensor], _paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    return function(y)


def _subsample(_paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    return F.max_pool2d(y, kernel_size=1, stride=layer.stride)


def _nearest(_paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    return F.interpolate(y, scale_factor=layer.scale, mode="nearest")


def _bilinear(_paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    return F.interpolate(y, scale_factor=layer.scale, mode="bilinear", align_corners=False)


def _mean(paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    paths.whole = y
    return F.adaptive_avg_pool2d(y, 1)


def _gate(paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    assert paths.whole is not None, "a gate needs a mean before it"
    return y * paths.whole


def _add(paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    return (paths.start if paths.side is None else paths.side) + y


def _split(paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    paths.side, rest = y.chunk(2, dim=1)
    paths.start = rest
    return rest


def _concat(paths: Paths, _layer: LayerSpec, y: Tensor) -> Tensor:
    assert paths.side is not None, "a concat needs a shortcut"
    return torch.cat((paths.side, y), dim=1)


def _shuffle(_paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    shuffled: Tensor = y.unflatten(1, (layer.groups, -1)).transpose(1, 2).flatten(1, 2)
    return shuffled


KINDS: dict[str, LayerKind] = {
    "conv": LayerKind(_run_conv, _make_conv),
    "linear": LayerKind(_run_linear, lambda layer, _norm: Linear(layer.cin, layer.cout, layer.bias)),
    "norm": LayerKind(_run_norm, _make_norm),
    "relu": LayerKind(partial(_rectified, F.relu)),
    "relu6": LayerKind(partial(_rectified, F.relu6)),
    "leaky_relu": LayerKind(partial(_rectified, partial(F.leaky_relu, negative_slope=0.1))),
    "hswish": LayerKind(partial(_activated, F.hardswish)),
    "swish": LayerKind(partial(_activated, F.silu)),
    "hsigmoid": LayerKind(partial(_activated, F.hardsigmoid)),
    "sigmoid": LayerKind(partial(_activated, torch.sigmoid)),
    "maxpool": LayerKind(_run_module, _make_maxpool),
    "avgpool": LayerKind(_run_module, _make_avgpool),
    "subsample": LayerKind(_subsample),
    "nearest": LayerKind(_nearest),
    "bilinear": LayerKind(_bilinear),
    "mean": LayerKind(_mean),
    "gate": LayerKind(_gate),
    "add": LayerKind(_add),
    "split": LayerKind(_split),
    "concat": LayerKind(_concat),
    "shuffle": LayerKind(_shuffle),
}
