"""COCO files are read as pycocotools reads them, mended and reported; all kinds of images become RGB."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data.coco import CocoSet, load_coco, require_boxes, subset
from searchkit.nas.data.images import DetectionData, decode, unreadable

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]  # in no order, with gaps


def write_coco(folder: Path, images: list[Any], annotations: list[Any], categories: Any = CATEGORIES) -> CocoSet:
    """A set of noise images of 40 x 30 px; `images` holds ids, or whole entries."""
    entries = [
        {"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} if isinstance(i, int) else i for i in images
    ]
    for k, entry in enumerate(entries):
        noise = np.random.default_rng(k).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / entry["file_name"])
    return load_coco(dump(folder, entries, annotations, categories), str(folder))


def dump(folder: Path, images: list[Any], annotations: list[Any], categories: Any = CATEGORIES) -> str:
    path = folder / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def box(image: int, bbox: Any, category: Any = 2, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0} | more


# ---- reading ----


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
def test_bccd_is_read_as_pycocotools_reads_it(data_dir: Path, split: str, images: int, boxes: int) -> None:
    from pycocotools.coco import COCO

    path = data_dir / "bccd" / "annotations" / f"instances_{split}.json"
    data = load_coco(str(path), str(data_dir / "bccd" / "images"))
    assert (len(data.images), data.n_boxes, data.names) == (images, boxes, ("RBC", "WBC", "Platelets"))
    assert len(data.report.lines) == 1  # nothing is wrong with it
    other = COCO(str(path))
    for image in data.images:
        rows = other.loadAnns(other.getAnnIds(imgIds=image.id))
        wanted = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        assert np.array_equal(image.truth.xywh, wanted)
        assert np.array_equal(image.boxes, np.hstack([wanted[:, :2], wanted[:, :2] + wanted[:, 2:]]))
        assert image.labels.tolist() == [row["category_id"] for row in rows]
        assert image.area.tolist() == [row["area"] for row in rows]
        assert (image.boxes.dtype, image.labels.dtype, image.area.dtype) == (np.float32, np.int64, np.float32)


def test_labels_have_no_gaps_and_follow_the_ids(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1], [box(1, [0, 0, 9, 9], 7), box(1, [0, 0, 5, 5], 2)])
    assert data.categories == ((2, "cat"), (7, "dog"))
    assert data.images[0].labels.tolist() == [2, 1]
    assert data.report.count("gaps") == 4


def test_classes_select_and_order(tmp_path: Path) -> None:
    everything = write_coco(tmp_path, [1], [box(1, [0, 0, 9, 9], 7), box(1, [1, 1, 5, 5], 2)])
    turned = load_coco(everything.source, str(tmp_path), classes=["dog", "cat"])
    assert turned.categories == ((7, "dog"), (2, "cat"))
    assert turned.images[0].labels.tolist() == [1, 2]
    cats = load_coco(everything.source, str(tmp_path), classes=["cat"])
    assert cats.images[0].labels.tolist() == [1]
    assert cats.images[0].boxes.tolist() == [[1, 1, 6, 6]]
    assert cats.report.count("unselected") == 1
    with pytest.raises(UsageError, match=r"cta \(did you mean cat\?\)"):
        load_coco(everything.source, str(tmp_path), classes=["cta", "dog"])
    for wrong in ([], ["cat", "cat"]):
        with pytest.raises(UsageError, match="each once"):
            load_coco(everything.source, str(tmp_path), classes=wrong)


def test_every_fault_is_mended_and_reported_once(tmp_path: Path) -> None:
    images = [1, 2, 3, {"id": 2, "file_name": "2.png"}, {"id": 5, "file_name": "5.png", "width": 0}]
    annotations = [
        box(1, [1, 2, 3, 4], id=1, area=5.5),
        box(1, [1, 2, 0, 4], id=2),
        box(1, [1, 2, -3, 4], id=3),
        box(1, [1, float("nan"), 3, 4], id=4),
        box(1, [1, 2, 3], id=5),
        box(1, "none", id=6),
        box(1, [40, 2, 3, 4], id=7),
        box(2, [-5, 20, 10, 20], id=8, area=200),
        box(2, [10, 10, 10, 10], id=8, iscrowd=1, area=float("nan")),
        box(9, [1, 2, 3, 4], id=9),
        box(1, [0, 0, 40.001, 30], id=10, area=1),  # two decimals of rounding are no fault
    ]
    data = write_coco(tmp_path, images, annotations, [*CATEGORIES, {"id": 7, "name": "x"}, {"id": 8, "name": "cat"}])
    (tmp_path / "1.png").unlink()
    data = load_coco(data.source, str(tmp_path))
    counts = {kind: n for kind, n, _ in data.report.faults}
    assert counts == {
        "missing": 1,
        "unsized": 1,
        "duplicate_image": 1,
        "duplicate_annotation": 1,
        "duplicate_category": 1,
        "duplicate_name": 2,
        "orphan": 1,
        "malformed": 3,
        "flat": 2,
        "outside": 1,
        "clipped": 1,
        "no_area": 1,
        "crowd": 1,
        "empty": 2,
        "gaps": 4,
    }
    assert len(data.report.lines) == 1 + len(counts)
    assert all(f": {n}, e.g. " in line for _, n, line in data.report.faults)
    assert [image.id for image in data.images] == [1, 2, 3, 5]
    assert (data.images[3].width, data.images[3].height) == (40, 30)
    assert data.images[0].boxes.tolist() == [[1, 2, 4, 6], [0, 0, 40, 30]]
    assert data.images[1].boxes.tolist() == [[0, 20, 5, 30], [10, 10, 20, 20]]
    assert data.images[0].truth.xywh[:, 2].tolist() == [3, 0, -3, 3, 40.001]  # all that are numbers
    assert data.images[1].truth.xywh.tolist() == [[-5, 20, 10, 20], [10, 10, 10, 10]]
    assert data.images[1].truth.area.tolist() == [200, 100]
    assert data.images[1].crowd.tolist() == [False, True]
    assert data.images[2].boxes.shape == (0, 4)
    assert len(set(data.names)) == 3
    assert data.n_boxes == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no list images, annotations, categories; found: a list"),
        ('{"images": [], "annotations": []}', "no list categories"),
        ('{"images": [], "annotations": [], "categories": []}', "declares no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "lists no images"),
        ('{"images": [], "annotations": [], "categories": [{"name": "x"}]}', "whole number as its id"),
        ('{"images": [{"id": 1.5, "file_name": "x"}], "annotations": [], "categories": [{"id": 1}]}', "whole number"),
        (
            '{"images": [{"id": 1, "file_name": "a.json"}], "annotations": [], "categories": [{"id": 1}]}',
            "do not say the size",
        ),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        load_coco(str(tmp_path / "a.json"), str(tmp_path))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "instances_train.json").write_text("{}")
    with pytest.raises(UsageError, match=r"did you mean instances_train\.json"):
        load_coco(str(tmp_path / "instance_train.json"), str(tmp_path))


def test_an_undeclared_category_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"category 8 is used by 2 annotations.*7, dog(.|\n)*category \"x\" is used by 1"
    ):
        write_coco(tmp_path, [1], [box(1, [0, 0, 9, 9], 8), box(1, [0, 0, 5, 5], 8), box(1, [0, 0, 5, 5], "x")])


def test_the_wrong_folder_of_images(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1], [])
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="none of the 1 image files") as e:
        load_coco(data.source, str(tmp_path / "other"))
    assert f"{tmp_path / 'other'} is not it" in e.value.hint
    with pytest.raises(UsageError) as e:
        load_coco(data.source, str(tmp_path / "nowhere"))
    assert "no folder" in e.value.hint


def test_limit_and_subset_take_images_with_their_boxes(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [4, 3, 2], [box(i, [i, 0, 5, 5]) for i in (2, 3, 4, 3)])
    few = load_coco(data.source, str(tmp_path), limit=2)
    assert [image.id for image in few.images] == [4, 3]
    assert few.report.count("orphan") == 0
    assert few.n_boxes == 3
    turned = subset(data, [2, 0])
    assert [image.boxes[0, 0] for image in turned.images] == [2, 4]
    with pytest.raises(UsageError, match="limit"):
        load_coco(data.source, str(tmp_path), limit=0)


def test_training_needs_boxes(tmp_path: Path) -> None:
    require_boxes(write_coco(tmp_path, [1], [box(1, [0, 0, 5, 5])]))
    with pytest.raises(UsageError, match="training needs boxes"):
        require_boxes(write_coco(tmp_path, [1], [box(1, [0, 0, 5, 5], iscrowd=1)]))


# ---- decoding ----


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    path = str(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    if mode == "I;16":
        deep = noise[..., 0].astype(np.uint16) * 256 + 77
        Image.fromarray(deep).save(path)
        wanted = np.repeat(noise[..., :1], 3, 2)
    else:
        image = Image.fromarray(noise).convert(mode)
        image.save(path)
        wanted = np.array(image.convert("RGB"))
    found = decode(path, 5, 6)
    assert (found.dtype, found.shape, found.is_contiguous()) == (torch.uint8, (3, 6, 5), True)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), wanted)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (5, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert decode(str(tmp_path / "a.png"), 5, 6)[:, 0, 0].tolist() == [10, 20, 30]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1, 2, 3], [box(2, [0, 0, 5, 5])])
    for name, content in (("1.png", (tmp_path / "1.png").read_bytes()[:900]), ("2.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            decode(str(tmp_path / name), 40, 30)
    assert [fault.message.count(".png") > 0 for fault in unreadable(data)] == [True, True]


# ---- the data set ----


def test_samples(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [5, 3], [box(5, [0, 1, 5, 5], 7, area=3), box(5, [0, 0, 9, 9], iscrowd=1)])
    image, target = DetectionData(data)[0]
    assert torch.equal(image, decode(data.images[0].path, 40, 30))
    assert {key: value.tolist() for key, value in target.items()} == {
        "boxes": [[0, 1, 5, 6], [0, 0, 9, 9]],
        "labels": [2, 1],
        "area": [3, 81],
        "iscrowd": [0, 1],
        "image_id": 5,
    }
    dtypes = {key: value.dtype for key, value in target.items()}
    assert dtypes["boxes"] == dtypes["area"] == torch.float32
    assert dtypes["labels"] == dtypes["iscrowd"] == dtypes["image_id"] == torch.int64
    assert DetectionData(data, crowd=False)[0][1]["labels"].tolist() == [2]
    assert DetectionData(data)[1][1]["boxes"].shape == (0, 4)


def test_the_cache_changes_nothing_and_keeps_to_its_size(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1, 2, 3], [])
    plain, cached = DetectionData(data), DetectionData(data, cache_mb=2 * 3 * 40 * 30 / 1e6)
    assert cached.n_cached == 2
    cached.warm()
    (tmp_path / "1.png").unlink()  # from here on it can only come from the cache
    (tmp_path / "3.png").unlink()
    cached[0][0].zero_()  # nor may a user write into it
    cold = DetectionData(data, cache_mb=1)
    cold[1][0].zero_()
    assert cold[1][0].any()
    assert cached[0][0].any()
    assert torch.equal(cached[1][0], plain[1][0])
    with pytest.raises(UsageError, match=r"3\.png"):
        cached[2]
    with pytest.raises(UsageError, match=r"1\.png"):
        pickle.loads(pickle.dumps(cached))[0]  # a process of its own starts empty


def test_an_image_that_cannot_be_used_is_replaced_only_where_allowed(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1, 2, 3], [])
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"3\.png"):
        DetectionData(data)[2]
    image, target, faults = DetectionData(data, strict=False).load(2)
    assert target["image_id"] == 1
    assert torch.equal(image, decode(data.images[0].path, 40, 30))
    assert ["3.png" in fault.message for fault in faults] == [True]
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="3 images can't be used"):
        DetectionData(data, strict=False)[0]
