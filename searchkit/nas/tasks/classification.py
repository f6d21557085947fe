"""Classification: what is done to find one label for each image. What a task is: searchkit.nas.train.task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.data import label_loader, labelled
from searchkit.nas.data.labelled import LabelSet
from searchkit.nas.data.loader import Seen
from searchkit.nas.nn import enough
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.tasks import pictures
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.sections import LabelData, LabelSplit, Optimisation, Test
from searchkit.nas.train.steps import Batch, Evaluation, Losses, Soft, autocast, scale_at
from searchkit.nas.train.task import Functions, Network, Objective, Sets

PLAIN = Test()


def require_labels(data: LabelSet, section: LabelData) -> None:
    """UsageError for a set that nothing can be learnt from."""
    if not len(data):
        raise UsageError(f"{data.source} has no images to train on")


def digest(data: LabelSet) -> str:
    """What tells a set from others."""
    return data.digest


def source_of(split: LabelSplit) -> str:
    """What the config calls the file that a set's ids are of."""
    return split.path


def count(data: LabelSet) -> int:
    """How many images a set has."""
    return len(data)


def subset(data: LabelSet, indices: Sequence[int]) -> tuple[LabelSet, tuple[int, ...]]:
    """(the part of a set, the places of its images in it)."""
    return labelled.subset(data, indices), tuple(int(i) for i in indices)


def unusable(data: LabelSet, indices: Sequence[int]) -> dict[int, UsageError]:
    """What is wrong with those of these images that can't be decoded."""
    faults = {i: label_loader.unreadable(data, [i]) for i in indices}
    return {i: reasons[0] for i, reasons in faults.items() if reasons}


def places(data: LabelSet, ids: Sequence[Any]) -> list[int] | None:
    """Where the images of these ids are in a set; None where it lacks some."""
    return list(ids) if all(0 <= i < len(data) for i in ids) else None


def decoded_mb(data: LabelSet, shape: InputShape) -> float:
    """What all images of a set take in memory at an input shape."""
    h, w = height_width(shape)
    return len(data) * 3 * h * w / 1e6


def train_batches(
    data: LabelSet,
    section: LabelData,
    settings: Optimisation,
    seed: int,
    start: int,
    steps: int,
    scales: Sequence[InputShape],
    ranks: Ranks,
    seen: Seen | None,
) -> Iterator[Batch]:
    """Training batches of the steps start, ..., steps - 1; `seen` counts what was left out."""
    loaded = label_loader.train_loader(
        data,
        section.augment,
        settings.batch_size,
        seed,
        start,
        steps,
        section.workers,
        size=lambda step: height_width(scale_at(scales, seed, step)),
        rank=ranks.rank,
        world=ranks.world,
        cache_mb=section.cache_mb,
        skipped=None if seen is None else seen.skipped,
    )
    known = len(data.names)
    return ((step, images, (labels, indices, known)) for step, images, labels, indices in loaded)


def eval_batches(data: LabelSet, batch_size: int, workers: int, shape: InputShape) -> Iterable[Any]:
    """(images (N, 3, H, W) uint8, labels (N,)) of all images in the order of the set."""
    return label_loader.eval_batches(data, batch_size, height_width(shape), workers=workers)


def kept_shape(shape: InputShape) -> InputShape:
    """The input shape for which decoded images are kept: they are made for it."""
    return shape


def protocol(section: LabelData) -> dict[str, Any]:
    """What of the data's section decides a score."""
    return {}


def build_options(section: LabelData) -> dict[str, Any]:
    """What of the data's section a network is built with."""
    return {}


def images_of(batch: Any) -> Tensor:
    """The images of an evaluation batch."""
    images: Tensor = batch[0]
    return images


def set_scale(net: nn.Module, shape: InputShape, section: LabelData) -> None:
    """A classifier takes images of any size; the loader makes them."""


def size_of(shape: InputShape, section: LabelData) -> tuple[int, int]:
    """(H, W) px that the loader makes images."""
    return height_width(shape)


def inputs_of(images: Tensor, device: torch.device) -> Tensor:
    """Images (N, 3, H, W) uint8 as the network takes them."""
    return images.to(device, non_blocking=True).float() / 255


def prepares(net: nn.Module) -> None:
    """Nothing that is worth the memory."""


def prepared(net: nn.Module, batch: Any, device: torch.device) -> tuple[Any, float]:
    """The batch as it is."""
    return batch, 0.0


@contextlib.contextmanager
def _no_dropout(net: Any) -> Iterator[None]:
    """The network without its dropout, for a moment."""
    p, net.dropout = net.dropout, 0.0
    try:
        yield
    finally:
        net.dropout = p


