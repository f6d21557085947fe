"""A Darknet at one architecture as rows of layers, named as mmdetection's. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.backbones.features import places_of
from searchkit.nas.models.plan import CACHE, Activation, Layer, Plan, Row, check_names, hidden_per_block, per_stage
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

NAMES = ("stem.width", "body.width", "body.depth", "body.hidden")


class Style(NamedTuple):
    """What all convs of a network have in common."""

    activation: Activation = "leaky_relu"
    frozen_norm: bool = False


class DarknetPlan(BodyPlan):
    """What a Darknet (YOLOv3, https://arxiv.org/abs/1804.02767, §2.4) is made of: a 3x3 conv, then stages that each
    begin with a 3x3 conv of stride 2 and go on with residual blocks, 1x1 to half the channels and 3x3 back.

    Darknet-53 is `stem.width` 32, `body.width` 64, 128, 256, 512, 1024 and `body.depth` 1, 2, 8, 8, 4.
    norm and norm_…: see NormStyle. activation: of all convs. features: names such as [c3, c4, c5], see
    features.places_of.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def __init__(
        self,
        arch: Arch,
        *,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
        activation: Activation = "leaky_relu",
        features: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.style = Style(activation, norm == "frozen")
        self.features = None if features is None else tuple(features)
        self.norm_style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        self.norm_style.check(norm_widths(self.plan(arch)))

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return darknet_plan(arch, self.style, self.features)


def darknet_plan(arch: Arch, style: Style, features: tuple[str, ...] | None) -> Plan:
    """Rows of a Darknet: the stem, then of each stage its first conv and its blocks.

    `arch` has the names below `backbone.`: `stem.width`; `body.width` of each stage; `body.depth`, the blocks of each;
    and if wanted `body.hidden`, channels between a block's two convs, as per_block takes it, in place of half of those
    that it gives out. Raises UsageError where they don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, widths, depths = arch["stem.width"], per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    if not isinstance(stem, int) or not len(widths) == len(depths) or not widths:
        raise UsageError(
            f"stem.width must be an integer, and body.width and body.depth have one number for each stage, but they "
            f"are {stem}, {widths} and {depths}"
        )
    if min(stem, *widths, *depths) < 1:
        raise UsageError(f"widths and depths must be at least 1, but they are {stem}, {widths} and {depths}")
    hidden = hidden_per_block(arch.get("body.hidden"), depths)
    ends = places_of((1, *(2 for _ in widths)), False, features).ends
    if features is not None and (wrong := [name for name in features if name.endswith(".expand")]):
        raise UsageError(f"a Darknet widens nothing: there is no feature {wrong[0]!r}")
    rows, cin = [conv_row("conv1", -1, 0, 3, stem, 1, style, ends[0])], stem
    for i, (width, inside) in enumerate(zip(widths, hidden, strict=True)):
        halves = tuple(max(1, width // 2) if each is None else each for each in inside)
        rows += stage_rows(i, cin, width, halves, style, ends[1 + i])
        cin = width
    return tuple(rows)


@lru_cache(CACHE)
def stage_rows(stage: int, cin: int, width: int, hidden: tuple[int, ...], style: Style, output: bool) -> Plan:
    """One stage (from 0), of as many blocks as there are widths inside them."""
    if min(hidden) < 1:
        raise UsageError(f"stage {stage + 1}: body.hidden must be at least 1, but is {hidden}")
    name = f"conv_res_block{stage + 1}"
    last = len(hidden) - 1
    blocks = (block_row(name, stage, i, width, inside, style, output and i == last) for i, inside in enumerate(hidden))
    return (conv_row(f"{name}.conv", stage, 0, cin, width, 2, style), *blocks)


@lru_cache(CACHE)
def conv_row(
    name: str, stage: int, index: int, cin: int, cout: int, stride: int, style: Style, output: bool = False
) -> Row:
    """A 3x3 conv with its norm and activation."""
    return Row(name, stage, index, conv("", cin, cout, 3, style, stride), output)


@lru_cache(CACHE)
def block_row(name: str, stage: int, number: int, width: int, hidden: int, style: Style, output: bool) -> Row:
    """A residual block, counted from 0 behind the stage's first conv."""
    convs = (*conv("conv1.", width, hidden, 1, style), *conv("conv2.", hidden, width, 3, style))
    return Row(f"{name}.res{number}", stage, 1 + number, (*convs, Layer("add", "add", width, width)), output)


def conv(name: str, cin: int, cout: int, kernel: int, style: Style, stride: int = 1) -> tuple[Layer, ...]:
    """A convolution, its norm, and an activation."""
    return (
        Layer("conv", f"{name}conv", cin, cout, kernel=kernel, stride=stride, padding=kernel // 2),
        Layer("norm", f"{name}bn", cout, cout, bias=not style.frozen_norm),
        Layer(style.activation, style.activation, cout, cout),
    )
