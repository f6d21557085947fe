"""Detection: what is done to find boxes of objects, as COCO has them. What a task is: searchkit.nas.train.task."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.data import coco, loader
from searchkit.nas.data.augment import least_box
from searchkit.nas.data.coco import CocoSet
from searchkit.nas.data.coco_eval import Evaluator, as_results
from searchkit.nas.data.images import unreadable
from searchkit.nas.data.loader import Edges, Exactly, Seen
from searchkit.nas.data.metrics import PER_CLASS
from searchkit.nas.models.heads.inputs import Prepared, Transform
from searchkit.nas.nn import enough
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.tasks import pictures
from searchkit.nas.train import checkpoint
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.sections import Data, Optimisation, Split, Test
from searchkit.nas.train.steps import Batch, Evaluation, Losses, Soft, autocast, scale_at
from searchkit.nas.train.task import Functions, Network, Objective, Sets

PLAIN = Test()


def require_labels(data: CocoSet, section: Data) -> None:
    """UsageError for a set that nothing can be learnt from: of whose boxes augmentation leaves none."""
    coco.require_boxes(data, least_box(section.augment))


def unlearnt(data: CocoSet, head: Any) -> tuple[str, ...]:
    """That images without boxes are of no use, where the head learns from positives and their images alone."""
    empty = sum(bool(image.crowd.all()) for image in data.images)
    if not empty or not getattr(head, "needs_boxes", False):
        return ()
    return (f"{empty} of {len(data.images)} images have no boxes: this head learns nothing from them",)


def digest(data: CocoSet) -> str:
    """What tells a set from others: the digest of its annotations."""
    return checkpoint.digest(data.source)


def source_of(split: Split) -> str:
    """What the config calls the file that a set's ids are of."""
    return split.annotations


def count(data: CocoSet) -> int:
    """How many images a set has."""
    return len(data.images)


def subset(data: CocoSet, indices: Sequence[int]) -> tuple[CocoSet, tuple[int | str, ...]]:
    """(the part of a set, the ids of its images in its file)."""
    part = coco.subset(data, indices)
    return part, tuple(info.file_id for info in part.images)


def unusable(data: CocoSet, indices: Sequence[int]) -> dict[int, UsageError]:
    """What is wrong with those of these images that can't be decoded."""
    faults = {i: unreadable(coco.subset(data, [i])) for i in indices}
    return {i: reasons[0] for i, reasons in faults.items() if reasons}


def places(data: CocoSet, ids: Sequence[int | str]) -> list[int] | None:
    """Where the images of these ids are in a set; None where it lacks some."""
    at = {info.file_id: i for i, info in enumerate(data.images)}
    return [at[number] for number in ids] if all(number in at for number in ids) else None


def decoded_mb(data: CocoSet, shape: InputShape) -> float:
    """What all images of a set take in memory, at whatever input shape: they are kept as they are."""
    return sum(info.width * info.height * 3 for info in data.images) / 1e6


def train_batches(
    data: CocoSet,
    section: Data,
    settings: Optimisation,
    seed: int,
    start: int,
    steps: int,
    scales: Sequence[InputShape],
    ranks: Ranks,
    seen: Seen | None,
) -> Iterator[Batch]:
    """Training batches of the steps start, ..., steps - 1; `seen` counts what was left out."""
    return loader.train_loader(
        data,
        section.augment,
        settings.batch_size,
        seed,
        start,
        steps,
        section.workers,
        rank=ranks.rank,
        world=ranks.world,
        cache_mb=section.cache_mb,
        pin_memory=True,
        seen=seen,
        edges=lambda step: _size(scale_at(scales, seed, step), section),
    )


def eval_batches(data: CocoSet, batch_size: int, workers: int, shape: InputShape) -> Iterable[Any]:
    """(images, targets) of all images in the order of the set; the network resizes them itself (see set_scale)."""
    return loader.eval_loader(data, batch_size, workers)


def kept_shape(shape: InputShape) -> None:
    """The input shape for which decoded images are kept: they serve all, since the network resizes them."""


def protocol(section: Data) -> dict[str, Any]:
    """What of the data's section decides a score."""
    return {"max_edge": section.max_edge}


def build_options(section: Data) -> dict[str, Any]:
    """What of the data's section a network is built with."""
    return {"max_size": section.max_edge}


def images_of(batch: Any) -> list[Tensor]:
    """The images of an evaluation batch."""
    images: list[Tensor] = batch[0]
    return images


def set_scale(net: nn.Module, shape: InputShape, section: Data) -> None:
    """Let a detector resize its images to a short edge (the long one at most max_edge), or into (H, W); one that
    stretches them, to S x S or (H, W)."""
    transform: Any = net.transform  # torchvision's GeneralizedRCNNTransform
    if transform.fixed_size is not None:
        height, width = height_width(shape)
        transform.fixed_size = (width, height)
    short, long = _edges(shape, section)
    transform.min_size, transform.max_size = (short,), long


