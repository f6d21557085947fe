"""LabelMe: a json file for each image, with shapes. Rectangles, polygons and circles become the boxes around them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.nas.data.formats.boxed import Box, Boxed, assigned, count_images_alone, of_boxed
from searchkit.nas.data.formats.listing import Listing, Options, refused, shown_sizes, split_of
from searchkit.nas.data.formats.neutral import DataSet

LOOKED_FOR = "a json file with shapes and imagePath for each image"


@dataclass(frozen=True)
class _File:
    """A json file and where its image is."""

    path: str
    image: str
    is_there: bool
    split: str | None
    body: Mapping[str, Any]


def evidence(listing: Listing) -> str:
    folders = dict.fromkeys(folder for folder, _ in listing.jsons["labelme"])
    return ", ".join(f"{folder}/*.json".lstrip("/") for folder in list(folders)[:3])


def read_folder(listing: Listing, options: Options) -> DataSet:
    broken: list[str] = []
    files = list(_files(listing, broken))
    splits, alone = assigned([file.split for file in files])
    boxed = {split: Boxed() for split in splits if split}
    first = next(iter(boxed.values()), Boxed())
    sizes = iter(shown_sizes(file.image for file in files if file.is_there and not _size(file.body)))
    objects: list[tuple[str, _File, tuple[int, int], list[tuple[str, str, tuple[float, float, float, float]]]]] = []
    for split, file in zip(splits, files, strict=True):
        size = _size(file.body) or (next(sizes) if file.is_there else (1, 1))
        if split is None:
            first.faults.add("unlisted", file.image)
        elif size is None:
            boxed[split].faults.add("unreadable", file.image)
        else:
            objects.append((split, file, size, list(_shapes(file, boxed[split], broken))))
    refused(broken, "Correct these files, or remove them with their images")
    names = sorted({name for *_, shapes in objects for _, name, _ in shapes})
    numbers = {name: number for number, name in enumerate(names)}
    for split, file, size, shapes in objects:
        boxes: list[Box] = [(place, numbers[name], xywh) for place, name, xywh in shapes]
        boxed[split].add(file.image, size, boxes)
    count_images_alone(listing, {file.image for file in files}, first)
    return of_boxed("labelme", listing.root, boxed, names, unsplit=alone)


def _files(listing: Listing, broken: list[str]) -> Iterator[_File]:
    for folder, name in listing.jsons["labelme"]:
        path = listing.path(folder, name)
        try:
            with open(path, "rb") as file:
                body = json.load(file)
        except json.JSONDecodeError as e:
            broken.append(f"{path}:{e.lineno}:{e.colno}: it is not JSON: {e.msg}")
            continue
        except (ValueError, RecursionError) as e:
            broken.append(f"{path}: it is not JSON: {e}")
            continue
        except OSError as e:
            broken.append(f"{path}: it can't be read: {e.strerror}")
            continue
        if not isinstance(body, Mapping) or not isinstance(body.get("shapes"), list):
            broken.append(f"{path}: it must be an object with the list shapes")
            continue
        said = str(body.get("imagePath") or "").replace("\\", "/")
        direct = os.path.normpath(listing.path(folder, said))
        stem = os.path.splitext(name)[0]
        inside = None if said and os.path.isfile(direct) else listing.image([folder], [os.path.basename(said), stem])
        image = inside or direct
        is_there = bool(inside) or (bool(said) and os.path.isfile(direct))
        yield _File(path, image if said or inside else f"{path[:-5]}.jpg", is_there, split_of(folder), body)


def _size(body: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = body.get("imageWidth"), body.get("imageHeight")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _shapes(
    file: _File, boxed: Boxed, broken: list[str]
) -> Iterator[tuple[str, str, tuple[float, float, float, float]]]:
    """(place, name of the class, box) of the shapes of a file; those of one group and label are one object."""
    groups: dict[tuple[str, Any], tuple[str, list[tuple[float, float]]]] = {}
    for number, shape in enumerate(file.body["shapes"]):
        place = f"{file.path}: shapes[{number}]"
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, Mapping) else None
        if kind is None or not str(shape.get("label") or ""):
            broken.append(f"{place} must have a label and points")
            continue
        if kind not in ("rectangle", "polygon", "circle"):
            boxed.faults.add("other_shape", f"{place} ({kind})")
            continue
        points = _points(shape.get("points"))
        if len(points) < 2 or (kind == "circle" and len(points) != 2):
            broken.append(f"{place}: a {kind} must have points [x, y], two or more; got {shape.get('points')!r:.80}")
            continue
        if kind == "circle":
            (x, y), rim = points
            radius = math.dist((x, y), rim)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        if kind != "rectangle":
            boxed.faults.add("from_polygon", place)
        group = shape.get("group_id")
        key = (str(shape["label"]), number if group is None else f"group {group}")
        if key in groups:
            boxed.faults.add("grouped", place)
        groups.setdefault(key, (place, []))[1].extend(points)
    for (label, _), (place, points) in groups.items():
        xs, ys = zip(*points, strict=True)
        yield place, label, (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _points(raw: Any) -> list[tuple[float, float]]:
    """Pairs of numbers; nothing where it holds anything else."""
    try:
        points = [(float(x), float(y)) for x, y in raw]
    except (TypeError, ValueError):
        return []
    return points if all(math.isfinite(value) for point in points for value in point) else []
