"""Networks of inverted residual blocks at one architecture, as rows of layers. No torch.

A block widens its input (1x1 conv), has one kxk filter for each channel, weighs the channels if wanted
(squeeze-and-excitation), and narrows again (1x1 conv). MobileNetV2 and V3, EfficientNet-Lite and AttentiveNAS are such
networks: each says in its own file what its stages have, and what other packages call its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, get_args

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.backbones.features import places_of
from searchkit.nas.models.plan import (
    CACHE,
    Activation,
    Held,
    Layer,
    Plan,
    Row,
    check_names,
    hidden_per_block,
    multiple_of,
    per_block,
    per_stage,
    squeeze_excite,
)
from searchkit.nas.styles import NormStyle, Transform, check_transform

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

KERNEL = "body.kernel"
NAMES = ("stem.width", "body.width", "body.depth", KERNEL, "body.expand", "body.hidden", "head.width")


class Style(NamedTuple):
    """What the blocks of a stage have in common; of the stem and the last conv what applies to them."""

    activation: Activation = "relu6"
    squeeze: bool = False  # squeeze-and-excitation behind the filters, a quarter as wide inside
    pooled: bool = False  # every block has a shortcut: where sizes differ, of an average pool and a 1x1 conv, no norm
    same: bool = False  # padding as TensorFlow's SAME
    frozen_norm: bool = False
    divisor: int = 8  # what a block is wide inside is a multiple of, where `body.expand` says it


class Stages(NamedTuple):
    """A network but for its architecture: what plan_of makes rows for.

    A stage whose stride is 2 halves the image in its first block. features: their names, see features.places_of.
    """

    strides: tuple[int, ...]
    styles: tuple[Style, ...]
    stem: Style
    head: Style
    stem_stride: int = 2
    features: tuple[str, ...] | None = None
    head_expand: int = 0  # without `head.width`, the last conv is so many times as wide as the last stage; 0: none


class Block(NamedTuple):
    """One block of a stage, both counted from 0. `output`: what it gives out is a feature; `tap`: what it is widened
    to is one, so the block is two rows."""

    stage: int
    number: int
    cin: int
    widens: bool
    hidden: int
    cout: int
    kernel: int
    stride: int
    style: Style
    output: bool = False
    tap: bool = False


class MBConvPlan(BodyPlan):
    """What a network of inverted residual blocks is made of; a subclass has its options.

    held: the choices of a supernet's space, which the modules of a supernet are made by, and no row of its plan.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES
    CHOICES: ClassVar[tuple[str, ...]] = ("stem.width", "body.width", KERNEL)

    def __init__(
        self,
        arch: Arch,
        stages: Stages,
        norm: NormStyle,
        *,
        held: Held | None = None,
        transform: Transform = "none",
        zero_last_norms: bool = False,
    ) -> None:
        super().__init__()
        check_transform(transform)
        self.stages_plan, self.norm_style = stages, norm
        norm.check(norm_widths(self.plan(arch)))

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return plan_of(arch, self.stages_plan)


def stages_of(
    strides: Sequence[int],
    stem: Style,
    *,
    activations: Sequence[Activation] | Activation,
    squeeze: Sequence[bool] | bool = False,
    stem_stride: int = 2,
    features: Sequence[str] | None = None,
) -> Stages:
    """A network whose stages differ in stride, activation and squeeze-and-excitation, each one for all or one a stage;
    the rest is as in the stem. Raises UsageError where their numbers differ."""
    n = len(strides)
    acts = (activations,) * n if isinstance(activations, str) else tuple(activations)
    squeezes = (squeeze,) * n if isinstance(squeeze, bool) else tuple(squeeze)
    if not len(acts) == len(squeezes) == n or not n:
        raise UsageError(
            f"strides, activations and squeeze must have one value for each stage, but have {n}, {len(acts)} and "
            f"{len(squeezes)}"
        )
    wrong = [a for a in (stem.activation, *acts) if a not in get_args(Activation)]
    if wrong:
        known = get_args(Activation)
        raise UsageError(
            f"an activation must be one of {', '.join(known)}, not {wrong[0]!r}{did_you_mean(wrong[0], known)}"
        )
    if any(s not in (1, 2) for s in (stem_stride, *strides)):
        raise UsageError(f"strides must be 1 or 2, but are {stem_stride} of the stem and {strides} of the stages")
    styles = tuple(stem._replace(activation=a, squeeze=s) for a, s in zip(acts, squeezes, strict=True))
    return Stages(tuple(strides), styles, stem, stem, stem_stride, None if features is None else tuple(features))