def size_of(shape: InputShape, section: Data) -> tuple[int, int]:
    """(H, W) px that an image of an input shape's own aspect is made."""
    whole = section.stretched or not isinstance(shape, int)
    return height_width(shape if whole else min(_edges(shape, section)))


def _size(shape: InputShape, section: Data) -> Edges | Exactly:
    """What training images are shrunk to."""
    return Exactly(*height_width(shape)) if section.stretched else _edges(shape, section)


def _edges(shape: InputShape, section: Data) -> Edges:
    """The short and the long edge that images are resized to, px."""
    return (shape, section.max_edge) if isinstance(shape, int) else (min(shape), max(shape))


def inputs_of(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Images (3, H, W) uint8, or prepared ones, as the network takes them."""
    if isinstance(images, Prepared):
        return images
    return [image.to(device, non_blocking=True).float() / 255 for image in images]


def prepares(net: Any) -> Hashable | None:
    """How a detector resizes and normalises images; None for one that must do it itself."""
    return net.transform.key if isinstance(net.transform, Transform) else None


@torch.no_grad()
def prepared(net: Any, batch: Any, device: torch.device) -> tuple[Any, float]:
    """The batch with its images resized and normalised; the MB that they take."""
    images, targets = batch
    made, _ = net.transform(inputs_of(images, device))
    return (Prepared(images, made), targets), made.tensors.numel() * made.tensors.element_size() / 1e6


def losses(
    net: nn.Module, inputs: list[Tensor], targets: Any, settings: Optimisation, epoch: int, soft: Soft | None
) -> Losses:
    """The losses of its head by name."""
    device = inputs[0].device
    answers = [{k: t[k].to(device, non_blocking=True) for k in ("boxes", "labels")} for t in targets]
    with enough(inputs):
        parts: Losses = net(inputs, answers)
    return parts


def ids_of(targets: Any) -> list[int]:
    """The image ids of a training batch."""
    return [int(t["image_id"]) for t in targets]


def evaluator(data: CocoSet, test: Test = PLAIN) -> Evaluator:
    """What scores predictions on a set, made once."""
    return Evaluator(data, max_dets=test.max_dets, areas=test.areas, per_class=test.per_class)


def without_value(evaluator: Evaluator) -> dict[str, str]:
    """Metrics that have no value on the evaluator's set, whatever is predicted, and why."""
    return evaluator.without_value()


def class_names(evaluator: Evaluator) -> tuple[str, ...]:
    """The classes that are told one by one, if asked for."""
    return evaluator.names


def notes(evaluator: Evaluator) -> tuple[str, ...]:
    """What is odd about scoring on the evaluator's set."""
    return evaluator.notes


@torch.no_grad()
def predict(
    net: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]],
    device: torch.device,
    precision: str,
) -> tuple[dict[int, dict[str, Tensor]], float]:
    """(predictions by image id, seconds in the network)."""
    net.eval()
    boxes: dict[int, dict[str, Tensor]] = {}
    spent = 0.0
    for images, targets in batches:
        began = time.monotonic()
        # torchvision draws nothing in eval mode.
        with autocast(device, precision):
            outputs = net(inputs_of(images, device))
        for target, output in zip(targets, outputs, strict=True):
            boxes[int(target["image_id"])] = {
                k: v.float().cpu() if k != "labels" else v.cpu() for k, v in output.items()
            }
        spent += time.monotonic() - began
    return boxes, spent


def evaluate(
    net: nn.Module, batches: Iterable[Any], evaluator: Evaluator, device: torch.device, precision: str = "fp32"
) -> Evaluation:
    """COCO box metrics of a detector as it is (bbox_mAP, bbox_AR …; 0..1; -1 where there is nothing to find)."""
    was = net.training
    predictions, spent = predict(net, batches, device, precision)
    result = evaluator.evaluate(predictions)
    metrics = {name: value for name, value in result.items() if isinstance(value, float)}
    if evaluator.per_class:
        metrics |= {f"{PER_CLASS}{name}": value for name, value in result["per_class"].items()}
    net.train(was)
    speed = {"images_per_s": len(predictions) / max(spent, 1e-9)}
    return Evaluation(metrics | speed, tuple(result["notes"]), predictions)


def results(data: CocoSet, predictions: Any) -> tuple[list[dict[str, Any]], int]:
    """(what a detector has said of a set, as COCO's results; how many detections these leave out)."""
    return as_results(data, predictions)


def record_name(section: Data, metric: str) -> str:
    """What a metric is called in a record."""
    return f"{section.name}_{metric}" if metric.startswith("bbox_") else metric


DETECTION = Functions(
    sets=Sets(
        compared="annotations are compared, pixels are not",
        require_labels=require_labels,
        unlearnt=unlearnt,
        joined=coco.joined,
        matched=coco.matched,
        same_classes=coco.same_classes,
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
    pictures=pictures.BOXES,
)
