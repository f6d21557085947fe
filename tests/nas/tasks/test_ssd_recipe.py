"""The recipes `ssd_ofa`: those of the reference's size are whole and train. The small one's flow is in
test_det_template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
