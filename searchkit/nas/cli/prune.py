"""search-nas prune: a smaller network out of a trained one, by what each of its parts is worth to the score."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import UsageError
from searchkit.nas.cli.options import Options, device_of, input_shape_of, recipe_of, say, shared, takes
from searchkit.nas.cli.progress import Progress
from searchkit.nas.cost.target import Target, read_target
from searchkit.nas.train.criteria import CRITERIA

TAG = "direct"  # of scores with the network's own weights
SCORES, MAP, PRUNED = "scores.jsonl", "sensitivity.json", "pruned.jsonl"  # in the working folder


@dataclass(frozen=True)
class Prune(Options):
    config: str
    checkpoint: str
    targets: tuple[str, ...]
    shape: str | None
    split: str | None
    sort: str | None
    work_dir: str


@click.command("prune", context_settings=console.CONTEXT)
@click.argument("config")
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="COST",
    help="What the network may cost: 50% (of the whole one's MACs), '1 GMACs', '8 ms', '50% ms', '2M params'; several "
    "times for several.",
)
@click.option("--input", "shape", metavar="S|H,W", help="Input shape.  [default: the first of the space]")
@click.option(
    "--sort",
    type=click.Choice([*CRITERIA]),
    help="First sort the channels inside blocks, the best first: for a network that was trained at full width alone. "
    "The checkpoint with them is written into --work-dir.",
)
@click.option(
    "--work-dir",
    default="prune",
    show_default=True,
    metavar="DIR",
    help=f"{SCORES} (what was measured is kept), {MAP}, {PRUNED}: a record for each target.",
)
@shared("checkpoint", "split", "set", "seed", "device", "json")
@takes(Prune)
def prune_command(asked: Prune) -> None:
    """Make a trained network smaller, without training: each unit (a width, depth, kernel ... of the space) by what the
    score loses where it alone is reduced.

    All units take their least choice that loses no more than a threshold, the least threshold with which the network
    costs no more than the target. What was measured serves all targets and meters. The result is an arch of the space,
    as a record for test, finetune, extract.

    \b
    Examples:
      search-nas prune cfg.yaml --checkpoint work/latest.pth --target 50%
      search-nas prune cfg.yaml --checkpoint work/latest.pth --target '1 GMACs' --target 70% --sort l1
      search-nas prune cfg.yaml --checkpoint work/latest.pth --target '8 ms' --set meters.ms=cpu.json
    """
    recipe = recipe_of(asked.config, asked.overrides)
    from searchkit.nas.cli.priced import pricing
    from searchkit.nas.cost.price import meters_with, read_meters
    from searchkit.nas.space.units import reductions_of, units_of
    from searchkit.nas.subnet import sensitivity
    from searchkit.nas.train.recipe import tables_of

    shape = input_shape_of(asked.shape, recipe.scales) if asked.shape else recipe.scales[0]
    space, largest = recipe.supernet, recipe.space.maximum()
    units = units_of(space)
    if not units:
        raise UsageError("the space has one arch: there is nothing to reduce", "Give its dimensions smaller choices")
    tables, plans = tables_of(recipe), pricing(recipe)
    meters = meters_with(tables)

    def cost_of(arch: Any, meter: str) -> float:
        cost: float = read_meters(plans, arch, shape, (meter,), meters)[meter]
        return cost

    targets = [read_target(text, tuple(tables)) for text in asked.targets]
    for target in targets:
        whole, least = cost_of(largest, target.meter), cost_of(_within(recipe, space.minimum()), target.meter)
        if target.of(whole) < least:
            raise sensitivity.unreachable(target.text, least, whole)
    possible, alone = _possible(recipe, plans, reductions_of(units))
    for line in alone:
        say(f"note: {line}")
    if asked.sort:
        asked = _with_sorted(asked, recipe, asked.sort)
    measured, session = _measure(asked, recipe, shape, units, possible)
    _write_map(asked, measured, session, shape)
    out = []
    for target in targets:

        def priced(arch: Any, meter: str = target.meter) -> float:
            return cost_of(_within(recipe, arch), meter)

        whole = priced(space.maximum())
        found = sensitivity.within(measured, space, space.maximum(), target.of(whole), priced, target.text)
        out.append(_record(recipe, target, target.of(whole), found, shape))
    _finish(asked, recipe, session, measured, out)


def _within(recipe: Any, arch: Any) -> Any:
    """An arch of the supernet with what needs no weights as it is at the largest one."""
    from searchkit.records.arch import Arch

    return Arch(tuple(sorted({**dict(recipe.space.maximum().items), **dict(arch.items)}.items())))


def _possible(recipe: Any, plans: Any, reductions: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """(the reductions with which the network can be built, what is to be said of the others)."""
    from searchkit.nas.space.units import reduced

    possible, refused = [], dict[str, tuple[list[int], str]]()
    for reduction in reductions:
        try:
            plans(_within(recipe, reduced(recipe.supernet, recipe.supernet.maximum(), [reduction])))
        except UsageError as e:
            refused.setdefault(reduction.unit.name, ([], e.message))[0].append(reduction.value)
        else:
            possible.append(reduction)
    return possible, [
        f"{name} can't be {', '.join(map(str, values))} while all else is whole, and stays as it is: {why}"
        for name, (values, why) in refused.items()
    ]


def _with_sorted(asked: Prune, recipe: Any, by: str) -> Prune:
    """With the checkpoint whose channels are sorted."""
    from searchkit.nas.subnet.ranked import ranked_checkpoint
    from searchkit.nas.train import checkpoint as checkpoints
    from searchkit.nas.train.memory import memory_advice

    keep = checkpoints.keep_folder(asked.work_dir)
    with memory_advice("prune"):
        device = device_of(asked.device)
        path = ranked_checkpoint(recipe, asked.checkpoint, keep, by, device=device, seed=asked.seed_used, say=say)
    return replace(asked, checkpoint=path)


def _measure(asked: Prune, recipe: Any, shape: Any, units: Any, reductions: Sequence[Any]) -> tuple[Any, Any]:
    """(the sensitivity of each unit, the session it was measured in); what is in the file of scores stays."""
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.space.units import reduced
    from searchkit.nas.subnet import sensitivity, sweep
    from searchkit.nas.subnet.results import open_results
    from searchkit.nas.train.memory import memory_advice

    with memory_advice("prune"):
        session = sweep.open_session(
            recipe,
            asked.checkpoint,
            split=asked.split,
            device=device_of(asked.device),
            seed=asked.seed_used,
            tune=False,
            say=say,
        )
        results = open_results(os.path.join(asked.work_dir, SCORES), TAG)
        results.keep_calibration(session.bench.calibration)
        name = recipe.task.objective.record_name(recipe.data, recipe.metric)
        start = recipe.supernet.maximum()
        archs = {None: start} | {r: reduced(recipe.supernet, start, [r]) for r in reductions}
        scores, fresh = {}, 0
        with Progress("prune", len(archs)) as progress:
            for n, (reduction, part) in enumerate(archs.items(), 1):
                arch = _within(recipe, part)
                record = {"arch": arch.nested(), "data": {"input_shape": plain_shape(shape)}}
                protocol = sweep.test_protocol(session, record, True)
                result = results.find({"arch": record["arch"], "protocol": {TAG: protocol}})
                if result is None:
                    result = sweep.test_record(session, record, arch, TAG, True)
                    results.add(result)
                    fresh += 1
                scores[reduction] = float(result["metric"][TAG][name])
                progress.update(n, f"{reduction.unit.name} {reduction.value}" if reduction else "whole")
    if kept := len(archs) - fresh:
        say(f"{kept} of {len(archs)} scores were in {results.path} already")
    base = scores.pop(None)
    return sensitivity.Sensitivity(base, scores, units), session


def _write_map(asked: Prune, measured: Any, session: Any, shape: Any) -> None:
    """The map as a file, for people and programs."""
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.subnet.sensitivity import FORMAT

    body = {
        "format": FORMAT,
        "metric": session.recipe.metric,
        "score": measured.base,
        "input_shape": plain_shape(shape),
        "protocol": {"checkpoint": session.digest, **session.bench.protocol(shape, True)},
        "units": measured.as_json(),
    }
    with fsio.storage():
        fsio.atomic_write(os.path.join(asked.work_dir, MAP), json.dumps(body, indent=1) + "\n")


def _record(recipe: Any, target: Target, budget: float, pruned: Any, shape: Any) -> dict[str, Any]:
    """What was found for a target, as a record."""
    from searchkit.nas.cost.price import plain_cost
    from searchkit.nas.space.shapes import plain_shape

    return {
        "arch": _within(recipe, pruned.arch).nested(),
        "data": {"input_shape": plain_shape(shape)},
        "pruned": {
            "target": target.text,
            "meter": target.meter,
            "budget": plain_cost(budget),
            "cost": plain_cost(pruned.cost),
            "threshold": round(pruned.threshold, 6),
        },
    }


def _finish(asked: Prune, recipe: Any, session: Any, measured: Any, records: Sequence[dict[str, Any]]) -> None:
    """Score what was found, write it down, and show it."""
    from searchkit.nas.subnet import sweep
    from searchkit.nas.train.memory import memory_advice
    from searchkit.records import modelspace
    from searchkit.records.arch import Arch

    with memory_advice("prune"):
        tested = [sweep.test_record(session, record, Arch.of(record["arch"]), TAG, True) for record in records]
    path = os.path.join(asked.work_dir, PRUNED)
    with fsio.storage():
        fsio.atomic_write(path, "".join(modelspace.dumps(record) + "\n" for record in tested))
    if asked.as_json:
        console.print_json(tested)
        return
    name, metric = recipe.task.objective.record_name(recipe.data, recipe.metric), recipe.metric
    click.echo(f"whole network: {metric} {measured.base:.4f}; what it loses with one unit at each of its choices:")
    wide = max(len(unit.name) for unit in measured.units)
    for unit, losses in measured.losses.items():
        click.echo(f"  {unit.name:{wide}}  " + "  ".join(f"{value}: {loss:.4f}" for value, loss in losses.items()))
    for record in tested:
        found = record["pruned"]
        cost, budget = (_cost_text(found[key], found["meter"]) for key in ("cost", "budget"))
        score = record["metric"][TAG][name]
        click.echo(
            f"{found['target']}: {cost} of {budget}, {metric} {score:.4f} untuned; each unit loses at most "
            f"{found['threshold']:.4f}"
        )
        click.echo(f"  {Arch.of(record['arch']).text()}")
    click.echo(f"weights of all: {asked.checkpoint}")
    click.echo(f"results: {path}, {os.path.join(asked.work_dir, MAP)}")


def _cost_text(cost: float, meter: str) -> str:
    """`1.2G MACs`, `8 ms`."""
    from searchkit.nas.cli.records import human

    return f"{human(cost)} {'MACs' if meter == 'macs' else meter}"
