"""Tuning of subnets: killed and gone on, each a copy in a folder of its own, archs named in both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet import sweep
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.records.arch import Arch
from tests.support import nas, suite
from tests.support.nas import Trained, archs_file, equal, good, lines, open_session, some, tensors, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_killed_tuning_goes_on(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = archs_file(tmp_path / "archs.jsonl", some(trained, 3))

    def command(name: str) -> tuple[str | Path, ...]:
        folder = tmp_path / name
        first = ("finetune", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--device", "cpu")
        return (*first, "--set", "finetune.steps=8", "--work-dir", folder, "--out", tmp_path / f"{name}.jsonl")

    process = nas.spawn(*command("broken"), "--set", "finetune.checkpoint_steps=1", cwd=tmp_path)
    out = tmp_path / "broken.jsonl"

    def second_begun() -> bool:
        return process.poll() is not None or len(list((tmp_path / "broken").glob("*/latest.pth"))) == 2

    with nas.killed_after(process):
        suite.wait_for(second_begun, why="the second arch")
        assert process.poll() is None
    done = {path.parent.name: checkpoint.load(str(path)).step for path in (tmp_path / "broken").glob("*/latest.pth")}
    assert len(lines(out)) <= 2 and min(done.values()) < 8
    steps: list[int] = []
    real = sweep.fit

    def fit(*args: Any, **more: Any) -> Iterator[Any]:
        for report in real(*args, **more):
            steps.append(report.step)
            yield report

    monkeypatch.setattr(sweep, "fit", fit)
    good(*command("broken"))
    assert len(steps) == 3 * 8 - sum(done.values())
    good(*command("unbroken"))
    assert lines(out) == lines(tmp_path / "unbroken.jsonl") and len(lines(out)) == 3
    folders = sorted(path.name for path in (tmp_path / "unbroken").iterdir())
    assert len(folders) == 4 and folders == sorted(path.name for path in (tmp_path / "broken").iterdir())
    for name in folders:
        mine, theirs = tmp_path / "broken" / name / "latest.pth", tmp_path / "unbroken" / name / "latest.pth"
        assert equal(tensors(mine), tensors(theirs)) and checkpoint.load(str(mine)).step == 8
    best = max(lines(out), key=lambda r: r["metric"]["finetune"]["toy_bbox_mAP"])
    shape = best["data"]["input_shape"]
    assert (tmp_path / "broken" / "best").resolve().name == f"{Arch.of(best['arch']).id}-{shape}"
    assert {r["protocol"]["finetune"]["tuned_steps"] for r in lines(out)} == {8}


def test_tuning_of_a_job_survives_its_attempts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("finetune", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIN")
    for n in (1, 2):
        here = nas.attempt(monkeypatch, tmp_path / "job", n)
        good(*command, "--set", "finetune.steps=1")
        folder = (here / "finetune" / "best").resolve()
        assert folder.parent == tmp_path / "job" / "checkpoint" / "finetune" and (folder / "latest.pth").exists()
        assert len(lines("../callback/records.jsonl")) == len(lines("metrics.jsonl")) == 1
    good(*command, "--set", "finetune.steps=2")  # another tuning is another result
    assert [r["protocol"]["finetune"]["tuned_steps"] for r in lines("metrics.jsonl")] == [1, 2]


def test_tuning_moves_a_copy(trained: Trained, tmp_path: Path) -> None:
    recipe = config.load(trained.config, ["finetune.train_on=[train, val]", "finetune.steps=2"])
    opened = open_session(trained, recipe, tune=True)
    assert opened.tune_set is not None and len(opened.tune_set.images) == nas.IMAGES["train"] + nas.IMAGES["val"]
    before = {k: v.clone() for k, v in opened.net.state_dict().items()}
    arch = recipe.space.named("MIDDLE")
    start = subnet(opened.net, arch, opened.config).state_dict()
    _, tuned = sweep.tune_record(opened, {"arch": arch.nested()}, arch, "t", str(tmp_path / "t"), lambda _: None)
    assert equal(before, opened.net.state_dict())
    kept = tensors(tmp_path / "t" / "latest.pth")
    assert all(torch.equal(kept[k], v) for k, v in tuned.state_dict().items())
    assert not torch.equal(kept["backbone.body.layer1.0.conv1.weight"], start["backbone.body.layer1.0.conv1.weight"])


def test_both_ways_to_name_the_archs(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good("flops", trained.config, "--out", "flops.jsonl")
    where = {"where": "data.input_shape == 48 and overhead.flops <= 28.3M"}
    rules = [where, {"type": "sample", "operation": "last", "key": "overhead.flops", "value": 2}]
    write(tmp_path / "pick.yaml", {"type": "sequential", "rules": rules})
    common = (trained.config, "--checkpoint", trained.checkpoint)
    good("test", *common, "--archs", "flops.jsonl", "--rules", "pick.yaml", "--out", "tested.jsonl")
    tested = lines("tested.jsonl")
    cheapest = sorted(
        (r["overhead"]["flops"] for r in lines("flops.jsonl") if r["data"]["input_shape"] == 48), reverse=False
    )[:2]
    assert sorted(r["overhead"]["flops"] for r in tested) == cheapest
    top = {"type": "sample", "operation": "top", "key": "metric.direct.toy_bbox_mAP", "value": 1}
    write(tmp_path / "best.yaml", {"type": "sequential", "rules": [top]})
    sets = ("--set", "finetune.steps=1")
    good("finetune", *common, "--archs", "tested.jsonl", "--rules", "best.yaml", "--out", "tuned.jsonl", *sets)
    (tuned,) = lines("tuned.jsonl")
    best = max(tested, key=lambda r: r["metric"]["direct"]["toy_bbox_mAP"])
    assert tuned["arch"] == best["arch"] and tuned["metric"]["direct"] == best["metric"]["direct"]
    assert set(tuned["metric"]["finetune"]) == set(best["metric"]["direct"])
