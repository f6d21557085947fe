"""The images of a COCO file: their ids, where their files lie, how large they are as they are shown."""

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

    number: int  # what it is known by here; the id of the file, where all of those are whole numbers
    id: int | str  # of the file
    path: str
    width: int  # px, of what boxes are on
    height: int
    there: bool


@dataclass(frozen=True)
class _Item:
    """An image as the file has it."""

    number: int
    id: int | str
    name: str
    said: tuple[int, int] | None  # (width, height)


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
    items, known = _items(raw, limit, source, faults)
    paths = _paths([item.name for item in items], folder, faults)
    there = [path is not None for path in paths]
    if not any(there):
        first = os.path.join(folder, items[0].name)
        raise UsageError(f"none of the {len(items)} image files is there, e.g. {first}", _where(folder, items, faults))
    full = [path or os.path.join(folder, item.name) for item, path in zip(items, paths, strict=True)]
    places = [i for i, path in enumerate(paths) if path is not None]
    heads = {places[i]: head for i, head in headers(len(places), lambda i: full[places[i]]).items()}
    entries = []
    for i, (item, path) in enumerate(zip(items, full, strict=True)):
        width, height = item.said or _size(path, heads.get(i) or header(path), reading, faults)
        if width * height > HUGE:
            faults.add("huge", f"{path} ({width} x {height})")
        entries.append(Entry(item.number, item.id, path, width, height, there[i]))

    def said(i: int) -> tuple[int, int]:
        return entries[i].width, entries[i].height

    return entries, known, say_heads(heads, len(places), full.__getitem__, said, reading, faults)


def _items(raw: list[Any], limit: int | None, source: str, faults: Faults) -> tuple[list[_Item], set[int | str]]:
    known: dict[int | str, int] = {}  # id -> place in the file, from 1
    items: list[_Item] = []
    for entry in raw:
        given = image_id(entry.get("id")) if isinstance(entry, Mapping) else None
        if given is None or not isinstance(entry.get("file_name"), str):
            hint = "pycocotools takes nothing else either: renumber the images, and the image_id of their annotations."
            what = f"{source}: an image must have a whole number or a text as id, and a file_name: {entry!r:.80}"
            raise UsageError(what, hint)
        if given in known:
            faults.add("duplicate_image", f"{given} ({entry['file_name']})")
            continue
        known[given] = len(known) + 1
        if limit is not None and len(items) >= limit:
            continue
        width, height = whole(entry.get("width")), whole(entry.get("height"))
        said = (width, height) if width and height and width > 0 and height > 0 else None
        items.append(_Item(known[given], given, entry["file_name"], said))
    if not items:
        raise UsageError(f"{source} lists no images")
    if any(isinstance(given, str) for given in known):  # then places are what images are known by
        return items, set(known)
    return [replace(item, number=int(item.id)) for item in items], set(known)


# ---- files ----


def _paths(names: list[str], folder: str, faults: Faults) -> list[str | None]:
    """Where each file lies; None where it is missing."""
    listings: dict[str, set[str]] = {}  # one listing per folder: a stat per file takes minutes on network drives
    paths = [_direct(name, folder, listings, faults) for name in names]
    lacking = dict.fromkeys(name for name, path in zip(names, paths, strict=True) if path is None)
    if not lacking:
        return paths
    elsewhere = _elsewhere(list(lacking), folder, {os.path.normpath(path) for path in paths if path}, faults)
    found = [path or elsewhere.get(name) for name, path in zip(names, paths, strict=True)]
    for name, path in zip(names, found, strict=True):
        if path is None:
            faults.add("missing", os.path.join(folder, name))
    return found


def _direct(name: str, folder: str, listings: dict[str, set[str]], faults: Faults) -> str | None:
    """The file of that name, whose parts may be separated as Windows does it."""
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


def _elsewhere(names: list[str], folder: str, taken: set[str], faults: Faults) -> dict[str, str]:
    """Name -> the file below the folder that it must mean: the only one of that name, or the one that has most of the
    folders before it in common. One that two names could mean is neither's."""
    wanted = {name: [part for part in re.split(r"[\\/]+", name) if part] for name in names}
    files = _below(folder, {parts[-1] for parts in wanted.values() if parts})
    found: dict[str, str] = {}
    for name, parts in wanted.items():
        shared = {path: _common(parts, path) for path in files.get(parts[-1] if parts else "", ())}
        best = [path for path, n in shared.items() if n == max(shared.values())]
        if len(best) == 1:
            found[name] = best[0]
        elif best:
            faults.add("ambiguous", f"{name} may be {' or '.join(sorted(best)[:2])}")
    claims = Counter(os.path.normpath(path) for path in found.values())
    for name, path in list(found.items()):
        if claims[os.path.normpath(path)] > 1 or os.path.normpath(path) in taken:
            faults.add("ambiguous", f"{name} may be {path}, and so may another image")
            del found[name]
        else:
            faults.add("moved", f"{name} at {path}")
    return found


def _below(folder: str, names: set[str]) -> dict[str, list[str]]:
    """Name -> the files of that name below a folder; links are followed, but not in circles."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names.intersection(files):
            found.setdefault(name, []).append(os.path.join(here, name))
    return found


def _common(parts: list[str], path: str) -> int:
    """How many parts of a name and a path are the same, from the end."""
    there = path.split(os.sep)
    n = 0
    while n < min(len(parts), len(there)) and parts[-1 - n] == there[-1 - n]:
        n += 1
    return n


def _where(folder: str, items: list[_Item], faults: Faults) -> str:
    if not os.path.isdir(folder):
        return f"There is no folder {folder}."
    if faults.counts["ambiguous"]:
        return f"Several files below {folder} have these names: {faults.examples['ambiguous']}"
    return f"Give the folder to which the file_name of an image ({items[0].name}) is relative; {folder} is not it."


# ---- what their heads say ----


def _size(path: str, head: Header, reading: Reading, faults: Faults) -> tuple[int, int]:
    """(width, height) in px of an image whose annotations don't say it."""
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
    said: Callable[[int], tuple[int, int] | None],
    reading: Reading,
    faults: Faults,
) -> Reading:
    """Count what the heads of a set's files say; returns `reading` with the range of its deep greys, if there are any.

    heads: by number of the image, of those of the set's n files that were looked at. file: its path, or what it holds.
    said: (width, height) that the annotations say of it, if they do.
    """
    aside = f"; {len(heads)} of {n} images were looked at" if len(heads) < n else ""
    for i, head in heads.items():
        if head.orientation != 1 and head.size is not None:
            kind = "turned" if is_applied(reading, head.orientation, head.size, said(i)) else "as_stored"
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
