"""The formats by name, and `read`: a data set in whichever of them it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.formats import coco, folders, labelme, voc, yolo
from searchkit.nas.data.formats.listing import Listing, Options, json_kind, listed
from searchkit.nas.data.formats.neutral import DataSet

DEFAULT = Options()


@dataclass(frozen=True)
class Format:
    """How sets of one format are known and read."""

    title: str
    looked_for: str  # for people: what makes a folder one of this format
    evidence: Callable[[Listing], str]  # the files or folders that make it one; empty where none do
    read_folder: Callable[[Listing, Options], DataSet]
    read_file: Callable[[str, Options], DataSet] | None = None
    options: tuple[str, ...] = ()  # the fields of Options that mean something of it
    last: bool = False  # it is only where no other format is


FORMATS: Mapping[str, Format] = {
    "coco": Format("COCO", coco.LOOKED_FOR, coco.evidence, coco.read_folder, coco.read_file, ("images",)),
    "yolo": Format("YOLO", yolo.LOOKED_FOR, yolo.evidence, yolo.read_folder, yolo.read_file),
    "voc": Format("Pascal VOC", voc.LOOKED_FOR, voc.evidence, voc.read_folder, None, ("one_based",)),
    "labelme": Format("LabelMe", labelme.LOOKED_FOR, labelme.evidence, labelme.read_folder),
    "folders": Format("class folders", folders.LOOKED_FOR, folders.evidence, folders.read_folder, last=True),
}
_PACKED = (".npz", "-ubyte", "-ubyte.gz", "_batch.bin")  # what label_files reads beside class folders
_ENDINGS = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}


def read(path: str, *, format: str | None = None, options: Options = DEFAULT) -> DataSet:
    """The data set at `path`: a folder, or a COCO json, or a YOLO data.yaml.

    format: a key of FORMATS, where a folder is of several. options: what is said beside the path.

    Raises UsageError where it is none of the formats, or several; where files are broken, naming all of them with their
    lines; and as `coco.load_coco` does. All else is repaired or left out, and counted in the reports of the splits.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"no format {format!r}{did_you_mean(format, tuple(FORMATS))}")
    path = path.rstrip("/") or path
    if os.path.isfile(path):
        return _of_file(path, format, options)
    listing = listed(path)
    name = format or _recognised(listing)
    if format and not FORMATS[name].evidence(listing):
        raise _none(listing, (name,))
    _check_options(name, options)
    return FORMATS[name].read_folder(listing, options)


def _check_options(name: str, options: Options) -> None:
    for field in fields(options):
        if getattr(options, field.name) and field.name not in FORMATS[name].options:
            takers = " or ".join(row.title for row in FORMATS.values() if field.name in row.options)
            flag = field.name.replace("_", "-")
            raise UsageError(f"--{flag} is for {takers}, but this is {FORMATS[name].title}")


def _of_file(path: str, format: str | None, options: Options) -> DataSet:
    name = format or _ENDINGS.get(os.path.splitext(path)[1].lower())
    reader = FORMATS[name].read_file if name else None
    if reader is None:
        hint = "Name the folder that it is in." if name or path.lower().endswith(".xml") else ""
        raise UsageError(f"{path} is neither a COCO json nor a data.yaml of YOLO", hint)
    if name == "coco" and json_kind(path) == "labelme":
        raise UsageError(f"{path} is LabelMe's file of one image", "Name the folder that it is in.")
    assert name is not None
    _check_options(name, options)
    return reader(path, options)


def _recognised(listing: Listing) -> str:
    """The format of a folder. Raises UsageError where it is none, or several."""
    evidence = {name: row.evidence(listing) for name, row in FORMATS.items() if not row.last}
    evidence = {name: files for name, files in evidence.items() if files}
    if not evidence:
        evidence = {name: row.evidence(listing) for name, row in FORMATS.items() if row.last and row.evidence(listing)}
    if len(evidence) == 1:
        return next(iter(evidence))
    if not evidence:
        raise _none(listing, tuple(FORMATS))
    parts = [f"{FORMATS[name].title} ({files})" for name, files in evidence.items()]
    raise UsageError(
        f"{listing.root} is of several formats: {', '.join(parts)}",
        f"Name the folder of one, or say which to read: --format {' or --format '.join(evidence)}",
    )


def _none(listing: Listing, names: tuple[str, ...]) -> UsageError:
    lines = "".join(f"\n  {FORMATS[name].title}: {FORMATS[name].looked_for}" for name in names)
    if listing.named(*_PACKED):
        lines += (
            "\nA classifier is trained on idx, CIFAR-10's binary and .npz files as they are; here they are not read."
        )
    titles = "none of the formats" if len(names) > 1 else f"not {FORMATS[names[0]].title}"
    return UsageError(f"{listing.root} is {titles}; found: {listing.text()}", f"Looked for:{lines}")
