"""Image sets with one label per image, by format: class folders, idx files, CIFAR-10's binary version, packed JPEGs.

Each reader checks all that can be checked without decoding, and gives a `Source`. Images that need decoding are decoded
on access.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.label_stores import Arrays, Files, Packed, Store

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision has them
SPLITS = {"train", "val", "valid", "validation", "test"}

_CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then 3 x 32 x 32 pixels


@dataclass(frozen=True, eq=False)
class Source:
    """A whole set: labels[i] is the class names[labels[i]] of image i of the store."""

    path: str
    store: Store
    names: tuple[str, ...]
    labels: np.ndarray  # (N,) int64
    digest: str  # sha256, hex
    notes: tuple[tuple[str, int, str], ...] = ()  # as DataReport.faults


def read_source(path: str, labels: str | None) -> Source:
    """The set at `path`, of whatever kind it is. Raises UsageError, see `open_labelled`."""
    file, mark, part = path.rpartition("#")
    if not os.path.exists(path) and mark and os.path.isfile(file):
        where, chosen = file, part
    else:
        where, chosen = path, ""
    try:
        if os.path.isdir(where):
            if labels is not None:
                raise UsageError(f"labels are read from a file beside idx images, but {where} is a folder")
            return _folder(where)
        with open(where, "rb") as opened:
            start = opened.read(4)
        kind = "npz" if start[:2] == b"PK" else "cifar" if _is_batch(where) else "idx"
        if chosen and kind != "npz":
            raise UsageError(f"only an .npz file has parts to choose by #{chosen}, but {where} is none")
        if labels is not None and kind != "idx":
            raise UsageError(f"labels are read from a file beside idx images, but {where} has labels of its own")
        if kind == "npz":
            return _npz(where, chosen)
        return _cifar(where, [where]) if kind == "cifar" else _mnist(where, start, labels)
    except FileNotFoundError as e:
        missing = e.filename if isinstance(e.filename, str) else where
        folder = os.path.dirname(missing) or "."
        siblings = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        near = did_you_mean(os.path.basename(missing), siblings)
        raise UsageError(f"no such file or folder: {missing}{near if 'did you mean' in near else ''}") from None
    except OSError as e:
        raise UsageError(f"cannot read {e.filename or where}: {e.strerror or e}") from e


# ---- class folders ----


def _folder(root: str) -> Source:
    """A folder for each class, images somewhere below; or another layout that a folder may have."""
    entries = sorted(os.listdir(root))
    batches = [name for name in entries if name.startswith("data_batch_") and _is_batch(os.path.join(root, name))]
    if batches:
        return _cifar(root, [os.path.join(root, name) for name in batches])
    if "data_batch_1" in entries:
        raise UsageError(
            f"{root} is the Python version of CIFAR-10, whose files can run programs when they are read",
            "Take the binary version (cifar-10-binary.tar.gz): it has data_batch_1.bin",
        )
    counts = {"hidden": 0, "other": 0, "loose": 0}
    names: list[str] = []
    for name in entries:
        if name.startswith("."):
            counts["hidden"] += 1
        elif os.path.isdir(os.path.join(root, name)):
            names.append(name)
        else:
            counts["loose" if name.lower().endswith(ENDINGS) else "other"] += 1
    _no_other_layout(root, entries, names, counts["loose"])
    parts: list[bytes] = []
    labels: list[int] = []
    digest = hashlib.sha256()
    for label, name in enumerate(names):
        files = [(os.path.dirname(file), file, size) for file, size in _images(root, name, counts)]
        for _, file, size in sorted(files):  # folder by folder, as torchvision's ImageFolder goes
            parts.append(os.fsencode(file))
            digest.update(b"%s\0%d\n" % (parts[-1], size))
        labels += [label] * len(files)
    if not parts:
        raise UsageError(f"the class folders of {root} must hold images ({' '.join(ENDINGS)}), but there are none")
    note_of = {
        "hidden": "hidden files and folders (left out)",
        "other": "files that are no images by their names (left out)",
        "loose": "images beside the class folders (left out)",
    }
    notes = tuple((kind, n, f"{note_of[kind]}: {n}") for kind, n in counts.items() if n)
    offsets = np.cumsum([0, *map(len, parts)])
    files_store = Files(root, b"".join(parts), offsets)
    return Source(root, files_store, tuple(names), np.array(labels, np.int64), digest.hexdigest(), notes)


def _no_other_layout(root: str, entries: Sequence[str], names: Sequence[str], loose: int) -> None:
    """UsageError where the folders are not classes."""
    splits = [name for name in names if name.lower() in SPLITS]
    if len(splits) > 1 or (splits and len(splits) == len(names)):  # one among others may be a class: a train
        contents = "its folders are" if len(splits) == len(names) else "it has the splits"
        raise UsageError(
            f"{root} must hold a folder for each class, but {contents} {', '.join(splits)}",
            f"Name one of them: {os.path.join(root, splits[0])}",
        )
    if names:
        return
    idx = [name for name in entries if "images" in name and "idx3" in name]
    packed = [name for name in entries if name.endswith((".npz", "test_batch.bin"))]
    if idx or packed:
        raise UsageError(f"{root} holds no class folders", f"Name one of its files: {', '.join(idx + packed)}")
    contents = f"{loose} images without a class" if loose else "no folder"
    raise UsageError(
        f"{root} must hold a folder for each class; found: {contents}",
        "FOLDER/cat/1.jpg is an image of the class cat.",
    )


def _images(root: str, folder: str, counts: dict[str, int], above: tuple[Any, ...] = ()) -> Iterator[tuple[str, int]]:
    """(name relative to root, bytes) of all images below a folder; links are followed, but not in circles."""
    info = os.stat(os.path.join(root, folder))
    if (info.st_dev, info.st_ino) in above:
        return
    above = (*above, (info.st_dev, info.st_ino))
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.name.startswith("."):
                counts["hidden"] += 1
            elif entry.is_dir():
                yield from _images(root, name, counts, above)
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
                yield name, entry.stat().st_size
            else:
                counts["other"] += 1


# ---- idx ----


def _mnist(path: str, start: bytes, labels: str | None) -> Source:
    """MNIST's format (http://yann.lecun.com/exdb/mnist), gzipped or not."""
    images, raw = _idx(path, 3, "images")
    if not images.size:
        raise UsageError(f"{path} holds no pixels: {' x '.join(map(str, images.shape))}")
    beside = labels if labels is not None else _labels_beside(path)
    label_array, raw_labels = _idx(beside, 1, "labels")
    if len(label_array) != len(images):
        raise UsageError(
            f"every image needs a label: {path} has {len(images)} images, {beside} {len(label_array)} labels"
        )
    names = tuple(map(str, range(int(label_array.max()) + 1)))
    grey = np.broadcast_to(images[:, None], (len(images), 3, *images.shape[1:]))
    digest = hashlib.sha256(raw + raw_labels).hexdigest()  # of the content: compressing again does not change the data
    return Source(path, Arrays(grey, path), names, label_array.astype(np.int64), digest)


