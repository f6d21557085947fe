"""Read COCO detection annotations into a `CocoSet`: plain arrays, checked once, with a report of the faults.

Boxes become xyxy in absolute pixels; category ids become labels 1..C (0 is background, as torchvision has it).
The file's own numbers are kept beside them (`Truth`), so that scores are those of the official evaluation.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from searchkit import console
from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.coco_boxes import judge, read_table
from searchkit.nas.data.coco_images import read_entries, whole
from searchkit.nas.data.pixels import Reading, both
from searchkit.nas.data.report import DataReport, Faults, other_classes

AS_IS = Reading()
SHOWN = 8  # keys of a file that is none of ours


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotations of one image as the file has them: what scores are counted against; M rows."""

    xywh: np.ndarray  # (M, 4) float64: x, y, width, height in px; finite, but neither clipped nor of positive size
    area: np.ndarray  # (M,) float64, px^2
    labels: np.ndarray  # (M,) int64, 1..C
    crowd: np.ndarray  # (M,) bool


@dataclass(frozen=True, eq=False)
class ImageInfo:
    """One image and its boxes; all arrays have N rows, in the order of the file."""

    id: int  # of the file; where ids of the file are texts, an image's place in it, from 1
    path: str
    width: int  # px, of the image that its boxes are on: upright, or as stored (see images.decode)
    height: int
    boxes: np.ndarray  # (N, 4) float32, x0 y0 x1 y1 in px, inside the image, never without area
    labels: np.ndarray  # (N,) int64, 1..C
    crowd: np.ndarray  # (N,) bool
    area: np.ndarray  # (N,) float32, px^2, as the file has it (of the object's mask, where there is one)
    truth: Truth | None = None  # None: the boxes above
    given_id: int | str | None = None  # of the file, where it is another one
    exists: bool = True  # whether the file was found

    @property
    def file_id(self) -> int | str:
        """The id of the file."""
        return self.id if self.given_id is None else self.given_id


@dataclass(frozen=True, eq=False)
class CocoSet:
    """Images in the order of the file, and the categories: `categories[label - 1]` is (category id, name), without an
    id where the file does not declare it (see `matched`)."""

    images: tuple[ImageInfo, ...]
    categories: tuple[tuple[int | None, str], ...]
    report: DataReport
    source: str  # path of the annotation file
    reading: Reading = AS_IS  # how image files are read

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories)

    @property
    def aspect_ratios(self) -> list[float]:
        """Width over height of every image."""
        return [image.width / image.height for image in self.images]

    def read_as(self, reading: Reading) -> CocoSet:
        """The same images, their files read in this way."""
        return replace(self, reading=reading)

    @property
    def n_boxes(self) -> int:
        """Boxes without the crowd regions."""
        return sum(int((~image.crowd).sum()) for image in self.images)


