"""The images of a COCO file: their ids, where their files are, and how large they are when shown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.pixels import UNDECODABLE, Header, Reading, header, headers, is_applied, range_of, values_of
from searchkit.nas.data.report import HUGE, Faults


@dataclass(frozen=True)
class Entry:
    """An image that is used."""

    number: int  # its id in this program: that of the file, where all of those are whole numbers
    id: int | str  # of the file
    path: str
    width: int  # px, of what boxes are on
    height: int
    exists: bool


@dataclass(frozen=True)
class _Item:
    """An image as the file has it."""

    number: int
    id: int | str
    name: str
    size: tuple[int, int] | None  # (width, height) by the annotations


def whole(value: Any) -> int | None:
    """An id as a whole number, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def image_id(value: Any) -> int | str | None:
    """The id of an image, a whole number or a text; None where it is neither."""
    return value if isinstance(value, str) else whole(value)


def read_entries(
    raw: list[Any], folder: str, limit: int | None, source: str, reading: Reading, faults: Faults
) -> tuple[list[Entry], set[int | str], Reading]:
    """(the images to use, the ids of all images of the file, `reading` with the range of deep greys that there are)."""
    items, ids = _items(raw, limit, source, faults)
    paths = _paths([item.name for item in items], folder, faults)
    exists = [path is not None for path in paths]
    if not any(exists):
        first = os.path.join(folder, items[0].name)
        raise UsageError(f"none of the {len(items)} image files is there, e.g. {first}", _where(folder, items, faults))
    full = [path or os.path.join(folder, item.name) for item, path in zip(items, paths, strict=True)]
    places = [i for i, path in enumerate(paths) if path is not None]
    heads = {places[i]: head for i, head in headers(len(places), lambda i: full[places[i]]).items()}
    entries = []
    for i, (item, path) in enumerate(zip(items, full, strict=True)):
        width, height = item.size or _size(path, heads.get(i) or header(path), reading, faults)
        if width * height > HUGE:
            faults.add("huge", f"{path} ({width} x {height})")
        entries.append(Entry(item.number, item.id, path, width, height, exists[i]))

    def annotated_size(i: int) -> tuple[int, int]:
        return entries[i].width, entries[i].height

    return entries, ids, say_heads(heads, len(places), full.__getitem__, annotated_size, reading, faults)


def _items(raw: list[Any], limit: int | None, source: str, faults: Faults) -> tuple[list[_Item], set[int | str]]:
    place_of: dict[int | str, int] = {}  # id -> place in the file, from 1
    items: list[_Item] = []
    for entry in raw:
        entry_id = image_id(entry.get("id")) if isinstance(entry, Mapping) else None
        if entry_id is None or not isinstance(entry.get("file_name"), str):
            hint = "pycocotools takes nothing else either: renumber the images, and the image_id of their annotations."
            message = f"{source}: an image must have a whole number or a text as id, and a file_name: {entry!r:.80}"
            raise UsageError(message, hint)
        if entry_id in place_of:
            faults.add("duplicate_image", f"{entry_id} ({entry['file_name']})")
            continue
        place_of[entry_id] = len(place_of) + 1
        if limit is not None and len(items) >= limit:
            continue
        width, height = whole(entry.get("width")), whole(entry.get("height"))
        size = (width, height) if width and height and width > 0 and height > 0 else None
        items.append(_Item(place_of[entry_id], entry_id, entry["file_name"], size))
    if not items:
        raise UsageError(f"{source} lists no images")
    if any(isinstance(entry_id, str) for entry_id in place_of):  # then images are numbered by their place
        return items, set(place_of)
    return [replace(item, number=int(item.id)) for item in items], set(place_of)


# ---- files ----


def _paths(names: list[str], folder: str, faults: Faults) -> list[str | None]:
    """The path of each file; None where it is missing."""
    listings: dict[str, set[str]] = {}  # one listing per folder: a stat per file takes minutes on network drives
    paths = [_direct(name, folder, listings, faults) for name in names]
    lacking = dict.fromkeys(name for name, path in zip(names, paths, strict=True) if path is None)
    if not lacking:
        return paths
    elsewhere = _elsewhere(list(lacking), folder, {os.path.normpath(path) for path in paths if path}, faults)
    resolved = [path or elsewhere.get(name) for name, path in zip(names, paths, strict=True)]
    for name, path in zip(names, resolved, strict=True):
        if path is None:
            faults.add("missing", os.path.join(folder, name))
    return resolved


