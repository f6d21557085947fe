"""What a network is made of at one architecture, as plain data: rows of layers. Pure Python, no torch.

The modules of a network are built from the rows at the maximal architecture, run with the rows at the current one, are
cut out by them, and are priced from them, so that these four can't drift apart. A row is a residual block, a stem, or a
piece of a head; its layers stand in the order in which they run.

A backbone of your own gets all of that with a function `plan(arch) -> Plan`. Make its rows with cached functions, as
here: equal rows are then the same object, and pricing a whole space takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from searchkit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from searchkit.space.arch import Arch, Width

Kind = Literal["conv", "norm", "relu", "relu6", "maxpool", "avgpool", "linear", "add", "split", "concat", "shuffle"]
EXPANSION = {"bottleneck": 4, "basic": 1}  # block -> output channels over `body.width`
CACHE = 1 << 14  # rows kept per builder: AR50-101, 85,293 architectures, has under 2,000


@dataclass(frozen=True)
class Layer:
    """One layer. Its input has `cin` channels and its output `cout`; for norm, relu and pools the two are equal.

    Four kinds have nothing to learn, and say how the paths of a row meet: "add" adds the row's input; "split" sends the
    first half of the channels to the shortcut and the second one on; "concat" puts the shortcut before the main path;
    "shuffle" takes the channels of its `groups` in turn.

    `bias` of a norm says whether its scale and shift are learnable: a frozen norm has none. An avgpool rounds its
    output size up (`ceil_mode=True, count_include_pad=False`), all else rounds down, as torch does by default.
    """

    kind: Kind
    name: str  # within the row: `row.name + "." + name` is the prefix in the state dict; "relu" may come more than once
    cin: int
    cout: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    branch: bool = False  # on the shortcut: the first such layer reads the row's input, not the layer before it


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
        # Rows are keys of the caches of searchkit.cost, millions of times. Of numbers only: their hash is the same in
        # every process, and a row may be pickled.
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


def out_size(layer: Layer, size: int) -> int:
    """Height (or width) of a layer's output in pixels, from that of its input: torch's formulas."""
    room = size + 2 * layer.padding - layer.kernel
    return (-(-room // layer.stride) if layer.kind == "avgpool" else room // layer.stride) + 1


def channels(plan: Plan) -> tuple[int, ...]:
    """Channels of the features that a backbone gives out, finest first."""
    return tuple(row.cout for row in plan if row.output)


def feature_rows(strides: tuple[int, ...]) -> tuple[bool, ...]:
    """Which parts of a backbone end in a feature, from their strides: the last, and those before one that is above 1.

    What is larger than a quarter of the image is none: strides of 2, five times, give features of 4, 8, 16 and 32.
    """
    total, found = 1, []
    for stride, after in zip(strides, (*strides[1:], 0), strict=True):
        total *= stride
        found.append(after == 0 or (after > 1 and total >= 4))
    return tuple(found)


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
    slots, rest = divmod(len(value), n)
    if rest or slots < max(2, *depths):
        raise UsageError(
            f"{name} must have 1 number, one for each of the {n} stages, or {n} x D for blocks of depths up to D, "
            f"but it has {len(value)}, and body.depth is {depths}"
        )
    return tuple(value[s * slots : s * slots + depth] for s, depth in enumerate(depths))


@lru_cache(CACHE)
def check_names(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises UsageError for a name that a backbone would not read."""
    for name in names:
        if name not in known:
            raise UsageError(f"the backbone has no dimension {name!r}{did_you_mean(name, known)}")


