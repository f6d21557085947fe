"""The recipes `yolov3`: those of the reference's size are whole, and cost what they do there; the small one trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from searchkit.nas.cost.price import price_net
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.suite.cli.templates import copy_template, template_root
from tests.support import nas
from tests.support.nas import good, lines

DET = Path(template_root(), "det")


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [("mobilenetv2_320", 1_604_700_800, 3_325_533), ("d53_416", 32_932_037_632, 61_949_149)],
)
def test_the_references_size(name: str, macs: int, params: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    recipe = config.load(str(DET / f"yolov3_{name}.yaml"))
    ((shape),) = recipe.scales
    cost = price_net(replace(recipe.model, num_classes=80), recipe.space.maximum(), shape)
    assert (cost.flops, cost.params) == (macs, params)


def test_factor_transfer_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the student's network and training what differs from those without a teacher is the teacher alone."""
    monkeypatch.setenv("DATA", "/nowhere")
    alone, taught = (config.load(str(DET / f"{name}yolov3_mobilenetv2_320.yaml")) for name in ("", "kd_"))
    assert taught.model == alone.model and taught.data == alone.data
    assert replace(taught.train, distill=None, pretrain=None) == alone.train
    distill, phase = taught.train.distill, taught.train.pretrain
    assert distill is not None and phase is not None and not distill.score_jobs and distill.pretrained == (0,)
    (mimic,) = distill.mimic
    assert (mimic.student, mimic.loss, mimic.weight) == ("backbone.yolo.detect3.conv5.conv", "ft", 10)
    assert mimic.paraphraser is not None and mimic.paraphraser.channels == 128


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_factor_transfer_runs_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of kd_yolov3.yaml, in a small size: the student takes the connectors of the stage before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", str(nas.make_toy(tmp_path)))
    monkeypatch.setenv("TEACHER", str(tmp_path / "teacher" / "latest.pth"))
    copy_template("det", str(tmp_path))
    teacher, student = (f"kd_yolov3_{name}_small.yaml" for name in ("teacher", "student"))
    less = ("--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "train.eval_archs=[]")
    pretrain = (*less, "--set", "train.pretrain.steps=2", "--set", "train.pretrain.batch_size=2")
    good("train", teacher, "--work-dir", "teacher", *less)
    good("train", student, "--work-dir", "connectors", "--phase", "pretrain", *pretrain)
    taken = ("--set", "train.distill.connectors=connectors/connectors.pth")
    good("train", student, "--work-dir", "student", *pretrain, *taken)
    first, last = (checkpoint.load(file).extras for file in ("connectors/connectors.pth", "student/latest.pth"))
    assert first and nas.equal(first, {k: v for k, v in last.items() if k.startswith("paraphraser")})
    good("test", student, "--checkpoint", "student/latest.pth", "--arch", "MAX", "--raw", "--out", "tested.jsonl")
    assert len(lines(tmp_path / "tested.jsonl")) == 1


@pytest.mark.slow
def test_the_students_size_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own widths and depths, on small images."""
    monkeypatch.setenv("DATA", str(nas.make_toy(tmp_path)))
    fast = ("data.workers=0", "train.batch_size=2", "train.steps=2", "train.eval_archs=[]")
    nas.train(str(DET / "yolov3_mobilenetv2_320.yaml"), tmp_path / "work", *fast, "space.data.input_shape=64")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_one_runs_from_data_to_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(tmp_path / "digits"))
    path, work, model = DET / "yolov3_small.yaml", tmp_path / "work", tmp_path / "model"
    good("data", "digits-det", "--out", tmp_path / "digits", "--images", "12", "4", "4")
    good("train", path, "--work-dir", work, "--set", "train.steps=2", "--set", "train.eval_archs=[MIN]")
    common = (path, "--checkpoint", work / "latest.pth", "--set", "test.calibration_images=8")
    good("test", *common, "--arch", "MIN", "--out", tmp_path / "tested.jsonl")
    (record,) = lines(tmp_path / "tested.jsonl")
    assert record["arch"]["neck"] == {"hidden": [32, 32, 32]} and record["arch"]["head"] == {"width": 16}
    out = good("extract", *common, "--arch", tmp_path / "tested.jsonl", "--out", model)
    assert "equal bit for bit to the source" in out
    assert "detect3.conv5.conv" in good("modules", path)
