"""COCO json files of object instances: one for each split, in the folders where tools export them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.data.coco import CocoSet, of_raw, read_raw
from searchkit.nas.data.formats.listing import SPLIT_WORDS, Listing, Options, split_of
from searchkit.nas.data.formats.neutral import TRAIN, DataSet, Split, of_coco, ordered

LOOKED_FOR = "json files with the lists images, annotations and categories, such as annotations/instances_train.json"
_INSTANCES = "instances"  # where files are called so, those beside them are of captions or keypoints
_TRIED = 20  # images by which the folder of a file is known
_EXTRAS = {"segmentation": "a mask", "keypoints": "key points"}
UNSPLIT = "its files name no split: all images are of train"


def evidence(listing: Listing) -> str:
    return ", ".join(f"{folder}/{name}".lstrip("/") for folder, name in _of_instances(listing)[:3])


def _of_instances(listing: Listing) -> list[tuple[str, str]]:
    files = listing.jsons["coco"]
    return [file for file in files if _INSTANCES in file[1].lower()] or files


def read_folder(listing: Listing, options: Options) -> DataSet:
    files: dict[str, str] = {}
    pairs = [(folder, name) for folder, name in _of_instances(listing)]
    for folder, name in pairs:
        split = split_of(name) or split_of(folder) or (TRAIN if len(pairs) == 1 else None)
        path = listing.path(folder, name)
        if split is None:
            others = ", ".join(listing.path(*pair) for pair in pairs if pair != (folder, name))
            raise UsageError(
                f"nothing says of which split {path} is; beside it are {others}",
                "Name a file's split in its name (instances_val.json), or name one file instead of the folder",
            )
        if split in files:
            raise UsageError(f"two files are of the split {split}: {files[split]} and {path}", "Name one file")
        files[split] = path
    named = any(split_of(name) or split_of(folder) for folder, name in pairs)
    return _read(listing.root, {split: files[split] for split in ordered(list(files))}, options, named)


def read_file(path: str, options: Options) -> DataSet:
    folder, name = os.path.split(os.path.abspath(path))
    split = split_of(name) or SPLIT_WORDS.get(os.path.basename(folder).lower())
    return _read(path, {split or TRAIN: path}, options, split is not None)


def _read(root: str, files: Mapping[str, str], options: Options, named: bool) -> DataSet:
    sets: dict[str, tuple[CocoSet, str]] = {}
    extras = dict.fromkeys(_EXTRAS, 0)
    for split, path in files.items():
        raw = read_raw(path)
        folder = options.images or _folder_of(path, split, raw["images"])
        sets[split] = (of_raw(raw, folder, path), folder)
        for key in extras:
            extras[key] += sum(bool(item.get(key)) for item in raw["annotations"])
    notes = [f"{n:,} annotations have {_EXTRAS[key]}: their boxes alone are used" for key, n in extras.items() if n]
    return data_set("coco", root, sets, notes if named else [UNSPLIT, *notes])


def data_set(
    kind: str, root: str, sets: Mapping[str, tuple[CocoSet, str]], notes: Sequence[str] = (), source: str = ""
) -> DataSet:
    """The neutral form of COCO sets; sets: split -> (set, folder of its images). source: of all of them, where it isn't
    a file of each."""
    classes = tuple(dict.fromkeys(name for data, _ in sets.values() for name in data.names))
    splits = {
        split: Split(of_coco(data, classes), source or data.source, folder, data.report)
        for split, (data, folder) in sets.items()
    }
    return DataSet(kind, root, "det", classes, splits, tuple(notes))


def _folder_of(path: str, split: str, images: Sequence[Any]) -> str:
    """The folder of a file's images: the first of those where they usually lie that has one of them."""
    here = os.path.dirname(path) or "."
    above = os.path.dirname(os.path.abspath(path)) if here == "." else here
    above = os.path.dirname(above) or "."
    words = [word for word, meant in SPLIT_WORDS.items() if meant == split]
    stem = os.path.splitext(os.path.basename(path))[0].rpartition("_")[2]  # instances_train2017
    inner = ["", "images", stem, *words, *(f"images/{word}" for word in (stem, *words)), "JPEGImages", "data"]
    names = [image["file_name"] for image in images[:_TRIED] if isinstance(image, Mapping) and "file_name" in image]
    for folder in (here, above):
        for part in inner:
            candidate = os.path.join(folder, part) if part else folder
            if any(isinstance(name, str) and os.path.exists(os.path.join(candidate, name)) for name in names):
                return candidate
    return above if os.path.basename(here) == "annotations" else here
