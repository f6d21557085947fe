"""Image sets with one label for each image: opened in any of their formats, and subsets of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from searchkit import console
from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.coco import joined_reading
from searchkit.nas.data.coco_images import say_heads
from searchkit.nas.data.hashing import mix
from searchkit.nas.data.label_files import Source, read_source
from searchkit.nas.data.label_stores import AS_IS, Joined, Store
from searchkit.nas.data.pixels import Reading, headers
from searchkit.nas.data.report import DataReport, Faults, other_classes

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 10  # classes named in a line


@dataclass(frozen=True, eq=False)
class LabelSet:
    """N images with a label each, in the order of their source; image i is of the class names[labels[i]]."""

    names: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, 0..C-1
    source: str  # the path it was opened by
    digest: str  # sha256 (hex) of the content, or for folders of all names and sizes; and of what was chosen from it
    report: DataReport
    store: Store
    rows: np.ndarray  # (N,) int64: number of each image in the store
    reading: Reading = AS_IS  # how image files are read

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8 RGB. Raises UsageError naming the image where it can't be decoded."""
        import torch

        return torch.from_numpy(self.pixels(index).copy())

    def pixels(self, index: int) -> np.ndarray:
        """As `image`, but perhaps a view of what the set holds: not to be written to."""
        return self.store.read(int(self.rows[index]))

    def where(self, index: int) -> str:
        """The image's file, or its number in the file of all."""
        return self.store.where(int(self.rows[index]))

    def read_as(self, reading: Reading) -> LabelSet:
        """The same images, their files read in this way."""
        return replace(self, store=self.store.read_as(reading), reading=reading)

    @property
    def counts(self) -> np.ndarray:
        """(C,) int64 images of each class."""
        return np.bincount(self.labels, minlength=len(self.names))


def open_labelled(
    path: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    portion: tuple[float, float] = (0.0, 1.0),
    per_class: int | None = None,
    classes: Sequence[str] = (),
    reading: Reading = AS_IS,
    partial: bool = False,
) -> LabelSet:
    """The images at `path`:

    - a folder with a folder for each class (ImageNet's layout): classes are sorted by name, images may lie deeper;
    - an idx file of images (MNIST, gzipped or not); its labels lie beside it, or in the file `labels`;
    - a folder of CIFAR-10's binary version (its training batches), or one of its files;
    - an .npz of JPEG bytes: `FILE.npz#train`.

    portion: (a, b), of every class the images from the fraction a to b of an order that is shuffled, but always the
    same: (0, 0.9) and (0.9, 1) are disjoint, and together they are all. per_class: at most so many of each class, the
    first ones of that order. classes: names of those to use; their order gives the labels. partial: the set need not
    have all of them; see `matched`. reading: how image files are read; where its range is None and there are deep
    greys, their values tell it.

    Raises UsageError where there is nothing to read, where files are damaged or do not fit together, for an unknown
    class, and where no image is left. Whether images can be decoded is found out on access.
    """
    if len(portion) != 2 or not 0 <= portion[0] < portion[1] <= 1:
        raise UsageError(f"portion must be [a, b] with 0 <= a < b <= 1; got {list(portion)}")
    if per_class is not None and per_class < 1:
        raise UsageError(f"per_class must be at least 1, got {per_class}")
    source = read_source(os.fspath(path), None if labels is None else os.fspath(labels))
    if partial and {*classes} & {*source.names}:
        classes = [name for name in classes if name in source.names]
    names, of_class = _classes(source, classes)
    notes = list(source.notes)
    left_out = int((of_class < 0).sum())
    if left_out:
        notes.append(("unselected", left_out, f"images of classes that were not selected (left out): {left_out}"))
    chosen = []
    for label in range(len(names)):
        rows = np.flatnonzero(of_class == label)
        rows = rows[np.argsort(mix(rows.astype(np.uint64)), kind="stable")]
        first, last = (int(len(rows) * share + 0.5) for share in portion)
        chosen.append(rows[first:last][:per_class])
    rows = np.sort(np.concatenate(chosen))
    unused = len(of_class) - left_out - len(rows)
    if unused:
        reason = f"images outside of portion {list(portion)}" + (
            f" or beyond {per_class} per class" if per_class else ""
        )
        notes.append(("portion", unused, f"{reason} (left out): {unused}"))
    if not len(rows):
        raise UsageError(f"no image of {source.path} is left: " + "; ".join(line for _, _, line in notes))
    labels_left = of_class[rows]
    empty = [name for name, n in zip(names, np.bincount(labels_left, minlength=len(names)), strict=True) if not n]
    if empty:
        notes.append(("empty_class", len(empty), f"classes without an image: {len(empty)}, e.g. {empty[0]}"))
    reading = _look(source.store, rows, reading, notes)
    digest = source.digest
    if left_out or unused or names != source.names:
        digest = _digest(digest, names, rows, labels_left)
    report = DataReport(f"{source.path}: {_summary(names, labels_left)}", tuple(notes))
    return LabelSet(names, labels_left, source.path, digest, report, source.store.read_as(reading), rows, reading)


