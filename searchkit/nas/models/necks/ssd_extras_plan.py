"""The extra levels of an SSD as rows. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, feature, level
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row, multiple_of
from searchkit.nas.styles import Transform
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import LATER, Count, Fraction, Positive, Whole

if TYPE_CHECKING:
    from searchkit.records.arch import Arch, Width


@dataclass(frozen=True, kw_only=True)
class SSDExtrasOptions:
    """Levels behind the backbone's features.

    An extra level is a block of a 1x1 conv, a filter for each channel at stride 2, and a 1x1 conv, each with a norm and
    an activation, but none at the end if `linear`. Defaults are aw_nas'; torchvision's SSDLite has hidden_of: out,
    linear: false, activation: relu6, norm_eps: 0.001 and norm_momentum: 0.03.
    """

    features: Count = 2  # of the backbone's features, so many, the coarsest, are levels
    channels: tuple[Count, ...] = (512, 256, 256, 128)  # of each extra level, where the space has no `neck.width`
    kernel: Count = 3  # of the filters, where the space has no `neck.kernel`; odd
    hidden: Positive = 0.5  # channels inside a block, where the space has no `neck.hidden`: so many times ...
    hidden_of: Literal["in", "out"] = "in"  # ... those that go in, or come out, in multiples of 8
    activation: Literal["relu", "relu6"] = "relu"
    linear: bool = True  # no activation at the end of a block
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1
    norm: Literal["bn", "sync_bn"] = field(default="bn", metadata=LATER)
    norm_ranks: Whole = field(default=0, metadata=LATER)  # of a training, whose images a sync_bn sees together; 0: all
    transform: Transform = field(default="none", metadata=LATER)  # of the largest kernel to smaller ones, see backbones

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # a list of a YAML file
        refuse(self._faults())

    def _faults(self) -> Iterator[At]:
        if self.features < 1:
            yield At("features", f"must be at least 1, but is {self.features}")
        if any(c < 1 for c in self.channels):
            yield At("channels", f"must be at least 1, but are {list(self.channels)}")
        for name in ("hidden", "norm_eps"):
            if not getattr(self, name) > 0:
                yield At(name, f"must be above 0, but is {getattr(self, name):g}")
        if not 0 <= self.norm_momentum <= 1:
            yield At("norm_momentum", f"must be from 0 to 1, but is {self.norm_momentum:g}")


class SSDExtrasPlan:
    """What an SSD's neck is made of: the backbone's last features as they are, and levels behind them, each half the
    size of the one before.

    `neck.width` of an architecture are the channels of the extra levels, `neck.hidden` those inside their blocks,
    `neck.kernel` the sizes of their filters: one number for all, or one for each. All three may be left out.
    """

    Options: ClassVar[type] = SSDExtrasOptions
    NAMES: ClassVar[tuple[str, ...]] = ("width", "hidden", "kernel")
    CHOICES: ClassVar[tuple[str, ...]] = ("kernel",)
    MODULE: ClassVar[str] = "extra"

    def __init__(self, options: SSDExtrasOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """See Neck of searchkit.nas.models.part."""
        return _pieces(self.rows(arch, features), len(features), self.options.features)

    def rows(self, arch: Arch, features: Channels) -> Plan:
        """The blocks at an architecture, a row for each extra level. Raises UsageError where they don't fit."""
        width, kernel = arch.get("width", self.options.channels), arch.get("kernel", self.options.kernel)
        return block_rows(features[-1], width, arch.get("hidden"), kernel, self.options)


@lru_cache(CACHE)
def block_rows(cin: int, width: Width, hidden: Width | None, kernel: Width, options: SSDExtrasOptions) -> Plan:
    """The blocks on a feature of `cin` channels, each argument one number for all or one for each."""
    widths = _each("neck.width", width, len(options.channels))
    kernels = _each("neck.kernel", kernel, len(widths))
    inside = None if hidden is None else _each("neck.hidden", hidden, len(widths))
    rows = []
    for i, cout in enumerate(widths):
        mid = inside[i] if inside else multiple_of(options.hidden * (cin if options.hidden_of == "in" else cout))
        rows.append(_block(i, cin, mid, cout, kernels[i], options.activation, options.linear))
        cin = cout
    return tuple(rows)


def _each(name: str, value: Width, levels: int) -> tuple[int, ...]:
    values = (value,) * levels if isinstance(value, int) else value
    if len(values) != levels:
        raise Misfit(
            f"{name} must have 1 number, or one for each extra level, of which neck_options.channels names {levels}, "
            f"but it has {len(values)}",
            keys=(f"space.{name}", "model.neck_options.channels"),
        )
    return values


@lru_cache(CACHE)
def _block(
    extra: int, cin: int, hidden: int, cout: int, kernel: int, activation: Literal["relu", "relu6"], linear: bool
) -> Row:
    if min(cin, hidden, cout, kernel) < 1 or kernel % 2 == 0:
        raise Misfit(
            f"extra level {extra + 1}: widths must be at least 1 and kernels odd, but it is {cin} wide before, "
            f"{hidden} inside and {cout} behind, of kernel {kernel}",
            keys=(
                "space.neck.kernel" if kernel < 1 or kernel % 2 == 0 else "space.neck.width",
                "space.neck.hidden",
                "model.neck_options.kernel" if kernel < 1 or kernel % 2 == 0 else "model.neck_options.channels",
            ),
        )

    def conv(name: str, cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> tuple[Layer, ...]:
        return (
            Layer("conv", f"{name}.0", cin, cout, kernel=kernel, stride=stride, padding=kernel // 2, groups=groups),
            Layer("norm", f"{name}.1", cout, cout, bias=True),
            Layer(activation, activation, cout, cout),
        )

    layers = (
        *conv("0", cin, hidden),
        *conv("1", hidden, hidden, kernel=kernel, stride=2, groups=hidden),
        *conv("2", hidden, cout),
    )
    return Row(f"{extra}", extra, 0, layers[:-1] if linear else layers, output=True)


@lru_cache(CACHE)
def _pieces(rows: Plan, features: int, taken: int) -> Pieces:
    """Where the blocks run: the last `taken` of so many features are levels as they are, and each block makes one more
    of the one before. Raises UsageError for too few features."""
    if features < taken:
        raise Misfit(
            f"the SSD's neck takes the last {taken} features of the backbone, but it gives out {features}",
            "Set neck_options.features, or the features that the backbone gives out.",
            keys=("model.neck_options.features", "model.backbone_options.features"),
        )
    taps = tuple(Piece((), feature(i), "level") for i in range(features - taken, features))
    return (*taps, Piece(rows, level(-1), "level")) if rows else taps
