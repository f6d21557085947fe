"""A data set in a neutral form: images with their boxes, by split, whatever format its files have.

Two sets are the same data where their digests are equal, whatever format they are written in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchkit.nas.data.coco import CocoSet, ImageInfo
from searchkit.nas.data.coco_boxes import usable
from searchkit.nas.data.report import DataReport

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)  # in this order wherever several stand
WITHOUT_AREA = ("malformed", "flat", "outside")  # kinds of faults: boxes that are in no set
LEFT_OUT = ("duplicate_image", "orphan", "no_image", "other_shape", "unannotated", "unlisted", "unreadable")
STEPS_PER_PX = 100  # of a digest: boxes are compared to a hundredth of a pixel


@dataclass(frozen=True, eq=False)
class DataImage:
    """One image of a set: with the N boxes on it, or for a classifier with its one label and none."""

    path: str
    width: int  # px, of the image that its boxes are on (see images.decode); 0 for a classifier: not looked at
    height: int
    boxes: np.ndarray  # (N, 4) float64, x y width height in px, as the files have them: they may reach beyond the image
    labels: np.ndarray  # (N,) int64, 0..C-1; of a classifier's image (1,)
    crowd: np.ndarray  # (N,) bool: a region of many objects, which nothing is trained on
    area: np.ndarray  # (N,) float64, px^2, of the object's mask where the files have one
    exists: bool = True  # whether the file was found

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in the order of its files."""

    images: tuple[DataImage, ...]
    source: str  # what it was read from: a COCO json, a list, a folder
    folder: str  # the images' files are named relative to it; of a COCO json as `data.<split>.images` of a config
    report: DataReport  # what was counted while it was read

    @property
    def n_boxes(self) -> int:
        """Boxes without the crowd regions."""
        return sum(int((~image.crowd).sum()) for image in self.images)

    def counts(self, classes: int) -> np.ndarray:
        """(classes,) int64: boxes of each class without crowd regions; of a classifier's set, images of each."""
        labels = [image.labels[~image.crowd] if len(image.crowd) else image.labels for image in self.images]
        return np.bincount(np.concatenate(labels) if labels else [], minlength=classes)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Splits of one format with the same classes: label i of an image means classes[i]."""

    format: str  # a key of table.FORMATS
    root: str  # the folder, or the file, that it was read from
    task: str  # det, cls
    classes: tuple[str, ...]
    splits: Mapping[str, Split]  # train, val and test first, in this order
    notes: tuple[str, ...] = ()  # about the set as a whole, for people


def of_coco(data: CocoSet, classes: Sequence[str]) -> tuple[DataImage, ...]:
    """The images of a COCO set with its boxes that have an area within their image; classes: all names, in order."""
    place = np.array([0, *(list(classes).index(name) for name in data.names)], np.int64)
    return tuple(_image(info, place) for info in data.images)


def _image(info: ImageInfo, place: np.ndarray) -> DataImage:
    truth = info.truth
    assert truth is not None  # a set that was read has it
    keep = usable(truth.xywh, np.array([(info.width, info.height)]))
    labels, crowd = place[truth.labels[keep]], truth.crowd[keep]
    return DataImage(info.path, info.width, info.height, truth.xywh[keep], labels, crowd, truth.area[keep], info.exists)


def reading_notes(data: DataSet, kinds: Collection[str] | None = None) -> list[str]:
    """What was counted while a set was read, a line for each kind of fault in each split, as it is where the set is
    written in another form. kinds: those to tell (default: all)."""
    notes = list(data.notes)
    for name, part in data.splits.items():
        lines = {kind: line for kind, _, line in part.report.faults if kinds is None or kind in kinds}
        flat = sum(part.report.count(kind) for kind in WITHOUT_AREA)
        if flat:
            notes.append(f"{name}: boxes without an area within their image (left out): {flat}")
        notes += [f"{name}: {line}" for kind, line in lines.items() if kind not in (*WITHOUT_AREA, "missing")]
    if missing := sum(not image.exists for part in data.splits.values() for image in part.images):
        notes.append(f"images whose files are missing (left out): {missing}")
    return notes


def ordered(names: Sequence[str]) -> list[str]:
    """Names of splits: train, val, test, and then others in their order."""
    return [*(name for name in SPLITS if name in names), *(name for name in names if name not in SPLITS)]


def digest(data: DataSet) -> str:
    """sha256 (hex) of which images each split has, by the names of their files without folders, how large they are, and
    what is on them: names of classes, and boxes to a hundredth of a pixel.

    Neither the order of anything counts, nor areas, nor classes without a box, nor pixels. Six decimals, as YOLO's
    files have, hold a hundredth of a pixel for images of up to 6,600 px.
    """
    lines = []
    for split, part in data.splits.items():
        for image in part.images:
            boxes = np.rint(image.boxes * STEPS_PER_PX).astype(np.int64).tolist() or [()]
            crowd = image.crowd.tolist() or [False]
            objects = sorted(
                (data.classes[label], *box, is_crowd)
                for label, box, is_crowd in zip(image.labels.tolist(), boxes, crowd, strict=bool(len(image.labels)))
            )
            lines.append(repr((split, image.name, image.width, image.height, objects)))
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()
