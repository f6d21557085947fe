"""What makes a score, a training or a subnet another one, and trainings that would leave out what they promise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from searchkit.errors import UsageError
from searchkit.nas.models.heads import linear as classifier
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.nas.train.sections import Train
from tests.support import cls, nas
from tests.support.nas import bad, good, lines, tensors, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learnt(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(config, checkpoint) of a supernet of MobileNetV2s with kernels of their own for each block."""
    folder = tmp_path_factory.mktemp("learnt")
    body = cls.tiny(toy_cls, "mobilenet", train={"policy": "single_path"})
    body["space"]["backbone.body.kernel"] = {"choices": [3, 5], "sample_strategy": "block_wise"}
    path = write(folder / "cfg.yaml", body)
    return path, train(path, folder / "work")


def changed(path: str, to: Path, **sections: dict[str, Any]) -> str:
    """The config with other values in its sections, at another place."""
    body = json.loads(Path(path).read_text())
    for name, values in sections.items():
        body[name] = {**body.get(name, {}), **values}
    return write(to, body)


# ---- scores ----


def test_other_images_to_tune_on_are_another_score(learnt: tuple[str, str], tmp_path: Path) -> None:
    path, weights = learnt
    common = ("--checkpoint", weights, "--arch", "MIN", "--out", tmp_path / "o.jsonl", "--work-dir", tmp_path / "f")
    for portion in ("[0, 0.5]", "[0.5, 1]", "[0, 0.5]"):
        half = ("--set", f"data.train.portion={portion}", "--set", "test.calibration_images=0")
        good("finetune", path, *common, *half)
    first, second = lines(tmp_path / "o.jsonl")
    protocols = [record["protocol"]["finetune"] for record in (first, second)]
    assert protocols[0].pop("tuned_data") != protocols[1].pop("tuned_data") and protocols[0] == protocols[1]


