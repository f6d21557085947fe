"""The recipes `ssd_ofa`: the small one goes through all verbs, those of the reference's size are whole and train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from searchkit.nas.cost.price import price_net
from searchkit.nas.tasks import read as config
from searchkit.suite.cli.templates import template_root
from tests.support import nas

DET = Path(template_root(), "det")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nas.make_toy(tmp_path_factory.mktemp("toy"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "macs"), [("mbv3", 1_120_326_368), ("mbv2", 956_049_200)])
def test_the_references_size(name: str, macs: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(data))
    path = str(DET / f"ssd_ofa_{name}.yaml")
    recipe = config.load(path)
    assert price_net(replace(recipe.model, num_classes=20), recipe.space.maximum(), 300).flops == macs
    fast = ("data.workers=0", "train.batch_size=2", "train.steps=2", "train.eval_archs=[]")
    schedules = [
        f"space.{key}.schedule=" for key in ("backbone.body.kernel", "backbone.body.expand", "backbone.body.depth")
    ]
    nas.train(path, tmp_path, *fast, *schedules)


@pytest.mark.slow
def test_the_small_one_goes_through_all_verbs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATA", str(data))
    monkeypatch.chdir(tmp_path)  # for the folder of what is tuned
    body = yaml.safe_load((DET / "ssd_ofa_small.yaml").read_text())
    body["train"].update(steps=2, eval_archs=["MIN"], batch_size=4)
    body["test"]["calibration_images"] = 5  # in batches of 4 the last one would be a single image
    body["test"]["batch_size"] = 4
    body["finetune"].update(steps=1, batch_size=4)
    for dim in body["space"].values():
        if isinstance(dim, dict):
            dim.pop("schedule", None)
    path, work = nas.write(tmp_path / "small.yaml", body), tmp_path / "work"
    assert nas.call("train", path, "--work-dir", work, "--device", "cpu").code == 0
    common = (path, "--checkpoint", work / "latest.pth", "--device", "cpu")
    tested = nas.call("test", *common, "--arch", "MIN", "--out", tmp_path / "tested.jsonl")
    assert tested.code == 0, tested.err
    assert "4 are taken, since in batches of 4 the last one would be a single image" in caplog.text
    tuned = nas.call("finetune", *common, "--archs", tmp_path / "tested.jsonl", "--out", tmp_path / "tuned.jsonl")
    assert tuned.code == 0, tuned.err
    found = nas.call(
        "search", *common, "--work-dir", tmp_path / "search", "--evaluations", "2", "--constraint", "macs <= 20M"
    )
    assert found.code == 0, found.err
    best = json.loads((tmp_path / "search" / "best.jsonl").read_text())
    assert {"kernel", "width"} == {*best["arch"]["neck"]} and {*best["arch"]["head"]} == {"kernel"}
    out = tmp_path / "model"
    extracted = nas.call(
        "extract", *common, "--arch", tmp_path / "search" / "best.jsonl", "--out", out, "--export", "torch"
    )
    assert extracted.code == 0, extracted.err
    proof = json.loads((out / "proof.json").read_text())
    assert proof["equal"]["bit_equal"]
    drawn = nas.call("predict", out, data / "images", "--limit", "1", "--out", tmp_path / "boxes", "--device", "cpu")
    assert drawn.code == 0, drawn.err


@pytest.mark.slow
def test_images_that_teach_nothing_are_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the loss drops them: RetinaNet's learns from images without boxes, too."""
    monkeypatch.setenv("DATA", str(tmp_path))
    for part in ("images", "annotations"):
        (tmp_path / part).symlink_to(data / part) if part == "images" else (tmp_path / part).mkdir()
    for split in ("train", "val"):
        file = f"annotations/instances_{split}.json"
        found = json.loads((data / file).read_text())
        empty = found["images"][0]["id"] if split == "train" else None
        found["annotations"] = [each for each in found["annotations"] if each["image_id"] != empty]
        (tmp_path / file).write_text(json.dumps(found))
    path = str(DET / "ssd_ofa_small.yaml")
    schedules = [f"space.backbone.body.{name}.schedule=" for name in ("kernel", "expand", "depth")]
    fast = ("data.held_out=0", "train.steps=1", "train.batch_size=2", "train.eval_archs=[]", *schedules)
    said: list[str] = []
    for options in ((), ("model.head_options.class_loss=focal", "model.head_options.normalizer=image")):
        watch = nas.Watch(said.append, lambda _: None, lambda *_: None)
        nas.train(path, tmp_path / f"work{len(options)}", *fast, *options, watch=watch)
    assert said.count("1 of 12 images have no boxes: this head learns nothing from them") == 1
