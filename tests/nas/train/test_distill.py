"""Softer targets: gradients as written by hand, teachers and their classes, schedules, kills, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.subnet import subnet
from searchkit.nas.tasks import classification
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.classification import CLASSIFICATION
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import checkpoint, supernet
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import open_calibration
from searchkit.nas.train.distill import Scores
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.loop import Run, fit
from searchkit.nas.train.splits import open_split
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.marks import some_of
from tests.support.nas import CPU, bad, equal, tensors, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(config, checkpoint) of a net of another family that knows the classes in another order; nobody writes to it."""
    folder = tmp_path_factory.mktemp("teacher")
    body = cls.tiny(toy_cls, "basic", data={"classes": [*cls.CLASSES[::-1]]}, model={"dropout": 0.5})
    path = write(folder / "teacher.yaml", body)
    return path, train(path, folder / "work", "train.steps=8")


# ---- what a step learns ----


def moved(path: str, archs: list[Arch], *sets: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """How a step of SGD with lr 1 moves the weights of a new net, and its losses."""
    recipe = config.load(path, (*sets, "train.lr=1", "train.momentum=0", "train.weight_decay=0"))
    data = open_split(recipe, "train")
    net = nets.build(recipe, data.names, 0)
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    batches = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (32,), Ranks())
    options: dict[str, Any] = {"steps": 1, "steps_per_epoch": 4, "scales": (32,), "seed": 0, "device": CPU}
    options |= {"task": recipe.task, "section": recipe.data, "ranks": Ranks()}
    options["teaching"] = open_teaching(recipe, data.names, CPU, 0)
    (report,) = fit(Run(net, make_optimizer(net, recipe.train, 8)), batches, lambda _: archs, recipe.train, **options)
    return {k: v.detach() - before[k] for k, v in net.named_parameters()}, dict(report.losses)


def by_hand(path: str, archs: list[Arch], losses: Callable[[list[Tensor], Tensor, Tensor], list[Tensor]]) -> Any:
    """(minus the gradient of the mean of the losses of these archs, the losses): (scores, labels, images) -> losses."""
    recipe = config.load(path)
    data = open_split(recipe, "train")
    net = nets.build(recipe, data.names, 0).train()
    ((_, images, (labels, _, _)),) = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (32,), Ranks())
    scores = []
    for arch in archs:
        set_arch(net, arch)
        scores.append(net(images.float() / 255))
    found = losses(scores, labels, images.float() / 255)
    (sum(found) / len(archs)).backward()  # type: ignore[union-attr]
    grads = {k: torch.zeros_like(p) if p.grad is None else -p.grad for k, p in net.named_parameters()}
    return grads, [float(v.detach()) for v in found]


