"""Class folders: a folder for each class, in folders for the splits or without; for classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.data.formats.coco import UNSPLIT
from searchkit.nas.data.formats.listing import SPLIT_WORDS, Listing, Options
from searchkit.nas.data.formats.neutral import TRAIN, DataImage, DataSet, Split, ordered
from searchkit.nas.data.label_files import Source, read_source
from searchkit.nas.data.report import DataReport

LOOKED_FOR = "a folder for each class with its images, in train, val and test or without them"


def evidence(listing: Listing) -> str:
    """Looked for last: images lie in folders in other formats, too."""
    folders = [folder for folder, _ in _splits(listing)]
    return ", ".join(f"{folder}/<class>/".lstrip("/") for folder in folders)


def _splits(listing: Listing) -> list[tuple[str, str]]:
    """(folder, split) of the folders with class folders in them."""
    depths: dict[str, set[str]] = {}  # first folder with images in or below it -> second ones
    for folder, _ in listing.images:
        first, _, rest = folder.partition("/")
        if first:
            depths.setdefault(first, set()).update([rest.split("/")[0]] if rest else [])
    splits = {first: SPLIT_WORDS[first.lower()] for first in depths if first.lower() in SPLIT_WORDS}
    if (depths and len(splits) == len(depths)) or len(splits) > 1:
        return [(folder, split) for folder, split in splits.items() if len(depths[folder]) > 1]
    return [("", TRAIN)] if len(depths) > 1 else []


def read_folder(listing: Listing, options: Options) -> DataSet:
    sources: dict[str, Source] = {}
    folders: dict[str, str] = {}
    for folder, split in _splits(listing):
        if split in sources:
            raise UsageError(f"two folders are of the split {split}: {folders[split]} and {listing.path(folder)}")
        folders[split] = listing.path(folder)
        sources[split] = read_source(folders[split], None)
    classes = tuple(sorted({name for source in sources.values() for name in source.names}))
    splits = {}
    for split in ordered(list(sources)):
        source = sources[split]
        place = np.array([classes.index(name) for name in source.names], np.int64)
        images = tuple(_images(source.store.where, place[source.labels]))
        count = f"{len(images):,} images in {len(source.names)} classes"
        report = DataReport(f"{folders[split]}: {count}", source.notes)
        splits[split] = Split(images, folders[split], folders[split], report)
    unsplit = [folder for folder, _ in _splits(listing)] == [""]
    return DataSet("folders", listing.root, "cls", classes, splits, (UNSPLIT,) if unsplit else ())


def _images(path_of: Callable[[int], str], labels: np.ndarray) -> Iterator[DataImage]:
    none, no_area, no_crowd = np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool)
    for i in range(len(labels)):
        yield DataImage(path_of(i), 0, 0, none, labels[i : i + 1], no_crowd, no_area)
