"""An elastic Darknet (https://arxiv.org/abs/1804.02767) with mmdetection's names in its state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.darknet_plan import DarknetPlan
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class Darknet(DarknetPlan, Body):
    """Features of a quarter of the image and below, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, and if wanted `body.hidden`: see darknet_plan. An arch runs the first channels of the first blocks of
    every stage.
    """

    def __init__(self, arch: Arch, **options: Any) -> None:
        """options: see DarknetPlan."""
        super().__init__(arch, **options)
        self.arch = arch
        make = norm_of(*self.norm_style)
        for row in self._rows:
            attach(self, row.name, Chain(row, make))
        leaky_convs(self)


def leaky_convs(root: nn.Module) -> None:
    """Initial values of mmdetection's convs before a leaky ReLU of slope 0.1; norms have theirs from their own
    constructors."""
    for module in root.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