def _labels_beside(path: str) -> str:
    folder, name = os.path.split(path)
    if "images" not in name:
        raise UsageError(f"the labels of {path} are not found by its name, which lacks the word images", "Give labels.")
    plain = name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    for candidate in (plain + ".gz", plain) if name.endswith(".gz") else (plain, plain + ".gz"):
        if os.path.isfile(os.path.join(folder, candidate)):
            return os.path.join(folder, candidate)
    raise UsageError(f"the labels of {path} must lie beside it as {plain} or {plain}.gz", "Or name their file: labels.")


def _idx(path: str, dims: int, content: str) -> tuple[np.ndarray, bytes]:
    """The uint8 array of an idx file of `dims` dimensions, and the content of the file."""
    with open(path, "rb") as file:
        raw = file.read()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as e:
            raise UsageError(f"{path} is a damaged gzip file: {e}", "Download it again.") from e
    magic = bytes((0, 0, 8, dims))
    if raw[:4] != magic:
        kinds = {3: " (these are images)", 1: " (these are labels: name the images)"} if raw[:3] == magic[:3] else {}
        hint = "Class folders, idx files, CIFAR-10's binary version (*.bin) and .npz of JPEGs can be read."
        begins = f"an idx file of {content}, which begins with {magic.hex(' ')}"
        start = f"{raw[:4].hex(' ') or 'nothing'}{kinds.get(raw[3], '') if len(raw) > 3 else ''}"
        raise UsageError(f"{path} must be {begins}; got {start}", hint)
    head = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", raw[4:head].ljust(4 * dims, b"\0"))
    size = head + int(np.prod(shape, dtype=object))
    if len(raw) != size:
        shape_text = " x ".join(map(str, shape))
        raise UsageError(
            f"{path} says {shape_text}: it must have {size} bytes, but has {len(raw)}", "Download it again."
        )
    if not shape[0]:
        raise UsageError(f"{path} is empty: it has 0 {content}")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape), raw


# ---- CIFAR-10 ----


def _is_batch(path: str) -> bool:
    return path.endswith(".bin") and os.path.isfile(path)


