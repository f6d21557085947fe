"""Image files are shown upright, and deep greys by one rule: in training, tests, predict and extracted models alike."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from searchkit.errors import UsageError
from searchkit.nas.data.coco import joined, load_coco
from searchkit.nas.data.images import DetectionData, decode
from searchkit.nas.data.labelled import open_labelled
from searchkit.nas.data.pixels import Reading, header, range_of, scaled, upright
from searchkit.nas.subnet.extract import open_again, scored_again
from searchkit.nas.subnet.statistics import Statistics, score_of
from searchkit.nas.tasks import read as config
from searchkit.nas.train.splits import open_split
from tests.nas.data.test_coco import box, dump
from tests.support import cls, nas
from tests.support.nas import Trained, good, write

pytestmark = pytest.mark.usefixtures("one_thread")
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def store_turned(image: np.ndarray, path: Path, orientation: int) -> None:
    """Save an image so that it is shown as it is, but stored as a camera held in that way stores it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright(image, INVERSE[orientation])).save(path, exif=exif)


def turn_all(source: Path, target: Path) -> None:
    """The same images, stored in all orientations by turns."""
    target.mkdir(parents=True)
    for i, path in enumerate(sorted(source.rglob("*.png"))):
        out = target / path.relative_to(source)
        out.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            store_turned(np.array(image.convert("RGB")), out, i % 8 + 1)


# ---- orientation ----


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "webp":
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(upright(image, INVERSE[orientation])).save(path, exif=exif, lossless=True)
    else:
        store_turned(image, path, orientation)
    with Image.open(path) as opened:  # Pillow turns a TIFF when it is loaded
        wanted = np.array(opened if ending == "tif" else ImageOps.exif_transpose(opened))
    for found in (decode(str(path), 9, 6), decode(str(path), 9, 6, Reading("apply"))):
        assert np.array_equal(found.permute(1, 2, 0).numpy(), wanted)
        assert ending == "jpg" or np.array_equal(wanted, image)
    assert header(str(path)).orientation == orientation
    width, height = (6, 9) if orientation > 4 else (9, 6)
    as_stored = decode(str(path), width, height, Reading("ignore")).permute(1, 2, 0).numpy()
    assert np.array_equal(upright(as_stored, orientation), wanted)


