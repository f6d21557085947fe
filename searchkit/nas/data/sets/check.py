"""A data set looked at as a whole: its numbers, what is worth knowing of it, and what a training would get wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from searchkit import console
from searchkit.nas.data.formats.listing import some
from searchkit.nas.data.formats.neutral import TRAIN, VAL, DataImage, DataSet, digest
from searchkit.nas.data.pixels import LOOKED_AT, UNDECODABLE, orientation_of, spread
from searchkit.nas.data.sets.doubles import doubles

TINY_PX2 = 32**2  # COCO's bound of small objects; below it a detector needs fine features
CROWDED = 100  # boxes on an image; COCO's evaluation takes no more detections of one
FEW_VAL = 15  # validation images by which archs can't be told apart
REPLACED = 0.05  # of train's images may be unusable: others replace them
_THREADS = 8
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}  # the last bytes of a whole file


@dataclass(frozen=True)
class Checked:
    """What was found."""

    facts: dict[str, Any]  # all numbers, as plain data
    wrong: tuple[str, ...]  # why a training would fail, or learn or be scored wrongly
    notes: tuple[str, ...]  # what is worth knowing


@dataclass(frozen=True)
class _Look:
    """What the head of an image file says."""

    size: tuple[int, int]  # (width, height) as stored, px
    turn: int  # EXIF's orientation, 1..8
    mode: str  # Pillow's


def check(data: DataSet) -> Checked:
    """Look at all of a set but its pixels: of LOOKED_AT files of each split the head and the end are read, and files of
    one size are compared byte for byte."""
    looks = {split: _looks(part.images) for split, part in data.splits.items()}
    shown = {split: _shown(data, split, looks[split]) for split in data.splits}
    twice = _twice(data)
    facts: dict[str, Any] = {
        "format": data.format,
        "root": data.root,
        "task": data.task,
        "classes": list(data.classes),
        "digest": digest(data),
        "splits": {split: _split_facts(data, split, looks[split]) for split in data.splits},
        "sizes": _sizes([size for sizes in shown.values() for size in sizes]),
        "doubled": twice,
    }
    if data.task == "det":
        facts["boxes"] = _boxes(data)
        facts["crowded"] = _crowded(data)
    bad, replaced = _bad_files(data, looks)
    wrong = [*_unusable(data), *bad]
    notes = [
        *data.notes,
        *_about_splits(data),
        *_reports(data),
        *replaced,
        *_about_files(data, looks),
        *_about_doubles(data, twice),
    ]
    return Checked(facts, tuple(wrong), tuple(notes))


# ---- numbers ----


def _split_facts(data: DataSet, split: str, looks: dict[int, _Look | None]) -> dict[str, Any]:
    part = data.splits[split]
    counts = part.counts(len(data.classes)).tolist()
    facts: dict[str, Any] = {"images": len(part.images)}
    if data.task == "det":
        facts["boxes"] = part.n_boxes
        facts["crowd"] = sum(int(image.crowd.sum()) for image in part.images)
        facts["empty"] = sum(not len(image.labels) for image in part.images)
    facts |= {
        "missing": sum(not image.exists for image in part.images),
        "per_class": dict(zip(data.classes, counts, strict=True)),
        "source": part.source,
        "folder": part.folder,
        "looked_at": len(looks),
        "exif": sum(look is not None and look.turn != 1 for look in looks.values()),
        "grey": sum(look is not None and _is_grey(look.mode) for look in looks.values()),
        "faults": [{"kind": kind, "count": n, "line": line} for kind, n, line in part.report.faults],
    }
    return facts


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "F") or mode.startswith("I")


def _shown(data: DataSet, split: str, looks: dict[int, _Look | None]) -> list[tuple[int, int]]:
    """(width, height) of a split's images: as annotated, or of a classifier's set as the files have them."""
    if data.task == "det":
        return [(image.width, image.height) for image in data.splits[split].images if image.exists]
    return [look.size[::-1] if look.turn > 4 else look.size for look in looks.values() if look is not None]


def _sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The range of images' sizes, and the commonest."""
    if not sizes:
        return {"different": 0, "smallest": None, "largest": None, "common": []}
    counts = Counter(sizes)
    by_area = sorted(counts, key=lambda size: (size[0] * size[1], size))
    common = [[*size, n] for size, n in counts.most_common(3)]
    return {"different": len(counts), "smallest": [*by_area[0]], "largest": [*by_area[-1]], "common": common}


