"""The elastic network of AttentiveNAS (https://arxiv.org/abs/2011.09011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from searchkit.nas.models.backbones.attentive_nas_plan import SQUEEZE, STRIDES, attentive_nas_stages
from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.elastic import Held
from searchkit.nas.nn import norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class AttentiveNAS(MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of. Without `head.width` the last conv
    is `head_expand` times as wide as the last stage.

    strides, squeeze: of each stage. stem_stride: 1 for small images. features: names such as [c2, c3, c4, c5], see
    features.places_of. zero_init_residual: every block starts as its shortcut (as the authors' do).
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples, those inside the blocks too.
    Or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks` neighbours (0: all of them).
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
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        norm_ranks: int = 0,
    ) -> None:
        stages = attentive_nas_stages(
            strides=tuple(strides),
            squeeze=tuple(squeeze),
            stem_stride=stem_stride,
            head_expand=head_expand,
            features=None if features is None else tuple(features),
            frozen_norm=norm == "frozen",
        )
        make = norm_of(norm, norm_group, norm_eps, norm_momentum, norm_ranks)
        super().__init__(arch, stages, make, held=held, zero_last_norms=zero_init_residual and norm != "frozen")
