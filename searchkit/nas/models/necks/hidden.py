"""A hidden layer on the mean of the last feature, as mobile classifiers have it behind their last conv."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from searchkit.nas.models.necks.hidden_plan import HiddenPlan
from searchkit.nas.models.part import Channels
from searchkit.nas.nn import add_layers, run_layers
from searchkit.records.arch import Arch


class HiddenNeck(HiddenPlan):
    """The neck `hidden`."""

    def module(self, arch: Arch, features: Channels) -> Hidden:
        """Its module with new weights, on a last feature of up to so many channels."""
        return Hidden(arch, features, self)


class Hidden(nn.Module):
    """(N, C, H, W) -> (N, width, 1, 1): the mean, a linear layer written as a 1x1 conv, an activation."""

    def __init__(self, arch: Arch, features: Channels, neck: HiddenNeck) -> None:
        super().__init__()
        self.neck = neck
        self.set_arch(arch, features)
        add_layers(self, self._row, nn.Identity)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_arch(self, arch: Arch, features: Channels) -> None:
        """Run this architecture from now on, on features of so many channels."""
        (piece,) = self.neck.plan(arch, features)
        self.arch = arch
        (self._row,) = piece.rows

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """features: (N, C_i, H_i, W_i), finest first -> one level, (N, width, 1, 1), under "0"."""
        last = list(features.values())[-1]
        return OrderedDict([("0", run_layers(self, self._row.layers, last))])
