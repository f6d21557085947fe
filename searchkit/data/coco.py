"""Read COCO detection annotations into a `CocoSet`: plain arrays, checked once, with a report of what was found wrong.

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
from PIL import Image

from searchkit.data.report import DataReport, Faults
from searchkit.errors import UsageError, did_you_mean

_SLACK_PX = 0.01  # annotation tools write two decimals; a box beyond its image by less is no fault


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

    id: int
    path: str
    width: int  # px, as stored (EXIF orientation is not applied)
    height: int
    boxes: np.ndarray  # (N, 4) float32, x0 y0 x1 y1 in px, inside the image, never without area
    labels: np.ndarray  # (N,) int64, 1..C
    crowd: np.ndarray  # (N,) bool
    area: np.ndarray  # (N,) float32, px^2, as the file has it (of the object's mask, where there is one)
    truth: Truth | None = None  # None: the boxes above


@dataclass(frozen=True, eq=False)
class CocoSet:
    """Images in the order of the file, and the categories: `categories[label - 1]` is (category id, name)."""

    images: tuple[ImageInfo, ...]
    categories: tuple[tuple[int, str], ...]
    report: DataReport
    source: str  # path of the annotation file

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories)

    @property
    def aspect_ratios(self) -> list[float]:
        """Width over height of every image."""
        return [image.width / image.height for image in self.images]

    @property
    def n_boxes(self) -> int:
        """Boxes without the crowd regions."""
        return sum(int((~image.crowd).sum()) for image in self.images)


def load_coco(
    annotations: str, images: str, *, classes: Sequence[str] | None = None, limit: int | None = None
) -> CocoSet:
    """Read the COCO file `annotations`, whose images lie in the folder `images`.

    classes: names of the categories to use; their order gives the labels (default: all, in the order of their ids).
    limit: use the first `limit` images of the file.

    Raises UsageError where the file can't be obeyed: unreadable, a used category that is not declared, an unknown
    class, image ids that are no whole numbers, no image at all, none of the image files there. All else is mended as
    its line in `report` says.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    raw = _read(annotations)
    faults = Faults()
    declared = _declared(raw["categories"], annotations, faults)
    categories = _selected(declared, classes, annotations)
    entries, known = _entries(raw["images"], images, limit, annotations, faults)
    table = _table(raw["annotations"], declared, categories, entries, known, annotations, faults)
    infos = _group(entries, table, faults)
    return CocoSet(infos, categories, _report(annotations, infos, categories, faults), annotations)


def subset(data: CocoSet, indices: Sequence[int]) -> CocoSet:
    """The images at `indices`, in that order; the report stays that of the whole file."""
    return replace(data, images=tuple(data.images[i] for i in indices))


def same_classes(data: CocoSet, other: CocoSet) -> None:
    """UsageError where a label of one set means another class in the other."""
    if data.names != other.names:
        raise UsageError(
            f"{data.source} and {other.source} must have the same classes in the same order, but have "
            f"{', '.join(data.names)} and {', '.join(other.names)}",
            "Name them in data.classes: their order gives the labels of every file",
        )


def joined(first: CocoSet, second: CocoSet) -> CocoSet:
    """The images of both sets, for training on both. Raises UsageError where their classes differ."""
    same_classes(first, second)
    return replace(first, images=first.images + second.images)


def require_boxes(data: CocoSet) -> None:
    """UsageError where no image has a box to learn from."""
    if data.n_boxes:
        return
    found = "; ".join(data.report.lines)
    raise UsageError(
        f"training needs boxes, but {data.source} has none in {len(data.images)} images of {', '.join(data.names)}",
        f"Found: {found}",
    )


def _read(path: str) -> dict[str, list[Any]]:
    """The three lists of a COCO file."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        there = [name for name in sorted(os.listdir(folder)) if name.endswith(".json")] if os.path.isdir(folder) else []
        raise UsageError(f"no such annotation file: {path}{did_you_mean(os.path.basename(path), there)}") from None
    except OSError as e:
        raise UsageError(f"cannot read the annotation file {path}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"{path} is not JSON: {e}", "It must be a COCO file of object instances.") from e
    keys = ("images", "annotations", "categories")
    wrong = [key for key in keys if not isinstance(raw, dict) or not isinstance(raw.get(key), list)]
    if wrong:
        found = ", ".join(map(str, raw)) if isinstance(raw, dict) else f"a {type(raw).__name__}"
        hint = "A COCO file of object instances is an object with the lists images, annotations and categories."
        raise UsageError(f"{path} has no list {', '.join(wrong)}; found: {found or 'nothing'}", hint)
    return {key: raw[key] for key in keys}


def _whole(value: Any) -> int | None:
    """An id as a whole number, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _declared(raw: list[Any], source: str, faults: Faults) -> dict[int, str]:
    """Category id -> name, in the order of the ids; every name once."""
    found: dict[int, str] = {}
    for entry in raw:
        number = _whole(entry.get("id")) if isinstance(entry, Mapping) else None
        if number is None:
            raise UsageError(f"{source}: a category must have a whole number as its id, got {entry!r:.80}")
        if number in found:
            faults.add("duplicate_category", f"{number} ({found[number]})")
        else:
            found[number] = str(entry.get("name", f"category {number}"))
    if not found:
        raise UsageError(f"{source} declares no categories")
    counts = Counter(found.values())
    for number, name in found.items():
        if counts[name] > 1:
            faults.add("duplicate_name", f"{name} (now: {name} [{number}])")
            found[number] = f"{name} [{number}]"
    low, high = min(found), max(found)
    unused = high - low + 1 - len(found)
    faults.add("gaps", f"{next((i for i in range(low, high) if i not in found), '')}", unused)
    return dict(sorted(found.items()))


