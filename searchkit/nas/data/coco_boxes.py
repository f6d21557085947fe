"""The annotations of a COCO file: read, judged, and assigned to their images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.data.coco_images import Entry, image_id, whole
from searchkit.nas.data.report import Faults

_SLACK_PX = 0.01  # annotation tools write two decimals; a box beyond its image by less is no fault
_SLACK = 1e-3  # of normalised numbers, likewise
_FEW = 5  # from this many boxes on, it is judged whether they are corners
_NAN = float("nan")
_OTHER_KIND = ", whose id is a text in one place and a number in the other"


@dataclass(frozen=True)
class Table:
    """The annotations that are used, of all images, in the order of the file."""

    image: np.ndarray  # (A,) int64, index of the image
    labels: np.ndarray  # (A,) int64
    numbers: np.ndarray  # (A, 5) float64: x, y, width, height, area
    crowd: np.ndarray  # (A,) bool
    ids: list[str]


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image, see `coco.ImageInfo` and `coco.Truth`."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    truth: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # xywh, area, labels, crowd


def read_table(
    raw: list[Any],
    declared: dict[int, str],
    categories: tuple[tuple[int, str], ...],
    entries: list[Entry],
    all_ids: set[int | str],
    source: str,
    faults: Faults,
) -> Table:
    """All annotations of the images to use, of the selected categories; their boxes are not judged yet."""
    index = {entry.id: i for i, entry in enumerate(entries)}
    label_of = {number: label for label, (number, _) in enumerate(categories, 1)}
    undeclared: Counter[str] = Counter()
    seen: set[str] = set()
    images, labels, numbers, crowd, ids = [], [], [], [], []
    for item in raw:
        if not isinstance(item, Mapping) or "image_id" not in item or "category_id" not in item:
            raise UsageError(f"{source}: an annotation must have image_id and category_id: {item!r:.80}")
        number, category, owner = str(item.get("id")), whole(item["category_id"]), image_id(item["image_id"])
        if category not in declared:
            undeclared[json.dumps(item["category_id"])] += 1
            continue
        if owner not in index:
            if owner not in all_ids:
                kind = "" if faults.counts["orphan"] else _other_kind(owner, all_ids)
                faults.add("orphan", f"annotation {number} of image {item['image_id']!r:.40}{kind}")
            continue
        if "id" in item and number in seen:
            faults.add("duplicate_annotation", f"{number} (image {owner})")
        seen.add(number)
        if category not in label_of:
            faults.add("unselected", f"annotation {number} ({declared[category]})")
            continue
        images.append(index[owner])
        labels.append(label_of[category])
        numbers.append(_numbers(item, number, faults))
        crowd.append(bool(item.get("iscrowd", 0)))
        ids.append(number)
    if undeclared:
        raise _undeclared(undeclared, declared, source)
    if raw and faults.counts["orphan"] == len(raw) and _OTHER_KIND in faults.examples["orphan"]:
        raise UsageError(
            f"{source}: no annotation is of an image of the file, e.g. {faults.examples['orphan']}",
            "Write image_id in annotations as id in images is written: a text is no number",
        )
    return Table(
        np.array(images, np.int64),
        np.array(labels, np.int64),
        np.array(numbers, np.float64).reshape(-1, 5),
        np.array(crowd, bool),
        ids,
    )


def _other_kind(owner: int | str | None, all_ids: set[int | str]) -> str:
    """What to say of an image_id that is a text where the id of its image is a number, or the other way round."""
    number = None if owner is None else _value(owner)
    same = [i for i in all_ids if isinstance(i, str) != isinstance(owner, str) and _value(i) == number]
    return "" if number is None or not same else f"{_OTHER_KIND}: {owner!r} here, {same[0]!r} in images"


def _value(number: int | str) -> int | None:
    """The whole number that an id is, or that its text says; None where it says none."""
    if isinstance(number, str):
        return int(number) if number.isdecimal() else None
    return number


def _numbers(item: Mapping[str, Any], number: str, faults: Faults) -> tuple[float, float, float, float, float]:
    """x, y, width, height, area; NaN for what is no number."""
    area = _number(item.get("area"))
    bbox = item.get("bbox")
    zeros = isinstance(bbox, list) and not any(bbox)  # some tools write them where they have none
    if (not bbox or zeros) and item.get("segmentation"):
        box, covered = _around(item["segmentation"])
        if box[0] == box[0]:
            faults.add("from_mask", f"annotation {number}: [{', '.join(f'{value:g}' for value in box)}]")
        if box[0] == box[0] or not zeros:
            return *box, area if area > 0 else covered
    try:
        x, y, width, height = map(float, item["bbox"])
    except (KeyError, TypeError, ValueError):
        x = y = width = height = _NAN
    return x, y, width, height, area


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return _NAN


def _around(mask: Any) -> tuple[tuple[float, float, float, float], float]:
    """((x, y, width, height), area) of a segmentation in px: polygons [[x, y, x, y, …], …], or RLE as pycocotools takes
    it, compressed or not. NaN where it is none of these."""
    nothing = (_NAN, _NAN, _NAN, _NAN), _NAN
    try:
        if isinstance(mask, Mapping):
            from pycocotools import mask as masks

            height, width = map(int, mask["size"])
            rle = masks.frPyObjects(dict(mask), height, width) if isinstance(mask["counts"], list) else dict(mask)
            x, y, w, h = map(float, masks.toBbox(rle))
            return (x, y, w, h), float(masks.area(rle))
        parts = [np.asarray(part, np.float64).reshape(-1, 2) for part in mask]
        points = np.concatenate(parts)
        low, high = points.min(0), points.max(0)
    except (KeyError, TypeError, ValueError, AttributeError):
        return nothing
    covered = sum(abs(float(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1)))) for p in parts)
    return (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])), covered / 2


def _undeclared(used: Counter[str], declared: dict[int, str], source: str) -> UsageError:
    lines = []
    for number, n in used.items():
        nearest = ""
        if number.removeprefix("-").isdecimal():
            near = sorted(declared, key=lambda i: abs(i - int(number)))[0]
            nearest = f" (the nearest declared one: {near}, {declared[near]})"
        lines.append(f"{source}: category {number} is used by {n} annotations, but not declared{nearest}")
    text = ", ".join(f"{number} {name}" for number, name in declared.items())
    return UsageError("\n".join(lines), f"Add it to the list categories, or correct the annotations. Declared: {text}")


def judge(entries: list[Entry], table: Table, source: str, min_box: float, faults: Faults) -> list[Boxes]:
    """Judge and clip the boxes, then give each image its own. min_box: see `coco.load_coco`.

    Raises UsageError where they are plainly not x, y, width, height in pixels.
    """
    size = np.array([(entry.width, entry.height) for entry in entries], np.float64)[table.image].reshape(-1, 2)
    xywh, area = table.numbers[:, :4], table.numbers[:, 4]
    finite = np.isfinite(xywh).all(1)
    _check_meaning(xywh[finite], size[finite], source)
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    boxes = _clipped(xywh, size)
    flat = finite & ~(xywh[:, 2:] > 0).all(1)
    keep = usable(xywh, size)
    outside = finite & ~flat & ~keep
    clipped = keep & ((low < -_SLACK_PX) | (high > size + _SLACK_PX)).any(1)
    small = keep & ~table.crowd & (boxes[:, 2:] - boxes[:, :2] < min_box).any(1)
    no_area = finite & ~(np.isfinite(area) & (area > 0))
    masks = {"malformed": ~finite, "flat": flat, "outside": outside, "clipped": clipped, "small": small}
    masks |= {"no_area": no_area & keep, "crowd": keep & table.crowd}
    for kind, mask in masks.items():
        for i in np.flatnonzero(mask)[:1]:
            box = ", ".join(f"{value:g}" for value in xywh[i])
            example = f"annotation {table.ids[i]} of {os.path.basename(entries[table.image[i]].path)}: [{box}]"
            faults.add(kind, example, int(mask.sum()))

    area = np.where(no_area, xywh[:, 2] * xywh[:, 3], area)
    trained, scored = (_per_image(table.image, mask, len(entries)) for mask in (keep, finite))
    judged = []
    for entry, rows, all_rows in zip(entries, trained, scored, strict=True):
        if not len(rows):
            faults.add("empty", entry.path)
        truth = (xywh[all_rows], area[all_rows], table.labels[all_rows], table.crowd[all_rows])
        parts = (boxes[rows], table.labels[rows], table.crowd[rows], area[rows].astype(np.float32))
        judged.append(Boxes(*parts, truth))
    return judged


def usable(xywh: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) have an area within their image, of (width, height) px: those that are trained
    on."""
    boxes = _clipped(xywh, size)
    return np.asarray((xywh[:, 2:] > 0).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))


