"""The part of the training images that no training sees: what it is of, who sees it, what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConflictError, UsageError
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.splits import open_split
from tests.support import cls, nas
from tests.support.nas import bad, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


def ids(path: str, split: str, *sets: str) -> list[Any]:
    """The images of a split, each by what tells it from all others."""
    recipe = config.load(path, sets)
    opened = open_split(recipe, split)
    if recipe.task == TASKS["cls"]:
        return [int(row) for row in opened.rows]
    return [*recipe.task.sets.subset(opened, range(len(opened.images)))[1]]


@pytest.fixture(params=["det", "cls"])
def path(request: pytest.FixtureRequest, toy: Path, toy_cls: Path, tmp_path: Path) -> str:
    body = tiny(toy) if request.param == "det" else cls.tiny(toy_cls, "basic")
    return write(tmp_path / "cfg.yaml", body)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_each_image_is_in_one_of_two_parts(path: str, fraction: float) -> None:
    """In their order, as many as asked for, and the same whatever else the config says; more of them hold those of
    fewer."""
    whole = ids(path, "train")
    sets = (f"data.held_out={fraction}",)
    learnt, held = ids(path, "train", *sets), ids(path, "held_out", *sets)
    assert not {*learnt} & {*held} and sorted([*learnt, *held]) == sorted(whole)
    assert len(held) == round(fraction * len(whole)) and learnt == [i for i in whole if i in {*learnt}]
    assert ids(path, "held_out", *sets, "train.lr=1", "test.batch_size=2") == held
    assert {*ids(path, "held_out", "data.held_out=0.1")} <= {*held}
    other = ids(path, "held_out", *sets, "data.held_out_seed=1")
    assert len(other) == len(held) and (other != held or fraction == 0.9)


def test_no_verb_but_scoring_sees_them(path: str, tmp_path: Path) -> None:
    """Trained, calibrated and tuned on the rest alone; the records say how the data was parted."""
    sets = ("data.held_out=0.25", "train.steps=2", "finetune.steps=1", "test.calibration_images=1000")
    learnt, held = ids(path, "train", *sets), ids(path, "held_out", *sets)
    weights = train(path, tmp_path / "work", *sets)
    recipe = config.load(path, sets)
    session = nas.open_session(nas.Trained(tmp_path, path, recipe, weights), tune=True)
    assert recipe.task.sets.count(session.tune_set) == len(learnt)
    assert recipe.task.sets.count(session.bench.calibration.source.data) == len(learnt)  # type: ignore[union-attr]
    if recipe.task == TASKS["det"]:
        assert sorted(session.bench.calibration.ids) == sorted(learnt)
    common = (path, "--checkpoint", weights, "--device", "cpu", *(w for s in sets for w in ("--set", s)))
    done = nas.call("test", *common, "--split", "held_out", "--arch", "MIN", "--out", tmp_path / "t.jsonl")
    assert done.code == 0 and "note:" not in done.err and "trained on" not in done.err
    assert f"held out of training, to score archs on: {len(held)} of {len(learnt) + len(held)}" in done.err
    (record,) = nas.lines(tmp_path / "t.jsonl")
    protocol = record["protocol"]["direct"]
    assert (protocol["split"], protocol["images"]) == ("held_out", len(held))
    assert (protocol["held_out"], protocol["held_out_seed"]) == (0.25, 0)
    other = nas.good("test", *common, "--set", "data.held_out_seed=3", "--split", "held_out", "--arch", "MIN",
                     "--out", tmp_path / "t.jsonl")  # fmt: skip
    assert "held_out_seed" in other and len(nas.lines(tmp_path / "t.jsonl")) == 2  # another score, with a note
    assert "it has seen images that it is scored on" in nas.lines(tmp_path / "t.jsonl")[1]["notes"]["direct"][0]
    proof = nas.good("extract", *common, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "model",
                     "--set", "data.held_out=0")  # fmt: skip
    assert "score of the folder on held_out: " in proof and "equal to the record's" in proof


@pytest.mark.slow
def test_a_search_scores_on_them(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, data={"held_out": 0.5, "val": None}))
    monkeypatch.chdir(tmp_path)
    weights = train(path, tmp_path / "work", "train.steps=1")
    nas.good("search", path, "--checkpoint", weights, "--split", "held_out", "--evaluations", "2", "--algorithm",
             "random", "--device", "cpu")  # fmt: skip
    protocols = [record["protocol"]["direct"] for record in nas.lines(tmp_path / "search" / "results.jsonl")]
    assert [(p["split"], p["images"], p["held_out"]) for p in protocols] == [("held_out", 16, 0.5)] * 2


def test_what_is_refused(path: str, tmp_path: Path) -> None:
    train(path, tmp_path / "work", "train.steps=4", stop=2)
    with pytest.raises(ConflictError, match=r"data.held_out: 0.0 there, 0.1 here"):
        train(path, tmp_path / "work", "train.steps=4", "data.held_out=0.1")
    common = (path, "--checkpoint", tmp_path / "work" / "latest.pth", "--device", "cpu", "--split", "held_out")
    for verb in (("test", "--arch", "MAX"), ("search",)):
        assert "data.held_out is 0: no images of data.train were held out" in bad(*verb, *common)
    with pytest.raises(UsageError, match="leaves none to train on"):
        open_split(config.load(path, ["data.held_out=0.99"]), "train")
