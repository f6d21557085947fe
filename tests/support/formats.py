"""Data sets written in other projects' formats, as their tools write them; the package itself writes COCO alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml
from PIL import Image

from searchkit.nas.data.formats.neutral import DataImage, DataSet


def to_yolo(data: DataSet, folder: Path, *, by_split: bool = True, named: bool = True) -> Path:
    """Ultralytics' layout images/<split>, labels/<split>; or Roboflow's <split>/images, <split>/labels. named: write
    the data.yaml."""
    splits = {}
    for split, part in data.splits.items():
        inner = [f"{kind}/{split}" if by_split else f"{split}/{kind}" for kind in ("images", "labels")]
        images, labels = (folder / name for name in inner)
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        splits[split] = inner[0] if by_split else f"../{inner[0]}"
        for image in part.images:
            (images / image.name).symlink_to(os.path.abspath(image.path))
            lines = []
            for (x, y, w, h), label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
                values = ((x + w / 2) / image.width, (y + h / 2) / image.height, w / image.width, h / image.height)
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in values))
            (labels / f"{Path(image.name).stem}.txt").write_text("\n".join(lines) + "\n" * bool(lines))
    if named:
        (folder / "data.yaml").write_text(yaml.safe_dump({**splits, "nc": len(data.classes), "names": [*data.classes]}))
    return folder


def to_voc(data: DataSet, folder: Path, *, beside: bool = False) -> Path:
    """The layout of the original sets; or an xml beside each image, in folders for the splits."""
    for split, part in data.splits.items():
        xmls, images = (folder / split,) * 2 if beside else (folder / "Annotations", folder / "JPEGImages")
        lists = folder / "ImageSets" / "Main"
        for place in (xmls, images) if beside else (xmls, images, lists):
            place.mkdir(parents=True, exist_ok=True)
        for image in part.images:
            (images / image.name).symlink_to(os.path.abspath(image.path))
            (xmls / f"{Path(image.name).stem}.xml").write_text(voc_xml(image, data.classes))
        if not beside:
            (lists / f"{split}.txt").write_text("".join(f"{Path(image.name).stem}\n" for image in part.images))
    return folder


def voc_xml(image: DataImage, classes: tuple[str, ...], one_based: bool = False) -> str:
    objects = ""
    for (x, y, w, h), label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + one_based, y + one_based, x + w, y + h), strict=True)
        box = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners)
        objects += f"\t<object>\n\t\t<name>{classes[label]}</name>\n\t\t<bndbox>{box}</bndbox>\n\t</object>\n"
    size = f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>"
    return f"<annotation>\n\t<filename>{image.name}</filename>\n\t{size}\n{objects}</annotation>\n"


def to_labelme(data: DataSet, folder: Path) -> Path:
    """A json beside each image, in folders for the splits."""
    for split, part in data.splits.items():
        (folder / split).mkdir(parents=True)
        for image in part.images:
            (folder / split / image.name).symlink_to(os.path.abspath(image.path))
            shapes = [
                {"label": data.classes[label], "points": [[x + w, y], [x, y + h]], "group_id": None}
                | {"shape_type": "rectangle", "flags": {}}
                for (x, y, w, h), label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
            ]
            body = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image.name, "imageData": None}
            body |= {"imageHeight": image.height, "imageWidth": image.width}
            (folder / split / f"{Path(image.name).stem}.json").write_text(json.dumps(body))
    return folder


def blank(path: Path, size: tuple[int, int] = (40, 30), shade: int = 100) -> Path:
    """An image file of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path
