"""By what channels are ranked before a network is made narrower: one table.

A criterion says of channels that several layers share (`Inner.layers`) how much each counts. What it reads is the
layers that make them (conv and linear layers whose outputs they are), their norms, and the layers that read them. No
torch at import: commands name the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchkit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    Layers = Sequence[tuple[nn.Module, int]]  # each with the dimension of its weights that the channels are


@dataclass(frozen=True)
class Criterion:
    """importance: a number for each channel, the higher the more it counts. needs_gradients: it reads those of a loss,
    and is the mean over the batches of it."""

    importance: Callable[[Layers], Tensor]
    text: str
    needs_gradients: bool = False


def _per_channel(weight: Tensor, dim: int) -> Tensor:
    """The sum over all but one dimension."""
    return weight.sum([d for d in range(weight.dim()) if d != dim]) if weight.dim() > 1 else weight


def _weights(layers: Layers, dim: int) -> list[Tensor]:
    """The weights of the convolutions and linear layers whose outputs (dim 0) or inputs (dim 1) the channels are."""
    found = [getattr(layer, "weight", None) for layer, at in layers if at == dim]
    return [weight for weight in found if weight is not None and weight.dim() > 1]


def _read(layers: Layers) -> Tensor:
    weights = _weights(layers, 1)
    return _per_channel(weights[-1].detach().abs(), 1)  # the last one is the conv behind them, not a squeeze's


def _made(layers: Layers) -> Tensor:
    return _total([_per_channel(weight.detach().abs(), 0) for weight in _weights(layers, 0)])


def _scaled(layers: Layers) -> Tensor:
    learnt = [layer._parameters.get("weight") for layer, _ in layers]
    scales = [weight.detach().abs() for weight in learnt if weight is not None and weight.dim() == 1]
    if not scales:
        raise UsageError(
            "slimming ranks channels by the scales of their norms, but there is a place without a norm that learns",
            "Rank them by l1, or another criterion",
        )
    return _total(scales)


def _taylor(layers: Layers) -> Tensor:
    products = [
        _per_channel(weight.detach() * weight.grad, 0) for weight in _weights(layers, 0) if weight.grad is not None
    ]
    if not products:
        raise UsageError(
            "taylor ranks channels by gradients, but there is a place whose weights are frozen",
            "Rank them by l1, or another criterion",
        )
    return _total([product.square() for product in products])


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


CRITERIA: dict[str, Criterion] = {
    "reading": Criterion(_read, "the sum of the absolute weights that read a channel (once-for-all)"),
    "l1": Criterion(_made, "the sum of the absolute weights of its filters (Li et al., ICLR 2017)"),
    "slimming": Criterion(_scaled, "the absolute scales of its norms (Liu et al., ICCV 2017)"),
    "taylor": Criterion(
        _taylor,
        "the squared sum of weight times gradient over its filters (Molchanov et al., CVPR 2019)",
        needs_gradients=True,
    ),
}