def plan_of(arch: Arch, net: Stages, *, whole: bool = False) -> Plan:
    """Rows of a network at an architecture: the stem, the blocks, the last 1x1 conv.

    `arch` has the names below `backbone.`: `stem.width`; `body.width` and `body.depth` of each stage; `body.expand`,
    how many times wider a block is inside than its input, in multiples of the style's divisor, and if wanted
    `body.kernel`, odd, in place of 3, each as per_block takes it; and `head.width` where there is a last conv. A block
    of expand 1 has no conv that widens: its filters work on its input. With `body.hidden`, the channels inside each
    block (0: as wide as its input), which blocks these are is all that `body.expand` says. A block is added to its
    input where that is possible, at stride 1 if it is as wide; a `pooled` one always.

    whole: with every conv that an architecture of other widths would have on the first shortcut of a stage. Raises
    UsageError where the parts of `arch` don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, head = arch["stem.width"], arch.get("head.width")
    if not isinstance(stem, int) or not isinstance(head, int | None):
        raise UsageError(f"stem.width and head.width must be integers, but are {stem!r} and {head!r}")
    widths, depths = per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    _check_numbers(len(widths), len(depths), len(net.strides))
    kernels = per_block("body.kernel", arch.get("body.kernel", 3), depths)
    expands = per_block("body.expand", arch["body.expand"], depths)
    hidden = hidden_per_block(arch.get("body.hidden"), depths)
    if head is None and net.head_expand:
        head = net.head_expand * widths[-1]
    outputs, widened = places_of((net.stem_stride, *net.strides), head is not None, net.features)
    rows = [stem_row(stem, net.stem_stride, net.stem, outputs[0])]
    cin = stem
    for i, width in enumerate(widths):
        rows += _stage(
            i,
            cin,
            width,
            kernels[i],
            expands[i],
            hidden[i],
            net.strides[i],
            net.styles[i],
            outputs[i + 1],
            widened[i + 1],
            whole,
        )
        cin = width
    if head is not None:
        rows.append(head_row(len(widths), cin, head, net.head, outputs[-1]))
    return tuple(rows)


@lru_cache(CACHE)
def _check_numbers(widths: int, depths: int, strides: int) -> None:
    if not widths == depths == strides:
        raise UsageError(
            f"body.width and body.depth must have one number for each of the {strides} strides, but have {widths} and "
            f"{depths}",
            "Set the option strides: a list of the stride, 1 or 2, of each stage.",
        )


@lru_cache(CACHE)
def stem_row(width: int, stride: int, style: Style, output: bool) -> Row:
    """From 3 channels to `width`: a 3x3 conv, norm, activation."""
    return Row("stem", -1, 0, conv("", 3, width, style, kernel=3, stride=stride), output)


@lru_cache(CACHE)
def head_row(stage: int, cin: int, width: int, style: Style, output: bool) -> Row:
    """The last 1x1 conv, norm, activation."""
    if width < 1:
        raise UsageError(f"head.width must be at least 1, but is {width}")
    return Row("head", stage, 0, conv("", cin, width, style), output)


@lru_cache(4 * CACHE)
def _stage(
    stage: int,
    cin: int,
    width: int,
    kernels: tuple[int, ...],
    expands: tuple[int, ...],
    hidden: tuple[int | None, ...],
    stride: int,
    style: Style,
    output: bool,
    tap: bool,
    whole: bool,
) -> Plan:
    """The rows of one stage (from 0), of as many blocks as there are kernels."""
    if min(cin, width, len(kernels), *kernels, *expands) < 1 or any(k % 2 == 0 for k in kernels):
        raise UsageError(
            f"stage {stage + 1}: widths, depth and expand must be at least 1 and kernels odd, but they are width "
            f"{width} after {cin}, depth {len(kernels)}, expand {expands}, kernels {kernels}"
        )
    rows: list[Row] = []
    last = len(kernels) - 1
    for i, (kernel, expand, inside) in enumerate(zip(kernels, expands, hidden, strict=True)):
        before = width if i else cin
        if inside is not None and (inside not in (0, before) if expand == 1 else inside < 1):
            raise UsageError(
                f"stage {stage + 1}: body.hidden of block {i + 1} is {inside}, but must be at least 1, and of a block "
                f"of expand 1 as wide as its input, {before}, or 0, which says the same"
            )
        mid = inside or (before if expand == 1 else multiple_of(before * expand, style.divisor))
        block = Block(stage, i, before, expand > 1, mid, width, kernel, 1 if i else stride, style, output and i == last)
        rows += block_rows(block._replace(tap=tap and i == 0), whole and i == 0)
    return tuple(rows)


@lru_cache(CACHE)
def block_rows(block: Block, whole: bool = False) -> Plan:
    """An inverted residual, as one row; as two where what it is widened to is a feature."""
    cin, hidden, cout, stride, style = block.cin, block.hidden, block.cout, block.stride, block.style
    name = f"stages.{block.stage}.{block.number}"
    wide = conv("expand.", cin, hidden, style) if block.widens else ()
    layers = conv("depthwise.", hidden, hidden, style, kernel=block.kernel, stride=stride, groups=hidden)
    if style.squeeze:
        layers += squeeze_excite("se.", hidden, multiple_of(hidden // 4))
    layers += conv("project.", hidden, cout, style)[:-1]
    if not block.tap:
        layers = (*wide, *layers, *_joined(block, whole))
        return (Row(name, block.stage, block.number, layers, block.output),)
    if not wide or style.pooled:
        reason = "has a shortcut around it" if style.pooled else "is not widened (expand 1)"
        raise UsageError(
            f"stage {block.stage + 1}: what its first block is widened to can't be a feature: that block {reason}",
            "Take the feature before it, without `.expand`.",
        )
    tap = Row(f"{name}.expand", block.stage, block.number, conv("", cin, hidden, style), True)
    return (tap, Row(name, block.stage, block.number, layers, block.output))


def _joined(block: Block, whole: bool) -> tuple[Layer, ...]:
    """How a block's output meets its input."""
    cin, cout, stride = block.cin, block.cout, block.stride
    if not block.style.pooled:
        return (Layer("add", "add", cout, cout),) if stride == 1 and cin == cout else ()
    layers: tuple[Layer, ...] = ()
    if stride > 1:
        layers += (Layer("avgpool", "shortcut.pool", cin, cin, kernel=stride, stride=stride, branch=True),)
    if cin != cout or whole:
        layers += (Layer("conv", "shortcut.conv", cin, cout, branch=True),)
    return (*layers, Layer("add", "add", cout, cout))


def conv(
    name: str, cin: int, cout: int, style: Style, kernel: int = 1, stride: int = 1, groups: int = 1
) -> tuple[Layer, ...]:
    """A convolution, its norm, and an activation."""
    activation, same = style.activation, style.same and kernel > 1
    padding = 0 if same else kernel // 2
    return (
        Layer("conv", f"{name}0", cin, cout, kernel, stride, padding, groups, same=same),
        Layer("norm", f"{name}1", cout, cout, bias=not style.frozen_norm),
        Layer(activation, activation, cout, cout),
    )
