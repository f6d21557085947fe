"""Training: a run that was killed ends as an unbroken one; what it starts from, and what goes wrong."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import get_worker_info
from torchvision.models import resnet

from searchkit.errors import ConflictError, UsageError
from searchkit.nas.train import checkpoint, supernet
from tests.support import nas, suite
from tests.support.nas import equal, tensors, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unbroken(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(config, working folder) of a training that nothing broke; it is evaluated twice."""
    folder = tmp_path_factory.mktemp("unbroken")
    path = write(folder / "cfg.yaml", tiny(toy, train={"steps": 24, "eval_epochs": 2, "warmup_steps": 2}))
    train(path, folder / "work")
    return path, folder / "work"


# ---- resume ----


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_any_moment(unbroken: tuple[str, Path], tmp_path: Path, stride: int) -> None:
    """Killed before the first checkpoint and over one; `long`: between two as well."""
    path, reference = unbroken
    work = tmp_path / "work"
    latest = work / "latest.pth"
    rng = random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        return nas.spawn("train", path, "--work-dir", work, "--set", "train.checkpoint_steps=1", cwd=tmp_path)

    def changed(times: int) -> Callable[[], bool]:
        seen = [latest.stat().st_ino if latest.exists() else 0]

        def check() -> bool:
            now = latest.stat().st_ino if latest.exists() else 0
            if now != seen[-1]:
                seen.append(now)
            return len(seen) > times

        return check

    def half_written() -> Callable[[], bool]:
        """In the middle of writing a checkpoint, if that takes long enough to be seen."""
        enough = changed(3)
        return lambda: any(p.name.startswith(".latest.pth.") for p in work.glob(".*")) or enough()

    steps = []
    moments = (lambda: work.exists, lambda: changed(1), half_written, lambda: changed(3))
    for moment in moments[::stride]:
        process = start()
        with nas.killed_after(process):
            suite.wait_for(moment(), why="the moment to kill")
            time.sleep(rng.uniform(0, 0.03))
            assert process.poll() is None, process.communicate()[1].decode()
        steps.append(checkpoint.load(str(latest)).step if latest.exists() else 0)
    assert steps == sorted(steps) and 0 < steps[-1] < 24
    process = start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    assert f"goes on at step {steps[-1]} of 24" in said.decode()
    for name in ("latest.pth", "best.pth"):
        assert equal(tensors(work / name), tensors(reference / name)), name
        assert checkpoint.load(str(work / name)).meta == checkpoint.load(str(reference / name)).meta
    assert {p.name for p in work.iterdir()} == {".lock", "best.pth", "latest.pth", "tensorboard"}  # none half-made


