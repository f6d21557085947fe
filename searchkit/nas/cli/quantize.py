"""search-nas quantize."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.extract import CUT, WRITTEN, Cut, cut_out, several, told
from searchkit.nas.cli.options import count_threads, device_of, recipe_of, say, shared, takes
from searchkit.nas.export.table import INT8, ONNX, Wishes
from searchkit.nas.quant.ranges import METHODS
from searchkit.nas.quant.settings import AUTO, FAR, IMAGES, LEARNT, Rounding, require_images

FORMS = (ONNX, INT8)  # the float file is written, too: what 8 bits cost and gain is told beside it


class Layers(click.ParamType):
    """A number of layers, or `auto`."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """See click."""
        if value == AUTO:
            return AUTO
        if not isinstance(value, int) and not value.isdecimal():
            self.fail(f"{value!r} is no number of layers, nor {AUTO}", param, ctx)
        return int(value)


@dataclass(frozen=True)
class Quantize(Cut):
    source: str
    config: str | None
    method: str
    percentile: float
    ranged: int
    keep_float: int | str
    qat: bool
    work_dir: str | None


@click.command("quantize", context_settings=console.CONTEXT)
@click.argument("source")
@several(
    click.option("--config", metavar="FILE", help="The config, where SOURCE is an extracted folder."),
    click.option("--checkpoint", metavar="FILE", help="The supernet's weights, or those of a tuned subnet."),
    *CUT,
    click.option(
        "--method",
        type=click.Choice([*METHODS]),
        default="minmax",
        show_default=True,
        help="How the range of an activation is told from its values on training images. minmax: from the least to the "
        "greatest. percentile: without the few at both ends. mse: that whose rounded values are nearest.",
    ),
    click.option(
        "--percentile",
        type=float,
        default=Rounding.percentile,
        show_default=True,
        metavar="P",
        help="Of method percentile: how many of a hundred values lie below the greatest of the range.",
    ),
    click.option(
        "--ranges",
        "ranged",
        type=click.IntRange(1),
        default=IMAGES,
        show_default=True,
        metavar="N",
        help="Training images that ranges are taken from.",
    ),
    click.option(
        "--keep-float",
        type=Layers(),
        default=0,
        show_default=True,
        metavar="N|auto",
        help="So many layers stay float, those that move the network's outputs most when they alone are rounded; auto: "
        f"those that move them {FAR:g} times as much as the mean, or more. All are told in a table.",
    ),
    click.option(
        "--qat",
        is_flag=True,
        help="Train the network with the roundings before the file is written, as the config's section quantize says.",
    ),
    click.option(
        "--work-dir",
        metavar="DIR",
        help="Of --qat: its checkpoint, from which a training that was killed goes on.  [default: OUT.qat]",
    ),
    *WRITTEN,
)
@shared("set", "seed", "device", "json")
@takes(Quantize)
def quantize_command(asked: Quantize) -> None:
    """Make a network a file of 8 bits, and score that file beside the float one: model.int8.onnx and model.onnx in a
    new folder, which is otherwise as extract makes it.

    SOURCE is a config, whose subnet is cut out of --checkpoint as extract does it, or an extracted folder with the
    --config whose data it is of. Weights are int8 of one range for each channel, activations uint8, whose ranges are
    told from training images; the last layers stay float.

    \b
    Examples:
      search-nas quantize cfg.yaml --checkpoint work/latest.pth --arch R50 --out int8
      search-nas quantize cfg.yaml --checkpoint work/latest.pth --arch t.jsonl --method mse --record files.jsonl --out m
      search-nas quantize model --config cfg.yaml --out int8
      search-nas quantize cfg.yaml --checkpoint work/latest.pth --arch R50 --qat --out int8
    """
    if asked.work_dir is not None and not asked.qat:
        raise UsageError("--work-dir is of --qat", "Add --qat, or leave it out")
    if os.path.isdir(asked.source):
        _folder(asked)
        return
    if asked.config is not None:
        raise UsageError("--config goes with an extracted folder; SOURCE is the config already", "Leave it out")
    if asked.checkpoint is None:
        raise UsageError(f"{asked.source} is a config: weights are needed", "Give --checkpoint, or an extracted folder")
    recipe = recipe_of(asked.source, asked.overrides)
    require_images(recipe.data.train)
    with _wishes(asked, recipe, asked.checkpoint) as wishes:
        chosen, proof = cut_out(asked, recipe, asked.seed_used, wishes)
    told(asked, chosen.arch, chosen.shape, chosen.record, proof)


@contextlib.contextmanager
def _wishes(asked: Quantize, recipe: Any, weights: str) -> Iterator[Wishes]:
    """The files that are asked for. weights: the file of the network's."""
    scales = recipe.quantize.scales if asked.qat else LEARNT
    rounding = Rounding(asked.method, asked.percentile, asked.ranged, asked.keep_float, scales)
    wishes = Wishes(FORMS, asked.opset, asked.threads, rounding)
    if not asked.qat:
        yield wishes
        return
    from searchkit.nas.cli.progress import Reporter
    from searchkit.nas.subnet.qat import Trainer
    from searchkit.nas.train import checkpoint

    folder = checkpoint.keep_folder(asked.work_dir or f"{os.path.normpath(asked.out)}.qat")
    with Reporter("quantize", None) as reporter:
        source = checkpoint.digest(weights)
        tuning = Trainer(recipe, source, folder, asked.seed_used, device_of(asked.device), reporter.step)
        yield replace(wishes, tuning=tuning)


def _folder(asked: Quantize) -> None:
    """Of an extracted folder."""
    useless = {
        "--checkpoint": asked.checkpoint,
        "--arch": asked.arch,
        "--metric": asked.metric,
        "--input": asked.shape,
        "--raw": asked.raw,
        "--calibrate": asked.calibrate,
    }
    if given := " and ".join(name for name, value in useless.items() if value):
        raise UsageError(f"what {given} say is of a config's subnet, but {asked.source} is a folder", "Leave it out")
    if asked.config is None:
        raise UsageError(
            f"{asked.source} is an extracted folder: ranges are taken from training images, which a config names",
            "Give --config FILE",
        )
    recipe, seed = recipe_of(asked.config, asked.overrides), asked.seed_used
    require_images(recipe.data.train)
    from searchkit.nas.subnet import extract as extraction
    from searchkit.nas.subnet import folders
    from searchkit.nas.train.memory import memory_advice
    from searchkit.nas.train.splits import section_of

    count_threads()
    folder, where = folders.open_extracted(asked.source, recipe), device_of(asked.device)
    with memory_advice("extract"):
        bench: Any = None
        if asked.again and section_of(recipe, recipe.test.split) is not None:
            bench = extraction.open_again(recipe, where, seed)
            if bench.categories != folder.categories:
                say(f"note: the files are not scored: {bench.evaluated.source} has other classes than {asked.source}")
                bench = None
        images, _ = extraction.sample_images(recipe, asked.count, folder.shape)
        with _wishes(asked, recipe, os.path.join(asked.source, "weights.safetensors")) as wishes:
            proof = folders.written_again(folder, recipe, asked.out, images=images, bench=bench, wishes=wishes)
    told(asked, folder.arch, folder.shape, None, proof)
