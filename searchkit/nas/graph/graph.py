"""An ONNX graph, put together operator by operator. No torch; onnx, which is an extra, is imported at the end.

g = Graph(opset=18)
x = g.input("x", np.float32, [1, "n"])
g.output("y", (x + 1) / g.op("ReduceMax", x), [1, "n"])
g.proto()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.graph.needs import IR, MISSING, OPSET

if TYPE_CHECKING:
    import onnx

Number = int | float
Shape = Sequence[int | str]  # a text names an edge of any length


@dataclass(frozen=True)
class Value:
    """What an operator gives out. It computes as arrays of numpy do: +, -, *, / with values and numbers of its type."""

    graph: Graph
    name: str
    dtype: Any  # of its elements, numpy's

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.graph.op("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        """Of whole numbers above 0 as //."""
        return self.graph.op("Div", self, other)

    def to(self, dtype: Any) -> Value:
        """As another type; towards 0 where that has whole numbers alone."""
        kind = self.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self if np.dtype(dtype) == self.dtype else self.graph.op("Cast", self, to=kind, dtype=dtype)

    def shape(self, first: int = 0, last: int | None = None) -> Value:
        """The lengths of its edges first, ..., last - 1 (int64)."""
        end: dict[str, Any] = {} if last is None else {"end": last}
        return self.graph.op("Shape", self, start=first, dtype=np.int64, **end)

    def reshape(self, *shape: int) -> Value:
        """With edges of these lengths; of one -1 it is what is left."""
        return self.graph.op("Reshape", self, np.array(shape, np.int64))

    def transpose(self, *order: int) -> Value:
        """With its edges in another order."""
        return self.graph.op("Transpose", self, perm=list(order))

    def unsqueeze(self, axis: int) -> Value:
        """With one more edge, of length 1."""
        return self.graph.op("Unsqueeze", self, np.array([axis], np.int64))

    def cut(self, first: int, last: int, axis: int, step: int = 1) -> Value:
        """x[first:last:step] along an axis."""
        return self.graph.op("Slice", self, *(np.array([n], np.int64) for n in (first, last, axis, step)))

    def at(self, index: Value, axis: int = 0) -> Value:
        """Its entries at the numbers `index` along an axis."""
        return self.graph.op("Gather", self, index, axis=axis)

    def top(self, most: int | Value, axis: int = -1) -> tuple[Value, Value]:
        """(the highest along an axis, best first, as many as there are and at most so many; their numbers)."""
        count = self.graph.op("Min", np.array([most], np.int64) if isinstance(most, int) else most, self._length(axis))
        best, order = self.graph.ops("TopK", self, count, axis=axis, dtypes=(self.dtype, np.int64))
        return best, order

    def _length(self, axis: int) -> Value:
        return self.shape(axis, None if axis == -1 else axis + 1)


Operand = Value | Number | np.ndarray


