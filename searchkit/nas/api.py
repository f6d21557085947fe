"""Supernets for Python: from a config to an extracted model, by the functions that the verbs of search-nas are made of.

Paths in a config begin in the current folder. An arch may be given as an `Arch`, by its name in the space ("MAX",
"R50"), as a mapping, or as a record (`{"arch": …, "data": {"input_shape": …}}`), whose input shape then holds, too.
Input shapes are a short edge, or (H, W), in pixels; without one the first of the space is taken. All random numbers are
functions of `seed`. `device` is a name of torch's ("cpu", "cuda:1"); without it a GPU where there is one.

All functions raise searchkit's own errors: UsageError for what the caller can fix (a config, a path, an arch of
another space), ConflictError where another process works in the same folder, StorageError for the disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.cost.price import Cost, plans_of, read_meters
from searchkit.nas.cost.price import price as price_arch
from searchkit.nas.cost.rules import Convention
from searchkit.nas.models import elastic
from searchkit.nas.models.elastic import arch_of as arch_of
from searchkit.nas.models.part import NetPlan
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.shapes import InputShape, among
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet import statistics, sweep
from searchkit.nas.subnet.sweep import Session
from searchkit.nas.tasks import read as configs
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import net as nets
from searchkit.nas.train import supernet as training
from searchkit.nas.train.memory import memory_advice
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.splits import class_names
from searchkit.records.arch import Arch, is_int

T = TypeVar("T")
ArchLike = Arch | str | Mapping[str, Any]
SPLITS = ("train", "val", "test", "held_out")
TAG = "direct"  # under which the verb test keeps its scores, too


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a config of search-nas.

    overrides: `section.key=value` texts, as `--set` takes them: `["train.epochs=2"]`. The recipe's `space` counts,
    names, enumerates and samples archs: `space.count()`, `.names()`, `.enumerate()`, `.sample(random.Random(0))`.
    Raises ConfigError with every fault at its place, file:line:col.
    """
    return configs.load(os.fspath(path), _several(overrides, "overrides", '["train.epochs=2"]'))


def find_arch(recipe: Recipe, arch: ArchLike) -> Arch:
    """An arch of the recipe's space, in its one spelling. Raises UsageError for one that its supernet does not hold."""
    if isinstance(arch, str):
        return recipe.space.named(arch)
    if not isinstance(arch, Arch):
        arch = Arch.of(_arch_of_record(arch))
    if faults := recipe.space.faults(arch):
        raise UsageError(f"{arch.text()} is no arch of {recipe.path}: {'; '.join(faults)}")
    return recipe.space.canonical(arch)


def price(
    recipe: Recipe, arch: ArchLike, input_shape: InputShape | None = None, *, convention: Convention = "macs"
) -> Cost:
    """The cost of one arch on one image, in closed form: `Cost(flops, params)`.

    `flops` is counted by the convention: `macs` are multiply-adds of convolutions and linear layers, of a detector with
    1,000 boxes, or as many as `head.proposals` says; `gaia` counts as GAIA's tools do, `ptflops` as mmrazor's zoo.
    `params` are those of the subnet alone.
    Where the config names no number of classes, data.train is asked; `prices` does so once for many archs.
    """
    return prices(recipe, [arch], input_shape, convention=convention)[0]


def prices(
    recipe: Recipe,
    archs: Iterable[ArchLike],
    input_shape: InputShape | None = None,
    *,
    convention: Convention = "macs",
) -> list[Cost]:
    """`price` of each of these archs, in their order: the network is laid out, and the data asked, but once."""
    plans = _plans(recipe)
    placed = (_placed(recipe, arch, input_shape) for arch in _several(archs, "archs", '["MAX", "MIN"]'))
    return [price_arch(plans, arch, shape, convention) for arch, shape in placed]


def meters(recipe: Recipe, arch: ArchLike, input_shape: InputShape | None = None) -> dict[str, int]:
    """All that is counted of one arch on one image: `macs`, `gaia` and `ptflops`, operations by these conventions, and
    `params`, all torch parameters of the subnet."""
    return read_meters(_plans(recipe), *_placed(recipe, arch, input_shape))


def _plans(recipe: Recipe) -> NetPlan:
    config = recipe.model if recipe.classes_given else sized(recipe, class_names(recipe))
    return plans_of(config, recipe.space.maximum())


