"""An elastic EfficientNet-Lite: the EfficientNet of https://arxiv.org/abs/1905.11946 without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from searchkit.nas.models.backbones.efficientnet_lite_plan import STRIDES, efficientnet_lite_stages
from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.elastic import Held
from searchkit.nas.nn import norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class EfficientNetLite(MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.

    strides: of each stage, 1 or 2; those of lite0 to lite4 are 1, 2, 2, 2, 1, 2, 1. stem_stride: 1 for small images.
    features: names such as [c2, c3, c4, c5], see features.places_of.
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
        stem_stride: int = 2,
        features: Sequence[str] | None = None,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        norm_ranks: int = 0,
    ) -> None:
        stages = efficientnet_lite_stages(
            strides=tuple(strides),
            stem_stride=stem_stride,
            features=None if features is None else tuple(features),
            frozen_norm=norm == "frozen",
        )
        super().__init__(arch, stages, norm_of(norm, norm_group, norm_eps, norm_momentum, norm_ranks), held=held)
