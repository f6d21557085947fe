"""The elastic ResNet of basic blocks that BigNAS detectors have (United-Perception's big_resnet_basic)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.big_resnet_plan import BigResNetPlan, big_resnet_plan
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.plan import Held, Plan
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class BigResNet(BigResNetPlan, Body):
    """Features of every stage, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, and if wanted `stem.kernel`, `body.kernel` and `body.expand`: see big_resnet_plan. An arch runs the
    first channels of the first blocks of every stage, inside and outside, and the centres of their kernels.

    held: the choices of a supernet's space, which then owns a conv on the first shortcut of each stage; None: a static
    network has those that its own arch uses.
    """

    def __init__(self, arch: Arch, *, held: Held | None = None, **options: Any) -> None:
        """options: see BigResNetPlan."""
        super().__init__(arch, **options)
        owned = big_resnet_plan(arch, self.style, whole=held is not None)
        make = norm_of(*self.norm_style)
        for row in owned:
            attach(self, row.name, Chain(row, make))
        self._shortcuts = {row.name for row in owned if any(layer.branch for layer in row.layers)}
        self.arch = arch
        self._init_weights(self.zero_last_norms)

    def check_held(self, arch: Arch, rows: Plan) -> None:
        for row in rows:
            if row.name not in self._shortcuts and any(layer.branch for layer in row.layers):
                raise UsageError(
                    f"the network has no conv on the shortcut of {row.name}, which {arch.text()} needs",
                    "Build it from a space that has this architecture.",
                )

    def _init_weights(self, zero_last_norms: bool) -> None:
        """torchvision's initial values; norms have theirs from their own constructors."""
        if next(self.parameters()).is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_last_norms:
            for row in self._rows:
                if row.stage >= 0:
                    nn.init.zeros_(self.get_parameter(f"{row.name}.bn2.weight"))
