"""What a neck and a head promise, and where the rows of a network run. No torch.

A network is parts: a backbone gives features, a neck makes levels of them, a head says what is on the image. Each is
a row of searchkit.nas.models.table, or one class of the user's own; what it reads of an architecture stands below
`backbone.`, `neck.` or `head.` there. A part of ours is two classes, one of which extends the other: its plan side, all
that needs no torch (options, names, `plan`), and what makes and runs modules. All that is known of a network at an
architecture is its pieces, in the order in which they run: cost and parameters are read from them, whatever part they
are of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from searchkit.errors import UsageError
from searchkit.nas.models.plan import Plan, channels
from searchkit.reading.kinds import LATER, Count, number
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from searchkit.nas.graph.graph import Graph
    from searchkit.nas.models.trunk import Trunk
    from searchkit.nas.space.shapes import InputShape

BACKBONE, NECK, HEAD = PARTS = ("backbone", "neck", "head")  # what an architecture's names are below, as they run
NEVER = -100.0  # the score of a class that a checkpoint doesn't know: it is never predicted
Deviation = Annotated[float, number(above=0)]
Colour = tuple[float, float, float]
Deviations = tuple[Deviation, Deviation, Deviation]
Channels = tuple[int, ...]  # of features or of levels, finest first
Gives = Literal["", "feature", "level"]


class Where(NamedTuple):
    """What the rows of a piece run on: an input of this size, for each image."""

    on: Literal["image", "feature", "level", "levels", "regions"]
    number: int = 0


IMAGE = Where("image")
LEVELS = Where("levels")  # on every level, with the same weights: parameters count once, MACs at each


def feature(i: int) -> Where:
    """On a map as large as the backbone's i-th feature, the finest being 0; -1 is the coarsest."""
    return Where("feature", i)


def level(i: int) -> Where:
    """On a map as large as the i-th level that was given out by then, the finest being 0; -1 is the last one."""
    return Where("level", i)


def regions(n: int) -> Where:
    """On each of n boxes. Its rows are linear layers alone, the first of which reads all positions of a box."""
    return Where("regions", n)


@dataclass(frozen=True)
class Piece:
    """Rows that run one after the other, the first of them on `where`.

    gives: what the piece gives out, "feature" (a backbone) or "level" (a neck): the outputs of its rows that are marked
    `output`; where none is, its end; without rows, what it runs on, as it is. Its place among the features or levels is
    the next one.
    """

    rows: Plan
    where: Where
    gives: Gives = ""


Pieces = tuple[Piece, ...]


def levels_of(pieces: Pieces, features: Channels) -> Channels:
    """Channels of the levels that the pieces of a neck give out, in their order; features: those that it reads."""
    levels: list[int] = []
    for piece in pieces:
        if piece.gives != "level":
            continue
        marked = [row.cout for row in piece.rows if row.output]
        if not piece.rows:
            marked = [features[piece.where.number] if piece.where.on == "feature" else levels[piece.where.number]]
        levels += marked or [piece.rows[-1].cout]
    return tuple(levels)


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The keys of `model:` that all networks have, whatever their parts.

    backbone, neck, head: a name of searchkit.nas.models.table, or the user's own class as "path/to/file.py:Class" or
    "package.module:Class". neck_options, head_options: an instance of the `Options` of the part's class; None: its
    defaults. Each head has a subclass of this as its `Config`, with its defaults of neck and head, and perhaps more
    keys.
    """

    num_classes: Count  # without background; left out: as many as the data has
    backbone: str = "resnet"  # see space, or your own class as path/to/file.py:Class
    backbone_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    neck: str = field(default="", repr=False, metadata=LATER)
    """what makes levels of the backbone's features: see necks, or your own class"""
    neck_options: Any = field(default=None, repr=False, hash=False, metadata=LATER)
    head: str = field(default="", repr=False, metadata=LATER)
    """what says what is on the image: see heads, or your own class"""
    head_options: Any = field(default=None, repr=False, hash=False, metadata=LATER)

    def neck_defaults(self) -> dict[str, Any]:
        """What other keys say of the neck's options."""
        return {}


