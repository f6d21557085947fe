"""search-nas predict with classifiers: from an extracted folder and from a checkpoint, as in evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support import nas
from tests.support.nas import good, lines, write

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = {
    "backbone.stem.width": {"start": 4, "end": 8, "step": 4},
    "backbone.body.width": [8, 8, 16, 16],
    "backbone.body.depth": [1, 1, 1, 1],
    "data.input_shape": {"choices": [[32, 40]]},
}


@pytest.mark.slow
def test_classes_are_told_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from searchkit.nas.data.toy_cls import make_toy_cls

    monkeypatch.chdir(tmp_path)
    make_toy_cls("data", images={"train": 64, "val": 24}, size=(48, 56))
    body = {
        "task": "cls",
        "model": {"backbone": "resnet", "backbone_options": {"block": "basic"}},
        "space": SPACE,
        "data": {split: {"path": f"data/{split}"} for split in ("train", "val")},
        "train": {"steps": 30, "batch_size": 16, "lr": 0.05, "lr_scaling": "none"},
        "test": {"calibration_images": 0},
    }
    config = write(tmp_path / "cfg.yaml", body)
    path = nas.train(config, tmp_path / "work")
    good("extract", config, "--checkpoint", path, "--arch", "MAX", "--out", "model")
    folders = sorted(str(p) for p in Path("data/val").iterdir())
    found = json.loads(good("predict", "model", *folders, "--out", "shown", "--json"))
    assert len(found) == 24 and len({item["picture"] for item in found}) == 24
    names = [Path(folder).name for folder in folders]
    for item in found:
        chances = [c["probability"] for c in item["classes"]]
        assert len(chances) == 5 and chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.0005
        assert {c["name"] for c in item["classes"]} <= set(names)
        with Image.open(item["picture"]) as picture:
            assert picture.size == (560, 480)  # ten times the image, so that text fits
    # the guesses are those of the evaluation
    good("test", config, "--checkpoint", path, "--arch", "MAX", "--out", "t.jsonl")
    right = [Path(item["image"]).parent.name == item["classes"][0]["name"] for item in found]
    score = lines("t.jsonl")[0]["metric"]["direct"]
    assert sum(right) / 24 == pytest.approx(score["top1"], abs=1e-6) and 0 < score["top1"] < 1
    among = [Path(item["image"]).parent.name in [c["name"] for c in item["classes"]] for item in found]
    assert sum(among) / 24 == pytest.approx(score["top5"], abs=1e-6)
    # a checkpoint says the same as the folder
    first = found[0]["image"]
    (other,) = json.loads(good("predict", path, "--config", config, first, "--out", "more", "--json"))
    assert other["classes"] == found[0]["classes"]
    out = good("predict", "model", first, "--out", "more")
    best = found[0]["classes"][0]
    assert f"{best['name']} {best['probability']:.2f}, " in out