def test_the_head_of_a_png_is_told_from_its_end_too(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    store_turned(image, tmp_path / "a.png", 6)
    raw = (tmp_path / "a.png").read_bytes()
    at = raw.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
    late = raw[:at] + raw[end:-12] + raw[at:end] + raw[-12:]  # before IEND, behind all IDAT
    (tmp_path / "late.png").write_bytes(late)
    assert header(str(tmp_path / "late.png")) == header(late) == header(str(tmp_path / "a.png"))
    (tmp_path / "broken.png").write_bytes(late[: end - 20] + b"eXIf")
    assert header(str(tmp_path / "broken.png")).orientation == 1
    data = load_coco(dump(tmp_path, [{"id": 1, "file_name": "late.png"}], [box(1, [1, 2, 9, 9])]), str(tmp_path))
    assert (data.images[0].width, data.images[0].height) == (90, 60) and data.report.count("turned") == 1
    assert np.array_equal(DetectionData(data)[0][0].permute(1, 2, 0).numpy(), image)


def test_sizes_in_the_annotations_tell_what_boxes_are_on(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    store_turned(image, tmp_path / "a.png", 6)
    path = str(tmp_path / "a.png")
    assert decode(path, 6, 9).shape == (3, 9, 6)  # boxes are on the stored pixels
    with pytest.raises(UsageError, match="is 6 x 9, but it is 9 x 6") as e:
        decode(path, 6, 9, Reading("apply"))
    assert "orientation is 6, and is applied, as data.exif says" in e.value.hint
    with pytest.raises(UsageError, match="is 7 x 9, but it is 9 x 6") as e:
        decode(path, 7, 9)
    assert "neither the stored nor the upright image" in e.value.hint


def test_orientations_are_counted(tmp_path: Path) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    for i, orientation in enumerate((1, 3, 6, 6, 8), 1):
        store_turned(image, tmp_path / f"{i}.png", orientation)
    sizes: list[dict[str, Any]] = [{"width": 40, "height": 30}] * 3 + [{"width": 30, "height": 40}, {}]
    images = [{"id": i, "file_name": f"{i}.png", **size} for i, size in enumerate(sizes, 1)]
    path = dump(tmp_path, images, [box(i, [1, 2, 9, 9]) for i in range(1, 6)])
    data = load_coco(path, str(tmp_path))
    counts = {kind: n for kind, n, _ in data.report.faults if kind != "gaps"}
    assert counts == {"turned": 3, "as_stored": 1, "unsized": 1, "no_area": 5}
    assert [(i.width, i.height) for i in data.images] == [(40, 30)] * 3 + [(30, 40), (40, 30)]
    assert [DetectionData(data)[i][0].shape[1:] for i in range(5)] == [(30, 40)] * 3 + [(40, 30), (30, 40)]
    ignored = load_coco(path, str(tmp_path), reading=Reading("ignore"))
    assert (ignored.report.count("turned"), ignored.report.count("not_turned")) == (0, 4)
    assert (ignored.images[4].width, ignored.images[4].height) == (30, 40)


def test_turned_photos_train_calibrate_and_score_as_upright_ones(trained: Trained, tmp_path: Path) -> None:
    turn_all(trained.data / "images", tmp_path / "images")
    body = json.loads(Path(trained.config).read_text())
    for split in ("train", "val", "test"):
        body["data"][split]["images"] = str(tmp_path / "images")
    turned = write(tmp_path / "turned.yaml", body)
    for name in ("train", "val"):
        a, b = (open_split(config.load(path), name) for path in (trained.config, turned))
        assert b.report.count("turned") and not a.report.count("turned")
        assert all(torch.equal(DetectionData(a)[i][0], DetectionData(b)[i][0]) for i in range(len(a.images)))
    common = ("--checkpoint", trained.checkpoint, "--arch", "MAX", "--json", "--out")
    (plain,) = json.loads(good("test", trained.config, *common, tmp_path / "a.jsonl"))
    (found,) = json.loads(good("test", turned, *common, tmp_path / "b.jsonl"))
    assert found["metric"] == plain["metric"] and plain["metric"]["direct"]["toy_bbox_mAP"] > 0
    differ = {k for k, v in found["protocol"]["direct"].items() if v != plain["protocol"]["direct"][k]}
    assert differ == {"data", "calibration_ids"}  # other pixels are stored: older scores of these files stand alone
    model = tmp_path / "model"
    good("extract", turned, "--checkpoint", trained.checkpoint, "--arch", "MAX", "--out", model)
    name = sorted(path.name for path in (tmp_path / "images").glob("val*.png"))[5]
    assert header(str(tmp_path / "images" / name)).orientation > 1
    images = [folder / "images" / name for folder in (trained.data, tmp_path)]
    (one, two) = json.loads(good("predict", model, *images, "--out", tmp_path / "p", "--threshold", "0.01", "--json"))
    assert one["boxes"] == two["boxes"] != []
    spec = importlib.util.spec_from_file_location("_model", model / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for image in images:
        assert torch.equal(module.read(image), decode(str(images[0]), 64, 64) / 255)


def test_turned_photos_of_classes(tmp_path: Path) -> None:
    toy = cls.make_toy(tmp_path)
    turn_all(toy / "val", tmp_path / "turned")
    a, b = open_labelled(toy / "val"), open_labelled(tmp_path / "turned")
    assert b.report.count("turned") == 21 and not a.report.count("turned")
    assert all(torch.equal(a.image(i), b.image(i)) for i in range(len(a)))
    ignored = open_labelled(tmp_path / "turned", reading=Reading("ignore"))
    assert ignored.report.count("not_turned") == 21
    assert not torch.equal(ignored.image(2), a.image(2))


# ---- deep greys ----


def grey_set(folder: Path, images: list[np.ndarray], ending: str = "png") -> str:
    """A set of grey images, as they are; the path of its annotations."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images, 1):
        Image.fromarray(image).save(folder / f"{i}.{ending}")
    entries = [{"id": i, "file_name": f"{i}.{ending}"} for i in range(1, len(images) + 1)]
    return dump(folder, entries, [box(i, [1, 2, 9, 9]) for i in range(1, len(images) + 1)])


def noise(high: int, n: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, high, (12, 16)).astype(np.uint16) for _ in range(n)]


def test_thermal_images_of_twelve_bits_are_not_black(tmp_path: Path) -> None:
    greys = noise(4000)
    path = grey_set(tmp_path / "a", greys)
    data = load_coco(path, str(tmp_path / "a"))
    assert data.reading.range == (0, 4096)
    (line,) = [line for kind, _, line in data.report.faults if kind == "deep"]
    assert "images of grey deeper than 8 bits (scaled to 0..255): 3" in line and "[0, 4096] (12 bits: values" in line
    for i, grey in enumerate(greys):
        assert np.array_equal(DetectionData(data)[i][0][1].numpy(), grey >> 4)
    low = load_coco(path, str(tmp_path / "a"), reading=Reading(range=(1000, 2000)))
    found = DetectionData(low)[0][0][0].numpy()
    assert (found[greys[0] <= 1000] == 0).all() and (found[greys[0] >= 2000] == 255).all()
    with pytest.raises(UsageError, match="read differently"):
        joined(data, low)
    plain = load_coco(grey_set(tmp_path / "b", [(g >> 4).astype(np.uint8) for g in greys]), str(tmp_path / "b"))
    assert joined(plain, data).reading.range == (0, 4096)
    assert load_coco(plain.source, str(tmp_path / "b"), reading=Reading(range=(0, 9))).report.count("not_deep") == 3


@pytest.mark.parametrize(
    ("values", "span"),
    [
        ([0, 200], (0, 256)),
        ([0, 1023], (0, 1024)),
        ([9, 1024], (0, 4096)),
        ([0, 16383], (0, 16384)),
        ([0, 16384], (0, 65536)),
        ([-1000, 3000], (-1000, 3000)),
        ([0, 1 << 20], (0, 1 << 20)),
        ([0.25, 0.5], (0, 1)),
        ([0.0, 300.5], (0, 300.5)),
        ([float("nan"), 7.5], (7.5, 8.5)),
        ([float("nan")], (0, 65536)),
    ],
)
def test_the_range_is_that_of_the_values(values: list[float], span: tuple[float, float]) -> None:
    assert range_of(2, lambda _: np.array([values]))[0] == span


def test_scaling_makes_256_equal_steps() -> None:
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(scaled(every, None), every >> 8)  # what 16 bits were before a range could be said
    assert np.array_equal(scaled(every[:4096], (0, 4096)), every[:4096] >> 4)
    odd = np.array([-5, 0, 0.5, 1, 2, np.nan, np.inf, -np.inf], np.float32)
    assert scaled(odd, (0, 1)).tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_tiffs_of_32_bits(tmp_path: Path, kind: type) -> None:
    hounsfield = [(grey.astype(np.int32) - 1000).astype(kind) for grey in noise(4000)]
    data = load_coco(grey_set(tmp_path / "a", hounsfield, "tif"), str(tmp_path / "a"))
    low, high = data.reading.range
    assert (low, high) == (min(g.min() for g in hounsfield), max(g.max() for g in hounsfield))
    found = DetectionData(data)[0][0][0].numpy()
    assert np.array_equal(found, ((hounsfield[0] - low) * (256 / (high - low))).clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_all_splits_are_scaled_as_the_training_images(trained: Trained, tmp_path: Path) -> None:
    """Dark validation images would fill fewer bits by themselves."""
    body = json.loads(Path(trained.config).read_text())
    for split, top in (("train", 4000), ("val", 900)):
        folder = tmp_path / split
        shutil.copytree(trained.data / "images", folder)
        for i, path in enumerate(sorted(folder.glob("*.png"))):
            with Image.open(path) as image:
                grey = np.array(image.convert("L")).astype(np.uint16)
            Image.fromarray(grey * np.uint16(top // 255) + np.uint16(i)).save(path)
        body["data"][split]["images"] = str(folder)
    path = write(tmp_path / "c.yaml", body)
    recipe = config.load(path)
    train, val = (open_split(recipe, name) for name in ("train", "val"))
    assert train.reading.range == val.reading.range == (0, 4096)
    assert any("as data.train: 12 bits" in line for line in val.report.lines)
    given = config.load(path, ["data.range=[0, 2000]"])
    assert open_split(given, "val").reading.range == (0, 2000)
    assert "data.range: must be two ascending numbers" in nas.bad(
        "train", path, "--work-dir", "w", "--set", "data.range=[2, 1]"
    )
    work = tmp_path / "work"
    latest = nas.train(path, work, "train.steps=2")
    good("extract", path, "--checkpoint", latest, "--arch", "MIN", "--out", tmp_path / "m")
    said = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (said["range"], said["exif"]) == ([0, 4096], "apply")
    image = tmp_path / "val" / sorted(p.name for p in (tmp_path / "val").glob("val*.png"))[0]
    shown = decode(str(image), 64, 64, val.reading)
    spec = importlib.util.spec_from_file_location("_model", tmp_path / "m" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert torch.equal(module.read(image), shown / 255)
    done = nas.call("predict", tmp_path / "m", image, "--out", tmp_path / "p", "--threshold", "0", "--json")
    again = nas.call(
        "predict",
        latest,
        image,
        "--config",
        path,
        "--arch",
        "MIN",
        "--out",
        tmp_path / "q",
        "--threshold",
        "0",
        "--json",
    )
    assert done.code == again.code == 0 and not done.err and "calibrated on 6 training images" in again.err
    assert json.loads(done.out)[0]["boxes"] == json.loads(again.out)[0]["boxes"]
    done = nas.call("predict", trained.checkpoint, image, "--config", trained.config, "--out", tmp_path / "r")
    assert "1 image is of grey deeper than 8 bits, and the model knows no range" in done.err


def deepened(source: Path, target: Path) -> str:
    """Copies of images of 8 bits as greys of 12."""
    for path in sorted(source.rglob("*.png")):
        out = target / path.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 16).save(out)
    return str(target)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["det", "cls"])
def test_a_network_of_other_images_states_the_range_of_its_score(
    trained: Trained, toy_cls: Path, tmp_path: Path, task: str
) -> None:
    """It learnt from 8 bits, and is scored and extracted on 12: nothing else tells the range."""
    if task == "det":
        path, weights = trained.config, trained.checkpoint
        deep = deepened(trained.data / "images", tmp_path / "deep")
        sets = ("--set", f"data.train.images={deep}", "--set", f"data.val.images={deep}")
    else:
        path = write(tmp_path / "c.yaml", cls.tiny(toy_cls, "basic", train={"steps": 2, "checkpoint_steps": 100}))
        weights = nas.train(path, tmp_path / "work")
        deep = deepened(toy_cls, tmp_path / "deep")
        sets = ("--set", f"data.train.path={deep}/train", "--set", f"data.val.path={deep}/val")
    common = (path, "--checkpoint", weights, "--device", "cpu", *sets, "--arch")
    good("test", *common, "MIN", "--out", tmp_path / "t.jsonl")
    said = good("extract", *common, tmp_path / "t.jsonl", "--out", tmp_path / "m")
    assert "equal to the record's metric.direct" in said
    good("extract", *common, "MIN", "--out", tmp_path / "plain")
    for folder in ("m", "plain"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["range"] == [0, 4096]
    image = sorted(Path(deep).rglob("*.png"))[-1]
    shown = ("--device", "cpu", "--threshold", "0.01", "--json", "--out", tmp_path / "p")
    of_folder = nas.call("predict", tmp_path / "m", image, *shown)
    of_weights = nas.call("predict", weights, image, "--config", path, *sets, "--arch", tmp_path / "t.jsonl", *shown)
    assert "16 bits are taken" not in of_folder.err + of_weights.err
    key = "boxes" if task == "det" else "classes"
    assert json.loads(of_folder.out)[0][key] == json.loads(of_weights.out)[0][key] != []
    # a folder that reads files in another way scores something else, and says so
    body = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(body | {"range": None}))
    recipe = config.load(path, sets[1::2])
    again = open_again(recipe, nas.CPU, 0)
    (record,) = nas.lines(tmp_path / "t.jsonl")
    score, _ = score_of(record, record["protocol"]["direct"]["checkpoint"], None, recipe.scales[0])
    assert score is not None
    found = scored_again(str(tmp_path / "m"), Statistics("raw", "", recipe), score, again, recipe.scales[0])
    assert task == "cls" or not found["equal"]  # a classifier of two steps says one class of whatever it sees
