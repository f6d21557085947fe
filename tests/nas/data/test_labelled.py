"""Labelled sets: what independent readers find in the same files, the law of portions, what is said of bad input."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder

from searchkit.errors import UsageError
from searchkit.nas.cli.data import data_command
from searchkit.nas.data import toy_cls
from searchkit.nas.data.labelled import LabelSet, joined, open_labelled, same_classes, subset

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RNG = np.random.default_rng(0)


def write_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (7, 9)) -> Path:
    """Noise, `counts` images of each class, some in folders deeper down, of several formats."""
    for name, n in counts.items():
        for i in range(n):
            folder = root / name / ("deep" if i % 4 == 3 else "")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.{('png', 'jpg', 'JPEG', 'bmp')[i % 4]}")
    return root


def write_idx(folder: Path, n: int = 30, *, gz: bool = True) -> Path:
    pixels = RNG.integers(0, 256, (n, 5, 6), np.uint8)
    labels = (np.arange(n) * 7 % 10).astype(np.uint8)
    ending, compress = (".gz", gzip.compress) if gz else ("", bytes)
    (folder / (IMAGES + ending)).write_bytes(compress(struct.pack(">4I", 2051, n, 5, 6) + pixels.tobytes()))
    (folder / (LABELS + ending)).write_bytes(compress(struct.pack(">2I", 2049, n) + labels.tobytes()))
    return folder / (IMAGES + ending)


def write_cifar(folder: Path, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Five batches and a test batch of the binary version, n images each; (6 n, 32, 32, 3) pixels and labels."""
    pixels, labels = RNG.integers(0, 256, (6 * n, 32, 32, 3), np.uint8), np.arange(6 * n, dtype=np.uint8) % 10
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for k, name in enumerate(names):
        rows = slice(k * n, (k + 1) * n)
        records = np.concatenate([labels[rows, None], pixels[rows].transpose(0, 3, 1, 2).reshape(n, -1)], 1)
        (folder / name).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR_NAMES) + "\n\n")
    return pixels, labels


def write_npz(path: Path, n: int = 12, **changed: Any) -> list[bytes]:
    files = []
    for _ in range(n):
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "jpeg")
        files.append(buffer.getvalue())
    arrays: dict[str, Any] = {
        "jpeg_all": np.frombuffer(b"".join(files), np.uint8),
        "off_all": np.cumsum([0, *map(len, files)]),
        "y_all": np.arange(n) % 3,
        "classes": np.array(["a", "b", "c"]),
    }
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})
    return files


# ---- independent readers ----


