"""Scores equal those of pycocotools on the file itself, whichever package computes them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.data import toy
from searchkit.nas.data.coco import CocoSet, load_coco, matched
from searchkit.nas.data.coco_eval import Evaluator, as_results, evaluate
from searchkit.nas.data.metrics import metric_names

METRICS = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l")
BACKENDS = [
    "pycocotools",
    pytest.param(
        "faster",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed"
        ),
    ),
]


def crowded(folder: Path, seed: int = 0, n_images: int = 25) -> CocoSet:
    """A set with everything that scoring treats apart: crowds, areas that are not width x height, boxes beyond their
    image, outside of it or without size, decimals, images without boxes, a category without boxes (30), ids with gaps
    and in no order, one image with more than 100 boxes of a class. The image files are empty: scoring opens none."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in rng.permutation(n_images):
        number = int(i) * 3 + 5
        images.append({"id": number, "file_name": f"{number}.png", "width": 640, "height": 480})
        (folder / f"{number}.png").touch()
        for _ in range(130 if i == 1 else int(rng.integers(0, 12))):
            w, h = np.exp(rng.uniform(1.5, 5.5, 2)).round(2)
            x, y = (rng.uniform(-10, [630, 470])).round(2)
            row = {
                "image_id": number,
                "category_id": 11 if i == 1 else int(rng.choice([3, 11, 20])),
                "bbox": [x, y, w, h],
            }
            if rng.random() < 0.03:
                row["bbox"] = [x, y, *rng.choice([0, -w, 0.0]) * np.ones(2)]  # nobody can find it
            row |= {"area": round(w * h * rng.uniform(0.5, 1), 3), "iscrowd": int(rng.random() < 0.1)}
            annotations.append(row | {"id": len(annotations) + 1})
    categories = [{"id": number, "name": f"c{number}"} for number in (20, 3, 30, 11)]
    path = folder / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return load_coco(str(path), str(folder))


def guesses(data: CocoSet, seed: int = 0) -> dict[int, dict[str, torch.Tensor]]:
    """Detections around the truth, and noise; many share their score. float32, as a detector gives them."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in data.images:
        if rng.random() < 0.1:
            continue
        some = rng.random(len(image.boxes)) < 0.8
        noise = rng.uniform(0, 400, (int(rng.integers(0, 10)), 4))
        noise[:, 2:] = noise[:, :2] + rng.uniform(1, 200, noise[:, 2:].shape)
        boxes = np.concatenate([image.boxes[some] + rng.normal(0, 3, (int(some.sum()), 4)), image.boxes[:3], noise])
        labels = np.concatenate(
            [image.labels[some], image.labels[:3], rng.integers(1, len(data.names) + 1, len(noise))]
        )
        found[image.id] = {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
            "scores": torch.tensor(rng.uniform(0, 1, len(boxes)).round(1), dtype=torch.float32),
        }
    return found


def plainly(data: CocoSet, predictions: dict[int, dict[str, torch.Tensor]]) -> list[dict[str, Any]]:
    """Predictions as a list of COCO's results."""
    results = []
    for number, prediction in predictions.items():
        parts = (prediction[key].double().tolist() for key in ("boxes", "labels", "scores"))
        for (x0, y0, x1, y1), label, score in zip(*parts, strict=True):
            category = data.categories[int(label) - 1][0]
            bbox = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": number, "category_id": category, "bbox": bbox, "score": score})
    return results