@dataclass(frozen=True, kw_only=True)
class PlainConfig(NetConfig):
    """The keys of `model:` for a head whose own keys all stand in `head_options`."""

    image_mean: Colour = (0.485, 0.456, 0.406)  # of values in 0..1
    image_std: Deviations = (0.229, 0.224, 0.225)


class Setting(NamedTuple):
    """A dimension that needs no weights: what an architecture says in place of an option of its head, in evaluation."""

    option: str
    parts: int = 1  # the option in so many parts of 1, as an architecture has integers alone: 1000 for thousandths


SCORES: Mapping[str, Setting] = {  # of detectors
    "score_permille": Setting("score_thresh", 1000),
    "nms_permille": Setting("nms_thresh", 1000),
    "detections": Setting("detections_per_image"),
}


class PlansNeck(Protocol):
    """What costs need of a neck, its plan side: see Neck."""

    NAMES: ClassVar[tuple[str, ...]]

    def plan(self, arch: Arch, features: Channels) -> Pieces: ...


class PlansHead(Protocol):
    """What costs need of a head, its plan side: see Head."""

    NAMES: ClassVar[tuple[str, ...]]

    def plan(self, arch: Arch, levels: Channels) -> Pieces: ...


class Neck(Protocol):
    """A neck but for its weights: it says what it is made of, and makes its module.

    Options: a frozen dataclass, the keys of `model.neck_options` with their types, defaults and checks. NAMES: what it
    reads of an architecture below `neck.`. MODULE: what its module is called beside the backbone's in the trunk.
    """

    Options: ClassVar[type]
    NAMES: ClassVar[tuple[str, ...]]
    MODULE: ClassVar[str]

    def __init__(self, options: Any) -> None: ...

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """What it is made of at an architecture (its names below `neck.`), on features of so many channels.

        Each of its levels is given out by a piece (`gives="level"`), finest first. Row names are those of its module's
        state dict. Make rows and pieces with cached functions. Raises UsageError where it can't read such features.
        """
        ...

    def module(self, arch: Arch, features: Channels) -> nn.Module | None:
        """Its module with new weights, as large as the plan at that architecture; None where it has nothing to run.

        forward(features: OrderedDict of (N, C_i, H_i, W_i), finest first) -> OrderedDict of levels, finest first.
        A neck with CHOICES, names of dimensions, gets their choices in a supernet as the keyword `held`, as backbones
        do; so does the `network` of a head with CHOICES.
        One with NAMES has `arch`, what it runs now, and `set_arch(arch, features)`, which changes that: from then on
        it runs the plan of that architecture on features of so many channels, on leading slices of its weights.
        """
        ...


