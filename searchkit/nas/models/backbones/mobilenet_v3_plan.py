"""A MobileNetV3 at one architecture as rows of layers, and what torchvision calls them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mbconv_plan import MBConvPlan, Style, stages_of
from searchkit.nas.models.plan import Activation, Held
from searchkit.nas.styles import NormName, NormStyle, Transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

# torchvision's mobilenet_v3_large, whose stages are also those of OFA.
STRIDES = (1, 2, 2, 2, 1, 2)
SQUEEZE = (False, False, True, False, True, True)
ACTIVATIONS: tuple[Activation, ...] = ("relu", "relu", "relu", "hswish", "hswish", "hswish")
# Blocks of torchvision's two, by stage.
LARGE_DEPTHS, SMALL_DEPTHS = (1, 2, 3, 4, 2, 3), (1, 2, 3, 2, 3)
_EXPANDED, _PLAIN = ("expand", "depthwise", "project"), ("depthwise", "project")


class MobileNetV3Plan(MBConvPlan):
    """What a MobileNetV3 (https://arxiv.org/abs/1905.02244) is made of.

    strides, squeeze, activations: of each stage, as in torchvision's mobilenet_v3_large; activation: of the stem and
    the last conv; stem_stride: 1 for small images. features: names such as [c4, tail] or [c4.expand, tail], see
    features.places_of.
    transform: how a kernel smaller than a block's largest is made: "none" is its centre, "chained" learns maps from 7x7
    to 5x5 and from there to 3x3 (once-for-all), "direct" learns each from the largest (aw_nas).
    norm and norm_…: see NormStyle; a group norm's channels divide the widths inside the blocks, too.
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
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        norm_ranks: int = 0,
    ) -> None:
        stem = Style(activation, frozen_norm=norm == "frozen")
        stages = stages_of(
            strides, stem, activations=activations, squeeze=squeeze, stem_stride=stem_stride, features=features
        )
        style = NormStyle(norm, norm_group, norm_eps, norm_momentum, norm_ranks)
        super().__init__(arch, stages, style, held=held, transform=transform)


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
