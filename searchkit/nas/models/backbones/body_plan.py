"""What the plan sides of backbones made of rows have in common. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from searchkit.nas.models.plan import Plan, channels

if TYPE_CHECKING:
    from searchkit.nas.styles import NormStyle
    from searchkit.records.arch import Arch


class BodyPlan:
    """A backbone but for its weights: a subclass is made at an architecture with the options of the backbone, checks
    them, and has the backbone's `plan`. The module with the weights is a subclass of it and of Body.

    NAMES: what it reads of an architecture below `backbone.`. CHOICES: of these, the dimensions with alternatives, all
    of which a supernet holds side by side.
    """

    NAMES: ClassVar[tuple[str, ...]]
    CHOICES: ClassVar[tuple[str, ...]] = ()
    norm_style: NormStyle

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        raise NotImplementedError

    def channels(self, arch: Arch) -> tuple[int, ...]:
        """Channels of the features at an architecture, finest first."""
        return channels(self.plan(arch))


def norm_widths(rows: Plan) -> Iterator[int]:
    """The widths of the norms in rows."""
    return (layer.cout for row in rows for layer in row.layers if layer.kind == "norm")
