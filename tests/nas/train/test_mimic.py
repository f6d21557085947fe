"""Detectors that learn in a step: features by module, class logits, several teachers; the modules that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.errors import ConfigError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.retinanet import RetinaNet, RetinaNetHead, Towers
from searchkit.nas.models.heads.retinanet_plan import RetinaNetOptions
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import checkpoint, kept, modules, supernet
from searchkit.nas.train import net as nets
from searchkit.nas.train.distill import Scores, Taught, Teaching, tensors_in, watched
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.loop import Run, fit
from searchkit.nas.train.splits import open_split
from searchkit.records.arch import Arch
from tests.support import cls
from tests.support.nas import CPU, bad, equal, good, tensors, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")

FPN = "backbone.fpn.layer_blocks"


@pytest.fixture(scope="module")
def teacher(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Another detector, of other depths; nobody writes to it."""
    folder = tmp_path_factory.mktemp("teacher")
    body = tiny(toy, data={"val": None}, train={"policy": "fixed"})
    body["space"] = {**body["space"], "backbone.body.depth": [2, 1, 2, 1], "backbone.body.width": [8, 8, 16, 16]}
    del body["space"]["anchors"]
    path = write(folder / "teacher.yaml", body)
    return {"config": path, "checkpoint": train(path, folder / "work", "train.steps=1")}


def detector(toy: Path, folder: Path, distill: Any, **changes: Any) -> str:
    return write(folder / "cfg.yaml", tiny(toy, data={"val": None}, train={"distill": distill, **changes}))


def moved(path: str, archs: list[Arch], distills: bool) -> tuple[dict[str, Tensor], dict[str, float]]:
    """How a step of SGD with lr 1 moves the weights of a new net, and its losses."""
    recipe = config.load(path, ("train.lr=1", "train.momentum=0", "train.weight_decay=0"))
    data = open_split(recipe, "train")
    net = nets.build(recipe, data.names, 0)
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    batches = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (64,), Ranks())
    options: dict[str, Any] = {"steps": 1, "steps_per_epoch": 4, "scales": (64,), "seed": 0, "device": CPU}
    options |= {"task": recipe.task, "section": recipe.data, "ranks": Ranks()}
    options["teaching"] = open_teaching(recipe, data.names, CPU, 0) if distills else None
    (report,) = fit(Run(net, make_optimizer(net, recipe.train, 2)), batches, lambda _: archs, recipe.train, **options)
    return {k: v.detach() - before[k] for k, v in net.named_parameters()}, dict(report.losses)


def trunk_gradient(path: str, archs: list[Arch], loss: Any) -> dict[str, Tensor]:
    """Minus the gradient of the mean over archs of (features of the archs, images) -> losses, written by hand."""
    recipe = config.load(path)
    data = open_split(recipe, "train")
    net: Any = nets.build(recipe, data.names, 0).train()
    ((_, images, _),) = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (64,), Ranks())
    recipe.task.network.set_scale(net, 64, recipe.data)
    batch, _ = net.transform([image.float() / 255 for image in images])
    levels, logits = [], []
    for arch in archs:
        set_arch(net, arch)
        levels.append([*net.backbone(batch.tensors).values()])
        logits.append(net.rpn.head(levels[-1])[0])
    total = sum(loss(levels, logits, batch.tensors)) / len(archs)
    total.backward()  # type: ignore[union-attr]
    return {k: torch.zeros_like(p) if p.grad is None else -p.grad for k, p in net.named_parameters()}


