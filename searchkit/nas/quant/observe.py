"""What an ONNX graph computes on calibration images: the range of each of its values. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from searchkit import cpus
from searchkit.nas.graph.graph import import_onnx
from searchkit.nas.quant.ranges import BINS, METHODS, WITHOUT_COUNTS, Histogram, Range
from searchkit.nas.quant.settings import Rounding

ROOM = 64 << 20  # of values that are looked at in one run, as float32: 256 MB
QUIET = 3  # of onnxruntime's messages: errors alone


def ranges_of(model: Any, names: Collection[str], images: Sequence[np.ndarray], rounding: Rounding) -> dict[str, Range]:
    """The ranges of these values (float32) of a model, by name, on images (3, H, W) uint8."""
    ends = _ends(model, names, images)
    choose = METHODS[rounding.method]
    if rounding.method in WITHOUT_COUNTS:
        nothing = np.zeros(BINS)
        return {name: choose(Histogram(nothing, low, high), 100.0) for name, (low, high, _) in ends.items()}
    counts = _counts(model, ends, images)
    return {
        name: choose(Histogram(counts[name], low, high), rounding.percentile) for name, (low, high, _) in ends.items()
    }


def _ends(model: Any, names: Collection[str], images: Sequence[np.ndarray]) -> dict[str, tuple[float, float, int]]:
    """(least, greatest, how many at most on an image) of each value, by name; of one that is empty everywhere 0."""
    onnx = import_onnx()
    kinds = {"least": "ReduceMin", "greatest": "ReduceMax", "size": "Size"}
    nodes, outputs = [], []
    for name in names:
        for end, kind in kinds.items():
            nodes.append(onnx.helper.make_node(kind, [name], [f"{name} {end}"], name=f"{name} {end}"))
            of = onnx.TensorProto.INT64 if end == "size" else onnx.TensorProto.FLOAT
            outputs.append(onnx.helper.make_tensor_value_info(f"{name} {end}", of, None))
    found = dict.fromkeys(names, (0.0, 0.0, 0))
    for seen in _runs(model, nodes, outputs, images):
        for name in names:
            if size := int(seen[f"{name} size"]):
                low, high = (float(seen[f"{name} {end}"].item()) for end in ("least", "greatest"))
                least, greatest, largest = found[name]
                found[name] = (low, high, size)
                if largest:
                    found[name] = (min(low, least), max(high, greatest), max(size, largest))
    return found


def _counts(
    model: Any, ends: Mapping[str, tuple[float, float, int]], images: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """How often each value falls into which of BINS bins between its ends, by name."""
    onnx = import_onnx()
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for names in _parts({name: size for name, (_, _, size) in ends.items()}):
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
        for seen in _runs(model, (), outputs, images):
            for name in names:
                low, high, _ = ends[name]
                counts[name] += np.histogram(seen[name], BINS, (low, high if high > low else low + 1))[0]
    return counts


def _parts(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names, in parts whose values take no more than ROOM together, or are one alone."""
    part: list[str] = []
    room = ROOM
    for name, size in sizes.items():
        if part and size > room:
            yield part
            part, room = [], ROOM
        part.append(name)
        room -= size
    if part:
        yield part


def _runs(
    model: Any, nodes: Iterable[Any], outputs: Sequence[Any], images: Sequence[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """What a model with more nodes gives out as these outputs, of one image after the other."""
    session = opened(with_outputs(model, nodes, outputs))
    names = [output.name for output in outputs]
    for image in images:
        yield dict(zip(names, session.run(names, {"image": image[None]}), strict=True))


def with_outputs(model: Any, nodes: Iterable[Any], outputs: Sequence[Any]) -> Any:
    """A copy of a model with more nodes, whose outputs are these alone."""
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(nodes)
    del copy.graph.output[:]
    copy.graph.output.extend(outputs)
    return copy


def opened(model: Any, *, as_written: bool = True) -> Any:
    """A session of a model in memory; as_written: no operator is fused with others, so all values are there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = cpus.usable(), 1
    options.log_severity_level = QUIET
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
