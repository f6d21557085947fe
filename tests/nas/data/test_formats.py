"""Sets in any format are read into the same neutral form; what is broken is named by file and line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.formats.listing import Options
from searchkit.nas.data.formats.neutral import DataSet, digest
from searchkit.nas.data.formats.table import read
from searchkit.nas.data.formats.write import write_coco
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.data.toy_cls import make_toy_cls
from tests.support.formats import blank, to_labelme, to_voc, to_yolo


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("toy") / "set"
    return make_toy_det(str(folder), images={"train": 12, "val": 4, "test": 4}, size=(64, 80))


def faults(data: DataSet, split: str = "train") -> dict[str, int]:
    return {kind: n for kind, n, _ in data.splits[split].report.faults}


# ---- the same data in each format ----


@pytest.mark.parametrize("source", ["bccd", "toy"])
def test_data_of_all_formats_have_one_digest(source: str, toy: str, request: Any, tmp_path: Path) -> None:
    folder = toy if source == "toy" else str(request.getfixturevalue("data_dir") / "bccd")
    data = read(folder)
    assert (data.format, data.task, list(data.splits)) == ("coco", "det", ["train", "val", "test"])
    written = {
        "yolo": to_yolo(data, tmp_path / "ultralytics"),
        "voc": to_voc(data, tmp_path / "voc"),
        "labelme": to_labelme(data, tmp_path / "labelme"),
    }
    for name, place in written.items():
        other = read(str(place))
        assert other.format == name
        assert digest(other) == digest(data)
        assert {split: part.n_boxes for split, part in other.splits.items()} == {
            split: part.n_boxes for split, part in data.splits.items()
        }
    assert digest(read(str(to_yolo(data, tmp_path / "roboflow", by_split=False)))) == digest(data)
    assert digest(read(str(to_voc(data, tmp_path / "beside", beside=True)))) == digest(data)


def test_a_digest_tells_what_differs(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    body = json.loads(Path(data.splits["val"].source).read_text())
    for change in ("move", "rename", "drop", "nothing"):
        folder = tmp_path / change
        place = folder / "annotations"
        place.mkdir(parents=True)
        changed = json.loads(json.dumps(body))
        if change == "move":
            changed["annotations"][0]["bbox"][0] += 0.02
        elif change == "rename":
            changed["categories"][0]["name"] = "disc"
        elif change == "drop":
            del changed["annotations"][-1]
        changed["annotations"].reverse()  # which is no difference
        (place / "instances_val.json").write_text(json.dumps(changed))
        (folder / "images").symlink_to(f"{toy}/images")
        same = digest(read(str(folder))) == digest(read(data.splits["val"].source))
        assert same == (change == "nothing")


def test_what_is_written_as_coco_reads_the_same_and_is_written_once(toy: str, tmp_path: Path) -> None:
    data = read(str(to_yolo(read(toy), tmp_path / "yolo")))
    first = write_coco(data, str(tmp_path / "first"))
    again = read(first.folder)
    assert digest(again) == digest(data)
    second = write_coco(again, str(tmp_path / "second"))
    for split, path in first.annotations.items():
        assert Path(path).read_bytes() == Path(second.annotations[split]).read_bytes()
    before = os.stat(first.annotations["train"])
    assert write_coco(data, first.folder) == first
    assert os.stat(first.annotations["train"]) == before  # kept as it was
    with pytest.raises(UsageError, match="holds something else"):
        write_coco(read(toy), first.folder)
    named = write_coco(data, str(tmp_path / "named"), link=False)
    assert sorted(os.listdir(named.folder)) == ["SOURCE.txt", "annotations"]
    assert digest(read(named.folder)) == digest(data)


def test_polygons_and_masks_are_boxed_as_pycocotools_has_them(tmp_path: Path) -> None:
    from pycocotools import mask as masks
    from pycocotools.coco import COCO

    blank(tmp_path / "a.png", (40, 30))
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[5:12, 8:21] = 1
    packed = masks.encode(mask)
    rle = {"size": [30, 40], "counts": packed["counts"].decode()}
    polygon = [[3, 4, 17, 4, 17, 21, 3, 21]]
    notes = [{"id": 1, "segmentation": rle}, {"id": 2, "segmentation": polygon}]
    annotations = [{"image_id": 1, "category_id": 1, "iscrowd": 0} | note for note in notes]
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    body = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "set.json").write_text(json.dumps(body))
    data = read(str(tmp_path / "set.json"))
    other = COCO(str(tmp_path / "set.json"))
    wanted = [masks.toBbox(other.annToRLE(other.anns[number])).tolist() for number in (1, 2)]
    assert data.splits["train"].images[0].boxes.tolist() == wanted
    assert faults(data)["from_mask"] == 2
    written = write_coco(data, str(tmp_path / "out"))
    assert [
        item["bbox"] for item in json.loads(Path(written.annotations["train"]).read_text())["annotations"]
    ] == wanted


# ---- one format after the other ----


def test_coco_is_found_where_tools_export_it(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    for split, word in (("train", "train"), ("val", "valid"), ("test", "test")):
        (tmp_path / word).mkdir()
        (tmp_path / word / "_annotations.coco.json").write_bytes(Path(data.splits[split].source).read_bytes())
        for image in data.splits[split].images:
            (tmp_path / word / image.name).symlink_to(image.path)
    exported = read(str(tmp_path))
    assert digest(exported) == digest(data)
    assert exported.splits["val"].folder == str(tmp_path / "valid")
    alone = read(data.splits["val"].source)
    assert list(alone.splits) == ["val"]
    assert alone.splits["val"].folder == f"{toy}/images"


def test_yolo_without_a_yaml(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    folder = to_yolo(data, tmp_path / "set", named=False)
    bare = read(str(folder))
    assert bare.classes == ("0", "1", "2")
    assert faults(bare)["unnamed"] == 3
    (folder / "classes.txt").write_text("\n".join(data.classes))
    assert digest(read(str(folder))) == digest(data)
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text("".join(f"./images/{split}/{i.name}\n" for i in data.splits[split].images))
    assert list(read(str(folder)).splits) == ["train", "val"]  # the lists say it


def test_yolo_in_capitals(toy: str, tmp_path: Path) -> None:
    """Of systems that don't tell letters apart: labels that are not found would make backgrounds of all images."""
    data = read(toy)
    folder = to_yolo(data, tmp_path / "set", by_split=False)
    for path in sorted(folder.rglob("*.txt")):
        path.rename(path.with_suffix(".TXT"))
    assert digest(read(str(folder))) == digest(data)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("\n".join(data.classes))
    for part in data.splits:
        for kind in ("images", "labels"):
            (folder / part / kind).rename(folder / part / kind.capitalize())
    assert digest(read(str(folder))) == digest(data)


