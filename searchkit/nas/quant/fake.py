"""A network in training that computes with roundings to 8 bits as its file will: fake quantization.

Values pass through `Steps`, which rounds them to the steps that uint8 has between two ends; layers with weights become
`Rounded`, whose weights are steps of int8, one scale for each output channel. A step has no slope: gradients go through
as if nothing were rounded, to 0 beyond the ends. The scales are learnt along (Esser et al., "Learned Step Size
Quantization", ICLR 2020), or follow the values that come by, averaged (Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, §3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from searchkit.nas.quant.ranges import LEVELS
from searchkit.nas.quant.settings import AVERAGED

DECAY = 0.99  # of averaged ends, for each batch
LEAST = 1e-12  # a scale


def to_steps(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """x rounded to scale (n - zero) with n from low to high; half a step goes to the even number of them from 0, as in
    ONNX.

    Its gradients: of x 1 between the ends, else 0; of scale, in steps, rounded x minus x between them, else the end
    (Esser et al., equations 3 and 5).
    """
    steps = (x / scale).clamp(low - zero, high - zero)
    return (steps + (steps.round() - steps).detach()) * scale


def slowed(scale: Tensor, count: int, high: int) -> Tensor:
    """The scale, with a gradient by 1 / sqrt(count high) of what it is: so it moves as fast as the weights do, relative
    to its size (Esser et al., §2.2). count: of values that it is of."""
    part = math.sqrt(max(count, 1) * high) ** -1
    return (scale - scale * part).detach() + scale * part


class Steps(nn.Module):
    """Values (any shape) as uint8 has them: scale (n - zero), n from 0 to 255.

    top: the greatest value that the layer before it gives out, which the file leaves to this rounding: no step is above
    it. Averaged scales have their zero move, too; learnt ones keep it.
    """

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, scale: float, zero: int, top: float | None, scales: str) -> None:
        super().__init__()
        self.largest = None if top is None else top / (LEVELS - 1 - zero)
        self.averaged = scales == AVERAGED
        start = torch.tensor(scale)
        if self.averaged:
            self.register_buffer("scale", start)
            self.register_buffer("low", -zero * start)
            self.register_buffer("high", (LEVELS - 1 - zero) * start)
        else:
            self.scale = nn.Parameter(start)
        self.register_buffer("zero", torch.tensor(float(zero)))

    def of(self) -> tuple[float, int]:
        """(scale, zero) as they are."""
        return float(self._held(self.scale).detach()), int(self.zero)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.averaged:
            count = x[0].numel()
            return to_steps(x, self._held(slowed(self.scale, count, LEVELS - 1)), self.zero, 0, LEVELS - 1)
        if self.training:
            self._follow(x.detach())
        return to_steps(x, self._held(self.scale), self.zero, 0, LEVELS - 1)

    def _held(self, scale: Tensor) -> Tensor:
        """The scale between its bounds."""
        return scale.clamp(LEAST, self.largest)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """Move the ends towards those of a batch."""
        for end, seen in ((self.low, x.amin().clamp(max=0)), (self.high, x.amax().clamp(min=0))):
            end.lerp_(seen, 1 - DECAY)
        self.scale.copy_(((self.high - self.low) / (LEVELS - 1)).clamp(min=LEAST))
        self.zero.copy_((-self.low / self.scale).round().clamp(0, LEVELS - 1))


class Rounded(nn.Module):
    """A conv or linear layer that computes with weights of int8: scale n, n from -most to most, a scale for each output
    channel. before: the rounding of its input, if that is known: the file's bias is of whole steps of both scales."""

    scale: Tensor
    before: tuple[Steps, ...] = ()  # in a tuple, for it is a module of the network, not of this one

    def __init__(self, layer: nn.Module, scale: Tensor, most: int, scales: str) -> None:
        super().__init__()
        self.layer, self.most = layer, most
        self.averaged = scales == AVERAGED
        if self.averaged:  # by the weights as they are
            self.register_buffer("scale", scale.clone())
        else:
            self.scale = nn.Parameter(scale.clone())

    def scales(self) -> Tensor:
        """Those of the weights as they are (C,)."""
        if self.averaged:
            widest = self._weight.detach().flatten(1).abs().amax(1)
            return (widest / self.most).clamp(min=LEAST)
        return self.scale.clamp(min=LEAST)

    def weight(self) -> Tensor:
        """The weights that it computes with."""
        scale = self.scales()
        if not self.averaged:
            scale = slowed(scale, self._weight[0].numel(), self.most)
        each = scale.reshape(-1, *(1,) * (self._weight.ndim - 1))
        return to_steps(self._weight, each, torch.zeros((), device=each.device), -self.most, self.most)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        given = {"weight": self.weight()}
        if self.before and isinstance(self.layer.bias, Tensor):
            with torch.no_grad():
                step = self.scales() * self.before[0].of()[0]
                off = (self.layer.bias / step).round() * step - self.layer.bias
            given["bias"] = self.layer.bias + off
        y: Tensor = functional_call(self.layer, given, (x,))
        return y

    @property
    def _weight(self) -> Tensor:
        return self.layer.get_parameter("weight")
