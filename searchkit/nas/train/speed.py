"""How long a network takes for one image, measured on the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn

from searchkit.console import counted
from searchkit.nas.train.steps import autocast
from searchkit.nas.train.task import Task

RUNS = 30
WARM_RUNS = 5  # before the clock: memory is asked for, and kernels are chosen
IMAGES = 8  # that take turns


def machine_text(device: torch.device, precision: str) -> str:
    """What a time is of, so that one of another machine is not taken for it."""
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else f"{device}, {counted(torch.get_num_threads(), 'thread')}"
    return f"{where}, {precision}, torch {torch.__version__}, 1 image"


@torch.no_grad()
def ms_of(net: nn.Module, batches: Iterable[Any], device: torch.device, precision: str, task: Task) -> float:
    """The median time of one image at a time, ms: from pixels in the device's memory to what the network says of them,
    a detector's choice of boxes included. The images are the first ones of `batches`."""
    images = task.sets.images_of(next(iter(batches)))
    inputs = [task.network.inputs_of(images[i : i + 1], device) for i in range(min(IMAGES, len(images)))]
    was, spent = net.training, []
    net.eval()
    for one in islice(cycle(inputs), WARM_RUNS + RUNS):
        _wait(device)
        began = time.perf_counter()
        with autocast(device, precision):
            net(one)
        _wait(device)
        spent.append(time.perf_counter() - began)
    net.train(was)
    return 1000 * statistics.median(spent[WARM_RUNS:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
