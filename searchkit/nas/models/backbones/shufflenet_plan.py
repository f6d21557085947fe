"""A ShuffleNetV2 with one of several blocks at each position, as rows of layers, and what torchvision calls them.

No torch. The blocks are those of "Single Path One-Shot Neural Architecture Search with Uniform Sampling"
(https://arxiv.org/abs/1904.00420).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row, check_names, feature_rows, per_stage
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

BLOCKS = ("k3", "k5", "k7", "xception")  # by choice: the name of the block's module
KERNELS = (3, 5, 7, 3)
CHOICE = "body.choice"
NAMES = ("stem.width", "body.width", "body.depth", CHOICE, "head.width")
_RENAMED = (  # torchvision's names, and ours
    (re.compile(r"conv1\.(\d+)\."), r"stem.\1."),
    (re.compile(r"stage2\.(\d+)\."), rf"stages.0.\1.{BLOCKS[0]}."),
    (re.compile(r"stage3\.(\d+)\."), rf"stages.1.\1.{BLOCKS[0]}."),
    (re.compile(r"stage4\.(\d+)\."), rf"stages.2.\1.{BLOCKS[0]}."),
    (re.compile(r"conv5\.(\d+)\."), r"head.\1."),
    (re.compile(r"fc\."), "fc."),
)


class ShuffleNetV2Plan(BodyPlan):
    """What a ShuffleNetV2 is made of. Its widths and depths are those that it is made at.

    stem_pool: a max pool behind the stem. stem_stride: 1 for small images. keep_width: see shufflenet_plan.
    norm and norm_…: see NormStyle; a group norm's channels divide halves of the widths, too.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES
    CHOICES: ClassVar[tuple[str, ...]] = (CHOICE,)

    def __init__(
        self,
        arch: Arch,
        *,
        stem_pool: bool = True,
        stem_stride: int = 2,
        keep_width: bool = False,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        self.plan_options: dict[str, Any] = {
            "stem_pool": stem_pool,
            "stem_stride": stem_stride,
            "keep_width": keep_width,
            "frozen_norm": norm == "frozen",
        }
        self._built = _sizes(arch)
        self.norm_style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        self.norm_style.check(norm_widths(self.plan(arch)))

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture, whose choices need not be held.

        Raises UsageError for other widths and depths.
        """
        if _sizes(arch) != self._built:
            raise UsageError(
                f"the widths and depths of a ShuffleNetV2 are fixed: it was built at {_text(self._built)}, "
                f"but the architecture has {_text(_sizes(arch))}",
                "Give every width and depth one value in the space; only body.choice may vary.",
            )
        return shufflenet_plan(arch, **self.plan_options)


def _sizes(arch: Arch) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in arch.items if name != CHOICE)


def _text(sizes: tuple[tuple[str, Any], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes)


def shufflenet_plan(
    arch: Arch,
    *,
    stem_pool: bool = True,
    stem_stride: int = 2,
    keep_width: bool = False,
    frozen_norm: bool = False,
) -> Plan:
    """Rows of a ShuffleNetV2 (https://arxiv.org/abs/1807.11164): the stem, the blocks, the last 1x1 conv.

    `arch` has the names below `backbone.`: `stem.width`; `body.width`, even, and `body.depth` of each stage;
    `body.choice`, the block at each position of all stages, from the first to the last (or one for all): 0, 1, 2 for
    kernels of 3, 5, 7, and 3 for three depthwise 3x3 convs (xception); without it all are 0, as in the first paper; and
    `head.width` where there is a last conv. The first block of each stage halves the size, as does the stem, and
    `stem_pool`, a max pool behind it (the first paper has it; with choices there are four stages, and no pool).

    Where a stage begins, its shortcut and its main path give out a half of the channels each; with `keep_width` the
    shortcut as many as it takes and the main path the rest, as in the second paper.

    Features are the ends of the stem and of stages before each halving from a quarter of the image on, and the end.
    Raises UsageError where the parts of `arch` don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, head = arch["stem.width"], arch.get("head.width")
    if not isinstance(stem, int) or not isinstance(head, int | None):
        raise UsageError(f"stem.width and head.width must be integers, but are {stem!r} and {head!r}")
    widths, depths = per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    choices = choices_of(arch)
    outputs = _outputs(len(widths), depths, stem_stride * (2 if stem_pool else 1), stem_stride, head is not None)
    rows = [stem_row(stem, stem_stride, stem_pool, outputs[0], frozen_norm)]
    cin, at = stem, 0
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        rows += _stage(stage, cin, width, choices[at : at + depth], outputs[stage + 1], frozen_norm, keep_width)
        cin, at = width, at + depth
    if head is not None:
        rows.append(head_row(len(widths), cin, head, frozen_norm))
    return tuple(rows)


def choices_of(arch: Arch) -> tuple[int, ...]:
    """The choice of each block. Raises UsageError where their number isn't that of the blocks, or there is no such."""
    blocks = sum(per_stage(arch["body.depth"]))
    choices = arch.get("body.choice", 0)
    choices = (choices,) * blocks if isinstance(choices, int) else choices
    if len(choices) != blocks:
        raise UsageError(
            f"body.choice must have a number for each of the {blocks} blocks of body.depth, but has {len(choices)}"
        )
    if not all(0 <= choice < len(BLOCKS) for choice in choices):
        raise UsageError(f"body.choice must be of 0 to {len(BLOCKS) - 1} ({', '.join(BLOCKS)}), but is {choices}")
    return tuple(choices)


@lru_cache(CACHE)
def _outputs(widths: int, depths: tuple[int, ...], stem: int, stem_stride: int, head: bool) -> tuple[bool, ...]:
    """Whether the stem (which shrinks the image `stem` times) and each stage end in a feature."""
    if widths != len(depths) or not widths or min(depths) < 1:
        raise UsageError(
            f"body.width and body.depth must have one number of at least 1 per stage, but have {widths} and "
            f"{len(depths)}: the depths are {depths}"
        )
    if stem_stride not in (1, 2):
        raise UsageError(f"stem_stride must be 1 or 2, but is {stem_stride}")
    return feature_rows((stem, *(2,) * widths, *((1,) if head else ())))


@lru_cache(CACHE)
def stem_row(width: int, stride: int, pool: bool, output: bool, frozen_norm: bool) -> Row:
    """From 3 channels to `width`: a 3x3 conv, norm, relu, and if wanted a max pool."""
    layers = _conv("", 0, 3, width, frozen_norm, kernel=3, stride=stride)
    if pool:
        layers += (Layer("maxpool", "pool", width, width, kernel=3, stride=2, padding=1),)
    return Row("stem", -1, 0, layers, output)


@lru_cache(CACHE)
def head_row(stage: int, cin: int, width: int, frozen_norm: bool) -> Row:
    """The last 1x1 conv, whose output is a feature."""
    if width < 1:
        raise UsageError(f"head.width must be at least 1, but is {width}")
    return Row("head", stage, 0, _conv("", 0, cin, width, frozen_norm), True)


@lru_cache(4 * CACHE)
def _stage(
    stage: int, cin: int, width: int, choices: tuple[int, ...], output: bool, frozen_norm: bool, keep_width: bool
) -> Plan:
    """The blocks of one stage (from 0)."""
    if cin < 1 or width < 2 or width % 2:
        raise UsageError(f"stage {stage + 1}: its width must be even, and that before at least 1: {width} after {cin}")
    if keep_width and cin >= width:
        raise UsageError(f"stage {stage + 1}: with keep_width its width, {width}, must be above that before, {cin}")
    last = len(choices) - 1
    return tuple(
        block_row(stage, i, width if i else cin, width, choice, output and i == last, frozen_norm, keep_width)
        for i, choice in enumerate(choices)
    )


@lru_cache(CACHE)
def block_row(
    stage: int,
    index: int,
    cin: int,
    cout: int,
    choice: int,
    output: bool,
    frozen_norm: bool,
    keep_width: bool = False,
) -> Row:
    """A block: one half of the output by its convs, of the other half of the input; it halves the size at index 0.

    There both halves are made from the whole input: a kxk filter for each channel and a 1x1 conv make the first one.
    With keep_width that is no half then, but as wide as the input.
    """
    half, kernel, stride = cout // 2, KERNELS[choice], 1 if index else 2
    side = cin if keep_width and not index else half
    main = cout - side
    layers: tuple[Layer, ...]
    if index:
        layers = (Layer("split", "split", cin, half),)
    else:
        layers = _depthwise("branch1.", 0, cin, kernel, stride, frozen_norm, branch=True)
        layers += _conv("branch1.", 2, cin, side, frozen_norm, branch=True)
    into = half if index else cin
    if BLOCKS[choice] == "xception":
        for i in range(3):
            layers += _depthwise("branch2.", 5 * i, into, kernel, 1 if i else stride, frozen_norm)
            layers += _conv("branch2.", 5 * i + 2, into, half if i < 2 else main, frozen_norm)
            into = half
    else:
        layers += _conv("branch2.", 0, into, half, frozen_norm)
        layers += _depthwise("branch2.", 3, half, kernel, stride, frozen_norm)
        layers += _conv("branch2.", 5, half, main, frozen_norm)
    layers += (Layer("concat", "concat", main, cout), Layer("shuffle", "shuffle", cout, cout, groups=2))
    return Row(f"stages.{stage}.{index}.{BLOCKS[choice]}", stage, index, layers, output)


def _conv(
    path: str,
    at: int,
    cin: int,
    cout: int,
    frozen_norm: bool,
    kernel: int = 1,
    stride: int = 1,
    branch: bool = False,
) -> tuple[Layer, ...]:
    return (
        Layer("conv", f"{path}{at}", cin, cout, kernel=kernel, stride=stride, padding=kernel // 2, branch=branch),
        Layer("norm", f"{path}{at + 1}", cout, cout, bias=not frozen_norm, branch=branch),
        Layer("relu", "relu", cout, cout, branch=branch),
    )


def _depthwise(
    path: str, at: int, width: int, kernel: int, stride: int, frozen_norm: bool, branch: bool = False
) -> tuple[Layer, ...]:
    """A kxk filter for each channel, and a norm; no relu, as everywhere in this network."""
    return (
        Layer("conv", f"{path}{at}", width, width, kernel, stride, kernel // 2, groups=width, branch=branch),
        Layer("norm", f"{path}{at + 1}", width, width, bias=not frozen_norm, branch=branch),
    )


def from_torchvision(names: Iterable[str]) -> Mapping[str, str]:
    """The tensors of a torchvision shufflenet_v2_x* by our names; empty for names of anything else."""
    names = tuple(names)
    if "conv1.0.weight" not in names or "stage2.0.branch1.0.weight" not in names:
        return {}
    return {
        name: match.expand(new) + name[match.end() :]
        for name in names
        for old, new in _RENAMED
        if (match := old.match(name))
    }