def test_yolo_polygons_backgrounds_and_files_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        blank(tmp_path / "images" / f"{name}.png")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.9\n\n1 0.5 0.5 0.2 0.2\n")
    (labels / "c.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = read(str(tmp_path))
    assert data.notes == ("its files name no split: all images are of train",)
    a, b = data.splits["train"].images
    assert a.boxes.round(6).tolist() == [[4, 3, 16, 24], [16, 12, 8, 6]]
    assert (len(b.boxes), faults(data)["unlabelled"], faults(data)["no_image"]) == (0, 1, 1)
    assert faults(data)["from_polygon"] == 1


def test_yolo_of_tools_that_write_it_otherwise(toy: str, tmp_path: Path) -> None:
    data = read(toy)
    # CVAT: labels beside the images, which lists name below a folder that is not there.
    plain, cvat = to_yolo(data, tmp_path / "plain"), tmp_path / "cvat"
    (cvat / "obj_train_data").mkdir(parents=True)
    for split, part in data.splits.items():
        for image in part.images:
            (cvat / "obj_train_data" / image.name).symlink_to(image.path)
            labels = plain / "labels" / split / f"{Path(image.name).stem}.txt"
            (cvat / "obj_train_data" / labels.name).write_bytes(labels.read_bytes())
        (cvat / f"{split}.txt").write_text("".join(f"data/obj_train_data/{image.name}\n" for image in part.images))
    (cvat / "obj.names").write_text("\r\n".join(data.classes))
    assert digest(read(str(cvat))) == digest(data)
    # Label Studio: a json of its own with the categories beside it, which is none of COCO.
    (plain / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "circle"}], "info": {}}))
    assert digest(read(str(plain))) == digest(data)
    # Roboflow: a test split is named, but was not exported.
    shutil.rmtree(plain / "images" / "test")
    assert read(str(plain)).notes == (f"{plain}/data.yaml names images/test as test, which is not there (left out)",)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "must hold a class and 4 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "must hold a class and 4 numbers"),
        ("a 0.5 0.5 0.2 0.2", "must hold numbers"),
        ("0.5 0.5 0.5 0.2 0.2", "a class must be a whole number"),
        ("nan 0.5 0.5 0.2 0.2", "a class must be a whole number"),
        ("inf 0.5 0.5 0.2 0.2", "a class must be a whole number"),
        ("7 0.5 0.5 0.2 0.2", "there are classes 0 to 2"),
        ("0 20 15 8 6", "within 0..1"),
        ("0 nan 0.5 0.2 0.2", "within 0..1"),
    ],
)
def test_broken_lines_of_yolo_are_named(toy: str, tmp_path: Path, line: str, fault: str) -> None:
    folder = to_yolo(read(toy), tmp_path / "set")
    file = folder / "labels" / "train" / "train_00003.txt"
    file.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(UsageError, match=rf"train_00003\.txt:2: .*{fault}.*; got '{line}'"):
        read(str(folder))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("names: [a\n", r"data\.yaml:2:1: it is not YAML"),
        ("names: {0: a, 2: b}\ntrain: images\n", "without gaps"),
        ("names: [a]\nnc: 2\ntrain: images\n", "nc is 2, but names has 1"),
        ("names: [a]\ntrain: elsewhere\n", "there is no elsewhere"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images\n", "names must list the classes"),
        ("names: [a]\n", "none of the formats"),
    ],
)
def test_broken_yamls_are_named(tmp_path: Path, body: str, fault: str) -> None:
    blank(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(body)
    with pytest.raises(UsageError, match=fault):
        read(str(tmp_path))


def test_voc_boxes_as_they_stand_or_counted_from_one(tmp_path: Path) -> None:
    blank(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "Annotations").mkdir()
    text = """<annotation><filename>wrong.jpg</filename><size><width>0</width><height>0</height></size>
    <object><name>cat</name><difficult>1</difficult>
      <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>"""
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    blank(tmp_path / "JPEGImages" / "b.jpg")
    data = read(str(tmp_path))
    (image,) = data.splits["train"].images
    assert (image.width, image.height, image.boxes.tolist()) == (40, 30, [[1, 2, 10, 20]])
    assert (faults(data)["difficult"], faults(data)["unannotated"]) == (1, 1)
    two = text.replace("</annotation>", text[text.index("<object>") :]).replace("\n", "")  # in one line
    (tmp_path / "Annotations" / "a.xml").write_text(two)
    assert read(f"{tmp_path}/").splits["train"].n_boxes == 2
    assert "duplicate_annotation" not in faults(read(str(tmp_path)))
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    counted = read(str(tmp_path), options=Options(one_based=True))
    assert counted.splits["train"].images[0].boxes.tolist() == [[0, 1, 11, 21]]
    with pytest.raises(UsageError, match="--one-based is for Pascal VOC, but this is YOLO"):
        read(str(to_yolo(data, tmp_path / "yolo")), options=Options(one_based=True))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a\.xml:3: it is not XML: mismatched tag"),
        ("<annotation>\n<object><name>a</name></object></annotation>", r"a\.xml:2:1: an object must have a bndbox"),
        ("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>", r"a\.xml:1: elements are nested"),
        (
            '<?xml version="1.0"?>\n<!DOCTYPE a [\n<!ENTITY a "aaaaaaaaaa">\n<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">\n'
            "]><annotation>&b;</annotation>",
            r"a\.xml:3: it has the entity a",
        ),
        (
            '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<annotation>&a;</annotation>',
            r"a\.xml:1: it has the entity a",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">\n<annotation>&a;</annotation>', r"a\.xml:2: it has the entity a"),
    ],
)
def test_broken_and_dangerous_xml_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    blank(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UsageError, match=fault):
        read(str(tmp_path))


