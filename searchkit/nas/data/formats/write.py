"""A data set in the neutral form written as trainings read it: COCO for detectors, class folders for classifiers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.nas.data.formats.listing import some
from searchkit.nas.data.formats.neutral import DataImage, DataSet, ordered
from searchkit.nas.data.made import SOURCE, made

DECIMALS = 4  # of a box, in px


@dataclass(frozen=True)
class Written:
    """A set as COCO: a folder with annotations/instances_<split>.json."""

    folder: str
    annotations: Mapping[str, str]  # split -> its json
    images: str  # the folder that file names are relative to
    left_out: int  # images whose files are missing


def write_coco(data: DataSet, out: str, *, link: bool = True, overwrite: bool = False) -> Written:
    """Write the annotations of every split into the new or empty folder `out`, which appears whole. If it holds the
    same already, it is kept as it is.

    link: make `out`/images, with a link to each image's file under its name below the folder that all are in. Otherwise
    the files are named by their whole paths. Images whose files are missing are left out. Boxes are rounded to
    1e-4 px. overwrite: `out` may be a set that this has written of other data, if nobody changed it. Raises UsageError
    for a classifier's set, and where `out` holds something else.
    """
    if data.task != "det":
        raise UsageError(f"{data.root} has no boxes: a classifier reads its class folders as they are")
    there = [image for split in data.splits.values() for image in split.images if image.exists]
    if not there:
        raise UsageError(f"{data.root} has no image whose file is there")
    paths = {image.path: os.path.realpath(image.path) for image in there}
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = {path: os.path.relpath(os.path.abspath(path), top) if link else real for path, real in paths.items()}
    jsons = {split: json.dumps(_body(data, split, names)).encode() for split in data.splits}
    sha = hashlib.sha256(b"".join(jsons.values())).hexdigest()
    form = "in images/, as links to" if link else "named by their whole paths, in"
    text = (
        f"Annotations in COCO's form, written by searchkit from {data.format} files: {os.path.abspath(data.root)}\n"
        f"Images: {form} {top}\nsha256 of the annotations: {sha}\n"
    )

    def fill(folder: str) -> None:
        os.makedirs(os.path.join(folder, "annotations"))
        for split, body in jsons.items():
            fsio.write_new(os.path.join(folder, _place(split)), body, durable=False)
        if link:
            for path, real in paths.items():
                target = os.path.join(folder, "images", names[path])
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.symlink(real, target)

    made(out, _readable(text), fill, changed=changed, overwrite=overwrite)
    annotations = {split: os.path.join(out, _place(split)) for split in jsons}
    images = sum(len(split.images) for split in data.splits.values())
    return Written(out, annotations, os.path.join(out, "images") if link else out, images - len(there))


def write_folders(data: DataSet, out: str, *, overwrite: bool = False) -> None:
    """Write a classifier's set into the new or empty folder `out`: <split>/<class>/ with a link to the file of each
    image. If `out` holds the same already, it is kept.

    overwrite: as of write_coco. Raises UsageError for a detector's set, and where `out` holds something else.
    """
    if data.task != "cls":
        raise UsageError(f"{data.root} has boxes: a detector reads COCO")
    links: dict[str, str] = {}
    for split, part in data.splits.items():
        for image in part.images:
            if image.exists:
                folder = os.path.join(split, data.classes[image.labels[0]])
                links[_free(folder, image.name, links)] = os.path.realpath(image.path)
    text = (
        f"Links to images, written by searchkit from {os.path.abspath(data.root)}\n"
        f"sha256 of the links: {_sha_of(links)}\n"
    )

    def fill(folder: str) -> None:
        for name, real in links.items():
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(real, target)

    made(out, _readable(text), fill, changed=changed, overwrite=overwrite)


def changed(folder: str) -> str:
    """What of a folder is not as write_coco or write_folders have written it, in words; empty where all of it is."""
    text = (fsio.read_bytes(os.path.join(folder, SOURCE)) or b"").decode(errors="replace")
    sealed = re.search(r"written by searchkit.*^sha256 of the (annotations|links): ([0-9a-f]{64})$", text, re.M | re.S)
    if sealed is None:
        return f"it has no {SOURCE} of a set that searchkit has written"
    links, files = _contents(folder)
    splits = [name for path in files if path == _place(name := path.partition("instances_")[2].removesuffix(".json"))]
    jsons = list(map(_place, ordered(sorted(splits)))) if sealed[1] == "annotations" else []
    if strange := sorted(files - {SOURCE, *jsons}):
        return f"files that searchkit has not written: {some(strange)}"
    if jsons:
        sha = hashlib.sha256(b"".join(fsio.read_bytes(os.path.join(folder, path)) or b"" for path in jsons)).hexdigest()
    else:
        sha = _sha_of(links)
    return "" if sha == sealed[2] else f"its {sealed[1]} are not those that searchkit has written"


def _contents(folder: str) -> tuple[dict[str, str], set[str]]:
    """(the links in a folder with where they lead to, all other files), by their paths in it."""
    links, files = {}, set()
    for root, folders, names in os.walk(folder):
        for path in (os.path.join(root, name) for name in (*folders, *names)):
            if os.path.islink(path):
                links[os.path.relpath(path, folder)] = os.readlink(path)
            elif not os.path.isdir(path):
                files.add(os.path.relpath(path, folder))
    return links, files


def _sha_of(links: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(links.items())).encode(errors="surrogateescape")).hexdigest()


def _readable(text: str) -> str:
    """A text without the bytes of paths that are no letters."""
    return text.encode(errors="replace").decode()


def _free(folder: str, name: str, taken: Mapping[str, str]) -> str:
    """A path that no other image has: images of one name come from folders that are joined."""
    stem, ending = os.path.splitext(name)
    path, n = os.path.join(folder, name), 2
    while path in taken:
        path, n = os.path.join(folder, f"{stem}_{n}{ending}"), n + 1
    return path


def _place(split: str) -> str:
    return os.path.join("annotations", f"instances_{split}.json")


def _body(data: DataSet, split: str, names: Mapping[str, str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in data.splits[split].images:
        if not image.exists:
            continue
        number = len(images) + 1
        size = {"width": image.width, "height": image.height}
        images.append({"id": number, "file_name": names[image.path].replace(os.sep, "/"), **size})
        annotations += [
            {"id": len(annotations) + k, "image_id": number, **box} for k, box in enumerate(_boxes(image), 1)
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(data.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _boxes(image: DataImage) -> list[dict[str, Any]]:
    columns = (image.labels.tolist(), image.boxes.tolist(), image.area.tolist(), image.crowd.tolist())
    return [
        {
            "category_id": label + 1,
            "bbox": [_plain(value) for value in box],
            "area": _plain(area),
            "iscrowd": int(crowd),
        }
        for label, box, area, crowd in zip(*columns, strict=True)
    ]


def _plain(value: float) -> int | float:
    """A number as short as it can be written."""
    value = round(value, DECIMALS)
    return int(value) if value == int(value) else value
