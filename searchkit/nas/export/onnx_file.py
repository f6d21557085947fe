"""model.onnx: the whole network, from an image of 8 bits to what is found on it, for images and input shapes of any
size; compared with the network of torch before it is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit import fsio, proc
from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.export import infer_source, runtime
from searchkit.nas.export.compare import SAME, Boxes, Near, largest_difference, same_boxes, together
from searchkit.nas.export.runtime import OnnxFile
from searchkit.nas.export.table import Order
from searchkit.nas.graph.graph import Graph
from searchkit.nas.models.part import WrittenInOnnx
from searchkit.nas.space.shapes import InputShape, height_width, plain_shape

FILE = "model.onnx"
OTHERS = 2  # input shapes of the space, beside its own, that are compared
APART_LOGIT = 1e-3  # the largest difference of a classifier's scores, as a part of their largest absolute value
CPU = torch.device("cpu")


def write(order: Order) -> dict[str, Any]:
    """Write the file, and infer.py beside it; returns how it agrees with torch, what it scores, how fast it is.

    Raises SearchkitError where it finds other boxes than torch.
    """
    runtime.import_onnxruntime()  # if it lacks, this is said before the work that follows
    build(order)
    path = os.path.join(order.folder, FILE)
    keep(path, order.model)
    keep_program(order, FILE)
    file = runtime.open_file(path, order.wishes.threads)
    agreement, fault = compared(order, file)
    if fault:
        raise SearchkitError(
            f"{FILE} does not find what the network of torch finds: {fault}",
            "Nothing was written. Does a part compute by the values of tensors, or in a way that ONNX lacks?",
        )
    return {
        "file": FILE,
        "opset": order.wishes.opset,
        **noted(order),
        "agrees": agreement,
        **measured(order, file),
    }


def build(order: Order) -> None:
    """Make the graph of an order, once."""
    if order.model is not None:
        return
    if not isinstance(order.form, WrittenInOnnx):
        raise UsageError(
            f"a {order.form.KIND} can't be written as ONNX: its form has no write_onnx",
            "--export torch writes its trunk. See extend.md for what a head of your own needs.",
        )
    g = Graph(order.wishes.opset)
    settings = order.form.write_onnx(g, order.net, order.shape)
    order.model = g.proto(about(order, settings))
    order.layers, order.predictions, order.notes = frozenset(g.layers), tuple(g.predictions), tuple(g.notes)
    order.calls = g.calls if g.traces == 1 else {}


def noted(order: Order) -> dict[str, list[str]]:
    """What the proof says of how the graph was written, where there is something to say."""
    return {"notes": [*order.notes]} if order.notes else {}


def about(order: Order, settings: dict[str, Any]) -> dict[str, str]:
    """What the file says of itself: plain text, and JSON of all that is more."""
    config = order.config
    kept = ("task", "arch", "categories", "input_shape", "min_size", "max_size", "size", "exif", "range")
    facts = {name: config[name] for name in kept if name in config}
    facts |= {"mean": list(order.mean), "std": list(order.std), **settings}
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    return {**text, "input": INPUT[order.recipe.task.name], "output": OUTPUT[order.recipe.task.name]}


INPUT = {
    "det": "image: RGB of 8 bits, (1, 3, height, width), of any size; it is normalised (by mean and std, of values in "
    "0..1) and resized here. size, may be left out: what it is resized to, the short and the long edge, or where "
    "resize is stretch, height and width",
    "cls": "image: RGB of 8 bits, (N, 3, height, width), best of `size`; it is normalised (by mean and std, of values "
    "in 0..1) here",
}
OUTPUT = {
    "det": "boxes: (n, 4) left, top, right, bottom in px of the image; scores: (n,), best first; labels: (n,), of "
    "categories from 1 on",
    "cls": "scores: (N, classes) before a softmax, in the order of categories",
}


def keep(path: str, model: Any) -> None:
    """Write a model as a file."""
    with fsio.storage():
        fsio.atomic_write(path, model.SerializeToString())


def keep_program(order: Order, file: str) -> None:
    """Write infer.py, unless it is there; it runs `file` by default."""
    path = os.path.join(order.folder, infer_source.FILE)
    if not os.path.exists(path):
        with fsio.storage():
            fsio.write_new(path, infer_source.source(order.recipe.task.name, file).encode())


# ---- what it computes ----


def compared(order: Order, file: OnnxFile, within: Near = SAME, noisy: bool = True) -> tuple[dict[str, Any], str]:
    """(how the file and the network of torch agree on the order's images and, if `noisy`, on noise, at its input shape
    and others of the space; what is too far apart, in words). within: how near boxes are the same."""
    shapes = [order.shape, *(s for s in order.recipe.scales if s != order.shape)][: 1 + OTHERS]
    try:
        each = [(shape, _at(order, file, shape, within, noisy)) for shape in shapes]
    finally:
        order.recipe.task.network.set_scale(order.net, order.shape, order.recipe.data)
    images = {
        "images": len(order.images),
        "noise": noisy or not order.images,
        "input_shapes": [plain_shape(shape) for shape, _ in each],
    }
    if order.recipe.task.name == "cls":
        worst = max(float(difference) for _, difference in each)
        fault = f"scores differ by {worst:.3g} of the largest" if worst > APART_LOGIT else ""
        return {**images, "largest_difference": worst, "tolerance": APART_LOGIT}, fault
    boxes = together(boxes for _, boxes in each)
    return {**images, **boxes.said(), "tolerance": within._asdict()}, boxes.fault


def _at(order: Order, file: OnnxFile, shape: InputShape, within: Near, noisy: bool) -> Any:
    """What is compared at one input shape: Boxes, or the largest relative difference of a classifier's scores."""
    order.recipe.task.network.set_scale(order.net, shape, order.recipe.data)
    pictures = [*order.images, *(noise(shape) if noisy or not order.images else ())]
    if order.recipe.task.name == "cls":
        return max(_scores_apart(order, file, picture) for picture in pictures)
    size = runtime.size_of(file.about, shape, order.recipe.data.max_edge)
    most, least = (json.loads(file.about[name]) for name in ("detections", "score_thresh"))
    return together(_boxes_apart(order, file, picture, size, most, least, within) for picture in pictures)