def load_coco(
    annotations: str,
    images: str,
    *,
    classes: Sequence[str] | None = None,
    partial: bool = False,
    limit: int | None = None,
    reading: Reading = AS_IS,
    min_box: float = 0,
) -> CocoSet:
    """Read the COCO file `annotations`, whose images lie in the folder `images`.

    classes: names of the categories to use; their order gives the labels (default: all, in the order of their ids).
    partial: the file need not declare all of them; see `matched`.
    limit: use the first `limit` images of the file.
    reading: how image files are read; where its range is None and there are deep greys, their values tell it.
    min_box: boxes with a side below this, in px, are counted in the report: training will leave them out.

    Raises UsageError where the file can't be used: unreadable, a used category that is not declared, an unknown class,
    image ids that are neither whole numbers nor texts, no image at all, none of the image files found, boxes that are
    plainly normalised, or corners. All else is repaired as its line in `report` says.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    return of_raw(
        read_raw(annotations),
        images,
        annotations,
        classes=classes,
        partial=partial,
        limit=limit,
        reading=reading,
        min_box=min_box,
    )


def of_raw(
    raw: Mapping[str, list[Any]],
    images: str,
    source: str,
    *,
    classes: Sequence[str] | None = None,
    partial: bool = False,
    limit: int | None = None,
    reading: Reading = AS_IS,
    min_box: float = 0,
    faults: Faults | None = None,
) -> CocoSet:
    """`load_coco` of the lists of a file that is read already, or of what a reader of another format made of its files.

    source: what messages call it. faults: those that were met before, which the report begins with.
    """
    faults = Faults() if faults is None else faults
    declared = _declared(raw["categories"], source, faults)
    categories = _selected(declared, classes, source, partial)
    entries, ids, reading = read_entries(raw["images"], images, limit, source, reading, faults)
    table = read_table(raw["annotations"], declared, categories, entries, ids, source, faults)
    infos = tuple(
        ImageInfo(
            entry.number,
            entry.path,
            entry.width,
            entry.height,
            own.boxes,
            own.labels,
            own.crowd,
            own.area,
            Truth(*own.truth),
            None if entry.id == entry.number else entry.id,
            entry.exists,
        )
        for entry, own in zip(entries, judge(entries, table, source, min_box, faults), strict=True)
    )
    return CocoSet(infos, categories, _report(source, infos, categories, faults), source, reading)


def subset(data: CocoSet, indices: Sequence[int]) -> CocoSet:
    """The images at `indices`, in that order; the report stays that of the whole file."""
    return replace(data, images=tuple(data.images[i] for i in indices))


def matched(data: CocoSet, names: Sequence[str]) -> CocoSet:
    """The set with these classes in this order, by name. A class that its file does not declare has no examples; one
    that is not among these is left out if it has none; the report says so. If it has some, the set stays as it is: see
    `same_classes`."""
    if data.names == tuple(names):
        return data
    used = np.unique(np.concatenate([_truth_labels(image) for image in data.images]))
    beyond = [name for name in data.names if name not in names]
    if {data.names[label - 1] for label in used} & {*beyond}:
        return data
    numbers = {name: number for number, name in data.categories}
    categories = tuple((numbers.get(name), name) for name in names)
    moved = np.array([0, *(1 + list(names).index(n) if n in names else 0 for n in data.names)], np.int64)

    def relabelled(image: ImageInfo) -> ImageInfo:
        truth = image.truth and replace(image.truth, labels=moved[image.truth.labels])
        return replace(image, labels=moved[image.labels], truth=truth)

    report = replace(data.report, faults=(*data.report.faults, *other_classes(data.source, names, data.names)))
    return replace(data, images=tuple(map(relabelled, data.images)), categories=categories, report=report)


def _truth_labels(image: ImageInfo) -> np.ndarray:
    return image.labels if image.truth is None else image.truth.labels


def same_classes(data: CocoSet, other: CocoSet) -> None:
    """UsageError where a label of one set means another class in the other: names what differs."""
    if data.names == other.names:
        return
    parts = [(a.source, [name for name in a.names if name not in b.names]) for a, b in ((data, other), (other, data))]
    only = [f"only {source} has {', '.join(some)}" for source, some in parts if some]
    orders = f"they are in different orders: {', '.join(data.names)} and {', '.join(other.names)}"
    raise UsageError(
        f"{data.source} and {other.source} must have the same classes; {'; '.join(only) or orders}",
        "Name in data.classes those to use; boxes of others are then left out, and counted",
    )


def joined(first: CocoSet, second: CocoSet) -> CocoSet:
    """The images of both sets, for training on both. Raises UsageError where their classes differ."""
    same_classes(first, second)
    return replace(first, images=first.images + second.images, reading=joined_reading(first, second))


def joined_reading(first: Any, second: Any) -> Reading:
    """How the files of two sets are read. Raises UsageError where it isn't the same."""
    reading = both(first.reading, second.reading)
    if reading is None:
        texts = [f"exif {r.exif}, deep greys {r.text()}" for r in (first.reading, second.reading)]
        raise UsageError(f"{first.source} and {second.source} are read differently: {texts[0]}; {texts[1]}")
    return reading


def require_boxes(data: CocoSet, min_box: float = 0) -> None:
    """UsageError where no image has a box to learn from: one whose sides are at least min_box px."""
    if any(
        ((image.boxes[~image.crowd, 2:] - image.boxes[~image.crowd, :2]) >= min_box).all(1).any()
        for image in data.images
    ):
        return
    report_text = "; ".join(data.report.lines)
    least = f" of at least {min_box:g} px (augment.min_box)" if min_box and data.n_boxes else ""
    raise UsageError(
        f"training needs boxes{least}, but {data.source} has none in {len(data.images)} images of "
        f"{', '.join(data.names)}",
        f"Found: {report_text}",
    )


