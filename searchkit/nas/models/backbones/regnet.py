"""An elastic RegNet (https://arxiv.org/abs/2003.13678), in the number of its groups and their width too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.regnet_plan import GROUPS, RegNetPlan
from searchkit.nas.models.plan import Held
from searchkit.nas.nn import Chain, Residual, attach, norm_of
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    from searchkit.records.arch import Width


class RegNet(RegNetPlan, Body):
    """Features of every stage that halves the image, at any architecture up to the one it is built at.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, `body.group_width` or `body.groups`, and if wanted `body.kernel`, `body.expand` or `body.hidden`: see
    regnet_plan. An arch runs the first channels of the first blocks of every stage, inside and outside, and the centres
    of their kernels. Of a conv in groups it takes the first columns of the first rows, as many as a group has channels:
    at one group width a narrower net is the first groups of a wider one; at another one a row meets other channels.

    held: for "body.groups", the choices of each position: a conv then holds columns for the fewest groups; None: for
    the arch's own.
    """

    def __init__(self, arch: Arch, *, held: Held | None = None, **options: Any) -> None:
        """options: see RegNetPlan."""
        super().__init__(arch, **options)
        self.held: Held = _held_groups(held, arch)
        largest = arch
        if self.held:
            largest = Arch.of({**dict(arch.items), GROUPS: _fewest(self.held[GROUPS], arch[GROUPS])})
        make = norm_of(*self.norm_style)
        for row in self.plan(largest):
            attach(self, row.name, (Chain if row.stage < 0 else Residual)(row, make))
        self.arch = arch
        self._init_weights()

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
