"""Rows and networks as onnxruntime runs them; a row is a model of its own, as torch's exporter would have it: batch
norms are part of the convs before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from searchkit.errors import UsageError
from searchkit.nas.latency.eager import Call, input_shape
from searchkit.nas.latency.rows import Spec, walk
from searchkit.nas.models.layer_kinds import out_size
from searchkit.nas.models.plan import Layer

OPSET, IR = 18, 10
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def package(name: str) -> Any:
    """onnx or onnxruntime. Raises UsageError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise UsageError(
            f"--runtime onnxruntime needs the package {name} ({e})", "pip install 'searchkit[export]'"
        ) from e


def row_model(spec: Spec) -> bytes:
    """A row as an ONNX model with random weights."""
    helper = package("onnx.helper")
    graph = _Graph(input_shape(spec)[-2:], spec)
    ends = walk(spec, graph.x, graph.emit)
    inputs = [helper.make_tensor_value_info(graph.x, 1, input_shape(spec))]
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in dict.fromkeys(ends)]
    made = helper.make_graph(graph.nodes, "row", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(model.SerializeToString())


class _Graph:
    """The operators of a row. A value is its name."""

    x = "x"

    def __init__(self, size: Sequence[int], spec: Spec) -> None:
        self.onnx = package("onnx")
        self.spec = spec
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.sizes: dict[str, tuple[int, ...]] = {self.x: tuple(size)}  # height and width of a value
        self.convs: set[str] = set()  # values that a norm can be part of
        self.random = np.random.default_rng(0)

    def emit(self, layer: Layer, inputs: tuple[str, ...]) -> Any:
        """See rows.Emit."""
        y = inputs[-1]
        height, width = self.sizes[y]
        if layer.kind == "norm" and y in self.convs and not self.spec.group:
            return y
        if layer.kind == "split":
            half = np.array([layer.cin // 2] * 2, np.int64)
            return self._ops("Split", [y, self._constant(half)], 2, (height, width), axis=1)
        out: tuple[int, ...]
        if layer.kind == "mean":
            out = (1, 1)
        elif layer.kind == "gate":
            out = self.sizes[inputs[0]]
        elif layer.kind == "linear":
            out = (height, width)
        else:
            out = (out_size(layer, height), out_size(layer, width))
        made = getattr(self, f"_{layer.kind}", None)
        if made is None:
            raise UsageError(f"there is no ONNX form of a row's layer {layer.kind}")  # a new kind needs a method here
        value: str = made(layer, inputs, out)
        if layer.kind == "conv":
            self.convs.add(value)
        return value

    # --- layers: one method for each kind ---

    def _conv(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        shape = (layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel)
        pads = [layer.padding] * 4
        if layer.same:
            rooms = [self._room(layer, size) for size in self.sizes[inputs[0]]]
            pads = [*(room // 2 for room in rooms), *(room - room // 2 for room in rooms)]
        words = {"strides": [layer.stride] * 2, "dilations": [layer.dilation] * 2, "group": layer.groups}
        given = [inputs[0], self._weights(*shape), self._weights(layer.cout)]
        return self._op("Conv", given, out, kernel_shape=[layer.kernel] * 2, pads=pads, **words)

    @staticmethod
    def _room(layer: Layer, size: int) -> int:
        reach = (-(-size // layer.stride) - 1) * layer.stride + layer.dilation * (layer.kernel - 1) + 1
        return max(0, reach - size)

    def _linear(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        y = inputs[0]
        if self.spec.row.layers[0].kind != "linear":  # behind a mean over the image
            y = self._op("Flatten", [y], out, axis=1)
        return self._op("Gemm", [y, self._weights(layer.cin, layer.cout), self._weights(layer.cout)], out)

    def _norm(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        y, c = inputs[0], layer.cout
        if not self.spec.group:
            ones = [self._constant(np.full(c, value, np.float32)) for value in (1, 0, 0, 1)]
            return self._op("BatchNormalization", [y, *ones], out)
        groups = c // self.spec.group
        flat = self._op("Reshape", [y, self._constant(np.array([0, groups, -1], np.int64))], out)
        ones = [self._constant(np.full(groups, value, np.float32)) for value in (1, 0)]
        even = self._op("InstanceNormalization", [flat, *ones], out)
        back = self._op("Reshape", [even, self._constant(np.array([1, c, *out], np.int64))], out)
        scaled = self._op("Mul", [back, self._weights(c, 1, 1)], out)
        return self._op("Add", [scaled, self._weights(c, 1, 1)], out)

    def _maxpool(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._pool("MaxPool", layer, inputs, out, ceil_mode=int(layer.ceil))

    def _avgpool(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._pool("AveragePool", layer, inputs, out, ceil_mode=1, count_include_pad=0)

    def _pool(self, kind: str, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...], **more: int) -> str:
        words = {"strides": [layer.stride] * 2, "pads": [layer.padding] * 4}
        return self._op(kind, [inputs[0]], out, kernel_shape=[layer.kernel] * 2, **words, **more)

    def _subsample(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("MaxPool", [inputs[0]], out, kernel_shape=[1, 1], strides=[layer.stride] * 2)

    def _nearest(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._resize(layer, inputs, out, mode="nearest", nearest_mode="floor", **_ASYMMETRIC)

    def _bilinear(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._resize(layer, inputs, out, mode="linear")

    def _resize(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...], **words: str) -> str:
        scales = self._constant(np.array([1, 1, layer.scale, layer.scale], np.float32))
        return self._op("Resize", [inputs[0], "", scales], out, **words)

    def _mean(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("GlobalAveragePool", [inputs[0]], out)

    def _gate(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Mul", [*inputs], out)

    def _add(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Add", [*inputs], out)

    def _concat(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Concat", [*inputs], out, axis=1)

    def _shuffle(self, layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        each = layer.cout // layer.groups
        apart = self._constant(np.array([1, layer.groups, each, *out], np.int64))
        split = self._op("Reshape", [inputs[0], apart], out)
        turned = self._op("Transpose", [split], out, perm=[0, 2, 1, 3, 4])
        return self._op("Reshape", [turned, self._constant(np.array([1, layer.cout, *out], np.int64))], out)

    def _relu(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Relu", [inputs[0]], out)

    def _relu6(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        bounds = [self._constant(np.array(bound, np.float32)) for bound in (0, 6)]
        return self._op("Clip", [inputs[0], *bounds], out)

    def _leaky_relu(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("LeakyRelu", [inputs[0]], out, alpha=0.1)

    def _hswish(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("HardSwish", [inputs[0]], out)

    def _swish(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Mul", [inputs[0], self._op("Sigmoid", [inputs[0]], out)], out)

    def _hsigmoid(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("HardSigmoid", [inputs[0]], out, alpha=1 / 6, beta=0.5)

    def _sigmoid(self, _layer: Layer, inputs: tuple[str, ...], out: tuple[int, ...]) -> str:
        return self._op("Sigmoid", [inputs[0]], out)

    # --- the graph ---

    def _op(self, kind: str, inputs: list[str], out: tuple[int, ...], **words: Any) -> str:
        return self._ops(kind, inputs, 1, out, **words)[0]

    def _ops(self, kind: str, inputs: list[str], count: int, out: tuple[int, ...], **words: Any) -> tuple[str, ...]:
        names = tuple(f"{kind}{len(self.nodes)}.{i}" for i in range(count))
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **words))
        self.sizes |= dict.fromkeys(names, out)
        return names

    def _weights(self, *shape: int) -> str:
        return self._constant((0.05 * self.random.standard_normal(shape)).astype(np.float32))

    def _constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name


_ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}


def empty_model() -> bytes:
    """A model that does nothing: what a call costs whatever it runs."""
    helper = package("onnx.helper")
    values = [helper.make_tensor_value_info(name, 1, (1, 8)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", values[:1], values[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR).SerializeToString()
    )


def model_call(model: bytes | str, inputs: dict[str, Any], device: torch.device, threads: int) -> Call:
    """A call that runs a model (its bytes, or a file) once, on arrays that lie on the device already. inputs: by name;
    those that the model has not are left out."""
    ort = package("onnxruntime")
    provider = PROVIDERS[device.type]
    if provider not in ort.get_available_providers():
        there = ", ".join(name for name, its in PROVIDERS.items() if its in ort.get_available_providers())
        raise UsageError(f"--device {device}: this onnxruntime has no {provider}", f"It runs on {there}")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    where: Any = provider if device.type == "cpu" else (provider, {"device_id": device.index})
    session = ort.InferenceSession(model, options, providers=[where])
    inputs = {each.name: inputs[each.name] for each in session.get_inputs()}
    if device.type == "cpu":
        return lambda: session.run(None, inputs)
    binding = session.io_binding()
    for name, array in inputs.items():
        value = ort.OrtValue.ortvalue_from_numpy(array, device.type, device.index)
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, device.type, device.index)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def row_call(spec: Spec, device: torch.device, threads: int) -> Call:
    """A call that runs a row once."""
    x = np.random.default_rng(0).random(input_shape(spec), np.float32)
    return model_call(row_model(spec), {_Graph.x: x}, device, threads)
