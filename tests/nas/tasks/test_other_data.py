"""Data other than the checkpoint's, and checkpoints of another space: rows of the head go by name, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.models.part import NEVER
from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet.results import open_results
from searchkit.nas.tasks import detection
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.splits import open_split
from tests.support import nas
from tests.support.nas import Trained, bad, good, lines, write

pytestmark = pytest.mark.usefixtures("one_thread")


def relabelled(trained: Trained, folder: Path, names: list[str]) -> dict[str, Any]:
    """The config on data whose categories are `names`, in that order; boxes of others are gone."""
    body = json.loads(Path(trained.config).read_text())
    for split in ("train", "val"):
        old = json.loads(Path(body["data"][split]["annotations"]).read_text())
        number = {c["id"]: names.index(c["name"]) + 11 for c in old["categories"] if c["name"] in names}
        kept = [a | {"category_id": number[a["category_id"]]} for a in old["annotations"] if a["category_id"] in number]
        old |= {"annotations": kept, "categories": [{"id": i, "name": n} for i, n in enumerate(names, 11)]}
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(old))
        body["data"][split]["annotations"] = str(folder / f"{split}.json")
    return body


@pytest.mark.parametrize("agnostic", [False, True])
def test_rows_of_the_head_go_by_name(trained: Trained, tmp_path: Path, agnostic: bool) -> None:
    body = json.loads(Path(trained.config).read_text())
    path, learnt = trained.config, trained.checkpoint
    if agnostic:
        body["model"]["class_agnostic"] = True
        path = write(tmp_path / "agnostic.yaml", body)
        learnt = nas.train(path, tmp_path / "work", "train.steps=2")
    own: Any = checkpoint.load(learnt)
    theirs = list(own.meta["categories"])
    recipe = config.load(path)
    cls, box = (own.net[f"roi_heads.box_predictor.{k}.weight"] for k in ("cls_score", "bbox_pred"))
    for names in (theirs[::-1], theirs[1:], ["oval", *theirs[::-1], "star"]):
        for to_train in (False, True):
            net, match = nets.load(recipe, own, names, 0, to_train=to_train, where="it")
            head: Any = net.get_submodule("roi_heads.box_predictor")
            rows = [0] + [1 + theirs.index(n) if n in theirs else None for n in names]
            for mine, its in enumerate(rows):
                if its is not None:
                    assert torch.equal(head.cls_score.weight[mine], cls[its])
                    if not agnostic:
                        assert torch.equal(head.bbox_pred.weight[4 * mine : 4 * mine + 4], box[4 * its : 4 * its + 4])
                elif to_train:
                    assert 0 < head.cls_score.weight[mine].abs().max() < 1 and head.cls_score.bias[mine] > -1
                else:
                    assert head.cls_score.bias[mine] == NEVER and head.cls_score.weight[mine].abs().max() == 0
            assert not agnostic or torch.equal(head.bbox_pred.weight, box)
            assert match.matched == tuple(n for n in names if n in theirs)
            assert torch.equal(net.state_dict()["backbone.body.conv1.weight"], own.net["backbone.body.conv1.weight"])


def test_scores_on_other_data(trained: Trained, tmp_path: Path) -> None:
    command = ("test", "--checkpoint", trained.checkpoint, "--arch", "MAX", "--out")
    (own,) = json.loads(good(*command, tmp_path / "own.jsonl", trained.config, "--json"))
    names = ["circle", "square", "triangle"]
    turned = write(tmp_path / "turned.yaml", relabelled(trained, tmp_path / "turned", names[::-1]))
    done = nas.call(*command, tmp_path / "turned.jsonl", turned)
    assert done.code == 0 and "classes: all 3 of the data are the checkpoint's" in done.err
    (record,) = lines(tmp_path / "turned.jsonl")
    assert record["metric"] == own["metric"]  # the same boxes under the same names
    assert record["protocol"]["direct"]["data"] != own["protocol"]["direct"]["data"]
    more = write(tmp_path / "more.yaml", relabelled(trained, tmp_path / "more", ["star", *names]))
    done = nas.call(*command, tmp_path / "more.jsonl", more)
    assert done.code == 0 and "classes: 3 matched by name, 1 start fresh (star)" in done.err
    assert "never learnt" not in done.err  # it has no example
    none = write(tmp_path / "none.yaml", relabelled(trained, tmp_path / "none", ["star", "moon"]))
    said = bad(*command, tmp_path / "none.jsonl", none)
    assert "none of the data's classes (star, moon) is one of the checkpoint's (circle, square, triangle)" in said
    assert "search-nas finetune" in said and not (tmp_path / "none.jsonl").exists()


def test_tuning_on_other_data(trained: Trained, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", relabelled(trained, tmp_path / "d", ["triangle", "moon", "circle"]))
    more = ("--out", tmp_path / "o.jsonl", "--work-dir", tmp_path / "w", "--set", "finetune.steps=2")
    done = nas.call("finetune", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", *more)
    assert done.code == 0 and "classes: 2 matched by name, 1 start fresh (moon)" in done.err
    found = checkpoint.load(str(tmp_path / "w" / "best" / "latest.pth"))
    assert found.meta["categories"] == ["triangle", "moon", "circle"]


def changed_val(trained: Trained, folder: Path, names: dict[str, int], keep: bool = False) -> dict[str, Any]:
    """The trained config with a validation file that declares these categories alone, under these ids, in this order;
    boxes of others are taken out."""
    raw = json.loads((trained.data / "annotations" / "instances_val.json").read_text())
    number = {c["id"]: names[c["name"]] for c in raw["categories"] if c["name"] in names}
    raw["annotations"] = [
        a | {"category_id": number[a["category_id"]]} for a in raw["annotations"] if a["category_id"] in number
    ]
    raw["categories"] = [{"id": value, "name": name} for name, value in names.items()]
    body: dict[str, Any] = json.loads(Path(trained.config).read_text())
    body["data"]["val"]["annotations"] = write(folder / "val.json", raw)
    return body


def test_a_file_with_fewer_categories_is_matched_by_name(trained: Trained, tmp_path: Path) -> None:
    body = changed_val(trained, tmp_path, {"triangle": 4, "circle": 9})  # fewer, in another order, under other ids
    path = write(tmp_path / "cfg.yaml", body)
    command = ("test", path, "--checkpoint", trained.checkpoint, "--arch", "MAX", "--out")
    done = nas.call(*command, tmp_path / "o.jsonl", "--json")
    assert done.code == 0, done.err
    lacks = "lacks (without examples: they count in no score): 1, square"
    assert done.err.count(lacks) == 1 and "classes:" not in done.err.replace("classes that", "")
    (record,) = json.loads(done.out)
    # the means over those present, which are found as before: what is no square has not changed
    session = nas.open_session(trained)
    static = subnet(session.net, trained.recipe.space.maximum(), session.config)
    session.bench.calibrate(static, 48, "fp32")
    found, _ = detection.predict(static, session.bench.batches.at(48), nas.CPU, "fp32")
    whole = session.bench.evaluator.evaluate(found)["per_class"]
    wanted = (whole["triangle"] + whole["circle"]) / 2
    assert record["metric"]["direct"]["toy_bbox_mAP"] == pytest.approx(wanted, abs=1e-6) and wanted > 0
    # the official evaluation of that file says the same
    data = open_split(config.load(path), "val", ("circle", "square", "triangle"))
    assert data.names == ("circle", "square", "triangle") and {n: i for i, n in data.categories}["triangle"] == 4
    # with data.classes it is no dead end either
    named = ("--set", "data.classes=[circle, square, triangle]")
    done = nas.call(*command, tmp_path / "named.jsonl", "--json", *named)
    assert done.code == 0 and json.loads(done.out)[0]["metric"] == record["metric"] and lacks in done.err
    done = nas.call("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=1", *named)
    assert done.code == 0 and done.err.count(lacks) == 1, done.err


def test_files_with_further_categories_do_not_mix(trained: Trained, tmp_path: Path) -> None:
    numbers = {"circle": 1, "square": 2, "triangle": 3}
    body = changed_val(trained, tmp_path, {**numbers, "moon": 4})
    done = nas.call("train", write(tmp_path / "cfg.yaml", body), "--work-dir", tmp_path / "w", "--set", "train.steps=1")
    assert done.code == 0 and "has (not of the training set, without examples): 1, moon" in done.err
    body = relabelled(trained, tmp_path / "d", ["circle", "square", "moon"])
    body["data"]["val"] = json.loads(Path(trained.config).read_text())["data"]["val"]
    path = write(tmp_path / "cfg.yaml", body)
    for verb in (
        ("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=1"),
        ("finetune", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl"),
    ):
        said = bad(*verb)
        assert "must have the same classes; " in said and "data.classes" in said
        assert "instances_val.json has triangle" in said


def with_further_class(body: dict[str, Any], split: str, folder: Path, name: str) -> str:
    """A copy of a split's annotations, in which the first box is of a further category."""
    raw = json.loads(Path(body["data"][split]["annotations"]).read_text())
    raw["categories"].append({"id": 77, "name": name})
    raw["annotations"][0]["category_id"] = 77
    return write(folder / f"{split}_{name}.json", raw)


