"""The sections of a search-nas config as frozen dataclasses: their fields are its keys, with types and defaults."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal

from searchkit.errors import UsageError
from searchkit.nas.data.augment import Augment
from searchkit.nas.data.coco_eval import AREAS as COCO_AREAS
from searchkit.nas.data.label_augment import LabelAugment
from searchkit.nas.data.pixels import Reading
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.train.schedules import check_schedule

Scheduled = Any  # a number, or {boundary: [1, 81], value: [0, 1]}: the number from each of these epochs (from 1) on


_LIMITS: dict[str, tuple[str, Callable[[float], bool]]] = {  # of numbers that may have a schedule
    "weight": ("of at least 0", lambda v: v >= 0),
    "label_weight": ("of at least 0", lambda v: v >= 0),
    "temperature": ("above 0", lambda v: v > 0),
    "label_smoothing": ("from 0 to 1", lambda v: 0 <= v <= 1),
}


def _check_scheduled(given: Mapping[str, Any]) -> None:
    """Raises UsageError with all that is wrong with numbers that may have a schedule, by name."""
    wrong = []
    for name, spec in given.items():
        if faults := check_schedule(spec):
            wrong += [f"{name}: {what}" for what in faults]
            continue
        text, holds = _LIMITS.get(name, ("", math.isfinite))
        what = " ".join(("a number", text)).strip()
        for v in spec["value"] if isinstance(spec, Mapping) else [spec]:
            if isinstance(v, bool) or not isinstance(v, int | float) or not holds(v):
                wrong.append(f"{name} must be {what}, or {{boundary, value}}, not {v!r}")
    if wrong:
        raise UsageError("; ".join(wrong))


def _require(section: Any, least: Mapping[str, float], above: Iterable[str] = ()) -> None:
    """Raises UsageError with every number of a section below its least, and those of `above` that are not above 0; nan
    is neither."""
    values = {name: value for name in (*least, *above) if (value := getattr(section, name)) is not None}
    wrong = [
        f"{k} must be at least {least[k]:g}, not {v:g}" for k, v in values.items() if k in least and not v >= least[k]
    ]
    wrong += [f"{k} must be above 0, not {v:g}" for k, v in values.items() if k in above and not v > 0]
    if wrong:
        raise UsageError("; ".join(wrong))


def _check_range(span: tuple[float, float] | None) -> None:
    if span is not None and not -math.inf < span[0] < span[1] < math.inf:
        raise UsageError(f"range must be two ascending numbers, not {list(span)}")


LATER = {"later": True}  # of fields that came to a section when there were digests of it: see text_of


def text_of(section: Any) -> str:
    """The text of a section that digests are made of: its repr, but for fields that came later and have their default,
    so that what was begun by an older version goes on."""
    parts = []
    for f in fields(section):
        value = getattr(section, f.name)
        if f.metadata != LATER or value != f.default:
            parts.append(f"{f.name}={text_of(value) if is_dataclass(value) else repr(value)}")
    return f"{type(section).__qualname__}({', '.join(parts)})"


def _check_areas(areas: Any) -> None:
    """Raises UsageError for what is no mapping of names to ranges of areas, and for names that are taken."""
    if areas is None:
        return
    if not isinstance(areas, Mapping):
        raise UsageError(f"areas must be a mapping of names to [from, to] in px^2, not {areas!r}")
    wrong = []
    for name, span in areas.items():
        if not isinstance(name, str) or not name.isidentifier() or name in COCO_AREAS:
            taken = f"; {', '.join(COCO_AREAS)} are COCO's"
            wrong.append(f"areas: a name must be a word of letters, digits and _, not {name!r}{taken}")
        elif not isinstance(span, list | tuple) or len(span) != 2 or not all(map(_is_area, span)) or span[0] >= span[1]:
            wrong.append(f"areas.{name} must be [from, to] in px^2, ascending, not {span!r}")
    if wrong:
        raise UsageError("; ".join(wrong))


def _is_area(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


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
    workers: int = 2  # processes for training images, threads for those of tests; 0 where they stay in memory
    cache_mb: int = 1024  # of decoded images that are kept in memory
    exif: Literal["auto", "apply", "ignore"] = field(default="auto", metadata=LATER)
    """Whether the orientation that a photo's EXIF data names is applied; auto: unless the annotations have the width
    and height of the stored image."""
    range: tuple[float, float] | None = field(default=None, metadata=LATER)
    """[low, high] of greys deeper than 8 bits, of which 256 equal steps are made; null: by the values in data.train
    ([supernets](supernets.md#data))."""
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        _require(self, {"max_edge": 1, "workers": 0, "cache_mb": 0})
        _check_range(self.range)


@dataclass(frozen=True)
class LabelSplit:
    """One set of images with a class each. `$VARIABLES` and `~` in the paths are expanded when it is opened."""

    path: str  # a folder of class folders, an idx file (MNIST), CIFAR-10's binary files, or .npz of JPEG bytes
    labels: str | None = None  # the idx file of labels, where it is not beside the images
    portion: tuple[float, float] = (0.0, 1.0)  # of each class: [0, 0.9] and [0.9, 1] share no image
    per_class: int | None = None  # at most so many of each class

    def __post_init__(self) -> None:
        _require(self, {"per_class": 1})
        if not 0 <= self.portion[0] < self.portion[1] <= 1:
            raise UsageError(f"portion must be two ascending numbers from 0 to 1, not {list(self.portion)}")


@dataclass(frozen=True)
class LabelData:
    """What a classifier is trained and scored on."""

    train: LabelSplit | None = None
    val: LabelSplit | None = None
    test: LabelSplit | None = None
    name: str = "images"  # of the data, kept with a checkpoint
    classes: tuple[str, ...] = ()  # a choice of classes, by name; empty: all
    workers: int = 0  # processes that load images; 0 where decoding is cheap
    cache_mb: int = 1024  # of decoded images that are kept in memory
    exif: Literal["auto", "apply", "ignore"] = field(default="auto", metadata=LATER)
    """Whether the orientation that a photo's EXIF data names is applied; auto: unless the annotations have the width
    and height of the stored image."""
    range: tuple[float, float] | None = field(default=None, metadata=LATER)
    """[low, high] of greys deeper than 8 bits, of which 256 equal steps are made; null: by the values in data.train
    ([supernets](supernets.md#data))."""
    augment: LabelAugment = field(default_factory=LabelAugment)

    def __post_init__(self) -> None:
        _require(self, {"workers": 0, "cache_mb": 0})
        _check_range(self.range)


@dataclass(frozen=True)
class Distill:
    """What a step's archs learn from softer targets: the KL divergence to another network's outputs (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015).

    Without config and checkpoint the teacher is the largest arch of the step, which is visited first and learns from
    the labels alone (in-place distillation: Yu & Huang, ICCV 2019; Yu et al., "BigNAS", ECCV 2020).
    """

    config: str | None = None  # of a teacher that is a network of its own
    checkpoint: str | None = None  # of that teacher
    arch: str = "MAX"  # that the teacher runs
    weight: Scheduled = 1.0  # of the divergence
    label_weight: Scheduled = None  # of the labels for archs with a teacher; null: 0 in place, 1 beside a teacher
    temperature: Scheduled = 1.0  # of both softmaxes; the divergence is multiplied by its square

    def __post_init__(self) -> None:
        given = ("weight", "temperature") + (() if self.label_weight is None else ("label_weight",))
        _check_scheduled({name: getattr(self, name) for name in given})
        if (self.config is None) != (self.checkpoint is None):
            raise UsageError("a teacher needs both config and checkpoint; without both the largest arch is the teacher")

    @property
    def in_place(self) -> bool:
        return self.config is None


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
    schedule: Literal["constant", "step", "linear", "cosine", "one_cycle"] = "step"
    milestones: tuple[float, ...] = (0.75, 0.92)  # of `step`, as fractions of all steps
    gamma: float = 0.1  # of `step`: factor at each milestone
    floor: float = 0.0  # of `linear`, `cosine` and `one_cycle`, as a fraction of lr
    warmup_steps: int = 0  # linear, from warmup_factor; not with one_cycle
    warmup_factor: float = 0.001
    clip_norm: float | None = None  # largest norm of the gradient
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    loss_weights: Any = None  # {loss name: factor, or its schedule}; 1 where not named
    label_smoothing: Scheduled = 0.0  # of a classifier's labels
    checkpoint_steps: int | None = None  # a checkpoint every so many steps
    checkpoint_minutes: float = 10.0  # and every so many minutes

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "base_batch": 1, "steps": 1, "warmup_steps": 0, "checkpoint_steps": 1, "momentum": 0}
        least |= dict.fromkeys(("weight_decay", "norm_weight_decay", "gamma", "floor", "warmup_factor"), 0)
        _require(self, least, ("epochs", "lr", "clip_norm", "checkpoint_minutes"))
        wrong = [f"{name} must be finite" for name in ("epochs", "lr") if not math.isfinite(getattr(self, name))]
        if not self.momentum < 1 or (self.nesterov and not self.momentum):
            wrong.append(f"momentum must be below 1{', and above 0 with nesterov' if self.nesterov else ''}")
        ends = (0, *self.milestones, 1)
        if not all(a < b for a, b in pairwise(ends)):
            wrong.append(
                f"milestones must be fractions of all steps, ascending, between 0 and 1: not {self.milestones}"
            )
        if wrong:
            raise UsageError("; ".join(wrong))
        given = {} if self.loss_weights is None else self.loss_weights
        if not isinstance(given, Mapping):
            raise UsageError(f"loss_weights must be a mapping of names to numbers, not {given!r}")
        weights = {f"loss_weights.{name}": value for name, value in given.items()}
        _check_scheduled({**weights, "label_smoothing": self.label_smoothing})

    def epoch_steps(self, images: int, world: int) -> int:
        """Optimiser steps of an epoch, whose last batch is filled up."""
        return -(-images // (self.batch_size * world))

    def total_steps(self, images: int, world: int) -> int:
        """Optimiser steps of the whole training."""
        return self.steps or max(1, round(self.epochs * self.epoch_steps(images, world)))


@dataclass(frozen=True)
class Train(Optimisation):
    """How the supernet is trained."""

    policy: Literal["sandwich", "anchors", "single_path", "fixed"] = "sandwich"
    random_archs: int = 2  # in a sandwich, or at the end of the anchor cycle
    sample_strategy: tuple[str, ...] = ()  # of a sandwich: max, min, middle, random or named archs, all in every step
    macs_bins: tuple[float, float, float] | None = None  # of single_path: from, to, width, in MACs of the first scale
    distill: Distill | None = None  # softer targets, of the largest arch or of a teacher
    arch: str = "MAX"  # of policy fixed
    sampler: Any = None  # of policy anchors: the cycle as a record sampler
    scales: tuple[InputShape, ...] = ()  # short edges or [H, W] that training draws from; empty: those of the space
    eval_epochs: float | None = None  # evaluate `eval_archs` every so many epochs; null: at the end alone
    eval_archs: tuple[str, ...] = ("MAX", "MIN")  # named archs that are scored on data.val
    best_arch: str = "MAX"  # best.pth is the checkpoint where this arch
    best_metric: str = ""  # had most of this; empty: bbox_mAP, or top1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, {"random_archs": 0}, ("eval_epochs",))
        if self.sampler is not None and self.policy != "anchors":
            raise UsageError(f"sampler is of policy anchors, but policy is {self.policy}")
        if self.sample_strategy and self.policy != "sandwich":
            raise UsageError(f"sample_strategy is of policy sandwich, but policy is {self.policy}")
        if self.macs_bins is not None and self.policy != "single_path":
            raise UsageError(f"macs_bins is of policy single_path, but policy is {self.policy}")
        if self.distill and self.distill.in_place:
            words = self.sample_strategy or ("max",)
            if self.policy != "sandwich" or not {"max", "MAX"} & {*words}:
                raise UsageError(
                    "distill without a teacher needs the largest arch in every step: policy sandwich, whose "
                    "sample_strategy, if given, has max"
                )


@dataclass(frozen=True)
class Test:
    """How a subnet is scored."""

    split: Literal["val", "test", "train"] = "val"
    calibration_images: int = 128  # of the training set, for the statistics of batch norm
    batch_size: int = 8
    raw: bool = False  # also with the supernet's own statistics
    per_class: bool = field(default=False, metadata=LATER)
    """Single classes among the metrics, too: bbox_AP/<class> of a detector, top1/<class>."""
    max_dets: int = field(default=100, metadata=LATER)
    """How many detections of one class in one image count, the best by score; an image has at most
    model.detections_per_image in all."""
    areas: Any = field(default=None, metadata=LATER)
    """Further ranges of the areas of objects, {name: [from, to]} in px^2: bbox_mAP_<name>, bbox_AR_<name>."""

    def __post_init__(self) -> None:
        _require(self, {"calibration_images": 0, "batch_size": 1, "max_dets": 1})
        _check_areas(self.areas)

    @property
    def beyond(self) -> dict[str, Any]:
        """What changes the metrics, where it is not the default: plain data."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata == LATER}
        default = {f.name: f.default for f in fields(self)}
        return {name: value for name, value in given.items() if value != default[name]}


@dataclass(frozen=True)
class Finetune(Optimisation):
    """How a subnet is tuned from the supernet's weights."""

    epochs: float = 2.0  # over the images of train_on
    train_on: tuple[Literal["train", "val"], ...] = ("train",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train_on or len(set(self.train_on)) < len(self.train_on):
            raise UsageError("train_on must name train, val or both, each once")


def reading_of(data: Data | LabelData) -> Reading:
    """How image files are read."""
    return Reading(data.exif, data.range)


def path_of(text: str, key: str) -> str:
    """A path of a config with `~` and `$VARIABLES` filled in. Raises UsageError naming those that are not set."""
    names = [a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)]
    if unset := [f"${name}" for name in dict.fromkeys(names) if name not in os.environ]:
        raise UsageError(f"{key}: {', '.join(unset)} is not set, which {text} needs", f"export {unset[0][1:]}=…")
    return os.path.expanduser(os.path.expandvars(text))
