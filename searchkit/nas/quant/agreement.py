"""How far a file of 8 bits is from the network with roundings that it was made of, in steps of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from searchkit.nas.graph.graph import import_onnx
from searchkit.nas.quant.network import RoundedNet
from searchkit.nas.quant.observe import opened, with_outputs
from searchkit.nas.quant.points import Point


class _Watched(fx.Interpreter):
    """Runs a network, and keeps what the calls of these names give out."""

    def __init__(self, net: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(net)
        self.names, self.seen = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        """See fx.Interpreter."""
        y = super().run_node(n)
        if n.name in self.names:
            self.seen[n.name] = y
        return y


@torch.no_grad()
def agreement(
    rounding: RoundedNet,
    model: Any,
    calls: Mapping[str, int],
    predictions: Sequence[str],
    images: Sequence[np.ndarray],
) -> dict[str, Any]:
    """On images (3, H, W) uint8: of the values that are rounded last, before the float layers that give out
    predictions, the largest and the mean difference in steps (the value's scale); of the predictions the largest, as a
    part of their largest absolute value; of how many images both say the same class, where predictions are scores of
    images (1, K). calls: of the model's values; see Order."""
    onnx = import_onnx()
    net = rounding.net.eval()
    (start,) = (name for name, number in calls.items() if number == 0)
    last = _last(rounding, model, predictions)
    names = [*last, start, *predictions]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    session = opened(with_outputs(model, (), outputs), as_written=False)
    nodes = {name: rounding.node_of(point) for name, point in last.items()}
    nodes |= {name: rounding.calls[calls[name]] for name in predictions}
    largest, total, count, apart, same = 0.0, 0.0, 0, 0.0, 0
    for image in images:
        found = dict(zip(names, session.run(names, {"image": image[None]}), strict=True))
        watched = _Watched(net, {*nodes.values()})
        watched.run(torch.from_numpy(found[start]))
        ours = {name: watched.seen[node].numpy() for name, node in nodes.items()}
        for name, point in last.items():
            off = np.abs(ours[name] - found[name]) / rounding.at(point).of()[0]
            largest, total, count = max(largest, float(off.max())), total + float(off.sum()), count + off.size
        for name in predictions:
            off = np.abs(ours[name] - found[name]).max() / max(float(np.abs(ours[name]).max()), 1e-9)
            apart = max(apart, float(off))
        same += all(ours[name].argmax() == found[name].argmax() for name in predictions)
    scores = [*ours.values()][-1].ndim == 2 if images else False
    return {
        "images": len(images),
        "steps_apart": largest,
        "mean_steps_apart": total / max(1, count),
        "predictions_apart": apart,
        **({"same_class": same} if scores else {}),
    }


def _last(rounding: RoundedNet, model: Any, predictions: Sequence[str]) -> dict[str, Point]:
    """The rounded values that predictions are computed from with nothing rounded between, by the names that they have
    behind their rounding."""
    points = {point.value: point for point in rounding.points}
    made_by = {output: node for node in model.graph.node for output in node.output}
    ends, waiting, done = {}, [*predictions], set()
    while waiting:
        name = waiting.pop()
        node = made_by.get(name)
        if node is None or name in done:
            continue
        done.add(name)
        if node.op_type == "DequantizeLinear" and (before := made_by.get(node.input[0])) is not None:
            ends[name] = points[before.input[0]]
            continue
        waiting += node.input
    return ends