def _cifar(path: str, batches: Sequence[str]) -> Source:
    """The binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html): one or several of its files."""
    contents = []
    digest = hashlib.sha256()
    for batch in batches:
        with open(batch, "rb") as file:
            raw = file.read()
        if not raw or len(raw) % _CIFAR_RECORD:
            raise UsageError(
                f"{batch} must be a batch of CIFAR-10's binary version, of {_CIFAR_RECORD} bytes for each image; "
                f"it has {len(raw)} bytes",
                "Download it again.",
            )
        digest.update(raw)
        contents.append(np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_RECORD))
    records = np.concatenate(contents) if len(contents) > 1 else contents[0]
    labels = records[:, 0].astype(np.int64)
    meta = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "batches.meta.txt")
    notes: tuple[tuple[str, int, str], ...] = ()
    if os.path.isfile(meta):
        with open(meta, encoding="utf-8", errors="replace") as lines:
            names = tuple(line.strip() for line in lines if line.strip())
        if labels.max() >= len(names):
            fault = f"it has {len(names)} names, but {path} has label {labels.max()}"
            raise UsageError(f"{meta} must name every class: {fault}")
    else:
        names = tuple(map(str, range(10)))
        notes = (("unnamed", 1, f"no {os.path.basename(meta)} beside it: classes are called by their numbers"),)
        if labels.max() >= len(names):
            raise UsageError(f"{path} must have labels 0 to 9, but has {labels.max()}", "Is it CIFAR-10?")
    pixels = records[:, 1:].reshape(-1, 3, 32, 32)  # a view
    return Source(path, Arrays(pixels, path), names, labels, digest.hexdigest(), notes)


# ---- JPEGs in an .npz ----


def _npz(path: str, part: str) -> Source:
    """jpeg_<part> (bytes,) uint8: files one after another; off_<part> (N + 1,); y_<part> (N,); classes: names."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            parts = [key.removeprefix("jpeg_") for key in file.files if key.startswith("jpeg_")]
            needed = {"classes", *(f"{kind}_{p}" for p in parts for kind in ("off", "y"))}
            if not parts or needed - set(file.files):
                raise UsageError(
                    f"{path} must have the arrays jpeg_<part>, off_<part>, y_<part> and classes; "
                    f"it has {', '.join(file.files) or 'none'}"
                )
            if not part and len(parts) > 1:
                raise UsageError(f"{path} has several parts: {', '.join(parts)}", f"Name one: {path}#{parts[0]}")
            part = part or parts[0]
            if part not in parts:
                raise UsageError(f"{path} has no part {part!r}{did_you_mean(part, parts)}")
            content, offsets, labels = (file[f"{kind}_{part}"] for kind in ("jpeg", "off", "y"))
            classes = file["classes"]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as e:
        raise UsageError(f"cannot read {path}: {e}", "It must be an .npz of plain arrays, whole.") from e
    if wrong := _unfit(part, content, offsets, labels, classes):
        raise UsageError(f"{path}: {wrong}")
    where, names = f"{path}#{part}", tuple(map(str, classes.tolist()))
    offsets, labels = offsets.astype(np.int64), labels.astype(np.int64)
    digest = hashlib.sha256("\0".join(names).encode())
    for array in (content, offsets, labels):
        digest.update(np.ascontiguousarray(array).data)
    return Source(where, Packed(content, offsets, where), names, labels, digest.hexdigest())


def _unfit(part: str, content: np.ndarray, offsets: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> str:
    """What is wrong with the arrays of an .npz; empty where nothing is."""
    if classes.dtype.kind != "U" or classes.ndim != 1 or not classes.size:
        return f"classes must be texts in one row, not {classes.dtype} {classes.shape}"
    if doubled := sorted(name for name, n in Counter(classes.tolist()).items() if n > 1):
        return f"classes must be distinct; found more than once: {', '.join(doubled)}"
    if content.dtype != np.uint8 or content.ndim != 1:
        return f"jpeg_{part} must be bytes in one row, not {content.dtype} {content.shape}"
    if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in (offsets, labels)):
        return f"off_{part} and y_{part} must be whole numbers in one row"
    if len(offsets) != len(labels) + 1 or not len(labels):
        numbers = f"{len(offsets)} and {len(labels)}"
        return f"off_{part} must have one number more than y_{part} has labels; found {numbers}"
    if offsets[0] < 0 or offsets[-1] > len(content) or (np.diff(offsets.astype(np.int64)) < 0).any():
        return f"off_{part} must ascend from 0 to the {len(content)} bytes of jpeg_{part}"
    if labels.min() < 0 or labels.max() >= len(classes):
        numbers = f"{labels.min()}..{labels.max()}"
        return f"y_{part} must lie in 0..{len(classes) - 1}, as there are classes; found {numbers}"
    return ""
