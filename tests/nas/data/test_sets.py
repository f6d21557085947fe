"""Whole sets: divided so that nothing is lost and classes are shared out, doubled images found, twelve images drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.formats.neutral import DataImage, DataSet, Split, digest
from searchkit.nas.data.formats.table import read
from searchkit.nas.data.formats.write import write_folders
from searchkit.nas.data.report import DataReport
from searchkit.nas.data.sets import sheet
from searchkit.nas.data.sets.check import check
from searchkit.nas.data.sets.divide import divide
from searchkit.nas.data.sets.doubles import doubles
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.data.toy_cls import make_toy_cls
from tests.support.formats import blank, to_voc, to_yolo


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("toy") / "set"
    return make_toy_det(str(folder), images={"train": 60, "val": 20, "test": 20}, size=(48, 48))


def pooled(data: DataSet) -> list[str]:
    """Every image with its boxes, whatever split it is in."""
    images = [image for part in data.splits.values() for image in part.images]
    return sorted(f"{image.name} {image.labels.tolist()} {image.boxes.tolist()}" for image in images)


def made_up(folder: Path, labels: list[list[int]], names: list[str] | None = None) -> DataSet:
    """Images of one split with boxes of these classes; their files, all different, are in `folder`."""
    images = []
    for i, own in enumerate(labels):
        path = blank(folder / (names[i] if names else f"{i:04d}.png"), (8, 8 + i))
        boxes = np.tile([1.0, 1.0, 4.0, 4.0], (len(own), 1))
        array = np.array(own, np.int64)
        images.append(DataImage(str(path), 8, 8 + i, boxes, array, array < 0, boxes.prod(1)))
    classes = tuple("abcdefgh")[: 1 + max(label for own in labels for label in own)]
    split = Split(tuple(images), str(folder), str(folder), DataReport("made up"))
    return DataSet("coco", str(folder), "det", classes, {"train": split})


# ---- divided ----


@pytest.mark.parametrize("portion", [(0.8, 0.1, 0.1), (0.6, 0.4, 0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_and_box_is_in_one_split(toy: str, portion: tuple[float, ...], seed: int) -> None:
    data = read(toy)
    divided = divide(data, portion, seed)
    assert pooled(divided.data) == pooled(data)
    assert list(divided.data.splits) == ["train", "val", "test"][: 3 if portion[2] else 2]
    again = divide(data, portion, seed)
    assert digest(again.data) == digest(divided.data)
    assert digest(divide(data, portion, seed + 2).data) != digest(divided.data)


def test_classes_are_shared_out_as_images_are(data_dir: Path) -> None:
    data = read(str(data_dir / "bccd"))
    totals = sum(part.counts(3) for part in data.splits.values())
    for seed in range(3):
        divided = divide(data, (0.7, 0.2, 0.1), seed).data
        for share, part in zip((0.7, 0.2, 0.1), divided.splits.values(), strict=True):
            assert abs(len(part.images) - 364 * share) < 1
            assert np.all(abs(part.counts(3) - totals * share) <= 1 + 0.01 * totals * share)


def test_splits_do_not_depend_on_format_or_order(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    others = [to_yolo(data, tmp_path / "yolo"), to_voc(data, tmp_path / "voc")]
    assert {digest(divide(read(str(place)), (0.7, 0.2, 0.1)).data) for place in (toy, *others)} == {
        digest(divide(data, (0.7, 0.2, 0.1)).data)
    }


def test_a_rare_class_is_in_every_split_that_it_can_be_in(tmp_path: Path) -> None:
    rare = [[0, 1], [0, 1], [0, 1], [0, 2], [0, 2], [0, 3]]
    data = made_up(tmp_path, [*rare, *[[0]] * 54])
    for seed in range(5):
        splits = divide(data, (0.8, 0.1, 0.1), seed).data.splits
        counts = {name: part.counts(4).tolist() for name, part in splits.items()}
        assert all(counts[name][1] == 1 for name in counts)
        assert counts["train"][2] == 1 and counts["train"][3] == 1
        assert [len(part.images) for part in splits.values()] == [48, 6, 6]


def test_groups_and_doubled_images_stay_together(tmp_path: Path) -> None:
    names = [f"clip{i % 12:02d}/frame_{i:03d}.png" for i in range(96)]
    rng = np.random.default_rng(0)
    data = made_up(tmp_path, [rng.integers(0, 3, 3).tolist() for _ in names], names)
    shutil.copyfile(tmp_path / names[0], tmp_path / names[1])  # so clips 0 and 1 are one group
    divided = divide(data, (0.6, 0.2, 0.2), group=r"^clip\d+")
    assert (divided.groups, divided.matched, divided.doubled) == (11, 96, 2)
    place = {Path(image.path).relative_to(tmp_path).parts[0]: set() for image in data.splits["train"].images}
    for name, part in divided.data.splits.items():
        for image in part.images:
            place[Path(image.path).relative_to(tmp_path).parts[0]].add(name)
    assert all(len(splits) == 1 for splits in place.values())
    assert place["clip00"] == place["clip01"]
    assert pooled(divided.data) == pooled(data)
    # Of a pattern with a group, that group alone counts.
    assert divide(data, (0.6, 0.2, 0.2), group=r"clip(\d)\d/").groups == 2
    with pytest.raises(UsageError, match=r"--group 'film' matches no image") as e:
        divide(data, (0.6, 0.2, 0.2), group="film")
    assert "clip00/frame_000.png" in e.value.hint
    with pytest.raises(UsageError, match="is no regular expression"):
        divide(data, (0.6, 0.2, 0.2), group="(")


def test_some_splits_may_stay_as_they_are(toy: str) -> None:
    data = read(toy)
    data = replace(data, splits={name: data.splits[name] for name in ("train", "test")})
    divided = divide(data, (0.75, 0.25, 0), of=("train",)).data
    assert divided.splits["test"] is data.splits["test"]
    assert [len(part.images) for part in divided.splits.values()] == [45, 15, 20]
    with pytest.raises(UsageError, match="there is a split test already"):
        divide(data, (0.8, 0.1, 0.1), of=("train",))
    with pytest.raises(UsageError, match="no split dev to divide; there are train, test"):
        divide(data, (0.8, 0.1, 0.1), of=("dev",))


@pytest.mark.parametrize("portion", [(0.8, 0.1, 0.2), (0, 0.5, 0.5), (1.2, -0.2, 0)])
def test_portions_that_are_none(toy: str, portion: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="must be 1 in all"):
        divide(read(toy), portion)


def test_class_folders_are_divided_likewise(tmp_path: Path) -> None:
    source = make_toy_cls(str(tmp_path / "set"), images={"train": 40, "val": 16, "test": 8}, size=(32, 32))
    data = read(source)
    divided = divide(data, (0.5, 0.25, 0.25))
    write_folders(divided.data, str(tmp_path / "out"))
    written = read(str(tmp_path / "out"))
    assert {name: part.counts(8).tolist() for name, part in written.splits.items()} == {
        "train": [4] * 8,
        "val": [2] * 8,
        "test": [2] * 8,
    }
    contents = sorted(Path(i.path).read_bytes() for part in written.splits.values() for i in part.images)
    assert contents == sorted(Path(i.path).read_bytes() for part in data.splits.values() for i in part.images)
    write_folders(divided.data, str(tmp_path / "out"))  # again: kept


# ---- looked at ----


def test_doubles_are_files_of_the_same_bytes(tmp_path: Path) -> None:
    contents = [b"one", b"two", b"one", b"other", b"two", b"one"]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    paths = [str(tmp_path / str(i)) for i in range(7)]  # the last one is not there
    assert doubles(paths) == [[0, 2, 5], [1, 4]]


def test_what_is_wrong_and_what_is_worth_knowing(toy: str, tmp_path: Path) -> None:
    fine = check(read(toy))
    assert (fine.wrong, fine.notes) == ((), ())
    assert fine.facts["splits"]["val"]["images"] == 20
    assert fine.facts["boxes"]["count"] == sum(part.n_boxes for part in read(toy).splits.values())
    folder = Path(shutil.copytree(toy, tmp_path / "set"))
    jsons = {split: folder / "annotations" / f"instances_{split}.json" for split in ("train", "val", "test")}
    bodies: dict[str, Any] = {split: json.loads(path.read_text()) for split, path in jsons.items()}
    shutil.copyfile(folder / "images" / "train_00001.png", folder / "images" / "val_00001.png")
    (folder / "images" / "test_00002.png").unlink()
    (folder / "images" / "val_00003.png").write_bytes(b"no image")
    Image.new("L", (48, 48)).save(folder / "images" / "val_00004.png")
    Image.new("RGB", (50, 48)).save(folder / "images" / "val_00005.png")
    bodies["val"]["categories"].append({"id": 9, "name": "hexagon"})
    bodies["val"]["annotations"].append({"id": 9999, "image_id": 1, "category_id": 9, "bbox": [1, 1, 9, 9]})
    for split, path in jsons.items():
        path.write_text(json.dumps(bodies[split]))
    checked = check(read(str(folder)))
    text = "\n".join(checked.wrong)
    for line in (
        "classes with boxes in val, but none in train: 1, hexagon (1)",
        "test: images that are missing, or too large to be decoded: 1 of 20",
        "val: image files that can't be opened, or end too early: 1",
        "val: images of another size than their annotations say: 1",
        "val_00005.png is 50 x 48, not 48 x 48",
    ):
        assert line in text
    notes = "\n".join(checked.notes)
    assert "val: images that are in train, too, byte for byte: 1 of 20, e.g. " in notes
    assert "images that are another one of it" not in notes
    assert "grey images: 1 of 98" in notes
    assert checked.facts["doubled"] == [
        {"images": [f"{folder}/images/{n}_00001.png" for n in ("train", "val")], "splits": ["train", "val"]}
    ]


def test_a_few_images_of_train_may_be_unusable(toy: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "set"))
    for i in range(1, 5):
        name = folder / "images" / f"train_0000{i}.png"
        name.unlink() if i == 1 else name.write_bytes(b"no image")
        checked = check(read(str(folder)))
        assert bool(checked.wrong) == (i > 3)  # of 60
        lines = checked.wrong if i > 3 else checked.notes
        unusable = f"train: image files that can't be opened, or end too early: {i - 1}"
        assert i == 1 or any(unusable in line for line in lines)


def test_files_that_were_cut_are_found_and_what_stands_behind_their_end_is_not(toy: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "set"))
    first, second = (folder / "images" / f"val_0000{i}.png" for i in (1, 2))
    whole = {path: path.read_bytes() for path in (first, second)}
    jpeg = folder / "images" / "photo.jpg"
    with Image.open(first) as image:
        image.save(jpeg)
    body = jpeg.read_bytes()
    for path, there in ((first, whole[first] + b"more"), (second, body), (second, body + bytes(9))):
        path.write_bytes(there)
        assert check(read(str(folder))).wrong == ()
    for path, there in ((first, whole[first][:-2000]), (second, body[: len(body) // 2])):
        path.write_bytes(there)
        (line,) = check(read(str(folder))).wrong
        assert line.startswith("val: image files that can't be opened, or end too early: 1, e.g.") and path.name in line
        path.write_bytes(whole[path])


def test_no_validation_and_a_small_one(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    alone = replace(data, splits={"train": data.splits["train"]})
    assert check(alone).notes == ("no validation split: search-nas data split makes one",)
    small = replace(data.splits["val"], images=data.splits["val"].images[:14])
    few = check(replace(data, splits={"train": data.splits["train"], "val": small}))
    assert few.notes == ("14 validation images: fewer than 15 can't tell archs apart",)
    none = replace(data, splits={"val": data.splits["val"]})
    assert check(none).wrong == ("there is no split to train on: val",)


# ---- drawn ----


def test_twelve_images_show_the_boxes_and_the_rare_classes(tmp_path: Path) -> None:
    data = made_up(tmp_path / "set", [*[[0, 0]] * 30, [1], *[[]] * 30, [2]])
    shown = sheet.chosen(data)
    assert len(shown) == 12 == len({item.image.path for item in shown})
    assert {1, 2} <= {label for item in shown for label in item.image.labels.tolist()}
    assert all(len(item.image.labels) for item in shown)  # those with boxes first
    target = str(tmp_path / "twelve.png")
    assert sheet.draw(data, shown, target) == ([], "")
    colours = {colour for _, colour in Image.open(target).getcolors(1 << 20)}
    assert {(213, 94, 0), (0, 114, 178), (0, 158, 115)} <= colours  # one for each class
    Path(shown[0].image.path).write_bytes(b"no image")
    faults, _ = sheet.draw(data, shown, target)
    assert len(faults) == 1 and shown[0].image.path in faults[0]
