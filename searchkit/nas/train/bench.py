"""What a process loads once to score any number of subnets: data, its evaluator, calibration images."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
import torchvision
from torch import nn

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.images import unusable
from searchkit.nas.models.network import head_of
from searchkit.nas.models.part import BACKBONE, PARTS, NetConfig
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.splits import HELD_OUT, TRAIN, held_out_entry, open_split, section_of, shown
from searchkit.nas.train.steps import Evaluation
from searchkit.nas.train.task import Task
from searchkit.nas.train.values import text_of
from searchkit.seeds import rng_of

log = logging.getLogger(__name__)
NOTHING = Evaluation({})


def measured_on(device: torch.device) -> dict[str, Any]:
    """What the last digits of a score may depend on beside its protocol: plain data."""
    where = {"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {"device": str(device)}
    threads = {} if device.type == "cuda" else {"threads": torch.get_num_threads()}
    versions = {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
    return {**where, **threads, **versions}


def model_said(model: NetConfig) -> dict[str, Any]:
    """The keys of a model that are not their defaults, as plain data: what differs where the protocols of two scores
    have other digests of it."""
    given = _given(by_file_names(model))
    return {name: value for name, value in given.items() if name not in (BACKBONE, f"{BACKBONE}_options")}


def _given(section: Any, below: str = "") -> dict[str, Any]:
    """The fields of a section that are not their defaults; those of options of parts each by itself."""
    given: dict[str, Any] = {}
    for f in fields(section):
        value = getattr(section, f.name)
        made = f.default is MISSING and f.default_factory is not MISSING
        default = f.default_factory() if made else f.default  # type: ignore[operator]
        if is_dataclass(value):
            given |= _given(value, f"{below}{f.name}.")
        elif default is not MISSING and value != default:
            given[f"{below}{f.name}"] = json.loads(json.dumps(value))  # lists, as records have them
    return given


def by_file_names(model: NetConfig) -> NetConfig:
    """The model with the names of its parts alone: the files of the user's own may lie anywhere."""
    return replace(model, **{part: os.path.basename(getattr(model, part)) for part in PARTS})


def short_digest(what: object) -> str:
    """What tells one thing from another in a protocol: 16 hex digits of its text's."""
    return hashlib.sha256(str(what).encode()).hexdigest()[:16]


@dataclass
class Batches:
    """All images of a set, in its order, as often as they are asked for; decoded once for each shape, if `keep`."""

    task: Task
    data: Any
    batch_size: int
    workers: int
    keep: bool
    room_mb: float = 0.0  # for images that are prepared for a network
    kept: dict[InputShape | None, list[Any]] = field(default_factory=dict)
    prepared: dict[Hashable, list[Any]] = field(default_factory=dict)

    def at(self, shape: InputShape) -> Iterable[Any]:
        """The batches at an input shape."""
        if not self.keep:
            return self.task.sets.eval_batches(self.data, self.batch_size, self.workers, shape)
        key = self.task.sets.kept_shape(shape)
        if key not in self.kept:
            self.kept[key] = [*self.task.sets.eval_batches(self.data, self.batch_size, 0, shape)]
        return self.kept[key]

    def prepared_for(self, net: nn.Module, shape: InputShape, device: torch.device) -> Iterable[Any]:
        """The batches at an input shape for a network, with all done that it does before its first layer, as far as
        there is room to keep that: it is the same for all subnets."""
        how = self.task.network.prepares(net) if self.keep else None
        if how is None:
            return self.at(shape)
        if how not in self.prepared:
            self.prepared[how] = [self._prepared(net, batch, device) for batch in self.at(shape)]
        return self.prepared[how]

    def _prepared(self, net: nn.Module, batch: Any, device: torch.device) -> Any:
        if self.room_mb <= 0:
            return batch
        made, mb = self.task.network.prepared(net, batch, device)
        self.room_mb -= mb
        return made