def noise(shape: InputShape) -> list[Tensor]:
    """Two images (3, H, W) uint8 of blurred noise, one of them of odd edges."""
    generator, (h, w) = torch.Generator().manual_seed(0), height_width(shape)
    sizes = ((h, w), (h + h // 3 | 1, w // 2 | 1))
    grains = [torch.rand(1, 3, -(-a // 3), -(-b // 3), generator=generator) for a, b in sizes]
    blown = [F.interpolate(x, size, mode="bicubic") for x, size in zip(grains, sizes, strict=True)]
    return [(x[0].clamp(0, 1) * 255).byte() for x in blown]


@torch.no_grad()
def _boxes_apart(
    order: Order, file: OnnxFile, picture: Tensor, size: Sequence[int] | None, most: int, least: float, within: Near
) -> Boxes:
    ours = {name: value.numpy() for name, value in order.net([picture.float() / 255])[0].items()}
    return same_boxes(ours, file.run(picture[None].numpy(), size), most, least, within)


@torch.no_grad()
def _scores_apart(order: Order, file: OnnxFile, picture: Tensor) -> float:
    ours = order.net(picture[None].float() / 255).numpy()
    return largest_difference([ours], [file.run(picture[None].numpy())["scores"]]) / max(
        float(np.abs(ours).max()), 1e-9
    )


def measured(order: Order, file: OnnxFile) -> dict[str, Any]:
    """The size of the file, its time for one image, and where there is a bench its score beside that of torch, both
    in single precision, whatever the record was scored with."""
    pictures = [image.numpy() for image in order.images] or [noise(order.shape)[0].numpy()]
    facts: dict[str, Any] = {
        "bytes": os.path.getsize(file.path),
        "ms": runtime.ms_of(file, pictures),
        "threads": file.threads,
        "device": proc.cpu().model,
    }
    if order.bench is None:
        return facts
    fast = runtime.open_file(file.path, torch.get_num_threads())
    score, whole = scored(order, runtime.as_network(fast)), torchs_score(order)
    apart = {name: round(value - whole[name], 6) for name, value in score.items() if min(value, whole[name]) >= 0}
    return {**facts, "split": order.bench.split, "precision": "fp32", "score": score, "score_difference": apart}


def scored(order: Order, net: Any) -> dict[str, float]:
    """The metrics of a network, those of single classes too, as the task's own evaluator measures them on the split of
    the bench: to six digits, -1 where there is nothing to find."""
    assert order.bench is not None
    objective = order.recipe.task.objective
    evaluator = objective.evaluator(order.bench.evaluated, replace(order.recipe.test, per_class=True))
    metrics = objective.evaluate(net, order.batches(), evaluator, CPU, "fp32").metrics
    return {name: round(value, 6) for name, value in metrics.items() if name != "images_per_s"}


def torchs_score(order: Order) -> dict[str, float]:
    """That of the network of torch, measured once."""
    if order.score is None:
        order.score = scored(order, order.net)
    return order.score
