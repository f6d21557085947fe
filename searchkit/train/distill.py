"""Who teaches the archs of a training step: the largest one of the step, or a network of its own.

In place: the largest arch learns from the labels, the others of the same step from its scores (Yu & Huang,
"Universally Slimmable Networks", ICCV 2019, §3.3; Yu et al., "BigNAS", ECCV 2020, §3.1). With a teacher: all archs
learn from the labels and from its scores (Cai et al., "Once-for-All", ICLR 2020, §3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.models.subnet import subnet
from searchkit.space.arch import Arch
from searchkit.train import checkpoint, tasks
from searchkit.train import net as nets
from searchkit.train.bench import open_calibration
from searchkit.train.config import Recipe, load
from searchkit.train.evaluate import calibrate
from searchkit.train.schedules import value_at
from searchkit.train.sections import Distill, path_of
from searchkit.train.steps import Soft


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


def open_teaching(own: Recipe, categories: Sequence[str], device: torch.device, seed: int) -> Teaching | None:
    """What the config of a training asks for; a teacher is loaded.

    A teacher cut out of a supernet gets batch-norm statistics of its own, from the test.calibration_images of this
    training: those of the supernet fit no arch of it. Raises UsageError for one with other classes than the data.
    """
    settings = own.train.distill
    if settings is None:
        return None
    if settings.in_place:
        return Teaching(settings)
    recipe = load(path_of(str(settings.config), "train.distill.config"))
    path = path_of(str(settings.checkpoint), "train.distill.checkpoint")
    found = checkpoint.load(path)
    if recipe.task != "cls":
        raise UsageError(f"the teacher must be of task cls, but {recipe.path} is of task {recipe.task}")
    nets.check_task(recipe, found, path)
    theirs = list(found.meta["categories"])
    lacking = [name for name in categories if name not in theirs]
    if lacking or len(theirs) != len(categories):
        extra = [name for name in theirs if name not in categories]
        parts = [f"it lacks {', '.join(lacking[:8])}"] if lacking else []
        parts += [f"the data lacks {', '.join(extra[:8])}"] if extra else []
        raise UsageError(
            f"the teacher {path} has other classes than the data: {'; '.join(parts)}",
            "Train the teacher on the same classes, or choose some of the data's with data.classes",
        )
    order = tuple(map(theirs.index, categories))
    teacher, alone = _network(recipe, found, path, settings.arch)
    teacher = teacher.to(device)
    if not alone:
        shape = own.scales[0]
        calibrate(teacher, open_calibration(own, seed).batches(shape), device, task=tasks.of(recipe))
    return Teaching(settings, teacher, order)


def _network(recipe: Recipe, found: checkpoint.Checkpoint, path: str, name: str) -> tuple[nn.Module, bool]:
    """The teacher's static network, which learns nothing, and whether it was trained alone."""
    names = found.meta["categories"]
    static = bool(found.meta.get("static"))
    if static:  # a tuned subnet: the space is that arch alone
        recipe = replace(recipe, space=recipe.space.only(Arch.of(found.meta["space"])))
    nets.check_space(recipe, found, path)
    net, _ = nets.load(recipe, found, names, 0, to_train=False, where=path)
    arch = recipe.space.named(name)
    alone = static or (recipe.train.policy == "fixed" and recipe.space.named(recipe.train.arch) == arch)
    teacher: nn.Module = subnet(net, arch, nets.sized(recipe, names))
    return teacher.eval().requires_grad_(False), alone
