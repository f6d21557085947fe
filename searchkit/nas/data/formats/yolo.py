"""YOLO's text files: a line `class x y width height` for each box, normalised, x and y of its centre; or a polygon.

A data.yaml names the classes and the folders of the splits; without one they are found by their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from searchkit.errors import UsageError
from searchkit.nas.data.formats.boxed import Box, Boxed, assigned, of_boxed
from searchkit.nas.data.formats.listing import Listing, Options, listed, refused, shown_sizes, some, split_of
from searchkit.nas.data.formats.neutral import TEST, TRAIN, VAL, DataSet
from searchkit.nas.data.label_files import ENDINGS

LOOKED_FOR = "a data.yaml with names and train or val, or folders images and labels, or label files beside images"
_KEYS = (TRAIN, VAL, TEST)
_NAMES = ("classes.txt", "obj.names", "_darknet.labels")  # a name a line, by the tools that write no data.yaml
_SLACK = 0.1  # numbers beyond 0..1 by more are pixels, or none of ours
_SNIFFED = 20  # files of which one must look like labels
_UNNAMED = 10_000  # classes at most where nothing names them


@dataclass(frozen=True)
class _Layout:
    """Where the images of each split are, and what their classes are called."""

    splits: Mapping[str, Sequence[str]]  # split -> paths of its images
    names: tuple[str, ...] | None  # None: nothing says them
    points: int = 0  # numbers of the key points behind each box
    unsplit: bool = False
    n_left_out: int = 0  # images that are of no split
    notes: tuple[str, ...] = ()  # for people


def evidence(listing: Listing) -> str:
    files = _yamls(listing)
    if files:
        return ", ".join(files)
    texts = dict.fromkeys(folder for folder, _ in listing.named(".txt") if "labels" in folder.lower().split("/"))
    pairs = [folder for folder in texts if _swapped(folder, "labels", "images") in listing.files]
    if pairs:
        return ", ".join(f"{folder}/" for folder in pairs[:3])
    beside = _beside(listing)
    return f"{beside[0][1]} beside its image" if beside else ""


def read_folder(listing: Listing, options: Options) -> DataSet:
    files = _yamls(listing)
    if len(files) > 1:
        raise UsageError(f"{listing.root} has several files that may be its data.yaml: {', '.join(files)}", "Name one")
    if files:
        return read_file(listing.path("", files[0]), options, root=listing.root)
    return _read(listing.root, _by_names(listing))


def read_file(path: str, options: Options, root: str = "") -> DataSet:
    return _read(root or path, _by_yaml(path, _yaml(path)))


# ---- where what is ----


def _yamls(listing: Listing) -> list[str]:
    """Names of the yaml files at the top that describe a set."""
    return [
        name
        for folder, name in listing.named(".yaml", ".yml")
        if not folder and isinstance(body := _yaml(listing.path("", name), lenient=True), Mapping) and _is_ours(body)
    ]


def _is_ours(body: Mapping[Any, Any]) -> bool:
    described = "names" in body or "nc" in body
    return described and any(isinstance(body.get(key), str | list) for key in _KEYS)


def _yaml(path: str, lenient: bool = False) -> Any:
    try:
        with open(path, "rb") as file:
            return yaml.safe_load(file)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        if lenient and not os.path.basename(path).startswith("data."):
            return None
        raise UsageError(f"{path}{place}: it is not YAML: {e.problem}") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        if lenient and not isinstance(e, OSError):
            return None
        raise UsageError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e


def _by_yaml(path: str, body: Any) -> _Layout:
    if not isinstance(body, Mapping) or not _is_ours(body):
        raise UsageError(f"{path} must say names (or nc), and train or val: where the images of each split are")
    here = os.path.dirname(path) or "."
    given = body.get("path")
    bases = [os.path.join(here, given), given] if isinstance(given, str) and given else []
    splits, notes = {}, []
    for key in _KEYS:
        entries = body.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            kind = type(entries).__name__
            raise UsageError(f"{path}: {key} must be a folder, a list of images, or several of them, not a {kind}")
        images: list[str] = []
        for entry in entries:
            place, tried = _place(entry, [*bases, here])
            if place is not None:
                images += _images(place, [*bases, here])
            elif key == TRAIN:
                raise UsageError(f"{path}: {key}: there is no {entry}; tried {tried}")
            else:  # some tools name a test split that they don't export
                notes.append(f"{path} names {entry} as {key}, which is not there (left out)")
        if images:
            splits[key] = list(dict.fromkeys(images))
    return _Layout(splits, _names(path, body), _points(body.get("kpt_shape")), notes=tuple(notes))


def _points(shape: Any) -> int:
    """How many numbers of key points follow each box, by kpt_shape: [points, numbers of each]."""
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        return int(shape[0] * shape[1])
    return 0


def _names(path: str, body: Mapping[Any, Any]) -> tuple[str, ...] | None:
    names = body.get("names")
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            numbers = some(list(map(str, names)))
            raise UsageError(f"{path}: names must number the classes from 0 without gaps; got {numbers}")
        names = [names[number] for number in range(len(names))]
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise UsageError(f"{path}: names must list the classes, each a text")
    if isinstance(body.get("nc"), int) and body["nc"] != len(names):
        raise UsageError(f"{path}: nc is {body['nc']}, but names has {len(names)}")
    return tuple(map(str, names))


def _place(entry: str, bases: Sequence[str]) -> tuple[str | None, str]:
    """(where an entry of a data.yaml leads; None where nothing is, what was tried)."""
    # Roboflow's exports say ../train/images of a folder that lies beside the file.
    tried = [os.path.join(base, name) for name in (entry, entry.lstrip("./")) for base in bases]
    tried = list(dict.fromkeys(map(os.path.normpath, tried)))
    return next((place for place in tried if os.path.exists(place)), None), some(tried, 3)


def _images(place: str, bases: Sequence[str]) -> list[str]:
    """The images below a folder, or those that a list names."""
    if os.path.isfile(place):
        return _of_list(place, bases)
    below = listed(place)
    return [below.path(folder, name) for folder, name in below.images]


def _of_list(path: str, bases: Sequence[str]) -> list[str]:
    """The images that a text file names, one a line, relative to it or to a folder of the set."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        names = [line.strip() for line in file if line.strip()]
    places = [os.path.dirname(path) or ".", *bases]
    return [os.path.normpath(_listed(name, places)) for name in names]


