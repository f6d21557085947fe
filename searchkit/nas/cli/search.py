"""search-nas search: look for the best subnets of a supernet, with the suite's samplers and warm workers."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import UsageError
from searchkit.nas.cli.options import Options, check_device, input_shape_of, recipe_of, say, shared, takes
from searchkit.records import modelspace

FRONT, BEST, PICTURE = "front.jsonl", "best.jsonl", "front.png"


@dataclass(frozen=True, kw_only=True)
class Search(Options):
    config: str
    checkpoint: str
    algorithm: str
    evaluations: int
    population: int | None
    top_k: int | None
    mutation: float | None
    wanted: tuple[str, ...]
    constraints: tuple[str, ...]
    shapes: tuple[str, ...]
    split: str | None
    proxy_epochs: float | None
    proxy_steps: int | None
    enqueue: str | None
    workers: int | None
    gpus: str
    work_dir: str
    overwrite: bool


@click.command("search", context_settings=console.CONTEXT)
@click.argument("config")
@click.option(
    "--algorithm",
    type=click.Choice(["random", "evolution", "regularized", "nsga2"]),
    default="evolution",
    show_default=True,
    help="evolution: the best have children (SPOS). regularized: the old die. nsga2: several objectives.",
)
@click.option(
    "--evaluations",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Subnets to score; with more the search goes on.",
)
@click.option("--population", type=click.IntRange(2), metavar="N", help="Of a generation.  [default: 50]")
@click.option(
    "--top-k", type=click.IntRange(1), metavar="K", help="Parents of a generation of evolution.  [default: 10]"
)
@click.option("--mutation", type=click.FloatRange(0, 1), metavar="P", help="Of each choice.  [default: 0.1]")
@click.option(
    "--objective",
    "wanted",
    multiple=True,
    metavar="NAME[:max|min]",
    help="A metric (bbox_mAP, top1 …), macs, params, a meter of the config (ms), or a name of the records.  "
    "[default: the metric; nsga2: and macs]",
)
@click.option("--constraint", "constraints", multiple=True, metavar="EXPR", help='Such as "macs <= 300M".')
@click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="S|H,W",
    help="Input shape; several, or `all` of the space, are searched, too.  [default: the first of the space]",
)
@shared("split")
@click.option("--proxy-epochs", type=float, metavar="E", help="Tune each subnet so long before it is scored.")
@click.option("--proxy-steps", type=click.IntRange(1), metavar="N", help="The same, in steps.")
@click.option("--enqueue", metavar="FILE", help="Records that are scored first.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes.  [default: one per GPU, or 1]")
@click.option("--gpus", default="auto", show_default=True, help="auto, none, or indices like 0,1.")
@click.option("--work-dir", default="search", show_default=True, metavar="DIR", help="All files of the search.")
@click.option("--overwrite", is_flag=True, help="Move another search in --work-dir away first.")
@shared("checkpoint", "set", "seed", "device", "json")
@takes(Search)
def search_command(asked: Search) -> int:
    """Search the subnets of a supernet for the best ones. Run the same command again to go on where it was.

    \b
    Examples:
      search-nas search cfg.yaml --checkpoint work/latest.pth --constraint "macs <= 300M"
      search-nas search cfg.yaml --checkpoint work/latest.pth --algorithm nsga2 --evaluations 500 --workers 2
      search-nas search cfg.yaml --checkpoint work/latest.pth --proxy-steps 50 --evaluations 100
      search-nas finetune cfg.yaml --checkpoint work/latest.pth --archs search/front.jsonl --out tuned.jsonl
    """
    overrides = (*asked.overrides, *_proxy(asked.proxy_epochs, asked.proxy_steps))
    recipe = recipe_of(asked.config, overrides)
    from searchkit.nas.cli import search_run
    from searchkit.nas.subnet import search
    from searchkit.nas.subnet.standing import Standing
    from searchkit.nas.train import checkpoint as checkpoints

    if asked.device is not None:
        check_device(asked.device)
    if search.tells_classes(recipe, asked.wanted) and not recipe.test.per_class:
        overrides = (*overrides, "test.per_class=true")
        recipe = recipe_of(asked.config, overrides)
    plan = search.with_enqueued(_plan(asked, recipe, overrides), recipe, _records(asked.enqueue))
    width, argv = _width(asked.workers, asked.gpus, asked.device)
    config, checkpoint = os.path.abspath(asked.config), os.path.abspath(asked.checkpoint)
    here = search.Here(config, checkpoint, os.getcwd(), asked.device, _job_gpus(asked.gpus))
    keep = os.path.abspath(checkpoints.keep_folder(asked.work_dir))
    text = search.document(plan, recipe.space, keep, sys.executable, recipe.meters)
    begun = os.path.exists(os.path.join(keep, search.PLAN))
    if not asked.overwrite or not begun:
        search.check_same(keep, plan)
    with search_run.folder_of(keep, plan, here, text, begun, asked.overwrite):
        work_dir = asked.work_dir
        if keep != os.path.abspath(work_dir) and (os.path.islink(work_dir) or not os.path.exists(work_dir)):
            checkpoints.link(keep, work_dir)
        standing = Standing(plan.wanted, plan.tag)
        run = search_run.Run(keep, [*argv, "-j", str(width), "--n-trials", str(asked.evaluations)])
        end, view = search_run.watch(run, standing, asked.evaluations, recipe.space)
        if end.fault and not standing.records:
            raise end.fault  # in here, so that the folder is taken back
    _mirror(keep, plan.tag)
    shown = work_dir if os.path.isdir(work_dir) else keep
    code = _finish(shown, standing, view, end, recipe.space, asked.evaluations, asked.as_json)
    if end.fault and asked.as_json:
        return console.complain(end.fault)  # the document has it
    if end.fault:
        raise end.fault
    return code


# --- what is asked for -----------------------------------------------------------------------------------------------


def _proxy(epochs: float | None, steps: int | None) -> tuple[str, ...]:
    """The overrides of a config that make its tuning the short one of proxy mode."""
    if epochs is not None and steps is not None:
        raise UsageError("--proxy-epochs and --proxy-steps exclude each other")
    if epochs is not None and not epochs > 0:
        raise UsageError(f"--proxy-epochs must be above 0, not {epochs:g}")
    if epochs is not None:
        return (f"finetune.epochs={epochs:g}", "finetune.steps=")
    return (f"finetune.steps={steps}",) if steps is not None else ()


def _plan(asked: Search, recipe: Any, overrides: tuple[str, ...]) -> Any:
    """What defines the search; all that can be known is checked, and nothing is written."""
    from searchkit.nas.cli.priced import timing
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.subnet import search
    from searchkit.nas.train import bench
    from searchkit.nas.train import checkpoint as checkpoints
    from searchkit.nas.train import net as nets
    from searchkit.nas.train.splits import open_split

    algorithm = asked.algorithm
    tag = search.PROXY if asked.proxy_epochs or asked.proxy_steps else search.DIRECT
    _, names, defaults = search.ALGORITHMS[algorithm]
    given = {"population": asked.population, "top_k": asked.top_k, "mutation": asked.mutation}
    chosen = {key: value for key, value in given.items() if value is not None}
    if odd := [key for key in chosen if key not in names]:
        has = ", ".join(f"--{key.replace('_', '-')}" for key in names) or "no options"
        raise UsageError(f"--{odd[0].replace('_', '-')} is not of --algorithm {algorithm}, which has {has}")
    options = {names[key]: value for key, value in {**defaults, **chosen}.items()}
    if options.get("top_k", 1) > options.get("population", 1):
        raise UsageError(f"--top-k must be at most --population ({options['population']}), not {options['top_k']}")
    input_shapes = _shapes(asked.shapes, recipe)
    knobs = [knob.name for knob in recipe.space.knobs()]
    if not knobs:
        raise UsageError("the space has one architecture: there is nothing to search", "Widen space: of the config")
    plain = plain_shape(input_shapes[0])
    where = asked.split or recipe.test.split
    _check_data(recipe, where)
    evaluator = recipe.task.objective.evaluator(open_split(recipe, where), recipe.test)
    known = bench.metrics_on(recipe, evaluator)
    metrics = [name for name in known if recipe.test.per_class or name in recipe.metrics]
    sample = search.sample_record(recipe, tag, plain, metrics)
    objectives = search.objectives(asked.wanted, algorithm, metrics, sample)
    search.check_values(recipe, where, objectives, known)
    search.numeric(asked.constraints, knobs, recipe.space, plain, recipe.meters)
    tables = timing(recipe)
    kept, digest = checkpoints.load_with_digest(asked.checkpoint)
    nets.check_space(recipe, kept, asked.checkpoint)
    for note in recipe.task.objective.notes(evaluator):
        say(note)
    sections = search.digests(recipe, tag == search.PROXY, tables)
    learnt = recipe.finetune.train_on if tag == search.PROXY else ()
    for name in dict.fromkeys((where, *learnt, *(("train",) if recipe.test.calibration_images else ()))):
        _check_data(recipe, name)
    return search.Plan(
        algorithm,
        options,
        tuple(objectives),
        asked.constraints,
        input_shapes,
        where,
        asked.seed_used,
        tag,
        overrides,
        digest,
        sections,
    )


def _check_data(recipe: Any, name: str) -> None:
    """Raises UsageError where a split of the data is not there; what is in it is for the workers to see."""
    from searchkit.nas.train.sections import path_of
    from searchkit.nas.train.splits import TRAIN, missing, section_of

    split = section_of(recipe, name)
    if split is None:
        raise UsageError(missing(recipe, name).message, f"Give data.{name}, or another --split")
    name = name if getattr(recipe.data, name) == split else TRAIN  # the held-out part has no files of its own
    for field in dataclasses.fields(split):
        value = getattr(split, field.name)
        if not isinstance(value, str):
            continue
        path = path_of(value, key := f"data.{name}.{field.name}")
        file, hash_sign, _ = path.rpartition("#")  # a part of a file: data.npz#train
        if not os.path.exists(path) and not (hash_sign and os.path.exists(file)):
            raise UsageError(f"{key}: there is no {path}", "Paths in a config begin in the current folder")


def _shapes(inputs: Sequence[str], recipe: Any) -> tuple[Any, ...]:
    """The input shapes that --input names."""
    shapes = recipe.scales if "all" in inputs else tuple(input_shape_of(text, recipe.scales) for text in inputs)
    shapes = shapes or recipe.scales[:1]
    if len({isinstance(shape, int) for shape in shapes}) > 1:
        raise UsageError("--input must name short edges alone, or H,W alone", "Constraints must fit all of them")
    return tuple(dict.fromkeys(shapes))


def _records(path: str | None) -> list[dict[str, Any]]:
    from searchkit.nas.cli.records import read

    return read(path) if path else []


def _width(workers: int | None, gpus: str, device: str | None) -> tuple[int, list[str]]:
    """(how many workers, where: options of search-run)."""
    import torch

    if device is not None and not device.startswith("cuda"):
        gpus = "none"
    inside = bool(_job_gpus(gpus))
    if gpus == "none" or inside:  # the GPUs of a job are leased to it already
        n = len(_job_gpus(gpus))
        return workers or max(1, n), ["--gpus", "none"]
    n = torch.cuda.device_count() if gpus == "auto" else len(gpus.split(","))
    width = workers or max(1, n)
    more = ["--jobs-per-gpu", str(-(-width // n))] if n else []
    return width, ["--gpus", gpus, *more]


def _job_gpus(gpus: str) -> tuple[str, ...]:
    """The GPUs of the suite's job that this process is; none where it is none, or shall take none."""
    if gpus == "none" or "SEARCHKIT_JOB_DIR" not in os.environ:
        return ()
    return tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))


