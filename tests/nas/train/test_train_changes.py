"""What may change while a training goes on: all else is refused, with the difference; one at its end goes on."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.errors import ConflictError
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint, kept, sections
from searchkit.nas.train.supernet import Watch
from searchkit.nas.train.values import text_of
from tests.support import cls, nas
from tests.support.nas import call, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def begun(toy_cls: Path, tmp_path: Path) -> tuple[str, Path]:
    """(config, working folder) of a training that was broken off after three of six steps."""
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "basic", test={"calibration_images": 0}))
    train(path, tmp_path / "work", stop=3)
    return path, tmp_path / "work"


def said(lines: list[str], rates: list[float] | None = None) -> Watch:
    return Watch(lines.append, lambda r: rates.append(r.lr) if rates is not None else None, lambda *_: None)


def test_what_trains_otherwise_is_refused_key_by_key(begun: tuple[str, Path]) -> None:
    path, work = begun
    changes = {
        "train.optimizer=adamw": 'train.optimizer: "sgd" there, "adamw" here',
        "train.lr=0.01": "train.lr: 0.05 there, 0.01 here",
        "train.batch_size=4": "train.batch_size: 8 there, 4 here",
        "train.weight_decay=0.1": "train.weight_decay: 0.0001 there, 0.1 here",
        "data.augment.flip=0.25": "data.augment.flip: 0.5 there, 0.25 here",
        "model.dropout=0.1": "model.dropout: 0.0 there, 0.1 here",
        "init=torchvision:resnet18": 'init: null there, "torchvision:resnet18" here',
        "space.backbone.stem.width={choices: [6, 8]}": "space.backbone.stem.width: ",
    }
    before = (work / "latest.pth").read_bytes()
    for change, difference in changes.items():
        with pytest.raises(ConflictError, match=f"of another training: {re.escape(difference)}"):
            train(path, work, change)
    sets = [word for change in changes for word in ("--set", change)]
    done = call("train", path, "--work-dir", work, "--device", "cpu", *sets)
    assert done.code == 4 and all(difference in done.err for difference in changes.values())
    assert "Train in another --work-dir" in done.err and "--accept-changes" not in done.err  # another optimizer's state
    assert (work / "latest.pth").read_bytes() == before


def test_every_key_is_one_or_the_other(toy: Path, toy_cls: Path, tmp_path: Path) -> None:
    for i, body in enumerate((nas.tiny(toy), cls.tiny(toy_cls))):
        recipe = config.load(write(tmp_path / f"{i}.yaml", body))
        decides = kept.deciding(recipe, 1)
        parts = {"model": recipe.model, "data": recipe.data, "train": recipe.train, "data.augment": recipe.data.augment}
        keys = {f"{name}.{field.name}" for name, part in parts.items() for field in dataclasses.fields(part)}
        keys.remove("data.augment")
        assert keys == ({*decides} & keys) | ({*kept.FREE} & keys) and not {*decides} & kept.FREE
    fields = {f"train.{f.name}" for f in dataclasses.fields(sections.Train)}
    assert {key for key in kept.FREE if key.startswith("train.")} <= fields


@pytest.mark.slow
def test_what_may_change_does(begun: tuple[str, Path]) -> None:
    path, work = begun
    changes = ("data.cache_mb=5", "data.workers=1", "train.checkpoint_steps=2", "train.eval_archs=[MIN]", "data.name=x")
    reference = train(path, work.parent / "unbroken")
    lines: list[str] = []
    train(path, work, *changes, "train.best_arch=MIN", "test.batch_size=24", watch=said(lines))
    assert nas.equal(nas.tensors(work / "latest.pth"), nas.tensors(reference))
    assert any("best.pth counts anew: it is of MIN top1 now" in line for line in lines)


def test_changes_may_be_accepted_and_are_kept(begun: tuple[str, Path]) -> None:
    path, work = begun
    train(path, work, "train.lr=0.01", accept=True, stop=5)
    with pytest.raises(ConflictError, match=r"train.lr: 0.01 there, 0.05 here"):
        train(path, work)
    train(path, work, "train.lr=0.01", stop=6)
    first = {"step": 2, "changed": ["train.lr: 0.05 there, 0.01 here"]}
    assert checkpoint.load(str(work / "latest.pth")).meta["changes"] == [first]
    done = call("train", path, "--work-dir", work, "--device", "cpu", "--set", "train.lr=0.02", "--accept-changes")
    second = "train.lr: 0.01 there, 0.02 here"
    assert done.code == 0 and f"goes on with what has changed: {second}" in done.err
    found = checkpoint.load(str(work / "latest.pth"))
    assert found.step == 6 and found.meta["changes"] == [first, {"step": 5, "changed": [second]}]
    with pytest.raises(ConflictError, match=r"train.optimizer can't change"):
        train(path, work, "train.lr=0.02", "train.optimizer=adamw", accept=True)


@pytest.mark.slow
def test_one_at_its_end_goes_on(toy_cls: Path, tmp_path: Path) -> None:
    body = cls.tiny(toy_cls, "basic", train={"schedule": "linear", "lr": 0.08}, test={"calibration_images": 0})
    path, work = write(tmp_path / "cfg.yaml", body), tmp_path / "work"
    with pytest.raises(ConflictError, match="steps 6 there, 8 here"):  # it was not at its end
        train(path, work, stop=3)
        train(path, work, "train.steps=8")
    train(path, work)
    lines: list[str] = []
    rates: list[float] = []
    train(path, work, "train.steps=8", watch=said(lines, rates))
    assert rates == pytest.approx([0.02, 0.01])  # a function of progress
    text = "come to its end, step 6; it goes on to step 8. Its schedule (linear) now spans all 8: lr was 0.013"
    assert text in "\n".join(lines)
    found = checkpoint.load(str(work / "latest.pth"))
    assert found.step == 8 and found.meta["changes"] == [{"step": 6, "changed": ["steps: 6 there, 8 here"]}]
    with pytest.raises(ConflictError, match="steps 8 there, 6 here"):
        train(path, work)


def test_one_with_restarts_goes_on_as_one_long_training(toy_cls: Path, tmp_path: Path) -> None:
    """32 images in batches of 8: an epoch is four steps. Restarts don't depend on its end, nor on where it broke."""
    restarts = {"schedule": "cosine", "restart_epochs": 1, "restart_mult": 2, "steps": None}
    body = cls.tiny(toy_cls, "basic", train=restarts, test={"calibration_images": 0}, data={"val": None})
    path, work = write(tmp_path / "cfg.yaml", body), tmp_path / "work"
    rates: list[float] = []
    reference = train(path, tmp_path / "unbroken", "train.epochs=4", watch=said([], rates))
    assert [step for step, rate in enumerate(rates) if rate == 0.05] == [0, 4, 12]
    lines: list[str] = []
    train(path, work, "train.epochs=2", stop=3)
    train(path, work, "train.epochs=2")
    train(path, work, "train.epochs=4", watch=said(lines))
    assert nas.equal(nas.tensors(work / "latest.pth"), nas.tensors(reference))
    assert "to step 16, as its schedule of restarts says: lr was 0.035, and goes on with 0.025" in "\n".join(lines)
    assert "restart" not in text_of(sections.Finetune())  # digests of older results stay as they are


