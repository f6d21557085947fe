"""The sections of a search-nas config as frozen dataclasses: their fields are its keys, with types and defaults."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Annotated, Any, Literal

from searchkit.errors import UsageError
from searchkit.nas.data.augment import Augment, LabelAugment
from searchkit.nas.space.schema import sampler_schema
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.train.distill_section import Distill
from searchkit.nas.train.dmcp import Dmcp
from searchkit.nas.train.values import (
    Areas,
    AsDeclared,
    Interval,
    Milestone,
    NotNegative,
    ScheduledAbove0,
    ScheduledFraction,
    ScheduledNumber,
    ScheduledWeight,
    check,
)
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import LATER, Count, Fraction, Key, Number, Positive, Whole, number


def _check_range(span: tuple[float, float] | None) -> None:
    if span is not None and not -math.inf < span[0] < span[1] < math.inf:
        raise At("range", f"must be two ascending numbers, not {list(span)}")


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
    max_edge: Count = 1333  # of a resized image, in pixels, where the scale is a short edge
    workers: Whole = 2  # processes for training images, threads for those of tests; 0 where they stay in memory
    cache_mb: Whole = 1024  # of decoded images that are kept in memory
    exif: Literal["auto", "apply", "ignore"] = field(default="auto", metadata=LATER)
    """Whether the orientation that a photo's EXIF data names is applied; auto: unless the annotations have the width
    and height of the stored image."""
    range: tuple[Number, Number] | None = field(default=None, metadata=LATER)
    """[low, high] of greys deeper than 8 bits, of which 256 equal steps are made; null: by the values in data.train
    ([supernets](supernets.md#data))."""
    held_out: Annotated[float, number(0, below=1)] = field(default=0.0, metadata=LATER)
    """The fraction of data.train's images that no training, tuning or calibration sees, for scoring archs on them:
    split `held_out`."""
    held_out_seed: Whole = field(default=0, metadata=LATER)  # of the choice of these images, by their ids
    augment: Augment = field(default_factory=Augment)
    stretched: Annotated[bool, Key("")] = field(default=False, metadata=LATER)  # as Head.STRETCHES of the model's head

    def __post_init__(self) -> None:
        check(self)
        _check_range(self.range)


@dataclass(frozen=True)
class LabelSplit:
    """One set of images with a class each. `$VARIABLES` and `~` in the paths are expanded when it is opened."""

    path: str  # a folder of class folders, an idx file (MNIST), CIFAR-10's binary files, or .npz of JPEG bytes
    labels: str | None = None  # the idx file of labels, where it is not beside the images
    portion: tuple[Fraction, Fraction] = (0.0, 1.0)  # of each class: [0, 0.9] and [0.9, 1] share no image
    per_class: Count | None = None  # at most so many of each class

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.portion[0] < self.portion[1] <= 1:
            raise At("portion", f"must be two ascending numbers from 0 to 1, not {list(self.portion)}")


@dataclass(frozen=True)
class LabelData:
    """What a classifier is trained and scored on."""

    train: LabelSplit | None = None
    val: LabelSplit | None = None
    test: LabelSplit | None = None
    name: str = "images"  # of the data, kept with a checkpoint
    classes: tuple[str, ...] = ()  # a choice of classes, by name; empty: all
    workers: Whole = 0  # processes that load images; 0 where decoding is cheap
    cache_mb: Whole = 1024  # of decoded images that are kept in memory
    exif: Literal["auto", "apply", "ignore"] = field(default="auto", metadata=LATER)
    """Whether the orientation that a photo's EXIF data names is applied; auto: unless the annotations have the width
    and height of the stored image."""
    range: tuple[Number, Number] | None = field(default=None, metadata=LATER)
    """[low, high] of greys deeper than 8 bits, of which 256 equal steps are made; null: by the values in data.train
    ([supernets](supernets.md#data))."""
    held_out: Annotated[float, number(0, below=1)] = field(default=0.0, metadata=LATER)
    """The fraction of data.train's images that no training, tuning or calibration sees, for scoring archs on them:
    split `held_out`."""
    held_out_seed: Whole = field(default=0, metadata=LATER)  # of the choice of these images, by their ids
    augment: LabelAugment = field(default_factory=LabelAugment)

    def __post_init__(self) -> None:
        check(self)
        _check_range(self.range)


@dataclass(frozen=True)
class Optimisation:
    """How weights move. `lr` is for a batch of `base_batch` images over all ranks, and is scaled by `lr_scaling`."""

    epochs: Positive = 12.0  # over the training images
    steps: Count | None = None  # instead of epochs
    batch_size: Count = 8  # on each rank
    optimizer: Literal["sgd", "adamw"] = "sgd"  # adamw has torch's default betas
    lr: Positive = 0.02  # for a batch of base_batch images over all ranks
    backbone_lr: NotNegative | None = field(default=None, metadata=LATER)
    """Of the backbone, for a batch of base_batch images as lr is; 0 freezes it: no gradient, and its batch norms use
    and keep the statistics that they have; null: lr."""
    neck_lr: NotNegative | None = field(default=None, metadata=LATER)  # of the neck, likewise
    head_lr: NotNegative | None = field(default=None, metadata=LATER)  # of the head, likewise
    base_batch: Count = 16
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"  # how lr grows with the batch
    momentum: Annotated[float, number(0, below=1)] = 0.9  # of sgd
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    norm_weight_decay: NotNegative = 0.0  # of norms and biases
    schedule: Literal["constant", "step", "linear", "cosine", "one_cycle"] = "step"
    milestones: tuple[Milestone, ...] = (0.75, 0.92)  # of `step`, as fractions of all steps
    gamma: NotNegative = 0.1  # of `step`: factor at each milestone
    floor: NotNegative = 0.0  # of `linear`, `cosine` and `one_cycle`, as a fraction of lr
    restart_epochs: Positive | None = field(default=None, metadata=LATER)
    """Of `cosine`: it begins anew after so many epochs (T_0 of torch's CosineAnnealingWarmRestarts, here step by step),
    whatever the length of the training."""
    restart_mult: Annotated[float, number(1)] = field(default=1.0, metadata=LATER)
    """How many times as long as the cycle before it each next one is (T_mult)."""
    warmup_steps: Whole = 0  # linear, from warmup_factor; not with one_cycle
    warmup_factor: NotNegative = 0.001
    clip_norm: Interval | None = None  # largest norm of the gradient
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    loss_weights: Mapping[str, ScheduledNumber] | None = None  # {loss name: factor, or its schedule}; 1 where not named
    label_smoothing: ScheduledFraction = 0.0  # of a classifier's labels
    checkpoint_steps: Count | None = None  # a checkpoint every so many steps
    checkpoint_minutes: Interval = 10.0  # and every so many minutes

    def __post_init__(self) -> None:
        check(self)
        refuse(self.faults())

    def faults(self) -> Iterator[At]:
        """What is wrong with the values together; a subclass has more of it."""
        if self.nesterov and not self.momentum:
            yield At("momentum", "must be above 0 with nesterov", beside=("nesterov",))
        if not all(a < b for a, b in pairwise(self.milestones)):
            yield At("milestones", f"must ascend, but are {list(self.milestones)}")
        if self.restart_epochs is not None and self.schedule != "cosine":
            what = f"is of schedule cosine, but schedule is {self.schedule}"
            yield At("restart_epochs", what, beside=("schedule",))
        if self.restart_mult != 1 and self.restart_epochs is None:
            yield At("restart_mult", "needs restart_epochs", beside=("restart_epochs",))
        if self.backbone_lr == self.neck_lr == self.head_lr == 0:
            what = "is 0, as backbone_lr and neck_lr are: nothing would be trained"
            yield At("head_lr", what, beside=("backbone_lr", "neck_lr"))

    def epoch_steps(self, images: int, world: int) -> int:
        """Optimiser steps of an epoch, whose last batch is filled up."""
        return -(-images // (self.batch_size * world))

    def total_steps(self, images: int, world: int) -> int:
        """Optimiser steps of the whole training."""
        return self.steps or max(1, round(self.epochs * self.epoch_steps(images, world)))


@dataclass(frozen=True)
class Pretrain(Optimisation):
    """How paraphrasers learn before the network does."""

    epochs: Positive = 5.0  # over the training images


@dataclass(frozen=True)
class Train(Optimisation):
    """How the supernet is trained."""

    policy: Literal["sandwich", "anchors", "single_path", "fixed", "dmcp"] = "sandwich"
    random_archs: Whole = 2  # in a sandwich, of dmcp's too, or at the end of the anchor cycle
    sample_strategy: tuple[str, ...] = ()
    """Of a sandwich: max, min, middle, random, random_slim or named archs, all in every step."""
    macs_bins: tuple[float, float, float] | None = None  # of single_path: from, to, width, in MACs of the first scale
    dmcp: Dmcp | None = field(default=None, metadata=LATER)  # of policy dmcp
    distill: Distill | None = None  # softer targets, of the largest arch or of a teacher
    arch: str = "MAX"  # of policy fixed
    sampler: Annotated[Any, AsDeclared(sampler_schema())] = None  # of policy anchors: the cycle as a record sampler
    scales: tuple[InputShape, ...] = ()  # short edges or [H, W] that training draws from; empty: those of the space
    sort_channels: bool = False
    """where an epoch opens narrower widths inside blocks, the most important channels come to stand first"""
    eval_epochs: Interval | None = None  # evaluate `eval_archs` every so many epochs; null: at the end alone
    eval_archs: tuple[str, ...] = ("MAX", "MIN")  # named archs that are scored on data.val
    best_arch: str = "MAX"  # best.pth is the checkpoint where this arch
    best_metric: str = ""  # had most of this; empty: bbox_mAP, or top1
    pretrain: Pretrain | None = field(default=None, metadata=LATER)
    """How the paraphrasers of distill learn before the network does; null: as its defaults say."""

    def __post_init__(self) -> None:
        if self.distill is None and (taught := self._of_dmcp()):
            object.__setattr__(self, "distill", taught)
        super().__post_init__()

    def _of_dmcp(self) -> Distill | None:
        """What DMCP's narrower archs are taught, in the terms of `distill`."""
        cfg = self.dmcp.distill_cfg if self.dmcp and not self.dmcp.retraining else None
        if cfg is None or not cfg.distill_weight:
            return None
        return Distill(
            weight=cfg.distill_weight, temperature=cfg.temperature, label_weight=1.0 if cfg.distill_softlable else 0.0
        )

    def faults(self) -> Iterator[At]:
        """As of Optimisation."""
        yield from super().faults()
        if (self.dmcp is not None) != (self.policy == "dmcp"):
            other = f"is of policy dmcp, but policy is {self.policy}"
            what = other if self.dmcp else "is missing: policy dmcp needs its target_flops"
            yield At("dmcp", what, beside=("policy",))
        if (own := self._of_dmcp()) and self.distill != own:
            what = "says what archs are taught, and so does dmcp.distill_cfg: set its distill_weight to 0"
            yield At("distill", what, beside=("dmcp",))
        if self.sampler is not None and self.policy != "anchors":
            yield At("sampler", f"is of policy anchors, but policy is {self.policy}", beside=("policy",))
        if self.sample_strategy and self.policy != "sandwich":
            yield At("sample_strategy", f"is of policy sandwich, but policy is {self.policy}", beside=("policy",))
        if self.macs_bins is not None and self.policy != "single_path":
            yield At("macs_bins", f"is of policy single_path, but policy is {self.policy}", beside=("policy",))
        if self.pretrain and not (self.distill and self.distill.pretrained):
            what = "is of paraphrasers with a pretrain_criterion, but no mimic of distill has one"
            yield At("pretrain", what, beside=("distill",))
        if self.distill and self.distill.in_place:
            words = self.sample_strategy or ("max",)
            if self.policy not in ("sandwich", "dmcp") or not {"max", "MAX"} & {*words}:
                yield At(
                    "distill",
                    "without a teacher it needs the largest arch in every step: policy sandwich, whose "
                    "sample_strategy, if given, has max",
                    beside=("policy", "sample_strategy"),
                )


@dataclass(frozen=True)
class Test:
    """How a subnet is scored."""

    split: Literal["val", "test", "train", "held_out"] = "val"  # held_out: see data.held_out
    calibration_images: Whole = 128  # of the training set, for the statistics of batch norm
    batch_size: Count = 8
    raw: bool = False  # also with the supernet's own statistics
    per_class: bool = field(default=False, metadata=LATER)
    """Single classes among the metrics, too: bbox_AP/<class> of a detector, top1/<class>."""
    max_dets: Count = field(default=100, metadata=LATER)
    """How many detections of one class in one image count, the best by score; an image has at most
    model.detections_per_image in all."""
    areas: Areas | None = field(default=None, metadata=LATER)
    """Further ranges of the areas of objects, {name: [from, to]} in px^2: bbox_mAP_<name>, bbox_AR_<name>."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def beyond(self) -> dict[str, Any]:
        """What changes the metrics, where it is not the default: plain data."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata == LATER}
        default = {f.name: f.default for f in fields(self)}
        return {name: value for name, value in given.items() if value != default[name]}


@dataclass(frozen=True)
class Finetune(Optimisation):
    """How a subnet is tuned from the supernet's weights."""

    epochs: Positive = 2.0  # over the images of train_on
    train_on: tuple[Literal["train", "val"], ...] = ("train",)
    distill: Distill | None = field(default=None, metadata=LATER)
    """Softer targets, of the supernet's largest arch or of another teacher: the keys of train.distill."""

    def faults(self) -> Iterator[At]:
        """As of Optimisation."""
        yield from super().faults()
        yield from _each_once(self.train_on)


def _each_once(train_on: Sequence[str]) -> Iterator[At]:
    if not train_on or len(set(train_on)) < len(train_on):
        yield At("train_on", "must name train, val or both, each once")


@dataclass(frozen=True)
class Quantize(Optimisation):
    """How a network is trained with the roundings of its file of 8 bits (search-nas quantize --qat): the optimisation
    keys of `train`, with other defaults, and these."""

    epochs: Positive = 2.0  # over the images of train_on
    train_on: tuple[Literal["train", "val"], ...] = ("train",)
    lr: Positive = 0.0001  # for a batch of base_batch images; little, for no batch norm holds the weights
    schedule: Literal["constant", "step", "linear", "cosine", "one_cycle"] = "cosine"
    scales: Literal["learnt", "averaged"] = "learnt"
    """How scales move: learnt along with the weights (Esser et al., "Learned Step Size Quantization", ICLR 2020), or by
    the values that come by, averaged."""
    distill_weight: ScheduledWeight = 1.0  # of the divergence of the class scores from the float network's; 0: none
    label_weight: ScheduledWeight = 1.0  # of the labels
    temperature: ScheduledAbove0 = 1.0  # of both softmaxes; the divergence is multiplied by its square

    def faults(self) -> Iterator[At]:
        """As of Optimisation."""
        yield from super().faults()
        yield from _each_once(self.train_on)
        for part in ("backbone", "neck", "head"):
            if getattr(self, f"{part}_lr") is not None:
                yield At(f"{part}_lr", "a network with roundings has no parts: all of it learns at lr")
        if self.precision != "fp32":
            yield At("precision", "must be fp32: what is rounded to 8 bits must not be rounded before")
        if self.distill_weight == 0 and self.label_weight == 0:
            yield At("label_weight", "is 0, as distill_weight is: nothing would be learnt", beside=("distill_weight",))


def path_of(text: str, key: str) -> str:
    """A path of a config with `~` and `$VARIABLES` filled in. Raises UsageError naming those that are not set."""
    names = [a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)]
    if unset := [f"${name}" for name in dict.fromkeys(names) if name not in os.environ]:
        raise UsageError(f"{key}: {', '.join(unset)} is not set, which {text} needs", f"export {unset[0][1:]}=…")
    return os.path.expanduser(os.path.expandvars(text))
