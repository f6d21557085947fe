"""Factor transfer: a phase of its own for what makes factors of the teacher's features, then the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from searchkit.errors import ConflictError
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import checkpoint, pretrain, supernet
from searchkit.nas.train import net as nets
from searchkit.nas.train.loop import fit
from searchkit.nas.train.supernet import train_supernet
from tests.support import cls, nas
from tests.support.nas import CPU, bad, equal, good, quiet, tensors, train, write

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 3  # of the phase


@pytest.fixture(scope="module")
def teacher(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Another network; nobody writes to it."""
    folder = tmp_path_factory.mktemp("teacher")
    path = write(folder / "teacher.yaml", cls.tiny(toy_cls, "basic", data={"val": None}))
    return {"teacher": path, "checkpoint": train(path, folder / "work", "train.steps=1")}


def student(toy_cls: Path, folder: Path, teacher: dict[str, str], criterion: Any, **distill: Any) -> str:
    """A config whose narrowest and widest archs have features of another width and size than the teacher's."""
    mimic = {
        "student": "backbone.layer1.0",
        "teacher": "backbone.layer1.0",
        "loss": "ft",
        "weight": 10,
        "connector": "translator",
        "paraphraser": {"channels": 5, "pretrain_criterion": criterion},
    }
    changes = {"distill": {**teacher, "weight": 0, "mimic": [mimic], **distill}, "steps": 3}
    if criterion:
        changes["pretrain"] = {"steps": STEPS, "lr": 0.05, "lr_scaling": "none", "batch_size": 8, "checkpoint_steps": 1}
    return write(folder / "cfg.yaml", cls.tiny(toy_cls, "bottleneck", data={"val": None}, train=changes))


def paraphraser(path: str | Path) -> dict[str, Tensor]:
    return {k: v for k, v in checkpoint.load(str(path)).extras.items() if k.startswith("paraphraser")}


