"""The teacher that a config of a training asks for, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.subnet import subnet
from searchkit.nas.tasks.read import load
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import open_calibration
from searchkit.nas.train.distill import Teaching
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import path_of
from searchkit.records.arch import Arch


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
    kept = checkpoint.load(path)
    if recipe.task != own.task:
        raise UsageError(
            f"the teacher must be of task {own.task.name}, but {recipe.path} is of task {recipe.task.name}"
        )
    nets.check_task(recipe, kept, path)
    theirs = list(kept.meta["categories"])
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
    teacher, alone = _network(recipe, kept, path, settings.arch)
    teacher = teacher.to(device)
    if not alone:
        shape = own.scales[0]
        calibrate(teacher, open_calibration(own, seed).batches(shape), device, task=recipe.task)
    return Teaching(settings, teacher, order)


def _network(recipe: Recipe, kept: checkpoint.Checkpoint, path: str, name: str) -> tuple[nn.Module, bool]:
    """The teacher's static network, which learns nothing, and whether it was trained alone."""
    names = kept.meta["categories"]
    static = bool(kept.meta.get("static"))
    if static:  # a tuned subnet: the space is that arch alone
        recipe = replace(recipe, space=recipe.space.only(Arch.of(kept.meta["space"])))
    nets.check_space(recipe, kept, path)
    net, _ = nets.load(recipe, kept, names, 0, to_train=False, where=path)
    arch = recipe.space.named(name)
    alone = static or (recipe.train.policy == "fixed" and recipe.space.named(recipe.train.arch) == arch)
    teacher: nn.Module = subnet(net, arch, nets.sized(recipe, names))
    return teacher.eval().requires_grad_(False), alone
