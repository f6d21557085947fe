"""search-nas predict."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, cpus, fonts
from searchkit.errors import UsageError
from searchkit.nas.cli.chosen import choose, said_of, statistics_of
from searchkit.nas.cli.options import Options, device_of, recipe_of, say, shared, takes, tell
from searchkit.nas.cli.progress import Progress
from searchkit.nas.train.memory import memory_advice, require_memory


@dataclass(frozen=True)
class Predict(Options):
    model: str
    images: tuple[str, ...]
    out: str
    config: str | None
    arch: str | None
    metric: str | None
    raw: bool
    threshold: float
    limit: int | None


@click.command("predict", context_settings=console.CONTEXT)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Where the pictures go.")
@click.option("--config", metavar="FILE", help="The config, where MODEL is a checkpoint.")
@click.option(
    "--arch",
    metavar="ARCH",
    help="Which arch of the supernet, where MODEL is one: a name, JSON, or a file of records.  [default: MAX]",
)
@click.option("--metric", metavar="NAME", help="Which metric.… of the file makes a record the best.")
@click.option("--raw", is_flag=True, help="Keep the batch-norm statistics of the checkpoint: no score is of them.")
@click.option(
    "--threshold", default=0.5, show_default=True, help="Boxes below this score are not drawn (of a detector)."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Of each folder, the first N images by name.")
@shared("set", "seed", "device", "json")
@takes(Predict)
def predict_command(asked: Predict) -> None:
    """Draw what MODEL (an extracted folder, an ONNX file of one, or a checkpoint) finds on IMAGES (files or folders):
    the boxes of a detector; of a classifier the likeliest class, and five of them are told.

    The batch-norm statistics of a supernet are calibrated as extract does.

    \b
    Examples:
      search-nas predict model photos/ --limit 8 --out boxes
      search-nas predict model/model.int8.onnx photo.jpg --out boxes
      search-nas predict work/latest.pth --config cfg.yaml photo.jpg --out boxes
      search-nas predict work/latest.pth --config cfg.yaml --arch search/best.jsonl photo.jpg --out boxes
    """
    model, out = asked.model, asked.out
    if not os.path.exists(model):
        raise UsageError(f"there is no model at {model}", "Name an extracted folder, an ONNX file, or a checkpoint")
    onnx = model.endswith(".onnx")
    kind = "an ONNX file" if onnx else "an extracted folder"
    recipe = None if os.path.isdir(model) or onnx else _recipe(asked)
    from searchkit.nas.data import drawing
    from searchkit.nas.subnet.pictures import open_folder, open_onnx
    from searchkit.nas.tasks import pictures

    where, files = device_of(asked.device), _files(asked.images, asked.limit)
    if recipe is None:
        options = (("--set", asked.overrides), ("--arch", asked.arch), ("--raw", asked.raw))
        if useless := " and ".join(name for name, value in options if value):
            raise UsageError(
                f"{useless} go with a checkpoint and its config, but {model} is {kind}",
                f"Leave {useless} out, or name the checkpoint and its --config",
            )
        opened, task = open_onnx(model, cpus.usable()) if onnx else open_folder(model)
        opened.net.to(where)
    else:
        opened, task = _of_checkpoint(asked, recipe, where, files)
    os.makedirs(out, exist_ok=True)
    taken = _not_ours(files, out)
    items: list[dict[str, Any]] = []
    unknown = 0
    with Progress("predict", len(files)) as progress, memory_advice("predict"):
        for done, path in enumerate(files, 1):
            try:
                picture = pictures.read(path, opened.reading)
            except UsageError as e:
                say(f"left out: {e.message}")
                continue
            target = _target(out, path, taken)
            unknown += pictures.of_unknown_range(path, opened.reading)
            there = task.find(opened, picture, asked.threshold)
            task.draw(opened, picture, there, target)
            items.append({"image": path, "picture": target, task.key: there})
            progress.update(done)
    if not items:
        raise UsageError("no image could be read")
    if unknown:
        say(
            f"{unknown} {'image is' if unknown == 1 else 'images are'} of grey deeper than 8 bits, "
            "and the model knows no range for them: 16 bits are taken"
        )
    drawn = {name for item in items for name in task.names(item[task.key])}
    if said := fonts.note(drawing.lacking(drawn)):
        say(f"note: {said}")
    if asked.as_json:
        console.print_json(items)
        return
    for item in items:
        tell(f"{item['picture']}: {task.text(item[task.key])}")


def _recipe(asked: Predict) -> Any:
    """That of a checkpoint."""
    if asked.config is None:
        hint = "Give --config FILE, or an extracted folder"
        raise UsageError(f"{asked.model} is a checkpoint: its config is needed", hint)
    return recipe_of(asked.config, asked.overrides)


def _of_checkpoint(asked: Predict, recipe: Any, device: Any, files: list[str]) -> Any:
    """(the model of a checkpoint at an arch, with the statistics that it is scored with, and the range of deep greys,
    where some of the files are such; the Pictures of its task)."""
    from searchkit.nas.subnet import extract
    from searchkit.nas.subnet.pictures import model_of
    from searchkit.nas.tasks import pictures

    seed = asked.seed_used
    source = extract.open_source(recipe, asked.model, seed)
    whole = source.maximum == recipe.supernet.maximum()
    chosen = choose(asked.arch or ("MAX" if whole else None), asked.metric, recipe, source, None)
    require_memory(recipe, [(chosen.arch, chosen.shape)], recipe.test.batch_size, device)
    with memory_advice("predict"):
        statistics, _ = statistics_of(recipe, source, chosen, raw=asked.raw, calibrate=False, seed=seed)
        if any(pictures.is_deep(file) for file in files):
            source = extract.read_as_scored(source, statistics.recipe, statistics, None)
        net, seen = extract.cut(source, statistics.recipe, chosen.arch, chosen.shape, statistics, device)
    say(said_of(extract.statistics_said(statistics, seen), seen))
    return model_of(statistics.recipe, net, source, chosen.shape)


def _not_ours(files: list[str], out: str) -> set[str]:
    """Real paths that no picture may be written to: the images, and where `out` is a folder that they come from, all
    that is in it: what lies beside an image is the user's, too."""
    folder = os.path.realpath(out)
    taken = {os.path.realpath(path) for path in files}
    if any(os.path.realpath(os.path.dirname(path)) == folder for path in files):
        taken |= {os.path.realpath(os.path.join(folder, name)) for name in os.listdir(folder)}
    return taken


