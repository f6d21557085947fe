"""A network that computes with roundings where its file of 8 bits has them, for training; and back to the file."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.graph.layers import is_batch_norm, scaled
from searchkit.nas.graph.line import UnwrittenError
from searchkit.nas.graph.trace import norms_of_convs, traced
from searchkit.nas.quant import qdq
from searchkit.nas.quant.fake import Rounded, Steps
from searchkit.nas.quant.points import Point, Weights

STEPS = "steps_"  # the names of modules that round values begin with it
INT8, INT7 = 127, 64  # the greatest weight of 8 bits, and of 7, as onnxruntime has them


@dataclass(frozen=True)
class RoundedNet:
    """A network with roundings. net: as its trunk, which it was made of. folded: the batch norm that became part of
    each conv, by names; points, weights: what of it is rounded."""

    net: fx.GraphModule
    folded: dict[str, str]
    points: tuple[Point, ...]
    weights: tuple[Weights, ...]
    layers: dict[str, str]  # of each weights' name, the layer
    calls: tuple[str, ...]  # of the trunk, by number, the names of those in the graph of `net`

    def at(self, point: Point) -> Steps:
        """The module that rounds a value."""
        module = self.net.get_submodule(_steps_name(point.steps))
        assert isinstance(module, Steps)
        return module

    def node_of(self, point: Point) -> str:
        """The name of the call that gives out the rounded value."""
        return f"rounded_{point.call}"


def rounded_net(
    trunk: nn.Module, points: Sequence[Point], weights: Sequence[Weights], narrow: bool, scales: str
) -> RoundedNet:
    """The network `trunk` (in eval mode, which stays as it is) with roundings at these points.

    Its convs have taken in the batch norms behind them; other batch norms keep their statistics, and learn nothing.
    scales: LEARNT or AVERAGED. Raises UsageError for a network whose forward is no straight line of calls.
    """
    try:
        root, calls = traced(copy.deepcopy(trunk).eval())
    except UnwrittenError as e:
        raise UsageError(f"a network can't be trained with roundings: {e}", "Quantize it without --qat") from e
    nodes = list(calls.nodes)
    modules = {str(n.target): root.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"}
    norms = norms_of_convs(calls, modules)
    folded = {str(conv.target): str(norm.target) for conv, norm in norms.items()}
    for conv, norm in folded.items():
        _put(root, conv, _with_norm(modules[conv], modules[norm]))
    for name, module in modules.items():
        if is_batch_norm(module) and name not in folded.values():
            _put(root, name, _frozen(module))
    layers: dict[str, str] = {}
    for each in weights:
        node = nodes[each.call]
        if node.op != "call_module":
            raise SearchkitError(f"the weights {each.name} are of {node.op} {node.target}, which is no layer")
        name = layers[each.name] = str(node.target)
        rounded = Rounded(
            root.get_submodule(name), torch.from_numpy(each.scales.copy()), INT7 if narrow else INT8, scales
        )
        _put(root, name, rounded)
    last = {nodes.index(conv): norm for conv, norm in norms.items()}
    for point in points:
        node, name = last.get(point.call, nodes[point.call]), _steps_name(point.steps)
        if not hasattr(root, name):
            root.add_module(name, Steps(point.scale, point.zero, point.top, scales))
        with calls.inserting_after(node):
            inserted = calls.create_node("call_module", name, (node,), name=f"rounded_{point.call}")
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user, own=inserted: user is not own)
    for before, behind in norms.items():
        behind.replace_all_uses_with(before)
        calls.erase_node(behind)
    for norm in folded.values():
        _put(root, norm, nn.Identity())
    _tell_inputs(root, calls, layers.values())
    calls.lint()
    names = tuple(node.name for node in nodes)
    return RoundedNet(fx.GraphModule(root, calls), folded, tuple(points), tuple(weights), layers, names)


def _tell_inputs(root: nn.Module, calls: fx.Graph, layers: Collection[str]) -> None:
    """Tell the layers with rounded weights how their input is rounded, where it is in one way alone."""
    before: dict[str, set[str]] = {}
    for node in calls.nodes:
        if node.op == "call_module" and node.target in layers:
            before.setdefault(str(node.target), set()).add(str(getattr(node.args[0], "target", "")))
    for name, given in before.items():
        if len(given) == 1 and (of := given.pop()).startswith(STEPS):
            layer, steps = root.get_submodule(name), root.get_submodule(of)
            assert isinstance(layer, Rounded) and isinstance(steps, Steps)
            layer.before = (steps,)


def _steps_name(steps: str) -> str:
    return STEPS + "".join(c if c.isalnum() else "_" for c in steps)


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a module at a dotted name."""
    path, _, last = name.rpartition(".")
    setattr(root.get_submodule(path), last, module)


def _with_norm(conv: Any, norm: Any) -> nn.Module:
    """A conv that computes what it does with the batch norm behind it."""
    of = scaled(norm)
    bias = of.shift + (0 if conv.bias is None else conv.bias.double() * of.scale)
    whole: nn.Module = copy.deepcopy(conv)
    whole.weight = nn.Parameter((conv.weight.double() * of.scale[:, None, None, None]).float().detach())
    whole.bias = nn.Parameter(bias.float().detach())
    return whole


def _frozen(norm: Any) -> FrozenBatchNorm2d:
    """A batch norm that keeps its statistics, and learns nothing."""
    frozen = FrozenBatchNorm2d(len(norm.running_mean), eps=norm.eps)
    with torch.no_grad():
        for name in ("running_mean", "running_var"):
            getattr(frozen, name).copy_(getattr(norm, name))
        for name in ("weight", "bias"):
            if getattr(norm, name) is not None:
                getattr(frozen, name).copy_(getattr(norm, name))
    return frozen


@torch.no_grad()
def hand_over(rounding: RoundedNet, trunk: nn.Module) -> qdq.Steps:
    """Write what a network with roundings has learnt into the trunk that it was made of, whose weights become those
    that are computed with; returns the scales of the file.

    A batch norm that a conv has taken in becomes one that adds the bias alone.
    """
    root, learnt = nn.Sequential(trunk), rounding.net
    scales = {}
    names = {str(n.target) for n in learnt.graph.nodes if n.op == "call_module"}
    for name in names:
        module: Any = learnt.get_submodule(name)
        if isinstance(module, Steps | FrozenBatchNorm2d):
            continue
        target: Any = root.get_submodule(name)
        inner: Any = module.layer if isinstance(module, Rounded) else module
        for part, value in inner.named_parameters():
            if part == "bias" and name in rounding.folded:
                continue
            target.get_parameter(part).copy_(
                module.weight() if isinstance(module, Rounded) and part == "weight" else value
            )
        if isinstance(module, Rounded):
            scales[name] = module.scales().cpu().numpy()
        if name in rounding.folded:
            _adds(root.get_submodule(rounding.folded[name]), inner.bias)
            if target.bias is not None:
                target.bias.zero_()
    for node in learnt.graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith("0."):  # others are constants of the tracer
            _attribute(root, str(node.target)).copy_(_attribute(learnt, str(node.target)))
    values = {point.value: rounding.at(point).of() for point in rounding.points}
    return qdq.Steps(values, {name: np.asarray(scales[layer]) for name, layer in rounding.layers.items()})


def _adds(norm: Any, bias: torch.Tensor) -> None:
    """Let a batch norm add a bias, and do nothing else."""
    norm.running_mean.copy_(-bias)
    norm.running_var.fill_(1 - norm.eps)
    if norm.weight is not None:
        norm.weight.fill_(1)
        norm.bias.zero_()


def _attribute(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root