def test_class_folders_are_those_of_torchvision(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b": 9, "a": 5, "C d": 3})
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    theirs = ImageFolder(str(tmp_path))
    ours = open_labelled(tmp_path)
    assert list(ours.names) == theirs.classes == ["C d", "a", "b", "linked"]
    assert ours.labels.tolist() == theirs.targets
    assert [ours.where(i) for i in range(len(ours))] == [path for path, _ in theirs.samples]
    for i, (image, _) in enumerate(theirs):
        assert np.array_equal(ours.image(i).permute(1, 2, 0), np.array(image))
    assert ours.report.lines == (f"{tmp_path}: 22 images in 4 classes (C d 3, a 5, b 9, linked 5)",)


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 2, ".git": 2})
    for name in ("a/.hidden.png", "a/._0.jpg", "a/notes.txt", "Thumbs.db", "loose.png"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    data = open_labelled(tmp_path)
    assert len(data) == 5
    assert data.names == ("a", "b", "empty")
    found = {kind: data.report.count(kind) for kind in ("hidden", "other", "loose", "empty_class")}
    assert found == {"hidden": 3, "other": 2, "loose": 1, "empty_class": 1}


def test_digests_say_whether_it_is_the_same_data(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", {"x": 3, "y": 2})
    before = open_labelled(a).digest
    os.rename(a, tmp_path / "b")
    assert open_labelled(tmp_path / "b").digest == before
    (tmp_path / "b" / "x" / "0.png").write_bytes(b"another size")
    digests = [before, *(open_labelled(tmp_path / "b", **choice).digest for choice in CHOICES)]
    assert len(set(digests)) == len(digests)


CHOICES: list[dict[str, Any]] = [
    {},
    {"classes": ["x"]},
    {"classes": ["y", "x"]},
    {"per_class": 1},
    {"portion": (0, 0.5)},
]


@pytest.mark.parametrize("gz", [True, False])
def test_idx_files_are_read_as_by_hand(tmp_path: Path, gz: bool) -> None:
    path = write_idx(tmp_path, gz=gz)
    data = open_labelled(path)
    check_idx(data, path, tmp_path / path.name.replace("images-idx3", "labels-idx1"))
    os.rename(tmp_path / path.name.replace("images-idx3", "labels-idx1"), tmp_path / "elsewhere")
    again = open_labelled(path, labels=tmp_path / "elsewhere")
    assert again.digest == data.digest
    with pytest.raises(
        UsageError, match=r"must lie beside it as train-labels-idx1-ubyte or train-labels-idx1-ubyte\.gz"
    ):
        open_labelled(path)


def check_idx(data: LabelSet, images: Path, labels: Path) -> None:
    raw, marks = (gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in (images, labels))
    n, h, w = struct.unpack(">3I", raw[4:16])
    assert (len(data), data.names) == (n, tuple("0123456789"))
    assert data.labels.dtype == np.int64
    assert bytes(data.labels.astype(np.uint8)) == marks[8:]
    assert data.digest == hashlib.sha256(raw + marks).hexdigest()
    for i in (0, n // 2, n - 1):
        image = data.image(i)
        assert image.shape == (3, h, w)
        for channel in image:
            assert channel.numpy().tobytes() == raw[16 + i * h * w : 16 + (i + 1) * h * w]


def test_cifar_batches_are_those_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pixels, written in the format that torchvision reads."""
    pixels, labels = write_cifar(tmp_path)
    pickles = tmp_path / CIFAR10.base_folder
    pickles.mkdir()
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    for k, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        part = slice(k * 20, (k + 1) * 20)
        (pickles / name).write_bytes(pickle.dumps({"data": rows[part], "labels": labels[part].tolist()}))
    (pickles / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR_NAMES}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    for ours, train in ((open_labelled(tmp_path), True), (open_labelled(tmp_path / "test_batch.bin"), False)):
        theirs = CIFAR10(str(tmp_path), train=train)
        assert list(ours.names) == theirs.classes
        assert ours.labels.tolist() == theirs.targets
        assert all(np.array_equal(ours.image(i).permute(1, 2, 0), theirs.data[i]) for i in range(len(theirs)))
    with pytest.raises(UsageError, match="is the Python version of CIFAR-10") as e:
        open_labelled(pickles)
    assert "binary" in e.value.hint
    (tmp_path / "batches.meta.txt").unlink()
    assert open_labelled(tmp_path / "data_batch_2.bin").names == tuple("0123456789")


def test_packed_jpegs_are_those_of_pillow(tmp_path: Path) -> None:
    files = write_npz(tmp_path / "some.npz")
    data = open_labelled(tmp_path / "some.npz")
    assert data.digest == open_labelled(f"{tmp_path}/some.npz#all").digest
    assert data.names == ("a", "b", "c")
    for i, content in enumerate(files):
        assert np.array_equal(data.image(i).permute(1, 2, 0), np.array(Image.open(io.BytesIO(content))))


def test_real_mnist(data_dir: Path) -> None:
    for split, n in (("train", 60_000), ("t10k", 10_000)):
        images = data_dir / "mnist" / f"{split}-images-idx3-ubyte.gz"
        data = open_labelled(images)
        assert len(data) == n
        check_idx(data, images, data_dir / "mnist" / f"{split}-labels-idx1-ubyte.gz")
    assert data.counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published


def test_real_cifar(data_dir: Path) -> None:
    path = data_dir / "cifar10" / "cifar10_jpeg.npz"
    with pytest.raises(UsageError, match="several parts: train, test") as e:
        open_labelled(path)
    assert e.value.hint == f"Name one: {path}#train"
    train, val = (open_labelled(f"{path}#train", portion=part) for part in ((0, 0.9), (0.9, 1)))
    assert train.counts.tolist() == [4500] * 10
    assert val.counts.tolist() == [500] * 10
    assert not set(train.rows) & set(val.rows)
    test = open_labelled(f"{path}#test")
    same_classes(train, test)
    assert list(test.names) == CIFAR_NAMES
    with np.load(path) as raw:
        for i in (0, 9_999):
            content = raw["jpeg_test"][raw["off_test"][i] : raw["off_test"][i + 1]].tobytes()
            assert np.array_equal(test.image(i).permute(1, 2, 0), np.array(Image.open(io.BytesIO(content))))


# ---- a choice of the images ----


def test_portions_are_disjoint_and_cover_every_class(tmp_path: Path) -> None:
    path = write_idx(tmp_path, 143)
    whole = open_labelled(path)
    for cuts in ((0, 0.9, 1), (0, 0.5, 1), (0, 0.1, 0.33, 0.6, 1)):
        parts = [open_labelled(path, portion=(a, b)) for a, b in pairwise(cuts)]
        rows = np.concatenate([part.rows for part in parts])
        assert sorted(rows) == list(range(143))
        for part, a, b in zip(parts, cuts[:-1], cuts[1:], strict=True):
            assert (abs(part.counts - whole.counts * (b - a)) <= 1).all()
            assert np.array_equal(part.labels, whole.labels[part.rows])
            assert (np.diff(part.rows) > 0).all()
            assert part.names == whole.names
    half = open_labelled(path, portion=(0, 0.5)).rows
    assert 20 < (half < 72).sum() < 52  # the first half of the file is not the first half of the order


def test_portions_do_not_change_between_versions(tmp_path: Path) -> None:
    """Numbers of version 0.3: otherwise images a net was trained on would be those it is tested on."""
    path = write_idx(tmp_path, 40)
    assert open_labelled(path, portion=(0.75, 1)).rows.tolist() == [0, 23, 24, 25, 31, 32, 36, 37, 38, 39]


def test_per_class_takes_the_first_of_a_portion(tmp_path: Path) -> None:
    path = write_idx(tmp_path, 200)
    rows = [set(open_labelled(path, portion=(0.1, 0.8), per_class=n).rows) for n in (1, 5, 99)]
    assert [len(some) for some in rows] == [10, 50, 140]
    assert rows[0] < rows[1] < rows[2] == set(open_labelled(path, portion=(0.1, 0.8)).rows)


def test_classes_give_the_labels(tmp_path: Path) -> None:
    path = write_idx(tmp_path, 100)
    whole, some = open_labelled(path), open_labelled(path, classes=["7", "2"])
    assert some.names == ("7", "2")
    assert np.array_equal(some.labels, np.where(whole.labels[some.rows] == 7, 0, 1))
    assert some.report.count("unselected") == 80
    part = open_labelled(path, classes=["7", "2"], portion=(0, 0.5))
    full = open_labelled(path, portion=(0, 0.5))
    assert set(part.rows) == set(full.rows[np.isin(full.labels, [7, 2])])


def test_subsets_and_joined_sets(tmp_path: Path) -> None:
    data = open_labelled(write_idx(tmp_path))
    some = subset(data, [7, 3, 3])
    assert [torch.equal(some.image(i), data.image(k)) for i, k in enumerate([7, 3, 3])] == [True] * 3
    assert some.labels.tolist() == data.labels[[7, 3, 3]].tolist()
    other = open_labelled(write_idx(tmp_path))
    both = joined(some, other)
    assert len(both) == 33
    assert torch.equal(both.image(1), data.image(3))
    assert torch.equal(both.image(3 + 29), other.image(29))
    assert len({some.digest, data.digest, other.digest, both.digest}) == 4


def test_sets_of_different_classes_are_refused(tmp_path: Path) -> None:
    a, b = (
        write_folder(tmp_path / "a", {"x": 1, "y": 1, "z": 1}),
        write_folder(tmp_path / "b", {"x": 1, "z": 1, "w": 1}),
    )
    same_classes(open_labelled(a), open_labelled(a))
    with pytest.raises(UsageError, match=f"only {a} has y; only {b} has w"):
        same_classes(open_labelled(a), open_labelled(b))
    with pytest.raises(UsageError, match="in different orders: x, z and z, x"):
        same_classes(open_labelled(a, classes=["x", "z"]), open_labelled(b, classes=["z", "x"]))
    with pytest.raises(UsageError, match="must have the same classes"):
        joined(open_labelled(a), open_labelled(b))


# ---- bad input ----


def overwrite(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bad_idx(change: Callable[[bytes], bytes], name: str = IMAGES) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_idx(folder, gz=False)
        overwrite(folder / name, change((folder / name).read_bytes()))
        return path

    return make


def bad_npz(**changed: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_npz(folder / "x.npz", **changed)
        return folder / "x.npz"

    return make


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (
        lambda f: made(f, "train/a/1.png") / "trian",
        r"no such file or folder: .*trian \(did you mean train\?\)",
    ),
    "empty folder": (lambda f: f, "must hold a folder for each class; found: no folder"),
    "flat folder": (lambda f: made(f, "1.png", "2.JPG"), "found: 2 images without a class"),
    "folders without images": (lambda f: made(f, "a/x.txt"), "class folders of .* must hold images"),
    "splits": (lambda f: made(f, "train/a/1.png", "val/a/1.png"), "its folders are train, val"),
    "splits and more": (
        lambda f: made(f, "train/a/1.png", "Val/a/1.png", "annotations/x.json"),
        "but it has the splits Val, train",
    ),
    "folder of idx": (lambda f: write_idx(f).parent, "holds no class folders"),
    "no magic": (
        bad_idx(lambda raw: b"nothing at all"),
        "must be an idx file of images, which begins with 00 00 08 03",
    ),
    "empty file": (bad_idx(lambda raw: b""), "got nothing"),
    "truncated": (bad_idx(lambda raw: raw[:-1]), "says 30 x 5 x 6: it must have 916 bytes, but has 915"),
    "truncated head": (bad_idx(lambda raw: raw[:9]), "but has 9"),
    "too long": (bad_idx(lambda raw: raw + b"?"), "but has 917"),
    "no images": (bad_idx(lambda raw: raw[:4] + bytes(4) + raw[8:16]), "is empty: it has 0 images"),
    "no pixels": (bad_idx(lambda raw: raw[:8] + bytes(8)), "holds no pixels: 30 x 0 x 0"),
    "labels as images": (lambda f: write_idx(f, gz=False).parent / LABELS, "these are labels: name the images"),
    "labels too few": (
        bad_idx(lambda raw: struct.pack(">2I", 2049, 29) + raw[8:-1], LABELS),
        "30 images, .*labels-idx1-ubyte 29 labels",
    ),
    "labels damaged": (bad_idx(lambda raw: raw[:-2], LABELS), "labels-idx1-ubyte says 30: it must have 38 bytes"),
    "bad gzip": (lambda f: overwrite(write_idx(f), gzip.compress(b"x" * 99)[:-9]), "is a damaged gzip file"),
    "cifar": (lambda f: overwrite(f / "data_batch_1.bin", bytes(3074)), "3073 bytes for each image; it has 3074"),
    "cifar empty": (lambda f: overwrite(f / "test_batch.bin", b""), "it has 0 bytes"),
    "cifar labels": (lambda f: overwrite(f / "x.bin", b"\x0a" + bytes(3072)), "must have labels 0 to 9, but has 10"),
    "npz keys": (bad_npz(y_all=None), "must have the arrays .* it has jpeg_all, off_all, classes"),
    "npz pickles": (bad_npz(classes=np.array(["a", None], object)), "cannot read .*pickle"),
    "npz offsets": (bad_npz(off_all=np.arange(13)[::-1]), "off_all must ascend"),
    "npz labels": (bad_npz(y_all=np.full(12, 3)), r"y_all must lie in 0..2, as there are classes; found 3..3"),
    "npz count": (bad_npz(y_all=np.zeros(11, int)), "must have one number more than y_all has labels; found 13 and 11"),
    "npz types": (bad_npz(y_all=np.zeros(12)), "must be whole numbers"),
    "npz classes doubled": (bad_npz(classes=np.array(["a", "b", "a"])), "classes must be distinct; .* once: a$"),
    "npz classes of bytes": (
        bad_npz(classes=np.array([b"a", b"b", b"c"])),
        r"must be texts in one row, not \|S1 \(3,\)",
    ),
    "npz classes as numbers": (bad_npz(classes=np.arange(3)), r"must be texts in one row, not int64 \(3,\)"),
    "npz classes as one text": (bad_npz(classes=np.array("abc")), r"must be texts in one row, not <U3 \(\)"),
    "npz classes in rows": (bad_npz(classes=np.array([["a"], ["b"], ["c"]])), r"in one row, not <U1 \(3, 1\)"),
    "npz no classes": (bad_npz(classes=np.array([], "U1")), r"must be texts in one row, not <U1 \(0,\)"),
    "npz damaged": (lambda f: overwrite(f / "x.npz", b"PK\3\4" + bytes(99)), "cannot read"),
    "npz part": (lambda f: Path(f"{bad_npz()(f)}#al"), r"has no part 'al' \(did you mean all\?\)"),
    "part of another": (lambda f: Path(f"{write_idx(f)}#train"), "only an .npz file has parts"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_said_of_bad_input(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(UsageError, match=message) as e:
        open_labelled(make(tmp_path))
    assert str(tmp_path) in e.value.message  # whatever it is, the file is named


def test_choices_that_can_not_be_obeyed(tmp_path: Path) -> None:
    path = write_idx(tmp_path)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"portion": (0.5, 0.5)}, "0 <= a < b <= 1"),
        ({"portion": (0, 1.1)}, "0 <= a < b <= 1"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"classes": ["3", "seven"]}, "has no class 'seven'"),
        ({"classes": ["3", "3"]}, "each class once"),
        ({"portion": (0, 0.01)}, "no image of .* is left: images outside of portion"),
    ]
    for given, message in wrong:
        with pytest.raises(UsageError, match=message):
            open_labelled(path, **given)
    with pytest.raises(UsageError, match="labels are read from a file beside idx images"):
        open_labelled(write_folder(tmp_path / "x", {"a": 1}), labels=path)


def test_an_image_that_can_not_be_decoded_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", {"a": 2})
    (tmp_path / "x" / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"cannot decode the image .*x/a/0.png"):
        open_labelled(tmp_path / "x").image(0)
    write_npz(tmp_path / "x.npz", jpeg_all=np.zeros(99_999, np.uint8))
    with pytest.raises(UsageError, match=r"cannot decode the image .*x.npz#all: image 3"):
        open_labelled(tmp_path / "x.npz").image(3)


def test_a_broken_image_is_told_in_the_same_words_each_time(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", jpeg_all=np.zeros(99_999, np.uint8))
    data, said, kept = open_labelled(tmp_path / "x.npz"), set(), []
    for _ in range(3):
        with pytest.raises(UsageError) as e:
            data.image(3)
        said.add(e.value.message)
        kept.append(e)  # with its objects, so that none takes the address of another
    assert said == {f"cannot decode the image {tmp_path}/x.npz#all: image 3: it is no image that Pillow knows"}


def test_one_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    assert open_labelled(write_folder(tmp_path, {"plane": 1, "train": 1})).names == ("plane", "train")


# ---- toys ----


@pytest.mark.slow
@pytest.mark.parametrize("make", [toy_cls.make_toy_cls, toy_cls.make_digits_cls])
def test_a_toy_set_is_a_function_of_its_arguments(tmp_path: Path, make: Any) -> None:
    images = {"train": 40, "val": 20}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make(str(tmp_path / name), images=images, size=(32, 36), seed=seed) == str(tmp_path / name)
    a, b, c = (
        {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in "abc"
    )
    assert a == b != c
    assert make(str(tmp_path / "a"), images=images, size=(32, 36), seed=1)  # there already: kept
    train, val = (open_labelled(tmp_path / "a" / split) for split in images)
    same_classes(train, val)
    assert train.counts.max() - train.counts.min() <= 1
    assert (len(train), len(val)) == (40, 20)
    assert train.image(0).shape == (3, 32, 36)
    for wrong in ({}, {"train": 3}, {"train": 9999} if make is toy_cls.make_digits_cls else {}):
        with pytest.raises(UsageError, match=r"at least|there are 1797"):
            make(str(tmp_path / "d"), images=wrong)
    with pytest.raises(UsageError, match="something else"):
        make(str(tmp_path / "a"), images={"train": 41})


@pytest.mark.slow
def test_no_scan_is_in_two_splits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    toy_cls.make_digits_cls(str(tmp_path / "set"))
    files = [path for path in (tmp_path / "set").rglob("*.png")]
    assert sorted(int(path.stem) for path in files) == list(range(1797))
    digits = load_digits().target
    assert all(path.parent.name == str(digits[int(path.stem)]) for path in files)


@pytest.mark.parametrize(("kind", "shape"), [("toy-cls", (3, 48, 48)), ("digits-cls", (3, 32, 32))])
def test_the_command_line_makes_them(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    out = str(tmp_path / "set")
    done = CliRunner().invoke(data_command, [kind, "--out", out, "--images", "20", "10", "10"])
    assert done.output == f"{out}: {{train,val,test}}/<class>/*.png, SOURCE.txt\n"
    assert [len(open_labelled(f"{out}/{split}")) for split in ("train", "val", "test")] == [20, 10, 10]
    assert open_labelled(f"{out}/train").image(0).shape == shape
