"""A MobileNetV2 at one architecture as rows of layers, and what torchvision calls them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mbconv_plan import MBConvPlan, Style, stages_of
from searchkit.nas.models.plan import Activation, Held
from searchkit.nas.styles import NormName, NormStyle, Transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # torchvision's stages; their widths, depths and expansions are:
WIDTHS, DEPTHS, EXPANDS = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), (1, 6, 6, 6, 6, 6, 6)
# Parts of a block in torchvision's files, with and without the conv that expands, and here.
_EXPANDED = {"0.0": "expand.0", "0.1": "expand.1", "1.0": "depthwise.0", "1.1": "depthwise.1"}
_EXPANDED |= {"2": "project.0", "3": "project.1"}
_PLAIN = {"0.0": "depthwise.0", "0.1": "depthwise.1", "1": "project.0", "2": "project.1"}


class MobileNetV2Plan(MBConvPlan):
    """What a MobileNetV2 (https://arxiv.org/abs/1801.04381) is made of. A block is `body.expand` times as wide inside
    as its input, to the channel.

    strides: of each stage, 1 or 2; torchvision's are 1, 2, 2, 2, 1, 2, 1. stem_stride: 1 for small images.
    norm and norm_…: see NormStyle; a group norm's channels divide the widths inside the blocks, too.
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
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
        activation: Activation = "relu6",
        features: Sequence[str] | None = None,
        transform: Transform = "none",
    ) -> None:
        stem = Style(activation, frozen_norm=norm == "frozen", divisor=1)
        stages = stages_of(strides, stem, activations=activation, stem_stride=stem_stride, features=features)
        style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        super().__init__(arch, stages, style, held=held, transform=transform)


def from_torchvision(names: Iterable[str]) -> Mapping[str, str]:
    """The tensors of a torchvision mobilenet_v2 by our names; empty for names of anything else.

    torchvision numbers its blocks from the first to the last, so a network of other depths has no such names.
    """
    names = tuple(names)
    block = [f"features.{1 + n}" for n in range(sum(DEPTHS))]
    place = [(stage, i) for stage, depth in enumerate(DEPTHS) for i in range(depth)]
    head = f"features.{1 + len(block)}"
    if "features.0.0.weight" not in names or f"{block[0]}.conv.0.0.weight" not in names:
        return {}
    if f"{head}.0.weight" not in names:
        raise UsageError(
            f"the file is of a MobileNetV2 of other depths than torchvision's mobilenet_v2: it has no {head}.0.weight",
            "Give a file whose names are those of this network.",
        )
    start = {"features.0.": "stem.", f"{head}.": "head.", "classifier.1.": "fc."}
    for prefix, (stage, i) in zip(block, place, strict=True):
        parts = _EXPANDED if f"{prefix}.conv.3.weight" in names else _PLAIN
        start |= {f"{prefix}.conv.{old}.": f"stages.{stage}.{i}.{new}." for old, new in parts.items()}
    return {name: own + name[len(old) :] for name in names for old, own in start.items() if name.startswith(old)}
