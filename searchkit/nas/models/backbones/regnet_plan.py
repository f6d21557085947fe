"""A RegNet at one architecture as rows of layers, and what torchvision calls them. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.plan import (
    CACHE,
    Layer,
    Plan,
    Row,
    check_names,
    feature_rows,
    hidden_per_block,
    multiple_of,
    per_block,
    per_stage,
    squeeze_excite,
)
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch, Width

STRIDES = (2, 2, 2, 2)
GROUPS, GROUP_WIDTH = "body.groups", "body.group_width"
NAMES = ("stem.width", "body.width", "body.depth", "body.kernel", "body.expand", "body.hidden", GROUPS, GROUP_WIDTH)
Squeeze = Literal["none", "input", "hidden"]
_RENAMED = (  # torchvision's names, and ours
    (re.compile(r"stem\.(\d)\."), lambda m: f"stem.{m[1]}."),
    (re.compile(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.(?:f\.)?"), lambda m: f"stages.{int(m[1]) - 1}.{m[2]}."),
    (re.compile(r"fc\."), lambda _: "fc."),
)


class Style(NamedTuple):
    """What all blocks of a network have in common; see regnet_plan."""

    squeeze: Squeeze = "none"
    expand_input: bool = False
    frozen_norm: bool = False


class Block(NamedTuple):
    """One block of a stage, both counted from 0; `output`: what it gives out is a feature."""

    stage: int
    number: int
    cin: int
    cout: int
    hidden: int
    kernel: int
    groups: int
    stride: int
    output: bool
    style: Style


class RegNetPlan(BodyPlan):
    """What a RegNet is made of.

    squeeze, expand_input: see regnet_plan. strides: of each stage, 1 or 2. stem_stride: 1 for small images.
    norm and norm_…: see NormStyle; a group norm's channels divide the widths inside the blocks, too.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES
    CHOICES: ClassVar[tuple[str, ...]] = (GROUPS,)

    def __init__(
        self,
        arch: Arch,
        *,
        squeeze: Squeeze = "none",
        expand_input: bool = False,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        check_squeeze(squeeze)
        self.plan_options: dict[str, Any] = {
            "squeeze": squeeze,
            "expand_input": expand_input,
            "strides": tuple(strides),
            "stem_stride": stem_stride,
            "frozen_norm": norm == "frozen",
        }
        self.norm_style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        self.norm_style.check(norm_widths(self.plan(arch)))

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return regnet_plan(arch, **self.plan_options)


def regnet_plan(
    arch: Arch,
    *,
    strides: tuple[int, ...] = STRIDES,
    stem_stride: int = 2,
    squeeze: Squeeze = "none",
    expand_input: bool = False,
    frozen_norm: bool = False,
) -> Plan:
    """Rows of a RegNet (https://arxiv.org/abs/2003.13678): the stem, then bottlenecks whose kxk convs are in groups.

    `arch` has the names below `backbone.`: `stem.width`; `body.width`, what the blocks of each stage give out, and
    `body.depth`; `body.group_width`, how many channels a group has (at most all of them), or in its place
    `body.groups`, how many groups there are; and if wanted `body.kernel`, odd, in place of 3, and `body.expand`, how
    many times wider than its output a block is inside, in place of 1, or `body.hidden`, its channels there. All but the
    stem's, widths and depths are as per_block takes them.

    expand_input: a block is so many times wider than its input. squeeze: a squeeze-and-excitation behind the kxk conv,
    a quarter as wide inside as the block's "input" (rounded, torchvision's regnet_y) or as the block's "hidden"
    channels (as a multiple of 8, BigNAS's). strides: of the first block of each stage, 1 or 2; it has a conv on its
    shortcut. Features are as in a MobileNetV2. Raises UsageError where the parts of `arch` don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, widths, depths = arch["stem.width"], per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    if not isinstance(stem, int) or stem < 1:
        raise UsageError(f"stem.width must be an integer of at least 1, but is {stem!r}")
    outputs = _outputs(len(widths), len(depths), stem_stride, tuple(strides))
    kernels = per_block("body.kernel", arch.get("body.kernel", 3), depths)
    expands = per_block("body.expand", arch.get("body.expand", 1), depths)
    hidden = hidden_per_block(arch.get("body.hidden"), depths)
    numbers = _grouping(arch.get(GROUP_WIDTH), arch.get(GROUPS), depths)
    style = Style(squeeze, expand_input, frozen_norm)
    rows: list[Row] = [stem_row(stem, stem_stride, outputs[0], frozen_norm)]
    cin = stem
    for stage, width in enumerate(widths):
        sizes = (kernels[stage], expands[stage], hidden[stage], numbers[stage], GROUPS in arch)
        rows += _stage(stage, cin, width, *sizes, strides[stage], outputs[stage + 1], style)
        cin = width
    return tuple(rows)


@lru_cache(CACHE)
def _grouping(width: Width | None, number: Width | None, depths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The one of the two that is there, for each block of each stage."""
    if (width is None) == (number is None):
        raise UsageError(
            f"an architecture must have {GROUP_WIDTH} or {GROUPS}, "
            f"but has {'neither' if width is None else 'both'} of them"
        )
    return per_block(GROUPS, number, depths) if width is None else per_block(GROUP_WIDTH, width, depths)


@lru_cache(CACHE)
def _outputs(widths: int, depths: int, stem_stride: int, strides: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether the stem and each stage end in a feature; raises UsageError for numbers of stages that differ."""
    if not widths == depths == len(strides) or not widths:
        raise UsageError(
            f"body.width and body.depth must have one number for each of the {len(strides)} strides, but have {widths} "
            f"and {depths}",
            "Set the option strides: a list of the stride, 1 or 2, of each stage.",
        )
    if any(s not in (1, 2) for s in (stem_stride, *strides)):
        raise UsageError(f"strides must be 1 or 2, but are {stem_stride} of the stem and {strides} of the stages")
    return feature_rows((stem_stride, *strides))


@lru_cache(CACHE)
def stem_row(width: int, stride: int, output: bool, frozen_norm: bool) -> Row:
    """From 3 channels to `width`: a 3x3 conv, norm, relu."""
    layers = (*_conv("", 3, width, frozen_norm, kernel=3, stride=stride), Layer("relu", "relu", width, width))
    return Row("stem", -1, 0, layers, output)


@lru_cache(4 * CACHE)
def _stage(
    stage: int,
    cin: int,
    width: int,
    kernels: tuple[int, ...],
    expands: tuple[int, ...],
    hidden: tuple[int | None, ...],
    numbers: tuple[int, ...],
    of_groups: bool,
    stride: int,
    output: bool,
    style: Style,
) -> Plan:
    """The blocks of one stage (from 0), as many as there are kernels. numbers: of groups, or channels of each."""
    if min(cin, width, len(kernels), *kernels, *expands, *numbers) < 1 or any(k % 2 == 0 for k in kernels):
        raise UsageError(
            f"stage {stage + 1}: widths, depth, expand and groups must be at least 1 and kernels odd, but they are "
            f"width {width} after {cin}, depth {len(kernels)}, expand {expands}, groups {numbers}, kernels {kernels}"
        )
    blocks = []
    for i, (kernel, expand, given, number) in enumerate(zip(kernels, expands, hidden, numbers, strict=True)):
        into = cin if i == 0 else width
        mid = expand * (into if style.expand_input else width) if given is None else max(1, given)
        groups = number if of_groups else mid // min(mid, number)
        if mid % (groups if of_groups else min(mid, number)):
            said = f"{groups} groups" if of_groups else f"groups of {number} channels"
            raise UsageError(
                f"stage {stage + 1}: block {i + 1} is {mid} channels wide inside, which can't be split into {said}",
                f"Choose widths that are multiples of {GROUPS if of_groups else GROUP_WIDTH}.",
            )
        last = output and i == len(kernels) - 1
        blocks.append(Block(stage, i, into, width, mid, kernel, groups, 1 if i else stride, last, style))
    return tuple(block_row(block) for block in blocks)


@lru_cache(CACHE)
def block_row(block: Block) -> Row:
    """A bottleneck: 1x1 conv, kxk conv in groups, if wanted a squeeze-and-excitation, 1x1 conv, shortcut, relu."""
    cin, cout, mid, frozen = block.cin, block.cout, block.hidden, block.style.frozen_norm
    layers = (
        *_conv("a.", cin, mid, frozen),
        Layer("relu", "relu", mid, mid),
        *_conv("b.", mid, mid, frozen, block.kernel, block.stride, block.groups),
        Layer("relu", "relu", mid, mid),
    )
    if block.style.squeeze != "none":
        narrow = round(cin / 4) if block.style.squeeze == "input" else multiple_of(mid / 4)
        layers += squeeze_excite("se.", mid, max(1, narrow), gate="sigmoid")
    layers += _conv("c.", mid, cout, frozen)
    if block.number == 0:
        layers += _conv("proj.", cin, cout, frozen, stride=block.stride, branch=True)
    layers += (Layer("relu", "relu", cout, cout),)
    return Row(f"stages.{block.stage}.{block.number}", block.stage, block.number, layers, block.output)


def _conv(
    name: str,
    cin: int,
    cout: int,
    frozen_norm: bool,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    branch: bool = False,
) -> tuple[Layer, ...]:
    return (
        Layer("conv", f"{name}0", cin, cout, kernel, stride, kernel // 2, groups, branch=branch),
        Layer("norm", f"{name}1", cout, cout, bias=not frozen_norm, branch=branch),
    )


def check_squeeze(name: str) -> None:
    """Raises UsageError for anything but what `squeeze` may be."""
    names = get_args(Squeeze)
    if name not in names:
        raise UsageError(f"squeeze must be one of {', '.join(names)}, but is {name!r}{did_you_mean(name, names)}")


def from_torchvision(names: Iterable[str]) -> Mapping[str, str]:
    """The tensors of a torchvision regnet_x_* or regnet_y_* by our names; empty for names of anything else."""
    names = tuple(names)
    if "stem.0.weight" not in names or "trunk_output.block1.block1-0.proj.0.weight" not in names:
        return {}
    return {
        name: new(match) + name[match.end() :] for name in names for old, new in _RENAMED if (match := old.match(name))
    }
