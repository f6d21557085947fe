"""Modules of torch in an ONNX graph, for images of any size.

The forward is traced at its arch, and each call of the straight line that it is becomes the operators that
functions.py and layers.py have for it; a batch norm becomes a part of the conv before it. A module with a call that is
none of these (a user's own part may do anything) goes through torch's exporter, which takes a minute where this takes
part of a second; the graph has a note of it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from searchkit.nas.graph import exporter
from searchkit.nas.graph.functions import FUNCTIONS, METHODS, write_call
from searchkit.nas.graph.graph import Value
from searchkit.nas.graph.layers import conv, is_batch_norm, is_conv, is_layer, scaled, write_layer
from searchkit.nas.graph.line import Line, UnwrittenError
from searchkit.nas.nn import tracing

EXAMPLE = 256  # edge of the image that shapes are told from, px: all but numbers of channels is left open


class _Floats(fx.Proxy):
    """What stands for a tensor while a forward is traced: float32, on the CPU."""

    dtype = torch.float32
    device = torch.device("cpu")


class _Tracer(tracing.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Floats(node, self)


def trace(module: nn.Module, x: Value, divisor: int = 1, batch: str | None = None) -> list[Value]:
    """What a module gives out of `x`, images (N, 3, H, W) of any H and W.

    divisor: of H and W. batch: how the file calls N, where that may be any number; else it is 1.

    Raises UsageError where neither this nor torch's exporter can write the module.
    """
    module = module.eval()
    g = x.graph
    before = g.mark()
    edge = -(-EXAMPLE // divisor) * divisor
    try:
        return written(module, x, torch.zeros(1 if batch is None else 2, 3, edge, edge))
    except UnwrittenError as e:
        g.rewind(before)
        g.calls.clear()
        outputs = exporter.export(module, x, divisor, batch)
        g.notes.append(f"written by torch's exporter: {e}")
        return outputs


@torch.no_grad()
def written(module: nn.Module, x: Value, example: Tensor) -> list[Value]:
    """As `trace`, call by call. example: images, of which the shapes of values are told. Raises UnwrittenError."""
    root, calls = traced(module)
    layers = {name: tracing.plain(root.get_submodule(name)) for name in _called(calls)}
    norms = norms_of_convs(calls, layers)
    line = Line(x.graph)
    values: dict[fx.Node, Any] = {}
    shown: dict[fx.Node, Any] = {}  # the same of the example
    x.graph.traces += 1
    for number, node in enumerate(calls.nodes):
        args: Any = fx.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
        if node.op == "output":
            return _listed(args[0])
        if node.op == "placeholder":
            values[node], shown[node] = x, example
        elif node.op == "get_attr":
            values[node] = shown[node] = _attribute(root, str(node.target))
        else:
            shown[node] = _run(node, layers, shown)
            if node in norms.values():
                values[node] = args[0]
            elif node.op == "call_module":
                values[node] = _layer(line, node, layers, norms.get(node), args[0])
            else:
                table: Any = FUNCTIONS if node.op == "call_function" else METHODS
                values[node] = write_call(line, node.target, table.get(node.target), args, kwargs)
        if isinstance(values[node], Value):
            x.graph.calls.setdefault(values[node].name, number)
        line.shapes |= _shapes(values[node], shown[node])
    raise AssertionError("a line without an end")


def traced(module: nn.Module) -> tuple[nn.Sequential, fx.Graph]:
    """(what a module is the part `0` of, the calls of its forward, in which each layer is one). Raises
    UnwrittenError."""
    root = nn.Sequential(module)  # the tracer keeps constants with what it is given
    try:
        return root, _Tracer().trace(root)
    except Exception as e:  # whatever a forward does that depends on data
        raise UnwrittenError(f"its forward is no straight line ({tracing.reason(e)})") from e


def _called(calls: fx.Graph) -> Iterator[str]:
    return (str(node.target) for node in calls.nodes if node.op == "call_module")


def norms_of_convs(calls: fx.Graph, layers: Mapping[str, nn.Module]) -> dict[fx.Node, fx.Node]:
    """The batch norms that become part of the weights of the conv before them: of those that run once, and whose output
    goes nowhere else."""
    times = Counter(_called(calls))
    return {
        node: user
        for node in calls.nodes
        if node.op == "call_module" and times[str(node.target)] == 1 and is_conv(layers[str(node.target)])
        for user in node.users
        if len(node.users) == 1 and user.op == "call_module" and is_batch_norm(layers[str(user.target)])
    }


def _layer(line: Line, node: fx.Node, layers: Mapping[str, nn.Module], norm: fx.Node | None, x: Value) -> Value:
    layer, name = layers[str(node.target)], _name(node)
    if norm is None:
        return write_layer(line, name, layer, x)
    assert isinstance(layer, nn.Conv2d)
    return conv(line, f"{name} {_name(norm)}", layer, x, scaled(layers[str(norm.target)]))


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("0.")


def _attribute(root: nn.Module, name: str) -> Any:
    """A tensor of a module, by its dotted name."""
    return functools.reduce(getattr, name.split("."), root)


def _run(node: fx.Node, layers: Mapping[str, nn.Module], shown: Mapping[fx.Node, Any]) -> Any:
    """What a call gives of the example."""
    args: Any = fx.map_arg(node.args, shown.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, shown.__getitem__)
    if node.op == "call_module":
        return layers[str(node.target)](args[0])  # without the widths: a plain layer has one
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    target: Any = node.target
    return target(*args, **kwargs)


def _listed(given: Any) -> list[Value]:
    values = [*given] if isinstance(given, tuple | list) else [given]
    if not all(isinstance(value, Value) for value in values):
        raise UnwrittenError("it gives out more than a row of tensors")
    return values


def _shapes(values: Any, shown: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of one value, or of several, by name."""
    pairs = zip(values, shown, strict=True) if isinstance(values, tuple | list) else [(values, shown)]
    return {value.name: tuple(tensor.shape) for value, tensor in pairs if isinstance(value, Value)}