def added(taught: dict[str, Tensor], alone: dict[str, Tensor], by: dict[str, Tensor]) -> None:
    """What a teacher adds to a step is this gradient."""
    assert any(v.any() for v in by.values())
    for name, value in by.items():
        torch.testing.assert_close(taught[name] - alone[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_features_and_logits_of_the_largest_arch(toy: Path, tmp_path: Path) -> None:
    """In the same step, on the same batch; all archs learn from the labels, too."""
    distill = {
        "weight": 0.5,
        "temperature": 2,
        "mimic": [{"student": f"{FPN}.0.0", "weight": 3}, {"student": "backbone", "loss": "mse", "weight": 0.25}],
    }
    path = detector(toy, tmp_path, distill)
    space = config.load(path).space
    archs = [space.maximum(), space.minimum(), space.named("MIDDLE")]

    def by_hand(levels: list[list[Tensor]], logits: list[list[Tensor]], _: Tensor) -> list[Tensor]:
        lessons = [[level.detach() for level in levels[0]], [level.detach() for level in logits[0]]]
        losses = []
        for ours, scores in zip(levels[1:], logits[1:], strict=True):
            unit = [(x / x.flatten(1).norm(dim=1)[:, None, None, None]) for x in (ours[0], lessons[0][0])]
            l2 = (unit[0] - unit[1]).square().flatten(1).sum(1).mean()
            mse = sum(F.mse_loss(a, b) for a, b in zip(ours, lessons[0], strict=True)) / len(ours)
            q, p = (torch.cat([x.flatten() for x in each]) for each in (scores, lessons[1]))
            (q2, p2), sure = (x.sigmoid() for x in (q / 2, p / 2)), p.sigmoid()
            kl = p2 * (p2 / q2).log() + (1 - p2) * ((1 - p2) / (1 - q2)).log()
            losses.append(3 * l2 + 0.25 * mse + 0.5 * 4 * (kl * sure).sum() / sure.sum())
        return losses

    taught, losses = moved(path, archs, True)
    alone, plain = moved(path, archs, False)
    added(taught, alone, trunk_gradient(path, archs, by_hand))
    assert {*losses} - {*plain} == {"loss_distill", "loss_mimic_0", "loss_mimic_1"}
    assert losses["loss_rpn_box_reg"] == plain["loss_rpn_box_reg"]
    of_two = (losses["loss_distill"] + losses["loss_mimic_0"] + losses["loss_mimic_1"]) * 2 / 3
    assert losses["loss"] == pytest.approx(plain["loss"] + of_two, rel=1e-4)


def test_several_teachers_by_name(toy: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    """One network for the largest arch, too, and the largest arch for the others; a weight that warms up."""
    distill = {
        "weight": 0,
        "teachers": {"other": teacher},
        "mimic": [
            {"student": f"{FPN}.1.0", "of": "other"},
            {"student": f"{FPN}.2.0", "teacher": f"{FPN}.2.0", "of": "max"},
            {"student": f"{FPN}.3.0", "of": "other", "warmup_steps": 10},
        ],
    }
    path = detector(toy, tmp_path, distill)
    recipe = config.load(path)
    teaching = open_teaching(recipe, ["circle", "square", "triangle"], CPU, 0)
    assert teaching is not None and [*teaching.teachers] == ["other"]
    other: Any = teaching.teachers["other"]
    assert not other.training and not any(p.requires_grad for p in other.parameters())
    archs = [recipe.space.maximum(), recipe.space.minimum()]

    def by_hand(levels: list[list[Tensor]], _: Any, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            theirs = [*other.backbone(images).values()]
        pairs = [(levels[0][1], theirs[1]), (levels[1][1], theirs[1]), (levels[1][2], levels[0][2].detach())]
        return [(F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))).square().sum(1).mean() for a, b in pairs]

    taught, losses = moved(path, archs, True)
    added(taught, moved(path, archs, False)[0], trunk_gradient(path, archs, by_hand))
    assert losses["loss_mimic_2"] == 0 < losses["loss_mimic_0"]


def test_logits_of_positive_anchors_alone(toy: Path, tmp_path: Path) -> None:
    """Those that are to find a box: the mean over them, whatever the teacher thinks of them."""
    path = detector(toy, tmp_path, {"weight": 0.5, "temperature": 2, "anchors": "positive"})
    recipe = config.load(path)
    archs = [recipe.space.maximum(), recipe.space.minimum()]
    data = open_split(recipe, "train")
    ((_, images, targets),) = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (64,), Ranks())
    net: Any = nets.build(recipe, data.names, 0).train()
    recipe.task.network.set_scale(net, 64, recipe.data)
    batch, scaled = net.transform([image.float() / 255 for image in images], targets)

    def by_hand(levels: list[list[Tensor]], logits: list[list[Tensor]], _: Tensor) -> list[Tensor]:
        anchors = net.rpn.anchor_generator(batch, levels[0])
        found = torch.cat(net.rpn.assign_targets_to_anchors(anchors, scaled)[0]) == 1
        q, p = (torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in each], 1).flatten() for each in logits[::-1])
        q2, p2 = (x[found].sigmoid() for x in (q / 2, p.detach() / 2))
        assert 0 < found.sum() < len(found) / 10
        return [0.5 * 4 * (p2 * (p2 / q2).log() + (1 - p2) * ((1 - p2) / (1 - q2)).log()).mean()]

    taught, _ = moved(path, archs, True)
    alone, _ = moved(path, archs, False)
    added(taught, alone, trunk_gradient(path, archs, by_hand))
    features = {"weight": 0, "anchors": "positive", "mimic": [{"student": "backbone"}]}
    text = bad("train", detector(toy, tmp_path, features), "--work-dir", tmp_path / "none")
    assert "train.distill.anchors: says whose class scores are learnt, but with weight 0 none are" in text


