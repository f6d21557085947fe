"""Networks of a recipe: built anew, or from a checkpoint, whose classes may be others than the data's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models import network
from searchkit.nas.models.elastic import Held, wiring_of
from searchkit.nas.models.part import HEAD, NetConfig, parted
from searchkit.nas.models.plans import unseen, unseen_there
from searchkit.nas.models.table import plan_class
from searchkit.nas.train.checkpoint import Checkpoint
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.task import UNNAMED
from searchkit.records.arch import Arch


@dataclass(frozen=True)
class HeadMatch:
    """How the rows of a checkpoint's head went to the data's classes, by name."""

    matched: tuple[str, ...]
    fresh: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        if not self.fresh:
            return f"classes: all {len(self.matched)} of the data are the checkpoint's"
        return (
            f"classes: {len(self.matched)} matched by name, {len(self.fresh)} start fresh ({', '.join(self.fresh[:8])}"
            + (", …)" if len(self.fresh) > 8 else ")")
        )


def build(recipe: Recipe, categories: Sequence[str], seed: int) -> nn.Module:
    """The supernet at its maximal arch, its weights a function of the seed alone.

    Where model.num_classes is more than the data has, the classes that it doesn't have are never predicted.
    """
    space = recipe.supernet
    net = build_at(recipe, sized(recipe, categories), space.maximum(), seed, space.held())
    wiring_of(net).head.silence(net, len(categories))
    return net


def build_at(recipe: Recipe, config: NetConfig, arch: Arch, seed: int, held: Held | None = None) -> nn.Module:
    """A network with the sizes of an arch, its weights a function of the seed alone.

    held: the choices of a supernet's space; None: a static network, see searchkit.nas.models.elastic.make_backbone.
    """
    options = recipe.task.network.build_options(recipe.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network.build(config, arch, held, **options)


def load(
    recipe: Recipe, checkpoint: Checkpoint, categories: Sequence[str], seed: int, *, to_train: bool, where: str
) -> tuple[nn.Module, HeadMatch]:
    """The supernet with a checkpoint's weights; rows of its head go to the data's classes by name.

    Classes the checkpoint doesn't know start fresh (`to_train`) or are never predicted. Raises UsageError for a
    checkpoint of another space (naming the dimensions), and for no matching class unless `to_train`.
    """
    check_space(recipe, checkpoint, where)
    net = build(recipe, categories, seed)
    theirs = checkpoint.meta["categories"]
    match = HeadMatch(tuple(n for n in categories if n in theirs), tuple(n for n in categories if n not in theirs))
    state = wiring_of(net).head.adapt(checkpoint.net, net.state_dict(), theirs, categories, to_train)
    if not match.matched and not to_train:
        raise UsageError(
            f"none of the data's classes ({', '.join(categories[:8])}) is one of the checkpoint's "
            f"({', '.join(theirs[:8])})",
            "Nothing can be scored without training: use search-nas finetune",
        )
    load_exactly(net, state, where, recipe.path)
    return net, match


def check_task(recipe: Recipe, checkpoint: Checkpoint, where: str) -> None:
    """UsageError for a checkpoint of another task."""
    theirs, ours = checkpoint.meta.get("task", UNNAMED), recipe.task.name
    if theirs != ours:
        hint = "Use the config that it was trained with"
        raise UsageError(f"{where} is the checkpoint of task {theirs}, but the config's is {ours}", hint)


def check_model(recipe: Recipe, checkpoint: Checkpoint, where: str) -> None:
    """UsageError for a checkpoint of another task, or one whose weights mean something else in the recipe's network."""
    check_task(recipe, checkpoint, where)
    meta = checkpoint.meta  # of a checkpoint that tells nothing, the config is taken at its word
    kept = meta.get("model", unseen(recipe.model))
    ours, theirs = unseen_there(recipe.model, kept, meta.get("config", {}))
    names = dict.fromkeys((*ours, *theirs))
    differences = [f"{n}: {theirs.get(n)} there, {ours.get(n)} here" for n in names if theirs.get(n) != ours.get(n)]
    if differences:
        hint = "Use the config that it was trained with"
        raise UsageError(f"{where} is the checkpoint of another model: {'; '.join(differences)}", hint)


def check_space(recipe: Recipe, checkpoint: Checkpoint, where: str) -> None:
    """UsageError for a checkpoint whose task, model or maximal arch is not the recipe's, naming what differs."""
    check_model(recipe, checkpoint, where)
    trained, _ = parted(plan_class(HEAD, recipe.model.head), Arch.of(checkpoint.meta["space"]))
    wanted = recipe.supernet.maximum()
    names = dict.fromkeys((*wanted.names, *trained.names))
    differences = [
        f"{n}: {trained.get(n)} there, {wanted.get(n)} here" for n in names if trained.get(n) != wanted.get(n)
    ]
    if differences:
        hint = "Use the config that it was trained with"
        if not recipe.supernet.faults(trained):
            hint += "; if it is of one subnet that was tuned, --set subnet=FILE with its record, and --arch MAX"
        raise UsageError(f"{where} is the checkpoint of another space: {'; '.join(differences)}", hint)


def misfits(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The tensors of a state dict that are not of a network's shapes, or that one of the two lacks, in words."""
    there = {name: list(tensor.shape) for name, tensor in state.items()}
    here = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return [f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in names]


def load_exactly(net: nn.Module, state: dict[str, Tensor], where: str, config: str) -> None:
    """Load a state dict of the same names and shapes. Raises UsageError that names what differs."""
    try:
        net.load_state_dict(state)
    except RuntimeError as e:
        lines = "; ".join(line.strip() for line in str(e).splitlines()[1:4])
        raise UsageError(
            f"{where} does not fit the model of {config}: {lines}", "Use the config that it was trained with"
        ) from e
