"""An EfficientNet-Lite at one architecture as rows of layers, and what its PyPI package calls them. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mbconv_plan import MBConvPlan, Style, stages_of
from searchkit.nas.models.plan import Held, multiple_of
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

STRIDES = (1, 2, 2, 2, 1, 2, 1)
WIDTHS, DEPTHS, KERNELS = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), (3, 3, 5, 3, 5, 5, 3)
EXPANDS = (1, 6, 6, 6, 6, 6, 6)
STEM, HEAD = 32, 1280  # of all sizes
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}
INPUTS = {"lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300}  # px
_PARTS = {"_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1"}
_PARTS |= {"_project_conv": "project.0", "_bn2": "project.1"}


class EfficientNetLitePlan(MBConvPlan):
    """What an EfficientNet-Lite is made of: relu6, padding as TensorFlow's SAME.

    strides: of each stage, 1 or 2; those of lite0 to lite4 are 1, 2, 2, 2, 1, 2, 1. stem_stride: 1 for small images.
    features: names such as [c2, c3, c4, c5], see features.places_of.
    norm and norm_…: see NormStyle; a group norm's channels divide the widths inside the blocks, too.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        features: Sequence[str] | None = None,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        norm_ranks: int = 0,
    ) -> None:
        stem = Style("relu6", same=True, frozen_norm=norm == "frozen")
        stages = stages_of(strides, stem, activations="relu6", stem_stride=stem_stride, features=features)
        super().__init__(arch, stages, NormStyle(norm, norm_group, norm_eps, norm_momentum, norm_ranks), held=held)


def lite(size: str) -> dict[str, Any]:
    """The architecture of `lite0` to `lite4`, by the names below `backbone.`.

    Widths and depths are scaled (https://arxiv.org/abs/1905.11946), but for the stem, the last conv, and the depths of
    the first and the last stage (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
    """
    width, depth = SCALES[size]
    last = len(DEPTHS) - 1
    return {
        "stem.width": STEM,
        "body.width": tuple(multiple_of(w * width) for w in WIDTHS),
        "body.depth": tuple(d if i in (0, last) else math.ceil(d * depth) for i, d in enumerate(DEPTHS)),
        "body.kernel": KERNELS,
        "body.expand": EXPANDS,
        "head.width": HEAD,
    }


def from_package(names: Iterable[str]) -> Mapping[str, str]:
    """The tensors of a network of efficientnet-lite-pytorch (PyPI) by our names; empty for names of anything else.

    It numbers its blocks from the first to the last, so that networks of other depths have no such names.
    """
    names = tuple(names)
    if "_conv_stem.weight" not in names or "_blocks.0._depthwise_conv.weight" not in names:
        return {}
    if any("._se_reduce." in name for name in names):
        return {}  # an EfficientNet proper
    blocks = sum(name.startswith("_blocks.") and name.endswith("._project_conv.weight") for name in names)
    known = {sum(depths): depths for depths in (lite(size)["body.depth"] for size in SCALES)}
    if blocks not in known:
        raise UsageError(
            f"the file is of an EfficientNet-Lite of other depths than lite0 to lite4: it has {blocks} blocks, not "
            f"{', '.join(map(str, known))}",
            "Give a file whose names are those of this network.",
        )
    place = [(stage, i) for stage, depth in enumerate(known[blocks]) for i in range(depth)]
    start = {"_conv_stem.": "stem.0.", "_bn0.": "stem.1.", "_conv_head.": "head.0.", "_bn1.": "head.1.", "_fc.": "fc."}
    for n, (stage, i) in enumerate(place):
        start |= {f"_blocks.{n}.{old}.": f"stages.{stage}.{i}.{new}." for old, new in _PARTS.items()}
    return {name: own + name[len(old) :] for name in names for old, own in start.items() if name.startswith(old)}