def test_shapes_of_labelme(tmp_path: Path) -> None:
    blank(tmp_path / "a.png")
    blank(tmp_path / "b.png")
    shapes = [
        {"label": "dog", "shape_type": "circle", "points": [[10, 10], [13, 14]]},
        {"label": "cat", "shape_type": "polygon", "points": [[1, 2], [9, 2], [5, 12]], "group_id": 1},
        {"label": "cat", "shape_type": "polygon", "points": [[20, 2], [22, 2], [22, 4]], "group_id": 1},
        {"label": "cat", "shape_type": "rectangle", "points": [[9, 9], [3, 4]]},
        {"label": "cat", "shape_type": "line", "points": [[9, 9], [3, 4]]},
    ]
    body = {"version": "5.0.1", "shapes": shapes, "imagePath": "..\\elsewhere\\a.png", "imageData": None}
    (tmp_path / "a.json").write_text(json.dumps(body))
    data = read(str(tmp_path))
    assert (data.format, data.classes) == ("labelme", ("cat", "dog"))
    (image,) = data.splits["train"].images
    assert image.boxes.tolist() == [[5, 5, 10, 10], [1, 2, 21, 10], [3, 4, 6, 5]]
    assert image.labels.tolist() == [1, 0, 0]
    expected = {"unannotated": 1, "from_polygon": 3, "grouped": 1, "other_shape": 1}
    assert expected.items() <= faults(data).items()
    (tmp_path / "b.json").write_text('{"shapes": [\n  {"label": }')
    with pytest.raises(UsageError, match=r"b\.json:2:13: it is not JSON"):
        read(str(tmp_path))
    (tmp_path / "b.json").write_text('{"shapes": ' + "[" * 100_000)
    with pytest.raises(UsageError, match=r"b\.json: it is not JSON: maximum recursion depth"):
        read(str(tmp_path))
    (tmp_path / "b.json").write_text('{"imageData": "' + "A" * 20_000 + '", "shapes": [{"label": "a", "points": []}]}')
    with pytest.raises(UsageError, match=r"b\.json: shapes\[0\]: a polygon must have points"):
        read(str(tmp_path))