@pytest.mark.parametrize("dense", [False, True], ids=["faster_rcnn", "retinanet"])
def test_a_teacher_runs_no_further_than_it_teaches(dense: bool, toy: Path, tmp_path: Path) -> None:
    """A detector that teaches features and class logits makes no boxes, and what it teaches is the same to the bit."""
    model = {"neck": "elastic_fpn", "neck_options": {"out_channel": 16}, "head": "retinanet"}
    model |= {"head_options": {"width": 8, "depth": 1, "anchor_sizes": [8, 16, 32, 64, 96]}}
    body = tiny(toy, data={"val": None}, train={"policy": "fixed"})
    if dense:
        body["model"] = {key: value for key, value in body["model"].items() if key.startswith("backbone")} | model
    path = write(tmp_path / "teacher.yaml", {**body, "task": "det"})
    weights = train(path, tmp_path / "work", "train.steps=1")
    lesson = {"config": path, "checkpoint": weights, "anchors": "positive", "mimic": [{"student": "backbone"}]}
    body["train"] = {**body["train"], "policy": "sandwich", "distill": lesson}
    recipe = config.load(write(tmp_path / "cfg.yaml", body))
    teaching = open_teaching(recipe, ["circle", "square", "triangle"], CPU, 0)
    assert teaching is not None
    (net,) = teaching.teachers.values()
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    named = [d.of_teacher for d in teaching.distillers]
    with torch.no_grad(), watched(net, named) as whole:
        net(images)

    def boxes(*_: Any, **__: Any) -> Any:
        raise AssertionError("boxes are made of what is taught")

    for made in (net, getattr(net, "rpn", net)):
        made.boxes = made.filter_proposals = boxes  # type: ignore[assignment]
    seen = teaching.begin(nn.Identity(), images, [], 1, 0).seen[""]
    assert len(named) == 2
    for name in named:
        pairs = zip(tensors_in(seen[name]), tensors_in(whole[name]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    step, scores = _step(teaching, recipe), teaching.distillers[0]
    assert isinstance(scores, Scores) and scores.losses(seen[named[0]], seen[named[0]], step)["loss_distill"] == 0
    positives = step.positives(scores.ours, seen[named[0]][-1])
    assert positives.shape == scores.ours.flat(seen[named[0]][-1]).shape[:2] and positives.any(1).all()


def _step(teaching: Teaching, recipe: Any) -> Taught:
    """A step of a student with one box on each image."""
    net = nets.build(recipe, ("circle", "square", "triangle"), 0)
    recipe.task.network.set_scale(net, 64, recipe.data)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    return Taught(teaching, 1, 0, {}, net, [torch.rand(3, 64, 64)] * 2, [target] * 2)


def test_what_a_module_gave_out_is_seen_before_it_is_written_to() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    with watched(net, ["0", "1"]) as seen:
        out = net(torch.randn(4, 3, 5, 5))
    assert (seen["0"][0] < 0).any() and torch.equal(seen["1"][0], out)
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(("softmax", "background"), [(False, False), (True, True)])
def test_logits_of_anchors_apart(softmax: bool, background: bool) -> None:
    """0 for equal ones, and the more the surer the teacher is; anchors that it takes for background hardly count."""
    logits = ClassLogits("head", lambda output: output, softmax, background)
    theirs = torch.tensor([[[-9.0, 8.0, -9.0], [8.0, -8.0, -8.0]]])
    if not background:
        theirs[0, 1] = -8.0
    assert logits.divergence(theirs, theirs, 2.0) == 0
    first, second = (theirs.clone() for _ in range(2))
    first[0, 0, 1], second[0, 1, 2] = -1.0, 0.0
    assert logits.divergence(first, theirs, 1.0) > 50 * logits.divergence(second, theirs, 1.0) > 0
    assert logits.columns_of((1, 0)) == ((0, 2, 1) if background else (1, 0))


def test_a_dense_detector_gives_out_logits_of_all_levels() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 8, 1, stride) for stride in (8, 16))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {str(i): conv(x) for i, conv in enumerate(self.convs)}

    options = RetinaNetOptions(width=8, depth=1, anchor_sizes=(16, 32))
    transform = GeneralizedRCNNTransform(32, 32, [0.0] * 3, [1.0] * 3)
    net = RetinaNet(Levels(), Towers(options, 3, Arch(()), (8, 8)), transform).eval()
    logits = RetinaNetHead(options, 3).class_logits(net)
    with torch.no_grad(), watched(net, [logits.module]) as seen:
        net([image := torch.rand(3, 32, 32)])
        first, second = (level for level, _ in net.levels(image[None]))
    flat = logits.flat(seen[logits.module][0])
    assert flat.shape == (1, 9 * (16 + 4), 3) and logits.of_classes and not logits.softmax
    assert torch.equal(flat[0, :9], first[0, :, 0, 0].view(9, 3)) and torch.equal(
        flat[0, -9:], second[0, :, 1, 1].view(9, 3)
    )


