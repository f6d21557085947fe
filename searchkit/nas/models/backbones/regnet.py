"""An elastic RegNet (https://arxiv.org/abs/2003.13678), in the number of its groups and their width too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.regnet_plan import GROUPS, STRIDES, Squeeze, check_squeeze, regnet_plan
from searchkit.nas.models.elastic import Held
from searchkit.nas.models.plan import Plan
from searchkit.nas.nn import Chain, Residual, attach, norm_of
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    from searchkit.records.arch import Width


class RegNet(Body):
    """Features of every stage that halves the image, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, `body.group_width` or `body.groups`, and if wanted `body.kernel`, `body.expand` or `body.hidden`: see
    regnet_plan. An arch runs the first channels of the first blocks of every stage, inside and outside, and the centres
    of their kernels. Of a conv in groups it takes the first columns of the first rows, as many as a group has channels:
    at one group width a narrower net is the first groups of a wider one; at another one a row meets other channels.

    held: for "body.groups", the choices of each position: a conv then holds columns for the fewest groups; None: for
    the arch's own. squeeze, expand_input: see regnet_plan. strides: of each stage, 1 or 2. stem_stride: 1 for small
    images.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples, those inside the blocks too. Or "sync_bn": "bn" over the ranks of a training together, in
    groups of `norm_ranks` neighbours (0: all of them).
    """

    CHOICES: ClassVar[tuple[str, ...]] = (GROUPS,)

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        squeeze: Squeeze = "none",
        expand_input: bool = False,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        check_squeeze(squeeze)
        self.plan_options: dict[str, Any] = {
            "squeeze": squeeze,
            "expand_input": expand_input,
            "strides": tuple(strides),
            "stem_stride": stem_stride,
            "frozen_norm": norm == "frozen",
        }
        self.held: Held = _held_groups(held, arch)
        largest = arch
        if self.held:
            largest = Arch.of({**dict(arch.items), GROUPS: _fewest(self.held[GROUPS], arch[GROUPS])})
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        for row in self.plan(largest):
            attach(self, row.name, (Chain if row.stage < 0 else Residual)(row, make))
        self.arch = arch
        self._init_weights()

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return regnet_plan(arch, **self.plan_options)

    def _init_weights(self) -> None:
        """torchvision's initial values; norms have theirs from their own constructors."""
        if next(self.parameters()).is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _held_groups(held: Held | None, arch: Arch) -> Held:
    """The choices of body.groups at each of its positions: without `held` the arch's own. Empty where it has none."""
    value = arch.get(GROUPS)
    own = () if value is None else value if isinstance(value, tuple) else (value,)
    positions = len(own)
    if not held:
        return {GROUPS: tuple((groups,) for groups in own)} if own else {}
    if [*held] != [GROUPS] or len(held[GROUPS]) != positions or not all(held[GROUPS]):
        raise UsageError(
            f"held must have the choices of {GROUPS} at each of its {positions} positions, and nothing else, but has "
            f"{', '.join(f'{name} at {len(rows)}' for name, rows in held.items())}"
        )
    return held


def _fewest(choices: tuple[tuple[int, ...], ...], value: Width) -> Width:
    """body.groups in the form of `value`, at its fewest."""
    fewest = tuple(min(each) for each in choices)
    return fewest if isinstance(value, tuple) else fewest[0]
