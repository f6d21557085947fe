"""The one training loop. What differs between the ways to train is which archs a step visits (policies.py), and what
it learns of its batch (a Strategy)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from searchkit.errors import SearchkitError
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.train import distributed, groups, schedules
from searchkit.nas.train.distill import Teaching, watched
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.sections import Data, LabelData, Optimisation
from searchkit.nas.train.steps import Batch, autocast, scale_at
from searchkit.nas.train.task import Task
from searchkit.records.arch import Arch
from searchkit.seeds import step_seed


@dataclass(frozen=True)
class StepReport:
    """What a step tells, and where it stands. Losses by name are means over those of its archs that have them; `loss`
    is the mean over all archs of what each of them learns from."""

    step: int  # of this step; the first is 0
    steps: int
    losses: Mapping[str, float]
    lr: float  # of the parts without a rate of their own
    images_per_s: float


@dataclass
class Run:
    """A training under way: everything that changes from step to step, saved whole. All else follows from `step`."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0  # steps done
    best: float = -math.inf
    scored: int = 0  # the step of the last evaluation
    extras: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """What there is beside the network, by name: connectors, a discriminator, a policy with a state. What learns of it
    is in the optimizer, and all of it in the checkpoint."""


@dataclass(frozen=True)
class Where:
    """Where a training stands: all that randomness and schedules depend on."""

    step: int
    epoch: int  # from 1
    seed: int
    device: torch.device
    rank: int


class Strategy(Protocol):
    """What a step learns of its batch: it leaves the gradients of what is to move with the parameters of a run, and
    returns losses by name, `loss` the one that is learnt from.

    A step of several moves has made all but the last of them when it returns (`update`).
    """

    def __call__(self, run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]: ...


def fit(
    run: Run,
    batches: Iterable[Batch],
    archs: Callable[[int], list[Arch]] | None,
    settings: Optimisation,
    *,
    task: Task,
    section: Data | LabelData,
    steps: int,
    steps_per_epoch: int,
    scales: tuple[InputShape, ...],
    seed: int,
    device: torch.device,
    ranks: Ranks,
    teaching: Teaching | None = None,
    prepare: Callable[[int], None] | None = None,
    strategy: Strategy | None = None,
) -> Iterator[StepReport]:
    """Train until `steps` are done, yielding after each; `run` is whole whenever this yields.

    archs: None for a static network. section: the config's `data`. prepare: called with each step, before it.
    strategy: None for Archs, whose gradients are averaged over the archs of a step.
    Schedules count epochs, from 1. Raises SearchkitError for a loss that is not finite, with the batch's image ids.
    """
    net = run.net
    learn = strategy or Archs(archs, settings, task, teaching)
    groups.to_train(net, settings)
    last = time.monotonic()
    for step, images, targets in batches:
        if prepare:
            prepare(step)
        for each in (net, *(teaching.teachers.values() if teaching else ())):
            task.network.set_scale(each, scale_at(scales, seed, step), section)
        lr_factor = schedules.factor_at(settings, step, steps, steps_per_epoch)
        for group in run.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        where = Where(step, 1 + step // max(1, steps_per_epoch), seed, device, ranks.rank)
        losses = learn(run, images, targets, where)
        update(run, settings, ranks)
        run.step = step + 1
        now = time.monotonic()
        rate = len(images) * ranks.world / max(now - last, 1e-9)
        last = now
        yield StepReport(step, steps, losses, run.optimizer.defaults["lr"] * lr_factor, rate)


def update(run: Run, settings: Optimisation, ranks: Ranks) -> None:
    """Move all parameters that have a gradient, by its mean over the ranks; then they have none."""
    parameters = [p for p in (*run.net.parameters(), *run.extras.parameters()) if p.requires_grad]
    distributed.average_gradients(parameters, ranks)
    for each in (run.net, run.extras):
        distributed.average_statistics(each, ranks)
    if settings.clip_norm:
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Archs:
    """The strategy of most trainings: the archs of a step see the same batch, and the mean of their losses is learnt
    from."""

    archs: Callable[[int], list[Arch]] | None
    settings: Optimisation
    task: Task
    teaching: Teaching | None = None

    def __call__(self, run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]:
        """See Strategy."""
        net, settings, task, teaching = run.net, self.settings, self.task, self.teaching
        archs = self.archs(at.step) if self.archs else [None]
        inputs = task.network.inputs_of(images, at.device)
        total: dict[str, list[Tensor]] = {}
        with autocast(at.device, settings.precision):
            taught = teaching.begin(net, inputs, targets, at.epoch, at.step) if teaching else None
        for i, arch in enumerate(archs):
            if arch is not None:
                set_arch(net, arch)
            # torchvision samples anchors and proposals from the global generator, and dropout draws from it.
            torch.manual_seed(step_seed(at.seed, "sampling", at.step, i, at.rank))
            soft = taught.soft() if taught else None
            with autocast(at.device, settings.precision), watched(net, teaching.of_student if teaching else ()) as seen:
                parts = task.objective.losses(net, inputs, targets, settings, at.epoch, soft)
                if soft is not None:
                    parts = {name: soft.label_weight * value for name, value in parts.items() if soft.label_weight}
                if taught:
                    parts = {**taught.losses(seen), **parts}
            loss: Any = sum(loss_weight(settings, name, at.epoch) * value for name, value in parts.items())
            for name, value in {**parts, "loss": loss}.items():
                total.setdefault(name, []).append(value.detach())
            (loss / len(archs)).backward()
            if taught and i == 0:
                taught.keep(seen)
        losses = {name: float(sum(values) / len(values)) for name, values in total.items()}
        check_finite(losses, f"step {at.step}", f"images {task.sets.ids_of(targets)}, archs {_texts(archs)}")
        return losses


def loss_weight(settings: Optimisation, name: str, epoch: int) -> float:
    """What a loss of that name counts in an epoch."""
    return float(value_at((settings.loss_weights or {}).get(name, 1.0), epoch))


def _texts(archs: Sequence[Arch | None]) -> list[str]:
    return [arch.text() for arch in archs if arch is not None]


def check_finite(losses: Mapping[str, float], step: str, where: str) -> None:
    """Raises SearchkitError for a `loss` that is not finite; where: what it was of."""
    if math.isfinite(losses["loss"]):
        return
    parts_text = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    raise SearchkitError(
        f"{step}: the loss is not finite ({parts_text}); {where}",
        "Lower train.lr, set train.clip_norm, lengthen train.warmup_steps, or look at these images and their "
        "labels; with --accept-changes training goes on so from the last checkpoint. If that is too late, begin in "
        "another --work-dir",
    )