def kl(scores: Tensor, teacher: Tensor, t: float) -> Tensor:
    """T^2 times the mean over images of sum p (log p - log q)."""
    p, q = F.softmax(teacher / t, 1), F.softmax(scores / t, 1)
    return t * t * (p * (p.log() - q.log())).sum(1).mean()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys() and any(v.any() for v in a.values())
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", ["bottleneck", "shufflenet"])
def test_in_place_the_largest_teaches_the_others(family: str, toy_cls: Path, tmp_path: Path) -> None:
    body = cls.tiny(toy_cls, family, model={"dropout": 0.0}, train={"label_smoothing": 0.1})
    path = write(tmp_path / "cfg.yaml", body)
    space = config.load(path).space
    archs = [space.maximum(), space.minimum(), cls.archs_of(space)[-1]]

    def ours(scores: list[Tensor], labels: Tensor, _: Tensor) -> list[Tensor]:
        lesson = scores[0].detach()
        return [F.cross_entropy(scores[0], labels, label_smoothing=0.1), *(kl(s, lesson, 1) for s in scores[1:])]

    got, report = moved(path, archs, "train.distill={}")
    want, losses = by_hand(path, archs, ours)
    same(got, want)
    assert report["loss_ce"] == pytest.approx(losses[0], rel=1e-5)
    assert report["loss_distill"] == pytest.approx(sum(losses[1:]) / 2, rel=1e-4)
    assert report["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)

    def mixed(scores: list[Tensor], labels: Tensor, images: Tensor) -> list[Tensor]:
        first, *_ = ours(scores, labels, images)
        lesson = scores[0].detach()
        hard = [F.cross_entropy(s, labels, label_smoothing=0.1) for s in scores[1:]]
        return [first, *(0.25 * h + 0.5 * kl(s, lesson, 3) for h, s in zip(hard, scores[1:], strict=True))]

    got, _ = moved(path, archs, "train.distill={temperature: 3, weight: 0.5, label_weight: 0.25}")
    want, losses_mixed = by_hand(path, archs, mixed)
    same(got, want)
    assert losses_mixed[0] == losses[0] and losses_mixed[1] != losses[1]


def test_a_teacher_teaches_all_by_names(toy_cls: Path, teacher: tuple[str, str], tmp_path: Path) -> None:
    """All archs learn from labels and teacher, whose classes are in another order: their scores are put in ours."""
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls))
    config_path, weights = teacher
    lesson = f"{{config: {config_path}, checkpoint: {weights}, weight: 0.5, temperature: 2, arch: MIN}}"
    recipe = config.load(path, [f"train.distill={lesson}"])
    teaching = open_teaching(recipe, cls.CLASSES, CPU, 0)
    assert teaching is not None
    (network,) = teaching.teachers.values()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    theirs, found = config.load(config_path), checkpoint.load(weights)
    net, _ = nets.load(theirs, found, found.meta["categories"], 0, to_train=False, where="it")
    static = subnet(net, theirs.space.minimum(), nets.sized(theirs, cls.CLASSES)).eval()
    raw = static(x := torch.rand(4, 3, 32, 32))
    calibrate(static, open_calibration(recipe, 0).batches(32), CPU, task=TASKS["cls"])  # it was never trained alone
    assert not torch.equal(raw, static(x))
    (scores,) = teaching.distillers
    taught = teaching.begin(net, x, [], 1, 0)
    soft = taught.soft()
    assert isinstance(scores, Scores) and soft is not None and (soft.label_weight, soft.dropout) == (1.0, True)
    with torch.no_grad():
        assert torch.equal(taught.seen[""]["fc"][0], static(x)) and scores.order == tuple(range(8))[::-1]
    archs = [recipe.space.named("MIXED"), recipe.space.minimum()]

    def ours(scores: list[Tensor], labels: Tensor, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            taught = static(images).flip(1)
        return [F.cross_entropy(s, labels) + 0.5 * kl(s, taught, 2) for s in scores]

    got, report = moved(path, archs, f"train.distill={lesson}")
    want, losses = by_hand(path, archs, ours)
    same(got, want)
    assert report["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert not open_teaching(config.load(path), cls.CLASSES, CPU, 0)


def test_a_tuned_subnet_teaches_more_classes_than_the_data_has(
    toy_cls: Path, teacher: tuple[str, str], tmp_path: Path
) -> None:
    """The checkpoint of one subnet as a teacher, and a net whose last classes the data doesn't have."""
    config_path, weights = teacher
    nas.good(
        "finetune",
        config_path,
        "--checkpoint",
        weights,
        "--arch",
        "MIN",
        "--work-dir",
        tmp_path / "tuned",
        "--out",
        tmp_path / "t.jsonl",
    )
    tuned = tmp_path / "tuned" / "best" / "latest.pth"
    lesson = {"config": config_path, "checkpoint": str(tuned)}
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, model={"num_classes": 10}, train={"distill": lesson}))
    losses: list[dict[str, float]] = []
    train(path, tmp_path / "work", "train.steps=2", watch=nas.quiet(lambda report: losses.append(dict(report.losses))))
    assert len(losses) == 2 and all(0 < report["loss_distill"] < 10 for report in losses)


# ---- schedules ----


