"""The data that a config is made for: where its files lie, and what they say of sizes, boxes and classes."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.data.coco import load_coco
from searchkit.nas.data.formats.neutral import SPLITS, TRAIN, VAL, DataSet
from searchkit.nas.data.formats.table import FORMATS
from searchkit.nas.data.formats.write import write_coco
from searchkit.nas.data.sets.check import FEW_VAL

ASPECT = 0.06  # how far the aspects of two images may be apart, as a part of them, to count as one
LEAST_TRAINED = 50  # percent of all images, that are learnt from at least
SAME = 0.9  # the share of the images that must be of one aspect for input shapes to have it


@dataclass(frozen=True)
class Files:
    """One split, by its paths below the data's folder."""

    annotations: str
    images: str


@dataclass(frozen=True, eq=False)
class Facts:
    """What the data says; sizes and boxes are those of the training images."""

    name: str  # begins the names of metrics
    folder: str  # of the data
    files: Mapping[str, Files]
    counts: Mapping[str, int]  # images of each split
    classes: tuple[str, ...]
    sizes: np.ndarray  # (N, 2) height and width of each image, px
    boxes: np.ndarray  # (M, 4) x0 y0 x1 y1, px
    image: np.ndarray  # (M,) the image of each box

    @property
    def mb(self) -> float:
        """What the files of training images take on disk, or so: a byte a pixel."""
        return float(self.sizes.prod(1).sum()) / 1e6

    @property
    def size(self) -> tuple[int, int]:
        """The image in the middle: height and width, px."""
        height, width = np.median(self.sizes, axis=0)
        return int(height), int(width)

    def aspect(self, stretches: bool) -> float:
        """Width / height that an input is to have: that of nearly all images; where they differ, 1 if they are
        stretched to it, else the long / the short edge in the middle, as an input holds images that lie and stand."""
        aspects = np.log(self.sizes[:, 1] / self.sizes[:, 0])
        middle = float(np.median(aspects))
        if not self.alike:
            middle = 0.0 if stretches else float(np.median(np.abs(aspects)))
        return 1.0 if abs(middle) <= ASPECT else float(np.exp(middle))

    @property
    def alike(self) -> bool:
        """Whether nearly all images have one aspect."""
        aspects = np.log(self.sizes[:, 1] / self.sizes[:, 0])
        return bool((np.abs(aspects - np.median(aspects)) <= ASPECT).mean() >= SAME)


@dataclass(frozen=True)
class Coco:
    """Data as trainings read it."""

    folder: str
    files: Mapping[str, Files]
    notes: tuple[str, ...]  # for people


def as_coco(data: DataSet, out: str, overwrite: bool = False) -> Coco:
    """The files of a set where they are COCO's; else they are written into the folder `out`, see write_coco."""
    if data.format == "coco":
        folders = [path for split in data.splits.values() for path in (split.source, split.folder)]
        root = data.root if os.path.isdir(data.root) else os.path.dirname(data.root) or "."
        if any(os.path.relpath(path, root).startswith(os.pardir) for path in folders):
            root = os.path.relpath(os.path.commonpath([os.path.abspath(path) for path in (root, *folders)]))
        files = {
            name: Files(*(_below(path, root) for path in (split.source, split.folder)))
            for name, split in data.splits.items()
            if name in SPLITS
        }
        return Coco(root, files, ())
    written = write_coco(data, out, overwrite=overwrite)
    files = {
        name: Files(_below(path, out), _below(written.images, out))
        for name, path in written.annotations.items()
        if name in SPLITS
    }
    title = FORMATS[data.format].title
    note = f"data: {title}, written as COCO into {out} (its images are links)"
    lost = f"images whose files are missing, left out: {written.left_out}"
    return Coco(out, files, (note, *([lost] if written.left_out else [])))


def _below(path: str, root: str) -> str:
    """A path relative to a folder that it is in; empty for the folder itself."""
    relative = os.path.relpath(path, root)
    return "" if relative == os.curdir else relative


def name_of(path: str) -> str:
    """What data is called in the names of metrics and files: the name of its folder, in letters that both may have."""
    whole = os.path.abspath(path)
    name = os.path.basename(whole if os.path.isdir(whole) else os.path.dirname(whole))
    return re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_") or "data"


def facts_of(coco: Coco, name: str) -> Facts:
    """What the data says, as a training reads it; name: what it is called."""
    sets = {
        split: load_coco(os.path.join(coco.folder, each.annotations), os.path.join(coco.folder, each.images))
        for split, each in coco.files.items()
    }
    train = sets[TRAIN]
    kept = [(image.boxes[~image.crowd], i) for i, image in enumerate(train.images)]
    return Facts(
        name,
        coco.folder,
        dict(coco.files),
        {split: len(each.images) for split, each in sets.items()},
        train.names,
        np.array([(image.height, image.width) for image in train.images], np.float64),
        np.concatenate([boxes for boxes, _ in kept]).astype(np.float64),
        np.concatenate([np.full(len(boxes), i) for boxes, i in kept]),
    )


def require(data: DataSet, wrong: Sequence[str], given: str) -> None:
    """Raises UsageError for data that no detector can be made for. wrong: what a check says of it; given: as it was
    named."""
    if data.task != "det":
        title = FORMATS[data.format].title
        raise UsageError(
            f"{given} is {title}, without boxes: init makes configs of detectors",
            "For a classifier begin with a recipe: search-init --template cls",
        )
    mend = _mend(data, given)
    if TRAIN not in data.splits:
        raise UsageError(f"{given} has no training set: its splits are {', '.join(data.splits)}", mend)
    if wrong:
        raise UsageError("; ".join(wrong), f"search-nas data check {shlex.quote(given)} --picture data.png shows more")
    n = len(data.splits[VAL].images) if VAL in data.splits else 0
    if n < FEW_VAL:
        raise UsageError(
            f"{given} has {n or 'no'} validation image{'' if n == 1 else 's'}, and {FEW_VAL} is the least: archs are "
            "chosen by their scores on them, which of so few images differ by chance more than archs do",
            mend,
        )


def _mend(data: DataSet, given: str) -> str:
    """How to share a set out, so that there is enough to choose archs by; and for a test, too, if there are images."""
    n = sum(len(split.images) for split in data.splits.values())
    percent = max(10, math.ceil(100 * FEW_VAL / max(n, 1)) + 1)  # one more: shares of classes come first
    if percent > LEAST_TRAINED:
        return f"It has {n} images in all, too few to learn from and to validate on: annotate more"
    tested = percent if 2 * percent <= LEAST_TRAINED else 0
    portion = " ".join(f"{part / 100:g}" for part in (100 - percent - tested, percent, tested))
    return f"Share the images out anew: search-nas data split {shlex.quote(given)} --portion {portion} --out parted"