def judged(source: str, results: Any, max_dets: int = 100, areas: dict[str, list[float]] | None = None) -> Any:
    """An evaluation by pycocotools of an annotation file and results (a list, or a file), as its users do it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(source)
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.params.maxDets = [1, 10, max_dets]
        for name, span in (areas or {}).items():
            run.params.areaRngLbl.append(name)
            run.params.areaRng.append(span)
        run.evaluate()
        run.accumulate()
        if max_dets == 100:  # its summary is of these
            run.summarize()
    return run


def official(data: CocoSet, predictions: dict[int, dict[str, torch.Tensor]], numbers: int = 6) -> list[float]:
    """The first numbers of pycocotools, fed with the annotation file and a list of results, as its users do."""
    return [float(value) for value in judged(data.source, plainly(data, predictions)).stats[:numbers]]


def truth_of(data: CocoSet) -> dict[int, dict[str, Any]]:
    return {
        image.id: {"boxes": image.boxes, "labels": image.labels, "scores": np.ones(len(image.labels))}
        for image in data.images
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pycocotools_on_the_file(tmp_path: Path, backend: str, seed: int) -> None:
    data = crowded(tmp_path, seed)
    predictions = guesses(data, seed)
    found = evaluate(data, predictions, backend)
    wanted = official(data, predictions)
    assert 0.1 < wanted[0] < 0.9
    assert [found[name] for name in METRICS] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes(tmp_path: Path, backend: str) -> None:
    """One class alone scores what it scores among others; a class without truth has no score, and no part in means."""
    data = crowded(tmp_path)
    predictions = guesses(data)
    found = evaluate(data, predictions, backend)
    assert list(found["per_class"]) == ["c3", "c11", "c20", "c30"]
    assert found["per_class"]["c30"] == -1
    counted = [value for value in found["per_class"].values() if value >= 0]
    assert found["bbox_mAP"] == pytest.approx(sum(counted) / 3, abs=1e-12)
    alone = load_coco(data.source, str(tmp_path), classes=["c11"])
    theirs = {
        number: {key: value[prediction["labels"] == 2] for key, value in prediction.items()} | {"labels": ones}
        for number, prediction in predictions.items()
        for ones in [torch.ones(int((prediction["labels"] == 2).sum()))]
    }
    assert evaluate(alone, theirs, backend)["bbox_mAP"] == pytest.approx(found["per_class"]["c11"], abs=1e-12)


def test_both_packages_agree(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    folder = data_dir / "bccd"
    data = load_coco(str(folder / "annotations" / "instances_val.json"), str(folder / "images"))
    for seed in range(3):
        predictions = guesses(data, seed)
        a, b = (evaluate(data, predictions, backend) for backend in ("pycocotools", "faster"))
        assert [a[name] for name in METRICS] == pytest.approx([b[name] for name in METRICS], abs=1e-12)
        assert a["per_class"] == pytest.approx(b["per_class"], abs=1e-12)
        assert a["bbox_mAP"] > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_truth_scores_one(tmp_path: Path, backend: str) -> None:
    toy.make_toy_det(str(tmp_path / "set"), images={"train": 10})
    data = load_coco(str(tmp_path / "set" / "annotations" / "instances_train.json"), str(tmp_path / "set" / "images"))
    found = evaluate(data, truth_of(data), backend)
    assert found["bbox_mAP"] == found["bbox_mAP_50"] == found["bbox_mAP_75"] == 1
    assert found["per_class"] == {"circle": 1, "square": 1, "triangle": 1}
    assert found["bbox_mAP_l"] == -1  # no shape is that large
    assert found["notes"] == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_truth_of_bccd_scores_one(data_dir: Path, backend: str, split: str) -> None:
    folder = data_dir / "bccd"
    data = load_coco(str(folder / "annotations" / f"instances_{split}.json"), str(folder / "images"))
    found = evaluate(data, truth_of(data), backend)
    assert found["bbox_mAP"] == found["bbox_mAP_50"] == found["bbox_mAP_75"] == 1
    # Nearly equal boxes on both sides of a limit between two sizes may find each other's truth.
    assert all(found[name] > 0.9999 for name in METRICS)
    assert set(found["per_class"].values()) == {1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_scores_zero(tmp_path: Path, backend: str) -> None:
    data = crowded(tmp_path)
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    bare: dict[str, list[Any]] = {"boxes": [], "scores": [], "labels": []}
    for predictions in ({}, {data.images[0].id: nothing}, {data.images[0].id: bare}):
        found = evaluate(data, predictions, backend)
        assert {found[name] for name in METRICS} == {0.0}
        assert set(found["per_class"].values()) == {0.0, -1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_set_without_boxes_has_no_score(tmp_path: Path, backend: str) -> None:
    raw = json.loads(Path(crowded(tmp_path).source).read_text())
    (tmp_path / "b.json").write_text(json.dumps(raw | {"annotations": []}))
    data = load_coco(str(tmp_path / "b.json"), str(tmp_path))
    found = evaluate(data, {data.images[0].id: {"boxes": [[1, 2, 30, 40]], "scores": [0.5], "labels": [1]}}, backend)
    assert {found[name] for name in METRICS} == {-1.0}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_evaluator_scores_any_number_of_models_in_silence(
    tmp_path: Path, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = crowded(tmp_path)
    models = [guesses(data, seed) for seed in range(3)]
    copies = [{i: {k: v.clone() for k, v in p.items()} for i, p in model.items()} for model in models]
    evaluator = Evaluator(data, backend)
    first = [evaluator.evaluate(model) for model in models]
    again = [evaluator.evaluate(model) for model in reversed(models)][::-1]
    assert first == again == [evaluate(data, model, backend) for model in models]
    assert len({result["bbox_mAP"] for result in first}) == 3
    for model, copy in zip(models, copies, strict=True):
        assert all(torch.equal(model[i][key], copy[i][key]) for i in copy for key in copy[i])
    assert capfd.readouterr() == ("", "")
    json.dumps(first)


def test_tensors_arrays_and_lists_score_the_same(tmp_path: Path) -> None:
    data = crowded(tmp_path)
    predictions = guesses(data)
    arrays = {i: {key: value.numpy() for key, value in p.items()} for i, p in predictions.items()}
    lists = {i: {key: value.tolist() for key, value in p.items()} for i, p in predictions.items()}
    evaluator = Evaluator(data)
    assert evaluator.evaluate(arrays) == evaluator.evaluate(lists) == evaluator.evaluate(predictions)


@pytest.mark.parametrize("backend", BACKENDS)
def test_detections_that_are_not_finite_are_left_out_and_counted(tmp_path: Path, backend: str) -> None:
    data = crowded(tmp_path)
    predictions = guesses(data)
    wanted = evaluate(data, predictions, backend)
    number = next(iter(predictions))
    odd = {
        "boxes": torch.tensor([[0, 0, float("nan"), 5], [0, 0, 5, float("inf")], [0, 0, 5, 5]]),
        "scores": torch.tensor([0.9, 0.9, float("nan")]),
        "labels": torch.tensor([1, 1, 1]),
    }
    predictions[number] = {key: torch.cat([odd[key], predictions[number][key]]) for key in odd}
    found = evaluate(data, predictions, backend)
    assert "3 detections" in found["notes"][-1]
    assert found | {"notes": []} == wanted | {"notes": []}


RECALLS = ("bbox_AR_1", "bbox_AR_10", "bbox_AR", "bbox_AR_s", "bbox_AR_m", "bbox_AR_l")


@pytest.mark.parametrize("backend", BACKENDS)
def test_recalls_are_those_of_pycocotools(tmp_path: Path, backend: str) -> None:
    data = crowded(tmp_path)
    predictions = guesses(data)
    found = evaluate(data, predictions, backend)
    assert [found[name] for name in (*METRICS, *RECALLS)] == pytest.approx(official(data, predictions, 12), abs=1e-12)
    assert set(metric_names()) == {*METRICS, *RECALLS} == {k for k, v in found.items() if isinstance(v, float)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_own_areas_and_more_detections_are_those_of_pycocotools(tmp_path: Path, backend: str) -> None:
    data = crowded(tmp_path)
    predictions = truth_of(data)
    areas = {"tiny": [0.0, 300.0], "wide": [300.0, 1e9]}
    found = Evaluator(data, backend, max_dets=200, areas=areas).evaluate(predictions)
    tensors = {n: {k: torch.as_tensor(v) for k, v in p.items()} for n, p in predictions.items()}
    run = judged(data.source, plainly(data, tensors), 200, areas)
    precision, recall = run.eval["precision"][..., -1], run.eval["recall"][..., -1]
    for name in areas:
        k = run.params.areaRngLbl.index(name)
        for metric, table in ((f"bbox_mAP_{name}", precision[..., k]), (f"bbox_AR_{name}", recall[..., k])):
            assert found[metric] == pytest.approx(table[table > -1].mean(), abs=1e-12) and 0 < found[metric] <= 1
    assert found["notes"] == [] and found["bbox_AR"] > evaluate(data, predictions, backend)["bbox_AR"]
    few = Evaluator(data, backend, max_dets=5).evaluate(predictions)
    assert set(metric_names(max_dets=5)) == {k for k, v in few.items() if isinstance(v, float)}
    assert "bbox_AR_10" not in few and few["bbox_AR_1"] < few["bbox_AR"]


def test_results_written_as_coco_has_them_score_the_same(tmp_path: Path) -> None:
    data = crowded(tmp_path)
    predictions = guesses(data)
    odd = {"boxes": torch.full((1, 4), torch.nan), "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
    number = next(iter(predictions))
    more = {**predictions, number: {k: torch.cat([v, odd[k]]) for k, v in predictions[number].items()}}
    rows, left_out = as_results(data, more)
    assert left_out == 1 and len(rows) == sum(len(p["scores"]) for p in predictions.values())
    (tmp_path / "found.json").write_text(json.dumps(rows))
    wanted = evaluate(data, predictions)
    stats = judged(data.source, str(tmp_path / "found.json")).stats
    assert [wanted[name] for name in (*METRICS, *RECALLS)] == pytest.approx(list(stats), abs=1e-12)
    # classes that the file does not declare have no id there
    named = matched(data, ("c11", "moon", "c3", "c20", "c30"))
    moved = {
        n: {**p, "labels": torch.tensor([1 + named.names.index(data.names[i - 1]) for i in p["labels"].tolist()])}
        for n, p in predictions.items()
    }
    again, none = as_results(named, moved)
    assert again == rows and none == 0
    moved[number]["labels"] = torch.full_like(moved[number]["labels"], 2)
    assert as_results(named, moved)[1] == len(moved[number]["labels"])


def test_what_can_have_no_value_is_known_before(tmp_path: Path) -> None:
    data = crowded(tmp_path)
    areas = {"dust": [0.0, 0.5], "rest": [0.5, 1e9]}
    without = Evaluator(data, areas=areas).without_value()
    assert without.keys() == {"bbox_mAP_dust", "bbox_AR_dust", "bbox_AP/c30"}
    assert without["bbox_mAP_dust"] == "no object has an area of 0 to 0.5 px^2"
    found = Evaluator(data, areas=areas, per_class=True).evaluate(guesses(data))
    assert found["bbox_mAP_dust"] == found["bbox_AR_dust"] == found["per_class"]["c30"] == -1
    assert all(value > -1 for name, value in found.items() if isinstance(value, float) and not name.endswith("dust"))
    empty = load_coco(_without_boxes(tmp_path), str(tmp_path))
    without = Evaluator(empty).without_value()
    assert {*metric_names()} <= without.keys() and without["bbox_mAP"] == "there is no object at all"


def _without_boxes(folder: Path) -> str:
    raw = json.loads((folder / "a.json").read_text())
    (folder / "empty.json").write_text(json.dumps(raw | {"annotations": []}))
    return str(folder / "empty.json")


def test_more_boxes_than_detections_count_is_said(tmp_path: Path) -> None:
    data = crowded(tmp_path)
    found = evaluate(data, truth_of(data))
    assert "boxes of one class" in found["notes"][0]
    assert found["per_class"]["c11"] < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({4: {"boxes": [], "scores": [], "labels": []}}, "image id 4"),
        ({5: {"boxes": [[0, 0, 1, 1]], "scores": [1.0], "labels": [0]}}, r"1\.\.4; got 0"),
        ({5: {"boxes": [[0, 0, 1, 1]], "scores": [1.0], "labels": [5]}}, r"1\.\.4; got 5"),
        ({5: {"boxes": [[0, 0, 1, 1]], "scores": [1.0, 0.5], "labels": [1]}}, r"scores \(2,\)"),
        ({5: {"boxes": [[0, 0, 1]], "scores": [1.0], "labels": [1]}}, r"boxes \(1, 3\)"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(crowded(tmp_path), wrong)


def test_the_package_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = crowded(tmp_path)
    installed = {"faster_coco_eval", "pycocotools"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    with pytest.raises(UsageError, match=r"pycoco' \(did you mean pycocotools\?\)"):
        Evaluator(data, "pycoco")
    installed.remove("faster_coco_eval")
    assert Evaluator(data).backend == "pycocotools"
    with pytest.raises(UsageError, match="needs faster-coco-eval"):
        Evaluator(data, "faster")
    installed.clear()
    with pytest.raises(UsageError, match="needs faster-coco-eval or pycocotools"):
        Evaluator(data)


@pytest.mark.slow
def test_no_package_is_loaded_before_it_is_used() -> None:
    code = """
import sys
from searchkit.nas.cli.data import data_command
from searchkit.nas.data import toy, toy_cls
assert "torch" not in sys.modules, "search-nas data starts at once"
from searchkit.nas.data import coco, coco_eval, labelled, loader
print({"pycocotools", "faster_coco_eval", "sklearn"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
