"""The recipe `det`: its configs are whole, and the small one runs from data to extracted model, stage by stage."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchkit.reading import nodes
from searchkit.records import rules
from searchkit.suite.cli.templates import copy_template, template_root
from searchkit.suite.config import read as config
from tests.support.suite import ok, run

pytest.importorskip("torchvision", reason="the recipe needs search-nas: pip install 'searchkit[nas]'")

from searchkit.nas.cli.priced import pricing
from searchkit.nas.cost.price import price, price_parts
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.tasks import read as nas_config
from searchkit.nas.train.policies import policy
from searchkit.records.arch import Arch
from tests.support.bignas import BIGNAS, NET
from tests.support.nas import good, lines, section, write

DET = Path(template_root(), "det")
NETS = [path for path in DET.glob("*.yaml") if "\nmodel:" in path.read_text()]  # configs of search-nas


def test_ar50to101_is_gaias_space_and_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    recipe = nas_config.load(str(DET / "faster_rcnn_ar50to101.yaml"))
    assert (recipe.space.count(), recipe.space.points()) == (85_293, 597_051)
    # the two records of GAIA's documentation: flops and parameters
    plans = pricing(recipe)
    archs = [
        {"stem": {"width": 32}, "body": {"width": [48, 96, 192, 384], "depth": [2, 2, 5, last]}} for last in (2, 4)
    ]
    found = [price(plans, Arch.of({"backbone": arch}), 480, "gaia") for arch in archs]
    assert [(c.flops, c.params) for c in found] == [(46314197434, 28010543), (47443272634, 33024047)]
    steps = policy(recipe.train.policy, recipe.space, 0, random_archs=recipe.train.random_archs)
    cycle = [steps(i)[0] for i in range(16)]
    named = [recipe.space.named(name) for name in ("MAX", "MIN", "R101", "R77", "R50")]
    assert cycle[:5] == cycle[8:13] == named
    assert cycle[5:8] != cycle[13:16]
    assert all(recipe.space.contains(arch) for arch in cycle[5:8])


@pytest.mark.parametrize("path", sorted(DET.glob("rules/*.yaml")), ids=lambda path: path.name)
def test_the_rules_are_whole(path: Path) -> None:
    rules.read(nodes.load(str(path)))


@pytest.mark.parametrize("path", sorted(p for p in DET.glob("*.yaml") if p not in NETS), ids=lambda p: p.name)
def test_the_tasks_are_whole(path: Path) -> None:
    loaded, _ = config.load(str(path))
    assert loaded is not None
    for named in re.findall(r"\brules/[\w.]+|\b(?:faster_rcnn|retinanet|ssd)_\w+\.yaml", path.read_text()):
        assert (DET / named).is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_one_runs_from_data_to_model(tmp_path: Path) -> None:
    """Every stage, in a size that takes a minute: what is made smaller are numbers of images, steps and archs alone."""
    copy_template("det", str(tmp_path))
    small = yaml.safe_load((tmp_path / "faster_rcnn_small.yaml").read_text())
    small["train"].update(steps=3, eval_archs=["MAX"])
    small["test"]["calibration_images"] = 8
    small["finetune"].update(steps=2)
    (tmp_path / "faster_rcnn_small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    tsas = (tmp_path / "tsas.yaml").read_text().replace("--out digits", "--out digits --images 16 8 8")
    (tmp_path / "tsas.yaml").write_text(tsas)
    for name in ("small_pick", "small_best"):
        path = tmp_path / "rules" / f"{name}.yaml"
        path.write_text(re.sub(r"value: \d+", "value: 2", path.read_text()))
    env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ok(run(tmp_path, "search-init"))
    ok(run(tmp_path, "search-run", "--task", "det", "tsas.yaml", "--symlinks", env=env, timeout_s=280))
    shown = json.loads(ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "det", "-rt", "+5", "--json")))
    assert len(shown["rows"]) == 2
    best = shown["rows"][0]["scalars"]
    assert {"overhead.flops", "metric.direct.digits_bbox_mAP", "metric.finetune.digits_bbox_mAP"} <= set(best)
    tables = ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "det", "-rt", "+5"))
    assert "MACs (G)" in tables and max(map(len, tables.splitlines())) <= 200
    work = tmp_path / ".search-run" / "tasks" / "det.extract" / "jobs" / "all" / "0" / tmp_path.name
    proof = json.loads((work / "model" / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["cost"]["macs"] == proof["cost"]["macs_measured"]
    assert proof["score"]["equal"], proof["score"]
    assert len(os.listdir(work / "boxes")) == 8


# --- SSD -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_once_for_all_runs_from_data_to_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every stage of ssd_ofa_tasks.yaml, smaller in numbers of images, steps and archs alone: the schedules of the
    space, what is held out and the two workers are the recipe's. Then the verbs that it has no stage for."""
    copy_template("det", str(tmp_path))
    small = yaml.safe_load((tmp_path / "ssd_ofa_small.yaml").read_text())
    dims = [dim for dim in small["space"].values() if isinstance(dim, dict)]
    epochs = max(dim["schedule"]["boundary"][-1] for dim in dims if "schedule" in dim)
    small["train"].update(steps=epochs, batch_size=9, eval_archs=["MIN"])  # an epoch is one step
    small["test"]["calibration_images"] = 8
    small["finetune"].update(steps=2)
    (tmp_path / "ssd_ofa_small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    tasks = (tmp_path / "ssd_ofa_tasks.yaml").read_text()
    for whole, less in (
        ("--out digits", "--out digits --images 10 4 4"),
        ("--evaluations 24", "--evaluations 4"),
        ("--population 8", "--population 2"),
    ):
        assert whole in tasks
        tasks = tasks.replace(whole, less)
    (tmp_path / "ssd_ofa_tasks.yaml").write_text(tasks)
    best = tmp_path / "rules" / "small_best.yaml"
    best.write_text(best.read_text().replace("value: 3", "value: 2"))
    env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ok(run(tmp_path, "search-init"))
    ok(run(tmp_path, "search-run", "--task", "ofa", "ssd_ofa_tasks.yaml", "--symlinks", env=env, timeout_s=280))
    shown = json.loads(ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "ofa", "-rt", "+3", "--json")))
    scores = [row["scalars"]["metric.final.digits_bbox_mAP"] for row in shown["rows"]]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    jobs = tmp_path / ".search-run" / "tasks"
    log = (jobs / "ofa.supernet" / "jobs" / "all" / "0" / "log").read_text()
    assert "held out of training, to score archs on: 1 of 10" in log and "channels are sorted there" in log
    found = lines(jobs / "ofa.search" / "jobs" / "all" / "0" / tmp_path.name / "search" / "results.jsonl")
    assert [record["protocol"]["direct"]["split"] for record in found] == ["held_out"] * 4
    assert all(record["overhead"]["flops"] <= 50e6 for record in found)
    assert {"kernel", "width"} == {*found[0]["arch"]["neck"]} and {*found[0]["arch"]["head"]} == {"kernel"}
    work = jobs / "ofa.extract" / "jobs" / "all" / "0" / tmp_path.name
    proof = json.loads((work / "model" / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["cost"]["macs"] == proof["cost"]["macs_measured"]
    assert proof["score"]["equal"], proof["score"]
    assert len(os.listdir(work / "boxes")) == 8
    monkeypatch.setenv("DATA", str(jobs / "ofa.data" / "jobs" / "all" / "0" / tmp_path.name / "digits"))
    latest = jobs / "ofa.supernet" / "jobs" / "all" / "0" / tmp_path.name / "latest.pth"
    common = (tmp_path / "ssd_ofa_small.yaml", "--checkpoint", latest, "--device", "cpu")
    calibrated = ("--set", "test.calibration_images=5", "--set", "test.batch_size=4")
    good("test", *common, *calibrated, "--arch", "MIN", "--out", tmp_path / "tested.jsonl")
    assert "4 are taken, since in batches of 4 the last one would be a single image" in caplog.text
    model = tmp_path / "model"
    good("extract", *common, "--arch", tmp_path / "tested.jsonl", "--out", model, "--export", "torch")
    proof = json.loads((model / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"] and proof["export"]["largest_difference"] == 0


# --- RetinaNet -------------------------------------------------------------------------------------------------------


def test_bignas_r18_is_the_published_space_and_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    recipe = nas_config.load(str(DET / "retinanet_bignas_r18.yaml"))
    assert recipe.space.count() == 59_049
    plans = pricing(recipe)
    costs = [price(plans, recipe.space.minimum(), shape).flops for shape in ((512, 1024), (768, 1344))]
    assert costs == [18_974_785_536, 37_358_447_616]
    for arch in (recipe.space.minimum(), recipe.space.maximum()):
        parts, whole = price_parts(plans, arch, (768, 1344)), price(plans, arch, (768, 1344))
        assert sum(part.flops for part in parts.values()) == whole.flops
        assert sum(part.params for part in parts.values()) == whole.params
    levels = [(96, 168), (48, 84), (24, 42), (12, 21), (6, 11)]
    pixels = [height * width for height, width in levels]
    laterals = sum(n * width * 128 for n, width in zip(pixels, (96, 192, 384), strict=False))
    assert price_parts(plans, recipe.space.minimum(), (768, 1344))["neck"].flops == laterals + sum(pixels) * 9 * 128**2


@pytest.mark.long  # the small one trains, too, below
def test_bignas_r18_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps at its own widths and depths, on small images."""
    data = make_toy_det(str(tmp_path / "data"), images={"train": 2, "val": 1, "test": 1}, size=(64, 64))
    monkeypatch.setenv("DATA", str(data))
    small = ("space.data.input_shape=64", "model.num_classes=", "train.batch_size=2", "data.workers=0")
    changes = (*small, "train.steps=2", "train.precision=fp32", "train.eval_archs=[]")
    argv = [word for change in changes for word in ("--set", change)]
    out = good("train", DET / "retinanet_bignas_r18.yaml", "--work-dir", tmp_path / "work", *argv)
    assert "checkpoint: " in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_faster_rcnn_of_bignas_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All verbs, one after the other, in a small size."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "small.yaml"
    text = (DET / "faster_rcnn_bignas_small.yaml").read_text()
    config.write_text(text.replace("epochs: 14", "steps: 2").replace("images: 64", "images: 8"))
    monkeypatch.setenv("DATA", str(tmp_path / "digits"))
    good("data", "digits-det", "--out", tmp_path / "digits", "--images", "12", "4", "4")
    work, archs = tmp_path / "work", tmp_path / "archs.jsonl"
    good("train", config, "--work-dir", work, "--set", "train.eval_archs=[MIN]")
    common = (config, "--checkpoint", work / "latest.pth")
    found = _searched(common, tmp_path / "front")
    archs.write_text(json.dumps(found) + "\n")
    good("finetune", *common, "--archs", archs, "--out", tmp_path / "tuned.jsonl", "--set", "finetune.steps=1")
    good("test", *common, "--archs", tmp_path / "tuned.jsonl", "--out", tmp_path / "tested.jsonl", "--speed")
    assert lines(tmp_path / "tested.jsonl")[0]["overhead"]["ms"] > 0
    _trusted_and_extracted(common, {**found["arch"], "neck": {"out_channel": 32}}, tmp_path)
    good("predict", tmp_path / "model", tmp_path / "digits" / "images", "--limit", "2", "--out", tmp_path / "boxes")
    assert len(os.listdir(tmp_path / "boxes")) == 2


def _searched(common: tuple[str | Path, ...], work: Path) -> Any:
    """The first record of a search for two objectives; common: the config and the checkpoint."""
    search = ("--algorithm", "nsga2", "--evaluations", "3", "--population", "2")
    good("search", *common, "--work-dir", work, *search)
    found = lines(work / "results.jsonl")
    assert len(found) == 3 and {"out_channel"} == {*found[0]["arch"]["neck"]}
    return found[0]


def _trusted_and_extracted(common: tuple[str | Path, ...], arch: Any, folder: Path) -> None:
    """Two archs are trained alone beside the supernet; an arch of a config's space is extracted and exported."""
    trust = ("--n", "2", "--bins", "1", "--out", folder / "trust.jsonl", "--work-dir", folder / "trust")
    trust = (*trust, "--set", "train.steps=1")
    assert "tau" in good("trust", *common, *trust)
    good("extract", *common, "--arch", json.dumps(arch), "--export", "torch", "--out", folder / "model")
    proof = json.loads((folder / "model" / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["cost"]["macs"] == proof["cost"]["macs_measured"]
    assert proof["export"]["largest_difference"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bignas_runs_from_data_to_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its phases as stages: what is made smaller are numbers of images, steps and archs alone. Then the verbs that it
    has no stage for."""
    copy_template("det", str(tmp_path))
    small = yaml.safe_load((tmp_path / "retinanet_bignas_small.yaml").read_text())
    small["train"].update(steps=2, eval_archs=["MIN"])
    small["test"]["calibration_images"] = 8
    small["finetune"].update(steps=1)
    (tmp_path / "retinanet_bignas_small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    task = (tmp_path / "bignas.yaml").read_text().replace("--out digits", "--out digits --images 12 6 6")
    (tmp_path / "bignas.yaml").write_text(task.replace("--sample 16", "--sample 3"))
    best = tmp_path / "rules" / "small_best.yaml"
    best.write_text(best.read_text().replace("value: 3", "value: 1"))
    env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ok(run(tmp_path, "search-init"))
    ok(run(tmp_path, "search-run", "--task", "bignas", "bignas.yaml", "--symlinks", env=env, timeout_s=280))
    sampled = ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "bignas.sample_accuracy", "-rt", "+16"))
    assert re.search(r"params \(M\) +ms +metric\.direct\.digits_bbox_mAP", sampled) and "Pareto front of" in sampled
    shown = json.loads(ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "bignas", "-rt", "+5", "--json")))
    (tuned,) = shown["rows"]
    assert 20e6 <= tuned["scalars"]["overhead.flops"] <= 50e6 and tuned["scalars"]["overhead.ms"] > 0
    jobs = tmp_path / ".search-run" / "tasks"
    priced = lines(jobs / "bignas.sample_flops" / "jobs" / "all" / "0" / tmp_path.name / "flops.jsonl")
    for cost in (record["overhead"] for record in priced):
        assert cost["flops"] == sum(cost["parts"][part]["flops"] for part in ("backbone", "neck", "head"))
    work = jobs / "bignas.sample_subnet" / "jobs" / "all" / "0" / tmp_path.name
    proof = json.loads((work / "model" / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"]
    assert len(os.listdir(work / "boxes")) == 8
    monkeypatch.setenv("DATA", str(jobs / "bignas.data" / "jobs" / "all" / "0" / tmp_path.name / "digits"))
    latest = jobs / "bignas.train_supnet" / "jobs" / "all" / "0" / tmp_path.name / "latest.pth"
    common = (tmp_path / "retinanet_bignas_small.yaml", "--checkpoint", latest)
    found = _searched(common, tmp_path / "front")
    head = {"cls": {"depth": 2, "width": 16}}
    _trusted_and_extracted(common, {**found["arch"], "head": head, "neck": {"out_channel": 32}}, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "head"), [("net", "faster_rcnn"), ("both", "retinanet")])
def test_the_documentations_blocks_train(
    name: str, head: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, at their own widths and depths, on small images: read, two steps, priced, tested. What the first
    one says nothing of is small."""
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text({"net": NET, "both": NET + BIGNAS}[name])
    sections = {split: section(toy, split) for split in ("train", "val")}
    body = yaml.safe_load(good("convert", "theirs.yaml")) | {"data": {**sections, "workers": 0}}
    body["space"]["data.input_shape"] = 64
    if name == "net":
        body["model"] |= {"fpn_channels": 32, "box_head_width": 64, "rpn_post_nms_train": 50, "rpn_post_nms_test": 50}
    path = write(tmp_path / "ours.yaml", {**body, "test": {"calibration_images": 2}})
    assert nas_config.load(path).model.head == head
    steps = ("train.steps=2", "train.batch_size=2", "data.val=")
    good("train", path, "--work-dir", "work", *(word for step in steps for word in ("--set", step)))
    good("flops", path, "--sample", "2", "--out", "some.jsonl")
    arch = "SUBNET" if name == "both" else "MIN"
    good("test", path, "--checkpoint", "work/latest.pth", "--arch", arch, "--out", "tested.jsonl", "--speed")
    assert lines("tested.jsonl")[0]["overhead"]["ms"] > 0