@dataclass(frozen=True)
class Calibration:
    """The training images that statistics of batch norm are computed on."""

    source: Batches | None = None
    ids: tuple[int | str, ...] = ()
    annotations: str = ""  # the file of the ids, as the config names it
    sha256: str = ""  # of that file
    shown: str = ""  # what tells the images' pixels from those that are stored, see splits.shown

    @property
    def digest(self) -> str:
        """What tells one choice of images from another; empty where there are none."""
        images = " ".join(filter(None, (self.sha256, self.shown)))
        return short_digest(f"{images} {','.join(map(str, self.ids))}") if self.ids else ""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the protocol of a score says of them."""
        return {"calibration_images": len(self.ids), "calibration_ids": self.digest}

    def batches(self, shape: InputShape) -> Iterator[Any]:
        """The images at an input shape: uint8, lists of (3, H, W) or tensors (N, 3, H, W)."""
        if self.source is not None:
            yield from map(self.source.task.sets.images_of, self.source.at(shape))

    def batches_for(self, net: nn.Module, shape: InputShape, device: torch.device) -> Iterator[Any]:
        """The images at an input shape, prepared for a network where they are kept."""
        if self.source is not None:
            yield from map(self.source.task.sets.images_of, self.source.prepared_for(net, shape, device))


@dataclass
class Bench:
    """Score networks on one split; the images stay in memory where they fit into data.cache_mb."""

    recipe: Recipe
    split: str
    evaluated: Any  # the set, of the task's kind
    evaluator: Any
    batches: Batches
    calibration: Calibration
    device: torch.device
    digest: str  # of the annotations and the classes
    last: Evaluation = NOTHING  # what `score` found last

    @property
    def categories(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.evaluated.names
        return names

    def protocol(self, shape: InputShape, calibrated: bool) -> dict[str, Any]:
        """How a score is measured, apart from the weights: plain data that is kept with the number."""
        test, model, task = self.recipe.test, self.recipe.model, self.recipe.task
        return {
            "data": self.digest,
            "model": short_digest(text_of(by_file_names(replace(model, num_classes=1)))),
            "split": self.split,
            "images": task.sets.count(self.evaluated),
            "input_shape": plain_shape(shape),
            **task.sets.protocol(self.recipe.data),
            **held_out_entry(self.recipe),
            **test.beyond,
            "batch_size": test.batch_size,
            "precision": self.recipe.train.precision,
            **(self.calibration if calibrated else Calibration()).protocol,
        }

    def calibrate(self, net: nn.Module, shape: InputShape, precision: str) -> None:
        """Replace the statistics of a network's batch norms by those of the calibration images at an input shape."""
        task = self.recipe.task
        task.network.set_scale(net, shape, self.recipe.data)
        images = self.calibration.batches_for(net, shape, self.device)
        calibrate(net, images, self.device, precision, task=task)

    def score(self, net: nn.Module, shape: InputShape, *, calibrated: bool) -> dict[str, float]:
        """Metrics of a static network at an input shape. With `calibrated` its statistics are replaced first."""
        task, precision = self.recipe.task, self.recipe.train.precision
        task.network.set_scale(net, shape, self.recipe.data)
        if calibrated:
            self.calibrate(net, shape, precision)
        batches = self.batches.prepared_for(net, shape, self.device)
        self.last = task.objective.evaluate(net, batches, self.evaluator, self.device, precision)
        return self.last.metrics

    def with_examples(self, names: Iterable[str]) -> list[str]:
        """Those of these classes of which the set has examples: they count in its scores."""
        without = self.recipe.task.objective.without_value(self.evaluator)
        return [name for name in names if f"{self.recipe.task.per_class}{name}" not in without]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about scoring on this set, whatever is scored."""
        return self.recipe.task.objective.notes(self.evaluator)

    def require(self, metric: str, key: str) -> None:
        """Raises UsageError for a metric that is not told of this set, or that has no value on it; key: who asks."""
        check_metric(self.recipe, self.evaluator, self.evaluated.source, metric, key)


def metrics_on(recipe: Recipe, evaluator: Any) -> dict[str, str]:
    """The metrics of an evaluation, those of single classes too, each with why it has no value on the evaluator's set;
    empty where it has one."""
    objective = recipe.task.objective
    without = objective.without_value(evaluator)
    names = (*recipe.metrics, *(f"{recipe.task.per_class}{name}" for name in objective.class_names(evaluator)))
    return {name: without.get(name, "") for name in names}


def check_metric(recipe: Recipe, evaluator: Any, source: str, metric: str, key: str) -> None:
    """Raises UsageError for a metric that is not told of a set, or that has no value on it."""
    known = metrics_on(recipe, evaluator)
    there = [name for name, why in known.items() if not why]
    hint = f"{source} gives a value to {', '.join(there) or 'none'}"
    if metric not in known:
        raise UsageError(f"{key} {metric}: there is no such metric{did_you_mean(metric, list(known))}", hint)
    if known[metric]:
        raise UsageError(f"{key} {metric} has no value: {known[metric]}", hint)


def open_bench(recipe: Recipe, split: str, device: torch.device, seed: int, train: Any = None) -> Bench:
    """Load what scoring on `split` needs. Its classes are those of the training set; UsageError where it has examples
    of others. Calibration images are drawn from the training set, by the seed. train: that set, where it is open
    already."""
    task = recipe.task
    train = opened_train(recipe) if train is None else train
    evaluated = open_split(recipe, split, () if train is None else train.names)
    if train is not None:
        task.sets.same_classes(train, evaluated)
    calibration = open_calibration(recipe, seed, train)
    batches = _batches(recipe, evaluated)
    if _is_trained_on(recipe, split, task.sets.digest(evaluated), calibration):
        log.warning("data.%s is the same as data.train: scores are of images that were trained on", split)
    digest = short_digest(" ".join(filter(None, (task.sets.digest(evaluated), str(evaluated.names), shown(evaluated)))))
    return Bench(
        recipe, split, evaluated, task.objective.evaluator(evaluated, recipe.test), batches, calibration, device, digest
    )


def opened_train(recipe: Recipe) -> Any:
    """The training set where scoring needs it: for calibration. None elsewhere."""
    return open_split(recipe, "train") if recipe.test.calibration_images else None


def open_calibration(recipe: Recipe, seed: int, train: Any = None) -> Calibration:
    """test.calibration_images of the training images, drawn by the seed, not augmented. train: that set, if open."""
    test, task = recipe.test, recipe.task
    if not test.calibration_images:
        return Calibration()
    train = open_split(recipe, "train") if train is None else train
    n = min(test.calibration_images, task.sets.count(train))
    if not head_of(recipe.model).norms_of_one and n > test.batch_size and n % test.batch_size == 1:
        n -= 1  # the last batch would be one image, which has no variance where a feature is 1 x 1
        log.warning(
            "test.calibration_images: %d are taken, since in batches of %d the last one would be a single image",
            n,
            test.batch_size,
        )
    chosen = sorted(rng_of(seed, "calibration").sample(range(task.sets.count(train)), n))
    part, ids = task.sets.subset(train, chosen)
    try:
        batches, fault = _batches(recipe, part), None
    except UsageError as e:
        batches, fault = None, e
    if batches is None or not batches.keep:  # what is kept has been decoded
        if faults := task.sets.unusable(train, chosen):
            part, ids = task.sets.subset(train, _replaced(task, train, chosen, faults, seed))
            batches = _batches(recipe, part)
        elif fault:
            raise fault
    source, digest = task.sets.source_of(recipe.data.train), task.sets.digest(train)
    return Calibration(batches, ids, source, digest, shown(train))


def _replaced(task: Task, data: Any, chosen: list[int], faults: dict[int, UsageError], seed: int) -> list[int]:
    """The images drawn, but for those with faults; others take their places, as far as there are any. Raises UsageError
    where none is left."""
    used = [i for i in chosen if i not in faults]
    others = rng_of(seed, "calibration", "others").sample(range(task.sets.count(data)), task.sets.count(data))
    for i in others:
        if len(used) == len(chosen):
            break
        if i not in chosen:
            wrong = task.sets.unusable(data, [i])
            faults |= wrong
            used += [i] if not wrong else []
    if not used:
        raise unusable(list(faults.values()))
    for fault in faults.values():
        log.warning("%s; another image takes its place in the calibration", fault.message)
    return sorted(used)


def _is_trained_on(recipe: Recipe, split: str, digest: str, calibration: Calibration) -> bool:
    """Whether a split has the images of data.train, without being called so."""
    same = section_of(recipe, split) == recipe.data.train or digest == calibration.sha256
    return split not in (TRAIN, HELD_OUT) and same


def calibration_of(recipe: Recipe, ids: Sequence[int | str]) -> Calibration | None:
    """The training images of these ids; None where the training set lacks some of them."""
    task, train = recipe.task, open_split(recipe, "train")
    places = task.sets.places(train, ids)
    if places is None:
        return None
    part, indices = task.sets.subset(train, places)
    source, digest = task.sets.source_of(recipe.data.train), task.sets.digest(train)
    return Calibration(_batches(recipe, part), indices, source, digest, shown(train))


def _batches(recipe: Recipe, data: Any) -> Batches:
    """A set for scoring, decoded once if it fits into data.cache_mb."""
    task = recipe.task
    shapes = {task.sets.kept_shape(shape): shape for shape in recipe.scales}.values()  # kept for each of them
    room_mb = recipe.data.cache_mb - sum(task.sets.decoded_mb(data, shape) for shape in shapes)
    batches = Batches(task, data, recipe.test.batch_size, recipe.data.workers, room_mb >= 0, room_mb)
    if batches.keep:
        batches.at(recipe.scales[0])  # what can't be decoded is said now, not after hours of training
    return batches