class Head(Protocol):
    """A head but for its weights: it says what it is made of, makes the whole network, and knows what is learnt.

    TASK: the one that it is of. Config: the class of the config's `model:`; Options: of its `head_options` (a Config
    that is a subclass of it has these keys itself). NAMES: what it reads of an architecture below `head.`. MODULE: the
    dotted name, within its network, of the module that has `arch` and `set_arch(arch, levels)`, as a neck's; unused
    without NAMES. LOSSES: the names of its losses. EVALUATION: those of its options that count in evaluation alone, and
    may change when a training goes on. form: how its network looks as source code.
    STRETCHES may be left out; true: a detector that makes every image one of the input shape, whatever its own is. So
    may needs_boxes, true: a detector that learns nothing from an image without boxes. So may LEARNT_FOR: of a Config
    that has its Options' keys itself, those with which the same weights compute other numbers, and no shape tells.

    One whose class logits another network may learn has `class_logits(net)`, which gives their ClassLogits
    (searchkit.nas.models.class_logits). One with `outputs(net, inputs)` runs by it what gives out features and class
    logits, without what follows; a network that teaches these alone is run so. One with rows on regions may say in
    `regions_kept(arch)`, on its plan side, how many of them its network runs of an image at most, up to that arch.

    One with SETTINGS, by the name below `head.` of each, has dimensions that need no weights, beside NAMES. No training
    visits them. `set_options(net, options)` lets its network evaluate by these options from now on.
    """

    TASK: ClassVar[str]
    Config: ClassVar[type[NetConfig]]
    Options: ClassVar[type]
    NAMES: ClassVar[tuple[str, ...]]
    MODULE: ClassVar[str]
    LOSSES: ClassVar[tuple[str, ...]]
    EVALUATION: ClassVar[tuple[str, ...]]

    def __init__(self, options: Any, num_classes: int) -> None: ...

    def plan(self, arch: Arch, levels: Channels) -> Pieces:
        """What it is made of at an architecture (its names below `head.`), on levels of so many channels.

        Row names are those of its network's state dict. Raises UsageError where it can't read such levels.
        """
        ...

    def network(self, trunk: Trunk, arch: Arch, config: Any, **sizes: Any) -> nn.Module:
        """The whole network around a backbone with its neck, which it has as `backbone`; what is the head's is new.

        arch: its names below `head.`. config: of the class `Config`. sizes: of images, for a detector's transform
        (min_size, max_size). A detector takes images and targets and gives out its losses by name, in eval mode boxes,
        as torchvision's do, and has such a `transform`.
        """
        ...

    def statistics(self, net: Any, inputs: Any) -> None:
        """Run all of the network that may have batch norms on a batch as the network takes it."""
        ...

    def silence(self, net: nn.Module, known: int) -> None:
        """Let a head with more classes than the data never predict those behind the first `known`."""
        ...

    def adapt(
        self,
        state: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        old: Sequence[str],
        new: Sequence[str],
        to_train: bool,
    ) -> dict[str, Tensor]:
        """The state dict `state` with the rows that stand for classes moved from the names `old` to `new`, in the
        shapes of `own`; a class that `old` lacks is as in `own` if it is to be trained, else it is never predicted."""
        ...

    @property
    def norms_of_one(self) -> bool:
        """Whether its batch norms see more than one number a channel in a batch of one image."""
        ...

    @property
    def form(self) -> Form: ...


class NetPlan:
    """The pieces of a network at any architecture up to its maximum, in the order in which they run."""

    def __init__(self, backbone: Callable[[Arch], Plan], neck: PlansNeck, head: PlansHead) -> None:
        """backbone: the rows at an architecture's names below `backbone.`."""
        self.backbone, self.neck, self.head = backbone, neck, head

    def __call__(self, arch: Arch) -> Pieces:
        """The backbone's rows as the first piece, then the pieces of the neck and the head.

        Raises UsageError where the parts don't fit together at this architecture.
        """
        rows = self.rows(arch)
        return (Piece(rows, IMAGE, "feature"), *self.behind(arch, channels(rows)))

    def rows(self, arch: Arch) -> Plan:
        """Those of the backbone, which runs on the image."""
        return self.backbone(arch.part(BACKBONE))

    def behind(self, arch: Arch, features: Channels) -> Pieces:
        """The pieces of the neck and the head, on features of so many channels."""
        neck, head = self.neck.plan(arch.part(NECK), features), arch.part(HEAD)
        options_at(self.head, head)
        return (*neck, *self.head.plan(head, levels_of(neck, features)))


