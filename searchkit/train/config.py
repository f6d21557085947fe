"""The search-nas config: model, space, data and training of a supernet in one flat YAML file, checked as a whole."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from searchkit import nodes
from searchkit.data.augment import Augment
from searchkit.errors import ConfigError, UsageError, did_you_mean
from searchkit.models.detector import DetectorConfig, backbone_class
from searchkit.nodes import Document, Node
from searchkit.space.arch import InputShape, Space, read_space
from searchkit.train.fill import fill
from searchkit.train.policies import policy

KEYS = ("model", "space", "data", "train", "test", "finetune", "init")
Metric = Literal["bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l"]
LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")  # torchvision's names


def _require(section: Any, least: Mapping[str, float], above: Iterable[str] = ()) -> None:
    """Raises UsageError with every number of a section below its least, and those of `above` that are not above 0."""
    values = {name: value for name in (*least, *above) if (value := getattr(section, name)) is not None}
    wrong = [f"{k} must be at least {least[k]:g}, not {v:g}" for k, v in values.items() if k in least and v < least[k]]
    wrong += [f"{k} must be above 0, not {v:g}" for k, v in values.items() if k in above and not v > 0]
    if wrong:
        raise UsageError("; ".join(wrong))


@dataclass(frozen=True)
class Split:
    """One set of annotated images. `$VARIABLES` and `~` in the paths are expanded when it is opened."""

    annotations: str
    images: str


@dataclass(frozen=True)
class Data:
    """What a detector is trained and scored on."""

    train: Split | None = None
    val: Split | None = None
    test: Split | None = None
    name: str = "coco"  # the prefix of its metrics: <name>_bbox_mAP
    classes: tuple[str, ...] = ()  # a choice of categories, by name; empty: all
    max_edge: int = 1333  # of a resized image, in pixels, where the scale is a short edge
    workers: int = 2  # processes that load images; 0 where they stay in memory
    cache_mb: int = 1024  # of decoded images that are kept in memory
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        _require(self, {"max_edge": 1, "workers": 0, "cache_mb": 0})


@dataclass(frozen=True)
class Optimisation:
    """How weights move. `lr` is for a batch of `base_batch` images over all ranks, and is scaled by `lr_scaling`."""

    epochs: float = 12.0  # over the training images
    steps: int | None = None  # instead of epochs
    batch_size: int = 8  # on each rank
    optimizer: Literal["sgd", "adamw"] = "sgd"  # adamw has torch's default betas
    lr: float = 0.02  # for a batch of base_batch images over all ranks
    base_batch: int = 16
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"  # how lr grows with the batch
    momentum: float = 0.9  # of sgd
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float = 0.0  # of norms and biases
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "step"
    milestones: tuple[float, ...] = (0.75, 0.92)  # of `step`, as fractions of all steps
    gamma: float = 0.1  # of `step`: factor at each milestone
    floor: float = 0.0  # of `cosine` and `one_cycle`, as a fraction of lr
    warmup_steps: int = 0  # linear, from warmup_factor; not with one_cycle
    warmup_factor: float = 0.001
    clip_norm: float | None = None  # largest norm of the gradient
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    loss_weights: Any = None  # {loss name: factor}; 1 where not named
    checkpoint_steps: int | None = None  # a checkpoint every so many steps
    checkpoint_minutes: float = 10.0  # and every so many minutes

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "base_batch": 1, "steps": 1, "warmup_steps": 0, "checkpoint_steps": 1, "momentum": 0}
        _require(self, least, ("epochs", "lr", "clip_norm", "checkpoint_minutes"))
        given = {} if self.loss_weights is None else self.loss_weights
        if not isinstance(given, Mapping) or not all(type(value) in (int, float) for value in given.values()):
            raise UsageError(f"loss_weights must be a mapping of names to numbers, not {given!r}")
        if wrong := [f"{name!r}{did_you_mean(name, LOSSES)}" for name in given if name not in LOSSES]:
            raise UsageError(f"loss_weights: there is no loss {', '.join(wrong)}")

    def loss_weight(self, name: str) -> float:
        return float((self.loss_weights or {}).get(name, 1.0))

    def total_steps(self, images: int, world: int) -> int:
        """Optimiser steps of the whole training."""
        return self.steps or max(1, round(self.epochs * images / (self.batch_size * world)))


@dataclass(frozen=True)
class Train(Optimisation):
    """How the supernet is trained."""

    policy: Literal["sandwich", "anchors", "single_path", "fixed"] = "sandwich"
    random_archs: int = 2  # in a sandwich, or at the end of the anchor cycle
    arch: str = "MAX"  # of policy fixed
    sampler: Any = None  # of policy anchors: the cycle as a record sampler
    scales: tuple[InputShape, ...] = ()  # short edges or [H, W] that training draws from; empty: those of the space
    eval_epochs: float | None = None  # evaluate `eval_archs` every so many epochs; null: at the end alone
    eval_archs: tuple[str, ...] = ("MAX", "MIN")  # named archs that are scored on data.val
    best_arch: str = "MAX"  # best.pth is the checkpoint where this arch
    best_metric: Metric = "bbox_mAP"  # had most of this

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, {"random_archs": 0}, ("eval_epochs",))
        if self.sampler is not None and self.policy != "anchors":
            raise UsageError(f"sampler is of policy anchors, but policy is {self.policy}")


@dataclass(frozen=True)
class Test:
    """How a subnet is scored."""

    split: Literal["val", "test", "train"] = "val"
    calibration_images: int = 128  # of the training set, for the statistics of batch norm
    batch_size: int = 8
    raw: bool = False  # also with the supernet's own statistics

    def __post_init__(self) -> None:
        _require(self, {"calibration_images": 0, "batch_size": 1})


@dataclass(frozen=True)
class Finetune(Optimisation):
    """How a subnet is tuned from the supernet's weights."""

    epochs: float = 2.0  # over the images of train_on
    train_on: tuple[Literal["train", "val"], ...] = ("train",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train_on or len(set(self.train_on)) < len(self.train_on):
            raise UsageError("train_on must name train, val or both, each once")


@dataclass(frozen=True)
class Recipe:
    """A whole config."""

    path: str
    model: DetectorConfig
    space: Space
    data: Data
    train: Train
    test: Test
    finetune: Finetune
    init: str | None = None  # weights that training starts from: a file
    classes_given: bool = True  # False: model.num_classes stands for nothing, the data says how many

    @property
    def scales(self) -> tuple[InputShape, ...]:
        """The input shapes of the space; 800 where it names none."""
        return self.space.scales or (800,)


def load(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe at `path`, with `section.key=value` overrides. Raises ConfigError with all faults and their places."""
    overrides = tuple(overrides)
    document = nodes.load(path, needs="`model:` and `space:`")
    for text in overrides:
        document = _override(document, text)
    try:
        return _recipe(path, document)
    except ConfigError as e:
        hint = f"The file was read with --set {' --set '.join(overrides)}" if overrides else e.hint
        raise ConfigError(path, e.faults, hint) from e


def _recipe(path: str, document: Document) -> Recipe:
    top, report = document.top(*KEYS), document.report
    for name in ("model", "space"):
        top.require(name)
    node = top.get("model")
    classes_given = node is not None and "num_classes" in node.entries and not node.entries["num_classes"][1].is_null
    model = fill(DetectorConfig, node, "model", report, num_classes=1)
    data, train = fill(Data, top.get("data"), "data", report), fill(Train, top.get("train"), "train", report)
    test, finetune = (
        fill(Test, top.get("test"), "test", report),
        fill(Finetune, top.get("finetune"), "finetune", report),
    )
    space = _space(top.get("space"), document)
    init = top.word("init")
    if node is not None:
        _check_backbone(path, node, document)
    if space is not None:
        _check_archs(space, top.get("train"), document)
    document.check()
    assert model and space and data and train and test and finetune  # what is None has a fault
    model = replace(model, backbone=_beside(path, model.backbone))
    return Recipe(path, model, space, data, train, test, finetune, init, classes_given)


def path_of(text: str, key: str) -> str:
    """A path of a config with `~` and `$VARIABLES` filled in. Raises UsageError naming those that are not set."""
    names = [a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)]
    if unset := [f"${name}" for name in dict.fromkeys(names) if name not in os.environ]:
        raise UsageError(f"{key}: {', '.join(unset)} is not set, which {text} needs", f"export {unset[0][1:]}=…")
    return os.path.expanduser(os.path.expandvars(text))


def _space(node: Node | None, document: Document) -> Space | None:
    if node is None:
        return None
    try:
        return read_space(node.data)
    except UsageError as e:
        for line in e.message.splitlines():
            document.report.fault(node, line)
        return None


def _check_archs(space: Space, train: Node | None, document: Document) -> None:
    """The archs that training names, and those that its sampler makes, must be of the space."""
    given = {key: value for key, (_, value) in train.entries.items()} if train is not None else {}
    named = [(key, node) for key in ("arch", "best_arch", "eval_archs") if key in given for node in _each(given[key])]
    checks: list[tuple[Node, str, Callable[[], object]]] = [
        (node, f"train.{key}: ", partial(space.named, node.text)) for key, node in named
    ]
    if "sampler" in given and given["sampler"].kind == "map":
        checks.append((given["sampler"], "", partial(policy, "anchors", space, 0, sampler=given["sampler"].data)))
    for node, prefix, check in checks:
        try:
            check()
        except UsageError as e:
            for line in e.message.splitlines():
                document.report.fault(node, prefix + line)


def _each(node: Node) -> list[Node]:
    """The texts of a list, or the one text."""
    return [n for n in node.items or (node,) if n.kind == "scalar" and not n.is_null]


def _check_backbone(config: str, model: Node, document: Document) -> None:
    """The backbone's class must be there, and take the options given."""
    where = {key: value for key, (_, value) in model.entries.items() if value.kind != "bad" and not value.is_null}
    name = where["backbone"].text if "backbone" in where else DetectorConfig.backbone
    try:
        cls = backbone_class(_beside(config, name))
    except UsageError as e:
        document.report.fault(where.get("backbone", model), f"model.backbone: {e.message}")
        return
    options = where.get("backbone_options", Node("map", model.line, model.col))
    if options.kind != "map":
        document.report.fault(options, f"model.backbone_options: must be a mapping (option: value), not {options}")
    _, *known = inspect.signature(cls).parameters.values()  # the first is the arch
    names = tuple(p.name for p in known)
    for key, (at, _) in options.entries.items():
        if key not in names and not any(p.kind is p.VAR_KEYWORD for p in known):
            what = f"model.backbone_options: {name} has no option {key!r}{did_you_mean(key, names)}"
            document.report.fault(at, what)


def _beside(config: str, backbone: str) -> str:
    """A backbone's file is looked for beside the config that names it."""
    file, colon, name = backbone.rpartition(":")
    if colon and file.endswith(".py") and not os.path.isabs(file):
        return f"{os.path.join(os.path.dirname(os.path.abspath(config)), file)}:{name}"
    return backbone


def _override(document: Document, text: str) -> Document:
    """The document with the value at a dotted key replaced, its section made where there is none."""
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {text}: must be section.key=value", "Such as --set train.lr=0.01")
    if keys[0] == "space" and len(keys) > 1:
        keys = ["space", ".".join(keys[1:])]  # the names of its dimensions have dots of their own
    new = Node("scalar", 1, 1)
    if value.strip():
        given = nodes.parse(value.encode(), f"--set {key}")
        given.check()
        new = given.root
    return replace(document, root=_with(document.root, keys, new))


def _with(node: Node, keys: list[str], new: Node) -> Node:
    if not keys:
        return replace(new, line=node.line, col=node.col)
    where, old = node.entries.get(keys[0], (node, Node("map", node.line, node.col, data={})))
    changed = _with(old, keys[1:], new)
    entries = {**node.entries, keys[0]: (where, changed)}
    return replace(node, kind="map", entries=entries, data={k: v.data for k, (_, v) in entries.items()})
