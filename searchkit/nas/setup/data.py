"""The data that a config is made for: where its files lie, and what they say of sizes, boxes and classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.data.coco import CocoSet, load_coco

SPLITS: Mapping[str, tuple[str, ...]] = {  # and the names that others have for them
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LEAST_VAL = 15  # images, below which a score says too little to choose an arch by
ASPECT = 0.06  # how far the aspects of two images may be apart, as a part of them, to count as one
SAME = 0.9  # the share of the images that must be of one aspect for input shapes to have it


@dataclass(frozen=True)
class Files:
    """One split, by its paths below the data's folder."""

    annotations: str
    images: str


@dataclass(frozen=True, eq=False)
class Facts:
    """What the data says; sizes and boxes are those of the training images."""

    folder: str  # as it was given
    files: Mapping[str, Files]
    counts: Mapping[str, int]  # images of each split
    classes: tuple[str, ...]
    sizes: np.ndarray  # (N, 2) height and width of each image, px
    boxes: np.ndarray  # (M, 4) x0 y0 x1 y1, px
    image: np.ndarray  # (M,) the image of each box

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


def find(folder: str) -> dict[str, Files]:
    """The splits of a folder of COCO data: annotations/<…train….json> with images/ or <train…>/ beside it, or
    <train>/_annotations.coco.json. Raises UsageError where there are none."""
    if not os.path.isdir(folder):
        raise UsageError(f"no folder {folder}", "Give the folder of the data: images and their annotations")
    splits = {}
    for split, names in SPLITS.items():
        files = [found for name in names for found in _of(folder, name)]
        if files:
            splits[split] = files[0]
    if "train" not in splits:
        raise UsageError(
            f"{folder} holds no annotations of a training set that are COCO's",
            "Such as annotations/instances_train.json with images/ beside it; see search-nas data",
        )
    return splits


def _of(folder: str, name: str) -> list[Files]:
    beside = os.path.join(name, "_annotations.coco.json")
    if os.path.isfile(os.path.join(folder, beside)):
        return [Files(beside, name)]
    annotations = os.path.join(folder, "annotations")
    there = sorted(os.listdir(annotations)) if os.path.isdir(annotations) else []
    stems = [(file, os.path.splitext(file)[0]) for file in there if file.endswith(".json")]
    fitting = [(file, stem) for file, stem in stems if stem.removeprefix("instances_").startswith(name)]
    found = []
    for file, stem in fitting:
        own = [stem.removeprefix("instances_"), os.path.join("images", stem.removeprefix("instances_")), "images"]
        images = next((path for path in own if os.path.isdir(os.path.join(folder, path))), "")
        found.append(Files(os.path.join("annotations", file), images))
    return found


def open_facts(folder: str, files: Mapping[str, Files]) -> tuple[Facts, dict[str, CocoSet]]:
    """(what the data says, its sets). Raises UsageError for sets that can't be used."""
    sets = {
        split: load_coco(os.path.join(folder, each.annotations), os.path.join(folder, each.images))
        for split, each in files.items()
    }
    train = sets["train"]
    kept = [(image.boxes[~image.crowd], i) for i, image in enumerate(train.images)]
    boxes = np.concatenate([boxes for boxes, _ in kept]).astype(np.float64)
    if not len(boxes):
        raise UsageError(f"{train.source} has no boxes", "Give training images with boxes")
    facts = Facts(
        folder,
        dict(files),
        {split: len(each.images) for split, each in sets.items()},
        train.names,
        np.array([(image.height, image.width) for image in train.images], np.float64),
        boxes,
        np.concatenate([np.full(len(boxes), i) for boxes, i in kept]),
    )
    return facts, sets


def check_val(facts: Facts) -> None:
    """Raises UsageError where there are too few images to choose archs by."""
    n = facts.counts.get("val", 0)
    if n >= LEAST_VAL:
        return
    raise UsageError(
        f"{facts.folder} has {n or 'no'} validation image{'' if n == 1 else 's'}, and {LEAST_VAL} is the least: archs "
        "are chosen by their scores on them, which of so few images differ by chance more than archs do",
        f"Share the images out anew: search-nas data split {facts.folder} --portion .8 .1 .1 --out split",
    )
