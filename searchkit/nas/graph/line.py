"""A straight line of calls of torch on its way into an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from searchkit.nas.graph.graph import Graph, Operand, Value


class UnwrittenError(Exception):
    """A call that has no row in the tables of functions.py and layers.py, or not with these arguments."""


@dataclass
class Line:
    """A straight line on its way into a graph. shapes: of values, by name, on an example image: their number of edges
    and of channels hold for all images."""

    graph: Graph
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def op(self, kind: str, *inputs: Operand | Tensor | None, **attributes: Any) -> Value:
        """An operator of the network."""
        given = (numbers(x) if isinstance(x, Tensor) else x for x in inputs)
        return self.graph.op(kind, *given, layer=True, **attributes)

    def weight(self, name: str, tensor: Tensor) -> Value:
        """A layer's weights, under their name."""
        return self.graph.weight(name, numbers(tensor))

    def edges(self, x: Value) -> int:
        """How many a value has."""
        return len(self.shapes[x.name])

    def reshaped(self, x: Value, *parts: int | Value) -> Value:
        """With edges of these lengths, some of which are other values'."""
        arrays = (part if isinstance(part, Value) else np.array([part], np.int64) for part in parts)
        every = [self.graph.constant(part) if isinstance(part, np.ndarray) else part for part in arrays]
        return self.op("Reshape", x, self.graph.concat(every, 0))


@dataclass(frozen=True)
class Edges:
    """The shape of a value, or a part of it, whose numbers are those of the image that the file is given."""

    of: Value
    axes: range

    def __getitem__(self, index: Any) -> Edges:
        part = self.axes[index]
        return Edges(self.of, part if isinstance(part, range) else range(part, part + 1))

    def value(self) -> Value:
        """As (n,) int64."""
        if self.axes.step != 1:
            raise UnwrittenError("edges of a shape that are not side by side")
        return self.of.shape(self.axes.start, self.axes.stop)


def numbers(tensor: Tensor) -> np.ndarray:
    """A tensor as an array."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