@pytest.mark.slow
def test_broken_off_and_gone_on_with_workers(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    path, reference = unbroken
    assert get_worker_info() is None
    for stop in (5, 17, None):
        train(path, tmp_path / "work", "data.workers=2", stop=stop)
    assert equal(tensors(tmp_path / "work" / "latest.pth"), tensors(reference / "latest.pth"))


@pytest.mark.slow
def test_attempts_of_a_job_go_on(unbroken: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reference = unbroken
    job = tmp_path / "job"
    first = nas.attempt(monkeypatch, job, 1)
    train(path, first / "work", stop=14)
    train(path, first / "other", "train.steps=2", seed=1)  # another training of the same job
    second = nas.attempt(monkeypatch, job, 2)
    train(path, second / "work")
    for name in ("latest.pth", "best.pth"):
        assert (second / "work" / name).resolve() == job / "checkpoint" / "work" / name
        assert equal(tensors(second / "work" / name), tensors(reference / name))
    train(path, second / "other", "train.steps=2", seed=1)
    assert tensors(second / "other" / "latest.pth")["step"] == 2


def test_one_that_came_to_its_end_leaves_its_checkpoint_alone(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    """Scores are kept with the digest of the file."""
    path, reference = unbroken
    shutil.copytree(reference, tmp_path / "work")
    train(path, tmp_path / "work")
    for name in ("latest.pth", "best.pth"):
        assert (tmp_path / "work" / name).read_bytes() == (reference / name).read_bytes(), name


def test_one_arch_that_a_step_trains_several_times_is_said(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy, train={"steps": 1}))
    command = ("train", path, "--set", "subnet=MAX", "--work-dir")
    note = "each step trains the one arch of the space 3 times; train.policy fixed trains it once"
    several = nas.call(*command, tmp_path / "several")
    assert several.code == 0 and note in several.err
    assert "each step trains" not in nas.call(*command, tmp_path / "once", "--set", "train.policy=fixed").err


@pytest.mark.slow
def test_the_seed_decides(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    path, reference = unbroken
    other = train(path, tmp_path / "other", "train.steps=2", seed=1)
    assert not equal(tensors(other), tensors(train(path, tmp_path / "same", "train.steps=2", seed=0)))
    again = tensors(train(path, tmp_path / "again"))
    assert equal(again, tensors(reference / "latest.pth"))
    with pytest.raises(ConflictError, match="of another training: seed 0 there, 1 here"):
        train(path, tmp_path / "again", seed=1)
    with pytest.raises(ConflictError, match="steps 24 there, 23 here"):
        train(path, tmp_path / "again", "train.steps=23")


@pytest.mark.slow
def test_a_lower_rate_counts_after_a_resume(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    train(path, tmp_path / "work", stop=3)
    rates: list[float] = []
    watch = nas.quiet(lambda report: rates.append(report.lr))
    train(path, tmp_path / "work", "train.lr=0.001", "train.schedule=constant", watch=watch, accept=True)
    assert rates == [0.001] * 4


# ---- initial weights ----


@pytest.mark.slow
def test_training_starts_from_weights_of_torchvision(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    torch.save(theirs.state_dict(), tmp_path / "r10.pth")
    body = tiny(toy, train={"steps": 1, "lr": 1e-30, "weight_decay": 0, "policy": "fixed"}, data={"val": None})
    body["space"] = {
        "backbone.stem.width": {"choices": [64, 72]},
        "backbone.body.width": [64, 128, 256, 512],
        "backbone.body.depth": [1, 1, 1, 2],
        "data.input_shape": 64,
    }
    said: list[str] = []
    watch = supernet.Watch(said.append, lambda _: None, lambda *_: None)
    path = write(tmp_path / "cfg.yaml", {**body, "init": "$WEIGHTS/r10.pth"})
    after = tensors(train(path, tmp_path / "work", watch=watch), optimizer=False)
    state = theirs.state_dict()
    for name in ("layer1.0.conv2.weight", "layer4.0.bn2.weight", "layer3.0.downsample.0.weight"):
        assert torch.equal(after[f"backbone.body.{name}"], state[name])
    assert torch.equal(after["backbone.body.conv1.weight"][:64], state["conv1.weight"])
    assert "fc.weight (a layer behind the mean of a classifier)" in " ".join(said)
    for i, (init, why) in enumerate(
        (
            ("none.pth", "cannot read none.pth: No such file or directory"),
            ("$NOWHERE/r10.pth", r"\$NOWHERE is not set, which \$NOWHERE/r10.pth needs"),
            ("package:efficientnet_lite9", "no package of weights is called 'efficientnet_lite9'"),
        )
    ):
        path = write(tmp_path / "cfg.yaml", {"init": init, **body})
        with pytest.raises(UsageError, match=rf"^{path}:2:10: init: {why}") as e:
            train(path, tmp_path / f"other{i}")
        assert e.value.hint


# ---- what goes wrong ----


@pytest.mark.slow
def test_a_loss_that_is_not_finite(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    train(path, tmp_path / "work", stop=3)
    before = tensors(tmp_path / "work" / "latest.pth")
    more = ("--set", "train.lr=1e30", "--accept-changes")
    said = nas.bad("train", path, "--work-dir", tmp_path / "work", *more, code=1)
    step = int(said.split("error: step ")[1].split(":")[0])
    assert step == 3 and "the loss is not finite" in said and "images [" in said and "Lower train.lr" in said
    assert before["step"] == 2 and tensors(tmp_path / "work" / "latest.pth")["step"] == 3


@pytest.mark.slow
def test_images_that_can_not_be_decoded(toy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("annotations", "images"):
        (data / name).mkdir()
        for file in (toy / name).iterdir():
            (data / name / file.name).write_bytes(file.read_bytes())
    (data / "images" / "train_00003.png").write_bytes(b"no image")
    path = write(tmp_path / "cfg.yaml", tiny(data))
    said = nas.call("train", path, "--work-dir", tmp_path / "work")
    assert said.code == 0 and "images that can't be used: 1; others took their places 1 times" in said.err
    for name in ("val_00002.png", "val_00004.png"):
        (data / "images" / name).write_bytes(b"no image")
    said_err = nas.bad("train", path, "--work-dir", tmp_path / "other")
    assert "val_00002.png" in said_err and "val_00004.png" in said_err
    assert not (tmp_path / "other" / "latest.pth").exists()


@pytest.mark.slow
def test_a_job_hears_of_steps_and_scores(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "callback").mkdir()
    monkeypatch.setenv("SEARCHKIT_CALLBACK", str(tmp_path / "callback"))
    path = write(tmp_path / "cfg.yaml", tiny(toy, train={"steps": 24, "policy": "single_path", "eval_epochs": 3}))
    nas.good("train", path, "--work-dir", tmp_path / "work")
    told: dict[int, dict[str, float]] = {}
    for line in nas.lines(tmp_path / "callback" / "scalars.jsonl"):
        told.setdefault(line.pop("step"), {}).update(line)
    assert list(told) == [18, 20, 24]  # scores every 18 steps and at the end, losses every 20 and at the end
    assert {"loss", "lr", "loss_classifier"} <= set(told[20]) and set(told[20]) | set(told[18]) == set(told[24])
    assert "MAX.bbox_mAP" in told[18]