def resnet_plan(
    arch: Arch,
    *,
    block: str = "bottleneck",
    deep_stem: bool = False,
    avg_down: bool = False,
    first_shortcut: bool = True,
    frozen_norm: bool = False,
) -> Plan:
    """Rows of a ResNet (https://arxiv.org/abs/1512.03385), named as torchvision's: the stem, then the blocks.

    `arch` has the names below `backbone.`: `stem.width`; `body.width`, the width of the 3x3 convs of each stage
    (ResNet-50 is 64, 128, 256, 512; a bottleneck gives out four times that); `body.depth`, blocks of each stage; and if
    wanted `body.kernel`, odd, of each stage or one for all, in place of 3. A bottleneck's stride is on its conv2.

    The first block of every stage has a conv on its shortcut whatever the widths, so that it is there in all archs of a
    space. `first_shortcut=False` leaves out that of the first stage: torchvision's ResNet-18 and -34 have none there.
    Then the stem must be as wide as the first stage gives out.

    `deep_stem`: three 3x3 convs in place of the 7x7 one, and `avg_down`: the shortcut halves its input by average
    pooling (ResNet-C and -D of https://arxiv.org/abs/1812.01187, with mmdetection's names). `frozen_norm`: norms learn
    nothing. Raises UsageError where the parts of `arch` don't fit together.
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
    rows: list[Row] = [stem_row(stem, deep_stem, frozen_norm)]
    cin = stem
    for stage, (mid, depth, kernel) in enumerate(zip(widths, depths, kernels, strict=True)):
        shortcut = first_shortcut or stage > 0
        rows += resnet_stage(stage, cin, mid, depth, kernel, block, avg_down, shortcut, frozen_norm)
        cin = mid * EXPANSION[block]
    return tuple(rows)


def per_stage(width: Width | None) -> tuple[int, ...]:
    """One value for each stage; of a single stage it may be an int."""
    return (width,) if isinstance(width, int) else tuple(width or ())


@lru_cache(CACHE)
def stem_row(width: int, deep: bool, frozen_norm: bool) -> Row:
    """From 3 channels to `width` at a quarter of the size: 7x7 conv or three 3x3 ones, norm, relu, max pool."""
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
    stage: int,
    cin: int,
    mid: int,
    depth: int,
    kernel: int,
    block: str,
    avg_down: bool,
    shortcut: bool,
    frozen_norm: bool,
) -> tuple[Row, ...]:
    """The blocks of one stage (from 0). All but the first stage halve the size, in their first block."""
    cout = mid * EXPANSION[block]
    if kernel % 2 == 0 or min(cin, mid, depth, kernel) < 1:
        raise UsageError(
            f"stage {stage + 1}: widths and depth must be at least 1 and the kernel odd, but they are width {mid} "
            f"after {cin}, depth {depth}, kernel {kernel}"
        )
    if not shortcut and cin != cout:
        raise UsageError(
            f"stage {stage + 1}: without a conv on the shortcut, the stem must be as wide as the stage gives out "
            f"({cout}), but it is {cin} wide",
            "Set first_shortcut to true, or tie the two widths.",
        )
    stride = 2 if stage else 1
    first = resnet_row(stage, 0, cin, mid, kernel, stride, block, avg_down, shortcut, frozen_norm, depth == 1)
    rest = (
        resnet_row(stage, i, cout, mid, kernel, 1, block, False, False, frozen_norm, i == depth - 1)
        for i in range(1, depth)
    )
    return (first, *rest)


@lru_cache(CACHE)
def resnet_row(
    stage: int,
    index: int,
    cin: int,
    mid: int,
    kernel: int,
    stride: int,
    block: str,
    avg_down: bool,
    shortcut: bool,
    frozen_norm: bool,
    output: bool,
) -> Row:
    """One residual block: bottleneck (1x1, kxk, 1x1) or basic (kxk, kxk), and the conv on its shortcut, if any."""
    cout = mid * EXPANSION[block]
    convs: tuple[tuple[int, int, int, int], ...] = ((cin, mid, kernel, stride), (mid, cout, kernel, 1))
    if block == "bottleneck":
        convs = ((cin, mid, 1, 1), (mid, mid, kernel, stride), (mid, cout, 1, 1))
    layers: list[Layer] = []
    for i, (a, b, k, s) in enumerate(convs, 1):
        if i > 1:
            layers.append(Layer("relu", "relu", a, a))
        layers.append(Layer("conv", f"conv{i}", a, b, kernel=k, stride=s, padding=k // 2))
        layers.append(_norm(f"bn{i}", b, frozen_norm))
    if shortcut:
        at = 0
        if avg_down:  # mmdetection has the pool in every stage; at stride 1 it does nothing
            layers.append(Layer("avgpool", "downsample.0", cin, cin, kernel=stride, stride=stride, branch=True))
            at, stride = 1, 1
        layers.append(Layer("conv", f"downsample.{at}", cin, cout, stride=stride, branch=True))
        layers.append(_norm(f"downsample.{at + 1}", cout, frozen_norm, branch=True))
    layers.append(Layer("relu", "relu", cout, cout))
    return Row(f"layer{stage + 1}.{index}", stage, index, tuple(layers), output)


def _norm(name: str, width: int, frozen: bool, branch: bool = False) -> Layer:
    return Layer("norm", name, width, width, bias=not frozen, branch=branch)


@dataclass(frozen=True)
class HeadSizes:
    """What decides the cost of a Faster R-CNN behind its backbone (https://arxiv.org/abs/1506.01497, with an FPN)."""

    num_classes: int  # without background
    fpn_channels: int = 256
    levels: int = 5  # of the pyramid; those that the backbone has no feature for are max-pooled from the coarsest
    anchors: int = 3  # per location
    rpn_activation: Literal["sigmoid", "softmax"] = "sigmoid"  # 1 or 2 outputs per anchor
    class_agnostic: bool = False  # 4 box outputs in all, not 4 per class (background included, as in torchvision)
    box_head_width: int = 1024
    roi_size: int = 7
    proposals: int = 1000  # that the box head is priced on, per image


@lru_cache(CACHE)
def fpn_rows(widths: tuple[int, ...], out_channels: int) -> Plan:
    """An FPN (https://arxiv.org/abs/1612.03144), a row for each feature, finest first, with torchvision's names.

    Row i works at the size of feature i, `widths[i]` wide.
    """
    return tuple(
        Row(
            "",
            i,
            0,
            (
                Layer("conv", f"inner_blocks.{i}.0", width, out_channels, bias=True),
                Layer("conv", f"layer_blocks.{i}.0", out_channels, out_channels, kernel=3, padding=1, bias=True),
            ),
        )
        for i, width in enumerate(widths)
    )


@lru_cache(CACHE)
def rpn_row(heads: HeadSizes) -> Row:
    """The region proposal head, which runs at every level of the pyramid; its last two convs both read the first."""
    wide, scores = heads.fpn_channels, heads.anchors * (2 if heads.rpn_activation == "softmax" else 1)
    return Row(
        "rpn.head",
        0,
        0,
        (
            Layer("conv", "conv.0.0", wide, wide, kernel=3, padding=1, bias=True),
            Layer("conv", "cls_logits", wide, scores, bias=True),
            Layer("conv", "bbox_pred", wide, 4 * heads.anchors, bias=True),
        ),
    )


@lru_cache(CACHE)
def box_row(heads: HeadSizes) -> Row:
    """The box head, which runs on every proposal: two hidden layers; its last two layers both read the second."""
    wide, classes = heads.box_head_width, heads.num_classes + 1
    return Row(
        "roi_heads",
        0,
        0,
        (
            Layer("linear", "box_head.fc6", heads.fpn_channels * heads.roi_size**2, wide, bias=True),
            Layer("relu", "relu", wide, wide),
            Layer("linear", "box_head.fc7", wide, wide, bias=True),
            Layer("relu", "relu", wide, wide),
            Layer("linear", "box_predictor.cls_score", wide, classes, bias=True),
            Layer("linear", "box_predictor.bbox_pred", wide, 4 if heads.class_agnostic else 4 * classes, bias=True),
        ),
    )


@dataclass(frozen=True)
class LabelSizes:
    """What decides the cost of a classifier behind its backbone: one linear layer on the mean of the last feature."""

    num_classes: int


@lru_cache(CACHE)
def label_row(width: int, num_classes: int) -> Row:
    """The last layer of a classifier; the mean in front of it costs no multiply-add."""
    return Row("", 0, 0, (Layer("linear", "fc", width, num_classes, bias=True),))
