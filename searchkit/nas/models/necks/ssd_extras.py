"""The extra levels of an SSD (https://arxiv.org/abs/1512.02325), at any widths and kernels up to the maximal ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from searchkit.nas.models.necks.ssd_extras_plan import SSDExtrasPlan
from searchkit.nas.models.part import Channels
from searchkit.nas.nn import Chain, attach, norm_of
from searchkit.nas.nn.transforms import Choices as Held
from searchkit.nas.nn.transforms import transform_filters

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class SSDExtras(SSDExtrasPlan):
    """The neck `ssd_extras`."""

    def module(self, arch: Arch, features: Channels, held: Held | None = None) -> ExtraLevels:
        """Its module with new weights, as large as that architecture; held: the choices of a supernet's kernels."""
        return ExtraLevels(self, arch, features, held)


class ExtraLevels(nn.Module):
    """Blocks behind the coarsest feature, one after the other, at any architecture up to the one that it is made at,
    with the names and initial values of torchvision's SSDLite."""

    def __init__(self, neck: SSDExtras, arch: Arch, features: Channels, held: Held | None = None) -> None:
        super().__init__()
        self.neck = neck
        self.set_arch(arch, features)
        options = neck.options
        norm = norm_of(options.norm, 1, options.norm_eps, options.norm_momentum, options.norm_ranks)
        for row in self._rows:
            attach(self, row.name, Chain(row, norm))
        filters = [f"{row.name}.1.0" for row in self._rows]
        self.held = transform_filters(self, filters, options.transform, held)
        normal_convs(self)

    def set_arch(self, arch: Arch, features: Channels) -> None:
        """Run this architecture from now on, on features of so many channels."""
        self._rows = self.neck.rows(arch, features)
        self.arch = arch

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """features: (N, C_i, H_i, W_i), finest first -> the last of them and the extra levels, under "0", "1", ..."""
        levels = list(features.values())[-self.neck.options.features :]
        for row in self._rows:
            levels.append(self.get_submodule(row.name)(levels[-1], row))
        return OrderedDict((str(i), level) for i, level in enumerate(levels))


def normal_convs(root: nn.Module) -> None:
    """Initial values of torchvision's SSDLite: convs from a normal distribution of deviation 0.03, biases 0."""
    for module in root.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.normal_(module.weight, std=0.03)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
