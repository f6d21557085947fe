"""search-nas predict."""

from __future__ import annotations

import itertools
import os
from typing import Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas_cli.options import device_of, say, shared
from searchkit.nas_cli.progress import Progress
from searchkit.nas_cli.train import memory_advice

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@click.command("predict", context_settings=console.CONTEXT)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Where the pictures go.")
@click.option("--config", metavar="FILE", help="The config, where MODEL is a checkpoint.")
@click.option("--arch", metavar="NAME", help="Which arch of the supernet, where MODEL is one.  [default: MAX]")
@click.option(
    "--threshold", default=0.5, show_default=True, help="Boxes below this score are not drawn (of a detector)."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Of each folder, the first N images by name.")
@shared("device", "json")
def predict_command(
    model: str,
    images: tuple[str, ...],
    out: str,
    config: str | None,
    arch: str | None,
    threshold: float,
    limit: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw what MODEL (an extracted folder, or a checkpoint) finds on IMAGES (files or folders): the boxes of a
    detector; of a classifier the likeliest class, and five of them are told.

    \b
    Examples:
      search-nas predict model photos/ --limit 8 --out boxes
      search-nas predict work/latest.pth --config cfg.yaml photo.jpg --out boxes
    """
    from searchkit.subnet import pictures

    if not os.path.exists(model):
        raise UsageError(f"there is no model at {model}", "Name an extracted folder, or a checkpoint")
    opened = pictures.open_model(model, config, arch)
    opened.net.to(device_of(device))
    files = _files(images, limit)
    os.makedirs(out, exist_ok=True)
    found: list[dict[str, Any]] = []
    with Progress("predict", len(files)) as progress, memory_advice("predict"):
        for done, path in enumerate(files, 1):
            try:
                picture = pictures.read(path)
            except UsageError as e:
                say(f"left out: {e.message}")
                continue
            target = _target(out, path, {item["picture"] for item in found})
            item: dict[str, Any] = {"image": path, "picture": target}
            if opened.task == "cls":
                item["classes"] = pictures.classes_of(opened, picture)
                pictures.draw_classes(opened, picture, item["classes"], target)
            else:
                item["boxes"] = pictures.boxes_of(opened, picture, threshold)
                pictures.draw_boxes(opened, picture, item["boxes"], target)
            found.append(item)
            progress.update(done)
    if as_json:
        console.print_json(found)
        return
    for item in found:
        click.echo(f"{item['picture']}: {_said(item)}")
    if not found:
        raise UsageError("no image could be read")


def _said(item: dict[str, Any]) -> str:
    """What was found on an image, in one line."""
    if "boxes" in item:
        return f"{len(item['boxes'])} boxes"
    return ", ".join(f"{c['name']} {c['probability']:.2f}" for c in item["classes"])


def _target(out: str, path: str, taken: set[str]) -> str:
    """Where the picture of an image goes; images of one name in several folders get numbers."""
    name = os.path.splitext(os.path.basename(path))[0]
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(target for n in names if (target := os.path.join(out, f"{n}.png")) not in taken)


def _files(paths: tuple[str, ...], limit: int | None) -> list[str]:
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.lower().endswith(ENDINGS))
            files += [os.path.join(path, name) for name in names[:limit]]
        else:
            files.append(path)
    if not files:
        raise UsageError(f"no images in {', '.join(paths)}", f"Their names must end in {', '.join(ENDINGS)}")
    return files
