"""Scoring and tuning many subnets in one process: data, supernet and COCO index are loaded once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.cost import price
from searchkit.nas.cost.latency import Table
from searchkit.nas.models import network
from searchkit.nas.models.part import NetConfig, parted
from searchkit.nas.models.plans import unseen
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.nas.subnet.records import shape_of
from searchkit.nas.subnet.results import Record, Results, key_of
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import Bench, measured_on, model_said, open_bench, short_digest
from searchkit.nas.train.checkpoint import Checkpoint
from searchkit.nas.train.distill import Teaching
from searchkit.nas.train.distill_section import Distill
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.evaluate import calibrated_norms
from searchkit.nas.train.groups import frozen_text, load_optimizer, make_optimizer
from searchkit.nas.train.loop import Run, StepReport, fit
from searchkit.nas.train.recipe import Recipe, said_of, sized, tables_of
from searchkit.nas.train.sections import Optimisation, path_of
from searchkit.nas.train.speed import machine_text, ms_of
from searchkit.nas.train.splits import HELD_OUT, open_split, range_entry
from searchkit.nas.train.supernet import batches_of
from searchkit.nas.train.values import text_of
from searchkit.records.arch import Arch

# (config, names of its classes, a subnet, the supernet's largest, input shape, device, seed) -> what it is taught by
OpenTuning = Callable[
    [Recipe, Sequence[str], nn.Module, Callable[[], nn.Module], InputShape, torch.device, int], Teaching | None
]
KEPT = 64  # statistics of archs that others may share, the last ones


@dataclass
class Session:
    """A supernet with all that scoring its subnets needs, loaded once."""

    recipe: Recipe
    config: NetConfig
    net: nn.Module
    bench: Bench
    digest: str  # of the checkpoint
    device: torch.device
    seed: int
    tune_set: Any = None  # the images that subnets are tuned on, of the task's kind
    notes: tuple[str, ...] = ()  # oddities of scoring this network on that set, for every subnet
    tables: Mapping[str, Table] = field(default_factory=dict)  # of times, by the names of the config's meters
    teach: OpenTuning | None = None  # opens the teacher that the config asks for in tuning
    statistics: dict[tuple[Arch, InputShape], list[Tensor]] = field(default_factory=dict)  # calibrated, the last ones


def open_session(
    recipe: Recipe,
    path: str,
    *,
    split: str | None,
    device: torch.device,
    seed: int,
    tune: bool,
    say: Callable[[str], None],
    needs_value: bool = True,
    teach: OpenTuning | None = None,
) -> Session:
    """Load checkpoint, supernet and data. Raises UsageError for what doesn't fit together, and with `needs_value` where
    the metric that ranks has no value, since there is nothing to find. teach: opens the teacher of a tuning."""
    if tune and recipe.finetune.distill is not None and teach is None:
        raise UsageError("finetune.distill asks for a teacher, but nothing here opens one", "Leave it out")
    tables = tables_of(recipe)
    for line in said_of(recipe, tables):
        say(line)
    loaded, sha256 = checkpoint.load_with_digest(path)
    nets.check_space(recipe, loaded, path)
    bench = open_bench(recipe, split or recipe.test.split, device, seed)
    for line in (*bench.evaluated.report.lines, *bench.notes):
        say(line)
    net, match = nets.load(recipe, loaded, bench.categories, seed, to_train=tune, where=path)
    notes = _seen(recipe, bench.split, loaded) + (() if tune else _unlearnt(recipe, bench, match.fresh))
    if match.fresh or list(loaded.meta["categories"]) != list(bench.categories):
        say(match.text())
    for line in notes:
        say(f"note: {line}")
    if needs_value:
        bench.require(recipe.metric, "the metric")
    tune_set, sets = None, recipe.task.sets
    if tune:
        parts = [open_split(recipe, name, bench.categories) for name in recipe.finetune.train_on]
        tune_set = parts[0]
        for part in parts[1:]:
            tune_set = sets.joined(tune_set, part)
        sets.require_labels(tune_set, recipe.data)
        for line in sets.unlearnt(tune_set, network.head_of(recipe.model)):
            say(line)
        sets.same_classes(bench.evaluated, tune_set)
        if frozen := frozen_text(net, recipe.finetune):
            say(frozen)
    net = net.to(device)
    if recipe.train.channels_last:
        net = net.to(memory_format=torch.channels_last)
    config = sized(recipe, bench.categories)
    return Session(recipe, config, net.eval(), bench, sha256, device, seed, tune_set, notes, tables, teach)


def _unlearnt(recipe: Recipe, bench: Bench, fresh: Sequence[str]) -> tuple[str, ...]:
    """Notes on classes that count in the scores, though the network has not learnt them. Raises UsageError where
    the config's training set has no such class either."""
    names = bench.with_examples(fresh)
    if not names:
        return ()
    if recipe.data.train is not None and not recipe.test.calibration_images:  # else the bench has checked that
        train = open_split(recipe, "train")
        recipe.task.sets.same_classes(train, open_split(recipe, bench.split, train.names))
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return (f"the score counts classes that the network never learnt, and never finds: {len(names)}, {shown}",)