def _selected(declared: dict[int, str], classes: Sequence[str] | None, source: str) -> tuple[tuple[int, str], ...]:
    """(category id, name) in the order of the labels."""
    if classes is None:
        return tuple(declared.items())
    numbers = {name: number for number, name in declared.items()}
    names = tuple(numbers)
    wrong = [f"{name}{did_you_mean(name, names)}" for name in classes if name not in numbers]
    if wrong:
        raise UsageError(f"{source} has no category {'; '.join(wrong)}", f"It declares: {', '.join(names)}")
    if not classes or len(set(classes)) < len(classes):
        raise UsageError(f"classes must name categories, each once; got {', '.join(classes) or 'nothing'}")
    return tuple((numbers[name], name) for name in classes)


@dataclass(frozen=True)
class _Entry:
    id: int
    path: str
    width: int
    height: int


def _entries(
    raw: list[Any], folder: str, limit: int | None, source: str, faults: Faults
) -> tuple[list[_Entry], set[int]]:
    """The images to use, and the ids of all images of the file."""
    known: set[int] = set()
    entries: list[_Entry] = []
    listings: dict[str, set[str]] = {}  # one listing per folder: a stat per file takes minutes on network drives
    for item in raw:
        number = _whole(item.get("id")) if isinstance(item, Mapping) else None
        if number is None or not isinstance(item.get("file_name"), str):
            hint = "pycocotools takes nothing else either: renumber the images, and the image_id of their annotations."
            raise UsageError(f"{source}: an image must have a whole number as id and a file_name: {item!r:.80}", hint)
        if number in known:
            faults.add("duplicate_image", f"{number} ({item['file_name']})")
            continue
        known.add(number)
        if limit is not None and len(entries) >= limit:
            continue
        path = os.path.join(folder, item["file_name"])
        if not _is_there(path, listings):
            faults.add("missing", path)
        width, height = _size(item, path, faults)
        entries.append(_Entry(number, path, width, height))
    if not entries:
        raise UsageError(f"{source} lists no images")
    if faults.counts["missing"] == len(entries):
        first = entries[0].path
        raise UsageError(f"none of the {len(entries)} image files is there, e.g. {first}", _where(first, folder))
    return entries, known