def losses(
    net: nn.Module, inputs: Tensor, targets: Any, settings: Optimisation, epoch: int, soft: Soft | None
) -> Losses:
    """`loss_ce`, of the classes of the data."""
    labels, _, known = targets
    with enough(inputs), contextlib.nullcontext() if soft is None or soft.dropout else _no_dropout(net):
        scores = net(inputs)[:, :known]  # those behind them stay silent, whatever label_smoothing asks for
    labels = labels.to(inputs.device, non_blocking=True)
    hard = F.cross_entropy(scores.float(), labels, label_smoothing=float(value_at(settings.label_smoothing, epoch)))
    return {"loss_ce": hard}


def ids_of(targets: Any) -> list[int]:
    """The places of a training batch's images in the set."""
    return [int(i) for i in targets[1]]


@dataclass(frozen=True)
class Evaluator:
    """What scores of a set are told: its classes, how many images each has, whether one by one."""

    names: tuple[str, ...]
    counts: tuple[int, ...] = ()
    per_class: bool = False


def evaluator(data: LabelSet, test: Test = PLAIN) -> Evaluator:
    """What scores predictions on a set, made once."""
    return Evaluator(data.names, tuple(map(int, data.counts)), test.per_class)


def without_value(evaluator: Evaluator) -> dict[str, str]:
    """Metrics that have no value on the evaluator's set, whatever is predicted, and why."""
    n = len(evaluator.names)
    few = {"top5": f"with {n} classes there is only top1"} if n <= 5 else {}
    each = zip(evaluator.names, evaluator.counts, strict=True)
    return few | {f"top1/{name}": f"there is no image of class {name}" for name, count in each if not count}


def class_names(evaluator: Evaluator) -> tuple[str, ...]:
    """The classes that are told one by one, if asked for."""
    return evaluator.names


def notes(evaluator: Evaluator) -> tuple[str, ...]:
    """What is odd about scoring on the evaluator's set."""
    return ()


@torch.no_grad()
def evaluate(
    net: nn.Module, batches: Iterable[Any], evaluator: Evaluator, device: torch.device, precision: str = "fp32"
) -> Evaluation:
    """top1 and (with more than five classes) top5 of a classifier as it is, 0..1; -1 for a class without images."""
    was = net.training
    net.eval()
    known = len(evaluator.names)
    hits, right, seen = torch.zeros(2), torch.zeros(known), torch.zeros(known)
    total, spent = 0, 0.0
    for images, labels in batches:
        began = time.monotonic()
        with autocast(device, precision):
            scores = net(inputs_of(images, device)).float().cpu()
        # Equal scores are wrong guesses but for chance: a net that says the same of all classes, or nan, is not right.
        own = scores.gather(1, labels[:, None])
        rank = (~(scores < own)).sum(1) - 1
        hits += torch.tensor([(rank < k).sum() for k in (1, 5)])
        right += torch.bincount(labels[rank < 1], minlength=known)[:known]
        seen += torch.bincount(labels, minlength=known)[:known]
        total += len(labels)
        spent += time.monotonic() - began
    net.train(was)
    names = ("top1", "top5") if known > 5 else ("top1",)
    metrics = {name: float(hit) / max(1, total) for name, hit in zip(names, hits, strict=False)}
    if evaluator.per_class:
        each = zip(evaluator.names, right.tolist(), seen.tolist(), strict=True)
        metrics |= {f"top1/{name}": hit / n if n else -1.0 for name, hit, n in each}
    return Evaluation({**metrics, "images_per_s": total / max(spent, 1e-9)})


def results(data: LabelSet, predictions: Any) -> tuple[list[dict[str, Any]], int]:
    """A classifier detects nothing."""
    raise UsageError("--detections is of task det, but the task is cls", "Leave it out")


def record_name(section: LabelData, metric: str) -> str:
    """What a metric is called in a record."""
    return metric


CLASSIFICATION = Functions(
    sets=Sets(
        compared="folders are compared by names and sizes of files, other sets by content",
        require_labels=require_labels,
        unlearnt=lambda data, head: (),
        joined=labelled.joined,
        matched=labelled.matched,
        same_classes=labelled.same_classes,
        digest=digest,
        source_of=source_of,
        count=count,
        subset=subset,
        unusable=unusable,
        places=places,
        decoded_mb=decoded_mb,
        train_batches=train_batches,
        eval_batches=eval_batches,
        kept_shape=kept_shape,
        images_of=images_of,
        ids_of=ids_of,
        protocol=protocol,
    ),
    network=Network(
        build_options=build_options,
        set_scale=set_scale,
        size_of=size_of,
        inputs_of=inputs_of,
        prepares=prepares,
        prepared=prepared,
    ),
    objective=Objective(
        losses=losses,
        evaluator=evaluator,
        without_value=without_value,
        class_names=class_names,
        notes=notes,
        evaluate=evaluate,
        results=results,
        record_name=record_name,
    ),
    pictures=pictures.CLASSES,
)