def _seen(recipe: Recipe, split: str, loaded: Checkpoint) -> tuple[str, ...]:
    """A note where a network may have been trained on the images that are held out by now."""
    if split != HELD_OUT:
        return ()
    of_training = loaded.meta.get("config", {})
    theirs = tuple(of_training.get(f"data.{key}", 0) for key in ("held_out", "held_out_seed"))
    ours = (recipe.data.held_out, recipe.data.held_out_seed)
    if theirs == ours:
        return ()
    return (
        f"the checkpoint was trained with data.held_out {theirs[0]:g} and seed {theirs[1]}, the config has {ours[0]:g} "
        f"and {ours[1]}: if that was on this data.train, it has seen images that it is scored on",
    )


def test_record(
    session: Session, record: Record, arch: Arch, tag: str, calibrated: bool, *, timed: bool = False
) -> Record:
    """The record with the metrics of its subnet, with the supernet's weights, under `metric.<tag>`; with `timed` also
    its `overhead.ms`."""
    shape = shape_of(record, session.recipe)
    static = subnet(session.net, arch, session.config)
    if calibrated:
        _calibrate(session, static, arch, shape)
    metrics = session.bench.score(static, shape, calibrated=False)
    result = scored(session, record, arch, shape, tag, metrics, test_protocol(session, record, calibrated))
    if timed:
        recipe, batches = session.recipe, session.bench.batches.at(shape)
        ms = ms_of(static, batches, session.device, recipe.train.precision, recipe.task)
        result["overhead"] |= {"ms": round(ms, 3), "ms_on": timed_on(session)}
    return result


def _calibrate(session: Session, static: nn.Module, arch: Arch, shape: InputShape) -> None:
    """Give a subnet its statistics. Archs that differ in what needs no weights alone have the same ones."""
    of_weights, settings = parted(network.head_of(session.recipe.model), arch)
    kept, key = session.statistics, (of_weights, shape)
    if key not in kept:
        session.bench.calibrate(static, shape, session.recipe.train.precision)
    if not settings.names:
        return
    buffers = [buffer for norm in calibrated_norms(static) for buffer in norm.buffers()]
    if key not in kept:
        kept[key] = [buffer.clone() for buffer in buffers]
        if len(kept) > KEPT:
            del kept[next(iter(kept))]
    for buffer, value in zip(buffers, kept[key], strict=True):
        buffer.copy_(value)


def timed_on(session: Session) -> str:
    """What the times of a session's subnets are of."""
    return machine_text(session.device, session.recipe.train.precision)


def test_protocol(session: Session, record: Record, calibrated: bool) -> dict[str, Any]:
    """How a tested score is measured: plain data."""
    return {"checkpoint": session.digest, **session.bench.protocol(shape_of(record, session.recipe), calibrated)}


def scored(
    session: Session,
    record: Record,
    arch: Arch,
    shape: InputShape,
    tag: str,
    metrics: dict[str, float],
    protocol: dict[str, Any],
) -> Record:
    """The record with metrics and their protocol; its cost is priced where it has none."""
    result = copy.deepcopy(record)
    result.setdefault("data", {}).setdefault("input_shape", plain_shape(shape))
    lacking = {name: t for name, t in session.tables.items() if not t.is_told(name, result.get("overhead", {}))}
    if "overhead" not in result or lacking:
        plans = price.plans_of(session.config, session.recipe.space.maximum())
        if "overhead" not in result:
            cost = price.price(plans, arch, shape)
            result["overhead"] = {"flops": cost.flops, "params": cost.params, "convention": "macs"}
        result["overhead"] |= price.of_tables(lacking, plans, arch, shape)
    result.setdefault("metric", {})[tag] = as_recorded(session.recipe, metrics)
    result.setdefault("protocol", {})[tag] = protocol
    notes = (() if "tuned_steps" in protocol else session.notes) + session.bench.last.notes
    if notes:
        result.setdefault("notes", {})[tag] = list(notes)
    measured = {**measured_on(session.device), "seed": session.seed, "model": model_said(session.recipe.model)}
    result.setdefault("measured", {})[tag] = measured
    return result


