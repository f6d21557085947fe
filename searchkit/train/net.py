"""Detectors of a recipe: built anew, or from a checkpoint, whose classes may be others than the data's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.models import detector
from searchkit.models.detector import DetectorConfig
from searchkit.space.arch import Arch
from searchkit.train.checkpoint import Checkpoint
from searchkit.train.config import Recipe

CLS, BOX = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
NEVER = -100.0  # the logit of a class that a checkpoint doesn't know: it is never predicted


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


def sized(recipe: Recipe, categories: Sequence[str]) -> DetectorConfig:
    """The recipe's detector with as many classes as the data has, where the recipe names no number."""
    if not recipe.classes_given:
        return replace(recipe.model, num_classes=len(categories))
    if recipe.model.num_classes < len(categories):
        raise UsageError(
            f"model.num_classes is {recipe.model.num_classes}, but the data has {len(categories)} categories",
            "Leave model.num_classes out to take the data's number, or choose some with data.classes",
        )
    return recipe.model


def build(recipe: Recipe, categories: Sequence[str], seed: int) -> nn.Module:
    """The supernet at its maximal arch, its weights a function of the seed alone.

    Where model.num_classes is more than the data has, the classes that it doesn't have are never predicted.
    """
    net = build_at(recipe, sized(recipe, categories), recipe.space.maximum(), seed)
    scores = net.get_submodule(CLS)
    with torch.no_grad():
        scores.get_parameter("weight")[1 + len(categories) :] = 0
        scores.get_parameter("bias")[1 + len(categories) :] = NEVER
    return net


def build_at(recipe: Recipe, config: DetectorConfig, arch: Arch, seed: int) -> nn.Module:
    """A detector with the sizes of an arch, its weights a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = detector.build(config, arch, max_size=recipe.data.max_edge)
    return net


def load(
    recipe: Recipe, checkpoint: Checkpoint, categories: Sequence[str], seed: int, *, to_train: bool, where: str
) -> tuple[nn.Module, HeadMatch]:
    """The supernet with a checkpoint's weights; rows of its head go to the data's classes by name.

    Classes the checkpoint doesn't know start fresh (`to_train`) or are never predicted. Raises UsageError for a
    checkpoint of another space (naming the dimensions), and for no matching class unless `to_train`.
    """
    check_space(recipe, checkpoint, where)
    net = build(recipe, categories, seed)
    state, match = adapt_head(checkpoint.net, net.state_dict(), checkpoint.meta["categories"], categories, to_train)
    if not match.matched and not to_train:
        theirs = ", ".join(checkpoint.meta["categories"][:8])
        raise UsageError(
            f"none of the data's classes ({', '.join(categories[:8])}) is one of the checkpoint's ({theirs})",
            "Nothing can be scored without training: use search-nas finetune",
        )
    load_exactly(net, state, where, recipe.path)
    return net, match


def check_space(recipe: Recipe, checkpoint: Checkpoint, where: str) -> None:
    """UsageError for a checkpoint whose maximal arch is not the recipe's, naming the dimensions."""
    trained, wanted = Arch.of(checkpoint.meta["space"]), recipe.space.maximum()
    names = dict.fromkeys((*wanted.names, *trained.names))
    found = [f"{n}: {trained.get(n)} there, {wanted.get(n)} here" for n in names if trained.get(n) != wanted.get(n)]
    if found:
        hint = "Use the config that it was trained with"
        raise UsageError(f"{where} is the checkpoint of another space: {'; '.join(found)}", hint)


def load_exactly(net: nn.Module, state: dict[str, Tensor], where: str, config: str) -> None:
    """Load a state dict of the same names and shapes. Raises UsageError that names what differs."""
    try:
        net.load_state_dict(state)
    except RuntimeError as e:
        lines = "; ".join(line.strip() for line in str(e).splitlines()[1:4])
        raise UsageError(
            f"{where} does not fit the model of {config}: {lines}", "Use the config that it was trained with"
        ) from e


def adapt_head(
    state: dict[str, Tensor], own: dict[str, Tensor], old: Sequence[str], new: Sequence[str], to_train: bool
) -> tuple[dict[str, Tensor], HeadMatch]:
    """(state dict with the box head's rows moved to the new classes, what was matched). Row 0 is the background."""
    match = HeadMatch(tuple(n for n in new if n in old), tuple(n for n in new if n not in old))
    same_rows = state[f"{CLS}.weight"].shape == own[f"{CLS}.weight"].shape
    if (list(old) == list(new) and same_rows) or not _same_kind(state, own):
        return state, match
    pairs = [(0, 0)] + [(1 + i, 1 + list(old).index(name)) for i, name in enumerate(new) if name in old]
    result = dict(state)
    for kind in ("weight", "bias"):
        scores, theirs = own[f"{CLS}.{kind}"].clone(), state[f"{CLS}.{kind}"]
        if not to_train:
            scores[1:] = 0 if kind == "weight" else NEVER
        for mine, its in pairs:
            scores[mine] = theirs[its]
        result[f"{CLS}.{kind}"] = scores
        boxes, theirs = own[f"{BOX}.{kind}"].clone(), state[f"{BOX}.{kind}"]
        if boxes.shape[0] == 4 and theirs.shape[0] == 4:  # class-agnostic
            boxes = theirs
        else:
            for mine, its in pairs:
                boxes[4 * mine : 4 * mine + 4] = theirs[4 * its : 4 * its + 4]
        result[f"{BOX}.{kind}"] = boxes
    return result, match


def _same_kind(state: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    """Whether the heads differ in their classes alone; whoever loads the state then names what else differs."""
    same_width = all(state[f"{name}.weight"].shape[1:] == own[f"{name}.weight"].shape[1:] for name in (CLS, BOX))
    return same_width and (len(state[f"{BOX}.bias"]) == 4) == (len(own[f"{BOX}.bias"]) == 4)
