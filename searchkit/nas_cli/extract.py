"""search-nas extract."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from searchkit import console, modelspace
from searchkit.errors import UsageError
from searchkit.nas_cli.options import count_threads, say, seed_of, shared


@click.command("extract", context_settings=console.CONTEXT)
@click.argument("config")
@click.option(
    "--arch", metavar="ARCH", help="A name (MAX, R50), an arch as JSON, or a file of records (its best, or first)."
)
@click.option("--metric", metavar="NAME", help="Which metric.… of the file makes a record the best.")
@click.option("--input", "shape", metavar="S|H,W", help="Input shape.  [default: the record's, else the space's first]")
@click.option("--out", required=True, metavar="DIR", help="A new folder.")
@click.option(
    "--calibrate", is_flag=True, help="Replace batch-norm statistics by those of training images, after the proof."
)
@click.option(
    "--export",
    type=click.Choice(["torch"]),
    help="Also write it by torch.export (of a detector the backbone with its FPN).",
)
@click.option("--images", "count", default=4, show_default=True, help="Real images that the proof compares on.")
@shared("checkpoint", "set", "seed", "json")
def extract_command(
    config: str,
    arch: str | None,
    metric: str | None,
    shape: str | None,
    out: str,
    calibrate: bool,
    export: str | None,
    count: int,
    checkpoint: str,
    overrides: tuple[str, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Make one subnet an ordinary model of torch in a folder of its own, which needs no searchkit.

    The checkpoint is a supernet's, or the one of a fine-tuned subnet (then --arch may be left out). The folder's proof
    says that its outputs equal the source's bit for bit, and that its cost in closed form is the measured one.

    \b
    Examples:
      search-nas extract cfg.yaml --checkpoint work/latest.pth --arch R50 --out model
      search-nas extract cfg.yaml --checkpoint work/latest.pth --arch t.jsonl --metric metric.direct.my_bbox_mAP --out m
      search-nas extract cfg.yaml --checkpoint finetune/best/latest.pth --out model
    """
    from searchkit.subnet import extract as extraction
    from searchkit.train import config as configs
    from searchkit.train.bench import Calibration, open_calibration

    count_threads()
    recipe = configs.load(config, overrides)
    source = extraction.open_source(recipe, checkpoint, seed_of(seed))
    chosen, found_shape = _chosen(arch, metric, recipe, source)
    if faults := recipe.space.faults(chosen):
        raise UsageError(f"--arch: {'; '.join(faults)}", "Take an arch of this config's space")
    wanted = _shape(shape) if shape else found_shape or source.input_shape or recipe.scales[0]
    images, ids = extraction.sample_images(recipe, count, wanted)
    proof = extraction.extract(
        source,
        recipe,
        chosen,
        wanted,
        out,
        images=images,
        image_ids=ids,
        calibration=open_calibration(recipe, seed_of(seed)) if calibrate else Calibration(),
        export=export is not None,
        seed=seed_of(seed),
    )
    if as_json:
        console.print_json({"out": out, "arch": chosen.nested(), **proof})
        return
    click.echo(f"arch: {chosen.text()}  input {wanted}")
    _print_proof(proof)
    click.echo(f"{out}: " + ", ".join(sorted(os.listdir(out))))


def _print_proof(proof: dict[str, Any]) -> None:
    equal, cost = proof["equal"], proof["cost"]
    boxes = f" ({equal['boxes_compared']} boxes)" if "boxes_compared" in equal else ""
    what = "pyramid and boxes" if boxes else "features and scores"
    click.echo(f"equal bit for bit to the source: {what} on random input and on {len(equal['images'])} images{boxes}")
    click.echo(
        f"MACs: {cost['macs']:,} in closed form, {cost['macs_measured']:,} measured; parameters {cost['params']:,}"
    )
    if not equal["images"]:
        say("note: no real image was compared")
    if "calibrated" in proof:
        click.echo(f"batch-norm statistics: of {proof['calibrated']['images']} training images")
    if "export" in proof:
        click.echo(f"backbone.pt2: differs by up to {proof['export']['largest_difference']:g}")


def _chosen(text: str | None, metric: str | None, recipe: Any, source: Any) -> tuple[Any, Any]:
    """(arch, its record's input shape or None)."""
    from searchkit.nas_cli.records import read
    from searchkit.space.arch import Arch
    from searchkit.subnet.sweep import shape_of

    if text is None:
        if source.maximum != recipe.space.maximum() or recipe.space.count() == 1:
            return source.maximum, None  # of a tuned subnet, or the only one
        raise UsageError("no arch given", f"--arch takes a name ({', '.join(recipe.space.names())}), JSON, or a file")
    if text.lstrip().startswith("{"):
        try:
            return Arch.of(json.loads(text)), None
        except json.JSONDecodeError as e:
            raise UsageError(f"--arch is no JSON: {e}") from e
    if not os.path.exists(text):
        return recipe.space.named(text), None
    records = read(text)
    if metric:
        flat = [modelspace.flatten(r) for r in records]
        scored = [(f[metric], -i) for i, f in enumerate(flat) if isinstance(f.get(metric), int | float)]
        if not scored:
            names = sorted({name for f in flat for name in f if name.startswith("metric.")})
            raise UsageError(
                f"--metric: no record of {text} has {metric}", f"There are {', '.join(names[:12]) or 'none'}"
            )
        records = [records[-max(scored)[1]]]
    if not records or "arch" not in records[0]:
        raise UsageError(f"{text} has no record with an arch")
    return Arch.of(records[0]["arch"]), shape_of(records[0], recipe) if "data" in records[0] else None


def _shape(text: str) -> int | tuple[int, int]:
    if text.isdecimal():
        return int(text)
    return modelspace.image_size(text)
