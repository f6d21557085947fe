"""A MobileNetV2 at one architecture as rows of layers, and what torchvision calls them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.models.plan import (
    CACHE,
    Layer,
    Plan,
    Row,
    check_names,
    feature_rows,
    hidden_per_block,
    per_block,
    per_stage,
)

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # torchvision's stages; their widths, depths and expansions are:
WIDTHS, DEPTHS, EXPANDS = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), (1, 6, 6, 6, 6, 6, 6)
NAMES = ("stem.width", "body.width", "body.depth", "body.kernel", "body.expand", "body.hidden", "head.width")
# Parts of a block in torchvision's files, with and without the conv that expands, and here.
_EXPANDED = {"0.0": "expand.0", "0.1": "expand.1", "1.0": "depthwise.0", "1.1": "depthwise.1"}
_EXPANDED |= {"2": "project.0", "3": "project.1"}
_PLAIN = {"0.0": "depthwise.0", "0.1": "depthwise.1", "1": "project.0", "2": "project.1"}


class Block(NamedTuple):
    """One block of a stage, both counted from 0; `output`: what it gives out is a feature."""

    stage: int
    number: int
    cin: int
    cout: int
    kernel: int
    expand: int
    stride: int
    output: bool
    frozen_norm: bool
    hidden: int | None = None  # channels inside; None: `expand` times those of its input


def mobilenet_plan(
    arch: Arch, *, strides: tuple[int, ...] = STRIDES, stem_stride: int = 2, frozen_norm: bool = False
) -> Plan:
    """Rows of a MobileNetV2 (https://arxiv.org/abs/1801.04381): the stem, the blocks, the last 1x1 conv.

    `arch` has the names below `backbone.`: `stem.width`; `body.width` and `body.depth` of each stage; `body.expand`,
    how many times wider a block is inside than its input, and if wanted `body.kernel`, odd, in place of 3, each as
    per_block takes it; and `head.width` where there is a last conv. A block of expand 1 has no conv that expands, as in
    torchvision: then its filters work on its input. With `body.hidden`, the channels inside each block, which blocks
    these are is all that `body.expand` says. A block is added to its input where that is possible: at stride 1, if it
    is as wide as its input.

    strides: of the first block of each stage, 1 or 2. Features are the ends of stages before each halving from a
    quarter of the image on, and the end. Raises UsageError where the parts of `arch` don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, head = arch["stem.width"], arch.get("head.width")
    if not isinstance(stem, int) or not isinstance(head, int | None):
        raise UsageError(f"stem.width and head.width must be integers, but are {stem!r} and {head!r}")
    widths, depths = per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    outputs = _outputs(len(widths), len(depths), stem_stride, tuple(strides), head is not None)
    kernels = per_block("body.kernel", arch.get("body.kernel", 3), depths)
    expands = per_block("body.expand", arch["body.expand"], depths)
    hidden = hidden_per_block(arch.get("body.hidden"), depths)
    rows = [stem_row(stem, stem_stride, outputs[0], frozen_norm)]
    cin = stem
    for stage, width in enumerate(widths):
        sizes = (stage, cin, width, kernels[stage], expands[stage], hidden[stage])
        rows += _stage(*sizes, strides[stage], outputs[stage + 1], frozen_norm)
        cin = width
    if head is not None:
        rows.append(head_row(len(widths), cin, head, frozen_norm))
    return tuple(rows)


@lru_cache(CACHE)
def _outputs(widths: int, depths: int, stem_stride: int, strides: tuple[int, ...], head: bool) -> tuple[bool, ...]:
    """Whether the stem and each stage end in a feature; raises UsageError for numbers of stages that differ."""
    if not widths == depths == len(strides) or not widths:
        raise UsageError(
            f"body.width and body.depth must have one number for each of the {len(strides)} strides, but have {widths} "
            f"and {depths}",
            "Set the option strides: a list of the stride, 1 or 2, of each stage.",
        )
    if any(s not in (1, 2) for s in (stem_stride, *strides)):
        raise UsageError(f"strides must be 1 or 2, but are {stem_stride} of the stem and {strides} of the stages")
    return feature_rows((stem_stride, *strides, *((1,) if head else ())))


@lru_cache(CACHE)
def stem_row(width: int, stride: int, output: bool, frozen_norm: bool) -> Row:
    """From 3 channels to `width`: a 3x3 conv, norm, relu6."""
    return Row("stem", -1, 0, _conv("", 3, width, frozen_norm, kernel=3, stride=stride), output)


@lru_cache(CACHE)
def head_row(stage: int, cin: int, width: int, frozen_norm: bool) -> Row:
    """The last 1x1 conv, whose output is a feature."""
    if width < 1:
        raise UsageError(f"head.width must be at least 1, but is {width}")
    return Row("head", stage, 0, _conv("", cin, width, frozen_norm), True)


@lru_cache(4 * CACHE)
def _stage(
    stage: int,
    cin: int,
    width: int,
    kernels: tuple[int, ...],
    expands: tuple[int, ...],
    hidden: tuple[int | None, ...],
    stride: int,
    output: bool,
    frozen_norm: bool,
) -> Plan:
    """The blocks of one stage (from 0), as many as there are kernels."""
    if min(cin, width, len(kernels), *kernels, *expands) < 1 or any(k % 2 == 0 for k in kernels):
        raise UsageError(
            f"stage {stage + 1}: widths, depth and expand must be at least 1 and kernels odd, but they are width "
            f"{width} after {cin}, depth {len(kernels)}, expand {expands}, kernels {kernels}"
        )
    blocks = [
        Block(stage, i, width if i else cin, width, kernel, expand, 1 if i else stride, False, frozen_norm, mid)
        for i, (kernel, expand, mid) in enumerate(zip(kernels, expands, hidden, strict=True))
    ]
    for block in blocks:
        if block.hidden is not None and (block.hidden < 1 or (block.expand == 1 and block.hidden != block.cin)):
            raise UsageError(
                f"stage {stage + 1}: body.hidden of block {block.number + 1} is {block.hidden}, but must be at least "
                f"1, and of a block of expand 1 as wide as its input, {block.cin}"
            )
    last = len(kernels) - 1
    return tuple(block_row(each._replace(output=output and each.number == last)) for each in blocks)


@lru_cache(CACHE)
def block_row(block: Block) -> Row:
    """An inverted residual: 1x1 conv to `expand` times the channels, a kxk filter for each, 1x1 conv."""
    cin, cout, stride, frozen = block.cin, block.cout, block.stride, block.frozen_norm
    mid = cin * block.expand if block.hidden is None else block.hidden
    layers = _conv("expand.", cin, mid, frozen) if block.expand > 1 else ()
    layers += _conv("depthwise.", mid, mid, frozen, kernel=block.kernel, stride=stride, groups=mid)
    layers += _conv("project.", mid, cout, frozen)[:-1]
    if stride == 1 and cin == cout:
        layers += (Layer("add", "add", cout, cout),)
    return Row(f"stages.{block.stage}.{block.number}", block.stage, block.number, layers, block.output)


def _conv(
    name: str, cin: int, cout: int, frozen_norm: bool, kernel: int = 1, stride: int = 1, groups: int = 1
) -> tuple[Layer, ...]:
    return (
        Layer("conv", f"{name}0", cin, cout, kernel=kernel, stride=stride, padding=kernel // 2, groups=groups),
        Layer("norm", f"{name}1", cout, cout, bias=not frozen_norm),
        Layer("relu6", "relu", cout, cout),
    )


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
