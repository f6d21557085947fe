"""A network that is trained with the roundings of its file of 8 bits, before that is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.export import onnx_file
from searchkit.nas.export.table import Order
from searchkit.nas.models.part import MadeAround
from searchkit.nas.quant import qdq
from searchkit.nas.quant.agreement import agreement
from searchkit.nas.quant.network import RoundedNet, hand_over, rounded_net
from searchkit.nas.quant.points import points_of, unfollowed
from searchkit.nas.quant.ranges import Range


@dataclass(frozen=True)
class Trained:
    """A network that has learnt. order: with it as `net`, and the float graph of its weights as `model`; layers: those
    that are rounded, steps: their scales. left: how many others are not, since training can't follow them."""

    order: Order
    rounding: RoundedNet
    layers: list[str]
    steps: qdq.Steps
    said: dict[str, Any]

    def told(self, model: Any, images: Sequence[np.ndarray]) -> dict[str, Any]:
        """How the training went, and how the file `model` agrees with the network."""
        score = {} if self.order.bench is None else {"score": onnx_file.scored(self.order, self.order.net)}
        apart = agreement(self.rounding, model, self.order.calls, self.order.predictions, images)
        return {**self.said, **score, "file": apart}


def trained(order: Order, layers: Sequence[str], ranges: Mapping[str, Range], narrow: bool) -> Trained:
    """Let the order's network learn with the roundings of these layers; the order stays as it is.

    Raises UsageError for one that can't be followed call by call.
    """
    assert order.wishes.tuning is not None
    if not isinstance(order.form, MadeAround) or not order.calls:
        notes = f" ({'; '.join(order.notes)})" if order.notes else ""
        raise UsageError(
            f"a {order.form.KIND} can't be trained with roundings: its layers are not one line of calls{notes}",
            "Quantize it without --qat",
        )
    beyond = unfollowed(order.model, layers, order.calls)
    layers = [name for name in layers if name not in beyond]
    points, weights = points_of(order.model, qdq.rounded(order.model, layers, ranges, narrow), order.calls)
    rounding = rounded_net(order.form.trunk(order.net), points, weights, narrow, order.wishes.rounding.scales)
    net = order.form.around(order.net, rounding.net)
    teacher = order.form.around(order.net, order.form.trunk(copy.deepcopy(order.net))).eval()
    said = order.wishes.tuning(order, net, teacher, order.form.LAYERS)
    learnt = copy.deepcopy(order.net)
    steps = hand_over(rounding, order.form.trunk(learnt))
    again = replace(order, net=learnt, model=None)
    onnx_file.build(again)
    operators = [[(node.name, node.op_type) for node in model.graph.node] for model in (order.model, again.model)]
    if operators[0] != operators[1]:
        raise SearchkitError("the network that has learnt is another graph than before", "Please report this")
    again.net = net.eval()
    return Trained(
        again, rounding, layers, steps, {**said, "scales": order.wishes.rounding.scales, "left": len(beyond)}
    )
