"""A ResNet as rows, named as torchvision's. Pure Python, no torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row, hidden_per_block, per_stage
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

NAMES = ("stem.width", "body.width", "body.depth", "body.kernel", "body.hidden")
EXPANSION = {"bottleneck": 4, "basic": 1}  # block -> output channels over `body.width`


class Style(NamedTuple):
    """What all blocks of a network have in common; see resnet_plan. A tuple, as Block: each arch that is priced asks
    caches by it, and a tuple's hash takes no line of Python."""

    block: str = "bottleneck"
    avg_down: bool = False
    frozen_norm: bool = False


class Block(NamedTuple):
    """One block of a stage, both counted from 0; `output`: what it gives out is a feature."""

    stage: int
    number: int
    cin: int
    width: int
    kernel: int = 3
    stride: int = 1
    shortcut: bool = False
    output: bool = False
    style: Style = Style()
    hidden: int | None = None  # channels inside; None: as `width`

    @property
    def cout(self) -> int:
        return self.width * EXPANSION[self.style.block]


class ResNetPlan(BodyPlan):
    """What a ResNet is made of.

    block: "bottleneck" or "basic". deep_stem, small_stem, avg_down, first_shortcut: see resnet_plan.
    norm and norm_…: see NormStyle. norm_eps: 1e-5; torchvision's Faster R-CNN weights for COCO were trained with frozen
    norms of 0.
    frozen_stages: 0 freezes nothing; n: the stem and the first n stages learn nothing and update no statistics.
    zero_init_residual: every block starts as its shortcut (https://arxiv.org/abs/1706.02677).
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def __init__(
        self,
        arch: Arch,
        *,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        norm: NormName = "bn",
        deep_stem: bool = False,
        avg_down: bool = False,
        first_shortcut: bool = True,
        frozen_stages: int = 0,
        zero_init_residual: bool = False,
        norm_group: int = 16,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
        small_stem: bool = False,
    ) -> None:
        super().__init__()
        self.plan_options: dict[str, Any] = {
            "block": block,
            "deep_stem": deep_stem,
            "avg_down": avg_down,
            "first_shortcut": first_shortcut,
            "frozen_norm": norm == "frozen",
            "small_stem": small_stem,
        }
        self.norm_style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        rows = self.plan(arch)
        self.norm_style.check(norm_widths(rows))
        stages = 1 + rows[-1].stage
        if not 0 <= frozen_stages <= stages:
            raise UsageError(f"frozen_stages must be 0 to {stages}, but is {frozen_stages}")
        if zero_init_residual and norm == "frozen":
            raise UsageError(
                "zero_init_residual needs norms that learn, but norm is frozen", "Leave it out, or use norm: bn."
            )
        self.frozen_stages, self.zero_init_residual = frozen_stages, zero_init_residual

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return resnet_plan(arch, **self.plan_options)


def resnet_plan(
    arch: Arch,
    *,
    block: str = "bottleneck",
    deep_stem: bool = False,
    avg_down: bool = False,
    first_shortcut: bool = True,
    frozen_norm: bool = False,
    small_stem: bool = False,
) -> Plan:
    """Rows of a ResNet (https://arxiv.org/abs/1512.03385), named as torchvision's: the stem, then the blocks.

    `arch` has the names below `backbone.`: `stem.width`; `body.width`, the width of the 3x3 convs of each stage
    (ResNet-50 is 64, 128, 256, 512; a bottleneck gives out four times that); `body.depth`, blocks of each stage; and if
    wanted `body.kernel`, odd, of each stage or one for all, in place of 3; and `body.hidden`, the channels inside each
    block as per_block takes it, so that `body.width` says what blocks give out alone. A bottleneck's stride is on its
    conv2.

    The first block of every stage has a conv on its shortcut whatever the widths, so that it is there in all archs of a
    space. `first_shortcut=False` leaves out that of the first stage: torchvision's ResNet-18 and -34 have none there.
    Then the stem must be as wide as the first stage gives out.

    `small_stem`: one 3x3 conv that keeps the size, and no pooling, as for images of 32 px (mmclassification's
    ResNet_CIFAR). `deep_stem`: three 3x3 convs in place of the 7x7 one, and `avg_down`: the shortcut halves its input
    by average pooling (ResNet-C and -D of https://arxiv.org/abs/1812.01187, with mmdetection's names). `frozen_norm`:
    norms learn nothing. Raises UsageError where the parts of `arch` don't fit together.
    """
    stem = arch["stem.width"]
    if block not in EXPANSION or not isinstance(stem, int):
        known = ", ".join(EXPANSION)
        raise UsageError(
            f"block must be one of {known}, and stem.width an integer, but they are {block!r} and {stem!r}"
        )
    widths, depths = per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    kernels = arch.get("body.kernel", 3)
    kernels = (kernels,) * len(widths) if isinstance(kernels, int) else per_stage(kernels)
    if not len(widths) == len(depths) == len(kernels) or not widths:
        raise UsageError(
            f"body.width, body.depth and body.kernel must have one number per stage, but have {len(widths)}, "
            f"{len(depths)} and {len(kernels)}"
        )
    if small_stem and deep_stem:
        raise UsageError("small_stem and deep_stem are two stems: one of them must be false")
    rows: list[Row] = [stem_row(stem, deep_stem, frozen_norm, small_stem)]
    cin, style = stem, Style(block, avg_down, frozen_norm)
    inside = hidden_per_block(arch.get("body.hidden"), depths)
    for i, (width, hidden, kernel) in enumerate(zip(widths, inside, kernels, strict=True)):
        rows += resnet_stage(i, cin, width, hidden, kernel, first_shortcut or i > 0, style)
        cin = width * EXPANSION[block]
    return tuple(rows)


@lru_cache(CACHE)
def stem_row(width: int, deep: bool, frozen_norm: bool, small: bool = False) -> Row:
    """From 3 channels to `width` at a quarter of the size: 7x7 conv or three 3x3 ones, norm, relu, max pool; `small`:
    at the same size, a 3x3 conv, norm, relu."""
    if small:
        conv = Layer("conv", "conv1", 3, width, kernel=3, padding=1)
        return Row("", -1, 0, (conv, _norm("bn1", width, frozen_norm), Layer("relu", "relu", width, width)))
    if deep:
        half = width // 2
        sizes = ((3, half, 2), (half, half, 1), (half, width, 1))
        layers: tuple[Layer, ...] = ()
        for i, (cin, cout, stride) in enumerate(sizes):
            conv = Layer("conv", f"stem.{3 * i}", cin, cout, kernel=3, stride=stride, padding=1)
            layers += (
                conv,
                _norm(f"stem.{3 * i + 1}", cout, frozen_norm),
                Layer("relu", f"stem.{3 * i + 2}", cout, cout),
            )
    else:
        conv = Layer("conv", "conv1", 3, width, kernel=7, stride=2, padding=3)
        layers = (conv, _norm("bn1", width, frozen_norm), Layer("relu", "relu", width, width))
    pool = Layer("maxpool", "maxpool", width, width, kernel=3, stride=2, padding=1)
    return Row("", -1, 0, (*layers, pool))


@lru_cache(CACHE)
def resnet_stage(
    stage: int, cin: int, width: int, hidden: tuple[int | None, ...], kernel: int, shortcut: bool, style: Style
) -> tuple[Row, ...]:
    """The blocks of one stage (from 0), of as many as `hidden` has values. All but the first stage halve the size, in
    their first block."""
    block = Block(stage, 0, width * EXPANSION[style.block], width, kernel, style=style)
    depth = len(hidden)
    if kernel % 2 == 0 or min(cin, width, depth, kernel, *(1 if each is None else each for each in hidden)) < 1:
        inside = "" if None in hidden else f", hidden {hidden}"
        raise UsageError(
            f"stage {stage + 1}: widths and depth must be at least 1 and the kernel odd, but they are width {width} "
            f"after {cin}, depth {depth}, kernel {kernel}{inside}"
        )
    if not shortcut and cin != block.cout:
        raise UsageError(
            f"stage {stage + 1}: without a conv on the shortcut, the stem must be as wide as the stage gives out "
            f"({block.cout}), but it is {cin} wide",
            "Set first_shortcut to true, or tie the two widths.",
        )
    first = block._replace(cin=cin, stride=2 if stage else 1, shortcut=shortcut)
    blocks = (first, *(block._replace(number=i) for i in range(1, depth)))
    return tuple(
        resnet_row(each._replace(output=each.number == depth - 1, hidden=inside))
        for each, inside in zip(blocks, hidden, strict=True)
    )


@lru_cache(CACHE)
def resnet_row(block: Block) -> Row:
    """One residual block: bottleneck (1x1, kxk, 1x1) or basic (kxk, kxk), and the conv on its shortcut, if any."""
    cin, cout, kernel, stride = block.cin, block.cout, block.kernel, block.stride
    mid = block.width if block.hidden is None else block.hidden
    frozen = block.style.frozen_norm
    convs: tuple[tuple[int, int, int, int], ...] = ((cin, mid, kernel, stride), (mid, cout, kernel, 1))
    if block.style.block == "bottleneck":
        convs = ((cin, mid, 1, 1), (mid, mid, kernel, stride), (mid, cout, 1, 1))
    layers: list[Layer] = []
    for i, (a, b, k, s) in enumerate(convs, 1):
        if i > 1:
            layers.append(Layer("relu", "relu", a, a))
        layers.append(Layer("conv", f"conv{i}", a, b, kernel=k, stride=s, padding=k // 2))
        layers.append(_norm(f"bn{i}", b, frozen))
    if block.shortcut:
        at = 0
        if block.style.avg_down:  # mmdetection has the pool in every stage; at stride 1 it does nothing
            layers.append(Layer("avgpool", "downsample.0", cin, cin, kernel=stride, stride=stride, branch=True))
            at, stride = 1, 1
        layers.append(Layer("conv", f"downsample.{at}", cin, cout, stride=stride, branch=True))
        layers.append(_norm(f"downsample.{at + 1}", cout, frozen, branch=True))
    layers.append(Layer("relu", "relu", cout, cout))
    return Row(f"layer{block.stage + 1}.{block.number}", block.stage, block.number, tuple(layers), block.output)


def _norm(name: str, width: int, frozen: bool, branch: bool = False) -> Layer:
    return Layer("norm", name, width, width, bias=not frozen, branch=branch)
