"""What is measured of a space: its rows, each in words once, with what a network's modules say beside them.

A row runs in two ways that differ in what a layer is alone (`Emit`): modules of torch, or operators of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from searchkit.nas.cost.latency import Key, row_text
from searchkit.nas.cost.unique import Placed
from searchkit.nas.models.elastic import body_of, wiring_of
from searchkit.nas.models.network import NetConfig, build
from searchkit.nas.models.plan import Layer, Row
from searchkit.nas.nn import GroupNorm, Residual
from searchkit.records.arch import Arch

V = TypeVar("V")
Emit = Callable[[Layer, tuple[V, ...]], Any]  # a layer and its inputs -> its output; of a "split" its two halves


@dataclass(frozen=True)
class Spec:
    """A row as it is measured."""

    row: Row
    at: tuple[int, int]  # height and width of its input, as the table has them
    runs_at: tuple[int, int]  # as it is run: of so many regions as the network keeps
    on: str  # what it runs on: image, feature, level, levels, regions
    residual: bool = False  # its input, or the end of its shortcut, is added before its last relu
    group: int = 0  # channels of a group of its norms; 0: they are batch norms

    @property
    def key(self) -> Key:
        """Its place in a table."""
        return (row_text(self.row), *self.at)

    @property
    def kind(self) -> str:
        """The group that it is corrected and judged in: what it runs on, and what most of it is."""
        kinds = {_kind(layer) for layer in self.row.layers}
        for kind in ("depthwise", "conv", "linear"):
            if kind in kinds:
                return f"{self.on} {kind}"
        return f"{self.on} other"


def _kind(layer: Layer) -> str:
    return "depthwise" if layer.kind == "conv" and layer.groups == layer.cin > 1 else layer.kind


def specs_of(placed: Iterable[Placed], config: NetConfig, maximum: Arch, regions: int | None) -> tuple[Spec, ...]:
    """The rows of a space to measure, equal ones once, as the modules of its network run them.

    regions: how many a network keeps of an image, where that is fewer than its plan has.
    """
    with torch.device("meta"):
        net = build(config, maximum)
    specs: dict[Key, Spec] = {}
    for row, at, on in ((each.row, each.at, each.on) for each in placed):
        n = min(at[0], regions or at[0])
        module = _find(body_of(net), row.name)
        residual = on == "image" and isinstance(module, Residual)
        spec = Spec(row, at, (n, at[1]) if on == "regions" else at, on, residual, _group(net, row))
        specs.setdefault(spec.key, spec)
    return tuple(specs.values())


def _find(root: nn.Module, name: str) -> nn.Module | None:
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None


def _group(net: nn.Module, row: Row) -> int:
    """The channels of a group of a row's norms, 0 where these are batch norms or there are none."""
    trunk: Any = getattr(net, "backbone", net)
    roots = (body_of(net), getattr(trunk, "neck", None), net, _find(net, wiring_of(net).head.MODULE))
    names = [f"{row.name}.{layer.name}".lstrip(".") for layer in row.layers if layer.kind == "norm"]
    for root in roots:
        norm = _find(root, names[0]) if names and root is not None else None
        if isinstance(norm, GroupNorm):
            return int(norm.num_channels // norm.num_groups)
    return 0


def walk(spec: Spec, x: V, emit: Emit[V]) -> list[V]:
    """Run a row on `x`; what it gives out. A layer whose input isn't as wide as what came last reads the last value
    that is: two layers at the end of a head both read what is before them."""
    start, side, whole, y = x, None, None, x
    values, ends = [(spec.row.cin, x)], []
    for layer in _layers(spec):
        if layer.branch:
            side = emit(layer, (start if side is None else side,))
        elif layer.kind == "split":
            side, y = emit(layer, (y,))
            start = y
        else:
            if layer.kind not in ("add", "concat") and values[-1][0] != layer.cin:
                ends.append(y)
                y = next((value for width, value in reversed(values) if width == layer.cin), y)
            others: Mapping[str, Any] = {"add": start if side is None else side, "concat": side, "gate": whole}
            y = emit(layer, (others[layer.kind], y) if layer.kind in others else (y,))
            whole = values[-1][1] if layer.kind == "mean" else whole
            values.append((layer.cout, y))
    return [*ends, y]


def _layers(spec: Spec) -> tuple[Layer, ...]:
    *layers, last = spec.row.layers
    add = (Layer("add", "add", last.cin, last.cin),) if spec.residual else ()
    return (*layers, *add, last)
