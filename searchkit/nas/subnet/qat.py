"""Training with roundings (search-nas quantize --qat): what the config's section `quantize` says, for one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from searchkit.nas.export.table import Order
from searchkit.nas.models.network import head_of
from searchkit.nas.quant.settings import Rounding
from searchkit.nas.subnet.sweep import about_static, train_alone
from searchkit.nas.train import checkpoint
from searchkit.nas.train.bench import short_digest
from searchkit.nas.train.distill import Scores, Teaching
from searchkit.nas.train.distill_section import Distill, ScoreJob
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.loop import Run, StepReport
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Quantize
from searchkit.nas.train.splits import open_split, range_entry
from searchkit.nas.train.values import text_of
from searchkit.records.arch import Arch

FLOAT = "float"  # the teacher: the network as it was


@dataclass(frozen=True)
class Trainer:
    """Trains a network with roundings, and keeps its checkpoint in `folder`, from which it goes on; see Tuning of
    searchkit.nas.export.table. source: what tells its weights from others."""

    recipe: Recipe
    source: str
    folder: str
    seed: int
    device: torch.device
    on_step: Callable[[StepReport], None]

    def __call__(self, order: Order, net: Any, teacher: Any, layers: str) -> dict[str, Any]:
        """See Tuning."""
        recipe, options = self.recipe, self.recipe.quantize
        names = tuple(order.config["categories"])
        images = _images(recipe, options, names)
        for each in (net, teacher):
            each.to(self.device)
        run = Run(net, make_optimizer(net, options, options.batch_size))
        arch = Arch.of(order.config["arch"])
        steps = options.total_steps(recipe.task.sets.count(images), 1)
        said = {
            "steps": steps,
            "images": recipe.task.sets.count(images),
            "lr": options.lr,
            "distill_weight": options.distill_weight,
            "seed": self.seed,
        }
        meta = {
            **about_static(recipe, names, len(names), arch),
            "input_shape": order.config["input_shape"],
            "protocol": {**said, "checkpoint": self.source, "rounded": _digest(options, order.wishes.rounding)},
            "rounded": True,
            **range_entry(images),
        }
        with checkpoint.held(self.folder):
            train_alone(
                run,
                images,
                recipe,
                options,
                order.shape,
                meta,
                self.folder,
                self.seed,
                self.device,
                on_step=self.on_step,
                teaching=teaching_of(recipe, options, teacher, layers),
            )
        for each in (net, teacher):
            each.to("cpu").eval()
        recipe.task.network.set_scale(net, order.shape, recipe.data)
        return said


def teaching_of(recipe: Recipe, options: Quantize, teacher: Any, layers: str) -> Teaching | None:
    """What a network with roundings learns of the float one, by the module `layers` of both: its class scores. None
    where it learns of the labels alone, or its head does not say where its class scores are."""
    head: Any = head_of(recipe.model)
    if options.distill_weight == 0 or not hasattr(head, "class_logits"):
        return None
    logits = replace(head.class_logits(teacher), module=layers)
    settings = Distill(
        weight=options.distill_weight, label_weight=options.label_weight, temperature=options.temperature
    )
    job = ScoreJob(weight=options.distill_weight, temperature=options.temperature)
    return Teaching(settings, (Scores(job, FLOAT, logits, logits, ()),), {FLOAT: teacher.requires_grad_(False)})


def _images(recipe: Recipe, options: Quantize, names: Sequence[str]) -> Any:
    """The set that is trained on."""
    first, *others = (open_split(recipe, name, names) for name in options.train_on)
    for other in others:
        first = recipe.task.sets.joined(first, other)
    recipe.task.sets.require_labels(first, recipe.data)
    return first


def _digest(options: Quantize, rounding: Rounding) -> str:
    """What tells one training from others, but for its network and its images."""
    return short_digest(f"{text_of(replace(options, checkpoint_steps=None, checkpoint_minutes=1.0))} {rounding}")
