"""What readers of other formats make of their files: the lists of a COCO file, which are judged as those are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.data.coco import of_raw
from searchkit.nas.data.formats.coco import UNSPLIT, data_set
from searchkit.nas.data.formats.listing import Listing
from searchkit.nas.data.formats.neutral import TRAIN, DataSet, ordered
from searchkit.nas.data.report import Faults

Box = tuple[str, int, tuple[float, float, float, float]]  # place (for people), number of its class, x y width height px


@dataclass
class Boxed:
    """The images of one split, and what was counted while they were read."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    def add(self, path: str, size: tuple[int, int] | None, boxes: Sequence[Box]) -> None:
        """An image, by its path; size: (width, height) px, None where its file says it."""
        number = len(self.images) + 1
        width, height = size or (None, None)
        self.images.append({"id": number, "file_name": path, "width": width, "height": height})
        self.annotations += [
            {"id": place, "image_id": number, "category_id": label, "bbox": list(xywh), "area": xywh[2] * xywh[3]}
            for place, label, xywh in boxes
        ]


def of_boxed(
    kind: str,
    root: str,
    splits: Mapping[str, Boxed],
    classes: Sequence[str],
    *,
    unsplit: bool = False,
    notes: Sequence[str] = (),
) -> DataSet:
    """The neutral form of what a reader found; classes: their names by number. Splits without an image are left out."""
    filled = {split: splits[split] for split in ordered(list(splits)) if splits[split].images}
    if not filled:
        raise UsageError(f"{root} has no image that is of a split")
    if not classes:
        raise UsageError(f"{root}: no image has an object, so there is no class to learn")
    folder = root if os.path.isdir(root) else os.path.dirname(root) or "."
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    sets = {}
    for split, boxed in filled.items():
        for image in boxed.images:
            image["file_name"] = os.path.relpath(image["file_name"], folder)
        raw = {"images": boxed.images, "annotations": boxed.annotations, "categories": categories}
        sets[split] = (of_raw(raw, folder, f"{root} ({split})", faults=boxed.faults), folder)
    return data_set(kind, root, sets, [UNSPLIT, *notes] if unsplit else notes, source=root)


def assigned(splits: Sequence[str | None]) -> tuple[list[str | None], bool]:
    """(the split of each image, whether nothing says any): all are of train then; None: of no split, left out."""
    alone = not any(splits)
    return [TRAIN if alone else split for split in splits], alone


def count_images_alone(listing: Listing, used: Collection[str], boxed: Boxed) -> None:
    """Count the images in the folders of those that are used which have no file of annotations."""
    used = {os.path.normpath(path) for path in used}
    folders = {os.path.dirname(path) for path in used}
    for folder, name in listing.images:
        path = os.path.normpath(listing.path(folder, name))
        if os.path.dirname(path) in folders and path not in used:
            boxed.faults.add("unannotated", path)