def test_another_network_is_another_score(learnt: tuple[str, str], tmp_path: Path) -> None:
    """What no tensor's shape tells is in the checkpoint; what weights don't depend on is in the score's protocol."""
    path, weights = learnt
    common = ("--checkpoint", weights, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    for name, value in (("image_std", [0.01, 0.01, 1]), ("backbone_options", {"strides": [2, 2, 2], "stem_stride": 1})):
        other = changed(path, tmp_path / "other.yaml", model={name: value})
        for verb in (("test", other, *common), ("extract", other, *common[:4], "--out", tmp_path / "model")):
            said = bad(*verb)
            assert "is the checkpoint of another model" in said and name in said and "there," in said
    assert not (tmp_path / "o.jsonl").exists() and not (tmp_path / "model").exists()
    for dropout in (0.0, 0.5, 0.0):
        good("test", changed(path, tmp_path / "other.yaml", model={"dropout": dropout}), *common)
    assert len({record["protocol"]["direct"]["model"] for record in lines(tmp_path / "o.jsonl")}) == 2
    found = checkpoint.load(weights)  # those that don't tell are taken at the config's word
    old = {k: v for k, v in found.meta.items() if k not in ("model", "images", "scored")}
    checkpoint.save(str(tmp_path), "old.pth", checkpoint.Checkpoint(found.net, found.step, found.optimizer, old))
    good("test", path, "--checkpoint", tmp_path / "old.pth", "--arch", "MIN", "--out", tmp_path / "old.jsonl")


def test_one_network_has_one_spelling(learnt: tuple[str, str], tmp_path: Path) -> None:
    path, weights = learnt
    arch = config.load(path).space.minimum().nested()
    other = json.loads(json.dumps(arch))
    other["backbone"]["body"]["kernel"][-1] = 5  # of a block that is not there
    given = nas.archs_file(tmp_path / "twice.jsonl", [{"arch": other}, {"arch": arch}])
    good("test", path, "--checkpoint", weights, "--archs", given, "--out", tmp_path / "o.jsonl")
    (record,) = lines(tmp_path / "o.jsonl")
    assert record["arch"] == arch
    good("flops", path, "--records", given, "--out", tmp_path / "f.jsonl")
    assert [r["arch"] for r in lines(tmp_path / "f.jsonl")] == [arch, arch]


# ---- subnets ----


def test_the_subnet_of_a_file_has_its_input_shape(learnt: tuple[str, str], tmp_path: Path) -> None:
    path, _ = learnt
    arch = config.load(path).space.minimum().nested()
    nas.archs_file(tmp_path / "one.jsonl", [{"arch": arch, "data": {"input_shape": [3, 40, 40]}}])
    recipe = config.load(path, [f"subnet={tmp_path / 'one.jsonl'}"])
    assert recipe.scales == (40,) and recipe.space.count() == 1
    nas.archs_file(tmp_path / "one.jsonl", [{"arch": arch}])
    assert config.load(path, [f"subnet={tmp_path / 'one.jsonl'}"]).scales == config.load(path).scales == (32, 40)


# ---- trainings ----


def test_other_labels_are_another_training(learnt: tuple[str, str], toy_cls: Path, tmp_path: Path) -> None:
    path, _ = learnt
    data = tmp_path / "toy"
    shutil.copytree(toy_cls, data)
    mine = changed(path, tmp_path / "mine.yaml", data={"train": {"path": str(data / "train")}, "val": None})
    train(mine, tmp_path / "work", "train.steps=2")
    one, two, *_ = sorted((data / "train").iterdir())
    next(one.iterdir()).rename(two / "moved.png")
    said = bad("train", mine, "--work-dir", tmp_path / "work", "--set", "train.steps=2", code=4)
    assert "is of another training: images " in said


def test_an_image_that_can_not_be_scored_costs_no_training(
    learnt: tuple[str, str], toy_cls: Path, tmp_path: Path
) -> None:
    path, _ = learnt
    data = tmp_path / "toy"
    shutil.copytree(toy_cls, data)
    broken = next(next((data / "val").iterdir()).iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    less = {"cache_mb": 0, "val": {"path": str(data / "val")}}  # otherwise it is seen before the first step
    mine = changed(path, tmp_path / "mine.yaml", data=less, train={"checkpoint_steps": 100})
    work = tmp_path / "work"
    assert str(broken) in bad("train", mine, "--work-dir", work)
    assert checkpoint.load(str(work / "latest.pth")).step == 6
    broken.write_bytes(whole)
    shown = json.loads(good("train", mine, "--work-dir", work, "--json"))
    assert set(shown["metrics"]) == {"MAX", "MIN"} and (work / "best.pth").exists()
    train(mine, tmp_path / "unbroken")
    assert nas.equal(tensors(work / "latest.pth"), tensors(tmp_path / "unbroken" / "latest.pth"))
    assert not json.loads(good("train", mine, "--work-dir", work, "--json"))["metrics"]  # all was done


def test_a_training_reaches_the_ends_of_its_schedules(toy_cls: Path, tmp_path: Path) -> None:
    """32 images in batches of 5 are 7 steps an epoch, in the training as in its schedules."""
    body = cls.tiny(toy_cls, "mobilenet", train={"policy": "single_path", "batch_size": 5, "steps": None, "epochs": 2})
    body["space"]["backbone.body.kernel"] = {"boundary": [1, 3], "value": [[[3], [3], [3]], [[3], [3, 5], [3]]]}
    path = write(tmp_path / "cfg.yaml", body)
    said = bad("train", path, "--work-dir", tmp_path / "work")
    assert "come to their last values in epoch 3, but the training of 14 steps ends in epoch 2" in said
    assert not (tmp_path / "work" / "latest.pth").exists()
    train(path, tmp_path / "work", "train.epochs=3")
    assert checkpoint.load(str(tmp_path / "work" / "latest.pth")).step == 21


def test_in_place_the_largest_alone_has_dropout(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BigNAS, §3.2. A teacher of its own leaves it to all."""
    real, seen = F.dropout, []

    def noted(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        seen.append((p, training))
        return real(x, p, training)

    monkeypatch.setattr(classifier.F, "dropout", noted)
    more = {"steps": 1, "distill": {}, "random_archs": 1}
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "bottleneck", train=more, data={"val": None}))
    train(path, tmp_path / "work")
    assert seen == [(0.2, True), (0.0, True), (0.0, True)]
    del seen[:]
    teacher = f"{{config: {path}, checkpoint: {tmp_path / 'work' / 'latest.pth'}}}"
    train(path, tmp_path / "taught", f"train.distill={teacher}")
    assert [p for p, training in seen if training] == [0.2] * 3


# ---- what a config must not say ----


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"milestones": (8, 11)},
            "milestones[0]: must be a number above 0 and below 1, not 8; milestones[1]: must be",
        ),
        ({"milestones": (0.9, 0.7)}, "must ascend, but are [0.9, 0.7]"),
        ({"momentum": 1.5}, "momentum: must be a number of 0 or more and below 1, not 1.5"),
        ({"momentum": float("nan")}, "momentum: must be a number of 0 or more and below 1, not nan"),
        ({"momentum": 0, "nesterov": True}, "must be above 0 with nesterov"),
        (
            {"weight_decay": -1, "gamma": -3, "floor": -2},
            "weight_decay: must be a number of 0 or more, not -1; gamma: must be",
        ),
        (
            {"lr": float("inf"), "epochs": float("inf")},
            "epochs: must be a number above 0, not inf; lr: must be a number above 0, not inf",
        ),
    ],
)
def test_numbers_that_make_no_training(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        Train(**values)
    assert said in str(e.value)


def test_an_unknown_task_is_a_fault_with_its_place(learnt: tuple[str, str], tmp_path: Path) -> None:
    text = Path(learnt[0]).read_text().replace('"task": "cls"', '"task": "classification"')
    (tmp_path / "typo.yaml").write_text(text)
    said = bad("space", tmp_path / "typo.yaml")
    assert "typo.yaml:2:" in said and "task: must be one of det, cls, not 'classification'" in said
    assert "unknown key" not in said
    for key, value in (("norm_eps", -1), ("norm_group", 0)):
        body = json.loads(Path(learnt[0]).read_text())
        body["model"]["backbone_options"][key] = value
        said = bad("space", write(tmp_path / "cfg.yaml", body))
        assert "norm_eps must be at least 0 and norm_group at least 1" in said
