"""The elastic network of AttentiveNAS (https://arxiv.org/abs/2011.09011)."""

from __future__ import annotations

from searchkit.nas.models.backbones.attentive_nas_plan import AttentiveNASPlan
from searchkit.nas.models.backbones.mbconv import MBConvNet


class AttentiveNAS(AttentiveNASPlan, MBConvNet):
    """Features before each halving of the image and at the end, at any architecture up to the one it is built at.

    `arch` has the names below `backbone.`: `stem.width`, `body.width`, `body.depth`, `body.expand`, and if wanted
    `body.hidden`, `body.kernel` and `head.width`: see mbconv_plan.plan_of. Without `head.width` the last conv
    is `head_expand` times as wide as the last stage.
    """
