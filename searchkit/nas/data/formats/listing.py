"""The files of a folder, listed once, and what their names and heads say."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.formats.neutral import TEST, TRAIN, VAL
from searchkit.nas.data.label_files import ENDINGS
from searchkit.nas.data.pixels import UNDECODABLE, header

# Words in the names of files and folders that say which split they are of.
SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "trainval": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "test": TEST,
    "testing": TEST,
}
_HEAD = 8192  # bytes of a json that usually tell what it is
_TELLING = re.compile(rb'"(shapes|imagePath|images(?="\s*:\s*\[)|annotations(?="\s*:\s*\[))"\s*:')
_THREADS = 8  # that open images: on network drives most of the time is waiting
_NAMED = 10  # faults named in one error


@dataclass(frozen=True, eq=False)
class Options:
    """What people may say about a set beside its path."""

    images: str | None = None  # the folder that a COCO json's file names are relative to
    one_based: bool = False  # Pascal VOC: the first pixel is 1, and the last one is in the box


@dataclass(frozen=True, eq=False)
class Listing:
    """All files below a folder but hidden ones. Folders are named relative to it, with `/`; it is "" itself."""

    root: str
    files: Mapping[str, tuple[str, ...]]  # folder -> names of its files, sorted; of all folders

    def path(self, folder: str, name: str = "") -> str:
        return os.path.join(self.root, *(part for part in (folder, name) if part))

    def named(self, *endings: str) -> list[tuple[str, str]]:
        """(folder, name) of the files whose names end so, in order."""
        return [(folder, name) for folder, names in self.files.items() for name in names if _ends(name, endings)]

    @cached_property
    def images(self) -> list[tuple[str, str]]:
        return self.named(*ENDINGS)

    @cached_property
    def _stems(self) -> Mapping[str, Mapping[str, str]]:
        """Folder -> stem, and whole name, of an image -> its name."""
        stems: dict[str, dict[str, str]] = {}
        for folder, name in self.images:
            stems.setdefault(folder, {}).setdefault(os.path.splitext(name)[0], name)
        for folder, name in self.images:
            stems[folder][name] = name
        return stems

    def image(self, folders: Iterable[str], names: Sequence[str]) -> str | None:
        """The path of the first image in these folders with one of these names, with or without their endings."""
        for folder in folders:
            of_folder = self._stems.get(folder, {})
            for name in names:
                stored = of_folder.get(name) or of_folder.get(os.path.splitext(name)[0])
                if stored:
                    return self.path(folder, stored)
        return None

    @cached_property
    def jsons(self) -> Mapping[str, list[tuple[str, str]]]:
        """`coco` and `labelme` -> (folder, name) of the json files that look like it."""
        kinds: dict[str, list[tuple[str, str]]] = {"coco": [], "labelme": []}
        for folder, name in self.named(".json"):
            kind = json_kind(self.path(folder, name))
            if kind:
                kinds[kind].append((folder, name))
        return kinds

    def text(self) -> str:
        """What is in the folder, for people."""
        folders = sorted({folder.split("/")[0] for folder in self.files if folder})
        counts: dict[str, int] = {}
        for _, name in self.named(""):
            ending = os.path.splitext(name)[1].lower() or "without an ending"
            counts[ending] = counts.get(ending, 0) + 1
        kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"the folders {some(folders)}"] if folders else []
        parts += [some([f"{n} {ending}" for ending, n in kinds])] if kinds else []
        return "; ".join(parts) or "nothing"


def listed(root: str) -> Listing:
    """The files below a folder; links are followed, but not in circles. Raises UsageError where it can't be read."""
    if not os.path.isdir(root):
        raise UsageError(f"no such file or folder: {root}")
    files: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()

    def refuse(e: OSError) -> None:
        raise UsageError(f"cannot read {e.filename}: {e.strerror}") from e

    for place, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        folder = os.path.relpath(place, root).replace(os.sep, "/")
        files["" if folder == "." else folder] = tuple(sorted(name for name in names if not name.startswith(".")))
    return Listing(root, files)


def _ends(name: str, endings: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(endings))


def split_of(path: str) -> str | None:
    """The split that a relative path says it is of, by the first word of it that names one; None where none does."""
    for part in path.replace(os.sep, "/").split("/"):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None


def json_kind(path: str) -> str:
    """What a json file is by the first of its keys that tells: coco, labelme; empty where none does."""
    try:
        with open(path, "rb") as file:
            key = _telling_key(file.read(_HEAD))
            if not key and os.fstat(file.fileno()).st_size > _HEAD:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                    key = _telling_key(whole)
    except OSError:
        return ""
    return "labelme" if key in (b"shapes", b"imagePath") else "coco" if key else ""


def _telling_key(text: bytes | mmap.mmap) -> bytes:
    match = _TELLING.search(text)
    return match[1] if match else b""


def shown_sizes(paths: Iterable[str]) -> list[tuple[int, int] | None]:
    """(width, height) px of image files as they are shown, upright; None where one can't be opened."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_shown_size, paths))


def _shown_size(path: str) -> tuple[int, int] | None:
    size = header(path).upright
    if size is not None:
        return size
    try:
        with Image.open(path) as image:
            return image.size
    except UNDECODABLE:
        return None


def refused(faults: Sequence[str], hint: str = "") -> None:
    """UsageError with the first of these faults, if there are any."""
    if not faults:
        return
    lines = list(faults[:_NAMED])
    if len(faults) > _NAMED:
        lines.append(f"... and {len(faults) - _NAMED} more")
    raise UsageError("\n".join(lines), hint)


def some(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c and 12 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
