"""search-nas data: check, convert, split, and toy data as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from searchkit import console
from searchkit.nas.data.formats.table import read
from tests.support.formats import to_yolo
from tests.support.nas import bad, call, good


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good("data", "toy-det", "--out", "shapes", "--images", "40", "16", "4", "--size", "48", "48")


def test_check(tmp_path: Path) -> None:
    out = good("data", "check", "shapes", "--picture", "twelve.png")
    assert out.splitlines()[0].startswith("shapes: COCO, 60 images, ")
    assert "tiny        100.0% of the boxes" in out
    assert out.endswith("picture: twelve.png\nusable\n")
    with Image.open("twelve.png") as picture:
        assert picture.size == (1600, 980)
    facts = json.loads(good("data", "check", "shapes", "--json"))
    assert facts["usable"] is True and facts["wrong"] == []
    assert facts["splits"]["train"]["per_class"].keys() == {"circle", "square", "triangle"}
    Path("shapes/images/val_00001.png").unlink()
    done = call("data", "check", "shapes")
    assert done.code == 1
    assert "wrong: val: images that are missing, or too large to be decoded: 1 of 16" in done.out
    assert done.out.endswith("not usable as it is: see what is wrong\n")
    assert "no such file or folder: nowhere" in bad("data", "check", "nowhere")


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = Path("shapes/annotations/instances_train.json")
    body = json.loads(path.read_text())
    body["categories"][0]["name"] = "circle " * 20
    body["categories"] += [{"id": i, "name": f"class {i}"} for i in range(10, 60)]
    path.write_text(json.dumps(body))
    out = good("data", "check", str(path))
    table = out.split("\n\n")[2].splitlines()
    assert max(map(len, table)) <= 60
    assert any(line.startswith("circle circle") and "…" in line for line in table)
    assert table[-1] == "and 23 classes with 0 to 0 each (--json has all)"


def test_names_with_control_characters_are_shown_escaped() -> None:
    assert console.one_line("größe 画像 – 1 GiB, \N{NO-BREAK SPACE}x") == "größe 画像 – 1 GiB, \N{NO-BREAK SPACE}x"
    assert console.one_line("a\nb\x1b[2J\t\u2028\udcff") == r"a\nb\x1b[2J\t\u2028\udcff"
    path = Path("shapes/annotations/instances_val.json")
    body = json.loads(path.read_text())
    body["images"][0]["file_name"] = "lost\nimage\x1b[31m.png"
    body["categories"][0]["name"] = "two\nlines"
    path.write_text(json.dumps(body))
    Path("shapes").rename(folder := "all\nshapes")
    done = call("data", "check", folder)
    assert done.code == 1 and done.out.startswith(r"all\nshapes: COCO, ")
    assert all(text in done.out for text in (r"two\nlines", r"lost\nimage\x1b[31m.png"))
    assert "\x1b" not in done.both and not any(f"\n{text}" in done.both for text in ("image\\", "lines", "shapes"))


def test_convert_says_what_is_left_out_and_is_idempotent(tmp_path: Path) -> None:
    folder = to_yolo(read("shapes"), tmp_path / "yolo")
    labels = folder / "labels" / "train" / "train_00001.txt"
    labels.write_text("0 0.5 0.5 0.2 0\n0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.5 0.1 0.5 0.9\n")
    (folder / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    out = good("data", "convert", str(folder), "--out", "coco")
    assert "train: boxes without an area within their image (left out): 1" in out
    assert "train: boxes around polygons or circles: 1" in out
    assert "train: files of labels whose image is not there (left out): 1" in out
    assert out.endswith(f"coco: COCO of {folder} (YOLO), 3 classes; images: links in coco/images\n")
    assert good("data", "convert", str(folder), "--out", "coco") == out
    assert "holds something else" in bad("data", "convert", "shapes", "--out", "coco")
    left = good("data", "convert", str(folder), "--out", "left", "--leave")
    assert "images: named by their whole paths, where they are" in left
    assert not Path("left/images").exists()
    facts = json.loads(good("data", "convert", str(folder), "--out", "coco", "--json"))
    assert facts["splits"]["train"]["n_images"] == 40 and len(facts["notes"]) == 3


def test_what_was_written_may_be_written_anew_where_nobody_changed_it(tmp_path: Path) -> None:
    folder = to_yolo(read("shapes"), tmp_path / "yolo")
    convert, split = ("data", "convert", str(folder), "--out", "coco"), ("data", "split", str(folder), "--out", "parts")
    first = good(*convert), good(*split)
    (folder / "labels" / "train" / "train_00001.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for verb, out, before in ((convert, "coco", first[0]), (split, "parts", first[1])):
        assert "holds something else, made from other data" in (said := bad(*verb)) and "(--overwrite: it is" in said
        after = good(*verb, "--overwrite")
        assert after != before and good(*verb) == good(*verb, "--overwrite") == after
        annotations = Path(out, "annotations/instances_val.json")
        text = annotations.read_text()
        annotations.write_text(text + " ")
        assert f"{out} was changed since it was made (its annotations are not" in bad(*verb, "--overwrite")
        annotations.write_text(text)
        Path(out, "notes.txt").write_text("mine")
        assert "not written: notes.txt" in bad(*verb, "--overwrite") and Path(out, "notes.txt").exists()
        Path(out, "notes.txt").unlink()
        assert good(*verb) == after
    assert "has no SOURCE.txt" in bad("data", "convert", str(folder), "--out", "yolo", "--overwrite")
    assert "or remove it" in bad("data", "convert", str(folder), "--out", "shapes", "--overwrite")
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".old")]
    good("data", "toy-cls", "--out", "figures", "--images", "16", "8", "8")
    links = ("data", "split", "figures", "--out", "linked")
    good(*links)
    assert good(*links, "--seed", "1", "--overwrite") == good(*links, "--seed", "1") and "--overwrite" in bad(*links)


def test_split(tmp_path: Path) -> None:
    out = good("data", "split", "shapes", "--out", "parted", "--portion", ".5", ".3", ".2")
    assert "note: the splits that there were are divided together: train 40, val 16, test 4" in out
    assert out.endswith("parted: COCO, images are links\n")
    facts = json.loads(good("data", "check", "parted", "--json"))
    assert {name: split["images"] for name, split in facts["splits"].items()} == {"train": 30, "val": 18, "test": 12}
    assert (
        json.loads(good("data", "split", "shapes", "--out", "again", "--portion", ".5", ".3", ".2", "--json"))["digest"]
        == facts["digest"]
    )
    kept = good(
        "data", "split", "shapes", "--out", "kept", "--of", "train", "--of", "val", "--portion", ".7", ".3", "0"
    )
    assert "divided together: train 40, val 16" in kept
    grouped = good("data", "split", "shapes", "--out", "grouped", "--group", r"_0000\d", "--portion", ".6", ".4", "0")
    assert r"_0000\d matches 22 of 60 images" in grouped
    assert "must be 1 in all" in bad("data", "split", "shapes", "--out", "o", "--portion", ".5", ".3", ".1")
    good("data", "toy-cls", "--out", "figures", "--images", "16", "8", "8")
    assert good("data", "split", "figures", "--out", "parts").endswith("parts: class folders of links\n")
    assert "a classifier reads its class folders" in bad("data", "convert", "figures", "--out", "o")


def test_the_kind_of_toy_data_may_stand_behind_its_options() -> None:
    good("data", "--out", "other", "--images", "40", "16", "4", "--size", "48", "48", "toy-det")
    for split in ("train", "val", "test"):
        path = f"annotations/instances_{split}.json"
        assert Path("other", path).read_bytes() == Path("shapes", path).read_bytes()
    assert "did you mean toy-det" in bad("data", "toy-dett", "--out", "o")