def test_the_phase_moves_the_paraphraser_and_the_training_the_rest(
    toy_cls: Path, teacher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student is the same to the bit before and after the phase, the paraphraser before and after the training."""
    path = student(toy_cls, tmp_path, teacher, {"type": "l1", "weight": 4})
    recipe = config.load(path)
    fresh = nets.build(recipe, cls.CLASSES, 0).state_dict()
    states: list[dict[str, Tensor]] = []

    def seen(run: Any, *args: Any, **more: Any) -> Any:
        states.append({k: v.clone() for k, v in run.net.state_dict().items()})
        yield from fit(run, *args, **more)
        states.append({k: v.clone() for k, v in run.net.state_dict().items()})

    for module in (pretrain, supernet):
        monkeypatch.setattr(module, "fit", seen)
    said: list[str] = []
    watch = supernet.Watch(said.append, lambda _: None, lambda *_: None)
    latest = train(path, tmp_path / "work", watch=watch)
    assert len(states) == 4 and equal(states[0], fresh) and equal(states[1], fresh) and equal(states[2], fresh)
    assert not equal(states[3], fresh)
    drawn = open_teaching(recipe, cls.CLASSES, CPU, 0)
    assert drawn is not None
    first = {k: v for k, v in drawn.extras.state_dict().items() if k.startswith("paraphraser")}
    learnt = paraphraser(tmp_path / "work" / "connectors.pth")
    assert learnt.keys() == first.keys() and not any(torch.equal(learnt[k], v) for k, v in first.items())
    assert equal(paraphraser(latest), learnt)
    translator = {k: v for k, v in checkpoint.load(latest).extras.items() if k.startswith("mimic_0.conv")}
    assert len(translator) == 6 and not equal(translator, {k: drawn.extras.state_dict()[k] for k in translator})
    lines = "\n".join(said)
    assert (
        f"pre-training of paraphraser_0: step 0 of {STEPS}, to " in lines and f"step {STEPS} of {STEPS}: loss" in lines
    )


def test_broken_off_in_each_phase(toy_cls: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    path = student(toy_cls, tmp_path, teacher, {"type": "mse"}, use_meal=True)
    whole = train(path, tmp_path / "unbroken")
    recipe, work = config.load(path), tmp_path / "work"
    real = pretrain.fit

    def broken(*args: Any, **more: Any) -> Any:
        for report in real(*args, **more):
            yield report
            if report.step == 1:
                raise nas.Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "fit", broken)
        train(path, work)
    kept = checkpoint.load(str(work / "connectors.pth"))
    assert kept.step == 2 and kept.optimizer and not (work / "latest.pth").exists()
    done, steps = train_supernet(
        recipe, str(work), seed=0, device=CPU, watch=quiet(), teach=open_teaching, phase="pretrain"
    )
    assert (done, steps) == (str(work / "connectors.pth"), STEPS) and not (work / "latest.pth").exists()
    assert equal(paraphraser(done), paraphraser(tmp_path / "unbroken" / "connectors.pth"))
    train(path, work, stop=2)  # its second step is done, and saved after
    again = train(path, work)
    assert equal(tensors(again), tensors(whole))
    learnt = checkpoint.load(whole).extras
    assert {"meal_0.layers.0.weight", "mimic_0.conv0.weight", "paraphraser_0.encoder.0.weight"} <= {*learnt}
    assert equal(checkpoint.load(again).extras, learnt)
    # a file of an earlier phase does as well, and there is no phase then
    distill = f"train.distill.connectors={done}"
    other = train(path, tmp_path / "other", distill, "train.pretrain=null")
    assert equal(tensors(other), tensors(whole)) and not (tmp_path / "other" / "connectors.pth").exists()


def test_without_a_criterion_there_is_no_phase(toy_cls: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    path = student(toy_cls, tmp_path, teacher, None)
    shown = good("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=1")
    assert "checkpoint: " in shown and not (tmp_path / "work" / "connectors.pth").exists()
    drawn = open_teaching(config.load(path), cls.CLASSES, CPU, 0)
    assert drawn is not None and "its weights stay as they are drawn" in drawn.notes[0]
    assert equal(
        paraphraser(tmp_path / "work" / "latest.pth"),
        {k: v for k, v in drawn.extras.state_dict().items() if k.startswith("paraphraser")},
    )
    text = bad("train", path, "--work-dir", tmp_path / "none", "--phase", "pretrain")
    assert "there is nothing to pre-train: no paraphraser of train.distill.mimic has a pretrain_criterion" in text


def test_what_is_refused(toy_cls: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    path = student(toy_cls, tmp_path, teacher, {"type": "mse"})

    def pretrained(*sets: str, accept: bool = False) -> None:
        recipe = config.load(path, sets)
        options: dict[str, Any] = {"teach": open_teaching, "accept": accept, "phase": "pretrain"}
        train_supernet(recipe, str(tmp_path / "work"), seed=0, device=CPU, watch=quiet(), **options)

    pretrained("train.pretrain.steps=1")
    with pytest.raises(ConflictError, match=r"is of another pre-training: steps, train\.pretrain differ"):
        pretrained("train.pretrain.steps=2")
    pretrained("train.pretrain.steps=2", accept=True)
    assert checkpoint.load(str(tmp_path / "work" / "connectors.pth")).step == 2

    def said(*sets: str) -> str:
        return bad("train", path, "--work-dir", tmp_path / "none", *(word for s in sets for word in ("--set", s)))

    text = said("train.distill.checkpoint=null", "train.distill.teacher=largest")
    assert (
        "train.distill.mimic[0].paraphraser: learns before the network does, but its teacher, the largest arch" in text
    )
    text = said(f"train.distill.connectors={teacher['checkpoint']}", "train.pretrain=null")
    assert "holds another paraphraser_0: encoder.0.weight is not there, and must be (" in text
    assert "is of paraphrasers with a pretrain_criterion" in said("train.distill={}")
    text = said("train.distill.mimic=[{student: backbone.layer1.0, loss: cwd}]", "train.pretrain=null")
    assert "they must be of the same shapes" in text and "conv_resize" in text
    text = said("train.distill.mimic=[{student: backbone.layer1.0, loss: at, temperature: 2}]", "train.pretrain=null")
    assert "train.distill.mimic[0].temperature: is of loss cwd, but loss is at" in text
    text = said("train.distill.mimic=[{student: fc, loss: at}]", "train.pretrain=null")
    assert "loss at is of maps (N, C, H, W), but fc of the student at MAX gives out 1x8" in text
