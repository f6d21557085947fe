"""An elastic MobileNetV2 (https://arxiv.org/abs/1801.04381)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.backbones.mobilenet_plan import STRIDES, mobilenet_stages
from searchkit.nas.models.elastic import Held
from searchkit.nas.models.plan import Activation
from searchkit.nas.nn import norm_of
from searchkit.nas.nn.transforms import Transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class MobileNetV2(MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.

    strides: of each stage, 1 or 2; torchvision's are 1, 2, 2, 2, 1, 2, 1. stem_stride: 1 for small images.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples, those inside the blocks too.
    Or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks` neighbours (0: all of them).
    activation: aw_nas has "relu". features: names such as [c2, c3, c4, c5], see features.places_of. transform: how a
    kernel smaller than a block's largest is made, as MobileNetV3's.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
        activation: Activation = "relu6",
        features: Sequence[str] | None = None,
        transform: Transform = "none",
    ) -> None:
        stages = mobilenet_stages(
            strides=tuple(strides),
            stem_stride=stem_stride,
            activation=activation,
            features=None if features is None else tuple(features),
            frozen_norm=norm == "frozen",
        )
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        super().__init__(arch, stages, make, held=held, transform=transform)
