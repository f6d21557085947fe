"""What a network is made of at one architecture, as plain data: rows of layers. Pure Python, no torch.

The modules of a network are built from the rows at the maximal architecture, run with the rows at the current one, are
cut out by them, and are priced from them, so that these four can't drift apart. A row is a residual block, a stem, or a
piece of a head; its layers stand in the order in which they run.

A backbone of your own gets all of that with a function `plan(arch) -> Plan`. Make its rows with cached functions, as
here: equal rows are then the same object, and pricing a whole space takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from searchkit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from searchkit.records.arch import Width

Activation = Literal["relu", "relu6", "leaky_relu", "hswish", "swish", "hsigmoid", "sigmoid"]
Kind = Literal[
    "conv",
    "linear",
    "norm",
    Activation,
    "maxpool",
    "avgpool",
    "subsample",
    "nearest",
    "bilinear",
    "mean",
    "gate",
    "add",
    "split",
    "concat",
    "shuffle",
]  # each a row of layer_kinds.KINDS, and of searchkit.nas.nn.kinds.KINDS
Held = Mapping[str, tuple[tuple[int, ...], ...]]  # by dimension, the choices of each position: Space.held()
CACHE = 1 << 14  # rows kept per builder: AR50-101, 85,293 architectures, has under 2,000


@dataclass(frozen=True)
class Layer:
    """One layer. Its input has `cin` channels and its output `cout`; for most kinds the two are equal.

    Some kinds have nothing to learn, and say how the paths of a row meet: "add" adds the shortcut, where there is none
    the row's input; "split" sends the first half of the channels to the shortcut and the second one on; "concat" puts
    the shortcut before the main path; "shuffle" takes the channels of its `groups` in turn; "mean" goes on with the
    mean over all positions, and "gate" multiplies what went into that mean by what was made of it.

    "leaky_relu" is of slope 0.1, Darknet's. "subsample" takes every `stride`-th position; "nearest" and "bilinear" make
    an image `scale` times as large. `bias` of a norm says whether its scale and shift are learnable: a frozen norm has
    none. With `levels` a norm has one of its own for each of so many levels of a pyramid, named by their numbers from
    0, while all else of the row is shared.
    `same`: padding as TensorFlow's SAME, in place of `padding`: an image of n pixels becomes one of n / stride, rounded
    up, and an odd pixel goes to its end. An avgpool rounds its output size up (`ceil_mode=True,
    count_include_pad=False`), as does a maxpool with `ceil`; all else rounds down, as torch does by default.
    """

    kind: Kind
    name: str  # within the row: `row.name + "." + name` is the prefix in the state dict; without a module, any
    cin: int
    cout: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    branch: bool = False  # on the shortcut: the first such layer reads the row's input, not the layer before it
    dilation: int = 1
    same: bool = False
    ceil: bool = False
    scale: int = 1
    levels: int = 0


@dataclass(frozen=True)
class Row:
    """Layers that run one after the other; where some are on a shortcut, its end is added before the last relu.

    With a layer "concat" it is put beside the main path there instead.
    """

    name: str  # "layer1.0"; "" where the layers stand at the top of their network
    stage: int  # from 0; -1: the stem
    index: int  # within the stage, from 0; the shortcut of a stage's row 0 has a conv
    layers: tuple[Layer, ...]
    output: bool = False  # the row's output is one of the backbone's features
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Rows are keys of the caches of nas/cost, millions of times. Of numbers only: their hash is the same in every
        # process, and a row may be pickled.
        sizes = tuple((x.cin, x.cout, x.kernel, x.stride, x.padding, x.groups, x.bias, x.branch) for x in self.layers)
        object.__setattr__(self, "_hash", hash((self.stage, self.index, sizes, self.output)))

    def __hash__(self) -> int:
        return self._hash

    def __getitem__(self, layer_name: str) -> Layer:
        """The first layer of that name. Raises KeyError."""
        for layer in self.layers:
            if layer.name == layer_name:
                return layer
        raise KeyError(f"row {self.name!r} has no layer {layer_name!r}: {[x.name for x in self.layers]}")

    @property
    def cin(self) -> int:
        return self.layers[0].cin

    @property
    def cout(self) -> int:
        return self.layers[-1].cout

    @property
    def stride(self) -> int:
        """Of the row as a whole: the product over its main path."""
        total = 1
        for layer in self.layers:
            if not layer.branch:
                total *= layer.stride
        return total


Plan = tuple[Row, ...]


def squeeze_excite(
    name: str, width: int, hidden: int, gate: Activation = "hsigmoid", activation: Activation = "relu"
) -> tuple[Layer, ...]:
    """Layers of a squeeze-and-excitation (https://arxiv.org/abs/1709.01507), `hidden` channels wide, within a row.

    Its two 1x1 convs are `<name>fc1` and `<name>fc2`, torchvision's names. gate: what makes the factors.
    """
    return (
        Layer("mean", "mean", width, width),
        Layer("conv", f"{name}fc1", width, hidden, bias=True),
        Layer(activation, activation, hidden, hidden),
        Layer("conv", f"{name}fc2", hidden, width, bias=True),
        Layer(gate, gate, width, width),
        Layer("gate", "gate", width, width),
    )


def multiple_of(width: float, divisor: int = 8) -> int:
    """A width as the nearest multiple of `divisor`, at least one of it and never below nine tenths of the width: the
    rule of MobileNets (`_make_divisible`)."""
    near = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * width else near


def channels(plan: Plan) -> tuple[int, ...]:
    """Channels of the features that a backbone gives out, finest first."""
    return tuple(row.cout for row in plan if row.output)


def feature_rows(strides: tuple[int, ...]) -> tuple[bool, ...]:
    """Which parts of a backbone end in a feature, from their strides: the last, and those before one that is above 1.

    What is larger than a quarter of the image is none: strides of 2, five times, give features of 4, 8, 16 and 32.
    """
    total, ends = 1, []
    for stride, after in zip(strides, (*strides[1:], 0), strict=True):
        total *= stride
        ends.append(after == 0 or (after > 1 and total >= 4))
    return tuple(ends)


@lru_cache(CACHE)
def per_block(name: str, value: Width, depths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """A dimension of the blocks as one value for each block of each stage.

    value: one number for all; n for the n stages; or n * D, D >= 2, in slots: that of block i of stage s at s * D + i.
    Slots beyond a stage's depth mean nothing. Raises UsageError for any other length.
    """
    n = len(depths)
    if isinstance(value, int):
        return tuple((value,) * depth for depth in depths)
    if len(value) == n:
        return tuple((v,) * depth for v, depth in zip(value, depths, strict=True))
    slots, remainder = divmod(len(value), n)
    if remainder or slots < max(2, *depths):
        raise UsageError(
            f"{name} must have 1 number, one for each of the {n} stages, or {n} x D for blocks of depths up to D, "
            f"but it has {len(value)}, and body.depth is {depths}"
        )
    return tuple(value[s * slots : s * slots + depth] for s, depth in enumerate(depths))


def hidden_per_block(value: Width | None, depths: tuple[int, ...]) -> tuple[tuple[int | None, ...], ...]:
    """The dimension body.hidden, channels inside each block of each stage, as per_block takes it; None where an
    architecture has none: then a block is so many times wider inside than its input."""
    return tuple((None,) * depth for depth in depths) if value is None else per_block("body.hidden", value, depths)


@lru_cache(CACHE)
def check_names(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises UsageError for a name that a backbone would not read."""
    for name in names:
        if name not in known:
            raise UsageError(f"the backbone has no dimension {name!r}{did_you_mean(name, known)}")


def per_stage(width: Width | None) -> tuple[int, ...]:
    """One value for each stage; of a single stage it may be an int."""
    return (width,) if isinstance(width, int) else tuple(width or ())