def test_a_connector_learns_along(toy: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    """From features whose width is elastic to those of a teacher; it goes on after a kill as the network does."""
    distill = {
        **teacher,
        "weight": 0,
        "mimic": [{"student": "backbone.body.layer2.0", "connector": "conv", "loss": "mse"}, {"student": f"{FPN}.0.0"}],
    }
    path = detector(toy, tmp_path, distill, neck_lr=0, optimizer="adamw")
    recipe = config.load(path)
    teaching = open_teaching(recipe, ["circle", "square", "triangle"], CPU, 0)
    assert teaching is not None and [*teaching.extras] == ["mimic_0"]
    connector = teaching.extras["mimic_0"]
    assert (connector.in_channels, connector.out_channels) == (8, 8)
    ours, theirs = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 8, 8)  # of MIN
    narrow = F.conv2d(ours, connector.weight[:, :4], connector.bias)
    at = Taught(teaching, 1, 0, {}, nn.Identity(), None, None)
    (loss,) = teaching.distillers[0].losses([ours], [theirs], at).values()
    assert torch.equal(loss, F.mse_loss(narrow, theirs))
    made = make_optimizer(nets.build(recipe, ("a", "b", "c"), 0), recipe.train, 2, teaching.extras).param_groups
    names = [name for group in made for name in group["names"]]
    assert len(names) == len({*names}) and {*names} >= {"extras.mimic_0.weight", "extras.mimic_0.bias"}
    assert not any(name.startswith("backbone.fpn") for name in names)  # frozen
    reference = train(path, tmp_path / "unbroken")
    learnt = checkpoint.load(reference).extras
    assert {*learnt} == {"mimic_0.weight", "mimic_0.bias"} and not torch.equal(learnt["mimic_0.bias"], connector.bias)
    train(path, tmp_path / "work", stop=3)
    again = train(path, tmp_path / "work")
    assert equal(tensors(again), tensors(reference)) and equal(checkpoint.load(again).extras, learnt)
    distill["mimic"] = [{"student": "backbone", "connector": "conv", "teacher": "roi_heads.box_head"}]
    text = bad("train", detector(toy, tmp_path, distill), "--work-dir", tmp_path / "none")
    assert "mimic[0].connector: conv goes from maps of one width to those of another, but backbone gives" in text


def test_what_came_later_is_not_kept_where_nothing_is_said(toy: Path, tmp_path: Path) -> None:
    """So trainings that an older version began go on."""
    before = ["config", "checkpoint", "arch", "weight", "label_weight", "temperature"]
    recipe = config.load(detector(toy, tmp_path, {}))
    assert [*kept.deciding(recipe, 1)["train.distill"]] == before
    recipe = config.load(detector(toy, tmp_path, {"mimic": [{"student": "backbone"}]}))
    assert [*kept.deciding(recipe, 1)["train.distill"]] == [*before, "mimic"]