def _boxes(data: DataSet) -> dict[str, Any]:
    """How large the boxes of all splits are; px."""
    images = [image for part in data.splits.values() for image in part.images]
    sides = np.concatenate([image.boxes[~image.crowd, 2:] for image in images]) if images else np.zeros((0, 2))
    if not len(sides):
        return {"count": 0, "tiny": 0, "smallest": None, "median": None, "largest": None}
    names = [image.name for image in images for _ in range(int((~image.crowd).sum()))]
    areas = sides.prod(1)
    first, last = int(areas.argmin()), int(areas.argmax())
    return {
        "count": len(sides),
        "tiny": int((areas < TINY_PX2).sum()),
        "smallest": [*np.round(sides[first], 2).tolist(), names[first]],
        "median": np.round(np.median(sides, 0), 2).tolist(),
        "largest": [*np.round(sides[last], 2).tolist(), names[last]],
    }


def _crowded(data: DataSet) -> dict[str, Any]:
    counts = [(len(image.labels), image.name) for part in data.splits.values() for image in part.images]
    most = max(counts, default=(0, ""), key=lambda pair: pair[0])
    return {"most": most[0], "image": most[1], "above": CROWDED, "images": sum(n > CROWDED for n, _ in counts)}


# ---- what is wrong ----


def _unusable(data: DataSet) -> list[str]:
    """Why the splits and classes are no use."""
    noun = "box" if data.task == "det" else "image"
    wrong = []
    counts = {split: part.counts(len(data.classes)) for split, part in data.splits.items()}
    if TRAIN not in data.splits and os.path.isdir(data.root):
        wrong.append(f"there is no split to train on: {', '.join(data.splits)}")
    wrong += [f"{split} has no box" for split, each in counts.items() if not each.sum()]
    for split, each in counts.items():
        if split == TRAIN or TRAIN not in counts:
            continue
        unknown = np.flatnonzero((each > 0) & (counts[TRAIN] == 0))
        if len(unknown):
            names = some([f"{data.classes[i]} ({each[i]:,})" for i in unknown])
            plural = "es" if noun == "box" else "s"
            wrong.append(f"classes with {noun}{plural} in {split}, but none in train: {len(unknown)}, {names}")
    return wrong


def _bad_files(data: DataSet, looks: dict[str, dict[int, _Look | None]]) -> tuple[list[str], list[str]]:
    """(lines about files that would end a test, or are many of train's; about a few of train's, which other images
    replace)."""
    wrong, notes = [], []
    for split, part in data.splits.items():
        broken = [i for i, look in looks[split].items() if look is None]
        other = [i for i, look in looks[split].items() if look and not _fits(part.images[i], look)]
        missing, huge = part.report.count("missing"), part.report.count("huge")
        lines = []
        if broken:
            example = part.images[broken[0]].path
            lines.append(f"{split}: image files that can't be opened, or end too early: {len(broken)}, e.g. {example}")
        if other:
            image, look = part.images[other[0]], looks[split][other[0]]
            assert look is not None
            sizes = f"{image.path} is {look.size[0]} x {look.size[1]}, not {image.width} x {image.height}"
            lines.append(f"{split}: images of another size than their annotations say: {len(other)}, e.g. {sizes}")
        bad = len(broken) + len(other) + missing + huge
        if split == TRAIN and bad <= REPLACED * len(part.images):
            notes += lines
            continue
        if missing + huge:  # of which the report has a line, too
            count = f"{missing + huge} of {len(part.images):,}"
            lines.append(f"{split}: images that are missing, or too large to be decoded: {count}")
        wrong += lines
    return wrong, notes


def _fits(image: DataImage, look: _Look) -> bool:
    """Whether a file has the size of its annotations, upright or as stored."""
    size = (image.width, image.height)
    return size in ((0, 0), look.size) or (look.turn > 4 and size == look.size[::-1])


# ---- what is worth knowing ----


