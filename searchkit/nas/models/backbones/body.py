"""What backbones made of rows have in common: an architecture that can be set, and features of the rows that it has."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn

from searchkit.nas.models.backbones.body_plan import BodyPlan
from searchkit.nas.models.plan import Plan
from searchkit.nas.nn import run_rows

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class Body(BodyPlan, nn.Module):
    """A backbone that runs the rows of its plan, each by the module of its name. A subclass is also one of its plan
    side; it makes these modules, and sets `arch`, the only state of the search."""

    _rows: Plan
    _arch: Arch

    @property
    def arch(self) -> Arch:
        return self._arch

    @arch.setter
    def arch(self, arch: Arch) -> None:
        rows = self.plan(arch)
        self.check_held(arch, rows)
        self._rows = rows
        self._arch = arch

    def check_held(self, arch: Arch, rows: Plan) -> None:
        """Raises UsageError where its modules don't hold an architecture within its maximum; here they hold all."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> features (N, C_i, H_i, W_i) under "0", "1", ..., finest first.

        Where the strides are torchvision's there are four, of H / 4, H / 8, H / 16 and H / 32, rounded up.
        """
        return run_rows(self, self._rows, x)
