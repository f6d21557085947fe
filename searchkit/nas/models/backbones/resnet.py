"""An elastic ResNet (https://arxiv.org/abs/1512.03385) with torchvision's names in its state dict."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.resnet_plan import ResNetPlan
from searchkit.nas.nn import Residual, add_layers, attach, norm_of, run_layers

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class ResNet(ResNetPlan, Body):
    """Features of every stage, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width` (of the
    3x3 convs; a bottleneck gives out four times that), `body.depth`, and if wanted `body.kernel`: see resnet_plan. An
    arch runs the first channels of the first blocks of every stage.
    """

    def __init__(self, arch: Arch, **options: Any) -> None:
        """options: see ResNetPlan."""
        super().__init__(arch, **options)
        self.arch = arch
        make = norm_of(*self.norm_style)
        for row in self._rows:
            if row.stage < 0:
                add_layers(self, row, make)
            else:
                attach(self, row.name, Residual(row, make))
        self._init_weights(self.zero_init_residual)
        self.frozen = self._frozen_modules(self.frozen_stages)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> the features of the stages, (N, C_i, H / 2^(i+2), W / 2^(i+2)) under "0", "1", ...; four
        times as large with a small stem."""
        out = OrderedDict()
        for row in self._rows:
            if row.stage < 0:
                x = run_layers(self, row.layers, x)
            else:
                x = self.get_submodule(row.name)(x, row)
            if row.output:
                out[str(row.stage)] = x
        return out

    def train(self, mode: bool = True) -> ResNet:
        """As in torch, but frozen stages stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def _init_weights(self, zero_init_residual: bool) -> None:
        """torchvision's initial values; norms have theirs from their own constructors."""
        if next(self.parameters()).is_meta:
            return  # there is nothing to fill, and finding that out costs as much as all the rest of a subnet
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for row in self._rows:
                norms = [layer.name for layer in row.layers if layer.kind == "norm" and not layer.branch]
                if row.stage >= 0:
                    nn.init.zeros_(self.get_parameter(f"{row.name}.{norms[-1]}.weight"))

    def _frozen_modules(self, stages: int) -> tuple[str, ...]:
        """Names of the modules of the stem and of the first stages; none for 0."""
        if not stages:
            return ()
        stem = {layer.name.partition(".")[0] for layer in self._rows[0].layers if layer.kind != "relu"}
        return (*sorted(stem), *(f"layer{stage + 1}" for stage in range(stages)))
