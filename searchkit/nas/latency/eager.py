"""Rows and whole networks as torch runs them, by the modules that networks are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.nas.latency.rows import Spec, walk
from searchkit.nas.models.plan import Layer
from searchkit.nas.nn import Residual, add_layers, norm_of
from searchkit.nas.nn.kinds import KINDS, Paths

Call = Callable[[], object]


class Walked(nn.Module):
    """The layers of one row, run as `walk` says."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        add_layers(self, spec.row, _norm(spec))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (1, cin, H, W), or of regions (n, cin)."""

        def run(layer: Layer, inputs: tuple[Tensor, ...]) -> Any:
            y = inputs[-1]
            if layer.kind == "add":
                return inputs[0] + y
            if layer.kind == "concat":
                return torch.cat(inputs, dim=1)
            if layer.kind == "gate":
                return inputs[0] * y
            if layer.kind == "split":
                return y.chunk(2, dim=1)
            y = y.flatten(1) if layer.kind == "linear" else y
            return KINDS[layer.kind].run(Paths(self, x), layer, y)

        return walk(self.spec, x, run)


class Added(nn.Module):
    """A residual block at its row."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.row, self.block = spec.row, Residual(spec.row, _norm(spec))

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, cin, H, W)."""
        y: Tensor = self.block(x, self.row)
        return y


def _norm(spec: Spec) -> Callable[[int], nn.Module]:
    return norm_of("gn" if spec.group else "bn", max(1, spec.group), 1e-5)


def input_shape(spec: Spec) -> tuple[int, ...]:
    """Of the tensor that a row is run on."""
    height, width = spec.runs_at
    return (height, spec.row.cin) if spec.row.layers[0].kind == "linear" else (1, spec.row.cin, height, width)


def row_call(spec: Spec, device: torch.device) -> Call:
    """A call that runs a row once."""
    return net_call((Added if spec.residual else Walked)(spec), torch.rand(input_shape(spec)), device)


def net_call(net: nn.Module, inputs: Any, device: torch.device) -> Call:
    """A call that runs a module once, on one tensor or a list of them."""
    net = net.eval().to(device)
    given = [x.to(device) for x in inputs] if isinstance(inputs, list) else inputs.to(device)

    def call() -> None:
        with torch.no_grad():
            net(given)

    return call
