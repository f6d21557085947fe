"""search-nas score: the warm worker of a search. search-nas search starts it; nobody else needs to."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from searchkit import console
from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.cli.options import say
from searchkit.nas.space.shapes import among

REPORT_S = 1.0  # between two reports of a tuning, at which a stop is heard


@click.command("score", context_settings=console.CONTEXT, hidden=True)
@click.argument("path", metavar="SEARCH.JSON")
def score_command(path: str) -> None:
    """Score the trials of a search as its worker."""
    from searchkit.nas.subnet import search

    plan, here = search.load(path)
    if here.gpus:  # before torch looks at them
        k = os.path.basename(os.environ.get("SEARCHKIT_WORKER", "0"))
        os.environ["CUDA_VISIBLE_DEVICES"] = here.gpus[int(k) % len(here.gpus) if k.isdecimal() else 0]
    os.chdir(here.cwd)
    score = opened(plan, here, os.path.join(os.path.dirname(path), search.RESULTS))

    import searchkit

    for trial in searchkit.trials():
        with trial:
            os.chdir(here.cwd)  # images that don't stay in memory are read from here
            try:
                record = score(trial)
            except SearchkitError as e:
                sys.exit(console.complain(e))
            trial.report({o.name: search.value_of(record, o.name, plan.tag) for o in plan.wanted})


def opened(plan: Any, here: Any, results_path: str) -> Callable[[Any], dict[str, Any]]:
    """All that scoring needs, loaded once: a function from a trial to the record of its subnet."""
    from searchkit.nas.cli.options import device_of
    from searchkit.nas.cost import price
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.subnet import search, sweep
    from searchkit.nas.subnet.results import key_of, open_results
    from searchkit.nas.subnet.standing import Tail
    from searchkit.nas.tasks import read as configs
    from searchkit.nas.teach.opening import open_tuning
    from searchkit.nas.train.memory import memory_advice, require_memory
    from searchkit.nas.train.recipe import tables_of

    recipe = configs.load(here.config, plan.overrides)
    proxy, tag = plan.tag == search.PROXY, plan.tag
    verb, device = "finetune" if proxy else "test", device_of(here.device)
    least = recipe.space.minimum()
    require_memory(recipe, [(least, shape) for shape in plan.input_shapes], recipe.test.batch_size, device)
    with memory_advice(verb):
        session = sweep.open_session(
            recipe,
            here.checkpoint,
            split=plan.split,
            device=device,
            seed=plan.seed,
            tune=proxy,
            say=say,
            teach=open_tuning,
        )
    if session.digest != plan.checkpoint:
        raise UsageError(f"{here.checkpoint} is not the file that this search began with", "Put that one back")
    results = open_results(results_path, tag)
    results.mirror = None  # each trial has a callback folder of its own; the search's own job mirrors them all
    results.keep_calibration(session.bench.calibration)
    tail = Tail(results_path)
    protocols = {}
    for shape in plan.input_shapes:
        empty = {"arch": {}, "data": {"input_shape": plain_shape(shape)}}
        protocols[shape] = sweep.tune_protocol(session, empty) if proxy else sweep.test_protocol(session, empty, True)
    _check_protocols(results.records.values(), tag, protocols)
    plans = price.plans_of(session.config, recipe.space.maximum())  # once: it builds a backbone
    tables = tables_of(recipe)

    def score(trial: Any) -> dict[str, Any]:
        shape, arch = plan.shape_of(trial.params), _arch(recipe, trial.params)
        cost = price.price(plans, arch, shape)
        overhead = {"flops": cost.flops, "params": cost.params, "convention": "macs"}
        overhead |= price.of_tables(tables, plans, arch, shape)
        record = {"arch": arch.nested(), "data": {"input_shape": plain_shape(shape)}, "overhead": overhead}
        for other in tail.new():  # another worker may have scored it, and died before it said so
            results.records[key_of(other, tag)] = other
        scored = results.find({"arch": record["arch"], "protocol": {tag: protocols[shape]}})
        if scored is None:
            with memory_advice(verb):
                if proxy:
                    scored = _tuned(session, record, arch, trial)
                else:
                    scored = sweep.test_record(session, record, arch, tag, True)
            results.add(scored)
        if proxy:
            _discard(trial.checkpoint)
        return scored

    return score


def _tuned(session: Any, record: dict[str, Any], arch: Any, trial: Any) -> dict[str, Any]:
    """The record with the score after a short tuning, which a killed trial goes on with."""
    from searchkit.nas.subnet import search, sweep

    said = time.monotonic()

    def on_step(report: Any) -> None:
        nonlocal said
        if time.monotonic() - said > REPORT_S:
            said = time.monotonic()
            trial.report(loss=float(report.losses["loss"]), step=report.step + 1)

    tuned, _ = sweep.tune_record(session, record, arch, search.PROXY, trial.checkpoint, on_step)
    return tuned


def _arch(recipe: Any, values: Mapping[str, Any]) -> Any:
    """The arch of a trial's values, of which one may be the input's shape."""
    from searchkit.nas.subnet.search import INPUT

    return recipe.space.arch_of({name: value for name, value in values.items() if name != INPUT})


def _discard(folder: str) -> None:
    """A thousand checkpoints of subnets would fill the disk; the record is on it already."""
    from searchkit.nas.train.checkpoint import LATEST

    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, LATEST))


def _check_protocols(records: Any, tag: str, protocols: Mapping[Any, Mapping[str, Any]]) -> None:
    """Raises UsageError where records were measured in another way: their scores can't be compared."""
    for record in records:
        other = record.get("protocol", {}).get(tag, {})
        shape = among(record.get("data", {}).get("input_shape", 0), protocols)
        protocol = protocols.get(shape, next(iter(protocols.values())))
        names = [k for k in dict.fromkeys((*other, *protocol)) if other.get(k) != protocol.get(k)]
        if names:
            differences = ", ".join(f"{k}: {other.get(k)} there, {protocol.get(k)} now" for k in names)
            raise UsageError(
                f"the records of this search were measured in another way ({differences})",
                "The data has changed since it began: put it back, or begin anew (--overwrite)",
            )


def measures(path: str, names: list[str]) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """For search-run: a function from the values of a trial's knobs to what the constraints name beside them."""
    from searchkit.nas.cli.priced import pricing
    from searchkit.nas.cost.price import meters_with, read_meters
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.subnet import search
    from searchkit.nas.tasks import read as configs
    from searchkit.nas.train.recipe import tables_of

    plan, here = search.load(path)
    before = os.getcwd()
    os.chdir(here.cwd)  # the data is asked for its classes where the config does not say
    try:
        recipe = configs.load(here.config, plan.overrides)
        known = meters_with(tables_of(recipe))
        meters = [m for m in known if m in names or search.COSTS.get(m, f"overhead.{m}") in names]
        plans = pricing(recipe) if meters else None
    finally:
        os.chdir(before)

    def measure(values: Mapping[str, Any]) -> dict[str, float]:
        shape, arch = plan.shape_of(values), _arch(recipe, values)
        costs = read_meters(plans, arch, shape, meters, known) if plans is not None else {}
        facts = search.facts_of(arch, plain_shape(shape), costs, known)
        return {name: facts[name] for name in names}

    return measure
