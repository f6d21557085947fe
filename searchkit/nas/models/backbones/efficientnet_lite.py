"""An elastic EfficientNet-Lite: the EfficientNet of https://arxiv.org/abs/1905.11946 without squeeze-and-excitation."""

from __future__ import annotations

from searchkit.nas.models.backbones.efficientnet_lite_plan import EfficientNetLitePlan
from searchkit.nas.models.backbones.mbconv import MBConvNet


class EfficientNetLite(EfficientNetLitePlan, MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of.
    """