def test_class_folders(tmp_path: Path) -> None:
    folder = make_toy_cls(str(tmp_path / "set"), images={"train": 16, "val": 8, "test": 8})
    data = read(folder)
    assert (data.format, data.task, len(data.classes)) == ("folders", "cls", 8)
    assert {split: part.counts(8).tolist() for split, part in data.splits.items()} == {
        "train": [2] * 8,
        "val": [1] * 8,
        "test": [1] * 8,
    }
    alone = read(f"{folder}/train")
    assert list(alone.splits) == ["train"]
    assert digest(alone) != digest(data)
    with pytest.raises(UsageError, match="has no boxes"):
        write_coco(data, str(tmp_path / "out"))


# ---- which format it is ----


def test_none_of_the_formats_and_two_at_once(toy: str, tmp_path: Path) -> None:
    blank(tmp_path / "some" / "a.png")
    (tmp_path / "table.csv").write_text("a,b\n")
    with pytest.raises(UsageError, match=r"none of the formats; found: the folders some; 1 \.csv, 1 \.png") as e:
        read(str(tmp_path))
    for word in ("COCO: ", "YOLO: ", "Pascal VOC: ", "LabelMe: ", "class folders: "):
        assert word in e.value.hint
    both = to_yolo(read(toy), tmp_path / "both")
    to_voc(read(toy), tmp_path / "both")
    with pytest.raises(
        UsageError, match=r"several formats: YOLO \(data.yaml\), Pascal VOC \(Annotations/\*.xml\)"
    ) as e:
        read(str(both))
    assert e.value.hint == "Name the folder of one, or say which to read: --format yolo or --format voc"
    assert digest(read(str(both), format="voc")) == digest(read(str(both), format="yolo")) == digest(read(toy))
    with pytest.raises(UsageError, match="is not LabelMe"):
        read(str(both), format="labelme")
    with pytest.raises(UsageError, match="no such file or folder"):
        read(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="neither a COCO json"):
        read(str(tmp_path / "table.csv"))


def test_images_that_lie_on_their_side_are_shown_upright(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    data = read(str(tmp_path))
    (image,) = data.splits["train"].images
    assert (image.width, image.height, image.boxes.tolist()) == (30, 40, [[0, 0, 30, 40]])
    assert faults(data)["turned"] == 1


def test_reading_imports_no_torch(toy: str) -> None:
    code = f"import sys; from searchkit.nas.data.formats import table; table.read({toy!r})"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_labels_beside_images_below_a_folder_called_images(toy: str, tmp_path: Path) -> None:
    blank(tmp_path / "images" / "set" / "a.png")
    (tmp_path / "images" / "set" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    data = read(str(tmp_path / "images" / "set"))
    assert data.splits["train"].images[0].boxes.tolist() == [[10, 7.5, 20, 15]]
    (tmp_path / "images" / "set" / "a.txt").write_text("10000 0.5 0.5 0.5 0.5\n")
    with pytest.raises(UsageError, match=r"a\.txt:1: there are classes 0 to 9999"):
        read(str(tmp_path / "images" / "set"))


def test_lists_of_voc_may_have_endings_blanks_and_columns(tmp_path: Path) -> None:
    text = "<annotation><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in ("a.v1", "b c", "d", "e"):
        blank(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"{text}</object></annotation>")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("a.v1.jpg\nb c\n")
    (lists / "test.txt").write_text("d -1\n")
    data = read(str(tmp_path))
    names = {split: [image.name for image in part.images] for split, part in data.splits.items()}
    assert names == {"train": ["a.v1.jpg", "b c.jpg"], "test": ["d.jpg"]}
    assert faults(data)["unlisted"] == 1
