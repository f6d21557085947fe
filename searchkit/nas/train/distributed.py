"""Ranks of a torchrun job: who we are, and gradients averaged over all of us.

DistributedDataParallel is not used: it expects every parameter in every step, and a supernet leaves out the blocks and
stages that the step's archs don't have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def join(device: torch.device) -> Ranks:
    """Join the process group that torchrun set up; alone where there is none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), world)


def leave(ranks: Ranks) -> None:
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace every gradient by its mean over the ranks. All ranks must have gradients for the same parameters, which
    holds because all visit the same archs."""
    _average([p.grad for p in parameters if p.grad is not None], ranks)


def average_statistics(net: nn.Module, ranks: Ranks) -> None:
    """Replace the running statistics of batch norms by their means over the ranks: those of the whole batch, so that
    the ranks don't drift apart, and a checkpoint is the same whoever writes it."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    _average([s for m in norms for s in (m.running_mean, m.running_var) if s is not None], ranks)


@torch.no_grad()
def _average(tensors: list[Tensor], ranks: Ranks) -> None:
    if ranks.world == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= ranks.world
    at = 0
    for t in tensors:
        t.copy_(flat[at : at + t.numel()].view_as(t))
        at += t.numel()


def share_weights(net: nn.Module, ranks: Ranks) -> None:
    """Give every rank the first one's parameters and buffers."""
    if ranks.world > 1:
        for tensor in [*net.parameters(), *net.buffers()]:
            dist.broadcast(tensor.data, 0)


def agree(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """The first rank's answer, for all: clocks differ between ranks."""
    if ranks.world == 1:
        return flag
    value = torch.tensor([int(flag)], device=device)
    dist.broadcast(value, 0)
    return bool(value.item())
