"""Layers that torch has not. Each needs torch alone: its source goes into the model.py of an extracted network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2dSame(nn.Conv2d):
    """A convolution with the padding that TensorFlow calls SAME, an odd pixel of it at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, cin, H, W) -> (N, cout, H / stride, W / stride), rounded up."""
        return self.padded(x, self.weight, self.bias, self.groups)

    def padded(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """The convolution by these weights, whose kernel the padding is for."""
        pads = []
        for size, kernel, stride, dilation in zip(
            x.shape[2:], weight.shape[2:], self.stride, self.dilation, strict=True
        ):
            room = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size
            pads.append((max(room, 0) // 2, max(room, 0) - max(room, 0) // 2))
        (top, bottom), (left, right) = pads
        if (top, left) == (bottom, right):  # no copy of x
            return F.conv2d(x, weight, bias, self.stride, (top, left), self.dilation, groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, groups)


LAYERS: tuple[type[nn.Module], ...] = (Conv2dSame,)  # all of this file