def _direct(name: str, folder: str, listings: dict[str, set[str]], faults: Faults) -> str | None:
    """The file of that name, whose parts may be separated by backslashes, as on Windows."""
    path = os.path.join(folder, name)
    if _is_there(path, listings):
        return path
    turned = os.path.join(folder, name.replace("\\", "/"))
    if "\\" in name and _is_there(turned, listings):
        faults.add("moved", f"{name} at {turned}")
        return turned
    return None


def _is_there(path: str, listings: dict[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = set(os.listdir(folder or "."))
        except OSError:
            listings[folder] = set()
    return name in listings[folder]


def _elsewhere(names: list[str], folder: str, used: set[str], faults: Faults) -> dict[str, str]:
    """Name -> the file below the folder that it must mean: the only one of that name, or the one that shares most of
    the folders before it. A file that two names could mean is given to neither."""
    parts_of = {name: [part for part in re.split(r"[\\/]+", name) if part] for name in names}
    files = _below(folder, {parts[-1] for parts in parts_of.values() if parts})
    file_of: dict[str, str] = {}
    for name, parts in parts_of.items():
        shared = {path: _common(parts, path) for path in files.get(parts[-1] if parts else "", ())}
        best = [path for path, n in shared.items() if n == max(shared.values())]
        if len(best) == 1:
            file_of[name] = best[0]
        elif best:
            faults.add("ambiguous", f"{name} may be {' or '.join(sorted(best)[:2])}")
    claims = Counter(os.path.normpath(path) for path in file_of.values())
    for name, path in list(file_of.items()):
        if claims[os.path.normpath(path)] > 1 or os.path.normpath(path) in used:
            faults.add("ambiguous", f"{name} may be {path}, and so may another image")
            del file_of[name]
        else:
            faults.add("moved", f"{name} at {path}")
    return file_of


def _below(folder: str, names: set[str]) -> dict[str, list[str]]:
    """Name -> the files of that name below a folder; links are followed, but not in circles."""
    paths_of: dict[str, list[str]] = {}
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names.intersection(files):
            paths_of.setdefault(name, []).append(os.path.join(root, name))
    return paths_of


def _common(parts: list[str], path: str) -> int:
    """How many parts of a name and a path are the same, from the end."""
    path_parts = path.split(os.sep)
    n = 0
    while n < min(len(parts), len(path_parts)) and parts[-1 - n] == path_parts[-1 - n]:
        n += 1
    return n


def _where(folder: str, items: list[_Item], faults: Faults) -> str:
    if not os.path.isdir(folder):
        return f"There is no folder {folder}."
    if faults.counts["ambiguous"]:
        return f"Several files below {folder} have these names: {faults.examples['ambiguous']}"
    return f"Give the folder to which the file_name of an image ({items[0].name}) is relative; {folder} is not it."


# ---- their headers ----


def _size(path: str, head: Header, reading: Reading, faults: Faults) -> tuple[int, int]:
    """(width, height) in px of an image whose annotations don't give it."""
    size = head.size if reading.exif == "ignore" else head.upright
    try:
        if size is None:
            with Image.open(path) as image:
                size = image.size
    except UNDECODABLE as e:
        raise UsageError(f"the annotations do not say the size of {path}, and the file can't be read: {e}") from e
    faults.add("unsized", path)
    return size


def say_heads(
    heads: Mapping[int, Header],
    n: int,
    file: Callable[[int], str | bytes],
    annotated_size: Callable[[int], tuple[int, int] | None],
    reading: Reading,
    faults: Faults,
) -> Reading:
    """Count what the heads of a set's files say; returns `reading` with the range of its deep greys, if there are any.

    heads: by number of the image, of those of the set's n files that were looked at. file: its path, or what it holds.
    annotated_size: its (width, height) by the annotations, if they give it.
    """
    aside = f"; {len(heads)} of {n} images were looked at" if len(heads) < n else ""
    for i, head in heads.items():
        if head.orientation != 1 and head.size is not None:
            kind = "turned" if is_applied(reading, head.orientation, head.size, annotated_size(i)) else "as_stored"
            kind = "not_turned" if reading.exif == "ignore" else kind
            faults.add(kind, f"{_name(file(i))} (orientation {head.orientation}){aside}")
    deep = [i for i, head in heads.items() if head.deep]
    if not deep:
        if reading.range is not None and reading.why == "data.range" and heads:
            faults.add("not_deep", f"{_name(file(next(iter(heads))))}{aside}", len(heads))
        return reading
    if reading.range is None:
        span, why = range_of(len(deep), lambda k: values_of(file(deep[k])))
        reading = replace(reading, range=span, why=why)
    faults.add("deep", f"{_name(file(deep[0]))}, of {reading.text()}{aside}", len(deep))
    return reading


def _name(file: str | bytes) -> str:
    return file if isinstance(file, str) else "one of the packed files"
