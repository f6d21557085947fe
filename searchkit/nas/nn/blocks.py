"""From rows of a plan to modules: building the layers of a row, running them, and adding the shortcut.

A row (Row of nas/models/plan.py) is used twice: the one of the maximal architecture says how large the layers are
made, the one of the current architecture how much of them runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.nn.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm, Linear

JOINTS = ("add", "split", "concat", "shuffle")  # of the paths of a row: kinds of layers that have no module
Norm = Callable[[int], nn.Module]  # channels -> the norm


class LayerSpec(Protocol):
    """What this module reads of searchkit.nas.models.plan.Layer, which is a layer above."""

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


class RowSpec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> tuple[LayerSpec, ...]: ...
    @property
    def output(self) -> bool: ...


def norm_of(name: str, group: int, eps: float) -> Norm:
    """The function that makes a norm of so many channels: "bn", "frozen", or "gn" in groups of `group` channels."""
    if not eps >= 0 or group < 1:
        raise UsageError(f"norm_eps must be at least 0 and norm_group at least 1, but they are {eps:g} and {group}")
    norms: dict[str, Norm] = {
        "bn": partial(BatchNorm2d, eps=eps),
        "frozen": partial(FrozenBatchNorm2d, eps=eps),
        "gn": partial(_group_norm, group, eps),
    }
    if name not in norms:
        raise UsageError(f"norm must be one of {', '.join(norms)}, but is {name!r}{did_you_mean(name, tuple(norms))}")
    return norms[name]


def _group_norm(group: int, eps: float, width: int) -> nn.Module:
    if width % group:
        raise UsageError(
            f"a group norm of {group} channels a group cannot take {width} channels",
            "Set norm_group to a number that divides all widths.",
        )
    return GroupNorm(width // group, width, eps)


def attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a dotted name below `root`, making the modules on the way."""
    path, _, last = name.rpartition(".")
    for part in path.split(".") if path else []:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def add_layers(root: nn.Module, row: RowSpec, norm: Norm) -> None:
    """Make the layers of a row below `root`, at their names; relus and joints have no module."""
    for layer in row.layers:
        if layer.kind not in ("relu", "relu6", *JOINTS):
            attach(root, layer.name, _module(layer, norm))


def _module(layer: LayerSpec, norm: Norm) -> nn.Module:
    if layer.kind == "conv":
        return Conv2d(
            layer.cin,
            layer.cout,
            layer.kernel,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=layer.bias,
        )
    if layer.kind == "linear":
        return Linear(layer.cin, layer.cout, layer.bias)
    if layer.kind == "norm":
        return norm(layer.cout)
    if layer.kind == "maxpool":
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding)
    if layer.kind == "avgpool":
        return nn.AvgPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=True, count_include_pad=False)
    raise ValueError(f"no layer of kind {layer.kind!r}")


def run_layers(root: nn.Module, layers: Iterable[LayerSpec], x: Tensor) -> Tensor:
    """Run layers below `root` one after the other, each as wide as it says. x is not written to."""
    y = x
    for layer in layers:
        if layer.kind == "relu":
            y = F.relu(y, inplace=y is not x)
        elif layer.kind == "relu6":
            y = F.relu6(y, inplace=y is not x)
        elif layer.kind == "add":
            y = x + y
        elif layer.kind == "conv":
            y = root.get_submodule(layer.name)(y, layer.cout, layer.kernel)
        elif layer.kind == "linear":
            y = root.get_submodule(layer.name)(y, layer.cout)
        else:
            y = root.get_submodule(layer.name)(y)
    return y


class Chain(nn.Module):
    """The layers of one row, one after the other."""

    def __init__(self, row: RowSpec, norm: Norm) -> None:
        super().__init__()
        add_layers(self, row, norm)

    def forward(self, x: Tensor, row: RowSpec) -> Tensor:
        """x: (N, row.cin, H, W) -> (N, row.cout, H', W')."""
        return run_layers(self, row.layers, x)


class Residual(nn.Module):
    """The basic and the bottleneck block of https://arxiv.org/abs/1512.03385, whichever the row says.

    relu(main path + shortcut): the row ends with a relu; its layers with `branch` are the shortcut, else the identity.
    """

    def __init__(self, row: RowSpec, norm: Norm) -> None:
        super().__init__()
        add_layers(self, row, norm)

    def forward(self, x: Tensor, row: RowSpec) -> Tensor:
        """x: (N, row.cin, H, W) -> (N, row.cout, H', W')."""
        # The main path first: gradients of x then add up in the order of torchvision's blocks, to the same bits.
        y = run_layers(self, (layer for layer in row.layers[:-1] if not layer.branch), x)
        shortcut = run_layers(self, (layer for layer in row.layers if layer.branch), x)
        return F.relu(y + shortcut, inplace=True)


class TwoPaths(nn.Module):
    """The blocks of ShuffleNet v2 (https://arxiv.org/abs/1807.11164), whichever the row says.

    Layers with `branch` and the others side by side, each on the whole input, or on a half of it after a "split"; their
    outputs joined ("concat") and shuffled ("shuffle"), as the row ends.
    """

    def __init__(self, row: RowSpec, norm: Norm) -> None:
        super().__init__()
        add_layers(self, row, norm)

    def forward(self, x: Tensor, row: RowSpec) -> Tensor:
        """x: (N, row.cin, H, W) -> (N, row.cout, H', W')."""
        side, main = x.chunk(2, dim=1) if row.layers[0].kind == "split" else (x, x)
        side = run_layers(self, (layer for layer in row.layers if layer.branch), side)
        main_layers = (layer for layer in row.layers if not layer.branch and layer.kind not in JOINTS)
        y = torch.cat((side, run_layers(self, main_layers, main)), dim=1)
        shuffled: Tensor = y.unflatten(1, (row.layers[-1].groups, -1)).transpose(1, 2).flatten(1, 2)
        return shuffled


def run_rows(root: nn.Module, rows: Iterable[RowSpec], x: Tensor) -> OrderedDict[str, Tensor]:
    """Run rows one after the other, each by the module at its name below `root`, which takes the row as well.

    Returns the outputs of the rows that are features, under "0", "1", ...
    """
    out: OrderedDict[str, Tensor] = OrderedDict()
    for row in rows:
        x = root.get_submodule(row.name)(x, row)
        if row.output:
            out[str(len(out))] = x
    return out
