"""Parts of one's own, each in one file outside of the package and named in a config alone: a sampler, a stopper and a
measure in one search, a backbone from its space to an extracted model. tests/assets/own/ has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import searchkit
from searchkit.errors import UsageError
from searchkit.suite.algorithms.conformance import check
from tests.support import cls, nas, suite

OWN = Path(__file__).parent / "assets" / "own"

SEARCH = """
task:
  template: python train.py --lr {lr} --width {width} --layers {layers}
  search_args:
    - {type: LogUniform, name: lr, low: 1e-4, high: 1.0}
    - {type: Categorical, name: width, value: [16, 32, 64, 128]}
    - {type: Int, name: layers, low: 2, high: 6}
  measures: {call: "roofline:latency", given: {device: edge.json, edge: 64}}
  constraints: ["ms <= 4", "peak_kb < 5000"]
monitor: {reward_attribute: loss, mode: min}
search:
  sampler: {type: "lattice:Lattice"}
  n_trials: 10
  seed: 1
  stop: {type: "trend:Trend", last: 3, ahead: 4}
"""
TRAIN = """
import argparse, math, time, searchkit
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("width", int), ("layers", int)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
off = abs(math.log10(args.lr / 0.01))
for epoch in range(1, 13):
    if epoch == 8:
        time.sleep(0.5)  # in which a stopper is heard
    searchkit.report(loss=off + math.exp(-epoch / 3), step=epoch)