class Misfit(UsageError):
    """Parts of a network that don't fit together. keys: of a config, that decide it, the likeliest first, such as
    `model.head_options.anchor_sizes` or `space.neck.depth`."""

    def __init__(self, message: str, hint: str = "", *, keys: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.keys = tuple(keys)


def weightless(head: Any) -> tuple[str, ...]:
    """The names of an architecture that need no weights, of a head or its class."""
    return tuple(f"{HEAD}.{name}" for name in getattr(head, "SETTINGS", ()))


def parted(head: Any, arch: Arch) -> tuple[Arch, Arch]:
    """(what of an architecture needs weights, its settings)."""
    names = weightless(head)
    if not any(name in names for name in arch):
        return arch, Arch(())
    of_weights, settings = (
        tuple(item for item in arch.items if (item[0] in names) == weighs_nothing) for weighs_nothing in (False, True)
    )
    return Arch(of_weights), Arch(settings)


def options_at(head: Any, arch: Arch) -> dict[str, Any]:
    """The options that the settings of an architecture (its names below `head.`) go instead of. Raises UsageError for
    values that these can't have."""
    settings: Mapping[str, Setting] = getattr(head, "SETTINGS", {})
    options: dict[str, Any] = {}
    for name, value in arch.items:
        if name not in settings:
            continue
        option, parts = settings[name]
        if not isinstance(value, int) or value < 1 or value > parts > 1:
            must = "of at least 1" if parts == 1 else f"from 1 to {parts:,}"
            raise Misfit(f"head.{name} must be one integer {must}, but is {value}", keys=(f"space.head.{name}",))
        options[option] = value if parts == 1 else value / parts
    return options


class Form(Protocol):
    """How a head's network looks as source code (model.py of an extracted folder), and what proves that it is the same.

    KIND: of network, for titles. TRUNK: what `trunk` is, in words. One that can be written as ONNX is a WrittenInOnnx,
    too.
    """

    KIND: str
    TRUNK: str

    def counted_on(self, arch: Arch) -> dict[str, int]:
        """What the cost of an architecture is stated for beside the input's shape."""
        ...

    def model_source(self, net: Any, config: Any, title: str, size: tuple[int, int]) -> str:
        """The text of model.py for a static network; size: what `size_of` says. Raises UsageError where it can't be
        traced."""
        ...

    def size_of(self, net: Any, shape: InputShape) -> tuple[int, int]:
        """Two edges of its images, px."""
        ...

    def size_entry(self, size: tuple[int, int]) -> dict[str, Any]:
        """What config.json says of them."""
        ...

    def trunk(self, net: Any) -> nn.Module:
        """The part that torch.export writes."""
        ...

    def tensors_of(self, outputs: Any) -> list[Tensor]:
        """What the trunk gives out, as a list."""
        ...

    def equality(
        self, net: Any, plain: Any, images: Sequence[Tensor], ids: Sequence[int | str], shape: InputShape, seed: int
    ) -> dict[str, Any]:
        """What was compared between two networks in eval mode, all of it equal to the bit. SearchkitError elsewhere."""
        ...

    def measured_macs(self, net: nn.Module, config: Any, arch: Arch, shape: InputShape) -> int:
        """Multiply-adds of all that the plan has at an architecture, by torch's own counter; net: the network there."""
        ...


@runtime_checkable
class MadeAround(Protocol):
    """A form whose network can be made around other layers than its own, such as ones with roundings."""

    LAYERS: str  # the name, within that network, of the module that `layers` becomes; empty: it is the network

    def around(self, net: Any, layers: nn.Module) -> nn.Module:
        """A copy of a static network that has, in place of its `trunk`, `layers`: what takes and gives out the same."""
        ...


@runtime_checkable
class WrittenInOnnx(Protocol):
    """A form whose networks can be written as an ONNX graph."""

    def write_onnx(self, g: Graph, net: Any, shape: InputShape) -> dict[str, Any]:
        """Put a whole static network, from an image to what is found on it, into a graph; returns what the file is to
        say of it: for a detector resize ("edges" or "stretch"), score_thresh, nms_thresh and detections (of an image,
        at most). shape: its input shape. Raises UsageError where it can't.

        Its input is `image`, uint8 (N, 3, H, W) of any H and W, of a detector also `size` (see
        searchkit.nas.graph.boxes); its outputs are boxes, scores and labels, or of a classifier scores.
        """
        ...
