"""Layers that run at any width up to the one they were built with, on leading slices of their weights.

A width (and a kernel) is an argument of `forward`; no layer remembers one. The input's width is that of `x`. At the
full width a layer is its torch base class, bit for bit and at its speed; at a narrower one it equals the torch module
that holds copies of the slices (`window`). Gradients reach the slices alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import lru_cache
from operator import gt
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import misc

from searchkit.errors import UsageError
from searchkit.nas.nn.written import Conv2dSame

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=nn.Conv2d)


def window(t: Tensor, shape: Sequence[int]) -> Tensor:
    """The view of `t` that a layer of this shape uses: the first channels (dims 0 and 1), the centre of the kernel
    (dims 2 and on), as in once-for-all (https://arxiv.org/abs/1908.09791) without its kernel transforms.

    shape: as many sizes as `t` has dims, none larger. UsageError otherwise, and where a kernel has no such centre.
    """
    sizes, full, strides = tuple(shape), t.shape, t.stride()
    if sizes == full:
        return t
    if len(sizes) != len(full) or any(map(gt, sizes, full)):
        _refuse(f"a tensor of {tuple(full)} has no slice of {sizes}", "Ask for no more than the model holds.")
    start = t.storage_offset()
    for dim in range(2, len(sizes)):
        if sizes[dim] != full[dim]:
            start += strides[dim] * _margin(sizes[dim], full[dim])
    # One view, not one for each dim: each of those fills a gradient of its own with zeros, the last of full size.
    return t.as_strided(sizes, strides, start)


def dense(t: Tensor) -> Tensor:
    """A view as the tensor that a cut network has in its place: its own memory, in the order of the whole tensor's.

    Kernels copy weights with gaps, in the forward and in the backward pass; this is one copy for both.
    """
    whole = t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)
    return t if whole else t.clone()


def _margin(kernel: int, full: int) -> int:
    """Rows to cut on each side of a kernel of size `full`."""
    margin, odd = divmod(full - kernel, 2)
    if odd or margin < 0:
        _refuse(
            f"a kernel of {kernel} cannot be cut from the centre of one of {full}",
            f"Use {full} less an even number.",
        )
    return margin


def _refuse(message: str, hint: str) -> NoReturn:
    raise UsageError(message, hint)


Cuts = dict[tuple[nn.Module, tuple[int, ...]], Tensor]  # by layer and shape


class Conv2d(nn.Conv2d):
    """A convolution of any leading widths, and any kernel around the centre of its own (square) one.

    Grouped: unless another number of groups is asked for, the channels of one group stay what they are, narrower means
    fewer groups; depthwise is one channel each. A group of fewer channels takes the first columns of its rows, so a net
    of other groups shares the weights, but is no part of the wider net's function. The padding shrinks with the kernel,
    so the output's size does not depend on it.
    """

    def forward(
        self,
        x: Tensor,
        cout: int | None = None,
        kernel: int | None = None,
        groups: int | None = None,
        cuts: Cuts | None = None,
    ) -> Tensor:
        """x: (N, cin, H, W) -> (N, cout, H', W'). cout: default all (grouped: those of the groups of x). cuts: weights
        that calls of one pass share."""
        if self.groups > 1 and self.groups == self.in_channels and _mixed_with_gradients(x):
            with torch.autocast("cpu", enabled=False):
                y = self.forward(x.float(), cout, kernel, groups, cuts)
            return y.to(torch.get_autocast_dtype("cpu"))
        cin = x.shape[1]
        if self.groups > 1 and cout is None and self.in_channels % self.groups == 0:
            cout = self.out_channels * cin // self.in_channels
        if (
            cin == self.in_channels
            and (cout is None or cout == self.out_channels)
            and (kernel is None or kernel == self.kernel_size[0])
            and (groups is None or groups == self.groups)
        ):
            return super().forward(x)
        cout = self.out_channels if cout is None else cout
        rows, cols = self.kernel_size if kernel is None else (kernel, kernel)
        groups = self._groups(cin, cout) if groups is None else groups
        weight = self._cut_once((cout, cin // groups, rows, cols), {} if cuts is None else cuts)
        bias = None if self.bias is None else self.bias[:cout]
        padding = self.padding if kernel is None else self._padding(kernel)
        return self._convolved(x, weight, bias, padding, groups)

    def _convolved(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: str | tuple[int, ...], groups: int
    ) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def cut(self, shape: Sequence[int]) -> Tensor:
        """The weights of that shape, (cout, cin / groups, rows, cols): those that run, and that a subnet gets."""
        return window(self.weight, shape)

    def _cut_once(self, shape: tuple[int, ...], cuts: Cuts) -> Tensor:
        if (self, shape) not in cuts:
            cuts[self, shape] = dense(self.cut(shape))
        return cuts[self, shape]

    def _groups(self, cin: int, cout: int) -> int:
        """How many groups these widths have."""
        if self.groups == 1:
            return 1
        inner, outer = self.in_channels // self.groups, self.out_channels // self.groups
        if cin % inner or cout * inner != cin * outer:
            _refuse(
                f"a convolution in groups of {inner} -> {outer} channels cannot run {cin} -> {cout}",
                f"Use multiples of {inner} -> {outer}.",
            )
        return cin // inner

    def _padding(self, kernel: int) -> str | tuple[int, ...]:
        if isinstance(self.padding, str):
            return self.padding
        sizes = zip(self.padding, self.kernel_size, self.dilation, strict=True)
        return tuple(pad - d * _margin(kernel, full) for pad, full, d in sizes)

    def plain(self) -> nn.Conv2d:
        """The equal torch module, with copies of all weights."""
        return self._plain(nn.Conv2d)

    def _plain(self, cls: type[C]) -> C:
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation)
        return _copied(self, cls, *sizes, self.groups, self.bias is not None)


def _mixed_with_gradients(x: Tensor) -> bool:
    """Whether a depthwise convolution of x is better done in 32 bits: under autocast on CPUs its gradients take up to
    eight times as long in bfloat16, which was most of a step. Scores, without gradients, are torch's."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


class SameConv2d(Conv2d, Conv2dSame):
    """A Conv2d with the padding that TensorFlow calls SAME, for whatever kernel runs."""

    def _convolved(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: str | tuple[int, ...], groups: int
    ) -> Tensor:
        return self.padded(x, weight, bias, groups)

    def plain(self) -> Conv2dSame:
        """The equal layer without widths, with copies of all weights."""
        return self._plain(Conv2dSame)


class Linear(nn.Linear):
    """A fully connected layer of any leading widths."""

    def forward(self, x: Tensor, cout: int | None = None) -> Tensor:
        """x: (..., cin) -> (..., cout); default all outputs."""
        cin = x.shape[-1]
        if cin == self.in_features and (cout is None or cout == self.out_features):
            return super().forward(x)
        cout = self.out_features if cout is None else cout
        # Its own memory: BLAS may add up rows of another stride in another order, and the extracted layer has its own.
        weight = dense(window(self.weight, (cout, cin)))
        return F.linear(x, weight, None if self.bias is None else self.bias[:cout])

    def plain(self) -> nn.Linear:
        """The equal torch module, with copies of all weights."""
        return _copied(self, nn.Linear, self.in_features, self.out_features, self.bias is not None)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the first channels; their running statistics are updated in place, the others stay.

    All widths share one set of statistics and one `num_batches_tracked`; an arch gets its own by re-calibration.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> the same shape."""
        c = x.shape[1]
        if c == self.num_features:
            return super().forward(x)
        _check_width(c, self.num_features)
        mean = None if self.running_mean is None else self.running_mean.narrow(0, 0, c)
        var = None if self.running_var is None else self.running_var.narrow(0, 0, c)
        by_batch = self.training or mean is None
        return F.batch_norm(x, mean, var, *_affine(self, c), by_batch, self._share_of_batch(), self.eps)

    def _share_of_batch(self) -> float:
        """How much the statistics of a batch that is trained on count in the running ones; counts the batch."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # torch's rule: None asks for the plain average of all batches
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum

    def plain(self) -> nn.BatchNorm2d:
        """The equal torch module, with copies of all weights and statistics."""
        options = (self.eps, self.momentum, self.affine, self.track_running_stats)
        return _copied(self, nn.BatchNorm2d, self.num_features, *options)


class SyncBatchNorm2d(BatchNorm2d):
    """Batch norm over the first channels, whose batch is that of several ranks of a training together.

    ranks: over groups of so many ranks, neighbours by their numbers; 0: over all. The statistics, and the gradients
    through them, are those of one rank that has all images of the group, whose images and sizes may differ. It needs no
    GPU, as torch's own does. Statistics are shared while gradients are recorded: what runs without (a calibration, by
    one rank alone) is that rank's. On one rank, and in eval mode, it is a BatchNorm2d.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, *, ranks: int = 0) -> None:
        super().__init__(num_features, eps, momentum)
        self.ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> the same shape."""
        sharing = self.training and torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()
        group = _group_of_ranks(dist.group.WORLD, self.ranks) if sharing else None
        if group is None or dist.get_world_size(group) == 1:
            return super().forward(x)
        c = x.shape[1]
        _check_width(c, self.num_features)
        weight, bias = _affine(self, c)
        assert weight is not None and bias is not None and self.running_mean is not None
        assert self.running_var is not None
        values = x.float()
        total = _SumOverRanks.apply(torch.cat((values.sum((0, 2, 3)), values.new_tensor([x.numel() / c]))), group)
        mean, count = total[:-1] / total[-1], float(total[-1])
        centred = values - mean[:, None, None]
        var = _SumOverRanks.apply(centred.square().sum((0, 2, 3)), group) / count
        share = self._share_of_batch()
        with torch.no_grad():
            self.running_mean[:c].lerp_(mean, share)
            self.running_var[:c].lerp_(var * (count / max(1.0, count - 1)), share)
        out = centred * (weight * (var + self.eps).rsqrt())[:, None, None] + bias[:, None, None]
        normed: Tensor = out.to(x.dtype)
        return normed


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks; the gradient is then the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


@lru_cache
def _group_of_ranks(world: Any, ranks: int) -> Any:
    """The process group of this rank with its neighbours. All ranks ask for the same ones, in the same order.

    world: the group of all, so that groups of a job that was left are not found again.
    """
    n = dist.get_world_size(world)
    if ranks in (0, n):
        return world
    if ranks < 0 or n % ranks:
        _refuse(
            f"a batch norm over groups of {ranks} ranks cannot run on {n} ranks",
            "Set norm_ranks to a number that divides that of the ranks, or to 0 for all of them.",
        )
    groups = [dist.new_group(list(range(first, first + ranks))) for first in range(0, n, ranks)]
    return groups[dist.get_rank(world) // ranks]


class GroupNorm(nn.GroupNorm):
    """Group norm over the first groups: a group keeps its number of channels (https://arxiv.org/abs/1803.08494)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) -> the same shape; C a multiple of the channels of one group."""
        c = x.shape[1]
        if c == self.num_channels:
            return super().forward(x)
        _check_width(c, self.num_channels)
        size = self.num_channels // self.num_groups
        if c % size:
            _refuse(f"a group norm of {size} channels a group cannot take {c}", f"Use multiples of {size}.")
        return F.group_norm(x, c // size, *_affine(self, c), self.eps)

    def plain(self) -> nn.GroupNorm:
        """The equal torch module, with copies of all weights."""
        return _copied(self, nn.GroupNorm, self.num_groups, self.num_channels, self.eps, self.affine)


class FrozenBatchNorm2d(misc.FrozenBatchNorm2d):
    """torchvision's batch norm of fixed statistics and affine values (all of them buffers), over the first channels."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> the same shape."""
        c = x.shape[1]
        if c == self.weight.shape[0]:
            return super().forward(x)  # type: ignore[no-any-return]
        _check_width(c, self.weight.shape[0])
        scale = self.weight[:c] * (self.running_var[:c] + self.eps).rsqrt()
        bias = self.bias[:c] - self.running_mean[:c] * scale
        out: Tensor = x * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
        return out

    def plain(self) -> misc.FrozenBatchNorm2d:
        """The equal torchvision module, with copies of all buffers."""
        return _copied(self, misc.FrozenBatchNorm2d, self.weight.shape[0], self.eps)


def _check_width(c: int, full: int) -> None:
    if c > full:
        _refuse(f"a norm of {full} channels cannot take {c}", "Ask for no more than the model holds.")


def _affine(norm: nn.BatchNorm2d | nn.GroupNorm, c: int) -> tuple[Tensor | None, Tensor | None]:
    """The first c weights and biases, or None where the norm has none."""
    weight, bias = norm.weight, norm.bias
    return (None if weight is None else weight.narrow(0, 0, c)), (None if bias is None else bias.narrow(0, 0, c))


def _copied(layer: nn.Module, cls: Callable[..., M], *args: Any) -> M:
    """`cls(*args)` with a copy of each tensor of `layer`, its device, dtype and memory format, its flags."""
    with torch.device("meta"):  # nothing is filled only to be overwritten, and no random number is drawn
        twin = cls(*args)
    twin.load_state_dict({k: v.detach().clone() for k, v in layer.state_dict().items()}, assign=True)
    for name, parameter in layer.named_parameters():
        twin.get_parameter(name).requires_grad_(parameter.requires_grad)
    twin.train(layer.training)
    return twin


@contextlib.contextmanager
def enough(images: Sized) -> Iterator[None]:
    """Say it clearly where a norm has one number for each channel, which has no variance."""
    try:
        yield
    except ValueError as e:  # torch's, of a batch norm that learns
        if len(images) > 1 or "more than 1 value per channel" not in str(e):
            raise
        raise UsageError(
            "batch norms must see more than one image where the last feature or level is 1 x 1, but this batch has one",
            "Raise the batch_size of train, finetune or test, or test.calibration_images, to 2 or more",
        ) from e
