"""AttentiveNAS's space of inverted residual blocks, as rows of layers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from searchkit.nas.models.backbones.mbconv_plan import MBConvPlan, Style, stages_of
from searchkit.nas.models.plan import Held
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

STRIDES = (1, 2, 2, 2, 1, 2, 1)
SQUEEZE = (False, False, True, False, True, True, True)


class AttentiveNASPlan(MBConvPlan):
    """What the network of AttentiveNAS and AlphaNet (https://arxiv.org/abs/2011.09011, 2102.07954) is made of: swish,
    and a shortcut around every block. Where that changes the width or the size it is an average pool (of an odd image
    the last window is smaller, where the authors' code pads with zeros) and a 1x1 conv without norm.

    strides, squeeze: of each stage. stem_stride: 1 for small images. head_expand: how many times wider than the last
    stage the last 1x1 conv is; 0: there is none. features: names such as [c2, c3, c4, c5], see features.places_of.
    zero_init_residual: every block starts as its shortcut (as the authors' do).
    norm and norm_…: see NormStyle; a group norm's channels divide the widths inside the blocks, too.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        strides: Sequence[int] = STRIDES,
        squeeze: Sequence[bool] = SQUEEZE,
        stem_stride: int = 2,
        head_expand: int = 6,
        features: Sequence[str] | None = None,
        zero_init_residual: bool = True,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        norm_ranks: int = 0,
    ) -> None:
        stem = Style("swish", pooled=True, frozen_norm=norm == "frozen")
        stages = stages_of(
            strides, stem, activations="swish", squeeze=squeeze, stem_stride=stem_stride, features=features
        )._replace(head_expand=head_expand)
        style = NormStyle(norm, norm_group, norm_eps, norm_momentum, norm_ranks)
        super().__init__(arch, stages, style, held=held, zero_last_norms=zero_init_residual and norm != "frozen")
