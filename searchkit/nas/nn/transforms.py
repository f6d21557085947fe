"""A convolution whose smaller kernels are learnt maps of the centre of a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.nn.layers import Conv2d, window
from searchkit.nas.styles import Transform, check_transform


class TransformedConv2d(Conv2d):
    """A Conv2d that makes a kernel smaller than its own by a matrix, which all its channels share and which begins as
    the identity: as the centre crop of Conv2d.

    kernels: those that it holds beside its own. chained: each is made from the next larger one, 3x3 from 5x5 from 7x7
    (once-for-all, https://arxiv.org/abs/1908.09791); else each from the largest. The matrix from 7x7 to 5x5 is the
    parameter `7to5_matrix`, 25 x 25, as in once-for-all's files.
    """

    def __init__(self, *sizes: Any, kernels: Sequence[int], chained: bool, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.chained = chained
        largest = self.kernel_size[0]
        smaller = sorted({k for k in kernels if k < largest}, reverse=True)
        larger = [largest, *smaller[:-1]] if chained else [largest] * len(smaller)
        self.steps = tuple(zip(larger, smaller, strict=True))
        for large, small in self.steps:
            self.register_parameter(_name(large, small), nn.Parameter(torch.eye(small**2)))

    def cut(self, shape: Sequence[int]) -> Tensor:
        """The weights of that shape, (cout, cin / groups, kernel, kernel)."""
        cout, cin, kernel, _ = shape
        way = self._way(kernel)
        weight = self.weight if way else window(self.weight, shape)
        for large, small in way:
            crop = window(weight, (cout, cin, small, small)).reshape(-1, small**2)
            with _exact(weight.device.type):
                weight = F.linear(crop, self.get_parameter(_name(large, small))).view(cout, cin, small, small)
        return weight

    def _way(self, kernel: int) -> list[tuple[int, int]]:
        """The steps from the own kernel down to this one."""
        largest, held = self.kernel_size[0], [small for _, small in self.steps]
        if kernel not in (largest, *held):
            raise UsageError(
                f"this convolution makes kernels of {', '.join(map(str, (largest, *held)))}, but {kernel} is asked for",
                "Give the space of the supernet that kernel.",
            )
        return [step for step in self.steps if step[1] == kernel or (self.chained and step[1] > kernel)]

    def plain(self) -> nn.Conv2d:
        """The equal torch module of its own kernel, with copies of the weights."""
        sizes = (self.in_channels, self.out_channels, self.kernel_size[0], self.stride, self.padding, self.dilation)
        twin = Conv2d(*sizes, self.groups, self.bias is not None, device="meta")  # type: ignore[arg-type]
        twin.load_state_dict({k: v for k, v in self.state_dict().items() if k in ("weight", "bias")}, assign=True)
        return twin.train(self.training).plain()


def _exact(device: str) -> AbstractContextManager[Any]:
    """Without mixed precision: a weight that is made is as exact as one that is stored."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _name(large: int, small: int) -> str:
    return f"{large}to{small}_matrix"


Choices = Mapping[str, tuple[tuple[int, ...], ...]]  # by dimension, those of each position


def transform_filters(root: nn.Module, names: Sequence[str], transform: Transform, held: Choices | None) -> Choices:
    """Put matrices to the kernels of a supernet's space into these convolutions below `root`, of which each has its
    choices of the dimension `kernel`, or all have the same; returns the choices that they hold then: without a
    transform, or in a static network (held: None), none."""
    check_transform(transform)
    if transform == "none" or not held:
        return {}
    choices = held["kernel"]
    for name, kernels in zip(names, choices * len(names) if len(choices) == 1 else choices, strict=True):
        path, _, last = name.rpartition(".")
        root.get_submodule(path).add_module(last, transformed(root.get_submodule(name), kernels, transform))
    return {"kernel": choices}


def transformed(conv: nn.Module, kernels: Sequence[int], transform: Transform) -> nn.Module:
    """A new convolution of the same sizes with matrices to these kernels, or the same one where none is smaller."""
    assert isinstance(conv, Conv2d)
    if transform == "none" or all(k >= conv.kernel_size[0] for k in kernels):
        return conv
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride, conv.padding, conv.dilation)
    chained = transform == "chained"
    return TransformedConv2d(*sizes, conv.groups, conv.bias is not None, kernels=kernels, chained=chained)
