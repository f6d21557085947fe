"""Whoever can be a teacher, in one line of a training and of a tuning; and who is refused."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.export.table import ONNX, Wishes
from searchkit.nas.models.class_logits import kl
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.subnet.extract import extract, load_folder
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching, open_tuning
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.distill import Scores, Teaching, watched
from searchkit.nas.train.distill_section import LARGEST
from searchkit.nas.train.divergences import adaptive, dkd
from searchkit.nas.train.mimics import MIMICS, resized
from tests.support import cls, nas
from tests.support.nas import CPU, bad, good, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")
BACKWARDS = cls.CLASSES[::-1]  # as the shelf's networks here call their outputs
SHELF = "torchvision:mobilenet_v3_small"


@pytest.fixture(scope="module")
def shelf(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that teach, by kind; nobody writes to them."""
    folder = tmp_path_factory.mktemp("shelf")
    path = write(folder / "teacher.yaml", cls.tiny(toy_cls, "basic", data={"val": None}))
    recipe = config.load(path)
    extract(cls.fresh(recipe), recipe, recipe.space.minimum(), 32, str(folder / "model"), wishes=Wishes((ONNX,)))
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small(num_classes=8).state_dict(), folder / "shelf.pth")
    torch.save(Tiny(8).state_dict(), folder / "tiny.pth")
    weights = train(path, folder / "work", "train.steps=1")
    return {"config": path, "work": weights, **{n: str(folder / n) for n in ("model", "shelf.pth", "tiny.pth")}}