def _is_there(path: str, listings: dict[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = set(os.listdir(folder or "."))
        except OSError:
            listings[folder] = set()
    return name in listings[folder]


def _where(path: str, folder: str) -> str:
    """A hint at the folder that does have the file."""
    if not os.path.isdir(folder):
        return f"There is no folder {folder}."
    for name in sorted(os.listdir(folder)):
        other = os.path.join(folder, name)
        if os.path.exists(os.path.join(other, os.path.relpath(path, folder))):
            return f"It lies in {other}: give that folder."
    return f"Give the folder to which the file_name of an image is relative; {folder} is not it."


def _size(item: Mapping[str, Any], path: str, faults: Faults) -> tuple[int, int]:
    """(width, height) in px."""
    width, height = _whole(item.get("width")), _whole(item.get("height"))
    if width and height and width > 0 and height > 0:
        return width, height
    try:
        with Image.open(path) as image:
            faults.add("unsized", path)
            return image.size
    except OSError as e:
        raise UsageError(f"the annotations do not say the size of {path}, and the file can't be read: {e}") from e


@dataclass(frozen=True)
class _Table:
    """The annotations that are used, of all images, in the order of the file."""

    image: np.ndarray  # (A,) int64, index of the image
    labels: np.ndarray  # (A,) int64
    numbers: np.ndarray  # (A, 5) float64: x, y, width, height, area
    crowd: np.ndarray  # (A,) bool
    ids: list[str]


def _table(
    raw: list[Any],
    declared: dict[int, str],
    categories: tuple[tuple[int, str], ...],
    entries: list[_Entry],
    known: set[int],
    source: str,
    faults: Faults,
) -> _Table:
    """All annotations of the images to use, of the selected categories; their boxes are not judged yet."""
    index = {entry.id: i for i, entry in enumerate(entries)}
    label_of = {number: label for label, (number, _) in enumerate(categories, 1)}
    undeclared: Counter[str] = Counter()
    seen: set[str] = set()
    images, labels, numbers, crowd, ids = [], [], [], [], []
    for item in raw:
        if not isinstance(item, Mapping) or "image_id" not in item or "category_id" not in item:
            raise UsageError(f"{source}: an annotation must have image_id and category_id: {item!r:.80}")
        number, category, owner = str(item.get("id")), _whole(item["category_id"]), _whole(item["image_id"])
        if category not in declared:
            undeclared[json.dumps(item["category_id"])] += 1
            continue
        if owner not in index:
            if owner not in known:
                faults.add("orphan", f"annotation {number} of image {item['image_id']!r:.40}")
            continue
        if "id" in item and number in seen:
            faults.add("duplicate_annotation", f"{number} (image {owner})")
        seen.add(number)
        if category not in label_of:
            faults.add("unselected", f"annotation {number} ({declared[category]})")
            continue
        images.append(index[owner])
        labels.append(label_of[category])
        numbers.append(_numbers(item))
        crowd.append(bool(item.get("iscrowd", 0)))
        ids.append(number)
    if undeclared:
        raise _undeclared(undeclared, declared, source)
    return _Table(
        np.array(images, np.int64),
        np.array(labels, np.int64),
        np.array(numbers, np.float64).reshape(-1, 5),
        np.array(crowd, bool),
        ids,
    )


def _numbers(item: Mapping[str, Any]) -> tuple[float, float, float, float, float]:
    """x, y, width, height, area; NaN for what is no number."""
    try:
        x, y, width, height = map(float, item["bbox"])
    except (KeyError, TypeError, ValueError):
        x = y = width = height = float("nan")
    try:
        area = float(item["area"])
    except (KeyError, TypeError, ValueError):
        area = float("nan")
    return x, y, width, height, area


def _undeclared(used: Counter[str], declared: dict[int, str], source: str) -> UsageError:
    lines = []
    for number, n in used.items():
        nearest = ""
        if number.removeprefix("-").isdecimal():
            near = sorted(declared, key=lambda i: abs(i - int(number)))[0]
            nearest = f" (the nearest declared one: {near}, {declared[near]})"
        lines.append(f"{source}: category {number} is used by {n} annotations, but not declared{nearest}")
    text = ", ".join(f"{number} {name}" for number, name in declared.items())
    return UsageError("\n".join(lines), f"Add it to the list categories, or mend the annotations. Declared: {text}")


def _group(entries: list[_Entry], table: _Table, faults: Faults) -> tuple[ImageInfo, ...]:
    """Judge and clip the boxes, then hand each image its own."""
    size = np.array([(entry.width, entry.height) for entry in entries], np.float64)[table.image].reshape(-1, 2)
    xywh, area = table.numbers[:, :4], table.numbers[:, 4]
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    boxes = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], 1).astype(np.float32)

    finite = np.isfinite(xywh).all(1)
    flat = finite & ~(xywh[:, 2:] > 0).all(1)
    outside = finite & ~flat & ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    keep = finite & ~flat & ~outside
    clipped = keep & ((low < -_SLACK_PX) | (high > size + _SLACK_PX)).any(1)
    no_area = finite & ~(np.isfinite(area) & (area > 0))
    masks = {"malformed": ~finite, "flat": flat, "outside": outside, "clipped": clipped, "no_area": no_area & keep}
    for kind, mask in (masks | {"crowd": keep & table.crowd}).items():
        for i in np.flatnonzero(mask)[:1]:
            box = ", ".join(f"{value:g}" for value in xywh[i])
            example = f"annotation {table.ids[i]} of {os.path.basename(entries[table.image[i]].path)}: [{box}]"
            faults.add(kind, example, int(mask.sum()))

    area = np.where(no_area, xywh[:, 2] * xywh[:, 3], area)
    trained, scored = (_per_image(table.image, mask, len(entries)) for mask in (keep, finite))
    infos = []
    for entry, rows, all_rows in zip(entries, trained, scored, strict=True):
        if not len(rows):
            faults.add("empty", entry.path)
        truth = Truth(xywh[all_rows], area[all_rows], table.labels[all_rows], table.crowd[all_rows])
        parts = (boxes[rows], table.labels[rows], table.crowd[rows], area[rows].astype(np.float32), truth)
        infos.append(ImageInfo(entry.id, entry.path, entry.width, entry.height, *parts))
    return tuple(infos)


def _per_image(owner: np.ndarray, mask: np.ndarray, n: int) -> list[np.ndarray]:
    """The rows of every image (0 <= owner < n) for which `mask` holds, in their order."""
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    return np.split(rows, np.searchsorted(owner[rows], np.arange(1, n)))


def _report(
    source: str, infos: tuple[ImageInfo, ...], categories: tuple[tuple[int, str], ...], faults: Faults
) -> DataReport:
    labels = np.concatenate([info.labels[~info.crowd] for info in infos])
    counts = np.bincount(labels, minlength=len(categories) + 1)[1:]
    shown = [f"{name} {n}" for (_, name), n in zip(categories[:10], counts, strict=False)]
    if len(categories) > 10:
        shown.append(f"{len(categories) - 10} more")
    what = f"{len(infos)} images, {len(labels)} boxes in {len(categories)} classes ({', '.join(shown)})"
    return DataReport(f"{source}: {what}", faults.lines())
