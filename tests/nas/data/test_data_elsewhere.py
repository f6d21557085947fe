"""Data as other tools export it: paths, ids, boxes and masks in other forms; what can't be meant is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from searchkit.errors import UsageError
from searchkit.nas.data import coco_images, images
from searchkit.nas.data.augment import Augment
from searchkit.nas.data.coco import load_coco, require_boxes
from searchkit.nas.data.coco_eval import Evaluator, as_results
from searchkit.nas.data.loader import eval_loader, train_loader
from searchkit.nas.tasks import read as config
from searchkit.nas.train.bench import open_bench, open_calibration
from searchkit.nas.train.recipe import Recipe
from tests.nas.data.test_coco import box, dump, write_coco
from tests.support import cls, nas
from tests.support.nas import CPU, Trained, bad, write

pytestmark = pytest.mark.usefixtures("one_thread")


def put(path: Path) -> None:
    """An image of 40 x 30 px of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)


def entries(*names: Any) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names, 1)]


# ---- boxes that never arrive ----


def test_normalised_boxes_are_refused(trained: Trained, tmp_path: Path) -> None:
    content = json.loads(Path(json.loads(Path(trained.config).read_text())["data"]["val"]["annotations"]).read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 64 for value in annotation["bbox"]]
    (tmp_path / "n.json").write_text(json.dumps(content))
    override = ("--set", f"data.val.annotations={tmp_path / 'n.json'}", "--out", tmp_path / "o.jsonl")
    said = bad("test", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MAX", *override)
    assert f"these boxes look normalised: all numbers of all {len(content['annotations'])} lie within 0..1" in said
    assert "Multiply x and width by the image's width" in said
    override = ("--set", f"data.train.annotations={tmp_path / 'n.json'}", "--work-dir", tmp_path / "w")
    assert "look normalised" in bad("train", trained.config, *override)


def test_boxes_of_one_pixel_are_not_called_normalised(tmp_path: Path) -> None:
    assert write_coco(tmp_path, [1], [box(1, [0, 0, 1, 1])]).n_boxes == 1
    assert write_coco(tmp_path, [1], [box(1, [0.1, 0.1, 0.2, 0.2]), box(1, [3, 4, 0.5, 0.5])]).n_boxes == 2


def test_corners_instead_of_sizes_are_refused(tmp_path: Path) -> None:
    corners = [[20, 15, 30, 28], [25, 3, 39, 9], [21, 20, 40, 30], [1, 16, 9, 25], [2, 2, 8, 7]]
    with pytest.raises(UsageError, match=r"two corners.*4 of 5 reach beyond.*e\.g\. \[20, 15, 30, 28\]"):
        write_coco(tmp_path, [1], [box(1, b) for b in corners])
    few = write_coco(tmp_path, [1], [box(1, b) for b in corners[:4]])
    assert few.report.count("clipped") == 4  # too few to tell
    mixed = write_coco(tmp_path, [1], [box(1, b) for b in [*corners, [30, 20, 10, 10]]])
    assert mixed.report.count("clipped") == 4


def test_small_boxes_are_counted_and_none_left_is_an_error(tmp_path: Path) -> None:
    data = write_coco(
        tmp_path, [1], [box(1, [3, 3, 1.5, 9]), box(1, [5, 5, 1.9, 1.9]), box(1, [5, 5, 1, 1], iscrowd=1)]
    )
    assert data.report.count("small") == 0
    data = load_coco(data.source, str(tmp_path), min_box=2)
    (line,) = [line for kind, _, line in data.report.faults if kind == "small"]
    assert line.startswith("boxes with a side below augment.min_box (left out of training") and ": 2, e.g." in line
    require_boxes(data, 1.5)
    with pytest.raises(UsageError, match=r"needs boxes of at least 2 px \(augment.min_box\), but .* has none") as e:
        train_loader(data, Augment(), 1, 0, 0, 1, 0)
    assert "boxes with a side below" in e.value.hint
    next(train_loader(data, Augment(min_box=1), 1, 0, 0, 1, 0))
    next(train_loader(data, Augment(scale=(0.5, 2.0)), 1, 0, 0, 1, 0))  # some may be enlarged enough


# ---- files ----


def test_files_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "sub/deep/c.png", "x/d.png", "y/d.png", "e.png", "sub/deep/f.png"):
        put(tmp_path / "i" / name)
    given = entries(
        str(tmp_path / "i" / "a.png"),  # absolute, and there
        "sub\\b.png",
        r"C:\data\2024\deep\c.png",
        "/elsewhere/y/d.png",  # the one in y
        "e.png",
        "f.png",
        "gone.png",
    )
    data = load_coco(dump(tmp_path, given, [box(1, [0, 0, 9, 9])]), str(tmp_path / "i"))
    found = [str(Path(image.path).relative_to(tmp_path / "i")) for image in data.images]
    assert found == ["a.png", "sub/b.png", "sub/deep/c.png", "y/d.png", "e.png", "sub/deep/f.png", "gone.png"]
    assert (data.report.count("moved"), data.report.count("missing")) == (4, 1)
    assert [image.exists for image in data.images] == [True] * 6 + [False]


