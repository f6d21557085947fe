"""Training a supernet from a recipe, resumable at any moment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cost import price
from searchkit.nas.data.loader import Seen
from searchkit.nas.models import network
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.part import NetConfig
from searchkit.nas.models.plans import unseen
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space
from searchkit.nas.train import checkpoint, distributed, kept, schedules
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import Bench, open_bench
from searchkit.nas.train.checkpoint import Checkpoint
from searchkit.nas.train.distill import OpenTeaching
from searchkit.nas.train.groups import frozen_text, load_optimizer, make_optimizer
from searchkit.nas.train.loop import Run, StepReport, fit
from searchkit.nas.train.markov import SAMPLES, Markov
from searchkit.nas.train.policies import Policy, policy
from searchkit.nas.train.pretrain import CONNECTORS, Phase, has_phase, pretrain
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.sections import Optimisation, path_of
from searchkit.nas.train.sorting import Sorter
from searchkit.nas.train.splits import open_split, range_entry
from searchkit.nas.train.steps import Batch
from searchkit.nas.train.task import UNNAMED
from searchkit.records.arch import Arch


@dataclass(frozen=True)
class Watch:
    """Who looks on: a line for people, each step, each evaluation (step, arch name, metrics)."""

    say: Callable[[str], None]
    step: Callable[[StepReport], None]
    scored: Callable[[int, str, Mapping[str, float]], None]


def train_supernet(
    recipe: Recipe,
    work_dir: str,
    *,
    seed: int,
    device: torch.device,
    watch: Watch,
    teach: OpenTeaching,
    accept: bool = False,
    phase: Literal["all", "pretrain"] = "all",
) -> tuple[str, int]:
    """Train, or go on training, the supernet of a recipe; returns (path of the last checkpoint, its steps).

    In `work_dir`: latest.pth, best.pth (where data.val is given). A run that was killed goes on from its last
    checkpoint and ends with the tensors of an unbroken one; one that came to its end goes on where there are more steps
    now. teach: opens the teacher that the config asks for. accept: it also goes on where the config trains something
    else by now. phase: `pretrain` ends before the training itself, with connectors.pth. Raises ConflictError for
    another config without `accept`, and where another process trains there.
    """
    ranks = distributed.join(device)
    keep = checkpoint.keep_folder(work_dir)
    recipe = replace(recipe, space=recipe.supernet)
    data = open_split(recipe, "train")
    recipe.task.sets.require_labels(data, recipe.data)
    for line in (*data.report.lines, *recipe.task.sets.unlearnt(data, network.head_of(recipe.model))):
        watch.say(line)
    alone = phase == "pretrain"
    if alone and not has_phase(recipe):
        raise UsageError(
            "there is nothing to pre-train: no paraphraser of train.distill.mimic has a pretrain_criterion, or "
            "train.distill.connectors has them all",
            "Leave --phase out",
        )
    with checkpoint.held(keep) if ranks.first else nullcontext():
        steps = _train(recipe, data, keep, work_dir, seed, device, ranks, watch, teach, accept, alone)
    distributed.leave(ranks)
    return os.path.join(keep, CONNECTORS if alone else checkpoint.LATEST), steps


def _train(
    recipe: Recipe,
    data: Any,
    keep: str,
    work_dir: str,
    seed: int,
    device: torch.device,
    ranks: distributed.Ranks,
    watch: Watch,
    teach: OpenTeaching,
    accept: bool,
    alone: bool,
) -> int:
    """Returns the steps that are done in the end. alone: of the phase before the training."""
    settings, task = recipe.train, recipe.task
    net = nets.build(recipe, data.names, seed).to(device)
    if settings.channels_last:
        net = net.to(memory_format=torch.channels_last)
    images, batch = task.sets.count(data), settings.batch_size * ranks.world
    steps, epoch = settings.total_steps(images, ranks.world), settings.epoch_steps(images, ranks.world)
    _check_reached(recipe.space, steps, epoch)
    choose = policy_of(recipe, sized(recipe, data.names), seed, epoch, steps)
    if recipe.space.count() == 1 and (visits := len(choose(0))) > 1:
        watch.say(f"note: each step trains the one arch of the space {visits} times; train.policy fixed trains it once")
    teaching = teach(recipe, data.names, device, seed)
    extras = nn.ModuleDict(dict(teaching.extras.items()) if teaching else {})
    if isinstance(choose, nn.Module):  # a policy with a state
        extras["policy"] = choose
    chains = choose if isinstance(choose, Markov) else None
    extras = extras.to(device)
    run = Run(net, make_optimizer(net, settings, batch, extras), extras=extras)
    saver = Saver(recipe, keep, work_dir, list(data.names), task.sets.digest(data), seed, steps, epoch, ranks)
    saver.meta |= range_entry(data)
    latest = os.path.join(keep, checkpoint.LATEST)
    if os.path.exists(latest):
        begun = saver.restore(run, checkpoint.load(latest, device), latest, accept)
        begun.append(f"goes on at step {run.step} of {steps}, from {latest}")
    else:
        begun = _begun(net, recipe)
    distributed.share_weights(net, ranks)
    bench = open_bench(recipe, "val", device, seed, data) if ranks.first and recipe.data.val else None
    if bench:
        for line in (*bench.evaluated.report.lines, *bench.notes):
            watch.say(line)
        bench.require(settings.best_metric, "train.best_metric")
    begun += [frozen] if (frozen := frozen_text(net, settings)) else []
    begun += teaching.notes if teaching else ()
    for line in begun:  # now that nothing is left to refuse
        watch.say(line)
    if teaching and has_phase(recipe) and (alone or not os.path.exists(latest)):
        before = Phase(recipe, data, keep, work_dir, seed, device, ranks, watch.say, accept)
        steps_before = pretrain(teaching, net, before)
        if alone:
            return steps_before
    every = round(settings.eval_epochs * epoch) if settings.eval_epochs else steps
    seen = Seen()
    scales = settings.scales or recipe.scales
    sorter = Sorter(net, run.optimizer, recipe.space, epoch, watch.say, bool(recipe.init))
    batches = batches_of(data, recipe, settings, seed, run.step, steps, scales, ranks, seen)
    for report in fit(
        run,
        batches,
        choose,
        settings,
        task=task,
        section=recipe.data,
        steps=steps,
        steps_per_epoch=epoch,
        scales=scales,
        seed=seed,
        device=device,
        ranks=ranks,
        teaching=teaching,
        prepare=sorter if settings.sort_channels else None,
        strategy=chains.strategy(settings, task, teaching, ranks) if chains else None,
    ):
        watch.step(report)
        if bench and run.step % max(1, every) == 0 and run.step < steps:
            saver.save(run)  # an image that can't be read costs no training
            _evaluate(run, recipe, bench, saver, watch)
        if distributed.agree(saver.due.now(run.step), ranks, device):
            saver.save(run)
    if saver.saved_step != run.step:
        saver.save(run)
    if bench and run.scored < steps:
        _evaluate(run, recipe, bench, saver, watch)
        saver.save(run)
    if chains and ranks.first:
        for line in chains.ended(keep):
            watch.say(line)
        saver.show(SAMPLES)
    if seen.skipped:
        times = seen.skipped.total()
        watch.say(f"images that can't be used: {len(seen.skipped)}; others took their places {times} times")
    if seen.lost:
        watch.say(
            f"boxes that random changes left out: {seen.lost} of {seen.boxes} that were shown "
            "(cut away, or a side below augment.min_box)"
        )
    return run.step


def _begun(net: nn.Module, recipe: Recipe) -> list[str]:
    """Fill a new network from the weights that the config names, if it does; what is to be said of that."""
    if not recipe.init:
        return []
    try:
        return load_init(net, path_of(recipe.init, "init")).lines()
    except UsageError as e:
        raise recipe.refused("init", e) from e


def _check_reached(space: Space, steps: int, epoch: int) -> None:
    """Raises UsageError where the schedules of a space leave choices that no step of the training would visit."""
    first, last = space.phases[-1][0], 1 + (steps - 1) // epoch
    if first > last:
        raise UsageError(
            f"the schedules of the space come to their last values in epoch {first}, but the training of {steps:,} "
            f"steps ends in epoch {last}: what they leave out until then would never be trained",
            f"Train for {first} epochs at least, or lower their boundaries",
        )


def policy_of(recipe: Recipe, config: NetConfig, seed: int, steps_per_epoch: int, steps: int) -> Policy:
    """Which archs each of the steps of a recipe's training visits."""
    settings, dmcp = recipe.train, recipe.train.dmcp
    if dmcp is not None and not dmcp.retraining:
        plans = price.plans_of(config, recipe.space.maximum())
        many = settings.random_archs
        return Markov(dmcp, recipe.space, plans, recipe.scales[0], seed=seed, steps=steps, random_archs=many)
    if dmcp is not None and recipe.space.count() > 1:
        raise UsageError(
            "train.dmcp.retraining trains one arch, but the space has several",
            "Name a sample by `subnet`, such as --set subnet=work/model_sample/expected_ch.json",
        )
    macs = None
    if settings.macs_bins is not None:
        plans = price.plans_of(config, recipe.space.maximum())

        def macs(arch: Arch) -> int:
            return int(price.price(plans, arch, recipe.scales[0]).flops)

    return policy(
        "fixed" if dmcp else settings.policy,
        recipe.space,
        seed,
        steps_per_epoch=steps_per_epoch,
        random_archs=settings.random_archs,
        arch=settings.arch,
        sampler=settings.sampler,
        sample_strategy=settings.sample_strategy,
        macs=macs,
        macs_bins=settings.macs_bins,
    )


