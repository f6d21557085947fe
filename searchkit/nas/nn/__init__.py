"""Elastic layers and blocks: widths and kernels are arguments, weights are shared."""

from __future__ import annotations

from searchkit.nas.nn.blocks import Chain, Residual, TwoPaths, add_layers, attach, norm_of, run_layers, run_rows
from searchkit.nas.nn.layers import (
    BatchNorm2d,
    Conv2d,
    Cuts,
    FrozenBatchNorm2d,
    GroupNorm,
    Linear,
    SameConv2d,
    SyncBatchNorm2d,
    enough,
    window,
)

__all__ = [
    "BatchNorm2d",
    "Chain",
    "Conv2d",
    "Cuts",
    "FrozenBatchNorm2d",
    "GroupNorm",
    "Linear",
    "Residual",
    "SameConv2d",
    "SyncBatchNorm2d",
    "TwoPaths",
    "add_layers",
    "attach",
    "enough",
    "norm_of",
    "run_layers",
    "run_rows",
    "window",
]
