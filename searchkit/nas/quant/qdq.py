"""A graph with roundings to 8 bits, by onnxruntime's tool: the form QDQ. No torch.

Layers are as they were, between nodes that round to 8 bits and back (QuantizeLinear, DequantizeLinear), which runtimes
fuse into layers of integers. Activations are uint8 of one range for a tensor, weights int8 of one range for each output
channel.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.graph.graph import import_onnx
from searchkit.nas.graph.needs import MISSING
from searchkit.nas.quant.observe import QUIET
from searchkit.nas.quant.ranges import Range

WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what has weights


def import_quantization() -> Any:
    """The package onnxruntime.quantization. Raises UsageError where it is not installed."""
    try:
        from onnxruntime import quantization
    except ImportError as e:
        raise UsageError(f"files of 8 bits need the packages onnx and onnxruntime ({e})", MISSING) from e
    return quantization


def rounded_values(model: Any, layers: Collection[str]) -> list[str]:
    """The names of the values that these layers of a model read and give out, which may be rounded: float32, and no
    weights."""
    onnx = import_onnx()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    names = dict.fromkeys(
        name for node in model.graph.node if node.name in layers for name in (*node.input, *node.output)
    )
    return [name for name in names if kinds.get(name) == onnx.TensorProto.FLOAT]


@dataclass(frozen=True)
class Steps:
    """Scales that are known already. values: (scale, zero) of each value, by name; weights: a scale for each output
    channel (C,), by the name of the weights."""

    values: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    def overrides(self) -> dict[str, list[dict[str, Any]]]:
        """As the tool takes them."""
        of_values = {
            name: [{"scale": np.array(scale, np.float32), "zero_point": np.array(zero, np.uint8)}]
            for name, (scale, zero) in self.values.items()
        }
        of_weights = {
            name: [{"axis": 0, "scale": np.float32(scale), "zero_point": np.int8(0)} for scale in scales]
            for name, scales in self.weights.items()
        }
        return {**of_values, **of_weights}


FROM_RANGES = Steps()


def rounded(
    model: Any, layers: Collection[str], ranges: Mapping[str, Range], narrow: bool, steps: Steps = FROM_RANGES
) -> Any:
    """The model with these layers of 8 bits. ranges: of the values that they read and give out. narrow: weights of 7
    bits, for processors whose sums of two products could overflow. steps: go before ranges."""
    quantization = import_quantization()
    import onnxruntime
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    whole = import_onnx().ModelProto()
    whole.CopyFrom(model)  # what the tool is given it changes
    ends = {name: tuple(np.array([end], np.float32) for end in span) for name, span in ranges.items()}
    with quiet(onnxruntime):
        quantizer = QDQQuantizer(
            import_onnx().shape_inference.infer_shapes(whole),
            per_channel=True,
            reduce_range=narrow,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=TensorsData(quantization.CalibrationMethod.MinMax, ends),
            nodes_to_quantize=[*layers],
            nodes_to_exclude=[],
            op_types_to_quantize=[*{**QLinearOpsRegistry, **QDQRegistry}],
            extra_options={"TensorQuantOverrides": steps.overrides()},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made = quantizer.model.model
    del made.metadata_props[:]  # that the tool was at work is of no use to those who read the file
    made.metadata_props.extend(model.metadata_props)
    made.producer_name = model.producer_name
    return made


@contextlib.contextmanager
def quiet(onnxruntime: Any) -> Iterator[None]:
    """Without what onnxruntime says of models that its own tool did not prepare, and of inputs that may be left out."""
    root = logging.getLogger()
    root.addFilter(_below_errors)
    onnxruntime.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        root.removeFilter(_below_errors)
        onnxruntime.set_default_logger_severity(2)  # its default


def _below_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
