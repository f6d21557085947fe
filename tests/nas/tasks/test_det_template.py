"""The recipe `det`: its configs are whole, and the small one runs from data to extracted model, stage by stage."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from searchkit.reading import nodes
from searchkit.records import rules
from searchkit.suite.cli.templates import copy_template, template_root
from searchkit.suite.config import read as config
from tests.support.suite import ok, run

pytest.importorskip("torchvision", reason="the recipe needs search-nas: pip install 'searchkit[nas]'")

from searchkit.nas.cli.priced import pricing
from searchkit.nas.cost.price import price
from searchkit.nas.tasks import read as nas_config
from searchkit.nas.train.policies import policy
from searchkit.records.arch import Arch

DET = Path(template_root(), "det")


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


@pytest.mark.parametrize(
    "path", sorted(p for p in DET.glob("*.yaml") if not p.name.startswith("faster")), ids=lambda p: p.name
)
def test_the_tasks_are_whole(path: Path) -> None:
    loaded, _ = config.load(str(path))
    assert loaded is not None
    for named in re.findall(r"\brules/[\w.]+|faster_rcnn_\w+\.yaml", path.read_text()):
        assert (DET / named).is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_one_runs_from_data_to_model(tmp_path: Path) -> None:
    """Every stage, in a size that takes a minute: what is made smaller are numbers of images, steps and archs alone."""
    copy_template("det", str(tmp_path))
    small = yaml.safe_load((tmp_path / "faster_rcnn_small.yaml").read_text())
    small["train"].update(steps=6, eval_archs=["MAX"])
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