@dataclass
class Graph:
    """Operators in the order in which they run. Those whose name is in `layers` are of the network, the others make its
    input of an image, or boxes of its output.

    predictions: the names of values that layers give out, and that boxes and scores are read from. calls: the values
    that calls of a traced module give out, each with the number of the first that does, and traces: how many modules
    there were of it. notes: what whoever writes the file is to hear.
    """

    opset: int = OPSET
    nodes: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)  # name -> TensorProto
    layers: set[str] = field(default_factory=set)
    predictions: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    traces: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.onnx = import_onnx()
        if self.opset < OPSET:
            raise UsageError(
                f"ONNX opset {self.opset} lacks operators that a detector needs (RoiAlign and Resize as torch has "
                f"them, reductions over computed axes): {OPSET} is the oldest that has all of them",
                f"Give --opset {OPSET} or more, or leave it out",
            )
        newest = self.onnx.defs.onnx_opset_version()
        if self.opset > newest:
            raise UsageError(f"the installed onnx knows opsets up to {newest}, not {self.opset}", "Lower --opset")

    # ---- values ----

    def input(self, name: str, dtype: Any, shape: Shape, default: np.ndarray | None = None) -> Value:
        """An input of the graph; one with a default may be left out."""
        self.inputs.append(self._info(name, dtype, shape))
        if default is not None:
            self.constants[name] = self._tensor(default.astype(dtype), name)
        return Value(self, name, np.dtype(dtype))

    def output(self, name: str, value: Value, shape: Shape) -> None:
        """An output of the graph."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value.name], [name], name=f"give {name}"))
        self.outputs.append(self._info(name, value.dtype, shape))

    def constant(self, array: np.ndarray) -> Value:
        """An array that is written into the graph; equal ones once."""
        tensor = self._tensor(array, "")
        for name, known in self.constants.items():
            same_kind = (known.dims, known.data_type) == (tensor.dims, tensor.data_type)
            if name.startswith("constant ") and same_kind and known.raw_data == tensor.raw_data:
                return Value(self, name, array.dtype)
        tensor.name = f"constant {len(self.constants)}"
        self.constants[tensor.name] = tensor
        return Value(self, tensor.name, array.dtype)

    def weight(self, name: str, array: np.ndarray) -> Value:
        """A layer's weights, under a name; what is asked for again is written once."""
        tensor = self._tensor(array, f"net {name}")
        while tensor.name in self.constants and self.constants[tensor.name].raw_data != tensor.raw_data:
            tensor.name += " of another"
        self.constants.setdefault(tensor.name, tensor)
        return Value(self, tensor.name, array.dtype)

    def mark(self) -> tuple[int, frozenset[str], frozenset[str]]:
        """What the graph holds by now; see rewind."""
        return len(self.nodes), frozenset(self.constants), frozenset(self.layers)

    def rewind(self, mark: tuple[int, frozenset[str], frozenset[str]]) -> None:
        """Take back what came since."""
        count, constants, layers = mark
        del self.nodes[count:]
        self.constants = {name: kept for name, kept in self.constants.items() if name in constants}
        self.layers &= layers

    # ---- operators ----

    def op(
        self, kind: str, *inputs: Operand | None, dtype: Any = None, layer: bool = False, **attributes: Any
    ) -> Value:
        """The output of an operator. None: an input that is left out. dtype: of its output; by default, that of the
        first input that is a value. layer: it is one of the network's."""
        (value,) = self.ops(kind, *inputs, dtypes=(dtype,), layer=layer, **attributes)
        return value

    def ops(
        self, kind: str, *inputs: Operand | None, dtypes: Sequence[Any], layer: bool = False, **attributes: Any
    ) -> tuple[Value, ...]:
        """As `op`, of an operator with several outputs."""
        own = next(x.dtype for x in inputs if isinstance(x, Value))
        name = f"net {len(self.nodes)} {kind}" if layer else f"{kind} {len(self.nodes)}"
        outputs = [name if i == 0 else f"{name}.{i}" for i in range(len(dtypes))]
        given = ["" if x is None else self._name(x, own) for x in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, given, outputs, name=name, **attributes))
        if layer:
            self.layers.add(name)
        return tuple(
            Value(self, output, np.dtype(own if dtype is None else dtype))
            for output, dtype in zip(outputs, dtypes, strict=True)
        )

    def linear(self, x: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        """A linear layer of the network: (n, cin) -> (n, cout), weight (cout, cin)."""
        return self.op("Gemm", x, weight, bias, transB=1, layer=True)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values side by side along an axis."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def arange(self, count: Value) -> Value:
        """0, 1, ... of (1,) int64: so many."""
        scalar = self.op("Squeeze", count)
        return self.op("Range", np.array(0, np.int64), scalar, np.array(1, np.int64), dtype=np.int64)

    def splice(self, model: onnx.ModelProto, inputs: Mapping[str, Value], dtype: Any = np.float32) -> list[Value]:
        """The outputs of a whole model (of values of `dtype`), whose operators become layers of this graph. inputs: by
        the names that the model has."""
        if model.functions:
            model = self.onnx.inliner.inline_local_functions(model)
        names = {name: value.name for name, value in inputs.items()} | {"": ""}

        def named(name: str) -> str:
            return names.setdefault(name, f"net {name}")

        for tensor in model.graph.initializer:
            kept = self.onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = named(tensor.name)
            self.constants[kept.name] = kept
        for node in model.graph.node:
            copy = self.onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"net {len(self.nodes)} {node.op_type}"
            copy.input[:] = [named(name) for name in node.input]
            copy.output[:] = [named(name) for name in node.output]
            del copy.metadata_props[:]  # lines of our source files, which are of no use elsewhere
            copy.doc_string = ""
            self.nodes.append(copy)
            self.layers.add(copy.name)
        return [Value(self, named(value.name), np.dtype(dtype)) for value in model.graph.output]

    # ---- the file ----

    def proto(self, about: Mapping[str, str]) -> onnx.ModelProto:
        """The model, checked; about: what the file says of itself (metadata_props)."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "searchkit", self.inputs, self.outputs, [*self.constants.values()])
        opsets = [helper.make_opsetid("", self.opset)]
        model: onnx.ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR, producer_name="searchkit"
        )
        helper.set_model_props(model, dict(about))
        self.onnx.checker.check_model(model)
        return model

    def _name(self, x: Operand, dtype: Any) -> str:
        """The name of an input; numbers are of the type of the values beside them, arrays of their own."""
        if isinstance(x, Value):
            return x.name
        return self.constant(x if isinstance(x, np.ndarray) else np.array(x, dtype)).name

    def _tensor(self, array: np.ndarray, name: str) -> Any:
        return self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)

    def _info(self, name: str, dtype: Any, shape: Shape) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, list(shape))


def import_onnx() -> Any:
    """The package onnx. Raises UsageError where it is not installed."""
    try:
        import onnx
        import onnx.inliner
    except ImportError as e:
        raise UsageError(f"--export onnx needs the package onnx ({e})", MISSING) from e
    return onnx
