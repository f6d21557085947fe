"""An elastic MobileNetV3 (https://arxiv.org/abs/1905.02244), as once-for-all has it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.backbones.mobilenet_v3_plan import ACTIVATIONS, SQUEEZE, STRIDES, mobilenet_v3_stages
from searchkit.nas.models.elastic import Held
from searchkit.nas.models.plan import Activation
from searchkit.nas.nn import norm_of
from searchkit.nas.nn.transforms import Transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class MobileNetV3(MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.

    strides, squeeze, activations: of each stage, as in torchvision's mobilenet_v3_large; activation: of the stem and
    the last conv; stem_stride: 1 for small images. features: names such as [c4, tail] or [c4.expand, tail], see
    features.places_of.
    transform: how a kernel smaller than a block's largest is made: "none" is its centre, "chained" learns maps from 7x7
    to 5x5 and from there to 3x3 (once-for-all), "direct" learns each from the largest (aw_nas).
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
        activations: Sequence[Activation] = ACTIVATIONS,
        activation: Activation = "hswish",
        stem_stride: int = 2,
        features: Sequence[str] | None = None,
        transform: Transform = "none",
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        norm_ranks: int = 0,
    ) -> None:
        stages = mobilenet_v3_stages(
            strides=tuple(strides),
            squeeze=tuple(squeeze),
            activations=tuple(activations),
            activation=activation,
            stem_stride=stem_stride,
            features=None if features is None else tuple(features),
            frozen_norm=norm == "frozen",
        )
        make = norm_of(norm, norm_group, norm_eps, norm_momentum, norm_ranks)
        super().__init__(arch, stages, make, held=held, transform=transform)
