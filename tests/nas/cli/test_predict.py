"""search-nas predict on the command line: what it reads, where it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from searchkit.nas.cli.predict import _files, _not_ours, _target
from searchkit.nas.data.label_files import ENDINGS
from tests.support import nas
from tests.support.nas import Trained, bad, good

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extracted detector; nobody writes to it."""
    out = tmp_path_factory.mktemp("extracted") / "model"
    good("extract", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", out)
    return out


@pytest.fixture
def mine(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three images, in the current folder."""
    (tmp_path / "mine").mkdir()
    for name in ("a", "b"):
        shutil.copy(trained.data / "images" / "val_00001.png", tmp_path / "mine" / f"{name}.png")
    with Image.open(tmp_path / "mine" / "a.png") as image:
        image.save(tmp_path / "mine" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pictures(*argv: str | Path) -> list[str]:
    return [item["picture"] for item in json.loads(good("predict", *argv, "--json"))]


# ---- where it writes ----


@pytest.mark.slow
def test_no_image_is_written_over(model: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(mine)
    assert pictures(model, "mine", "--out", "mine") == ["mine/a-2.png", "mine/a-3.png", "mine/b-2.png"]
    assert {name: content for name, content in contents(mine).items() if name in before} == before
    monkeypatch.chdir(mine)
    assert pictures(model, "b.png", "--out", ".") == ["./b-3.png"]
    assert {name: content for name, content in contents(mine).items() if name in before} == before


def test_images_beside_the_named_ones_are_kept(model: Path, mine: Path) -> None:
    before = contents(mine)
    assert pictures(model, "mine", "--limit", "1", "--out", "mine") == ["mine/a-2.png"]  # of a.jpg
    assert pictures(model, "mine/a.jpg", "--out", "mine/../mine") == ["mine/../mine/a-3.png"]
    assert {name: content for name, content in contents(mine).items() if name in before} == before


def test_links_do_not_hide_an_image(mine: Path) -> None:
    Path("linked").symlink_to(mine)
    Path("shown").mkdir()
    Path("shown/b.png").symlink_to(mine / "b.png")
    assert _target("linked", "mine/b.png", _not_ours(["mine/b.png"], "linked")) == "linked/b-2.png"
    assert _target("shown", "mine/b.png", _not_ours(["mine/b.png"], "shown")) == "shown/b-2.png"
    assert _target("mine", "linked/b.png", _not_ours(["linked/b.png"], "mine")) == "mine/b-2.png"


def test_pictures_of_before_are_written_over(model: Path, mine: Path) -> None:
    for _ in range(2):
        assert pictures(model, "mine", "--out", "shown") == ["shown/a.png", "shown/a-2.png", "shown/b.png"]


# ---- what it reads ----


def test_json_fails_too_where_nothing_can_be_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    for more in ((), ("--json",)):
        done = nas.call("predict", model, tmp_path / "zero.jpg", tmp_path / "text.jpg", "--out", tmp_path / "o", *more)
        assert done.code == 2 and "no image could be read" in done.err
        error = json.loads(done.out)["error"] if more else done.out
        assert error == ({"kind": "usage", "message": "no image could be read", "hint": "", "exit": 2} if more else "")


def test_images_are_those_of_training(tmp_path: Path) -> None:
    names = sorted(f"{i}{ending.upper() if i % 2 else ending}" for i, ending in enumerate(ENDINGS))
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    assert {".tif", ".tiff", ".ppm", ".pgm"} < set(ENDINGS)
    assert _files((str(tmp_path),), None) == [str(tmp_path / name) for name in names]


def test_of_class_folders_it_says_what_to_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits/test/7").mkdir(parents=True)
    Path("digits/SOURCE.txt").touch()
    for folder in ("digits/test", "digits"):
        said = bad("predict", model, folder, "--out", "o")
        assert f"no images in {folder}" in said and f"{folder}/*" in said and "must end in" not in said
    Path("empty/.git").mkdir(parents=True)
    assert "must end in .jpg" in bad("predict", model, "empty", "--out", "o")


# ---- --set ----


def test_a_checkpoint_of_a_changed_config(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = {"arch": trained.recipe.space.named("MIN").nested(), "data": {"input_shape": 48}}
    Path("best.jsonl").write_text(json.dumps(found) + "\n")
    changes = ("subnet=best.jsonl", "train.policy=fixed", "train.steps=1", "model.fpn_channels=8")
    sets = [word for change in changes for word in ("--set", change)]
    good("train", trained.config, "--work-dir", "work", *sets)
    argv = ("work/latest.pth", trained.data / "images" / "val_00001.png", "--config", trained.config, "--out", "o")
    assert pictures(*argv, *sets) == ["o/val_00001.png"]
    bad("predict", *argv)  # without them it is another net


def test_set_needs_a_config(model: Path, trained: Trained, tmp_path: Path) -> None:
    argv = (trained.data / "images" / "val_00001.png", "--out", tmp_path / "o", "--set", "train.steps=1")
    assert "--set go with a checkpoint and its config" in bad("predict", model, *argv)
    assert "its config is needed" in bad("predict", trained.checkpoint, *argv)