def _listed(name: str, places: Sequence[str]) -> str:
    """The image that a line of a list means; the first place where it might be, if it is in none."""
    parts = name.split("/")
    # CVAT's exports have a folder in front, data/, that they don't make.
    for n in range(len(parts)):
        for place in places:
            path = os.path.join(place, *parts[n:]) if n else os.path.join(place, name)
            if os.path.exists(path):
                return path
    return os.path.join(places[0], name)


def _by_names(listing: Listing) -> _Layout:
    """The layouts without a data.yaml: images and labels by split, or splits with images and labels, or one folder."""
    names = _listed_names(listing)
    of_lists = {split: listing.path("", f"{split}.txt") for split in _KEYS if f"{split}.txt" in listing.files[""]}
    if of_lists:
        return _Layout({split: _of_list(path, [listing.root]) for split, path in of_lists.items()}, names)
    folders = {folder for folder in listing.files if _has_labels(folder, listing)}
    folders.update(folder for folder, _ in _beside(listing))
    images = [(folder, name) for folder, name in listing.images if folder in folders]
    splits, alone = assigned([split_of(folder) for folder, _ in images])
    paths: dict[str | None, list[str]] = {}
    for split, (folder, name) in zip(splits, images, strict=True):
        paths.setdefault(split, []).append(listing.path(folder, name))
    left_out = paths.pop(None, ())
    return _Layout({split: paths[split] for split in paths if split}, names, unsplit=alone, n_left_out=len(left_out))


def _has_labels(folder: str, listing: Listing) -> bool:
    """Whether a folder below one called images has one called labels beside that."""
    parts = folder.split("/")
    at = [i for i, part in enumerate(parts) if part.lower() == "images"]
    return bool(at) and _swapped("/".join(parts[: at[-1] + 1]), "images", "labels") in listing.files


def _swapped(folder: str, one: str, other: str) -> str:
    """A path whose last part called `one` is called `other`; Images becomes Labels, and IMAGES LABELS."""
    parts = folder.split("/")
    for i in reversed(range(len(parts))):
        for styled in (str.lower, str.capitalize, str.upper):
            if parts[i] == styled(one):
                return "/".join([*parts[:i], styled(other), *parts[i + 1 :]])
    return folder


def _beside(listing: Listing) -> list[tuple[str, str]]:
    """(folder, name) of the first label file beside an image in each folder that has one."""
    first = []
    for folder, names in listing.files.items():
        stems = {os.path.splitext(name)[0] for name in names if _is_image(name)}
        texts = [name for name in names if name.lower().endswith(".txt") and name[:-4] in stems]
        ours = next((name for name in texts[:_SNIFFED] if _looks_ours(listing.path(folder, name))), None)
        if ours is not None:
            first.append((folder, ours))
    return first