def _look(store: Store, rows: np.ndarray, reading: Reading, notes: list[tuple[str, int, str]]) -> Reading:
    """Count in `notes` what the heads of these files say; `reading` with the range of deep greys that there are."""
    if store.file(int(rows[0])) is None:
        return reading

    def file(i: int) -> str | bytes:
        return store.file(int(rows[i])) or b""

    faults = Faults()
    reading = say_heads(headers(len(rows), file), len(rows), file, lambda i: None, reading, faults)
    notes += faults.lines()
    return reading


def subset(data: LabelSet, indices: Sequence[int] | np.ndarray) -> LabelSet:
    """The images at `indices`, in that order; the report stays that of the whole set."""
    at = np.asarray(indices, np.int64)
    rows, labels = data.rows[at], data.labels[at]
    return replace(data, labels=labels, rows=rows, digest=_digest(data.digest, data.names, rows, labels))


def joined(first: LabelSet, second: LabelSet) -> LabelSet:
    """The images of both sets, for training on both. Raises UsageError where their classes differ."""
    same_classes(first, second)
    n_first = int(first.rows.max(initial=-1)) + 1
    rows = np.concatenate([first.rows, second.rows + n_first])
    labels = np.concatenate([first.labels, second.labels])
    return replace(
        first,
        labels=labels,
        rows=rows,
        digest=_digest(first.digest + second.digest, first.names, rows, labels),
        store=Joined(first.store, second.store, n_first),
        reading=joined_reading(first, second),
    )


def matched(data: LabelSet, names: Sequence[str]) -> LabelSet:
    """The set with these classes in this order, by name. A class that it does not have has no images; one that is not
    among these is left out if it has none; the report says so. If it has some, the set stays as it is: see
    `same_classes`."""
    used = {name for name, n in zip(data.names, data.counts, strict=True) if n}
    if data.names == tuple(names) or not used <= {*names}:
        return data
    moved = np.array([list(names).index(name) if name in names else -1 for name in data.names], np.int64)
    labels = moved[data.labels]
    report = replace(data.report, faults=(*data.report.faults, *other_classes(data.source, names, data.names)))
    digest = _digest(data.digest, names, data.rows, labels)
    return replace(data, names=tuple(names), labels=labels, report=report, digest=digest)


def same_classes(data: LabelSet, other: LabelSet) -> None:
    """UsageError where a label of one set means another class in the other: names what differs."""
    if data.names == other.names:
        return
    lines = []
    for a, b in ((data, other), (other, data)):
        only = [name for name in a.names if name not in set(b.names)]
        if only:
            lines.append(f"only {a.source} has {_some(only)}")
    if not lines:
        lines.append(f"they are in different orders: {_some(data.names)} and {_some(other.names)}")
    raise UsageError(
        f"{data.source} and {other.source} must have the same classes; " + "; ".join(lines),
        "Name in data.classes those to use; images of others are then left out, and counted",
    )


def _classes(source: Source, classes: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names to use, and for every image of the source its label among them, or -1."""
    if not classes:
        return source.names, source.labels
    unknown = [name for name in classes if name not in source.names]
    if unknown:
        near = did_you_mean(unknown[0], source.names[:100])
        raise UsageError(f"{source.path} has no class {', '.join(map(repr, unknown))}{near}")
    if len(set(classes)) < len(classes):
        raise UsageError(f"classes must name each class once; got {', '.join(classes)}")
    new = np.full(len(source.names), -1, np.int64)
    new[[source.names.index(name) for name in classes]] = np.arange(len(classes))
    return tuple(classes), new[source.labels]


def _digest(digest: str, names: Sequence[str], rows: np.ndarray, labels: np.ndarray) -> str:
    chosen = hashlib.sha256("\0".join([digest, *names]).encode(errors="surrogateescape"))
    for array in (rows, labels):
        chosen.update(np.ascontiguousarray(array, "<i8").data)
    return chosen.hexdigest()


def _summary(names: Sequence[str], labels: np.ndarray) -> str:
    counts = np.bincount(labels, minlength=len(names))
    shown = _some([f"{name} {n}" for name, n in zip(names, counts, strict=True)])
    images, classes = console.counted(len(labels), "image"), console.counted(len(names), "class", "classes")
    return f"{images} in {classes} ({shown})"


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])