def read_raw(path: str) -> dict[str, list[Any]]:
    """The three lists of a COCO file. Raises UsageError where it is none."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        json_files = (
            [name for name in sorted(os.listdir(folder)) if name.endswith(".json")] if os.path.isdir(folder) else []
        )
        raise UsageError(f"no such annotation file: {path}{did_you_mean(os.path.basename(path), json_files)}") from None
    except OSError as e:
        raise UsageError(f"cannot read the annotation file {path}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} is not JSON: {e}", "It must be a COCO file of object instances.") from e
    keys = ("images", "annotations", "categories")
    wrong = [key for key in keys if not isinstance(raw, dict) or not isinstance(raw.get(key), list)]
    if wrong:
        keys_text = f"a {type(raw).__name__}"
        if isinstance(raw, dict):
            more = f", and {len(raw) - SHOWN} more" if len(raw) > SHOWN else ""
            keys_text = ", ".join(map(str, list(raw)[:SHOWN])) + more
        hint = "A COCO file of object instances is an object with the lists images, annotations and categories."
        raise UsageError(f"{path} has no list {', '.join(wrong)}; found: {keys_text or 'nothing'}", hint)
    return {key: raw[key] for key in keys}


def _declared(raw: list[Any], source: str, faults: Faults) -> dict[int, str]:
    """Category id -> name, in the order of the ids; every name once."""
    names: dict[int, str] = {}
    for entry in raw:
        number = whole(entry.get("id")) if isinstance(entry, Mapping) else None
        if number is None:
            raise UsageError(f"{source}: a category must have a whole number as its id, got {entry!r:.80}")
        if number in names:
            faults.add("duplicate_category", f"{number} ({names[number]})")
        else:
            names[number] = str(entry.get("name", f"category {number}"))
    if not names:
        raise UsageError(f"{source} declares no categories")
    counts = Counter(names.values())
    for number, name in names.items():
        if counts[name] > 1:
            faults.add("duplicate_name", f"{name} (now: {name} [{number}])")
            names[number] = f"{name} [{number}]"
    low, high = min(names), max(names)
    unused = high - low + 1 - len(names)
    faults.add("gaps", f"{next((i for i in range(low, high) if i not in names), '')}", unused)
    return dict(sorted(names.items()))


def _selected(
    declared: dict[int, str], classes: Sequence[str] | None, source: str, partial: bool
) -> tuple[tuple[int, str], ...]:
    """(category id, name) in the order of the labels."""
    if classes is None:
        return tuple(declared.items())
    numbers = {name: number for number, name in declared.items()}
    names = tuple(numbers)
    if partial and numbers.keys() & {*classes}:
        classes = [name for name in classes if name in numbers]
    wrong = [f"{name}{did_you_mean(name, names)}" for name in classes if name not in numbers]
    if wrong:
        raise UsageError(f"{source} has no category {'; '.join(wrong)}", f"It declares: {', '.join(names)}")
    if not classes or len(set(classes)) < len(classes):
        raise UsageError(f"classes must name categories, each once; got {', '.join(classes) or 'nothing'}")
    return tuple((numbers[name], name) for name in classes)


def _report(
    source: str, infos: tuple[ImageInfo, ...], categories: tuple[tuple[int, str], ...], faults: Faults
) -> DataReport:
    labels = np.concatenate([info.labels[~info.crowd] for info in infos])
    counts = np.bincount(labels, minlength=len(categories) + 1)[1:]
    shown = [f"{name} {n}" for (_, name), n in zip(categories[:10], counts, strict=False)]
    if len(categories) > 10:
        shown.append(f"{len(categories) - 10} more")
    pairs = ((infos, "image", ""), (labels, "box", "boxes"), (categories, "class", "classes"))
    images, boxes, classes = (console.counted(len(there), one, several) for there, one, several in pairs)
    summary = f"{images}, {boxes} in {classes} ({', '.join(shown)})"
    return DataReport(f"{source}: {summary}", faults.lines())
