"""search-nas test and finetune: sweeps over subnets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import UsageError
from searchkit.nas.cli.options import OPTIONS, Options, device_of, ranks_of, recipe_of, say, shared, show_kept, takes
from searchkit.nas.cli.progress import Progress, Reporter
from searchkit.nas.subnet.records import checked, folder_name, shape_of
from searchkit.nas.train.memory import memory_advice, require_memory

Record = dict[str, Any]


@dataclass(frozen=True)
class Sweep(Options):
    """What both verbs are given."""

    config: str
    checkpoint: str
    archs: str | None
    names: tuple[str, ...]
    rules: str | None
    out: str
    tag: str
    split: str | None


@dataclass(frozen=True)
class Test(Sweep):
    raw: bool
    per_class: bool
    speed: bool
    detections: str | None


@dataclass(frozen=True)
class Finetune(Sweep):
    work_dir: str


def _sweep(command: Any) -> Any:
    """The options that both verbs have."""
    for option in reversed(
        (
            click.argument("config"),
            click.option("--archs", metavar="FILE", help="Records (.json, .jsonl) of the subnets; or use --arch."),
            click.option(
                "--arch", "names", multiple=True, metavar="NAME", help="A named arch of the space: MAX, MIN, …"
            ),
            click.option("--rules", metavar="FILE", help="Pick among the records first."),
            click.option(
                "--out",
                default="metrics.jsonl",
                show_default=True,
                metavar="FILE",
                help="Results; those in it are kept.",
            ),
            OPTIONS["split"],
        )
    ):
        command = option(command)
    return command


@click.command("test", context_settings=console.CONTEXT)
@_sweep
@click.option("--tag", default="direct", show_default=True, help="The results are metric.<tag>.…")
@click.option("--raw", is_flag=True, help="Also with the supernet's own batch-norm statistics: metric.<tag>_raw.…")
@click.option("--per-class", is_flag=True, help="Also of every class, in a table and in the results.")
@click.option("--speed", is_flag=True, help="Also the time of one image on this machine: overhead.ms.")
@click.option(
    "--detections",
    metavar="FILE",
    help="Also write what a detector finds, as COCO's results (json); of several subnets a file each.",
)
@shared("checkpoint", "set", "seed", "device", "json")
@takes(Test)
def test_command(asked: Test) -> None:
    """Score subnets with the weights of a supernet, batch-norm statistics re-calibrated on training images.

    \b
    Examples:
      search-nas test cfg.yaml --checkpoint work/latest.pth --archs picked.jsonl --out tested.jsonl
      search-nas test cfg.yaml --checkpoint work/latest.pth --arch MAX --arch MIN --raw
      search-nas test cfg.yaml --checkpoint work/latest.pth --arch MAX --speed
      search-nas test cfg.yaml --checkpoint work/latest.pth --arch MAX --per-class --detections found.json
    """
    tag, detections = asked.tag, asked.detections
    if detections is not None and not detections.endswith(".json"):
        raise UsageError(f"--detections must be a .json file, not {detections}")
    recipe, records, archs = _opening(asked, *(["test.per_class=true"] if asked.per_class else []))
    from searchkit.nas.subnet import sweep
    from searchkit.nas.subnet.results import key_of, open_results

    ranks, where = ranks_of(), device_of(asked.device)
    _require_memory(recipe, records, archs, where)
    raw_tag = (f"{tag}_raw",) if asked.raw or recipe.test.raw else ()
    with memory_advice("test"):
        session = sweep.open_session(
            recipe,
            asked.checkpoint,
            split=asked.split,
            device=where,
            seed=asked.seed_used,
            tune=False,
            say=say,
            needs_value=detections is None,  # images without labels may be asked for detections
        )
        if detections is not None:
            recipe.task.objective.results(session.bench.evaluated, {})  # refuses other tasks before anything is scored

        def protocols(record: Record) -> dict[str, Any]:
            return {name: sweep.test_protocol(session, record, name == tag) for name in (*raw_tag, tag)}

        results = open_results(asked.out, tag, ranks.first)
        results.keep_calibration(session.bench.calibration)
        here = sweep.timed_on(session)

        def again(result: Record) -> bool:
            return detections is not None or (asked.speed and result.get("overhead", {}).get("ms_on") != here)

        todo = sweep.pending(records, archs, results, protocols, ranks, again)
        _say_done(records, results, protocols, ranks, recipe)
        with Progress("test", len(todo)) as progress:
            for done, (record, arch) in enumerate(todo, 1):
                result = results.find({"arch": record["arch"], "protocol": protocols(record)})
                whole = sweep.measured(record, results, protocols) is not None
                for name in raw_tag if result and not detections and not asked.speed else (*raw_tag, tag):
                    timed = asked.speed and name == tag
                    result = sweep.test_record(session, result or record, arch, name, name == tag, timed=timed)
                    for note in session.bench.last.notes:
                        if note not in session.bench.notes:
                            say(f"{arch.id}: {note}")
                assert result is not None
                if asked.speed or not whole:
                    results.add(result)
                if detections is not None:
                    several = f"-{folder_name(record, arch, recipe)}" if len(records) > 1 else ""
                    _write_detections(f"{detections.removesuffix('.json')}{several}.json", session, record)
                progress.update(done, _line(result, tag))
    keys = {key_of({"arch": r["arch"], "protocol": protocols(r)}, tag) for r in records}
    _finish(results, asked, ranks, recipe, keys)


@click.command("finetune", context_settings=console.CONTEXT)
@_sweep
@click.option(
    "--work-dir",
    default="finetune",
    show_default=True,
    metavar="DIR",
    help="One folder of checkpoints an arch; `best` links the best.",
)
@click.option("--tag", default="finetune", show_default=True, help="The results are metric.<tag>.…")
@shared("checkpoint", "set", "seed", "device", "json")
@takes(Finetune)
def finetune_command(asked: Finetune) -> None:
    """Tune subnets, each from the supernet's weights, and score them.

    \b
    Examples:
      search-nas finetune cfg.yaml --checkpoint work/latest.pth --archs flops.jsonl --rules rules.yaml
      search-nas finetune cfg.yaml --checkpoint work/latest.pth --archs tested.jsonl --rules best.yaml --out tuned.jsonl
    """
    tag = asked.tag
    recipe, records, archs = _opening(asked)
    from searchkit.nas.subnet import sweep
    from searchkit.nas.subnet.results import open_results
    from searchkit.nas.teach.opening import open_tuning
    from searchkit.nas.train import checkpoint as checkpoints

    ranks, where = ranks_of(), device_of(asked.device)
    _require_memory(recipe, records, archs, where)
    keep = checkpoints.keep_folder(asked.work_dir)
    with memory_advice("finetune"):
        session = sweep.open_session(
            recipe,
            asked.checkpoint,
            split=asked.split,
            device=where,
            seed=asked.seed_used,
            tune=True,
            say=say,
            teach=open_tuning,
        )

        def protocols(record: Record) -> dict[str, Any]:
            return {tag: sweep.tune_protocol(session, record)}

        results = open_results(asked.out, tag, ranks.first)
        results.keep_calibration(session.bench.calibration)
        todo = sweep.pending(records, archs, results, protocols, ranks)
        _say_done(records, results, protocols, ranks, recipe)
        for i, (record, arch) in enumerate(todo, 1):
            folder = os.path.join(keep, folder_name(record, arch, recipe))
            with Reporter(f"finetune {i}/{len(todo)} {arch.id}", None) as reporter:
                tuned, _ = sweep.tune_record(session, record, arch, tag, folder, reporter.step)
            results.add(tuned)
            say(f"{arch.id}: {_line(tuned, tag)}")
    results.read()  # what the other ranks have measured by now; the last one sees all
    ended = [sweep.measured(record, results, protocols) for record in records]
    _link_best([record for record in ended if record], recipe, keep, asked)
    _finish(results, asked, ranks, recipe)


def _opening(asked: Sweep, *overrides: str) -> tuple[Any, list[Record], list[Any]]:
    """(recipe, records, their archs), all checked before any data is read. `overrides`: further ones."""
    from searchkit.nas.cli.records import pick

    recipe = recipe_of(asked.config, (*asked.overrides, *overrides))
    if not asked.archs and not asked.names:
        raise UsageError("no subnets given", "Name a file of records (--archs FILE) or archs of the space (--arch MAX)")
    records = pick(asked.archs, asked.rules, asked.seed_used) if asked.archs else []
    records += [{"name": name, "arch": recipe.space.named(name).nested()} for name in asked.names]
    return recipe, *checked(records, recipe)


def _require_memory(recipe: Any, records: Sequence[Record], archs: Sequence[Any], device: Any) -> None:
    shapes = [shape_of(record, recipe) for record in records]
    require_memory(recipe, zip(archs, shapes, strict=True), recipe.test.batch_size, device)


def _say_done(records: Sequence[Record], results: Any, protocols: Any, ranks: Any, recipe: Any) -> None:
    from searchkit.nas.subnet import sweep

    done = sum(sweep.measured(record, results, protocols) is not None for record in records)
    if done and ranks.first:
        where = f"in {results.path} already (of data, {recipe.task.sets.compared})"
        say(f"{done} of {len(records)} have their result {where}")


def _line(record: dict[str, Any], tag: str) -> str:
    from searchkit.nas.cli.records import is_shown

    return "  ".join(f"{k} {v:.3f}" for k, v in record["metric"][tag].items() if is_shown(k))


def _link_best(records: Sequence[Record], recipe: Any, keep: str, asked: Finetune) -> None:
    """Let `best` be the folder of the best of these records, and --work-dir lead to where they are kept."""
    from searchkit.nas.subnet import sweep
    from searchkit.nas.train import checkpoint as checkpoints
    from searchkit.records.arch import Arch

    best = sweep.best_of(records, asked.tag, recipe.task.objective.record_name(recipe.data, recipe.metric))
    if best is not None:
        folder = folder_name(best, Arch.of(best["arch"]), recipe)
        checkpoints.link(os.path.join(keep, folder), os.path.join(keep, "best"))
    show_kept(keep, asked.work_dir)


def _write_detections(path: str, session: Any, record: Record) -> None:
    """What the last scored network has found, as COCO's results."""
    from searchkit.nas.cli.records import arch_text

    rows, left_out = session.recipe.task.objective.results(session.bench.evaluated, session.bench.last.predictions)
    with fsio.storage():
        fsio.atomic_write(path, json.dumps(rows))
    why = f", {left_out} left out (of classes that the file does not declare, or not finite)" if left_out else ""
    say(f"{path}: {len(rows)} detections of {arch_text(record)}{why}")


def _finish(results: Any, asked: Sweep, ranks: Any, recipe: Any, keys: set[str] | None = None) -> None:
    """keys: those of the records whose classes are shown, where these are told."""
    if not ranks.first:
        return
    from searchkit.nas.cli.records import print_classes, print_table

    records = list(results.records.values())
    if asked.as_json:
        console.print_json(records)
        return
    print_table(records, asked.tag)
    if keys and recipe.test.per_class:
        print_classes([record for key, record in results.records.items() if key in keys], asked.tag, recipe)
    click.echo(f"results: {results.path}")
