"""Pascal VOC: an xml file for each image; Annotations/, JPEGImages/ and ImageSets/Main/*.txt, or xml beside images.

Boxes are corners. `xmin ymin` are taken as they stand, as most tools write them: x = xmin, width = xmax - xmin. The
original sets count pixels from 1, and the last one is in the box: with `one_based`, x = xmin - 1, and width = xmax -
xmin + 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from searchkit.nas.data.formats.boxed import Box, Boxed, assigned, count_images_alone, of_boxed
from searchkit.nas.data.formats.listing import Listing, Options, refused, shown_sizes, split_of
from searchkit.nas.data.formats.neutral import TEST, TRAIN, VAL, DataSet
from searchkit.nas.data.formats.xmls import Broken, Element, parse
from searchkit.nas.data.label_files import ENDINGS

LOOKED_FOR = "xml files with an <annotation>, such as Annotations/ beside JPEGImages/"
_HEAD = 1024  # bytes in which <annotation> begins
_SNIFFED = 20  # files of a folder of which one must be ours
_LISTS = ((TRAIN, ("train", "trainval")), (VAL, ("val",)), (TEST, ("test",)))  # the first list that is there
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _File:
    """An xml file and where its image is."""

    path: str
    image: str
    is_there: bool
    split: str | None
    root: Element


def evidence(listing: Listing) -> str:
    return ", ".join(f"{folder}/*.xml".lstrip("/") for folder in list(_xmls(listing))[:3])


def _xmls(listing: Listing) -> dict[str, list[str]]:
    """Folder -> names of its xml files, where they are annotations."""
    folders: dict[str, list[str]] = {}
    for folder, name in listing.named(".xml"):
        folders.setdefault(folder, []).append(name)
    return {
        folder: names
        for folder, names in folders.items()
        if any(_looks_ours(listing.path(folder, name)) for name in names[:_SNIFFED])
    }


def _looks_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"<annotation" in file.read(_HEAD)
    except OSError:
        return False


def read_folder(listing: Listing, options: Options) -> DataSet:
    broken: list[str] = []
    files = list(_files(listing, broken))
    splits, alone = assigned([file.split for file in files])
    boxed = {split: Boxed() for split in splits if split}
    first = next(iter(boxed.values()), Boxed())
    sizes = iter(shown_sizes(file.image for file in files if file.is_there and not _size(file.root)))
    numbers: dict[str, int] = {}
    objects: list[tuple[str, _File, tuple[int, int] | None, list[Box]]] = []
    for split, file in zip(splits, files, strict=True):
        size = _size(file.root) or (next(sizes) if file.is_there else (1, 1))
        if split is None:
            first.faults.add("unlisted", file.image)
        elif size is None:
            boxed[split].faults.add("unreadable", file.image)
        else:
            boxes = list(_boxes(file, options.one_based, numbers, boxed[split], broken))
            objects.append((split, file, size, boxes))
    refused(broken, "Correct these files, or remove them with their images")
    names = sorted(numbers)
    label_of = {numbers[name]: label for label, name in enumerate(names)}
    for split, file, size, boxes in objects:
        boxed[split].add(file.image, size, [(place, label_of[number], xywh) for place, number, xywh in boxes])
    count_images_alone(listing, {file.image for file in files}, first)
    return of_boxed("voc", listing.root, boxed, names, unsplit=alone)


def _files(listing: Listing, broken: list[str]) -> Iterator[_File]:
    for folder, names in _xmls(listing).items():
        base, _, last = folder.rpartition("/")
        if last != "Annotations" and folder != "Annotations":
            base = folder
        listed = _splits_of(listing, base)
        for name in names:
            path, stem = listing.path(folder, name), os.path.splitext(name)[0]
            try:
                with open(path, "rb") as file:
                    root = parse(file.read())
            except Broken as e:
                broken.append(f"{path}:{e.line}: {e.what}")
                continue
            except OSError as e:
                broken.append(f"{path}: it can't be read: {e.strerror}")
                continue
            if root.name != "annotation":
                broken.append(f"{path}:{root.line}: its element must be an <annotation>, not <{root.name}>")
                continue
            image = _image(listing, folder, base, root, stem)
            split = listed.get(stem) if listed else split_of(folder)
            yield _File(path, image or listing.path(folder, root.text_of("filename") or stem), bool(image), split, root)


def _splits_of(listing: Listing, base: str) -> Mapping[str, str]:
    """Stem of an image -> its split, as the lists in ImageSets/Main say; empty where there are none."""
    folder = f"{base}/ImageSets/Main".lstrip("/")
    splits: dict[str, str] = {}
    for split, lists in _LISTS:
        file_name = next((f"{name}.txt" for name in lists if f"{name}.txt" in listing.files.get(folder, ())), None)
        if file_name is None:
            continue
        with open(listing.path(folder, file_name), encoding="utf-8", errors="replace") as file:
            for line in file:
                name = line.strip()
                # Lists of one class have a second column; names may have an ending, and blanks.
                for stem in (name, name.rpartition(" ")[0].rstrip()):
                    stem = os.path.splitext(stem)[0] if stem.lower().endswith(ENDINGS) else stem
                    splits.setdefault(stem, split)
    return splits


def _image(listing: Listing, folder: str, base: str, root: Element, stem: str) -> str | None:
    """The image of an xml file, by the name that it says, or by its own; None where there is none."""
    said = os.path.basename(root.text_of("filename").replace("\\", "/"))
    places = [f"{base}/{name}".lstrip("/") for name in ("JPEGImages", "images")]
    return listing.image([*places, folder, base], [name for name in (said, stem) if name])


def _size(root: Element) -> tuple[int, int] | None:
    """(width, height) px as the xml says; None where it doesn't: some tools write 0."""
    width, height = (root.text_of(f"size/{side}") for side in ("width", "height"))
    if not width.isdecimal() or not height.isdecimal() or not int(width) or not int(height):
        return None
    return int(width), int(height)


def _boxes(file: _File, one_based: bool, numbers: dict[str, int], boxed: Boxed, broken: list[str]) -> Iterator[Box]:
    """The boxes of an xml file; numbers: of each class met so far, to which it adds."""
    for element in file.root.all("object"):
        place = f"{file.path}:{element.line}:{element.col}"
        name = element.text_of("name")
        corners = [element.text_of(f"bndbox/{key}") for key in _CORNERS]
        try:
            x0, y0, x1, y1 = map(float, corners)
        except ValueError:
            found = ", ".join(f"{key} {text!r}" for key, text in zip(_CORNERS, corners, strict=True))
            broken.append(f"{place}: an object must have a bndbox of four numbers; got {found}")
            continue
        if not name:
            broken.append(f"{place}: an object must have a name")
            continue
        if element.text_of("difficult") not in ("", "0"):
            boxed.faults.add("difficult", place)
        if one_based:
            x0, y0 = x0 - 1, y0 - 1
        yield place, numbers.setdefault(name, len(numbers)), (x0, y0, x1 - x0, y1 - y0)
