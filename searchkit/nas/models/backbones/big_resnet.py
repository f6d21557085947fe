"""The elastic ResNet of basic blocks that BigNAS detectors have (United-Perception's big_resnet_basic)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.big_resnet_plan import NAMES, Style, big_resnet_plan
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.elastic import Held
from searchkit.nas.models.plan import Plan
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class BigResNet(Body):
    """Features of every stage, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, and if wanted `stem.kernel`, `body.kernel` and `body.expand`: see big_resnet_plan. An arch runs the
    first channels of the first blocks of every stage, inside and outside, and the centres of their kernels.

    held: the choices of a supernet's space, which then owns a conv on the first shortcut of each stage; None: a static
    network has those that its own arch uses. deep_stem, stem_expand, pool: see big_resnet_plan; expand: where the arch
    has no `body.expand`, fractions too.
    features: names such as [c3, c4, c5], see features.places_of.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples; or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks`
    neighbours (0: all of them). zero_init_residual: every block starts as its shortcut.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES
    CHOICES: ClassVar[tuple[str, ...]] = ("stem.width", "body.width")

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        deep_stem: bool = True,
        stem_expand: float = 0.5,
        expand: float | Sequence[float] = 1.0,
        pool: bool = True,
        features: Sequence[str] | None = None,
        zero_init_residual: bool = True,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        named = None if features is None else tuple(features)
        expands = tuple(expand) if isinstance(expand, Sequence) else expand
        self.style = Style(deep_stem, stem_expand, expands, pool, named, norm == "frozen")
        owned = big_resnet_plan(arch, self.style, whole=held is not None)
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        for row in owned:
            attach(self, row.name, Chain(row, make))
        self._shortcuts = {row.name for row in owned if any(layer.branch for layer in row.layers)}
        self.arch = arch
        self._init_weights(zero_init_residual and norm != "frozen")

    def check_held(self, arch: Arch, rows: Plan) -> None:
        for row in rows:
            if row.name not in self._shortcuts and any(layer.branch for layer in row.layers):
                raise UsageError(
                    f"the network has no conv on the shortcut of {row.name}, which {arch.text()} needs",
                    "Build it from a space that has this architecture.",
                )

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return big_resnet_plan(arch, self.style)

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
