"""A subnet as a folder of its own, with the proof that it is what the supernet computes, and that it scores the same.

model.py              the network, which needs torch and torchvision alone
weights.safetensors   its weights
config.json           categories, input size, arch: plain data
proof.json            bit-equality, costs in closed form and measured, digests of the source, the score measured again
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from searchkit import fsio
from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.cost import price
from searchkit.nas.data.pixels import Reading
from searchkit.nas.export import table
from searchkit.nas.export.table import Wishes
from searchkit.nas.models.elastic import set_arch, wiring_of
from searchkit.nas.models.part import HEAD, Form, NetConfig, parted
from searchkit.nas.models.plans import config_at
from searchkit.nas.models.subnet import subnet
from searchkit.nas.models.table import FreshSource, plan_class
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.subnet.statistics import (
    CALIBRATED,
    RAW,
    Score,
    Statistics,
    environment_differences,
    lent,
    protocol_differences,
)
from searchkit.nas.subnet.sweep import as_recorded
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import Bench, Calibration, measured_on, model_said, open_bench, opened_train
from searchkit.nas.train.recipe import Recipe, sized, tables_of
from searchkit.nas.train.splits import open_split, reading_as_scored, reading_of_checkpoint, section_of
from searchkit.records.arch import Arch

AS_IS = Reading()
CPU = torch.device("cpu")
NOTHING_MORE = Wishes()
_NOTHING = "Nothing was written."


@dataclass(frozen=True)
class Source:
    """A network that holds the arch (a supernet, or a tuned subnet), and where it is from."""

    net: nn.Module
    config: NetConfig
    maximum: Arch
    categories: tuple[str, ...]
    path: str
    sha256: str
    input_shape: InputShape | None = None  # that a subnet was tuned at
    reading: Reading = AS_IS  # how the images that it was trained on were read
    alone: bool = False  # it was tuned, and is scored with the statistics that it has
    protocol: dict[str, Any] | None = None  # of the score of a network that was trained on its own


def open_source(recipe: Recipe, path: str, seed: int) -> Source:
    """Load a supernet's checkpoint, or the one of a tuned subnet (its maximal arch is its own)."""
    loaded, sha256 = checkpoint.load_with_digest(path)
    nets.check_task(recipe, loaded, path)
    names = tuple(loaded.meta["categories"])
    maximum = Arch.of(loaded.meta["space"])
    if faults := recipe.supernet.faults(parted(plan_class(HEAD, recipe.model.head), maximum)[0]):
        raise UsageError(f"{path} is of another space: {'; '.join(faults)}", "Use the config that it was trained with")
    nets.check_model(recipe, loaded, path)
    config = replace(recipe.model, num_classes=loaded.meta["num_classes"])
    choices = None if loaded.meta.get("static") else recipe.space.held()
    net = nets.build_at(recipe, config, maximum, seed, choices)
    nets.load_exactly(net, loaded.net, path, recipe.path)
    shape = loaded.meta.get("input_shape")
    protocol = loaded.meta.get("protocol")
    return Source(
        net.eval(),
        config,
        maximum,
        names,
        path,
        sha256,
        tuple(shape) if isinstance(shape, list) else shape,
        reading_of_checkpoint(recipe.data, loaded.meta),
        bool(loaded.meta.get("static")) and "trained_steps" not in (protocol or {}),
        protocol,
    )


def for_classes(source: Source, recipe: Recipe, names: Sequence[str], seed: int) -> Source:
    """The source with a head of the data's classes, matched by name, as it was scored on that data."""
    if tuple(names) == source.categories:
        return source
    loaded = checkpoint.load(source.path)
    if loaded.meta.get("static"):  # the space is that arch alone
        recipe = replace(recipe, space=recipe.space.only(source.maximum))
    net, _ = nets.load(recipe, loaded, names, seed, to_train=False, where=source.path)
    return replace(source, net=net.eval(), config=sized(recipe, names), categories=tuple(names))


