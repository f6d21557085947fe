"""model.int8.onnx: the ONNX file with weights and activations of 8 bits, by onnxruntime's static quantization.

Its form is QDQ: layers as they were, between nodes that round to 8 bits and back, which runtimes fuse into layers of
integers. Activations are uint8 of one range for a tensor, calibrated on training images; weights int8 of one range for
each output channel. What makes boxes of the layers' outputs stays as it is, and so do the last layers, whose outputs
are scores and deltas: they cost little, and their roundings would go into the boxes as they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchkit import proc
from searchkit.errors import UsageError
from searchkit.nas.export import onnx_file, runtime
from searchkit.nas.export.compare import Near
from searchkit.nas.export.table import ONNX, Order
from searchkit.nas.graph.needs import MISSING
from searchkit.nas.train.bench import Calibration, open_calibration

FILE = "model.int8.onnx"
IMAGES = 32  # training images that ranges are taken from, where there are as many
NEAR = Near(5.0, 0.2, 0.5)  # boxes that differ by less are told as the same, with how far they are apart
VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # of x86: sums of products of 8 bits that can't overflow
INTEGERS = VNNI | {"avx2", "avx512f", "amx_int8", "asimddp", "i8mm"}  # what decides how fast layers of integers are
WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what has weights


def write(order: Order) -> dict[str, Any]:
    """Write the file, and infer.py beside it; returns what of it is rounded, how far it is from torch, what it scores,
    how fast it is. Raises UsageError where there are no training images, or the network has a layer that can't be of 8
    bits."""
    runtime.import_onnxruntime()
    calibration = calibration_of(order)
    onnx_file.build(order)
    last = last_layers(order.model, order.predictions)
    layers = layers_of_8_bits(order.model, order.layers, last)
    images = [image.numpy() for batch in calibration.batches(order.shape) for image in batch][:IMAGES]
    narrow = not VNNI & proc.cpu().flags and "avx2" in proc.cpu().flags
    model = quantized(order.model, layers, images, narrow)
    path = os.path.join(order.folder, FILE)
    onnx_file.keep(path, model)
    onnx_file.keep_program(order, FILE)
    file = runtime.open_file(path, order.wishes.threads)
    agreement, _ = onnx_file.compared(order, file, NEAR, noisy=False)
    measured = onnx_file.measured(order, file)
    float_ms = order.done.get(ONNX, {}).get("ms")
    return {
        "file": FILE,
        "opset": order.wishes.opset,
        **onnx_file.noted(order),
        "activations": "uint8",
        "weights": "int8 of 7 bits per channel" if narrow else "int8 per channel",
        "float_layers": sum(node.op_type in WEIGHED and node.name in last for node in order.model.graph.node),
        "processor": sorted(INTEGERS & proc.cpu().flags),
        "calibrated": {
            "images": len(images),
            "annotations": calibration.annotations,
            "sha256": calibration.sha256,
            "image_ids": list(calibration.ids[:IMAGES]),
        },
        "agrees": agreement,
        **measured,
        **({} if float_ms is None else {"times_faster": float_ms / measured["ms"]}),
    }


def calibration_of(order: Order) -> Calibration:
    """The training images that activations are seen on: those of the batch-norm statistics, or where these are too few,
    as many drawn."""
    if order.calibration is not None and len(order.calibration.ids) >= IMAGES:
        return order.calibration
    recipe = order.recipe
    if recipe.data.train is None:
        raise UsageError(
            "--export onnx-int8 takes the ranges of activations from training images, but the config has no data.train",
            "Give data.train, or leave onnx-int8 out",
        )
    return open_calibration(replace(recipe, test=replace(recipe.test, calibration_images=IMAGES)), 0)


def last_layers(model: Any, predictions: Collection[str]) -> frozenset[str]:
    """Names of the layers with weights whose outputs, added to or shaped, are predictions."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    names, waiting = set(), [*predictions]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:
            continue
        names.add(node.name)
        if node.op_type not in WEIGHED:
            waiting += node.input
    return frozenset(names)


def layers_of_8_bits(model: Any, layers: Collection[str], last: Collection[str]) -> list[str]:
    """Names of the layers that are rounded, all but the last ones; of them, a runtime computes those with weights by
    integers. Raises UsageError where none has any."""
    chosen = [node for node in model.graph.node if node.name in layers and node.name not in last]
    if not any(node.op_type in WEIGHED for node in chosen):
        there = ", ".join(sorted({node.op_type for node in model.graph.node if node.name in layers}))
        raise UsageError(
            f"no layer of the network can be of 8 bits: of {', '.join(WEIGHED)} it has none before the last ones, but "
            f"only {there}",
            "Leave onnx-int8 out",
        )
    return [node.name for node in chosen]


class Reader:
    """The calibration images, one at a time, as onnxruntime asks for them."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of one run; None at the end."""
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


def quantized(model: Any, layers: Collection[str], images: Sequence[np.ndarray], narrow: bool) -> Any:
    """The model with these layers of 8 bits. images: (3, H, W) uint8. narrow: weights of 7 bits, for processors whose
    sums of two products could overflow."""
    try:
        import onnx
        import onnxruntime
        from onnxruntime import quantization
    except ImportError as e:
        raise UsageError(f"--export onnx-int8 needs the packages onnx and onnxruntime ({e})", MISSING) from e
    with tempfile.TemporaryDirectory() as folder, quiet(onnxruntime):
        path, whole = (os.path.join(folder, name) for name in ("model.int8.onnx", "model.onnx"))
        onnx.save(model, whole)  # what it is given as a model in memory it changes
        quantization.quantize_static(
            whole,
            path,
            Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=narrow,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=[*layers],
        )
        made = onnx.load(path)
    del made.metadata_props[:]  # that the tool was at work is of no use to those who read the file
    made.metadata_props.extend(model.metadata_props)
    made.producer_name = model.producer_name
    return made


@contextlib.contextmanager
def quiet(onnxruntime: Any) -> Iterator[None]:
    """Without what onnxruntime says of models that its own tool did not prepare, and of inputs that may be left out."""
    root = logging.getLogger()
    root.addFilter(_below_errors)
    onnxruntime.set_default_logger_severity(runtime.QUIET)
    try:
        yield
    finally:
        root.removeFilter(_below_errors)
        onnxruntime.set_default_logger_severity(2)  # its default


def _below_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
