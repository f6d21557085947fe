"""A trained network with its channels in the order of what they are worth, as a checkpoint: a narrower network, which
takes the first channels, then takes the best ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.nas.models.elastic import body_of, wiring_of
from searchkit.nas.models.part import BACKBONE
from searchkit.nas.models.plan import Plan
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.criteria import CRITERIA, Criterion
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.evaluate import calibrated_norms
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sorting import Place, importances, sort_channels
from searchkit.nas.train.splits import open_split
from searchkit.nas.train.supernet import batches_of
from searchkit.seeds import step_seed

BATCHES = 8  # of training images, whose gradients a criterion reads


def ranked_checkpoint(
    recipe: Recipe, path: str, folder: str, by: str, *, device: torch.device, seed: int, say: Callable[[str], None]
) -> str:
    """The path of a checkpoint in `folder` whose largest network computes what that of `path` does, with the channels
    inside its blocks sorted `by` a row of CRITERIA. One that is there already stays."""
    loaded, sha256 = checkpoint.load_with_digest(path)
    out = os.path.join(folder, f"sorted-{by}.pth")
    told = {"by": by, "from": sha256, **({"seed": seed} if CRITERIA[by].needs_gradients else {})}
    if os.path.exists(out) and checkpoint.load(out).meta.get("sorted") == told:
        say(f"channels are sorted by {by} already, in {out}")
        return out
    nets.check_space(recipe, loaded, path)
    categories = loaded.meta["categories"]
    net = nets.build(recipe, categories, seed)
    nets.load_exactly(net, loaded.net, path, recipe.path)
    body: Any = body_of(net)
    rows: Plan = body.plan(wiring_of(net).maximum.part(BACKBONE))
    ranked = _ranked(recipe, net.to(device), body, rows, CRITERIA[by], categories, seed)
    sort_channels(body, rows, {place: set() for place in ranked}, None, ranked)
    content = replace(loaded, net=net.state_dict(), optimizer={}, extras={}, meta={**loaded.meta, "sorted": told})
    checkpoint.save(folder, os.path.basename(out), content)
    say(
        f"channels are sorted at {len(ranked)} places inside blocks, by {CRITERIA[by].text}; what blocks give each "
        f"other keeps its order: {out}"
    )
    return out


def _ranked(
    recipe: Recipe, net: nn.Module, body: nn.Module, rows: Plan, criterion: Criterion, names: list[str], seed: int
) -> dict[Place, Tensor]:
    """How much each channel counts, by place."""
    if not criterion.needs_gradients:
        return importances(body, rows, criterion)
    task, settings = recipe.task, recipe.train
    data = task.sets.matched(open_split(recipe, "train"), names)
    device = next(net.parameters()).device
    net.train()
    for norm in calibrated_norms(net):
        norm.eval()  # these use the statistics that they have, and keep them
    total: dict[Place, Tensor] = {}
    for step, images, targets in batches_of(data, recipe, settings, seed, 0, BATCHES, recipe.scales, Ranks()):
        task.network.set_scale(net, recipe.scales[0], recipe.data)
        torch.manual_seed(step_seed(seed, "sampling", step, 0, 0))
        losses = task.objective.losses(net, task.network.inputs_of(images, device), targets, settings, 1, None)
        net.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        for place, values in importances(body, rows, criterion).items():
            total[place] = total.get(place, 0) + values
    return total