"""


@pytest.mark.parametrize("name", ["lattice:Lattice", "trend:Trend"])
def test_they_keep_the_laws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    check(name)


@pytest.mark.slow
def test_a_search_by_a_sampler_a_stopper_and_a_measure_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite.project(tmp_path / "project", SEARCH, train_py=TRAIN)
    for name in ("lattice.py", "trend.py", "roofline.py"):
        shutil.copy(OWN / name, project)
    (project / "edge.json").write_text('{"macs_per_s": 2e10, "bytes_per_s": 1e9}')
    suite.ok(suite.run(project, "search-run", "config.yaml", "-j", "1", "--gpus", "none"))
    task = searchkit.open(project).task()
    assert task.status == "finished" and len(task.jobs) == 10
    assert task.counts["pruned"] >= 2 and task.counts["finished"] >= 3
    lrs = sorted(job.params["lr"] for job in task.jobs)
    assert lrs[0] < 2e-3 and lrs[-1] > 5e-2 and len(set(lrs)) == 10  # all along its scale
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    from roofline import latency  # type: ignore[import-not-found]

    measure = latency("edge.json", 64)
    assert all(measure(job.params)["ms"] <= 4 for job in task.jobs)
    assert any(measure({"width": 128, "layers": n})["ms"] > 4 for n in range(2, 7))  # and it left something out


@pytest.mark.slow
def test_a_backbone_of_ones_own_gets_all_verbs(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(OWN / "mixer.py", tmp_path)
    body = cls.tiny(toy_cls)
    body["model"] = {"backbone": "mixer.py:Mixer", "backbone_options": {"patch": 2}}
    body["space"] = {
        "backbone.body.width": {"choices": [[4, 8], [8, 12], [12, 16]]},
        "backbone.body.depth": {"choices": [[1, 2], [1, 2], [1]]},
        "backbone.body.kernel": {"choices": [[3, 5], [3, 5], [3]]},
        "data.input_shape": {"choices": [32]},
    }
    config = nas.write(tmp_path / "mine.yaml", body)
    assert "128 archs x 1 input shape = 128 points" in nas.good("space", config)
    nas.good("train", config, "--work-dir", "work", "--set", "train.steps=4", "--device", "cpu")
    common = (config, "--checkpoint", "work/latest.pth", "--device", "cpu")
    nas.good("test", *common, "--arch", "MAX", "--arch", "MIN", "--out", "tested.jsonl")
    proof = json.loads(nas.good("extract", *common, "--arch", "tested.jsonl", "--out", "model", "--json"))
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"]
    assert proof["cost"]["macs"] == proof["cost"]["macs_measured"]


@pytest.mark.slow
def test_a_neck_and_a_head_of_ones_own_get_all_verbs(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elastic both; searched for, tuned and extracted like those that searchkit brings."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(OWN / "ladder.py", tmp_path)
    body = nas.tiny(toy, data={"cache_mb": 64})
    body["model"] = {"backbone_options": {"block": "basic"}, "neck": "ladder.py:Ladder", "head": "ladder.py:Shared"}
    body["model"] |= {"neck_options": {"width": 12}, "head_options": {"sizes": [12, 24, 36, 48], "score_thresh": 0.01}}
    body["space"] = {
        **{name: choices for name, choices in body["space"].items() if name.startswith("backbone.")},
        "neck.width": {"choices": [4, 8]},
        "head.depth": {"choices": [1, 2]},
        "data.input_shape": 64,
    }
    config = nas.write(tmp_path / "mine.yaml", body)
    nas.good("train", config, "--work-dir", "work", "--set", "train.steps=4", "--device", "cpu")
    common = (config, "--checkpoint", "work/latest.pth", "--device", "cpu")
    nas.good("test", *common, "--arch", "MAX", "--arch", "MIN", "--out", "tested.jsonl")
    record = nas.lines("tested.jsonl")[-1]
    assert record["arch"]["neck"] == {"width": 4} and record["arch"]["head"] == {"depth": 1}
    proof = json.loads(nas.good("extract", *common, "--arch", "tested.jsonl", "--out", "model", "--json"))
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"]
    assert proof["cost"]["macs"] == proof["cost"]["macs_measured"]
    nas.good("flops", config, "--out", "flops.jsonl")
    (tmp_path / "rules.yaml").write_text("- where: arch.head.depth == 2 and arch.neck.width < 8")
    nas.good("select", "flops.jsonl", "--rules", "rules.yaml", "--out", "picked.jsonl")
    picked = nas.lines("picked.jsonl")
    assert picked and all(each["arch"]["head"] == {"depth": 2} for each in picked)
    body["model"]["neck_options"] = {"widht": 12}
    said = nas.bad("space", nas.write(tmp_path / "wrong.yaml", body))
    assert "model.neck_options: unknown key 'widht' (did you mean width?)" in said


def test_what_a_newcomer_gets_wrong_is_told(tmp_path: Path) -> None:
    project = suite.project(tmp_path / "project", SEARCH.replace("Lattice", "Latice"), train_py=TRAIN)
    for name in ("lattice.py", "trend.py", "roofline.py"):
        shutil.copy(OWN / name, project)
    (project / "edge.json").write_text('{"macs_per_s": 2e10}')
    done = suite.run(project, "search-run", "config.yaml", "--dry-run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "'Latice' (did you mean Lattice?)" in done.stderr
    (project / "config.yaml").write_text(SEARCH.replace("last: 3", "lasst: 3"))
    said = suite.run(project, "search-run", "config.yaml", "--dry-run").stderr
    assert said == "error: stopper 'trend:Trend' has no option 'lasst' (did you mean last?)\n"
    (project / "config.yaml").write_text(SEARCH)
    said = suite.run(project, "search-run", "config.yaml", "--dry-run").stderr
    assert "roofline:latency failed: KeyError: 'bytes_per_s' (at" in said
    with pytest.raises(UsageError, match=r"other\.yaml: No such file"):
        searchkit.run("other.yaml", cwd=project)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "fails"),
    [("points = [", "1 / 0"), ("return before is None", "step < 12 or 1 / 0")],
    ids=["as it judges", "at the end of a job"],
)
def test_a_stopper_that_fails_ends_it_when_all_that_runs_has_ended(tmp_path: Path, before: str, fails: str) -> None:
    """As a sampler does; the same command goes on once it is mended, and no job runs again."""
    longer = TRAIN.replace("sleep(0.5)", "sleep(3 if os.environ['SEARCHKIT_JOB'] == '1' else 0.5)")
    project = suite.project(tmp_path / "project", SEARCH, train_py=f"import os{longer}")
    for name in ("lattice.py", "roofline.py"):
        shutil.copy(OWN / name, project)
    (project / "edge.json").write_text('{"macs_per_s": 2e10, "bytes_per_s": 1e9}')
    whole = (OWN / "trend.py").read_text()
    (project / "trend.py").write_text(whole.replace(f"        {before}", f"        {fails}\n        {before}", 1))
    done = suite.run(project, "search-run", "config.yaml", "-j", "2", "--gpus", "none")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = whole[: whole.index(f"        {before}")].count("\n") + 1
    assert f"the stopper trend:Trend failed: ZeroDivisionError: division by zero (trend.py:{line})" in done.stderr
    assert suite.processes_with(f"SEARCHKIT_JOB_DIR={suite.task_dir(project)}") == []
    assert set(suite.states(project).values()) == {"finished"} and len(suite.states(project)) < 10
    (project / "trend.py").write_text(whole)
    suite.ok(suite.run(project, "search-run", "config.yaml", "-j", "2", "--gpus", "none"))
    assert [job["attempt"] for job in suite.show(project)["jobs"]] == [1] * 10
    assert sorted(event["job"] for event in suite.events(project) if event["type"] == "result") == [*range(10)]