def build_supernet(recipe: Recipe, categories: Sequence[str] | None = None, *, seed: int = 0) -> nn.Module:
    """The supernet with new weights, on the CPU, at its maximal arch; its weights are a function of `seed` alone.

    categories: the names of the classes; None: those of data.train. A detector takes a list of images (3, H, W), RGB,
    float in 0..1, and returns a list of {"boxes": (n, 4) xyxy in px, "labels": (n,) from 1, "scores": (n,)}; a
    classifier takes (N, 3, H, W), float in 0..1, and returns logits (N, classes). `set_arch` says which subnet runs.
    """
    names = class_names(recipe) if categories is None else _several(categories, "categories", '["cat", "dog"]')
    return nets.build(recipe, list(names), seed)


def set_arch(net: nn.Module, arch: ArchLike) -> None:
    """Let a supernet run this arch from now on; its weights stay as they are. It may lie off the grid of the space, but
    within the maximum. Raises UsageError, with all reasons, where its weights don't hold it, and for a name: the
    network does not know its space."""
    if isinstance(arch, str):
        hint = f"Look it up: set_arch(net, find_arch(recipe, {arch!r}))"
        raise UsageError(f"the arch of a network must be an Arch or a mapping, not the name {arch!r}", hint)
    elastic.set_arch(net, arch if isinstance(arch, Arch) else Arch.of(_arch_of_record(arch)))


