"""What elastic networks of inverted residual blocks share: modules made from mbconv_plan's rows, and run with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.mbconv_plan import KERNEL, MBConvPlan, Stages, plan_of
from searchkit.nas.models.plan import Held, Plan, Row, per_block, per_stage
from searchkit.nas.nn import Chain, attach, norm_of
from searchkit.nas.nn.transforms import transformed
from searchkit.nas.styles import NormStyle, Transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


def _as_nested(rows: Plan) -> list[Row]:
    """Rows in their order, but for one that lies inside the module of another: `stages.3.0.expand` comes behind
    `stages.3.0`."""
    names = [row.name for row in rows]

    def place(row: Row) -> tuple[int, bool]:
        outer = row.name.rpartition(".")[0]
        return names.index(outer if outer in names else row.name), outer in names

    return sorted(rows, key=place)


class MBConvNet(MBConvPlan, Body):
    """A network of mbconv_plan at any architecture up to the one it is built at, `arch` (settable, the only state of
    the search): the first blocks of every stage, the first channels of each, inside and outside, and the centres of
    their kernels or what `transform` makes of them.

    held: the choices of a supernet's space, which decide the shortcuts and the transforms that it owns; None: a static
    network owns what its own arch uses. A supernet with transforms runs the kernels of its space alone.
    """

    def __init__(
        self,
        arch: Arch,
        stages: Stages,
        norm: NormStyle,
        *,
        held: Held | None = None,
        transform: Transform = "none",
        zero_last_norms: bool = False,
    ) -> None:
        super().__init__(arch, stages, norm, transform=transform)
        make = norm_of(*norm)
        owned = plan_of(arch, stages, whole=held is not None)
        for row in _as_nested(owned):
            attach(self, row.name, Chain(row, make))
        self.held: Held = self._transform(arch, held, transform)
        self._owned = {row.name: frozenset(layer.name for layer in row.layers) for row in owned}
        self.arch = arch
        self._init_weights(zero_last_norms)

    def check_held(self, arch: Arch, rows: Plan) -> None:
        for row in rows:
            missing = [x for x in row.layers if x.kind == "conv" and x.name not in self._owned.get(row.name, ())]
            if missing:
                raise UsageError(
                    f"the network has no {row.name}.{missing[0].name}, which {arch.text()} needs",
                    "Build it from a space that has this architecture.",
                )

    def _transform(self, arch: Arch, held: Held | None, transform: Transform) -> Held:
        """Put transforms into the filters of blocks with several kernels; returns the kernels of each position."""
        if transform == "none" or held is None:
            return {}
        if KERNEL not in held:
            raise UsageError(
                f"transform is {transform}, but the space has no kernels to make",
                f"Give it a dimension backbone.{KERNEL}, or leave out transform.",
            )
        choices, depths = held[KERNEL], per_stage(arch["body.depth"])
        positions = per_block(KERNEL, 0 if len(choices) == 1 else tuple(range(len(choices))), depths)
        for stage, row in enumerate(positions):
            for i, position in enumerate(row):
                block = self.get_submodule(f"stages.{stage}.{i}.depthwise")
                filters = transformed(block.get_submodule("0"), choices[position], transform)
                block.add_module("0", filters)
        return {KERNEL: choices}

    def _init_weights(self, zero_last_norms: bool) -> None:
        """torchvision's initial values; norms have theirs from their own constructors, but for the last of each block
        that is to start as its shortcut."""
        if next(self.parameters()).is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if zero_last_norms:
            for row in self._rows:
                if row.layers[-1].kind == "add":
                    nn.init.zeros_(self.get_parameter(f"{row.name}.project.1.weight"))
