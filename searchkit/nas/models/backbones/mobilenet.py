"""An elastic MobileNetV2 (https://arxiv.org/abs/1801.04381)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from searchkit.nas.models.backbones.mobilenet_plan import NAMES, STRIDES, mobilenet_plan
from searchkit.nas.models.plan import Plan, channels
from searchkit.nas.nn import Chain, attach, norm_of, run_rows

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class MobileNetV2(nn.Module):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, `body.expand`, and if wanted `body.kernel` and `head.width`: see mobilenet_plan. An arch runs the
    first blocks of every stage, the first channels of each, inside and outside, and the centres of their kernels.

    strides: of each stage, 1 or 2; torchvision's are 1, 2, 2, 2, 1, 2, 1. stem_stride: 1 for small images.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples, those inside the blocks too.
    Or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks` neighbours (0: all of them).
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def __init__(
        self,
        arch: Arch,
        *,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        self.plan_options: dict[str, Any] = {
            "strides": tuple(strides),
            "stem_stride": stem_stride,
            "frozen_norm": norm == "frozen",
        }
        self.arch = arch
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        for row in self._rows:
            attach(self, row.name, Chain(row, make))
        self._init_weights()

    @property
    def arch(self) -> Arch:
        return self._arch

    @arch.setter
    def arch(self, arch: Arch) -> None:
        self._rows = self.plan(arch)
        self._arch = arch

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return mobilenet_plan(arch, **self.plan_options)

    def channels(self, arch: Arch) -> tuple[int, ...]:
        """Channels of the features at an architecture, finest first."""
        return channels(self.plan(arch))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> features (N, C_i, H_i, W_i) under "0", "1", ..., finest first.

        With torchvision's strides there are four, of H / 4, H / 8, H / 16 and H / 32, rounded up.
        """
        return run_rows(self, self._rows, x)

    def _init_weights(self) -> None:
        """torchvision's initial values; norms have theirs from their own constructors."""
        if next(self.parameters()).is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
