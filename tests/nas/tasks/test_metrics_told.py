"""What an evaluation knows is told: notes, single classes, own areas, detections; and what has no value is refused."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError
from searchkit.nas.subnet import search
from searchkit.nas.tasks import read as config
from searchkit.nas.train.values import text_of
from tests.support import cls, nas
from tests.support.nas import Trained, bad, call, good, lines, write

pytestmark = pytest.mark.usefixtures("one_thread")


def changed(trained: Trained, folder: Path, **test: Any) -> dict[str, Any]:
    """The trained config with more in its test section, and a copy of its validation file to be changed."""
    body: dict[str, Any] = json.loads(Path(trained.config).read_text())
    body["test"] |= test
    raw = json.loads(Path(body["data"]["val"]["annotations"]).read_text())
    body["data"]["val"]["annotations"] = write(folder / "val.json", raw)
    return body


def test_classes_areas_and_detections(trained: Trained, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    body = changed(trained, tmp_path, areas={"tiny": [0, 200], "rest": [200, 5000]})
    path, source = write(tmp_path / "cfg.yaml", body), body["data"]["val"]["annotations"]
    command = ("test", path, "--checkpoint", trained.checkpoint, "--device", "cpu", "--out", tmp_path / "o.jsonl")
    done = call(*command, "--arch", "MAX", "--per-class", "--detections", tmp_path / "found.json")
    assert done.code == 0, done.err
    assert "toy_bbox_AP/…" in done.out and all(name in done.out for name in ("circle", "square", "triangle"))
    assert f"{tmp_path / 'found.json'}: " in done.err
    (record,) = lines(tmp_path / "o.jsonl")
    found = record["metric"]["direct"]
    each = [found[f"toy_bbox_AP/{name}"] for name in ("circle", "square", "triangle")]
    assert found["toy_bbox_mAP"] == pytest.approx(sum(each) / 3, abs=2e-6) and max(each) > 0
    assert {"toy_bbox_AR", "toy_bbox_AR_1", "toy_bbox_mAP_tiny", "toy_bbox_AR_rest"} <= found.keys()
    assert record["protocol"]["direct"]["areas"] == body["test"]["areas"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(source)
        run = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR_1", "AR_10", "AR", "AR_s", "AR_m", "AR_l")
    assert [found[f"toy_bbox_{name}"] for name in names] == pytest.approx([round(float(v), 6) for v in run.stats])
    # what is measured is written again, and not measured twice; several subnets have a file each
    kept = (tmp_path / "found.json").read_bytes()
    done = call(*command, "--arch", "MAX", "--arch", "MIN", "--per-class", "--detections", tmp_path / "each.json")
    said = re.findall(r"each-(\S+)-48\.json: \d+ detections of (\S+)", done.err)
    assert done.code == 0 and len({file for file, _ in said}) == 2 and [name for _, name in said] == ["MAX", "MIN"]
    assert len(lines(tmp_path / "o.jsonl")) == 2
    files = sorted(tmp_path.glob("each-*.json"))
    assert len(files) == 2 and kept in [file.read_bytes() for file in files]
    # its extraction is scored so, too
    more = ("--arch", tmp_path / "o.jsonl", "--out", tmp_path / "m", "--device", "cpu", "--json")
    proof = json.loads(good("extract", trained.config, "--checkpoint", trained.checkpoint, *more, *val(source)))
    assert proof["score"]["equal"] and "toy_bbox_AP/circle" in proof["score"]["measured"]


def test_scores_of_one_subnet_are_told_apart(trained: Trained, tmp_path: Path) -> None:
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--out", tmp_path / "o.jsonl")
    plain = ("--device", "cpu", "--arch", "MAX", "--arch", "MIN")
    assert "measured with" not in good(*command, *plain)
    table = good(*command, "--device", "cpu", "--arch", "MAX", "--set", "test.max_dets=2").splitlines()
    assert table[0].endswith("measured with")
    assert sorted(row.split("  ")[-1] for row in table if row.startswith("MAX")) == [
        "max_dets 2",
        "max_dets default",
    ]
    again = call(*command, *plain)
    assert "2 of 2 have their result in" in again.err
    assert "already (of data, annotations are compared, pixels are not)" in again.err


def val(source: str) -> tuple[str, str]:
    return ("--set", f"data.val.annotations={source}")


def test_notes_are_told_and_kept(trained: Trained, tmp_path: Path) -> None:
    body = changed(trained, tmp_path, max_dets=2)
    path = write(tmp_path / "cfg.yaml", body)
    raw = json.loads(Path(body["data"]["val"]["annotations"]).read_text())
    first = raw["annotations"][0]
    raw["annotations"] += [first | {"id": 1000 + i} for i in range(3)]
    write(Path(body["data"]["val"]["annotations"]), raw)
    note = "an image has 4 boxes of one class: AP 1 is out of reach, 2 detections count (test.max_dets)"
    done = call("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    assert done.code == 0 and done.err.count("AP 1 is out of reach") == 1
    (record,) = lines(tmp_path / "o.jsonl")
    assert "AP 1 is out of reach" in record["notes"]["direct"][0] and record["protocol"]["direct"]["max_dets"] == 2
    assert note.partition(" has ")[0] in done.err
    done = call("train", path, "--work-dir", tmp_path / "w", "--set", "train.steps=1")
    assert done.code == 0 and done.err.count("AP 1 is out of reach") == 1


def test_classes_of_a_classifier(toy_cls: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "basic", train={"steps": 2, "best_metric": "top1/ring"}))
    weights = nas.train(path, tmp_path / "work")
    command = ("test", path, "--checkpoint", weights, "--arch", "MIN", "--device", "cpu", "--out", tmp_path / "o.jsonl")
    out = good(*command, "--per-class")
    (record,) = lines(tmp_path / "o.jsonl")
    each = [record["metric"]["direct"][f"top1/{name}"] for name in cls.CLASSES]
    assert sum(each) / len(each) == pytest.approx(record["metric"]["direct"]["top1"], abs=1e-5) and "top1/…" in out
    assert "--detections is of task det" in bad(*command, "--detections", tmp_path / "d.json")
    said = bad(*command, "--set", "test.max_dets=5")
    assert "test.max_dets: is of task det, but the task is cls" in said


def test_objectives_without_a_value_are_refused(trained: Trained, tmp_path: Path) -> None:
    body = changed(trained, tmp_path, areas={"vast": [4000, 5000]})
    names = {c["name"]: c["id"] for c in json.loads(Path(body["data"]["val"]["annotations"]).read_text())["categories"]}
    raw = json.loads(Path(body["data"]["val"]["annotations"]).read_text())
    raw["annotations"] = [a for a in raw["annotations"] if a["area"] < 600 and a["category_id"] != names["square"]]
    write(Path(body["data"]["val"]["annotations"]), raw)
    path = write(tmp_path / "cfg.yaml", body)
    command = ("search", path, "--checkpoint", trained.checkpoint, "--work-dir", tmp_path / "s", "--objective")
    for objective, why in (
        ("bbox_mAP_m", "no object has an area of 1024 to 9216 px^2"),
        ("bbox_AR_l", "no object has an area of 9216 px^2 or more"),
        ("bbox_mAP_vast", "no object has an area of 4000 to 5000 px^2"),
        ("metric.direct.toy_bbox_mAP_m", "no object has an area of 1024 to 9216 px^2"),
        ("bbox_AP/square", "there is no object of class square"),
    ):
        said = bad(*command, objective)
        assert f"--objective {objective} has no value on data.val: {why}" in said
        assert "With a value: bbox_mAP, bbox_mAP_50" in said and "bbox_AP/circle" in said
    assert "did you mean circle" in bad(*command, "bbox_AP/circel")
    assert "(classes: circle, square, triangle)" in bad(*command, "bbox_AP/moon")
    assert not (tmp_path / "s").exists()
    train = ("train", path, "--work-dir", tmp_path / "w", "--set")
    assert "train.best_metric bbox_mAP_m has no value: no object" in bad(*train, "train.best_metric=bbox_mAP_m")
    said = bad(*train, "train.best_metric=bbox_mAP_x")
    assert "train.best_metric: must be one of bbox_mAP, " in said and "bbox_AP/<class>" in said
    # of images without any object nothing ranks; their detections may still be asked for
    write(Path(body["data"]["val"]["annotations"]), raw | {"annotations": []})
    test = ("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    assert "the metric bbox_mAP has no value: there is no object at all" in bad(*test)
    assert "bbox_mAP has no value on data.val" in bad(*command, "bbox_mAP")
    good(*test, "--detections", tmp_path / "found.json")
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), list)


@pytest.mark.slow
def test_a_class_and_an_area_are_searched_for(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    body = changed(trained, tmp_path, areas={"part": [0, 300]})
    path = write(tmp_path / "cfg.yaml", body)
    names = ("bbox_AP/circle", "bbox_mAP_part:max", "bbox_AR")
    wanted = [word for name in names for word in ("--objective", name)]
    argv = ("search", path, "--checkpoint", trained.checkpoint, "--algorithm", "random", "--evaluations", "2")
    shown = json.loads(good(*argv, *wanted, "--device", "cpu", "--json"))
    assert shown["objectives"] == [{"name": n.removesuffix(":max"), "mode": "max"} for n in names]
    for record in lines("search/results.jsonl"):
        values = [search.value_of(record, name.removesuffix(":max"), "direct") for name in names]
        assert all(0 <= value <= 1 for value in values), values


def test_later_keys_leave_the_digests_of_older_searches_alone(trained: Trained) -> None:
    old = "Test(split='val', calibration_images=6, batch_size=4, raw=False)"
    assert text_of(trained.recipe.test) == old
    assert text_of(trained.recipe.model) == repr(trained.recipe.model)
    later = ", slope=Slope(least=1, most=inf, first=0, last=None), deepest=()"
    assert later in repr(trained.recipe.space)
    assert text_of(trained.recipe.space) == repr(trained.recipe.space).replace(later, "")
    text = repr(trained.recipe.finetune)
    for later in (
        "backbone_lr=None",
        "neck_lr=None",
        "head_lr=None",
        "restart_epochs=None",
        "restart_mult=1.0",
        "distill=None",
    ):
        assert f", {later}" in text
        text = text.replace(f", {later}", "")
    assert text_of(trained.recipe.finetune) == text
    other = config.load(trained.config, ["test.max_dets=50"])
    assert search.digests(other, False)["test"] != search.digests(trained.recipe, False)["test"]
    more = ["test.max_dets=300"]
    with pytest.raises(ConfigError, match=r"model\.detections_per_image, 100, of them"):
        config.load(trained.config, more)
    assert config.load(trained.config, [*more, "model.detections_per_image=300"]).test.max_dets == 300
    for wrong in ("{s: [0, 5]}", "{a: [5, 0]}", "{a: 5}", "{a b: [0, 5]}", "[1]"):
        with pytest.raises(ConfigError, match="areas"):
            config.load(trained.config, [f"test.areas={wrong}"])