def test_a_class_that_training_lacks_is_refused_by_all_that_scores(trained: Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    val, train = (with_further_class(body, split, tmp_path, "moon") for split in ("val", "train"))
    common = (trained.config, "--checkpoint", trained.checkpoint, "--device", "cpu")
    good("test", *common, "--arch", "MIN", "--out", tmp_path / "own.jsonl")
    of_val = ("--set", f"data.val.annotations={val}")
    for more in ((), ("--set", "test.calibration_images=0")):
        for verb in (
            ("test", *common, *of_val, *more, "--arch", "MIN", "--out", tmp_path / "o.jsonl"),
            ("extract", *common, *of_val, *more, "--arch", tmp_path / "own.jsonl", "--out", tmp_path / "m"),
        ):
            said = bad(*verb)
            assert "must have the same classes; " in said and "val_moon.json has moon" in said, verb
    assert not (tmp_path / "o.jsonl").exists() and not (tmp_path / "m").exists()
    # where the training set has it, it is the user's wish to score what the checkpoint never learnt
    both = (*of_val, "--set", f"data.train.annotations={train}")
    done = nas.call("test", *common, *both, "--arch", "MIN", "--out", tmp_path / "b.jsonl")
    assert done.code == 0 and "1 start fresh (moon)" in done.err
    note = "the score counts classes that the network never learnt, and never finds: 1, moon"
    assert done.err.count(f"note: {note}") == 1
    (record,) = lines(tmp_path / "b.jsonl")
    assert note in record["notes"]["direct"]


def test_the_checkpoint_of_another_space(trained: Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["space"]["backbone.stem.width"] = {"start": 4, "end": 12, "step": 4}
    body["data"]["val"]["annotations"] = "/nowhere.json"  # it is said before data is looked for
    path = write(tmp_path / "cfg.yaml", body)
    said = bad("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    assert "of another space: backbone.stem.width: 8 there, 12 here" in said
    assert "if it is of one subnet that was tuned, --set subnet=FILE with its record, and --arch MAX" in said
    same = json.loads(Path(trained.config).read_text())
    for change, named in (
        ({"fpn_channels": 8}, "fpn"),
        ({"box_head_width": 16}, "box_head"),
        ({"class_agnostic": True}, "bbox_pred"),
    ):
        body = {**same, "model": {**same["model"], **change}}
        path = write(tmp_path / "cfg.yaml", body)
        said = bad("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
        assert "does not fit the model of" in said and named in said


def test_more_classes_than_the_data_has(trained: Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["model"] |= {"num_classes": 9, "score_thresh": 0.0001}
    path = write(tmp_path / "cfg.yaml", body)
    good("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=2")  # scored at the end
    body["model"]["num_classes"] = 2
    said = bad("train", write(tmp_path / "cfg.yaml", body), "--work-dir", tmp_path / "other")
    assert "model.num_classes is 2, but the data has 3 categories" in said


def test_results_files(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a \.jsonl file"):
        open_results(str(tmp_path / "o.csv"), "direct")
    (tmp_path / "o.jsonl").write_text('{"metric": {"direct": {}}}\n')
    with pytest.raises(UsageError, match="is no results file: a record has no arch"):
        open_results(str(tmp_path / "o.jsonl"), "direct")