def test_a_name_that_several_files_have_is_not_guessed(tmp_path: Path) -> None:
    for name in ("x/d.png", "y/d.png", "e.png", "f.png", "z/g.png"):
        put(tmp_path / "i" / name)
    given = entries("d.png", "e.png", "old/e.png", "p/g.png", "q/g.png", "f.png")
    data = load_coco(dump(tmp_path, given, []), str(tmp_path / "i"))
    assert [image.exists for image in data.images] == [False, True, False, False, False, True]
    assert data.report.count("ambiguous") == 4 and data.report.count("moved") == 0
    with pytest.raises(UsageError, match="none of the 1 image files") as e:
        load_coco(dump(tmp_path, entries("d.png"), []), str(tmp_path / "i"))
    assert "Several files below" in e.value.hint


def test_links_in_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "i" / "sub" / "a.png")
    (tmp_path / "i" / "sub" / "again").symlink_to(tmp_path / "i")
    data = load_coco(dump(tmp_path, entries("a.png"), []), str(tmp_path / "i"))
    assert data.images[0].path == str(tmp_path / "i" / "sub" / "a.png")


# ---- ids ----


def test_text_ids_as_pycocotools_takes_them(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    given = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in ("b", "a")]
    boxes = [[3, 4, 10, 12], [5, 6, 20, 9], [1, 1, 8, 8]]
    path = dump(
        tmp_path, given, [box(i, b, id=k, area=9) for k, (i, b) in enumerate(zip("bab", boxes, strict=True), 1)]
    )
    data = load_coco(path, str(tmp_path))
    assert [(i.id, i.file_id) for i in data.images] == [(1, "b"), (2, "a")]
    other = COCO(path)
    for image in data.images:
        wanted = [row["bbox"] for row in other.loadAnns(other.getAnnIds(imgIds=[image.file_id]))]
        assert image.truth.xywh.tolist() == wanted
    (batch,) = eval_loader(data, 2, 0)
    found = {int(t["image_id"]): {**t, "scores": t["labels"] * 0 + 1.0} for t in batch[1]}
    assert Evaluator(data).evaluate(found)["bbox_mAP"] == pytest.approx(1)
    results, _ = as_results(data, found)
    assert [row["image_id"] for row in results] == ["b", "b", "a"]
    mixed = load_coco(dump(tmp_path, [given[0], {**given[1], "id": 7}], [box(7, boxes[0])]), str(tmp_path))
    assert [(i.id, i.file_id, len(i.boxes)) for i in mixed.images] == [(1, "b", 0), (2, 7, 1)]


@pytest.mark.parametrize(
    ("ids", "owner", "told"), [((1, 2), "1", "'1' here, 1 in"), (("01", "02"), 2, "2 here, '02' in")]
)
def test_ids_that_are_texts_in_one_place_only(tmp_path: Path, ids: tuple[Any, ...], owner: Any, told: str) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    given = [entry | {"id": i} for i, entry in zip(ids, entries("a.png", "b.png"), strict=True)]
    with pytest.raises(UsageError, match="no annotation is of an image of the file") as e:
        load_coco(dump(tmp_path, given, [box(owner, [1, 2, 9, 9]), box(owner, [3, 4, 9, 9])]), str(tmp_path))
    assert f"whose id is a text in one place and a number in the other: {told} images" in e.value.message
    assert "as id in images is written" in e.value.hint
    mixed = load_coco(dump(tmp_path, given, [box(owner, [1, 2, 9, 9]), box(ids[0], [3, 4, 9, 9])]), str(tmp_path))
    (line,) = [line for kind, _, line in mixed.report.faults if kind == "orphan"]
    assert told in line and mixed.n_boxes == 1