def read_as_scored(source: Source, recipe: Recipe, statistics: Statistics, bench: Bench | None) -> Source:
    """The source with the range of deep greys that its score was measured with, or would be where there is none."""
    trained = statistics.calibration.source
    sets = [None if bench is None else bench.evaluated, None if trained is None else trained.data]
    if bench is None and section_of(recipe, recipe.test.split) is not None:
        sets.append(open_split(recipe, recipe.test.split))
    return replace(source, reading=reading_as_scored(source.reading, *sets))


def cut(
    source: Source, recipe: Recipe, arch: Arch, shape: InputShape, statistics: Statistics | None, device: torch.device
) -> tuple[Any, int]:
    """(the static network at an arch on a device, with its statistics; how many images these are of)."""
    net = _placed(source.net, device, recipe.train.channels_last)
    recipe.task.network.set_scale(net, shape, recipe.data)
    static = subnet(net, arch, source.config)
    n_images = 0 if statistics is None else statistics.give(static, shape, device)
    _placed(source.net, CPU, False)
    return static, n_images


def _placed(net: Any, device: torch.device, channels_last: bool) -> Any:
    """The network, moved to a device and laid out there."""
    return net.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def extract(
    source: Source,
    recipe: Recipe,
    arch: Arch,
    shape: InputShape,
    out: str,
    *,
    images: Sequence[Tensor] = (),
    image_ids: Sequence[int | str] = (),
    statistics: Statistics | None = None,
    score: Score | None = None,
    bench: Bench | None = None,
    wishes: Wishes = NOTHING_MORE,
    seed: int = 0,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Write the subnet at `arch` into the new folder `out`, and return the proof.

    It gets the batch-norm statistics of `statistics`, or without it those of the source. It is compared to the source
    at that arch with these statistics, bit for bit: its weights, and what it computes on random input and on `images`
    ((3, H, W) uint8). Raises SearchkitError, and writes nothing, where anything differs. With `score` and `bench` the
    folder is scored in the same way, and the proof has both numbers. wishes: other files that it is also written
    as; they are scored where there is a bench.
    """
    check_new(out)
    form = wiring_of(source.net).head.form
    tables = tables_of(recipe)
    plans = price.plans_of(source.config, source.maximum)
    times = price.of_tables(tables, plans, arch, shape) if tables else {}
    static, n_images = cut(source, recipe, arch, shape, statistics, device)
    static = _placed(static, CPU, False)
    with new_folder(out) as half:
        _write_model(half, recipe, source, static, arch, shape)
        plain = load_folder(half)
        same_weights(static, plain)
        set_arch(source.net, arch)
        with lent(source.net, static):
            equal = form.equality(source.net, plain, images, image_ids, shape, seed)
        proof: dict[str, Any] = {
            "source": {
                "checkpoint": os.path.basename(source.path),
                "sha256": source.sha256,
                "maximum": source.maximum.nested(),
            },
            "equal": equal,
            "cost": costs(source, plain, arch, shape) | times,
            "torch": torch.__version__,
            "statistics": statistics_said(statistics, n_images),
        }
        if statistics is not None and statistics.kind == CALIBRATED:
            calibration = statistics.calibration
            proof["calibrated"] = {
                "images": n_images,
                "batch_size": statistics.recipe.test.batch_size,
                "annotations": calibration.annotations,
                "sha256": calibration.sha256,
                "image_ids": list(calibration.ids),
            }
        if statistics is not None and score is not None and bench is not None:
            proof["score"] = scored_again(half, statistics, score, bench, shape)
        proof["weights_sha256"] = checkpoint.digest(os.path.join(half, "weights.safetensors"))
        if wishes.forms:
            shown = None if statistics is None else statistics.calibration
            order = order_of(half, plain, form, source.config, recipe, shape, images, shown, bench, wishes)
            proof["files"] = table.write(order)
            if "torch" in proof["files"]:
                proof["export"] = proof["files"]["torch"]
        write_proof(half, proof)
    return proof


def check_new(out: str) -> None:
    """UsageError where a folder that is to be made holds something."""
    if os.path.exists(out) and os.listdir(out):
        raise UsageError(f"{out} already exists", "Name a new folder")


@contextlib.contextmanager
def new_folder(out: str) -> Iterator[str]:
    """A folder to write to, which becomes `out` at the end, or where that is not reached, is gone."""
    half = f"{os.path.normpath(os.path.abspath(out))}.{os.getpid()}.half"
    os.makedirs(half)
    try:
        yield half
        with fsio.storage():
            if os.path.isdir(out):
                os.rmdir(out)
            os.rename(half, out)
    finally:
        fsio.discard(half)


def statistics_said(statistics: Statistics | None, n_images: int) -> dict[str, Any]:
    """Which statistics the network has, for its proof."""
    if statistics is None:
        return {"kind": RAW, "why": "as they are"}
    if statistics.kind == CALIBRATED and not n_images:
        return {"kind": RAW, "why": "no norm has statistics of data"}
    note = {"note": statistics.note} if statistics.note else {}
    return {"kind": statistics.kind, "why": statistics.why, **note}


def open_again(recipe: Recipe, device: torch.device, seed: int) -> Bench:
    """What a folder is scored on again, without calibration: it has its statistics already."""
    alone = replace(
        recipe,
        test=replace(recipe.test, calibration_images=0),
        data=replace(recipe.data, cache_mb=0),  # images are decoded when the folder is there, as it says
    )
    return open_bench(alone, recipe.test.split, device, seed, opened_train(recipe))


def scored_again(folder: str, statistics: Statistics, score: Score, bench: Bench, shape: InputShape) -> dict[str, Any]:
    """The score of a record beside that of an extracted folder, measured in the same way, on images as the folder's own
    `read` makes them of their files."""
    recipe = bench.recipe
    net = _placed(load_folder(folder), bench.device, recipe.train.channels_last)
    as_stored = bench.evaluated.report.count("as_stored")
    batches = folder_batches(folder, bench, shape)
    evaluation = recipe.task.objective.evaluate(net, batches, bench.evaluator, bench.device, recipe.train.precision)
    measured = as_recorded(recipe, evaluation.metrics)
    protocol = {k: v for k, v in bench.protocol(shape, False).items() if not k.startswith("calibration_")}
    if score.calibrated:
        protocol |= statistics.calibration.protocol
    environment = measured_on(bench.device)
    differences = protocol_differences(score, protocol, model_said(recipe.model))
    if as_stored:
        differences.append(
            f"{as_stored} images of the set are scored as they are stored, but read() turns them upright"
        )
    common = [name for name in measured if name in score.metrics]
    return {
        "tag": score.tag,
        "split": bench.split,
        "record": dict(score.metrics),
        "measured": measured,
        "equal": bool(common) and not as_stored and all(score.metrics[name] == measured[name] for name in common),
        "measured_on": environment,
        "differs": [*differences, *environment_differences(score.measured, environment)],
    }


def folder_batches(folder: str, bench: Bench, shape: InputShape) -> Iterable[Any]:
    """The images of a bench as the folder's own `read` makes them of their files."""
    reading = folder_reading(folder)
    if bench.evaluated.report.count("as_stored"):  # turned upright they would not fit their boxes
        reading = replace(reading, exif=bench.evaluated.reading.exif)
    return replace(bench.batches, data=bench.evaluated.read_as(reading), keep=False).at(shape)


def _write_model(folder: str, recipe: Recipe, source: Source, static: Any, arch: Arch, shape: InputShape) -> None:
    """All of an extracted folder but its proof."""
    form = wiring_of(static).head.form
    size = form.size_of(static, shape)
    title = f"{form.KIND} at {arch.text()}, input {shape}, cut out of a supernet."
    _write(folder, "model.py", form.model_source(static, config_at(source.config, arch), title, size))
    _write_weights(folder, static)
    config = {
        "task": recipe.task.name,
        "arch": arch.nested(),
        "categories": list(source.categories),
        "input_shape": shape,
        **form.size_entry(size),
        "exif": "ignore" if source.reading.exif == "ignore" else "apply",
        "range": source.reading.range,
    }
    _write(folder, "config.json", json.dumps(config, indent=1) + "\n")


def load_folder(folder: str) -> Any:
    """The model of an extracted folder, through its own model.py."""
    path = os.path.join(folder, "model.py")
    spec = importlib.util.spec_from_file_location(
        "_extracted_model", path, loader=FreshSource("_extracted_model", path)
    )
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise UsageError(f"{folder} holds no extracted model: there is no model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)


def folder_reading(folder: str) -> Reading:
    """How the `read` of an extracted folder reads image files."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    span = config.get("range")
    return Reading(config.get("exif", "apply"), None if span is None else (span[0], span[1]), "of the extracted folder")


def same_weights(static: nn.Module, plain: nn.Module) -> None:
    """SearchkitError where what was written and read back differs from what was cut out in any bit."""
    cut_out, written = static.state_dict(), plain.state_dict()
    unequal = [
        k
        for k in {**cut_out, **written}
        if k not in cut_out or k not in written or not torch.equal(cut_out[k], written[k])
    ]
    if unequal:
        raise SearchkitError(
            f"the extracted model has other weights than the source: {', '.join(unequal[:3])}", _NOTHING
        )


def costs(source: Source, plain: Any, arch: Arch, shape: InputShape) -> dict[str, Any]:
    """MACs and parameters in closed form and measured; raises SearchkitError where they differ."""
    closed = price.price(price.plans_of(source.config, source.maximum), arch, shape)
    form = wiring_of(source.net).head.form
    measured = form.measured_macs(plain, source.config, arch, shape)
    params = sum(p.numel() for p in plain.parameters())
    if (closed.flops, closed.params) != (measured, params):
        raise SearchkitError(
            f"the closed form says {closed.flops} MACs and {closed.params} parameters, "
            f"but {measured} and {params} were measured",
            f"{_NOTHING} Does the backbone's plan name every layer that its forward runs?",
        )
    return {
        "macs": closed.flops,
        "macs_measured": measured,
        "params": closed.params,
        "params_counted": params,
        "input_shape": shape,
        **form.counted_on(arch),
    }


def sample_images(recipe: Recipe, count: int, shape: InputShape) -> tuple[list[Tensor], list[int | str]]:
    """(images, ids) of the first of data.val, else data.train; none where the config names no data."""
    sets = recipe.task.sets
    for name in ("val", "train"):
        if count > 0 and getattr(recipe.data, name) is not None:
            data = open_split(recipe, name)
            part, ids = sets.subset(data, range(min(count, sets.count(data))))
            return [image for batch in sets.eval_batches(part, 1, 0, shape) for image in sets.images_of(batch)], [*ids]
    return [], []


def _write(folder: str, name: str, text: str) -> None:
    with fsio.storage():
        fsio.write_new(os.path.join(folder, name), text.encode())


def _write_weights(folder: str, net: nn.Module) -> None:
    path = os.path.join(folder, "weights.safetensors")
    with fsio.storage():  # not by save_file, whose files nobody but their owner may read
        fsio.atomic_write(path, save({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}))


def order_of(
    folder: str,
    plain: Any,
    form: Form,
    model: Any,
    recipe: Recipe,
    shape: InputShape,
    images: Sequence[Tensor],
    calibration: Calibration | None,
    bench: Bench | None,
    wishes: Wishes,
) -> table.Order:
    """The network of an extracted folder, to be written in other forms; model: the config of its head's kind."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    return table.Order(
        folder=folder,
        net=plain,
        form=form,
        recipe=recipe,
        config=config,
        mean=model.image_mean,
        std=model.image_std,
        shape=shape,
        images=images,
        bench=bench,
        batches=lambda: () if bench is None else folder_batches(folder, bench, shape),
        calibration=calibration,
        wishes=wishes,
    )


def write_proof(folder: str, proof: dict[str, Any]) -> None:
    """Write the proof of a folder."""
    _write(folder, "proof.json", json.dumps(proof, indent=1) + "\n")