def _about_splits(data: DataSet) -> list[str]:
    notes = []
    n_val = len(data.splits[VAL].images) if VAL in data.splits else 0
    if not n_val:
        notes.append("no validation split: search-nas data split makes one")
    elif n_val < FEW_VAL:
        notes.append(f"{console.counted(n_val, 'validation image')}: fewer than {FEW_VAL} can't tell archs apart")
    totals = np.sum([part.counts(len(data.classes)) for part in data.splits.values()], 0)
    if unused := [name for name, n in zip(data.classes, totals, strict=True) if not n]:
        noun = "a box" if data.task == "det" else "an image"
        notes.append(f"classes without {noun} in any split: {len(unused)}, {some(unused)}")
    return notes


def _reports(data: DataSet) -> list[str]:
    return [f"{split}: {line}" for split, part in data.splits.items() for _, _, line in part.report.faults]


def _about_files(data: DataSet, looks: dict[str, dict[int, _Look | None]]) -> list[str]:
    notes = []
    known = [look for each in looks.values() for look in each.values() if look is not None]
    grey = sum(_is_grey(look.mode) for look in known)
    turned = sum(look.turn != 1 for look in known)
    if grey:
        notes.append(f"grey images: {grey:,} of {len(known):,} (repeated in all three colours)")
    if turned and data.task == "cls":  # of a detector's set the reports say it
        notes.append(
            f"images that are stored turned or mirrored (shown upright, by their EXIF orientation): {turned:,}"
        )
    return notes


def _twice(data: DataSet) -> list[dict[str, Any]]:
    """The images that are there several times: their paths and splits."""
    images = [(split, image.path) for split, part in data.splits.items() for image in part.images if image.exists]
    return [
        {"images": [images[i][1] for i in group], "splits": [images[i][0] for i in group]}
        for group in doubles([path for _, path in images])
    ]


def _about_doubles(data: DataSet, twice: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each pair of splits that share images, and each split that has some more than once."""
    pairs: dict[tuple[str, str], list[tuple[int, str]]] = {}  # -> (images of the second split, an example)
    for group in twice:
        paths: dict[str, list[str]] = {}
        for split, path in zip(group["splits"], group["images"], strict=True):
            paths.setdefault(split, []).append(path)
        splits = list(paths)
        for i, one in enumerate(splits):
            if len(paths[one]) > 1:
                example = f"{paths[one][0]} = {paths[one][1]}"
                pairs.setdefault((one, one), []).append((len(paths[one]) - 1, example))
            for other in splits[i + 1 :]:
                example = f"{paths[one][0]} = {paths[other][0]}"
                pairs.setdefault((one, other), []).append((len(paths[other]), example))
    notes = []
    for (one, other), shared in pairs.items():
        n, total = sum(count for count, _ in shared), len(data.splits[other].images)
        meaning = "that are another one of it" if one == other else f"that are in {one}, too"
        notes.append(f"{other}: images {meaning}, byte for byte: {n:,} of {total:,}, e.g. {shared[0][1]}")
    return notes


# ---- the heads of files ----


def _looks(images: Sequence[DataImage]) -> dict[int, _Look | None]:
    """Number of an image that is there -> its head; None where it can't be opened. Of LOOKED_AT images at most."""
    there = [i for i, image in enumerate(images) if image.exists]
    chosen = [there[i] for i in spread(len(there), LOOKED_AT)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(chosen, pool.map(lambda i: _look(images[i].path), chosen), strict=True))


def _may_be_cut(path: str, format: str | None) -> bool:
    """Whether a file does not end as its format does, like a download that broke off. Of formats with an end."""
    ends = _ENDS.get(format or "")
    if ends is None:
        return False
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - len(ends)))
        return file.read() != ends


def _look(path: str) -> _Look | None:
    try:
        with Image.open(path) as image:
            turn = orientation_of(image) if image.format != "PNG" or "exif" in image.info else 1
            size = image.size
            if _may_be_cut(path, image.format):
                image.load()  # raises where it is
            if image.format == "TIFF" and turn > 4:  # Pillow says what it will have turned it to
                size = size[::-1]
            return _Look(size, turn, image.mode)
    except UNDECODABLE:
        return None
