"""AttentiveNAS's space of inverted residual blocks, as rows of layers. No torch."""

from __future__ import annotations

from searchkit.nas.models.backbones.mbconv_plan import Stages, Style, stages_of

STRIDES = (1, 2, 2, 2, 1, 2, 1)
SQUEEZE = (False, False, True, False, True, True, True)


def attentive_nas_stages(
    *,
    strides: tuple[int, ...] = STRIDES,
    squeeze: tuple[bool, ...] = SQUEEZE,
    stem_stride: int = 2,
    head_expand: int = 6,
    features: tuple[str, ...] | None = None,
    frozen_norm: bool = False,
) -> Stages:
    """The network of AttentiveNAS and AlphaNet (https://arxiv.org/abs/2011.09011, 2102.07954) but for its architecture,
    for mbconv_plan.plan_of: swish, and a shortcut around every block. Where that changes the width or the size it is an
    average pool (of an odd image the last window is smaller, where the authors' code pads with zeros) and a 1x1 conv
    without norm.

    head_expand: how many times wider than the last stage the last 1x1 conv is; 0: there is none.
    """
    stem = Style("swish", pooled=True, frozen_norm=frozen_norm)
    stages = stages_of(strides, stem, activations="swish", squeeze=squeeze, stem_stride=stem_stride, features=features)
    return stages._replace(head_expand=head_expand)