def test_what_gives_weights_their_shapes_cannot_be_accepted(begun: tuple[str, Path]) -> None:
    path, work = begun
    other = "model.backbone_options={block: bottleneck}"
    before = (work / "latest.pth").read_bytes()
    for more in ((), ("--accept-changes",)):
        done = call("train", path, "--work-dir", work, "--device", "cpu", "--set", other, *more)
        assert done.code == 4 and "model.backbone_options: " in done.err
        assert re.search(r"; the shapes of weights \(\S+: \S.* there, \S.* here, and \d+ more\) can't change", done.err)
        assert done.err.rstrip().endswith("Train in another --work-dir, or put the config back")
    assert (work / "latest.pth").read_bytes() == before


def test_steps_that_are_done_stay_done(begun: tuple[str, Path]) -> None:
    path, work = begun
    before = (work / "latest.pth").read_bytes()
    for accept in (False, True):
        with pytest.raises(ConflictError, match="steps 6 there, 1 here; the 2 steps that are done can't change") as e:
            train(path, work, "train.steps=1", accept=accept)
        assert "--accept-changes" not in e.value.hint
    assert (work / "latest.pth").read_bytes() == before
    train(path, work, "train.steps=4", accept=True)
    assert checkpoint.load(str(work / "latest.pth")).step == 4


def test_a_metric_that_is_none_is_refused_before_anything_is_announced(begun: tuple[str, Path]) -> None:
    path, work = begun
    done = call("train", path, "--work-dir", work, "--device", "cpu", "--set", "train.best_metric=top1/none")
    assert done.code == 2 and "train.best_metric top1/none: there is no such metric" in done.err
    assert "anew" not in done.err and "goes on" not in done.err


def test_a_checkpoint_of_an_older_version_goes_on_with_a_note(begun: tuple[str, Path]) -> None:
    path, work = begun
    latest = str(work / "latest.pth")
    content = torch.load(latest, weights_only=True)
    for key in ("config", "best_of"):
        del content["meta"][key]
    torch.save(content, latest)
    lines: list[str] = []
    train(path, work, watch=said(lines))
    assert any("keeps no config, as older versions made it" in line for line in lines)
    assert "config" in checkpoint.load(latest).meta
    # a key that came later had its default
    config_of: dict[str, Any] = json.loads(json.dumps(checkpoint.load(latest).meta["config"]))
    del config_of["train.clip_norm"]
    assert kept.differences(config_of, config.load(path), 1) == {}
    clipped = config.load(path, ["train.clip_norm=1"])
    assert [*kept.differences(config_of, clipped, 1).values()] == ["train.clip_norm: null there, 1.0 here"]
    assert "ranks: 1 there, 2 here" in kept.differences(config_of, config.load(path), 2).values()