def _looks_ours(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            words = file.readline().split()
        return len(words) >= 5 and words[0].isdecimal() and all(map(float, words)) is not None
    except (OSError, ValueError):
        return False


def _listed_names(listing: Listing) -> tuple[str, ...] | None:
    """Names of the classes, a line each, from a file of one of the tools' names."""
    for folder, name in listing.named(*_NAMES):
        if name in _NAMES:
            with open(listing.path(folder, name), encoding="utf-8-sig", errors="replace") as file:
                return tuple(line.strip() for line in file if line.strip())
    return None


def _label_folders(folder: str) -> tuple[str, ...]:
    """Where the labels of a folder of images may lie: where its last part `images` is `labels`, as all of YOLO's tools
    have it, and then beside the images."""
    return tuple(dict.fromkeys((_swapped(folder, "images", "labels"), folder)))


def _lines_of(image: str) -> tuple[str, list[str]] | None:
    """(the file of an image's labels, its lines); None where there is none."""
    folder, name = os.path.split(os.path.splitext(image)[0])
    for place, ending in product(_label_folders(folder), (".txt", ".TXT")):
        path = os.path.join(place, name + ending)
        try:
            with open(path, encoding="utf-8-sig") as file:
                return path, file.read().split("\n")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as e:
            raise ValueError(f"{path}: it can't be read: {getattr(e, 'strerror', None) or e}") from e
    return None


# ---- labels ----


def _read(root: str, layout: _Layout) -> DataSet:
    broken: list[str] = []
    splits: dict[str, Boxed] = {}
    highest = -1
    for split, paths in layout.splits.items():
        boxed = splits[split] = Boxed()
        for path, size in zip(paths, shown_sizes(paths), strict=True):
            if size is None and os.path.exists(path):
                boxed.faults.add("unreadable", path)
                continue
            if size is None:  # it is named, but not there: told as missing
                boxed.add(path, (1, 1), ())
                continue
            boxes = list(_boxes(path, size, layout, boxed, broken))
            highest = max([highest, *(label for _, label, _ in boxes)])
            boxed.add(path, size, boxes)
    refused(broken, "A line is: class x y width height, all but the class within 0..1; or a class and a polygon")
    names = layout.names
    if names is None:
        names = tuple(map(str, range(highest + 1)))
        for boxed in splits.values():
            boxed.faults.add("unnamed", "0", len(names))
    if splits:
        first = next(iter(splits.values()))
        first.faults.add("unlisted", root, layout.n_left_out)
        _count_orphans([path for paths in layout.splits.values() for path in paths], first)
    return of_boxed("yolo", root, splits, names, unsplit=layout.unsplit, notes=layout.notes)


def _boxes(path: str, size: tuple[int, int], layout: _Layout, boxed: Boxed, broken: list[str]) -> Iterator[Box]:
    """The boxes of an image; lines that can't be read are added to `broken`."""
    try:
        found = _lines_of(path)
    except ValueError as e:
        broken.append(str(e))
        return
    if found is None:
        boxed.faults.add("unlabelled", path)
        return
    labels, lines = found
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{labels}:{number}"
        fault, label, values = _parsed(words, layout)
        if fault:
            broken.append(f"{place}: {fault}; got {line.strip()!r:.80}")
        elif len(values) == 4:
            yield place, label, _pixels(values, size)
        else:
            boxed.faults.add("from_polygon", place)
            yield place, label, _around(values, size)


def _parsed(words: Sequence[str], layout: _Layout) -> tuple[str, int, list[float]]:
    """(what is wrong with a line, its class, its four numbers or the coordinates of its polygon)."""
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return "a line must hold numbers", 0, []
    if layout.points and len(values) == 4 + layout.points:
        values = values[:4]
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        return f"a line must hold a class and 4 numbers, or a polygon; it has {len(values)} behind its class", 0, []
    if label < 0 or not label.is_integer():
        return "a class must be a whole number from 0", 0, []
    n_classes = _UNNAMED if layout.names is None else len(layout.names)
    if label >= n_classes:
        return f"there are classes 0 to {n_classes - 1}", 0, []
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        return "numbers must lie within 0..1, as fractions of the image's size", 0, []
    return "", int(label), values


def _pixels(values: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = values
    return (x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1]


def _around(values: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    xs, ys = [x * size[0] for x in values[::2]], [y * size[1] for y in values[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _count_orphans(paths: Sequence[str], boxed: Boxed) -> None:
    """Count the label files whose image is not there, in the folders of these images' labels."""
    stems: dict[str, set[str]] = {}  # folder of labels -> stems of the images that are there
    for image_folder in {os.path.dirname(path) for path in paths}:
        names = os.listdir(image_folder or ".") if os.path.isdir(image_folder or ".") else []
        for folder in _label_folders(image_folder):
            stems.setdefault(folder, set()).update(os.path.splitext(name)[0] for name in names if _is_image(name))
    for folder, known in sorted(stems.items()):
        names = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
        for name in names:
            path = os.path.join(folder, name)
            if name.lower().endswith(".txt") and name not in _NAMES and name[:-4] not in known and _looks_ours(path):
                boxed.faults.add("no_image", path)


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)
