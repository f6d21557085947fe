"""BigNAS's ResNet of basic blocks, as United-Perception has it, as rows of layers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body_plan import BodyPlan, norm_widths
from searchkit.nas.models.backbones.features import places_of
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row, check_names, multiple_of, per_stage
from searchkit.nas.styles import NormName, NormStyle

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

NAMES = ("stem.width", "stem.kernel", "body.width", "body.depth", "body.kernel", "body.expand")


class Style(NamedTuple):
    """A network but for its architecture; see big_resnet_plan."""

    deep_stem: bool = True
    stem_expand: float = 0.5
    expand: tuple[float, ...] | float = 1.0
    pool: bool = True
    features: tuple[str, ...] | None = None
    frozen_norm: bool = False


DEFAULT = Style()


class Block(NamedTuple):
    """One block of a stage, both counted from 0; `output`: what it gives out is a feature."""

    stage: int
    number: int
    cin: int
    hidden: int
    cout: int
    kernel: int
    stride: int
    shortcut: bool
    output: bool
    frozen_norm: bool


class BigResNetPlan(BodyPlan):
    """What this ResNet is made of.

    deep_stem, stem_expand, pool: see big_resnet_plan; expand: where the arch has no `body.expand`, fractions too.
    features: names such as [c3, c4, c5], see features.places_of.
    norm and norm_…: see NormStyle. zero_init_residual: every block starts as its shortcut.
    """

    NAMES: ClassVar[tuple[str, ...]] = NAMES
    CHOICES: ClassVar[tuple[str, ...]] = ("stem.width", "body.width")

    def __init__(
        self,
        arch: Arch,
        *,
        deep_stem: bool = True,
        stem_expand: float = 0.5,
        expand: float | Sequence[float] = 1.0,
        pool: bool = True,
        features: Sequence[str] | None = None,
        zero_init_residual: bool = True,
        norm: NormName = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        named = None if features is None else tuple(features)
        expands = tuple(expand) if isinstance(expand, Sequence) else expand
        self.style = Style(deep_stem, stem_expand, expands, pool, named, norm == "frozen")
        self.norm_style = NormStyle(norm, norm_group, norm_eps, ranks=norm_ranks)
        self.norm_style.check(norm_widths(self.plan(arch)))
        self.zero_last_norms = zero_init_residual and norm != "frozen"

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture."""
        return big_resnet_plan(arch, self.style)


def big_resnet_plan(arch: Arch, style: Style = DEFAULT, *, whole: bool = False) -> Plan:
    """Rows of the network: the stem, then the blocks of two kxk convs (https://arxiv.org/abs/1512.03385).

    `arch` has the names below `backbone.`: `stem.width`, `body.width` (what each stage gives out) and `body.depth`; and
    if wanted `stem.kernel` and `body.kernel`, odd, in place of 3, and `body.expand`, how many times wider than what it
    gives out a block is inside, in multiples of 8, in place of the style's `expand`; each of one stage or one for all.

    A deep stem has three convs, `stem_expand` times as wide inside as it gives out; else there is one. With `pool` the
    stem ends in a 2x2 max pool, whose output size is rounded up, without it the first stage halves the image.

    A block has a conv on its shortcut only where its width or size changes, so that a supernet owns it in the first
    block of each stage (`whole`), and an architecture the one that it uses: United-Perception's own it, and count its
    parameters, everywhere. Raises UsageError where the parts of `arch` don't fit together.
    """
    check_names(arch.names, NAMES)
    stem, kernel = arch["stem.width"], arch.get("stem.kernel", 3)
    if not isinstance(stem, int) or not isinstance(kernel, int):
        raise UsageError(f"stem.width and stem.kernel must be integers, but are {stem!r} and {kernel!r}")
    widths, depths = per_stage(arch["body.width"]), per_stage(arch["body.depth"])
    kernels = _each("body.kernel", arch.get("body.kernel", 3), len(widths))
    expands = _each("body.expand", arch.get("body.expand", style.expand), len(widths))
    if len(widths) != len(depths) or not widths:
        raise UsageError(
            f"body.width and body.depth must have one number per stage, but have {len(widths)} and {len(depths)}"
        )
    outputs = places_of((2,) * (1 + len(widths)), False, style.features).ends
    rows = list(stem_rows(stem, kernel, style, outputs[0]))
    cin = stem
    for i, (width, depth, k, expand) in enumerate(zip(widths, depths, kernels, expands, strict=True)):
        stride = 2 if i or not style.pool else 1
        rows += _stage(i, cin, width, depth, k, expand, stride, outputs[i + 1], whole, style.frozen_norm)
        cin = width
    return tuple(rows)


