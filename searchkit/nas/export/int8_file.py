"""model.int8.onnx: the ONNX file with weights and activations of 8 bits (searchkit.nas.quant).

What makes boxes of the layers' outputs stays as it is, and so do the last layers, whose outputs are scores and deltas:
they cost little, and their roundings would go into the boxes as they are.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from searchkit import proc
from searchkit.errors import UsageError
from searchkit.nas.export import onnx_file, runtime
from searchkit.nas.export.compare import Near
from searchkit.nas.export.int8_trained import trained
from searchkit.nas.export.table import ONNX, Order
from searchkit.nas.quant import qdq
from searchkit.nas.quant.observe import ranges_of
from searchkit.nas.quant.qdq import WEIGHED
from searchkit.nas.quant.sensitivity import kept_float, sensitivities
from searchkit.nas.quant.settings import require_images
from searchkit.nas.train.bench import Calibration, open_calibration

FILE = "model.int8.onnx"
NEAR = Near(5.0, 0.2, 0.5)  # boxes that differ by less are told as the same, with how far they are apart
VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # of x86: sums of products of 8 bits that can't overflow
INTEGERS = VNNI | {"avx2", "avx512f", "amx_int8", "asimddp", "i8mm"}  # what decides how fast layers of integers are


def write(order: Order) -> dict[str, Any]:
    """Write the file, and infer.py beside it; returns what of it is rounded, how far it is from torch, what it scores,
    how fast it is. Raises UsageError where there are no training images, or the network has a layer that can't be of 8
    bits."""
    runtime.import_onnxruntime()
    qdq.import_quantization()
    rounding = order.wishes.rounding
    calibration = calibration_of(order)
    onnx_file.build(order)
    last = last_layers(order.model, order.predictions)
    layers = layers_of_8_bits(order.model, order.layers, last)
    images = images_of(calibration, order)
    ranges = ranges_of(order.model, qdq.rounded_values(order.model, layers), images, rounding)
    narrow, every, kept = is_narrow(), [], []
    if rounding.keep_float:
        every = sensitivities(order.model, layers, order.predictions, ranges, images, narrow)
        kept = kept_float(every, rounding.keep_float)
        layers = [name for name in layers if not any(name in each.nodes for each in kept)]
    learnt = None
    if order.wishes.tuning is None:
        model = qdq.rounded(order.model, layers, ranges, narrow)
    else:
        if order.bench is not None:
            onnx_file.torchs_score(order)  # of the float network, before it learns
        learnt = trained(order, layers, ranges, narrow)
        order = learnt.order
        model = qdq.rounded(order.model, learnt.layers, ranges, narrow, learnt.steps)
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
        "method": rounding.text if learnt is None else f"qat, {rounding.scales} scales, from {rounding.text}",
        "weights": "int8 of 7 bits per channel" if narrow else "int8 per channel",
        "float_layers": sum(node.op_type in WEIGHED and node.name in last for node in order.model.graph.node),
        **({"kept_float": [each.layer for each in kept]} if every else {}),
        **({"sensitivity": [{"layer": each.layer, "error": each.error} for each in every]} if every else {}),
        "processor": sorted(INTEGERS & proc.cpu().flags),
        "calibrated": {
            "images": len(images),
            "annotations": calibration.annotations,
            "sha256": calibration.sha256,
            "image_ids": list(calibration.ids[: rounding.images]),
        },
        "agrees": agreement,
        **({} if learnt is None else {"trained": learnt.told(model, images)}),
        **measured,
        **({} if float_ms is None else {"times_faster": float_ms / measured["ms"]}),
    }


def is_narrow() -> bool:
    """Whether weights must be of 7 bits here: an x86 processor without VNNI adds up two products in 16 bits, which 8
    would overflow."""
    return not VNNI & proc.cpu().flags and "avx2" in proc.cpu().flags


def calibration_of(order: Order) -> Calibration:
    """The training images that activations are seen on: those of the batch-norm statistics, or where these are too few,
    as many drawn."""
    count = order.wishes.rounding.images
    if order.calibration is not None and len(order.calibration.ids) >= count:
        return order.calibration
    recipe = order.recipe
    require_images(recipe.data.train)
    return open_calibration(replace(recipe, test=replace(recipe.test, calibration_images=count)), 0)


def images_of(calibration: Calibration, order: Order) -> list[np.ndarray]:
    """The images (3, H, W) uint8 that ranges are taken from. Raises UsageError where there are none."""
    every = [image.numpy() for batch in calibration.batches(order.shape) for image in batch]
    if not every:
        raise UsageError(
            f"files of 8 bits take the ranges of activations from training images, but {calibration.annotations} has "
            "none",
            "Give data.train with images, or write no file of 8 bits",
        )
    return every[: order.wishes.rounding.images]


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
