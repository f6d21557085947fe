"""What is extracted is what was scored: the folder has the statistics of its record's score, and the same score."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.models.elastic import set_arch
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import load_folder
from searchkit.nas.subnet.sweep import as_recorded
from searchkit.nas.tasks import read as config
from searchkit.nas.train import bench
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.splits import open_split
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.nas import CPU, Trained, good, lines, write

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Scored:
    """A supernet, and the record of one of its subnets."""

    config: str
    checkpoint: str
    results: Path
    record: dict[str, Any]

    @property
    def common(self) -> tuple[str, ...]:
        return (self.config, "--checkpoint", self.checkpoint, "--device", "cpu")


@pytest.fixture(scope="module", params=["det", "cls"])
def scored(
    request: pytest.FixtureRequest, trained: Trained, toy_cls: Path, tmp_path_factory: pytest.TempPathFactory
) -> Scored:
    """Tested with calibration and raw, its calibration images drawn by another seed than the default."""
    folder = tmp_path_factory.mktemp("scored")
    path, weights = trained.config, trained.checkpoint
    if request.param == "cls":
        body = cls.tiny(toy_cls, "basic", train={"steps": 60, "checkpoint_steps": 100})
        path = write(folder / "cfg.yaml", body)
        weights = nas.train(path, folder / "work")
    out = folder / "t.jsonl"
    argv = (path, "--checkpoint", weights, "--device", "cpu", "--seed", "5", "--raw", "--out", out)
    good("test", *argv, "--arch", "MIN")
    return Scored(path, weights, out, lines(out)[0])


def by_hand(folder: Path, recipe: Recipe) -> dict[str, float]:
    """The score of an extracted folder on the validation images, as its user would measure it."""
    task, net = recipe.task, load_folder(str(folder))
    data = open_split(recipe, "val")
    batches = task.sets.eval_batches(data, recipe.test.batch_size, 0, recipe.scales[0])
    evaluator = task.objective.evaluator(data, recipe.test)
    return as_recorded(recipe, task.objective.evaluate(net, batches, evaluator, CPU, "fp32").metrics)


@pytest.mark.slow
def test_the_folder_scores_what_its_record_says(scored: Scored, tmp_path: Path) -> None:
    # whatever the config says of scoring by now: the protocol of the record counts
    other = ("--set", "test.batch_size=1", "--set", "test.calibration_images=3")
    said = good("extract", *scored.common, *other, "--arch", scored.results, "--out", tmp_path / "m")
    assert "as for the record's metric.direct" in said and "equal to the record's metric.direct" in said
    proof = json.loads((tmp_path / "m" / "proof.json").read_text())
    metrics, protocol = scored.record["metric"], scored.record["protocol"]["direct"]
    assert proof["score"]["record"] == proof["score"]["measured"] == metrics["direct"] and proof["score"]["equal"]
    assert proof["statistics"]["kind"] == "calibrated"
    assert proof["calibrated"]["images"] == protocol["calibration_images"] == len(proof["calibrated"]["image_ids"])
    assert proof["score"]["measured_on"]["torch"] == torch.__version__ and proof["score"]["differs"] == []
    recipe = config.load(scored.config)
    assert by_hand(tmp_path / "m", recipe) == metrics["direct"]
    # raw statistics are another network
    said = good("extract", *scored.common, "--raw", "--arch", scored.results, "--out", tmp_path / "raw")
    assert "batch-norm statistics: raw, as the checkpoint has them (--raw)" in said and "score of" not in said
    assert by_hand(tmp_path / "raw", recipe) == metrics["direct_raw"] != metrics["direct"]


def test_the_record_of_a_raw_score_gives_the_raw_network(scored: Scored, tmp_path: Path) -> None:
    name = next(iter(scored.record["metric"]["direct_raw"]))
    by = ("--arch", scored.results, "--metric", f"metric.direct_raw.{name}")
    proof = json.loads(good("extract", *scored.common, *by, "--out", tmp_path / "m", "--json"))
    assert proof["statistics"] == {"kind": "raw", "why": "as for the record's metric.direct_raw"}
    assert proof["score"]["equal"] and proof["score"]["measured"] == scored.record["metric"]["direct_raw"]


def test_it_is_the_supernet_with_these_statistics(scored: Scored, tmp_path: Path) -> None:
    good("extract", *scored.common, "--arch", scored.results, "--out", tmp_path / "m", "--no-score")
    recipe = config.load(scored.config)
    source = extraction.open_source(recipe, scored.checkpoint, 0)
    arch, plain = Arch.of(scored.record["arch"]), load_folder(str(tmp_path / "m"))
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in source.net.state_dict().items()}
    set_arch(source.net, arch)
    with torch.no_grad(), extraction.lent(source.net, plain):
        ours, theirs = source.net.backbone(x), plain.backbone(x)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert nas.equal(before, source.net.state_dict())


@pytest.mark.slow
def test_the_calibration_images_are_found_again(scored: Scored, tmp_path: Path) -> None:
    def extracted(name: str, *argv: str | Path) -> Any:
        return json.loads(good("extract", *scored.common, *argv, "--out", tmp_path / name, "--json"))

    there = shutil.copy(scored.results, tmp_path / "t.jsonl")  # without the list beside it: the seed is in the record
    found = extracted("seed", "--arch", there)
    assert found["score"]["equal"] and "note" not in found["statistics"]
    old = {key: value for key, value in scored.record.items() if key != "measured"}  # of an older version
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    listed = scored.results.parent / f"calibration-{scored.record['protocol']['direct']['calibration_ids']}.json"
    shutil.copy(listed, tmp_path)
    found = extracted("listed", "--arch", tmp_path / "old.jsonl")
    assert found["score"]["equal"] and "device not known there, cpu here" in found["score"]["differs"]
    (tmp_path / listed.name).unlink()
    done = nas.call("extract", *scored.common, "--arch", tmp_path / "old.jsonl", "--out", tmp_path / "others")
    assert done.code == 0 and "can't be told" in done.out
    proof = json.loads((tmp_path / "others" / "proof.json").read_text())
    assert any(line.startswith("calibration_ids") for line in proof["score"]["differs"])
    if not proof["score"]["equal"]:
        assert "is not that of the record's metric.direct" in done.err and "calibration_ids" in done.err


def test_a_score_that_differs_is_said_and_kept(scored: Scored, tmp_path: Path) -> None:
    name = next(iter(scored.record["metric"]["direct"]))
    body = json.loads(json.dumps(scored.record))
    body["metric"]["direct"][name] = 0.987654
    body["measured"]["direct"]["device"] = "another GPU"
    (tmp_path / "t.jsonl").write_text(json.dumps(body) + "\n")
    done = nas.call("extract", *scored.common, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "m")
    assert done.code == 0 and f"{name} " in done.err and "the record has 0.987654" in done.err
    assert "(device another GPU there, cpu here)" in done.err
    proof = json.loads((tmp_path / "m" / "proof.json").read_text())
    assert not proof["score"]["equal"] and proof["score"]["record"][name] == 0.987654


@pytest.mark.parametrize("scored", ["det"], indirect=True)  # a classifier has no keys of evaluation alone
def test_keys_that_change_the_score_are_named(scored: Scored, tmp_path: Path) -> None:
    """The protocol has a digest of the model, which tells nobody what to put back."""
    thresh = ("--set", "model.score_thresh=0.2")
    done = nas.call("extract", *scored.common, *thresh, "--arch", scored.results, "--out", tmp_path / "m")
    assert done.code == 0 and "(model.score_thresh 0.01 there, 0.2 here)" in done.err
    body = json.loads(json.dumps(scored.record))
    del body["measured"]["direct"]["model"]  # as older versions wrote it
    (tmp_path / "t.jsonl").write_text(json.dumps(body) + "\n")
    done = nas.call("extract", *scored.common, *thresh, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "old")
    assert done.code == 0 and f"(model {body['protocol']['direct']['model']} there, " in done.err


@pytest.mark.slow
def test_without_a_record_the_test_section_says_how(scored: Scored, tmp_path: Path) -> None:
    said = good("extract", *scored.common, "--arch", "MIN", "--out", tmp_path / "m")
    assert "by the config's test section: there is no record of a score" in said
    recipe = config.load(scored.config)
    ids = bench.open_calibration(recipe, 0).ids
    assert tuple(json.loads((tmp_path / "m" / "proof.json").read_text())["calibrated"]["image_ids"]) == ids
    body = json.loads(Path(scored.config).read_text())
    del body["data"]["train"]
    bare = (write(tmp_path / "bare.yaml", body), *scored.common[1:])
    said = nas.bad("extract", *bare, "--arch", "MIN", "--out", tmp_path / "bare")
    assert "the config has no data.train" in said and "--raw" in said
    said = good("extract", *bare, "--arch", "MIN", "--raw", "--out", tmp_path / "bare")
    assert "raw, as the checkpoint has them" in said


@pytest.mark.slow
def test_a_tuned_subnet_keeps_its_own_statistics(scored: Scored, tmp_path: Path) -> None:
    where = ("--out", tmp_path / "t.jsonl", "--work-dir", tmp_path / "w")
    good("finetune", *scored.common, "--arch", "MIN", "--set", "finetune.steps=2", *where)
    tuned = (scored.config, "--checkpoint", tmp_path / "w" / "best" / "latest.pth", "--device", "cpu")
    said = good("extract", *tuned, "--out", tmp_path / "alone")
    assert "those of its own training (it was tuned on its own, and is scored so)" in said
    proof = json.loads(good("extract", *tuned, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "m", "--json"))
    (record,) = lines(tmp_path / "t.jsonl")
    assert proof["statistics"]["kind"] == "own" and proof["score"]["equal"]
    assert proof["score"]["measured"] == record["metric"]["finetune"]
    # the supernet has no part in that score
    said = good("extract", *scored.common, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "super")
    assert "the record's scores (metric.finetune) are of other weights than this checkpoint's" in said


@pytest.mark.slow
def test_predict_shows_the_network_that_was_scored(scored: Scored, tmp_path: Path) -> None:
    recipe = config.load(scored.config)
    data = open_split(recipe, "val")
    image = data.images[0].path if recipe.task.name == "det" else data.where(0)
    good("extract", *scored.common, "--arch", scored.results, "--out", tmp_path / "m", "--no-score")
    argv = (image, "--out", tmp_path / "o", "--threshold", "0.02", "--device", "cpu", "--json")
    (folder,) = json.loads(good("predict", tmp_path / "m", *argv))
    of_checkpoint = (scored.checkpoint, "--config", scored.config, "--arch", scored.results, *argv)
    done = nas.call("predict", *of_checkpoint)
    assert done.code == 0 and "as for the record's metric.direct" in done.err
    (direct,) = json.loads(done.out)
    key = recipe.task.pictures.key
    assert direct[key] == folder[key] and direct[key]
    done = nas.call("predict", *of_checkpoint, "--raw")
    assert "raw, as the checkpoint has them" in done.err and json.loads(done.out)[0][key] != direct[key]
