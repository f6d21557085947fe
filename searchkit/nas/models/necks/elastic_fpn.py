"""A feature pyramid (https://arxiv.org/abs/1612.03144) whose width, kernel and number of levels are dimensions, with
further levels made by convs, as RetinaNet has them (https://arxiv.org/abs/1708.02002)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNPlan
from searchkit.nas.models.part import Channels
from searchkit.nas.nn import add_layers, norm_of, run_layers

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class ElasticFPN(ElasticFPNPlan):
    """The neck `elastic_fpn`."""

    def module(self, arch: Arch, features: Channels) -> Pyramid:
        """Its module with new weights, as large as that architecture."""
        return Pyramid(self, arch, features)


class Pyramid(nn.Module):
    """Levels of a pyramid, at any architecture up to the one that it is made at.

    With torchvision's names, and equal to its FeaturePyramidNetwork with LastLevelP6P7 where norm is none.
    most_levels: that an architecture can have.
    """

    def __init__(self, neck: ElasticFPN, arch: Arch, features: Channels) -> None:
        super().__init__()
        self.neck = neck
        self.most_levels = neck.options.depth
        self.set_arch(arch, features)
        options = neck.options
        norm = norm_of("bn" if options.norm == "none" else options.norm, 1, 1e-5, ranks=options.norm_ranks)
        for piece in self._pieces:
            for row in piece.rows:
                add_layers(self, row, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # what others call Xavier's, by the inputs alone
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_arch(self, arch: Arch, features: Channels) -> None:
        """Run this architecture from now on, on features of so many channels."""
        self._pieces = self.neck.plan(arch, features)
        self.arch = arch

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """features: (N, C_i, H_i, W_i), finest first -> (N, out_channel, H, W) under the names of the features that are
        read, then "p6", "p7", ..., each half the size of the one before."""
        options = self.neck.options
        names, read = [*features][options.first :], [*features.values()][options.first :]
        laterals: list[Tensor] = []
        for x, piece in zip(reversed(read), reversed(self._pieces[: len(read)]), strict=True):
            lateral = run_layers(self, piece.rows[0].layers, x)
            if laterals:
                lateral = lateral + F.interpolate(laterals[0], size=lateral.shape[-2:], mode="nearest")
            laterals.insert(0, lateral)
        levels = [
            run_layers(self, piece.rows[1].layers, lateral)
            for piece, lateral in zip(self._pieces, laterals, strict=False)
        ]
        for i, piece in enumerate(self._pieces[len(read) :]):
            x = levels[-1]
            if i == 0 and options.p6 != "p5":
                x = read[-1] if options.p6 == "c5" else laterals[-1]
            levels.append(run_layers(self, piece.rows[0].layers, x))
            names.append(f"p{6 + i}")
        return OrderedDict(zip(names, levels, strict=True))