class Tiny(nn.Module):
    """What stands for a network of timm's."""

    pretrained_cfg = MappingProxyType({"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)})

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


def by_name(shelf: dict[str, str]) -> dict[str, tuple[dict[str, Any], Any]]:
    """Sections of each kind, and what the scores of images (N, 3, H, W) of 0..1 should be, in the data's order."""
    small, own = models.mobilenet_v3_small(num_classes=8).eval(), Tiny(8)
    small.load_state_dict(torch.load(shelf["shelf.pth"]))
    own.load_state_dict(torch.load(shelf["tiny.pth"]))
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mine = (
        torch.tensor(own.pretrained_cfg["mean"])[:, None, None],
        torch.tensor(own.pretrained_cfg["std"])[:, None, None],
    )
    folder = load_folder(shelf["model"])
    return {
        "folder": ({"teacher": shelf["model"]}, folder),
        "onnx": ({"teacher": f"{shelf['model']}/model.onnx"}, folder),
        "torchvision": (
            {"teacher": SHELF, "checkpoint": shelf["shelf.pth"], "classes": [*BACKWARDS]},
            lambda x: small((x - mean) / std).flip(1),
        ),
        "timm": (
            {"teacher": "timm:tiny", "checkpoint": shelf["tiny.pth"], "classes": [*BACKWARDS]},
            lambda x: own((x - mine[0]) / mine[1]).flip(1),
        ),
    }


def taught(teaching: Teaching | None, images: Tensor) -> Tensor:
    """The class scores of the only teacher, in the order of the data's classes."""
    assert teaching is not None
    (scores,) = teaching.distillers
    assert isinstance(scores, Scores)
    seen = teaching.begin(nn.Identity(), images, None, 1, 0).seen[scores.teacher][scores.of_teacher]
    ordered: Tensor = scores.theirs.flat(seen[-1])[..., list(scores.order)]
    return ordered


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module timm that knows one network."""
    made = SimpleNamespace(
        is_model=lambda name: name == "tiny",
        list_models=lambda: ["tiny"],
        create_model=lambda name, pretrained, num_classes: Tiny(num_classes),
    )
    monkeypatch.setitem(sys.modules, "timm", made)


@pytest.mark.usefixtures("timm")
def test_each_kind_gives_its_scores_in_our_order(toy_cls: Path, shelf: dict[str, str], tmp_path: Path) -> None:
    """Of 8-bit images, as a loader gives them: to the bit, but for onnxruntime."""
    images = cls.images(3).float() / 255
    for name, (section, scores) in by_name(shelf).items():
        for verb in ("train", "finetune"):
            recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, **{verb: {"distill": section}})))
            static = nets.build(recipe, cls.CLASSES, 0)
            if verb == "train":
                teaching = open_teaching(recipe, cls.CLASSES, CPU, 0)
            else:
                teaching = open_tuning(recipe, cls.CLASSES, static, partial(nn.Identity), 32, CPU, 0)
            with torch.no_grad():
                wanted = scores(images)
            tolerance = 1e-4 if name == "onnx" else 0.0
            torch.testing.assert_close(taught(teaching, images), wanted, rtol=0, atol=tolerance, msg=f"{name} {verb}")
            assert teaching is not None and not teaching.in_place
            assert not any(p.requires_grad for net in teaching.teachers.values() for p in net.parameters())


def test_one_line_in_a_training(toy_cls: Path, shelf: dict[str, str], tmp_path: Path) -> None:
    """A config with its checkpoint is the same in one word as in two; the largest needs no more than its name."""
    images = cls.images(3).float() / 255

    def opened(section: dict[str, Any]) -> Teaching | None:
        recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train={"distill": section})))
        return open_teaching(recipe, cls.CLASSES, CPU, 0)

    names = ("config", "teacher")
    one, other = (taught(opened({name: shelf["config"], "checkpoint": shelf["work"]}), images) for name in names)
    assert torch.equal(one, other)
    for section in ({}, {"teacher": "largest"}):
        teaching = opened(section)
        assert teaching is not None and teaching.in_place and not teaching.teachers


def test_the_largest_teaches_in_a_tuning(toy_cls: Path, tmp_path: Path) -> None:
    """That of the supernet, static, with statistics of its own; a tuning that was broken off goes on as the unbroken
    one, its discriminator and its connector, too."""
    mimic = {"student": "backbone.head", "connector": "conv", "loss": "mse"}
    lesson = {"teacher": "largest", "use_meal": True, "mimic": [mimic]}
    path = write(
        tmp_path / "cfg.yaml",
        cls.tiny(toy_cls, "mobilenet", data={"val": {"path": str(toy_cls / "val")}}, finetune={"distill": lesson}),
    )
    weights = train(path, tmp_path / "work", "train.steps=1", "train.eval_archs=[]")
    common = ("finetune", path, "--checkpoint", weights, "--arch", "MIN", "--set", "finetune.checkpoint_steps=1")
    good(*common, "--work-dir", tmp_path / "a", "--out", tmp_path / "a.jsonl")
    whole = tmp_path / "a" / "best" / "latest.pth"
    from searchkit.nas.subnet import sweep

    real, stop = sweep.fit, 2

    def broken(*args: Any, **more: Any) -> Any:
        for report in real(*args, **more):
            yield report
            if report.step + 1 == stop:
                raise nas.Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(nas.Stopped):
        patch.setattr(sweep, "fit", broken)
        from searchkit.nas.cli.main import main_command

        main_command(
            [*map(str, (*common, "--work-dir", tmp_path / "b", "--out", tmp_path / "b.jsonl"))], standalone_mode=False
        )
    (half,) = (tmp_path / "b").glob("*/latest.pth")
    kept = checkpoint.load(str(half))
    assert kept.step == 2 and {*kept.extras} >= {"mimic_0.weight", "meal_0.layers.0.weight"}
    good(*common, "--work-dir", tmp_path / "b", "--out", tmp_path / "b.jsonl")
    assert nas.equal(nas.tensors(half), nas.tensors(whole))
    recipe = config.load(path)
    net = nets.build(recipe, cls.CLASSES, 0)
    teaching = open_tuning(recipe, cls.CLASSES, net, lambda: nets.build(recipe, cls.CLASSES, 1), 32, CPU, 0)
    assert teaching is not None and [*teaching.teachers] == [LARGEST] and not teaching.in_place
    soft = teaching.begin(net, torch.rand(2, 3, 32, 32), None, 1, 0).soft()
    assert soft is not None and soft.label_weight == 1


def test_several_teachers_and_jobs_at_once(toy_cls: Path, shelf: dict[str, str], tmp_path: Path) -> None:
    """Each loss by itself as it is by hand, of the same step."""
    module = "backbone.layer2.0"
    section = {
        "teacher": "largest",
        "weight": 0.5,
        "teachers": {
            "file": {"teacher": shelf["model"]},
            "net": {"config": shelf["config"], "checkpoint": shelf["work"]},
        },
        "scores": [
            {"of": "file", "loss": {"type": "dkd", "beta": 2}, "temperature": 2},
            {"of": "net", "loss": "alpha", "weight": 3, "use_meal": True},
        ],
        "mimic": [
            {"student": module, "of": "net", "loss": "cwd", "connector": "conv_resize", "weight": 2},
            {"student": module, "of": "largest", "loss": "at"},
        ],
    }
    path = write(
        tmp_path / "cfg.yaml", cls.tiny(toy_cls, "bottleneck", model={"num_classes": 9}, train={"distill": section})
    )
    recipe = config.load(path)
    teaching = open_teaching(recipe, cls.CLASSES, CPU, 0)
    assert teaching is not None and teaching.in_place and {*teaching.teachers} == {"file", "net"}
    assert {*teaching.extras} == {"mimic_0", "meal_2"}
    net, x = nets.build(recipe, cls.CLASSES, 0), torch.rand(4, 3, 32, 32)
    labels = torch.tensor([0, 3, 7, 7])
    step = teaching.begin(net, x, (labels, torch.arange(4), 8), 1, 0)
    seen = []
    for arch in (recipe.space.maximum(), recipe.space.minimum()):
        set_arch(net, arch)
        with watched(net, teaching.of_student) as one:
            net(x)
        seen.append(one)
        if arch == recipe.space.maximum():
            step.keep(one)
    found = step.losses(seen[1])
    names = {"loss_distill_0", "loss_distill_1", "loss_distill_2", "loss_meal_2", "loss_mimic_0", "loss_mimic_1"}
    assert found.keys() == names
    ours, largest = (each["fc"][0][:, :8] for each in (seen[1], seen[0]))
    file, other = (step.seen[name] for name in ("file", "net"))
    log_q, log_p, log_file, log_net = (each.log_softmax(1) for each in (ours, largest, file[""][0], other["fc"][0]))
    torch.testing.assert_close(found["loss_distill_0"], 0.5 * kl(log_q, log_p).sum() / 4)
    by_2 = dkd((ours / 2).log_softmax(1), (file[""][0] / 2).log_softmax(1), labels, alpha=1, beta=2)
    torch.testing.assert_close(found["loss_distill_1"], 4 * by_2.mean())
    assert not torch.equal(log_file, log_net)
    torch.testing.assert_close(
        found["loss_distill_2"], 3 * adaptive(log_q, log_net, alphas=(-1.0, 1.0), clip=5.0).sum() / 4
    )
    mapped = teaching.extras["mimic_0"](resized(seen[1][module][0], other[module][0]))
    torch.testing.assert_close(found["loss_mimic_0"], 2 * MIMICS["cwd"].loss(mapped, other[module][0], 4.0))
    torch.testing.assert_close(found["loss_mimic_1"], MIMICS["at"].loss(seen[1][module][0], seen[0][module][0], 1.0))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in teaching.extras.parameters())
    with pytest.raises(
        SearchkitError, match=r"loss_mimic_0 is of backbone\.layer2\.0 of the student, which gave out nothing"
    ):
        step.losses({**seen[1], module: []})


def test_folders_of_detectors_teach(toy: Path, tmp_path: Path) -> None:
    """Class logits where the student's head has them, and features by name; of a Faster R-CNN and of a RetinaNet."""
    model = {"neck": "elastic_fpn", "neck_options": {"out_channel": 16}, "head": "retinanet"}
    model |= {"head_options": {"width": 8, "depth": 1, "anchor_sizes": [8, 16, 32, 64, 96]}}
    for name, options in (("rcnn", {}), ("retina", model)):
        body = tiny(toy, data={"val": None})
        if options:
            body["model"] = {k: v for k, v in body["model"].items() if k.startswith("backbone")} | options
        recipe = config.load(write(tmp_path / f"{name}.yaml", body))
        classes = ("circle", "square", "triangle")
        net = nets.build(recipe, classes, 3).eval()
        source = cls.Source(net, nets.sized(recipe, classes), recipe.space.maximum(), classes, "x.pth", "0" * 64)
        folder = str(tmp_path / name)
        extract(source, recipe, recipe.space.maximum(), 64, folder)
        mimic = [{"student": "backbone.fpn.layer_blocks.0.0"}]
        body["train"]["distill"] = {"teacher": folder, "mimic": mimic, "loss": "alpha", "use_meal": True}
        recipe = config.load(write(tmp_path / f"{name}.yaml", body))
        teaching = open_teaching(recipe, classes, CPU, 0)
        assert teaching is not None
        images = [torch.rand(3, 64, 64) for _ in range(2)]
        for each in (net, *teaching.teachers.values()):
            recipe.task.network.set_scale(each, 64, recipe.data)
        seen = teaching.begin(net, images, [], 1, 0).seen[""]
        scores, features = teaching.distillers
        assert isinstance(scores, Scores)
        with torch.no_grad(), watched(net, [scores.of_student, features.of_student]) as ours:
            net(images)
        assert torch.equal(
            scores.theirs.flat(seen[scores.of_teacher][-1]), scores.ours.flat(ours[scores.of_student][-1])
        )
        assert torch.equal(seen[features.of_teacher][-1], ours[features.of_student][-1])
        at = teaching.begin(net, images, [], 1, 0)
        losses = scores.losses(ours[scores.of_student], seen[scores.of_teacher], at)
        assert abs(losses["loss_distill"]) < 1e-5 < losses["loss_meal"]  # of the same scores
        columns = {"rcnn": 1, "retina": 3}[name]
        assert teaching.extras["meal_0"].layers[0].in_features == columns


def test_who_is_refused(toy_cls: Path, toy: Path, shelf: dict[str, str], tmp_path: Path) -> None:
    def said(section: dict[str, Any], **changes: Any) -> str:
        body = cls.tiny(toy_cls, train={"distill": section}, **changes)
        return bad("train", write(tmp_path / "cfg.yaml", body), "--work-dir", tmp_path / "none")

    fewer = {"data": {"classes": [*cls.CLASSES[:6]]}}
    text = said({"teacher": shelf["model"]}, **fewer)
    assert f"the teacher {shelf['model']} has other classes than the data: the data lacks " in text
    text = said({"teacher": SHELF})
    assert "mobilenet_v3_small: its weights are not on this machine" in text and "Fetch https://" in text
    text = said({"teacher": "torchvision:mobilenet_v3_smal"})
    assert "torchvision has no 'mobilenet_v3_smal' (did you mean mobilenet_v3_small?)" in text
    assert "is of task det" in said({"teacher": "torchvision:retinanet_resnet50_fpn"})
    text = said({"teacher": SHELF, "checkpoint": shelf["shelf.pth"]})
    assert "train.distill.classes: " in text and "doesn't say which classes its scores are of" in text
    text = said({"teacher": SHELF, "checkpoint": shelf["tiny.pth"], "classes": [*BACKWARDS]})
    assert f"train.distill: {shelf['tiny.pth']} does not fit {SHELF}: " in text
    text = said({"teacher": SHELF, "checkpoint": shelf["shelf.pth"], "classes": [*BACKWARDS[:7], "zigzag"]})
    assert f"the teacher {SHELF} has other classes than the data: it lacks " in text and "lacks zigzag" in text
    assert "there is no module 'timm'" in said({"teacher": "timm:tiny"})
    text = said({"teacher": "torchvison:resnet18"})
    assert "torchvison:resnet18 is no teacher (did you mean torchvision?)" in text
    assert "It can be largest, torchvision:NAME, timm:NAME, a FILE.onnx, an extracted folder, a config with its" in text
    assert "there is no file none.onnx" in said({"teacher": "none.onnx"})
    assert "holds no extracted model" in said({"teacher": str(tmp_path)})
    text = said({"teacher": shelf["config"]})
    assert "train.distill.checkpoint: the teacher " in text and "needs its weights" in text
    assert "is named by config already" in said({"teacher": "x", "config": "x", "checkpoint": "y"})
    assert "the teacher is largest, which has none" in said({"teacher": "largest", "checkpoint": "y"})
    assert "has weights of its own" in said({"teacher": shelf["model"], "checkpoint": "y"})
    detector = tiny(toy, data={"val": None}, train={"distill": {"loss": "dkd"}})
    text = bad("train", write(tmp_path / "det.yaml", detector), "--work-dir", tmp_path / "none")
    assert "train.distill.loss: dkd is of the true class of an image" in text
    about = Path(shelf["model"]) / "config.json"
    assert json.loads(about.read_text())["task"] == "cls"
    with pytest.raises(UsageError, match="is of task cls"):
        detector["train"]["distill"] = {"teacher": shelf["model"]}
        open_teaching(config.load(write(tmp_path / "det.yaml", detector)), ["a"], CPU, 0)
