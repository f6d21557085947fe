"""Training a supernet from a recipe, resumable at any moment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from searchkit.data import coco, loader
from searchkit.data.coco import CocoSet
from searchkit.errors import UsageError
from searchkit.models.load import load_init
from searchkit.models.subnet import subnet
from searchkit.train import checkpoint, distributed
from searchkit.train import net as nets
from searchkit.train.bench import Bench, open_bench, open_split
from searchkit.train.checkpoint import Checkpoint
from searchkit.train.config import Optimisation, Recipe, path_of
from searchkit.train.loop import Batch, Run, StepReport, fit, load_optimizer, make_optimizer
from searchkit.train.policies import policy


@dataclass(frozen=True)
class Watch:
    """Who looks on: a line for people, each step, each evaluation (step, arch name, metrics)."""

    say: Callable[[str], None]
    step: Callable[[StepReport], None]
    scored: Callable[[int, str, Mapping[str, float]], None]


def train_supernet(recipe: Recipe, work_dir: str, *, seed: int, device: torch.device, watch: Watch) -> tuple[str, int]:
    """Train, or go on training, the supernet of a recipe; returns (path of the last checkpoint, its steps).

    In `work_dir`: latest.pth, best.pth (where data.val is given). A run that was killed goes on from its last
    checkpoint and ends with the tensors of an unbroken one. Raises ConflictError where another process trains there.
    """
    ranks = distributed.join(device)
    keep = checkpoint.keep_folder(work_dir)
    data = open_split(recipe.data, "train")
    coco.require_boxes(data)
    for line in data.report.lines:
        watch.say(line)
    with checkpoint.held(keep) if ranks.first else nullcontext():
        steps = _train(recipe, data, keep, work_dir, seed, device, ranks, watch)
    distributed.leave(ranks)
    return os.path.join(keep, checkpoint.LATEST), steps


def _train(
    recipe: Recipe,
    data: CocoSet,
    keep: str,
    work_dir: str,
    seed: int,
    device: torch.device,
    ranks: distributed.Ranks,
    watch: Watch,
) -> int:
    """Returns the steps that are done in the end."""
    o = recipe.train
    net = nets.build(recipe, data.names, seed).to(device)
    if o.channels_last:
        net = net.to(memory_format=torch.channels_last)
    steps = o.total_steps(len(data.images), ranks.world)
    run = Run(net, make_optimizer(net, o, o.batch_size * ranks.world))
    saver = Saver(recipe, keep, work_dir, list(data.names), seed, steps, ranks.first)
    latest = os.path.join(keep, checkpoint.LATEST)
    if os.path.exists(latest):
        saver.restore(run, checkpoint.load(latest, device), latest)
        watch.say(f"goes on at step {run.step} of {steps}, from {latest}")
    elif recipe.init:
        watch.say(load_init(net, path_of(recipe.init, "init")).text())
    distributed.share_weights(net, ranks)
    bench = open_bench(recipe, "val", device, seed) if ranks.first and recipe.data.val else None
    if bench:
        coco.same_classes(data, bench.evaluated)
    choose = policy(o.policy, recipe.space, seed, random_archs=o.random_archs, arch=o.arch, sampler=o.sampler)
    every = round(o.eval_epochs * len(data.images) / (o.batch_size * ranks.world)) if o.eval_epochs else steps
    skipped: Counter[str] = Counter()
    batches = batches_of(data, recipe, o, seed, run.step, steps, ranks, skipped)
    for report in fit(
        run,
        batches,
        choose,
        o,
        steps=steps,
        scales=o.scales or recipe.scales,
        max_edge=recipe.data.max_edge,
        seed=seed,
        device=device,
        ranks=ranks,
    ):
        watch.step(report)
        if bench and (run.step % max(1, every) == 0 or run.step == steps):
            _evaluate(run, recipe, bench, saver, watch)
        if distributed.agree(saver.due.now(run.step), ranks, device):
            saver.save(run)
    saver.save(run)
    if skipped:
        watch.say(f"images that can't be used: {len(skipped)}; others took their places {skipped.total()} times")
    return run.step


def batches_of(
    data: CocoSet,
    recipe: Recipe,
    o: Optimisation,
    seed: int,
    start: int,
    steps: int,
    ranks: distributed.Ranks,
    skipped: Counter[str] | None = None,
) -> Iterator[Batch]:
    """Training batches from step `start` on; `skipped` counts what could not be decoded."""
    if start >= steps:
        return iter(())
    return loader.train_loader(
        data,
        recipe.data.augment,
        o.batch_size,
        seed,
        start,
        steps,
        recipe.data.workers,
        rank=ranks.rank,
        world=ranks.world,
        cache_mb=recipe.data.cache_mb,
        pin_memory=True,
        skipped=skipped,
    )


class Saver:
    """Writes checkpoints of a run: latest.pth when due, best.pth when better."""

    def __init__(
        self, recipe: Recipe, keep: str, work_dir: str, names: list[str], seed: int, steps: int, first: bool
    ) -> None:
        self.keep, self.work_dir, self.first = keep, work_dir, first
        self.due = checkpoint.Due(recipe.train.checkpoint_steps, recipe.train.checkpoint_minutes)
        self.meta = {
            "categories": names,
            "space": recipe.space.maximum().nested(),
            "seed": seed,
            "steps": steps,
            "num_classes": nets.sized(recipe, names).num_classes,
            "data": recipe.data.name,
        }
        if first:
            checkpoint.sweep(keep)
            for name in (checkpoint.LATEST, checkpoint.BEST):
                self._show(name)

    def save(self, run: Run, name: str = checkpoint.LATEST) -> None:
        """Write a checkpoint of this moment (the first rank alone)."""
        if not self.first:
            return
        optimizer = run.optimizer.state_dict() if name == checkpoint.LATEST else {}
        content = Checkpoint(run.net.state_dict(), run.step, optimizer, {**self.meta, "best": run.best})
        checkpoint.save(self.keep, name, content)
        self._show(name)

    def restore(self, run: Run, found: Checkpoint, path: str) -> None:
        """Let a run go on from a checkpoint. Raises UsageError for that of another training."""
        keys = ("space", "categories", "num_classes", "seed", "steps")
        other = [
            f"{k} {found.meta.get(k)} there, {self.meta[k]} here" for k in keys if found.meta.get(k) != self.meta[k]
        ]
        if other:
            raise UsageError(
                f"{path} is of another training: {'; '.join(other)}",
                "Train in another --work-dir, or remove the old one",
            )
        nets.load_exactly(run.net, found.net, path, "this config")
        load_optimizer(run.optimizer, found.optimizer)
        run.step, run.best = found.step, found.meta["best"]

    def _show(self, name: str) -> None:
        """Where checkpoints are kept elsewhere, link them from the working folder."""
        path, shown = os.path.join(self.keep, name), os.path.join(self.work_dir, name)
        if os.path.exists(path) and os.path.abspath(shown) != os.path.abspath(path):
            checkpoint.link(path, shown)


def _evaluate(run: Run, recipe: Recipe, bench: Bench, saver: Saver, watch: Watch) -> None:
    """Score the named archs, and keep the checkpoint if it is the best so far."""
    o = recipe.train
    config = nets.sized(recipe, bench.categories)
    for name in dict.fromkeys((*o.eval_archs, o.best_arch)):
        static: nn.Module = subnet(run.net, recipe.space.named(name), config)
        metrics = bench.score(static, recipe.scales[0], calibrated=bool(bench.calibration.ids))
        watch.scored(run.step, name, metrics)
        if name == o.best_arch and metrics[o.best_metric] > run.best:
            run.best = metrics[o.best_metric]
            saver.save(run, checkpoint.BEST)