def _target(out: str, path: str, taken: set[str]) -> str:
    """Where the picture of an image goes, now one of `taken`; where another image's would go there, or something of the
    user's is there, its name gets a number."""
    name = os.path.splitext(os.path.basename(path))[0]
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    targets = (os.path.join(out, f"{n}.png") for n in names)
    target = next(t for t in targets if os.path.realpath(t) not in taken)
    taken.add(os.path.realpath(target))
    return target


def _files(paths: tuple[str, ...], limit: int | None) -> list[str]:
    from searchkit.nas.data.label_files import ENDINGS

    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.lower().endswith(ENDINGS))
            files += [os.path.join(path, name) for name in names[:limit]]
        else:
            files.append(path)
    if not files:
        hint = _folders_hint(paths) or f"Their names must end in {', '.join(ENDINGS)}"
        raise UsageError(f"no images in {', '.join(paths)}", hint)
    return files


def _folders_hint(paths: tuple[str, ...]) -> str:
    """What to name instead of folders that hold folders, such as those of classes; empty where none does."""
    inside = {path: [name for name in os.listdir(path) if not name.startswith(".")] for path in paths}
    deeper = [path for path, names in inside.items() if any(os.path.isdir(os.path.join(path, n)) for n in names)]
    return f"Name the folders in it: {' '.join(os.path.join(path, '*') for path in deeper)}" if deeper else ""
