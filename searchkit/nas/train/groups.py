"""Parameter groups: which part of a network each parameter is of, how fast that part learns, and what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import body_of
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, PARTS
from searchkit.nas.train import schedules
from searchkit.nas.train.sections import Optimisation


def part_of(net: nn.Module) -> Callable[[nn.Module], str]:
    """Which part of a network each of its modules is of.

    The `backbone` of a network is the trunk: the backbone proper, and the neck if it has one; all else is the head.
    """
    body = {id(m) for m in body_of(net).modules()}
    inside = {id(m) for m in net.get_submodule("backbone").modules()}
    return lambda module: BACKBONE if id(module) in body else NECK if id(module) in inside else HEAD


def parts_of(net: nn.Module) -> dict[str, str]:
    """The part that each parameter of a network is of, by name."""
    part = part_of(net)
    return {
        f"{at}.{name}" if at else name: part(module)
        for at, module in net.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


EXTRAS = "extras"  # the names of what learns beside a network begin with it


def make_optimizer(
    net: nn.Module, settings: Optimisation, batch: int, extras: nn.Module | None = None
) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that train, each in one group; norms and biases get `norm_weight_decay`.

    extras: what learns beside the network, at the rate of parts without one of their own.

    Where parts have rates of their own, there are groups for each part, and the parameters of a frozen one no longer
    need a gradient. Raises UsageError for a part that the network doesn't have, and where nothing is left to train.
    """
    lr = schedules.scaled_lr(settings.lr, settings.lr_scaling, batch, settings.base_batch)
    own = {part: rate for part in PARTS if (rate := getattr(settings, f"{part}_lr")) is not None}
    beside = [] if extras is None else [(f"{EXTRAS}.{name}", p) for name, p in extras.named_parameters()]
    every = [*net.named_parameters(), *beside]
    parts = {name: "" for name, _ in every} | (parts_of(net) if own else {})
    if missing := [part for part in own if part not in parts.values()]:
        raise UsageError(f"{missing[0]}_lr: this network has no {missing[0]}", "Leave it out")
    for name, p in every:
        if own.get(parts[name]) == 0:
            p.requires_grad_(False)
    groups = []
    for decay, is_decayed in ((settings.weight_decay, True), (settings.norm_weight_decay, False)):
        for part in (*PARTS, "") if own else ("",):
            chosen = [
                (name, p) for name, p in every if p.requires_grad and parts[name] == part and (p.ndim > 1) == is_decayed
            ]
            rate = own.get(part, settings.lr)
            scaled = schedules.scaled_lr(rate, settings.lr_scaling, batch, settings.base_batch)
            group = {"params": [p for _, p in chosen], "names": [name for name, _ in chosen], "weight_decay": decay}
            groups += [{**group, "lr": scaled, "base_lr": scaled}] * bool(chosen)
    if not groups:
        raise UsageError("no parameter is left to train", "Give one of backbone_lr, neck_lr and head_lr a rate above 0")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> int:
    """Take over what an optimizer has gathered, but not its settings: those are the config's, which may have changed
    since (a lower lr after a loss that was not finite). Returns how many parameters begin anew, since nothing was
    gathered for them, though something was for others: they were frozen then."""
    own, theirs = optimizer.param_groups, state["param_groups"]
    if all("names" in group for group in theirs):
        numbers = [number for group in theirs for number in group["params"]]
        at = dict(zip((name for group in theirs for name in group["names"]), numbers, strict=True))
    else:  # of an older version, which made the groups of a network without frozen parts
        names = [name for group in own for name in group["names"]]
        numbers = [number for group in theirs for number in group["params"]]
        at = dict(zip(names, numbers, strict=True)) if len(names) == len(numbers) else {}
    gathered, groups, number = {}, [], 0
    for group in own:
        for name in group["names"]:
            if (was := at.get(name)) in state["state"]:
                gathered[number] = state["state"][was]
            number += 1
        kept = {k: v for k, v in group.items() if k != "params"}
        groups.append({**kept, "params": list(range(number - len(group["names"]), number))})
    optimizer.load_state_dict({"state": gathered, "param_groups": groups})
    known = len([name for group in own for name in group["names"] if name in at])
    return number - known


def frozen_norms(net: nn.Module, settings: Optimisation) -> dict[str, list[nn.Module]]:
    """The batch norms of each frozen part, by part."""
    frozen = [part for part in PARTS if getattr(settings, f"{part}_lr") == 0]
    if not frozen:
        return {}
    of, kind = part_of(net), nn.modules.batchnorm._BatchNorm
    return {part: [m for m in net.modules() if isinstance(m, kind) and of(m) == part] for part in frozen}


def to_train(net: nn.Module, settings: Optimisation) -> None:
    """Put a network into the mode of training, but for the batch norms of its frozen parts: these use the statistics
    that they have, and keep them."""
    net.train()
    for norms in frozen_norms(net, settings).values():
        for norm in norms:
            norm.eval()


def frozen_text(net: nn.Module, settings: Optimisation) -> str:
    """What of a network stays as it is while it trains, in one line; empty where nothing does."""
    norms = frozen_norms(net, settings)
    if not norms:
        return ""
    parts = parts_of(net)
    counts = {part: sum(p.numel() for name, p in net.named_parameters() if parts[name] == part) for part in norms}
    texts = [
        f"{part} ({counts[part]:,} parameters, the statistics of {len(norms[part])} batch norms)" for part in norms
    ]
    return f"frozen: {', '.join(texts)}"
