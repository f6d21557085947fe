"""What a process loads once to score any number of subnets: data, COCO index, calibration images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.data import coco, loader
from searchkit.data.coco import CocoSet
from searchkit.data.coco_eval import Evaluator
from searchkit.errors import UsageError
from searchkit.space.arch import InputShape
from searchkit.train import checkpoint
from searchkit.train.config import Data, Recipe, path_of
from searchkit.train.evaluate import calibrate, score
from searchkit.train.loop import set_scale
from searchkit.train.policies import rng_of

EvalBatch = tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]


def open_split(data: Data, name: str) -> CocoSet:
    """One split of the data, with the chosen classes. Raises UsageError where the config names none."""
    split = getattr(data, name)
    if split is None:
        raise UsageError(
            f"data.{name} is missing in the config",
            f"Give data.{name}.annotations (COCO json) and data.{name}.images (folder)",
        )
    annotations = path_of(split.annotations, f"data.{name}.annotations")
    images = path_of(split.images, f"data.{name}.images")
    return coco.load_coco(annotations, images, classes=data.classes or None)


@dataclass
class Batches:
    """All images of a set, in its order, as often as they are asked for; decoded once, if `keep`."""

    data: CocoSet
    batch_size: int
    workers: int
    keep: bool
    kept: list[EvalBatch] = field(default_factory=list)

    def __iter__(self) -> Iterator[EvalBatch]:
        if self.keep and not self.kept:
            self.kept = [*loader.eval_loader(self.data, self.batch_size, workers=0)]
        return iter(self.kept) if self.keep else loader.eval_loader(self.data, self.batch_size, self.workers)


@dataclass(frozen=True)
class Calibration:
    """The training images that statistics of batch norm are computed on."""

    batches: list[list[Tensor]] = field(default_factory=list)  # (3, H, W) uint8
    ids: tuple[int, ...] = ()
    annotations: str = ""  # the file of the ids, as the config names it
    sha256: str = ""  # of that file

    @property
    def digest(self) -> str:
        """What tells one choice of images from another; empty where there are none."""
        text = f"{self.sha256} {','.join(map(str, self.ids))}"
        return hashlib.sha256(text.encode()).hexdigest()[:16] if self.ids else ""


@dataclass
class Bench:
    """Score detectors on one split; the images stay in memory where they fit into data.cache_mb."""

    recipe: Recipe
    split: str
    evaluated: CocoSet
    evaluator: Evaluator
    batches: Iterable[EvalBatch]
    calibration: Calibration
    device: torch.device
    digest: str  # of the annotations and the classes

    @property
    def categories(self) -> tuple[str, ...]:
        return self.evaluated.names

    def protocol(self, shape: InputShape, calibrated: bool) -> dict[str, Any]:
        """How a score is measured, apart from the weights: plain data that is kept with the number."""
        test = self.recipe.test
        return {
            "data": self.digest,
            "split": self.split,
            "images": len(self.evaluated.images),
            "input_shape": shape if isinstance(shape, int) else list(shape),
            "max_edge": self.recipe.data.max_edge,
            "batch_size": test.batch_size,
            "precision": self.recipe.train.precision,
            "calibration_images": len(self.calibration.ids) if calibrated else 0,
            "calibration_ids": self.calibration.digest if calibrated else "",
        }

    def score(self, net: nn.Module, shape: InputShape, *, calibrated: bool) -> dict[str, float]:
        """COCO metrics of a static detector at an input shape. With `calibrated` its statistics are replaced first."""
        set_scale(net, shape, self.recipe.data.max_edge)
        precision = self.recipe.train.precision
        if calibrated:
            calibrate(net, self.calibration.batches, self.device, precision)
        return score(net, self.batches, self.evaluator, self.device, precision)


def open_bench(recipe: Recipe, split: str, device: torch.device, seed: int) -> Bench:
    """Load what scoring on `split` needs. Calibration images are drawn from the training set, by the seed."""
    evaluated = open_split(recipe.data, split)
    calibration = open_calibration(recipe, seed)
    pixels = sum(info.width * info.height * 3 for info in evaluated.images)
    keep = pixels <= recipe.data.cache_mb * 1e6
    batches = Batches(evaluated, recipe.test.batch_size, recipe.data.workers, keep)
    if keep:
        iter(batches)  # what can't be decoded is said now, not after hours of training
    digest = hashlib.sha256(f"{checkpoint.digest(evaluated.source)} {evaluated.names}".encode()).hexdigest()[:16]
    return Bench(recipe, split, evaluated, Evaluator(evaluated), batches, calibration, device, digest)


def open_calibration(recipe: Recipe, seed: int) -> Calibration:
    """test.calibration_images of the training images, drawn by the seed, not augmented."""
    test = recipe.test
    if not test.calibration_images:
        return Calibration()
    train = open_split(recipe.data, "train")
    n = min(test.calibration_images, len(train.images))
    chosen = rng_of(seed, "calibration").sample(range(len(train.images)), n)
    part = coco.subset(train, sorted(chosen))
    batches = [list(images) for images, _ in loader.eval_loader(part, test.batch_size, workers=0)]
    assert recipe.data.train is not None
    ids = tuple(info.id for info in part.images)
    return Calibration(batches, ids, recipe.data.train.annotations, checkpoint.digest(train.source))
