"""What the loop and the tasks share: batches, losses, softer targets, and which input shape a step has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searchkit.nas.space.shapes import InputShape
from searchkit.seeds import rng_of

Batch = tuple[int, Any, Any]  # (step, images, targets), in the form of the task
Losses = Mapping[str, Tensor]  # by name


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: numbers by name, with `images_per_s` of the network; sentences about what was odd; what
    the network said, in the form of the task."""

    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    predictions: Any = None


@dataclass(frozen=True)
class Soft:
    """How an arch with a teacher learns from the labels of a step."""

    label_weight: float
    dropout: bool = True  # whether it has its dropout then


def scale_at(scales: Sequence[InputShape], seed: int, step: int) -> InputShape:
    """The input shape of a step, one of `scales`, for all ranks."""
    return rng_of(seed, "scale", step).choice(scales)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision where the config asks for it."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
