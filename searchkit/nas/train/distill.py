"""Who teaches the archs of a training step: the largest one of the step, or a network of its own.

In place: the largest arch learns from the labels, the others of the same step from its scores (Yu & Huang,
"Universally Slimmable Networks", ICCV 2019, §3.3; Yu et al., "BigNAS", ECCV 2020, §3.1). With a teacher: all archs
learn from the labels and from its scores (Cai et al., "Once-for-All", ICLR 2020, §3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.sections import Distill
from searchkit.nas.train.steps import Soft


@dataclass(frozen=True)
class Teaching:
    """How a step's softer targets are made. `teacher`: a network in eval mode, None in place; `order`: its classes in
    the order of the data's."""

    settings: Distill
    teacher: nn.Module | None = None
    order: tuple[int, ...] = ()

    def before(self, inputs: Any, epoch: int) -> Soft | None:
        """Targets for all archs of a step: those of a teacher of its own."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            scores = self.teacher(inputs)[:, list(self.order)]
        return self._soft(scores, epoch, label_weight=1.0, dropout=True)

    def after_first(self, outputs: Tensor | None, soft: Soft | None, epoch: int) -> Soft | None:
        """Targets for the archs after the first: in place those of the first, which is the largest, and the only one
        with dropout (BigNAS, §3.2)."""
        if self.teacher is not None or outputs is None:
            return soft
        return self._soft(outputs.detach(), epoch, label_weight=0.0, dropout=False)

    def _soft(self, scores: Tensor, epoch: int, label_weight: float, dropout: bool) -> Soft:
        d = self.settings
        labels = label_weight if d.label_weight is None else float(value_at(d.label_weight, epoch))
        return Soft(scores, float(value_at(d.weight, epoch)), labels, float(value_at(d.temperature, epoch)), dropout)


# (recipe of a training, names of its classes, device, seed) -> what its config asks for
OpenTeaching = Callable[[Recipe, Sequence[str], torch.device, int], Teaching | None]
