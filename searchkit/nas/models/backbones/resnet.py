"""An elastic ResNet (https://arxiv.org/abs/1512.03385) with torchvision's names in its state dict."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.resnet_plan import NAMES, resnet_plan
from searchkit.nas.models.plan import Plan
from searchkit.nas.nn import Residual, add_layers, attach, norm_of, run_layers

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class ResNet(Body):
    """Features of every stage, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width` (of the
    3x3 convs; a bottleneck gives out four times that), `body.depth`, and if wanted `body.kernel`: see resnet_plan. An
    arch runs the first channels of the first blocks of every stage.

    block: "bottleneck" or "basic". deep_stem, avg_down, first_shortcut: see resnet_plan.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples.
    Or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks` neighbours (0: all of them).
    norm_eps: 1e-5; torchvision's Faster R-CNN weights for COCO were trained with frozen norms of 0.
    frozen_stages: 0 freezes nothing; n: the stem and the first n stages learn nothing and update no statistics.
    zero_init_residual: every block starts as its shortcut (https://arxiv.org/abs/1706.02677).
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def __init__(
        self,
        arch: Arch,
        *,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        deep_stem: bool = False,
        avg_down: bool = False,
        first_shortcut: bool = True,
        frozen_stages: int = 0,
        zero_init_residual: bool = False,
        norm_group: int = 16,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        self.plan_options: dict[str, Any] = {
            "block": block,
            "deep_stem": deep_stem,
            "avg_down": avg_down,
            "first_shortcut": first_shortcut,
            "frozen_norm": norm == "frozen",
        }
        self.arch = arch
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        for row in self._rows:
            if row.stage < 0:
                add_layers(self, row, make)
            else:
                attach(self, row.name, Residual(row, make))
        stages = 1 + self._rows[-1].stage
        if not 0 <= frozen_stages <= stages:
            raise UsageError(f"frozen_stages must be 0 to {stages}, but is {frozen_stages}")
        if zero_init_residual and norm == "frozen":
            raise UsageError(
                "zero_init_residual needs norms that learn, but norm is frozen", "Leave it out, or use norm: bn."
            )
        self._init_weights(zero_init_residual)
        self.frozen = self._frozen_modules(frozen_stages)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return resnet_plan(arch, **self.plan_options)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> the features of the stages, (N, C_i, H / 2^(i+2), W / 2^(i+2)) under "0", "1", ..."""
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
