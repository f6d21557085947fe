"""An elastic MobileNetV2 (https://arxiv.org/abs/1801.04381)."""

from __future__ import annotations

from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.backbones.mobilenet_plan import MobileNetV2Plan


class MobileNetV2(MobileNetV2Plan, MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.
    """
