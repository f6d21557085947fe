"""A MobileNetV3 at one architecture as rows of layers, and what torchvision calls them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mbconv_plan import Stages, Style, stages_of
from searchkit.nas.models.plan import Activation

# torchvision's mobilenet_v3_large, whose stages are also those of OFA.
STRIDES = (1, 2, 2, 2, 1, 2)
SQUEEZE = (False, False, True, False, True, True)
ACTIVATIONS: tuple[Activation, ...] = ("relu", "relu", "relu", "hswish", "hswish", "hswish")
# Blocks of torchvision's two, by stage.
LARGE_DEPTHS, SMALL_DEPTHS = (1, 2, 3, 4, 2, 3), (1, 2, 3, 2, 3)
_EXPANDED, _PLAIN = ("expand", "depthwise", "project"), ("depthwise", "project")


def mobilenet_v3_stages(
    *,
    strides: tuple[int, ...] = STRIDES,
    squeeze: tuple[bool, ...] = SQUEEZE,
    activations: tuple[Activation, ...] = ACTIVATIONS,
    activation: Activation = "hswish",
    stem_stride: int = 2,
    features: tuple[str, ...] | None = None,
    frozen_norm: bool = False,
) -> Stages:
    """A MobileNetV3 (https://arxiv.org/abs/1905.02244) but for its architecture, for mbconv_plan.plan_of.

    Of each stage the stride, whether it has squeeze-and-excitation, and the activation: "hswish" or "relu".
    activation: of the stem and the last conv.
    """
    stem = Style(activation, frozen_norm=frozen_norm)
    return stages_of(
        strides, stem, activations=activations, squeeze=squeeze, stem_stride=stem_stride, features=features
    )


def from_torchvision(names: Iterable[str]) -> Mapping[str, str]:
    """The tensors of a torchvision mobilenet_v3_large or _small by our names; empty for names of anything else.

    torchvision numbers its blocks from the first to the last, so a network of other depths has no such names. Its first
    linear layer is that of the neck `hidden`, `hidden.conv` here.
    """
    names = tuple(names)
    if "features.0.0.weight" not in names or "features.1.block.0.0.weight" not in names:
        return {}
    blocks = sum(f"features.{n}.block.0.0.weight" in names for n in range(1, len(names)))
    depths = {sum(each): each for each in (LARGE_DEPTHS, SMALL_DEPTHS)}.get(blocks)
    if depths is None:
        raise UsageError(
            f"the file is of a MobileNetV3 of other depths than torchvision's: it has {blocks} blocks, not "
            f"{sum(LARGE_DEPTHS)} (mobilenet_v3_large) or {sum(SMALL_DEPTHS)} (mobilenet_v3_small)",
            "Give a file whose names are those of this network.",
        )
    start = {"features.0.": "stem.", f"features.{blocks + 1}.": "head."}
    start |= {"classifier.0.": "hidden.conv.", "classifier.3.": "fc."}
    place = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    for n, (stage, i) in enumerate(place, 1):
        start |= _of_block(f"features.{n}.block", f"stages.{stage}.{i}", names)
    return {name: own + name[len(old) :] for name in names for old, own in start.items() if name.startswith(old)}


def _of_block(block: str, own: str, names: tuple[str, ...]) -> dict[str, str]:
    """The parts of a block, which torchvision numbers: with or without the conv that widens, and the squeezing."""
    squeeze = next((n for n in range(4) if f"{block}.{n}.fc1.weight" in names), None)
    there = [n for n in range(4) if n != squeeze and f"{block}.{n}.0.weight" in names]
    parts = dict(zip(there, _EXPANDED if len(there) == 3 else _PLAIN, strict=True))
    renamed = {f"{block}.{n}.": f"{own}.{part}." for n, part in parts.items()}
    return renamed | ({} if squeeze is None else {f"{block}.{squeeze}.": f"{own}.se."})