@pytest.mark.slow
def test_schedules_change_with_their_epochs(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 images in batches of 8: an epoch is four steps. A run that was broken off obeys them too."""
    distill = {
        "weight": {"boundary": [1, 2], "value": [0.5, 2]},
        "label_weight": {"boundary": [1, 3], "value": [0, 0.25]},
        "temperature": {"boundary": [1, 2, 4], "value": [1, 3, 2]},
    }
    smoothing = {"boundary": [1, 3], "value": [0.2, 0]}
    weights = {"loss_distill": {"boundary": [1, 4], "value": [1, 3]}, "loss_ce": 2}
    changes = {"steps": 16, "distill": distill, "label_smoothing": smoothing, "loss_weights": weights}
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train={**changes, "random_archs": 0}, data={"val": None}))
    real = classification.losses
    seen: list[tuple[Any, ...]] = []
    smooth: list[float] = []
    real_ce = F.cross_entropy

    def noted(net: Any, inputs: Any, targets: Any, o: Any, epoch: int, soft: Any) -> Any:
        seen.append((epoch, soft and soft.label_weight))
        return real(net, inputs, targets, o, epoch, soft)

    def cross_entropy(*args: Any, **more: Any) -> Tensor:
        smooth.append(more["label_smoothing"])
        return real_ce(*args, **more)

    real_kl, told = ClassLogits.divergence, []

    def divergence(logits: ClassLogits, scores: Tensor, theirs: Tensor, temperature: float, *more: Any) -> Tensor:
        told.append(temperature)
        return real_kl(logits, scores, theirs, temperature, *more)

    monkeypatch.setattr(ClassLogits, "divergence", divergence)
    noting = replace(CLASSIFICATION, objective=replace(CLASSIFICATION.objective, losses=noted))
    monkeypatch.setitem(TASKS, "cls", replace(TASKS["cls"], functions=lambda: noting))
    monkeypatch.setattr(classification.F, "cross_entropy", cross_entropy)
    reports: list[dict[str, float]] = []
    for stop in (6, None):  # the sixth step, of the second epoch, is done when it stops, and saved only after
        train(path, tmp_path / "work", stop=stop)
    # what was seen twice: the step that was broken off before its checkpoint
    assert len(seen) == len(smooth) == 2 * 17
    first, rest = seen[:12], seen[12:]
    assert first[10:12] == rest[:2]
    steps = [*first[:10], *rest]
    labels = {1: 0.0, 2: 0.0, 3: 0.25, 4: 0.25}
    epochs = [1 + step // 4 for step in range(16)]
    assert steps == [each for epoch in epochs for each in ((epoch, None), (epoch, labels[epoch]))]
    assert [*told[:5], *told[6:]] == [{1: 1.0, 2: 3.0, 3: 3.0, 4: 2.0}[epoch] for epoch in epochs]
    assert [*smooth[:10:2], *smooth[12::2]] == [0.2] * 8 + [0.0] * 8
    train(path, tmp_path / "again", watch=nas.quiet(lambda report: reports.append(dict(report.losses))))
    for step, found in enumerate(reports):
        times = 1 if step < 12 else 3
        if step < 8:  # the first of two archs learns from the labels alone, the other from its scores alone
            assert found["loss"] == pytest.approx((2 * found["loss_ce"] + times * found["loss_distill"]) / 2, rel=1e-5)
        else:  # the other from both
            both = 2 * found["loss_ce"] + times * found["loss_distill"] / 2
            assert found["loss"] == pytest.approx(both, rel=1e-5), step


# ---- killed and gone on, and over ranks ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", some_of(["in place", "teacher"], "teacher"))
def test_killed_and_gone_on(kind: str, toy_cls: Path, teacher: tuple[str, str], tmp_path: Path) -> None:
    distill: dict[str, Any] = {"temperature": {"boundary": [1, 3], "value": [1, 2]}}
    if kind == "teacher":
        distill |= {"config": teacher[0], "checkpoint": teacher[1]}
    changes = {"steps": 30, "distill": distill, "random_archs": 2, "eval_epochs": 4}
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train=changes, model={"dropout": 0.2}))
    reference = tmp_path / "unbroken"
    train(path, reference)
    step = cls.killed(path, tmp_path / "work", tmp_path, 3)
    assert 3 <= step < 30
    train(path, tmp_path / "work")
    for name in ("latest.pth", "best.pth"):
        assert equal(tensors(tmp_path / "work" / name), tensors(reference / name)), name


# What each rank does, as a script: a training of which it notes the digest of all tensors after every step.
RANK = """
import hashlib, json, sys
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import distributed, supernet
from tests.support import nas

nas.one_thread()
path, work = sys.argv[1:]
rank = distributed.join(nas.CPU).rank
digests, fit = [], supernet.fit

def watched(run, *args, **more):
    for report in fit(run, *args, **more):
        state = b"".join(v.detach().numpy().tobytes() for v in run.net.state_dict().values())
        digests.append(hashlib.sha256(state).hexdigest())
        yield report

supernet.fit = watched
supernet.train_supernet(config.load(path), work, seed=0, device=nas.CPU, watch=nas.quiet(), teach=open_teaching)
with open(f"{work}/{rank}.json", "w") as f:
    json.dump(digests, f)
"""


@pytest.mark.long  # without teaching: test_ranks.py
def test_ranks_stay_together(toy_cls: Path, tmp_path: Path) -> None:
    changes = {"steps": 4, "batch_size": 4, "distill": {"temperature": 2}, "label_smoothing": 0.1}
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train=changes, model={"dropout": 0.2}))
    (tmp_path / "rank.py").write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "rank.py"), path, str(tmp_path / "work")],
        cwd=tmp_path,
        env=nas.environment(PYTHONPATH=str(Path(__file__).parents[3])),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / "work" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and len(set(first)) == 4
    final = checkpoint.load(str(tmp_path / "work" / "latest.pth"))
    state = b"".join(value.numpy().tobytes() for value in final.net.values())
    assert hashlib.sha256(state).hexdigest() == first[-1]


# ---- what is refused ----


def test_teachers_that_cannot_teach(toy_cls: Path, teacher: tuple[str, str], tmp_path: Path) -> None:
    config_path, weights = teacher
    work = tmp_path / "work"
    own = cls.tiny(toy_cls)

    def said(lesson: dict[str, Any], **changes: Any) -> str:
        body = {**cls.tiny(toy_cls, train={"distill": lesson}), **changes}
        text = bad("train", write(tmp_path / "cfg.yaml", body), "--work-dir", work)
        assert not (work / "latest.pth").exists()
        return text

    good = {"config": config_path, "checkpoint": weights}
    fewer = {**own["data"], "classes": [*cls.CLASSES[:6]]}
    assert "has other classes than the data: the data lacks triangle, stripes" in said(good, data=fewer) or (
        "has other classes than the data: the data lacks stripes, triangle" in said(good, data=fewer)
    )
    found = checkpoint.load(weights)
    other = [*found.meta["categories"][:7], "zigzag"]
    checkpoint.save(
        str(tmp_path), "other.pth", checkpoint.Checkpoint(found.net, 8, {}, {**found.meta, "categories": other})
    )
    text = said({**good, "checkpoint": str(tmp_path / "other.pth")})
    assert "has other classes than the data: it lacks checks; the data lacks zigzag" in text
    assert "no checkpoint at /nowhere.pth" in said({**good, "checkpoint": "/nowhere.pth"})
    assert "nowhere.yaml" in said({**good, "config": "/nowhere.yaml"})
    assert "no architecture named 'MAXI' (did you mean MAX?)" in said({**good, "arch": "MAXI"})
    smaller = json.loads(Path(config_path).read_text())
    smaller["space"]["backbone.stem.width"] = 4
    assert "is the checkpoint of another space: backbone.stem.width: 8 there, 4 here" in said(
        {**good, "config": write(tmp_path / "smaller.yaml", smaller)}
    )
    det = write(tmp_path / "det.yaml", {name: nas.TINY[name] for name in ("model", "space")})
    assert "the teacher must be of task cls, but" in said({**good, "config": det})
    old = checkpoint.Checkpoint(found.net, 8, {}, {k: v for k, v in found.meta.items() if k != "task"})
    checkpoint.save(str(tmp_path), "det.pth", old)
    assert "is the checkpoint of task det" in said({**good, "checkpoint": str(tmp_path / "det.pth")})
    torch.save(found.net, tmp_path / "plain.pth")
    assert "was not written by search-nas" in said({**good, "checkpoint": str(tmp_path / "plain.pth")})
