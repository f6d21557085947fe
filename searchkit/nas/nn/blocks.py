"""From rows of a plan to modules: building the layers of a row, running them, and adding the shortcut.

A row (Row of nas/models/plan.py) is used twice: the one of the maximal architecture says how large the layers are
made, the one of the current architecture how much of them runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.nn.kinds import KINDS, LayerSpec, Norm, Paths
from searchkit.nas.nn.layers import BatchNorm2d, Cuts, FrozenBatchNorm2d, GroupNorm, SyncBatchNorm2d
from searchkit.nas.styles import NormStyle


class RowSpec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> tuple[LayerSpec, ...]: ...
    @property
    def output(self) -> bool: ...


def norm_of(name: str, group: int, eps: float, momentum: float = 0.1, ranks: int = 0) -> Norm:
    """The function that makes a norm of so many channels: "bn", "frozen", "gn" in groups of `group` channels, or
    "sync_bn", over groups of so many `ranks` of a training, 0 for all."""
    style = NormStyle(name, group, eps, momentum, ranks)
    style.check()
    norms: dict[str, Norm] = {
        "bn": partial(BatchNorm2d, eps=eps, momentum=momentum),
        "frozen": partial(FrozenBatchNorm2d, eps=eps),
        "gn": partial(_group_norm, style),
        "sync_bn": partial(SyncBatchNorm2d, eps=eps, momentum=momentum, ranks=ranks),
    }
    return norms[name]


def _group_norm(style: NormStyle, width: int) -> nn.Module:
    style.check((width,))
    return GroupNorm(width // style.group, width, style.eps)


def attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a dotted name below `root`, making the modules on the way."""
    path, _, last = name.rpartition(".")
    for part in path.split(".") if path else []:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def add_layers(root: nn.Module, row: RowSpec, norm: Norm) -> None:
    """Make the layers of a row below `root`, at their names, those that have a module."""
    for layer in row.layers:
        make = KINDS[layer.kind].make
        if make is not None:
            attach(root, layer.name, make(layer, norm))


def run_layers(
    root: nn.Module, layers: Iterable[LayerSpec], x: Tensor, level: int = 0, cuts: Cuts | None = None
) -> Tensor:
    """Run layers below `root` one after the other, each as wide as it says, those of the shortcut beside the others.

    level: of a pyramid, for norms that have one for each. cuts: empty at first, for runs on several levels: narrower
    weights are then cut once, and get their gradients once. x is not written to.
    """
    paths, y = Paths(root, x, level, cuts), x
    for layer in layers:
        if layer.branch:
            paths.side = _run(paths, layer, paths.start if paths.side is None else paths.side)
        else:
            y = _run(paths, layer, y)
    return y


def _run(paths: Paths, layer: LayerSpec, y: Tensor) -> Tensor:
    return KINDS[layer.kind].run(paths, layer, y)


class Chain(nn.Module):
    """The layers of one row, one after the other, those with `branch` on a shortcut beside the others."""

    def __init__(self, row: RowSpec, norm: Norm) -> None:
        super().__init__()
        add_layers(self, row, norm)

    def forward(self, x: Tensor, row: RowSpec, level: int = 0) -> Tensor:
        """x: (N, row.cin, H, W) -> (N, row.cout, H', W'). level: of a pyramid, for norms that have one for each."""
        return run_layers(self, row.layers, x, level)


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
        paths, y, shortcut = Paths(self, x), x, x
        for layer in (layer for layer in row.layers[:-1] if not layer.branch):
            y = _run(paths, layer, y)
        for layer in (layer for layer in row.layers if layer.branch):
            shortcut = _run(paths, layer, shortcut)
        return F.relu(y + shortcut, inplace=True)


class TwoPaths(Chain):
    """The blocks of ShuffleNet v2 (https://arxiv.org/abs/1807.11164), whichever the row says.

    Layers with `branch` and the others side by side, each on the whole input, or on a half of it after a "split"; their
    outputs joined ("concat") and shuffled ("shuffle"), as the row ends.
    """


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
