"""An elastic MobileNetV3 (https://arxiv.org/abs/1905.02244), as once-for-all has it too."""

from __future__ import annotations

from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.backbones.mobilenet_v3_plan import MobileNetV3Plan


class MobileNetV3(MobileNetV3Plan, MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.
    """
