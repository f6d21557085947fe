"""The phase before a training in which paraphrasers learn: each to make its teacher's features again of the factors
that it makes of them (Kim et al., "Paraphrasing Complex Network", NeurIPS 2018, §3.1). The network itself looks on.

It has a checkpoint of its own, connectors.pth: a phase that was killed goes on from there, and one that came to its end
is read from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import ConflictError
from searchkit.nas.train import checkpoint, distributed, kept
from searchkit.nas.train.checkpoint import Checkpoint
from searchkit.nas.train.distill import Features, Teaching, tensors_in
from searchkit.nas.train.groups import load_optimizer, make_optimizer
from searchkit.nas.train.loop import Run, Where, check_finite, fit
from searchkit.nas.train.mimics import CRITERIA
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.sections import Pretrain
from searchkit.nas.train.steps import autocast

CONNECTORS = "connectors.pth"


@dataclass(frozen=True)
class Paraphrase:
    """The strategy of the phase: what each paraphraser makes of its factors is to be what these were made of."""

    teaching: Teaching
    recipe: Recipe
    settings: Pretrain

    @property
    def learners(self) -> list[Features]:
        """What learns, with the features that it is of."""
        features = [d for d in self.teaching.distillers if isinstance(d, Features) and d.paraphraser is not None]
        return [d for d in features if d.settings.paraphraser and d.settings.paraphraser.pretrain_criterion]

    def __call__(self, run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]:
        """See Strategy."""
        run.net.eval()  # it is not run, and its batch norms are not averaged over ranks
        sets, losses = self.recipe.task.sets, {}
        inputs = self.recipe.task.network.inputs_of(images, at.device)
        with autocast(at.device, self.settings.precision):
            taught = self.teaching.begin(run.net, inputs, targets, at.epoch, at.step)
            for each in self.learners:
                losses[each.loss_name.replace("mimic", "pretrain")] = _loss(each, taught.seen[each.teacher], at.epoch)
        total = torch.stack([*losses.values()]).sum()
        total.backward()
        numbers = {name: float(value.detach()) for name, value in (*losses.items(), ("loss", total))}
        check_finite(numbers, f"pre-training, step {at.step}", f"images {sets.ids_of(targets)}")
        return numbers


def _loss(each: Features, seen: Mapping[str, list[Any]], epoch: int) -> Tensor:
    assert each.paraphraser is not None and each.settings.paraphraser is not None
    criterion = each.settings.paraphraser.pretrain_criterion
    assert criterion is not None
    features = [x.float() for x in tensors_in(seen[each.of_teacher])]
    apart = [CRITERIA[criterion.type](each.paraphraser(x).float(), x) for x in features]
    return float(value_at(criterion.weight, epoch)) * torch.stack(apart).mean()


@dataclass(frozen=True)
class Phase:
    """Where a phase is at home: the folder of its checkpoint, the working folder, which shows that, the set that it
    learns on, who listens."""

    recipe: Recipe
    data: Any
    keep: str
    work_dir: str
    seed: int
    device: torch.device
    ranks: distributed.Ranks
    say: Callable[[str], None]
    accept: bool = False

    @property
    def path(self) -> str:
        return os.path.join(self.keep, CONNECTORS)

    def show(self) -> None:
        """Where checkpoints are kept elsewhere, link it from the working folder."""
        shown = os.path.join(self.work_dir, CONNECTORS)
        if os.path.exists(self.path) and os.path.abspath(shown) != os.path.abspath(self.path):
            checkpoint.link(self.path, shown)


def has_phase(recipe: Recipe) -> bool:
    """Whether a training has paraphrasers that learn before it."""
    distill = recipe.train.distill
    return distill is not None and bool(distill.pretrained) and distill.connectors is None


def pretrain(teaching: Teaching, net: nn.Module, phase: Phase) -> int:
    """Let the paraphrasers of a teaching learn, and return their steps; `net` stays as it is, to the bit.

    Raises ConflictError where the folder has those of another config, unless that is accepted: then they begin anew.
    """
    recipe, task = phase.recipe, phase.recipe.task
    settings = recipe.train.pretrain or Pretrain()
    learn = Paraphrase(teaching, recipe, settings)
    paraphrasers = nn.ModuleDict(
        {
            name: module
            for name, module in teaching.extras.items()
            if any(d.paraphraser is module for d in learn.learners)
        }
    )
    paraphrasers.requires_grad_(True)
    images, world = task.sets.count(phase.data), phase.ranks.world
    steps, epoch = settings.total_steps(images, world), settings.epoch_steps(images, world)
    nothing = nn.Module()  # no parameter of the network is in the optimizer
    run = Run(net, make_optimizer(nothing, settings, settings.batch_size * world, paraphrasers), extras=paraphrasers)
    meta = {"steps": steps, "seed": phase.seed, "config": _deciding(phase)}
    _go_on(run, meta, phase)
    if run.step < steps:
        phase.say(f"pre-training of {', '.join(paraphrasers)}: step {run.step} of {steps}, to {phase.path}")
        _run(run, learn, settings, meta, steps, epoch, phase)
    else:
        phase.say(f"pre-trained before, {steps} steps: {phase.path}")
    paraphrasers.requires_grad_(False)
    if phase.ranks.first:
        phase.show()
    return steps


def _run(
    run: Run, learn: Paraphrase, settings: Pretrain, meta: dict[str, Any], steps: int, epoch: int, phase: Phase
) -> None:
    recipe = phase.recipe
    scales = recipe.train.scales or recipe.scales
    due = checkpoint.Due(settings.checkpoint_steps, settings.checkpoint_minutes)
    sets, ranks = recipe.task.sets, phase.ranks
    batches = sets.train_batches(phase.data, recipe.data, settings, phase.seed, run.step, steps, scales, ranks, None)
    for report in fit(
        run,
        batches,
        None,
        settings,
        task=recipe.task,
        section=recipe.data,
        steps=steps,
        steps_per_epoch=epoch,
        scales=scales,
        seed=phase.seed,
        device=phase.device,
        ranks=phase.ranks,
        teaching=learn.teaching,
        strategy=learn,
    ):
        if run.step % epoch == 0 or run.step == steps:
            phase.say(f"  pre-training, step {run.step} of {steps}: loss {report.losses['loss']:.4g}")
        if run.step == steps or distributed.agree(due.now(run.step), phase.ranks, phase.device):
            _save(run, meta, phase)


def _deciding(phase: Phase) -> dict[str, Any]:
    """What of a config decides how its paraphrasers learn: plain data."""
    told = kept.deciding(phase.recipe, phase.ranks.world)
    keys = [key for key in told if key.startswith("data.")]
    keys += ["train.pretrain", "train.scales", "space.data.input_shape", kept.RANKS]
    distill = told["train.distill"]
    of_teachers = {key: distill.get(key) for key in ("config", "checkpoint", "arch", "teacher", "teachers")}
    learners = [
        {key: mimic.get(key) for key in ("student", "teacher", "of", "paraphraser")}
        for mimic in distill["mimic"]
        if mimic.get("paraphraser")
    ]
    images = phase.recipe.task.sets.digest(phase.data)[:16]
    facts = {**{key: told.get(key) for key in keys}, **of_teachers, "paraphrasers": learners, "images": images}
    for free in ("checkpoint_steps", "checkpoint_minutes"):
        (facts["train.pretrain"] or {}).pop(free, None)
    return facts


def _go_on(run: Run, meta: Mapping[str, Any], phase: Phase) -> None:
    """Let a phase go on from its checkpoint, if there is one."""
    if not os.path.exists(phase.path):
        return
    found = checkpoint.load(phase.path, phase.device)
    differ = [key for key in ("steps", "seed") if found.meta.get(key) != meta[key]]
    there = found.meta.get("config", {})
    differ += [key for key in {**meta["config"], **there} if there.get(key) != meta["config"].get(key)]
    if differ and phase.accept:
        phase.say(f"{phase.path} is of another pre-training ({', '.join(differ)}): it begins anew")
        return
    if differ:
        raise ConflictError(
            f"{phase.path} is of another pre-training: {', '.join(differ)} differ",
            "Train in another --work-dir, or put the config back; or let it begin anew (--accept-changes)",
        )
    run.extras.load_state_dict(found.extras)
    if found.optimizer:
        load_optimizer(run.optimizer, found.optimizer)
    run.step = found.step


def _save(run: Run, meta: Mapping[str, Any], phase: Phase) -> None:
    if not phase.ranks.first:
        return
    done = run.step >= meta["steps"]
    optimizer = {} if done else run.optimizer.state_dict()
    checkpoint.save(phase.keep, CONNECTORS, Checkpoint({}, run.step, optimizer, dict(meta), run.extras.state_dict()))