# ---- boxes from masks ----


def test_boxes_of_polygons_and_masks(tmp_path: Path) -> None:
    from pycocotools import mask as masks

    put(tmp_path / "1.png")
    solid = np.zeros((30, 40), np.uint8, order="F")
    solid[5:12, 8:30] = 1
    packed = masks.encode(solid)
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    flat = solid.ravel("F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = {"size": [30, 40], "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}
    polygons = [[8, 5, 30, 5, 30, 12, 8, 12], [2.5, 20, 6, 20, 6, 25.5]]
    forms: list[Any] = [polygons, text, runs, [[1, 2]], {"counts": 3}, "none", []]
    rows = [{"id": k, "image_id": 1, "category_id": 2, "segmentation": form} for k, form in enumerate(forms, 1)]
    rows += [rows[0] | {"id": 8, "bbox": None}, rows[0] | {"id": 9, "bbox": [1, 2, 3, 4], "area": 5}]
    data = load_coco(dump(tmp_path, entries("1.png"), rows), str(tmp_path))
    truth = data.images[0].truth
    assert truth.xywh[0].tolist() == [2.5, 5, 27.5, 20.5]
    assert truth.xywh[1].tolist() == truth.xywh[2].tolist() == masks.toBbox(packed).tolist() == [8, 5, 22, 7]
    assert truth.xywh[-1].tolist() == [1, 2, 3, 4] and truth.area[-1] == 5
    assert truth.area[:3].tolist() == [22 * 7 + 3.5 * 5.5 / 2, 154, float(masks.area(packed))]
    assert (data.report.count("from_mask"), data.report.count("malformed")) == (5, 3)
    assert data.report.count("flat") == 1  # a polygon of one point