def as_recorded(recipe: Recipe, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics under the names that records have for them, to six digits."""
    record_name = recipe.task.objective.record_name
    named = {record_name(recipe.data, key): value for key, value in metrics.items() if key != "images_per_s"}
    return {name: round(value, 6) for name, value in named.items()}


Protocols = Callable[[Record], Mapping[str, dict[str, Any]]]  # by tag, how the scores of a record are measured


def measured(record: Record, results: Results, protocols: Protocols) -> Record | None:
    """The result of a record, if it has one under all its protocols."""
    protocol = protocols(record)
    result = results.find({"arch": record["arch"], "protocol": protocol})
    complete = result is not None and all(
        result["protocol"].get(tag) == tag_protocol for tag, tag_protocol in protocol.items()
    )
    return result if complete else None


def pending(
    records: Sequence[Record],
    archs: Sequence[Arch],
    results: Results,
    protocols: Protocols,
    ranks: Ranks,
    again: Callable[[Record], bool] = lambda _: False,
) -> list[tuple[Record, Arch]]:
    """This rank's records that have no result yet, each once, and those whose result is to be measured `again`. Which
    rank a record belongs to does not depend on the results."""
    unique: dict[str, tuple[Record, Arch]] = {}
    for record, arch in zip(records, archs, strict=True):
        unique.setdefault(key_of({"arch": record["arch"], "protocol": protocols(record)}, results.tag), (record, arch))
    own = list(unique.values())[ranks.rank :: ranks.world]
    found = [(record, arch, measured(record, results, protocols)) for record, arch in own]
    return [(record, arch) for record, arch, result in found if result is None or again(result)]


def tune_record(
    session: Session, record: Record, arch: Arch, tag: str, folder: str, on_step: Callable[[StepReport], None]
) -> tuple[Record, nn.Module]:
    """(the record with the metrics of its subnet after tuning from the supernet's weights, the subnet); its checkpoint
    is in `folder`.

    A tuning that was killed goes on from its own checkpoint. Statistics of batch norm are calibrated before the tuning,
    which then moves them as any training does. Raises ConflictError where another process tunes in `folder`.
    """
    shape = shape_of(record, session.recipe)
    protocol = tune_protocol(session, record)
    with checkpoint.held(folder):
        static = _tuned(session, arch, shape, protocol, folder, on_step)
    metrics = session.bench.score(static, shape, calibrated=False)
    return scored(session, record, arch, shape, tag, metrics, protocol), static


def _tuned(
    session: Session,
    arch: Arch,
    shape: InputShape,
    protocol: dict[str, Any],
    folder: str,
    on_step: Callable[[StepReport], None],
) -> nn.Module:
    """The subnet after its tuning, of which `folder` keeps the checkpoint."""
    options = session.recipe.finetune
    static: nn.Module = subnet(session.net, arch, session.config).to(session.device)

    def begin() -> None:
        session.bench.calibrate(static, shape, options.precision)

    def largest() -> nn.Module:
        net: nn.Module = subnet(session.net, session.recipe.supernet.maximum(), session.config).to(session.device)
        session.bench.calibrate(net, shape, options.precision)
        return net

    teaching = None
    if options.distill is not None and session.teach is not None:
        names = session.bench.categories
        teaching = session.teach(session.recipe, names, static, largest, shape, session.device, session.seed)
    train_static(session, static, arch, session.tune_set, options, shape, protocol, folder, on_step, begin, teaching)
    return static


def train_static(
    session: Session,
    static: nn.Module,
    arch: Arch,
    images: Any,
    options: Optimisation,
    shape: InputShape,
    protocol: dict[str, Any],
    folder: str,
    on_step: Callable[[StepReport], None],
    begin: Callable[[], None] | None = None,
    teaching: Teaching | None = None,
) -> None:
    """Train a static network at `arch` on a set of images, of which `folder`, held by us, keeps the checkpoint.

    One that was killed goes on from there; it is another training if its `protocol` is another. `begin`: what is done
    to the network before its first step. teaching: what it learns from beside the labels.
    """
    recipe = session.recipe
    extras = teaching.extras if teaching else nn.ModuleDict()
    run = Run(static, make_optimizer(static, options, options.batch_size, extras), extras=extras)
    meta = {
        **about_static(recipe, session.bench.categories, session.config.num_classes, arch),
        "input_shape": protocol["input_shape"],
        "protocol": protocol,
        **range_entry(images),
    }
    where = (session.seed, session.device)
    more: dict[str, Any] = {"on_step": on_step, "begin": begin, "teaching": teaching}
    train_alone(run, images, recipe, options, shape, meta, folder, *where, **more)


def about_static(recipe: Recipe, categories: Sequence[str], num_classes: int, arch: Arch) -> dict[str, Any]:
    """What the checkpoint of a network at one arch says of it."""
    return {
        "categories": list(categories),
        "space": arch.nested(),
        "num_classes": num_classes,
        "data": recipe.data.name,
        "task": recipe.task.name,
        "model": unseen(recipe.model),
        "static": True,  # it holds this arch alone
    }


def train_alone(
    run: Run,
    images: Any,
    recipe: Recipe,
    options: Optimisation,
    shape: InputShape,
    meta: dict[str, Any],
    folder: str,
    seed: int,
    device: torch.device,
    *,
    on_step: Callable[[StepReport], None],
    begin: Callable[[], None] | None = None,
    teaching: Teaching | None = None,
) -> None:
    """Train a network on a set of images to its end; see train_static. meta: what its checkpoint says, by which one in
    `folder` is known to be of this training."""
    count = recipe.task.sets.count(images)
    steps = options.total_steps(count, 1)
    _go_on(run, folder, meta, device)
    if run.step == 0 and begin is not None:
        begin()
    if run.step >= steps:
        return
    due = checkpoint.Due(options.checkpoint_steps, options.checkpoint_minutes)
    batches = batches_of(images, recipe, options, seed, run.step, steps, (shape,), Ranks())
    for report in fit(
        run,
        batches,
        None,
        options,
        task=recipe.task,
        section=recipe.data,
        steps=steps,
        steps_per_epoch=options.epoch_steps(count, 1),
        scales=(shape,),
        seed=seed,
        device=device,
        ranks=Ranks(),
        teaching=teaching,
    ):
        on_step(report)
        if due.now(run.step) and run.step < steps:
            state = run.optimizer.state_dict()
            content = Checkpoint(run.net.state_dict(), run.step, state, meta, run.extras.state_dict())
            checkpoint.save(folder, checkpoint.LATEST, content)
    checkpoint.save(folder, checkpoint.LATEST, Checkpoint(run.net.state_dict(), run.step, {}, meta))


def _go_on(run: Run, folder: str, meta: dict[str, Any], device: torch.device) -> None:
    """Let a training go on from its checkpoint, if there is one; another training's will be replaced."""
    checkpoint.sweep(folder)
    latest = os.path.join(folder, checkpoint.LATEST)
    if not os.path.exists(latest):
        return
    loaded = checkpoint.load(latest, device)
    if loaded.meta == meta:
        run.net.load_state_dict(loaded.net)
        if loaded.extras:
            run.extras.load_state_dict(loaded.extras)
        if loaded.optimizer:
            load_optimizer(run.optimizer, loaded.optimizer)
        run.step = loaded.step


def tune_protocol(session: Session, record: Record) -> dict[str, Any]:
    """How a tuned score is measured: plain data."""
    recipe, options = session.recipe, session.recipe.finetune
    shape = shape_of(record, recipe)
    images = recipe.task.sets.count(session.tune_set)
    options_text = f"{text_of(replace(options, checkpoint_steps=None, checkpoint_minutes=1.0))} {recipe.data.augment}"
    return {
        "checkpoint": session.digest,
        **session.bench.protocol(shape, True),  # calibrated before the tuning
        "tuned_on": list(options.train_on),
        "tuned_images": images,
        "tuned_data": recipe.task.sets.digest(session.tune_set)[:16],
        "tuned_steps": options.total_steps(images, 1),
        "tuned_lr": options.lr,
        "tuned_with": short_digest(options_text),
        **({} if options.distill is None else {"taught_by": _taught_by(options.distill)}),
        "seed": session.seed,
    }


def _taught_by(distill: Distill) -> str:
    """What tells the files of teachers and connectors from others; the supernet's own weights are told already."""
    named = [distill.checkpoint, distill.teacher, distill.connectors]
    named += [name for teacher in (distill.teachers or {}).values() for name in (teacher.checkpoint, teacher.teacher)]
    paths = [path_of(name, "finetune.distill") for name in named if name is not None]
    weights = [os.path.join(path, "weights.safetensors") if os.path.isdir(path) else path for path in paths]
    return short_digest(" ".join(checkpoint.digest(path) for path in weights if os.path.isfile(path)))


def best_of(records: Sequence[Record], tag: str, metric: str) -> Record | None:
    """The record with the highest `metric.<tag>.<metric>`, the first of equals; None where no record has it."""
    scored = [r for r in records if metric in r.get("metric", {}).get(tag, {})]
    return max(scored, key=lambda r: float(r["metric"][tag][metric]), default=None)
