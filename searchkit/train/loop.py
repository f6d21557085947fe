"""The one training loop. What differs between the ways to train is which archs a step visits (policies.py)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import SearchkitError
from searchkit.models.detector import set_arch
from searchkit.space.arch import Arch
from searchkit.train import distributed, schedules
from searchkit.train.config import Optimisation
from searchkit.train.distributed import Ranks
from searchkit.train.policies import rng_of

Batch = tuple[int, list[Tensor], list[dict[str, Tensor]]]  # (step, images (3, H, W) uint8, targets)


@dataclass(frozen=True)
class StepReport:
    """What a step tells: mean losses over its archs by name (with `loss`, their sum), and where it stands."""

    step: int  # of this step; the first is 0
    steps: int
    losses: Mapping[str, float]
    lr: float
    images_per_s: float


@dataclass
class Run:
    """A training under way: everything that changes from step to step, saved whole. All else follows from `step`."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0  # steps done
    best: float = -math.inf


def seeded(*parts: object) -> int:
    """A seed of 63 bits that is a function of the parts."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def make_optimizer(net: nn.Module, o: Optimisation, batch: int) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that train; norms and biases get `norm_weight_decay`."""
    lr = schedules.scaled_lr(o.lr, o.lr_scaling, batch, o.base_batch)
    decayed = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": o.weight_decay},
        {"params": others, "weight_decay": o.norm_weight_decay},
    ]
    groups = [{**g, "lr": lr, "base_lr": lr} for g in groups if g["params"]]
    if o.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=o.momentum, nesterov=o.nesterov)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what an optimizer has gathered, but not its settings: those are the config's, which may have changed
    since (a lower lr after a loss that was not finite)."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def set_scale(net: nn.Module, shape: int | tuple[int, int], max_edge: int) -> None:
    """Let a detector resize its images to a short edge (the long one at most `max_edge`), or into (H, W)."""
    short, long = (shape, max_edge) if isinstance(shape, int) else (min(shape), max(shape))
    transform: Any = net.transform  # torchvision's GeneralizedRCNNTransform
    transform.min_size, transform.max_size = (short,), long


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def fit(
    run: Run,
    batches: Iterable[Batch],
    archs: Callable[[int], list[Arch]] | None,
    o: Optimisation,
    *,
    steps: int,
    scales: tuple[int | tuple[int, int], ...],
    max_edge: int,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> Iterator[StepReport]:
    """Train until `steps` are done, yielding after each; `run` is whole whenever this yields.

    `archs` None: a static network. Gradients of a step's archs are averaged. Raises SearchkitError for a loss that is
    not finite, with the batch's image ids.
    """
    net = run.net
    net.train()
    last = time.monotonic()
    for step, images, targets in batches:
        scale = rng_of(seed, "scale", step).choice(scales)
        set_scale(net, scale, max_edge)
        lr_factor = schedules.factor(
            o.schedule,
            step,
            steps,
            warmup_steps=o.warmup_steps,
            warmup_factor=o.warmup_factor,
            milestones=o.milestones,
            gamma=o.gamma,
            floor=o.floor,
        )
        for group in run.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        losses = _gradients(net, images, targets, archs(step) if archs else [None], o, step, seed, device, ranks)
        parameters = [p for p in net.parameters() if p.requires_grad]
        distributed.average_gradients(parameters, ranks)
        distributed.average_statistics(net, ranks)
        if o.clip_norm:
            nn.utils.clip_grad_norm_(parameters, o.clip_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step = step + 1
        now = time.monotonic()
        rate = len(images) * ranks.world / max(now - last, 1e-9)
        last = now
        yield StepReport(step, steps, losses, run.optimizer.param_groups[0]["lr"], rate)


def _gradients(
    net: nn.Module,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    archs: list[Arch] | list[None],
    o: Optimisation,
    step: int,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> dict[str, float]:
    """Accumulate the mean gradient of the archs over one batch; return the mean losses by name."""
    inputs = [image.to(device, non_blocking=True).float() / 255 for image in images]
    wanted = ("boxes", "labels")
    answers = [{k: t[k].to(device, non_blocking=True) for k in wanted} for t in targets]
    total: dict[str, Tensor] = {}
    for i, arch in enumerate(archs):
        if arch is not None:
            set_arch(net, arch)
        # torchvision samples anchors and proposals from the global generator.
        torch.manual_seed(seeded(seed, "sampling", step, i, ranks.rank))
        with autocast(device, o.precision):
            parts = net(inputs, answers)
        loss = sum(o.loss_weight(name) * value for name, value in parts.items())
        for name, value in {**parts, "loss": loss}.items():
            total[name] = total.get(name, 0) + value.detach() / len(archs)
        (loss / len(archs)).backward()
    losses = {name: float(value) for name, value in total.items()}
    if not math.isfinite(losses["loss"]):
        ids = [int(t["image_id"]) for t in targets]
        parts_text = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise SearchkitError(
            f"step {step}: the loss is not finite ({parts_text}); images {ids}, archs {[a.text() for a in archs if a]}",
            "Lower train.lr, set train.clip_norm, lengthen train.warmup_steps, or look at these images' boxes; "
            "training goes on from the last checkpoint",
        )
    return losses