def batches_of(
    data: Any,
    recipe: Recipe,
    settings: Optimisation,
    seed: int,
    start: int,
    steps: int,
    scales: Sequence[InputShape],
    ranks: distributed.Ranks,
    seen: Seen | None = None,
) -> Iterator[Batch]:
    """Training batches from step `start` on; `seen` counts what was left out."""
    if start >= steps:
        return iter(())
    batches: Iterator[Batch] = recipe.task.sets.train_batches(
        data, recipe.data, settings, seed, start, steps, scales, ranks, seen
    )
    return batches


class Saver:
    """Writes checkpoints of a run: latest.pth when due, best.pth when better.

    saved_step: the step whose latest.pth lies there as it would be written now. Scores are kept with the digest of the
    checkpoint's bytes, so a training that had come to its end leaves the file alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        keep: str,
        work_dir: str,
        names: list[str],
        digest: str,
        seed: int,
        steps: int,
        steps_per_epoch: int,
        ranks: distributed.Ranks,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.recipe, self.keep, self.work_dir, self.first, self.world = recipe, keep, work_dir, ranks.first, ranks.world
        self.due = checkpoint.Due(recipe.train.checkpoint_steps, recipe.train.checkpoint_minutes)
        self.saved_step: int | None = None
        self.meta = {
            "categories": names,
            "space": recipe.space.maximum().nested(),
            "seed": seed,
            "steps": steps,
            "num_classes": sized(recipe, names).num_classes,
            "data": recipe.data.name,
            "task": recipe.task.name,
            "model": unseen(recipe.model),
            "images": digest[:16],
            "config": kept.deciding(recipe, ranks.world),
            "best_of": [recipe.train.best_arch, recipe.train.best_metric],
        }
        if ranks.first:
            checkpoint.sweep(keep)
            for name in (checkpoint.LATEST, checkpoint.BEST):
                self.show(name)

    def save(self, run: Run, name: str = checkpoint.LATEST) -> None:
        """Write a checkpoint of this moment (the first rank alone)."""
        if name == checkpoint.LATEST:
            self.saved_step = run.step
        if not self.first:
            return
        optimizer = run.optimizer.state_dict() if name == checkpoint.LATEST else {}
        meta = {**self.meta, "best": run.best, "scored": run.scored}
        extras = run.extras.state_dict() if name == checkpoint.LATEST else {}
        content = Checkpoint(run.net.state_dict(), run.step, optimizer, meta, extras)
        checkpoint.save(self.keep, name, content)
        self.show(name)

    def restore(self, run: Run, found: Checkpoint, path: str, accept: bool = False) -> list[str]:
        """Let a run go on from a checkpoint; returns what is to be said of it.

        Raises ConflictError for that of another training, naming all that differs, unless `accept` lets it go on with
        what differs.
        """
        there, notes = found.meta, []
        longer = found.step >= there["steps"] < self.meta["steps"]
        other = self._differences(there)
        if longer:
            other.pop("steps", None)
        fixed = [key for key in other if key in kept.FIXED]
        if "steps" in other and self.meta["steps"] < found.step:
            fixed.append(f"the {found.step} steps that are done")
        if other and (misfits := nets.misfits(run.net, found.net)):
            more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
            fixed.append(f"the shapes of weights ({misfits[0]}{more})")
        if other and (fixed or not accept):
            way = "Train in another --work-dir, or put the config back"
            more = f"; {', '.join(fixed)} can't change" if fixed else ""
            raise ConflictError(
                f"{path} is of another training: {'; '.join(other.values())}{more}",
                way if fixed else f"{way}; or let it go on with what has changed (--accept-changes)",
            )
        if "config" not in there:
            notes.append(f"{path} keeps no config, as older versions made it: what has changed since can't be told")
        if other:
            notes.append(f"goes on with what has changed: {'; '.join(other.values())}")
        changes = [*there.get("changes", ())]
        changes += [{"step": found.step, "changed": list(other.values())}] if other else []
        if longer:
            notes.append(self._longer(run, found.step, there["steps"]))
            changes.append(
                {"step": found.step, "changed": [f"steps: {there['steps']} there, {self.meta['steps']} here"]}
            )
        if changes:
            self.meta["changes"] = changes
        self.saved_step = None if other or longer else found.step
        nets.load_exactly(run.net, found.net, path, "this config")
        own = run.extras.state_dict()
        same = {name: value for name, value in found.extras.items() if name in own and value.shape == own[name].shape}
        run.extras.load_state_dict({**own, **same})
        if anew := [name for name in own if name not in same]:
            notes.append(f"{len(anew)} tensors beside the network begin anew, {anew[0]} first: {path} has none of them")
        if fresh := load_optimizer(run.optimizer, found.optimizer):
            notes.append(f"{fresh} parameters begin anew in the optimizer, which has gathered nothing for them")
        run.step, run.best, run.scored = found.step, there["best"], there.get("scored", found.step)
        if there.get("best_of", self.meta["best_of"]) != self.meta["best_of"]:
            run.best = -math.inf
            notes.append(f"best.pth counts anew: it is of {' '.join(self.meta['best_of'])} now")
        return notes

    def _differences(self, there: Mapping[str, Any]) -> dict[str, str]:
        """What of a checkpoint's training is not that of ours, by key, in words."""
        keys = ["task", "space", "categories", "num_classes", "images", "seed", "steps"]
        if "config" not in there:
            keys.insert(1, "model")
        was = {**dict.fromkeys(keys), "task": UNNAMED, **{k: self.meta[k] for k in ("model", "images")}, **there}
        found = {k: f"{k} {was[k]} there, {self.meta[k]} here" for k in keys if was[k] != self.meta[k]}
        if "config" in there:
            found |= kept.differences(there["config"], self.recipe, self.world)
        return found

    def _longer(self, run: Run, step: int, end: int) -> str:
        """What happens to a training that had already ended."""
        settings, steps = self.recipe.train, self.meta["steps"]
        base, epoch = run.optimizer.defaults["lr"], self.steps_per_epoch
        last = base * schedules.factor_at(settings, end - 1, end, epoch)
        now = base * schedules.factor_at(settings, step, steps, epoch)
        text = f"the training had come to its end, step {end}; it goes on to step {steps}"
        if last == now:
            return f"{text}, with lr {now:.2g} as before"
        if settings.restart_epochs is not None:
            return f"{text}, as its schedule of restarts says: lr was {last:.2g}, and goes on with {now:.2g}"
        schedule = f"Its schedule ({settings.schedule}) now spans all {steps}"
        return f"{text}. {schedule}: lr was {last:.2g}, and goes on with {now:.2g}"

    def show(self, name: str) -> None:
        """Where checkpoints are kept elsewhere, link them, and what lies beside them, from the working folder."""
        path, shown = os.path.join(self.keep, name), os.path.join(self.work_dir, name)
        if os.path.exists(path) and os.path.abspath(shown) != os.path.abspath(path):
            checkpoint.link(path, shown)


def _evaluate(run: Run, recipe: Recipe, bench: Bench, saver: Saver, watch: Watch) -> None:
    """Score the named archs, and keep the checkpoint if it is the best so far."""
    settings = recipe.train
    run.scored = run.step
    config = sized(recipe, bench.categories)
    for name in dict.fromkeys((*settings.eval_archs, settings.best_arch)):
        static: nn.Module = subnet(run.net, recipe.space.named(name), config)
        metrics = bench.score(static, recipe.scales[0], calibrated=bool(bench.calibration.ids))
        for note in bench.last.notes:
            if note not in bench.notes:
                watch.say(f"step {run.step}  {name}: {note}")
        watch.scored(run.step, name, metrics)
        if name == settings.best_arch and metrics[settings.best_metric] > run.best:
            run.best = metrics[settings.best_metric]
            saver.save(run, checkpoint.BEST)