# --- the end ---------------------------------------------------------------------------------------------------------


def _mirror(keep: str, tag: str) -> None:
    """In a job of the suite: let search-ctl see the records."""
    from searchkit.nas.subnet import search
    from searchkit.nas.subnet.results import open_results

    if os.environ.get("SEARCHKIT_CALLBACK") and os.path.exists(os.path.join(keep, search.RESULTS)):
        open_results(os.path.join(keep, search.RESULTS), tag)


def _finish(folder: str, standing: Any, view: Any, end: Any, space: Any, total: int, as_json: bool) -> int:
    """Write the front, the best and their picture; say what was found."""
    from searchkit.nas.cli import search_view
    from searchkit.nas.facts import search_facts
    from searchkit.nas.subnet import search

    rows = standing.ranked_front()
    best = standing.best.get(standing.wanted[0].name)
    paths = {name: os.path.join(folder, name) for name in (search.RESULTS, FRONT, BEST, PICTURE)}
    done, rate = len(standing.records), view.rate()
    if done:
        with fsio.storage():
            _write(paths[FRONT], [standing.records[i] for i in rows])
            _write(paths[BEST], [standing.records[best]] if best is not None else [])
        if not search_view.draw(paths[PICTURE], standing):
            del paths[PICTURE]
            say("no picture: it needs matplotlib (pip install 'searchkit[nas]')")
    if as_json:
        files = paths if done else {}
        facts = search_facts(standing, new=view.fresh, failed=end.failed, rate=rate, files=files, code=end.code)
        console.print_json({**facts, **(console.fault_facts(end.fault) if end.fault else {})})
        return int(end.code)
    if done:
        several = len(standing.wanted) > 1
        names = ", ".join(f"{o.name} ({o.mode})" for o in standing.wanted)
        click.echo(f"{'Pareto front of ' if several else 'best by '}{names}: {len(rows)} of {done} subnets")
        search_view.print_front(standing, rows, space)
        click.echo(f"front: {paths[FRONT]}  best: {paths[BEST]}  all: {paths[search.RESULTS]}")
        if PICTURE in paths:
            click.echo(f"picture: {paths[PICTURE]}")
    took = console.span(time.monotonic() - view.began)
    click.echo(f"{view.fresh} new subnets in {took}" + (f", {rate:.3g} subnets/s" if rate else ""))
    if end.failed:
        click.echo(f"{end.failed} failed: cd {folder} && search-ctl show --task {search.TASK} --jobs @failed", err=True)
        click.echo(f"  score them again: search-ctl restart --task {search.TASK} --failed", err=True)
    if end.code in (130, 143):
        say(f"{done} of {total} subnets are scored: run the same command again to go on")
    elif end.code == 0 and end.is_exhausted and done < total:
        say(f"the space has no further subnet that meets the constraints ({done} of {total})")
    return int(end.code)


def _write(path: str, records: Sequence[Mapping[str, Any]]) -> None:
    fsio.atomic_write(path, "".join(modelspace.dumps(record) + "\n" for record in records))
