"""Batch-norm statistics of one network, from training images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn

from searchkit.nas.models.elastic import wiring_of
from searchkit.nas.train.steps import autocast
from searchkit.nas.train.task import Task


def calibrated_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The norms of a network whose statistics come from data."""
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in net.modules() if isinstance(m, kind) and m.track_running_stats and m.running_mean is not None]


def calibrate(
    net: nn.Module, batches: Iterable[Any], device: torch.device, precision: str = "fp32", *, task: Task
) -> int:
    """Replace a network's batch-norm statistics, in place, by the mean over `batches` of images (uint8; lists of (3, H,
    W), or tensors of (N, 3, H, W)), each batch weighed by its images.

    Statistics of a supernet fit no subnet: each has its own inputs to every layer (Yu & Huang, ICCV 2019, §3.2). Only
    what has such norms is run, and no weight changes. Give it a private copy. Without batches nothing changes.
    Returns how many images were seen.
    """
    norms, batches = calibrated_norms(net), iter(batches)
    first = next(batches, None) if norms else None
    if first is None:
        return 0
    seen, head = 0, wiring_of(net).head
    was, momenta = net.training, [m.momentum for m in norms]
    net.eval()
    for m in norms:
        m.reset_running_stats()
        m.train()
    with torch.no_grad(), autocast(device, precision):
        for images in chain([first], batches):
            seen += len(images)
            for m in norms:
                m.momentum = len(images) / seen  # so that what is kept is the mean over all images so far
            head.statistics(net, task.network.inputs_of(images, device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    net.train(was)
    return seen