def test_boxes_of_zeros(trained: Trained, tmp_path: Path) -> None:
    """Beside masks they are no boxes; without any they are nothing to find, which is no score of 0."""
    content = json.loads((trained.data / "annotations" / "instances_val.json").read_text())
    bare = [row | {"bbox": [0, 0, 0, 0], "area": 0} for row in content["annotations"]]
    for row in bare:
        row.pop("segmentation", None)
    masked = []
    for row, zeros in zip(content["annotations"], bare, strict=True):
        x, y, w, h = row["bbox"]
        masked.append(zeros | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    masked[0]["segmentation"] = [[1, 2]]  # a polygon of one point
    found = []
    for name, rows in (("bare", bare), ("masked", masked)):
        path = write(tmp_path / f"{name}.json", content | {"annotations": rows})
        found.append(load_coco(path, str(trained.data / "images")))
    none, whole = found
    assert (none.n_boxes, none.report.count("flat")) == (0, len(bare))
    assert (whole.report.count("from_mask"), whole.report.count("flat")) == (len(bare), 1)
    last = content["annotations"][-1]
    (image,) = [image for image in whole.images if image.id == last["image_id"]]
    assert image.truth.xywh[-1].tolist() == last["bbox"]
    assert Evaluator(whole).without_value().keys().isdisjoint({"bbox_mAP"})
    override = ("--set", f"data.val.annotations={tmp_path / 'bare.json'}", "--out", tmp_path / "o.jsonl")
    said = bad("test", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MAX", *override)
    assert "bbox_mAP has no value: no box has a width and a height above 0" in said
    assert not (tmp_path / "o.jsonl").exists()


# ---- calibration, the same file twice, huge images ----


def test_absent_images_are_not_drawn_for_calibration(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.loads(Path(trained.config).read_text())
    folder = shutil.copytree(trained.data / "images", tmp_path / "images")
    body["data"]["train"]["images"] = str(folder)
    recipe = config.load(write(tmp_path / "c.yaml", body))
    before = open_calibration(recipe, 0).ids
    names = {image.id: Path(image.path).name for image in nas_train(recipe).images}
    gone, broken = before[1], before[4]
    (folder / names[gone]).unlink()
    (folder / names[broken]).write_bytes(b"no image")
    for cache_mb in (1024, 0):  # images stay in memory, or are decoded each time
        caplog.clear()
        again = config.load(recipe.path, [f"data.cache_mb={cache_mb}"])
        found = open_calibration(again, 0)
        assert len(found.ids) == len(set(found.ids)) == len(before)
        assert set(before) - set(found.ids) == {gone, broken}
        assert sum(len(batch) for batch in found.batches(48)) == len(before)
        assert names[broken] in caplog.text and names[gone] in caplog.text and "takes its place" in caplog.text
    for name in names.values():
        (folder / name).write_bytes(b"no image")
    with pytest.raises(UsageError, match="images can't be used"):
        open_calibration(recipe, 0)


def nas_train(recipe: Recipe) -> Any:
    from searchkit.nas.train.splits import open_split

    return open_split(recipe, "train")


def test_undecodable_images_of_classes_are_not_drawn_for_calibration(tmp_path: Path) -> None:
    toy = cls.make_toy(tmp_path)
    recipe = config.load(write(tmp_path / "c.yaml", cls.tiny(toy)))
    before = open_calibration(recipe, 0)
    data = nas_train(recipe)
    Path(data.where(before.ids[3])).write_bytes(b"no image")
    found = open_calibration(recipe, 0)
    assert set(before.ids) - set(found.ids) == {before.ids[3]} and len(found.ids) == len(before.ids)


@pytest.mark.parametrize("task", ["det", "cls"])
def test_the_same_images_for_training_and_validation_are_said(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: str
) -> None:
    if task == "det":
        body = json.loads(Path(trained.config).read_text())
    else:
        body = cls.tiny(cls.make_toy(tmp_path))
    path = write(tmp_path / "c.yaml", body)
    said = "is the same as data.train"
    open_bench(config.load(path), "val", CPU, 0)
    open_bench(config.load(path), "train", CPU, 0)  # asked for
    assert said not in caplog.text
    body["data"]["val"] = body["data"]["train"]
    open_bench(config.load(write(tmp_path / "same.yaml", body)), "val", CPU, 0)
    assert said in caplog.text


def test_images_beyond_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr(coco_images, "HUGE", 1000)
    for name in ("1.png", "2.png"):
        put(tmp_path / name)
    data = load_coco(dump(tmp_path, entries("1.png", "2.png"), [box(1, [0, 0, 9, 9])]), str(tmp_path))
    assert data.report.count("huge") == 2
    with pytest.raises(UsageError, match=r"cannot decode the image .*exceeds limit of 1000 pixels") as e:
        images.decode(data.images[0].path, 40, 30)
    assert "Cut it into tiles" in e.value.hint
    unsized = [{"id": 1, "file_name": "1.png"}]
    with pytest.raises(UsageError, match=r"do not say the size of .*exceeds limit"):
        load_coco(dump(tmp_path, unsized, []), str(tmp_path))


def test_what_is_said_on_the_command_line(trained: Trained, tmp_path: Path) -> None:
    """All of it at the start of a training."""
    body = json.loads(Path(trained.config).read_text())
    content = json.loads(Path(body["data"]["train"]["annotations"]).read_text())
    content["annotations"].append({**content["annotations"][0], "id": 10**6, "bbox": [3, 3, 1, 1]})
    (tmp_path / "t.json").write_text(json.dumps(content))
    override = ("--set", f"data.train.annotations={tmp_path / 't.json'}", "--set", "train.steps=1")
    done = nas.call("train", trained.config, "--work-dir", tmp_path / "w", *override)
    assert done.code == 0
    assert "boxes with a side below augment.min_box (left out of training unless enlarged" in done.err
    done = nas.call(
        "train", trained.config, "--work-dir", tmp_path / "v", *override, "--set", "data.augment.min_box=20"
    )
    assert done.code == 0 and "boxes that random changes left out: " in done.err