def _each(name: str, value: Any, stages: int) -> tuple[Any, ...]:
    """One value for each stage."""
    values = value if isinstance(value, tuple) else (value,) * stages
    if len(values) != stages:
        raise UsageError(f"{name} must have 1 number, or one for each of the {stages} stages, but it has {len(values)}")
    return values


@lru_cache(CACHE)
def stem_rows(width: int, kernel: int, style: Style, output: bool) -> Plan:
    """From 3 channels to `width`; the pool is a row of its own, behind the feature."""
    if width < 1 or kernel < 1 or kernel % 2 == 0:
        raise UsageError(f"stem.width must be at least 1 and stem.kernel odd, but they are {width} and {kernel}")
    mid = multiple_of(width * style.stem_expand)
    sizes = ((3, mid, 2), (mid, mid, 1), (mid, width, 1)) if style.deep_stem else ((3, width, 2),)
    layers: tuple[Layer, ...] = ()
    for i, (cin, cout, stride) in enumerate(sizes):
        layers += _conv(f"{3 * i}", f"{3 * i + 1}", cin, cout, kernel, stride, style.frozen_norm)
        layers += (Layer("relu", "relu", cout, cout),)
    stem = Row("stem", -1, 0, layers, output)
    if not style.pool:
        return (stem,)
    return (stem, Row("pool", -1, 1, (Layer("maxpool", "0", width, width, kernel=2, stride=2, ceil=True),)))


@lru_cache(CACHE)
def _stage(
    stage: int,
    cin: int,
    width: int,
    depth: int,
    kernel: int,
    expand: float,
    stride: int,
    output: bool,
    whole: bool,
    frozen_norm: bool,
) -> Plan:
    if kernel % 2 == 0 or min(cin, width, depth, kernel) < 1 or not expand > 0:
        raise UsageError(
            f"stage {stage + 1}: widths and depth must be at least 1, the kernel odd and expand above 0, but they are "
            f"width {width} after {cin}, depth {depth}, kernel {kernel}, expand {expand}"
        )
    hidden, rows = multiple_of(width * expand), []
    for i in range(depth):
        before, step = (width, 1) if i else (cin, stride)
        shortcut = before != width or step > 1 or (whole and i == 0)
        out = output and i == depth - 1
        rows.append(block_row(Block(stage, i, before, hidden, width, kernel, step, shortcut, out, frozen_norm)))
    return tuple(rows)


@lru_cache(CACHE)
def block_row(block: Block) -> Row:
    """A residual block: two kxk convs, and the conv on its shortcut, if any."""
    cin, hidden, cout, kernel, frozen = block.cin, block.hidden, block.cout, block.kernel, block.frozen_norm
    layers = _conv("conv1", "bn1", cin, hidden, kernel, block.stride, frozen)
    layers += (Layer("relu", "relu", hidden, hidden),)
    layers += _conv("conv2", "bn2", hidden, cout, kernel, 1, frozen)
    if block.shortcut:
        layers += _conv("downsample.0", "downsample.1", cin, cout, 1, block.stride, frozen, branch=True)
    layers += (Layer("add", "add", cout, cout), Layer("relu", "relu", cout, cout))
    return Row(f"layer{block.stage + 1}.{block.number}", block.stage, block.number, layers, block.output)


def _conv(
    name: str, norm: str, cin: int, cout: int, kernel: int, stride: int, frozen_norm: bool, branch: bool = False
) -> tuple[Layer, ...]:
    return (
        Layer("conv", name, cin, cout, kernel, stride, kernel // 2, branch=branch),
        Layer("norm", norm, cout, cout, bias=not frozen_norm, branch=branch),
    )