def _clipped(xywh: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The corners of boxes, within their images."""
    ends = np.clip(xywh[:, :2], 0, size), np.clip(xywh[:, :2] + xywh[:, 2:], 0, size)
    return np.concatenate(ends, 1).astype(np.float32)


def _check_meaning(xywh: np.ndarray, size: np.ndarray, source: str) -> None:
    """Raises UsageError for boxes that are plainly normalised, or two corners."""
    n = len(xywh)
    if n and xywh.min() > -_SLACK and xywh.max() < 1 + _SLACK and (xywh % 1).any() and size.min() > 2:
        raise UsageError(
            f"{source}: these boxes look normalised: all numbers of all {n} lie within 0..1, but they must be x, y, "
            "width, height in pixels",
            "Multiply x and width by the image's width, y and height by its height; where x and y are a centre, as in "
            "YOLO's files, subtract half of width and height",
        )
    solid = (xywh[:, 2:] > 0).all(1)
    beyond = (xywh[:, :2] + xywh[:, 2:] > size + _SLACK_PX).any(1)
    corners = (xywh[:, 2:] > xywh[:, :2]) & (xywh[:, 2:] <= size + _SLACK_PX) & (xywh[:, :2] >= -_SLACK_PX)
    if n >= _FEW and solid.all() and corners.all() and beyond.sum() > n / 2:
        first = ", ".join(f"{value:g}" for value in xywh[np.flatnonzero(beyond)[0]])
        raise UsageError(
            f"{source}: these boxes look like two corners (x0, y0, x1, y1), but they must be x, y, width, height: as "
            f"such {int(beyond.sum())} of {n} reach beyond their image, as corners all lie in it; e.g. [{first}]",
            "Subtract x0 from x1 and y0 from y1",
        )


def _per_image(owner: np.ndarray, mask: np.ndarray, n: int) -> list[np.ndarray]:
    """The rows of every image (0 <= owner < n) for which `mask` holds, in their order."""
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    return np.split(rows, np.searchsorted(owner[rows], np.arange(1, n)))