def train_supernet(
    recipe: Recipe,
    work_dir: str,
    *,
    seed: int = 0,
    device: str | None = None,
    accept_changes: bool = False,
    on_step: Callable[[Any], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Train the supernet of a recipe in this process, or go on where it was; the path of its last checkpoint.

    `work_dir` gets latest.pth, and best.pth where data.val is given. accept_changes: go on although the config trains
    something else by now. on_step: gets a StepReport (step, steps, losses,
    lr, images_per_s) after each step. say: gets the lines for people, without it they go to stderr. Raises
    ConflictError where the folder holds another training, or another process trains there.
    """
    watch = training.Watch(say or _say, on_step or (lambda _: None), lambda *_: None)
    where = _device(device)
    with memory_advice("train"):
        path, _ = training.train_supernet(
            recipe, work_dir, seed=seed, device=where, watch=watch, teach=open_teaching, accept=accept_changes
        )
    return path


def open_supernet(
    recipe: Recipe,
    checkpoint: str,
    *,
    split: str | None = None,
    seed: int = 0,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Session:
    """A trained supernet with all that scoring its subnets needs, loaded once: `.net`, `.recipe`, and the data.

    split: that it is scored on (train, val or test; None: test.split of the config). The calibration images are drawn
    from data.train by `seed`. say: gets the lines about the data, without it they go to stderr. Raises UsageError where
    checkpoint, config and data do not fit together, and says how.
    """
    where = _device(device)
    if split not in (None, *SPLITS):
        raise UsageError(f"split must be {', '.join(SPLITS)} or None, not {split!r}")
    with memory_advice("test"):
        return sweep.open_session(recipe, checkpoint, split=split, device=where, seed=seed, tune=False, say=say or _say)


def calibrate(supernet: Session, arch: ArchLike, input_shape: InputShape | None = None) -> nn.Module:
    """A subnet as a network of its own, in eval mode on the supernet's device, with batch-norm statistics computed anew
    on the calibration images; without any (test.calibration_images: 0) with the supernet's. It shares nothing with the
    supernet, which stays as it is; it takes and returns what `build_supernet` says."""
    placed, shape = _placed(_session(supernet).recipe, arch, input_shape)
    static: nn.Module = subnet(supernet.net, placed, supernet.config)
    with memory_advice("test"):
        supernet.bench.calibrate(static, shape, supernet.recipe.train.precision)
    return static.eval()


def score(
    supernet: Session, arch: ArchLike, input_shape: InputShape | None = None, *, calibrated: bool = True
) -> dict[str, Any]:
    """A record of one subnet's score with the supernet's weights, as `search-nas test` writes it.

    `record["metric"]["direct"]` holds the metrics by name (of a detector COCO's, `<data.name>_bbox_mAP` and so on, 0 to
    1, -1 where there is nothing to find; of a classifier `top1` and `top5`), `record["overhead"]` MACs and parameters,
    `record["protocol"]` how it was measured. calibrated: False keeps the supernet's own batch-norm statistics, and the
    score then says little. A record that is given is not changed.
    """
    placed, shape = _placed(_session(supernet).recipe, arch, input_shape)
    record = {"arch": placed.nested(), "data": {"input_shape": list(shape) if isinstance(shape, tuple) else shape}}
    with memory_advice("test"):
        return sweep.test_record(supernet, record, placed, TAG, calibrated)


def extract(
    recipe: Recipe,
    checkpoint: str,
    arch: ArchLike,
    out: str,
    input_shape: InputShape | None = None,
    *,
    images: int = 4,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Any]:
    """Write one subnet as an ordinary model of torch into the new folder `out`, and return its proof.

    checkpoint: a supernet's, or that of a tuned subnet. The folder holds model.py, weights.safetensors, config.json and
    proof.json, and needs torch, torchvision and safetensors, but no searchkit. Batch-norm statistics are calibrated as
    for the score of a record of `score`, which is then measured again on the folder (`proof["score"]`); of another arch
    as the config's test section says. images: real ones that the proof compares on beside random input, 0 for none.
    Raises SearchkitError, and writes nothing, where the folder does not compute what the supernet does, bit for bit.
    """
    if not is_int(images) or images < 0:
        raise UsageError(f"images must be a whole number of 0 or more, not {images!r}")
    source, where = extraction.open_source(recipe, checkpoint, seed), _device(device)
    placed, shape = _placed(recipe, arch, input_shape)
    record = arch if isinstance(arch, Mapping) and "protocol" in arch else None
    measured, why, bench = None, "there is no record of a score", None
    if record is not None:
        measured, why = statistics.score_of(record, source.sha256, source.protocol, shape)
    with memory_advice("extract"):
        how = statistics.statistics_of(
            recipe, measured, why, alone=source.alone, raw=False, again=False, seed=seed, records=None
        )
        if measured is not None:
            bench = extraction.open_again(how.recipe, where, seed)
            source = extraction.for_classes(source, how.recipe, bench.categories, seed)
        source = extraction.read_as_scored(source, how.recipe, how, bench)
        shown, ids = extraction.sample_images(how.recipe, images, shape)
        return extraction.extract(
            source,
            how.recipe,
            placed,
            shape,
            out,
            images=shown,
            image_ids=ids,
            statistics=how,
            score=measured,
            bench=bench,
            seed=seed,
            device=where,
        )


def load_extracted(folder: str) -> nn.Module:
    """The model of an extracted folder, in eval mode on the CPU, made by the folder's own model.py. It takes and
    returns what `build_supernet` says. Raises UsageError where the folder holds none."""
    model: nn.Module = extraction.load_folder(folder)
    return model


def _placed(recipe: Recipe, arch: ArchLike, shape: InputShape | None) -> tuple[Arch, InputShape]:
    """(an arch of the recipe's space, the input shape that is meant)."""
    placed = find_arch(recipe, arch)
    if shape is not None:
        return placed, among(shape, recipe.scales)
    data = arch.get("data") if isinstance(arch, Mapping) else None
    own = data.get("input_shape") if isinstance(data, Mapping) else None
    return placed, recipe.scales[0] if own is None else among(own, recipe.scales)


def _session(supernet: Any) -> Session:
    if isinstance(supernet, Session):
        return supernet
    hint = "Load it with what scoring needs: open_supernet(recipe, checkpoint)"
    raise UsageError(f"a {type(supernet).__name__} is no supernet that open_supernet gave", hint)


def _arch_of_record(record: Any) -> Any:
    """The arch of a record; what is none is an arch itself."""
    arch = record.get("arch") if isinstance(record, Mapping) else None
    return arch if isinstance(arch, Mapping) else record


def _several(items: Iterable[T], name: str, example: str) -> Iterable[T]:
    """The items, which must not be one text (its letters) or one mapping (its keys)."""
    if isinstance(items, str | Mapping):
        raise UsageError(f"{name} must be a list, not {items!r}", f"Such as {example}")
    return items


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)  # whether it is there
        return device
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {name!r}: {str(e).splitlines()[0]}", "Such as 'cpu', or 'cuda:1'") from e


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