@pytest.mark.slow
def test_killed_and_gone_on(toy: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    distill = {**teacher, "mimic": [{"student": f"{FPN}.0.0", "of": "max", "warmup_steps": 4}]}
    path = detector(toy, tmp_path, distill)
    reference = train(path, tmp_path / "unbroken")
    train(path, tmp_path / "work", stop=3)
    assert equal(tensors(train(path, tmp_path / "work")), tensors(reference))


def test_what_is_refused(toy: Path, teacher: dict[str, str], tmp_path: Path) -> None:
    def said(distill: dict[str, Any]) -> str:
        return bad("train", detector(toy, tmp_path, distill), "--work-dir", tmp_path / "work")

    text = said({"mimic": [{"student": "backbone.fpn.layer_block.0.0"}]})
    assert "train.distill.mimic[0].student: there is no module 'backbone.fpn.layer_block.0.0'; near it are " in text
    assert f"{FPN}.0.0 (1x16x16x16)" in text and "search-nas modules CONFIG lists all" in text
    text = said({**teacher, "weight": 0, "mimic": [{"student": "backbone", "teacher": "neck"}]})
    assert "train.distill.mimic[0].teacher: there is no module 'neck'" in text
    text = said({"weight": 0, "mimic": [{"student": "backbone.body.layer2"}]})
    assert "backbone.body.layer2 of the student at MAX gives out nothing" in text  # a stage is no module that is called
    text = said({"weight": 0, "mimic": [{"student": "backbone.body.layer2.0"}]})
    assert "backbone.body.layer2.0 of the student at MIN gives out 1x4x8x8, " in text
    assert "backbone.body.layer2.0 of the largest arch 1x8x8x8: they must be of the same shapes" in text
    text = said({"weight": 0, "mimic": [{"student": "backbone.body.layer1.1"}]})
    assert "layer1.1 of the student at MIN gives out nothing: it is not called there" in text
    named = {"weight": 0, "teachers": {"big": teacher}}
    for mimic, what in (
        (
            {"student": "backbone", "of": "bigger"},
            "there is no teacher 'bigger' (did you mean big?); there are max, big",
        ),
        ({"student": "backbone", "loss": "l1"}, "must be one of l2, mse"),
    ):
        assert what in said({**named, "mimic": [mimic]})
    assert "nothing would be taught" in said({"weight": 0})
    path = detector(toy, tmp_path, {"mimic": [{"student": "backbone"}]}, policy="single_path")
    with pytest.raises(ConfigError, match="needs the largest arch in every step"):
        config.load(path)
    assert not (tmp_path / "work" / "latest.pth").exists()


def test_modules_are_listed(toy: Path, toy_cls: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    rows = {row["name"]: row for row in json.loads(good("modules", path, "--json"))}
    assert rows["backbone.body.layer1.0.conv1"]["follows"] == ["BatchNorm2d", "relu"]
    assert rows["backbone.body.layer1.0.bn2"]["follows"] == ["add"]
    assert rows["backbone.fpn.layer_blocks.0.0"]["shapes"] == [[1, 16, 16, 16]]
    assert rows["rpn.head.cls_logits"]["shapes"] == [[1, 3, 16, 16], [1, 3, 8, 8], [1, 3, 4, 4], [1, 3, 2, 2]]
    assert rows["backbone"]["shapes"] == [[1, 16, edge, edge] for edge in (16, 8, 4, 2)]
    shown = good("modules", path, "--arch", "MIN", "--input", "64,96", "--match", "backbone.body.layer1.*")
    (head, *lines) = shown.splitlines()
    assert head.split() == ["module", "kind", "gives", "out", "read", "by"]
    assert lines[0].split() == ["backbone.body.layer1.0.conv1", "Conv2d", "1x4x16x24", "BatchNorm2d,", "relu"]
    assert not any("layer1.1" in line for line in lines)  # MIN has one block there
    assert "none of" in bad("modules", path, "--match", "neck.*")
    path = write(tmp_path / "cls.yaml", cls.tiny(toy_cls, "mobilenet"))
    assert "BatchNorm2d, relu6" in good("modules", path) and "fc" in good("modules", path)
    recipe = config.load(path)
    net = nets.build(recipe, cls.CLASSES, 0)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modules.list_modules(net, 32, recipe.data, recipe.task)
    assert net.training and equal(net.state_dict(), state)
