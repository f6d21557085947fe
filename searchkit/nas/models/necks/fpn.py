"""A feature pyramid (https://arxiv.org/abs/1612.03144) over features of any width up to the maximal ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.models.necks.fpn_plan import FPNPlan, fpn_rows
from searchkit.nas.models.part import Channels
from searchkit.nas.nn import add_layers
from searchkit.records.arch import Arch


class FPNNeck(FPNPlan):
    """The neck `fpn`."""

    def module(self, arch: Arch, features: Channels) -> FPN:
        """Its module with new weights, on features of up to so many channels."""
        return FPN(features, self.options.channels, extra=self.levels(features) - len(features))


class FPN(nn.Module):
    """Equal to torchvision's FeaturePyramidNetwork with LastLevelMaxPool, whose state dict it loads.

    widths_max: channels of the features at the maximal architecture, finest first. It holds no architecture: the
    width of a feature is read off it. `extra` coarser levels are subsampled from the coarsest one.
    """

    def __init__(self, widths_max: Sequence[int], out_channels: int = 256, extra: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.extra = extra
        for row in fpn_rows(tuple(widths_max), out_channels):
            add_layers(self, row, nn.Identity)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """features: (N, C_i, H_i, W_i), finest first -> (N, out_channels, H_i, W_i) under the same names, then "pool",
        "pool2", ..., each half the size of the one before."""
        names, levels = list(features), list(features.values())
        results: list[Tensor] = []
        above: Tensor | None = None
        for i in range(len(levels) - 1, -1, -1):
            level = self.get_submodule(f"inner_blocks.{i}.0")(levels[i])
            if above is not None:
                level = level + F.interpolate(above, size=level.shape[-2:], mode="nearest")
            above = level
            results.insert(0, self.get_submodule(f"layer_blocks.{i}.0")(level))
        for i in range(self.extra):
            names.append("pool" if i == 0 else f"pool{i + 1}")
            results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2))
        return OrderedDict(zip(names, results, strict=True))
