"""Sweeps over subnets: killed and gone on, nothing measured twice, the supernet untouched."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.data.images import decode
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet import sweep
from searchkit.nas.tasks import detection
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.detection import set_scale
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train import bench, checkpoint, evaluate
from searchkit.nas.train.splits import open_split
from searchkit.records.arch import Arch
from searchkit.records.modelspace import dumps
from tests.support import nas, suite
from tests.support.nas import CPU, Trained, archs_file, equal, good, lines, open_session, scores, some, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def session(trained: Trained) -> sweep.Session:
    return open_session(trained)


# ---- test ----


@pytest.mark.slow
def test_a_killed_sweep_goes_on(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = some(trained, 24)
    archs = archs_file(tmp_path / "archs.jsonl", [*records, records[0]])  # one is there twice
    out = tmp_path / "out.jsonl"
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--device", "cpu")
    process = nas.spawn(*command, "--out", out, cwd=tmp_path)
    with nas.killed_after(process):
        suite.wait_for(lambda: process.poll() is not None or (out.exists() and len(lines(out)) >= 5), why="5 results")
        assert process.poll() is None
    kept = lines(out)
    assert 5 <= len(kept) < 24
    with open(out, "a") as f:
        f.write(dumps(kept[0])[:100])  # killed in the middle of a line
    counted: Counter[str] = Counter()
    real = bench.Bench.score

    def score(self: bench.Bench, *args: Any, **more: Any) -> dict[str, float]:
        counted["scores"] += 1
        return real(self, *args, **more)

    monkeypatch.setattr(bench.Bench, "score", score)
    monkeypatch.chdir(tmp_path)
    said = nas.call(*command, "--out", out)
    assert said.code == 0 and f"of 25 have their result in {out} already" in said.err
    assert counted["scores"] == 24 - len(kept) and lines(out)[: len(kept)] == kept
    good(*command, "--out", out)
    assert counted["scores"] == 24 - len(kept)  # all is there
    good(*command, "--out", tmp_path / "unbroken.jsonl")
    assert lines(out) == lines(tmp_path / "unbroken.jsonl") and len(lines(out)) == 24
    for record, asked in zip(lines(out), records, strict=True):
        assert record["arch"] == asked["arch"] and record["data"] == asked["data"]
        assert record["overhead"]["convention"] == "macs" and 0 <= record["metric"]["direct"]["toy_bbox_mAP"] <= 1
        protocol = record["protocol"]["direct"]
        assert protocol["checkpoint"] == checkpoint.digest(trained.checkpoint)
        assert protocol["input_shape"] == asked["data"]["input_shape"] and protocol["calibration_images"] == 6
    assert len({json.dumps(r["metric"]) for r in lines(out)}) > 4  # the scores tell them apart


def test_records_of_a_job_survive_its_attempts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "job" / "checkpoint"
    records = some(trained, 3)

    def attempt(n: int, count: int) -> Path:
        folder = nas.attempt(monkeypatch, tmp_path / "job", n)
        archs = archs_file(folder / "archs.jsonl", records[:count])
        command = ("test", trained.config, "--checkpoint", trained.checkpoint)
        good(*command, "--archs", archs, "--out", "o.jsonl")
        good(*command, "--arch", "MIN", "--tag", "other", "--out", "other/o.jsonl")
        return folder

    first, second = attempt(1, 2), attempt(2, 3)
    assert lines(first.parent / "callback/records.jsonl")[:2] == lines(kept / "o.jsonl")[:2]
    assert len(lines(kept / "o.jsonl")) == 3 and (second / "o.jsonl").resolve() == kept / "o.jsonl"
    assert len(lines(kept / "other" / "o.jsonl")) == 1
    mirrored = {json.dumps(record) for record in lines(second.parent / "callback/records.jsonl")}
    assert mirrored == {json.dumps(r) for part in ("o.jsonl", "other/o.jsonl") for r in lines(kept / part)}
    assert len(lines(second.parent / "callback/records.jsonl")) == 4


def test_raw_scores_come_beside(trained: Trained, tmp_path: Path) -> None:
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--out", tmp_path / "o.jsonl")
    good(*command, "--arch", "MAX")
    good(*command, "--arch", "MAX", "--arch", "MIN", "--raw")
    latest = {record["name"]: record for record in lines(tmp_path / "o.jsonl")}
    for record in latest.values():
        assert set(record["metric"]) == {"direct", "direct_raw"}
        assert record["protocol"]["direct_raw"]["calibration_images"] == 0
    assert len(lines(tmp_path / "o.jsonl")) == 3
    shown = json.loads(good(*command, "--arch", "MAX", "--raw", "--json"))
    assert {r["name"]: r for r in shown} == latest


def test_times_stand_beside_costs(trained: Trained, tmp_path: Path) -> None:
    """One of another machine is measured again, and a score that lacks one; the scores stay what they are."""
    out = tmp_path / "timed.jsonl"
    common = ("test", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", out)
    good(*common)
    (before,) = lines(out)
    text = good(*common, "--speed")
    assert "ms: the median time; cpu, 1 thread, fp32, torch" in text
    untimed, timed = lines(out)
    assert untimed == before and timed["metric"] == before["metric"]
    assert timed["overhead"].pop("ms") > 0 and timed["overhead"].pop("ms_on").endswith(", 1 image")
    assert timed["overhead"] == before["overhead"]
    good(*common, "--speed")
    assert len(lines(out)) == 2
    out.write_text(out.read_text().replace('"ms_on": "cpu', '"ms_on": "another'))
    good(*common, "--speed")
    assert len(lines(out)) == 3


def test_processes_share_the_archs_out(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = archs_file(tmp_path / "archs.jsonl", some(trained, 5))
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--out", "o.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        out = good(*command)
        assert ("results: o.jsonl" in out) == (rank == "0")
        found.append(len(lines("o.jsonl")))
    assert found == [2, 5] and len({json.dumps(r["arch"]) + str(r["data"]) for r in lines("o.jsonl")}) == 5


# ---- scores ----


def test_scoring_leaves_the_supernet_as_it_is(session: sweep.Session) -> None:
    space = session.recipe.space
    before = {k: v.clone() for k, v in session.net.state_dict().items()}
    modes = [m.training for m in session.net.modules()]
    for arch in (space.maximum(), space.minimum(), space.named("MIDDLE"), space.at(7)):
        scores(session, arch)
        scores(session, arch, calibrated=False)
    assert equal(before, session.net.state_dict()) and modes == [m.training for m in session.net.modules()]


def test_scores_do_not_depend_on_what_was_scored_before(trained: Trained, session: sweep.Session) -> None:
    space = session.recipe.space
    archs = [space.maximum(), space.named("MIDDLE"), space.at(40)]
    forward = [scores(session, arch) for arch in archs]
    torch.manual_seed(17)  # nor on the state of any generator
    other = open_session(trained)
    assert [scores(other, arch) for arch in reversed(archs)] == forward[::-1]


@pytest.mark.slow
def test_raw_scores_are_those_of_the_supernet_itself(session: sweep.Session) -> None:
    net, space, b = copy.deepcopy(session.net), session.recipe.space, session.bench
    for arch in (space.maximum(), space.minimum(), space.named("MIDDLE")):
        set_arch(net, arch)
        set_scale(net, 48, session.recipe.data)
        itself = detection.evaluate(net, b.batches.at(48), b.evaluator, CPU).metrics
        raw = scores(session, arch, calibrated=False)
        assert raw == {f"toy_{k}": round(v, 6) for k, v in itself.items() if k != "images_per_s"}
        assert raw != scores(session, arch)


def test_statistics_are_of_training_images_alone(trained: Trained, session: sweep.Session) -> None:
    training = open_split(trained.recipe, "train")
    paths = {info.id: info for info in training.images}
    evaluated = {info.path for info in session.bench.evaluated.images}
    ids = session.bench.calibration.ids
    assert len(ids) == len(set(ids)) == 6
    shown = [image for batch in session.bench.calibration.batches(48) for image in batch]
    for number, image in zip(ids, shown, strict=True):
        info = paths[number]
        assert (
            "train_" in info.path
            and info.path not in evaluated
            and torch.equal(image, decode(info.path, info.width, info.height))
        )
    # each norm then has the mean over the images of what it sees in their batches, by torch's own formula
    arch = trained.recipe.space.named("MIDDLE")
    static: Any = subnet(session.net, arch, session.config)
    set_scale(static, 48, trained.recipe.data)
    assert evaluate.calibrate(static, session.bench.calibration.batches(48), CPU, task=TASKS["det"]) == 6
    means, variances, shares = [], [], []
    for batch in session.bench.calibration.batches(48):
        x = static.transform([image.float() / 255 for image in batch])[0].tensors
        y = static.backbone.body.conv1(x)
        means.append(y.mean((0, 2, 3)))
        variances.append(y.var((0, 2, 3)))
        shares.append(len(batch) / 6)
    assert len(set(shares)) > 1  # a small last batch weighs less
    share = torch.tensor(shares)[:, None]
    norm = static.backbone.body.bn1
    torch.testing.assert_close(norm.running_mean, (torch.stack(means) * share).sum(0))
    torch.testing.assert_close(norm.running_var, (torch.stack(variances) * share).sum(0))
    assert norm.momentum == 0.1


@pytest.mark.slow
def test_the_calibration_images_are_written_down(
    trained: Trained, session: sweep.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = (trained.config, "--checkpoint", trained.checkpoint)
    good("test", *common, "--arch", "MIN", "--out", "o.jsonl", "--raw")
    (path,) = tmp_path.glob("calibration-*.json")
    written = path.read_bytes(), path.stat().st_ino
    good("test", *common, "--arch", "MAX", "--out", "o.jsonl")
    good("finetune", *common, "--arch", "MIN", "--out", "tuned.jsonl", "--set", "finetune.steps=1")
    assert (path.read_bytes(), path.stat().st_ino) == written and [*tmp_path.glob("calibration-*.json")] == [path]
    (content,) = lines(path)
    protocols = [r["protocol"] for r in (*lines("o.jsonl"), *lines("tuned.jsonl"))]
    for protocol in [*(p["direct"] for p in protocols if "direct" in p), protocols[-1]["finetune"]]:
        assert path.name == f"calibration-{protocol['calibration_ids']}.json"
        assert content["calibration_ids"] == protocol["calibration_ids"]
        assert protocol["calibration_images"] == len(content["image_ids"]) == 6
    assert protocols[0]["direct_raw"]["calibration_ids"] == ""
    # they are those that are used (the test above looks at these images), and of the training set
    assert tuple(content["image_ids"]) == session.bench.calibration.ids
    source = trained.data / "annotations" / "instances_train.json"
    assert content["annotations"] == str(source) and content["sha256"] == checkpoint.digest(str(source))
    assert set(content["image_ids"]) <= {image["id"] for image in json.loads(source.read_text())["images"]}
    # other images are another protocol: by the seed, by their number, by a training set of the same ids
    good("test", *common, "--arch", "MIN", "--out", "o.jsonl", "--seed", "1")
    good("test", *common, "--arch", "MIN", "--out", "o.jsonl", "--set", "test.calibration_images=5")
    changed = json.loads(source.read_text()) | {"info": {"version": "2"}}
    write(tmp_path / "changed.json", changed)
    good("test", *common, "--arch", "MIN", "--out", "o.jsonl", "--set", "data.train.annotations=changed.json")
    good("test", *common, "--arch", "MIN", "--out", "o.jsonl", "--set", "test.calibration_images=0")
    assert len([*tmp_path.glob("calibration-*.json")]) == 4
    kept = [r["protocol"]["direct"]["calibration_ids"] for r in lines("o.jsonl")]
    assert len(kept) == 6 and len(set(kept)) == 5 and kept[-1] == ""


def test_without_calibration_images_the_statistics_stay(trained: Trained, session: sweep.Session) -> None:
    none = open_session(trained, config.load(trained.config, ["test.calibration_images=0"]))
    arch = trained.recipe.space.minimum()
    assert scores(none, arch) == scores(session, arch, calibrated=False)


def test_the_second_arch_needs_no_files(trained: Trained, tmp_path: Path) -> None:
    data = shutil.copytree(trained.data, tmp_path / "data")
    work = shutil.copytree(Path(trained.checkpoint).parent, tmp_path / "work")
    body = json.loads(Path(trained.config).read_text())
    body["data"] |= {split: nas.section(data, split) for split in ("train", "val", "test")}
    recipe = config.load(write(tmp_path / "cfg.yaml", body))
    options: dict[str, Any] = {"split": None, "device": CPU, "seed": 0, "tune": False, "say": lambda _: None}
    opened = sweep.open_session(recipe, str(work / "latest.pth"), **options)
    for folder in (data, work):
        shutil.rmtree(folder)
    space = recipe.space
    assert scores(opened, space.maximum()) != scores(opened, space.minimum())


def test_archs_that_differ_in_settings_alone_share_their_statistics(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = ["space.head.proposals={choices: [3, 60]}", "space.anchors=", "data.cache_mb=0"]
    space = (recipe := config.load(trained.config, wider)).space
    archs = [
        Arch.of({**dict(base.items), "head.proposals": n})
        for base in (space.minimum(), space.maximum())
        for n in (3, 60)
    ]
    alone = [scores(open_session(trained, recipe), arch) for arch in archs]
    counted: list[Any] = []
    real = bench.calibrate
    monkeypatch.setattr(bench, "calibrate", lambda net, *a, **k: counted.append(net) or real(net, *a, **k))
    together = open_session(trained, recipe)
    assert [scores(together, arch) for arch in archs] == alone and len(counted) == 2
    assert alone[0] != alone[1]


def test_images_that_do_not_fit_into_memory_are_read_again(trained: Trained, session: sweep.Session) -> None:
    recipe = config.load(trained.config, ["data.cache_mb=0"])
    small = open_session(trained, recipe)
    for name in ("MAX", "MIN"):
        assert scores(small, recipe.space.named(name)) == scores(session, recipe.space.named(name))
