"""Classifiers: torchvision's twins, training that a kill does not change, single paths, scores, the classes of data."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.network import build
from searchkit.nas.models.part import NEVER
from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet import sweep
from searchkit.nas.tasks import classification
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train import checkpoint, supernet
from searchkit.nas.train import net as nets
from searchkit.nas.train.distill import Scores, Teaching
from searchkit.nas.train.distill_section import Distill, ScoreJob
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.evaluate import calibrate, calibrated_norms
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.loop import Run, fit
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.splits import open_split
from searchkit.nas.train.task import Task
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.detectors import R18, R50, trained
from tests.support.nas import CPU, bad, equal, good, lines, tensors, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learnt(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(config, checkpoint) of a supernet with alternatives that has learnt a little; nobody writes to it."""
    folder = tmp_path_factory.mktemp("learnt")
    body = cls.tiny(toy_cls, train={"policy": "single_path", "steps": 24, "eval_epochs": 3, "checkpoint_steps": 100})
    path = write(folder / "cfg.yaml", body)
    return path, train(path, folder / "work")


# ---- the tasks ----


def test_the_tasks_are_called_alike() -> None:
    of_data = {"joined", "matched", "same_classes", "require_labels"}  # functions of the data's own modules, by place

    def asked(task: Task) -> dict[str, list[str]]:
        """The parameters of each function of a task, by its name."""
        parts = [getattr(task.functions(), f.name) for f in fields(task.functions())]
        functions = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
        return {
            name: [*inspect.signature(f).parameters]
            for name, f in functions.items()
            if inspect.isfunction(f) and f.__name__ != "<lambda>" and name not in of_data
        }

    assert list(TASKS) == ["det", "cls"] and all(name == task.name for name, task in TASKS.items())
    first, second = map(asked, TASKS.values())
    shared = {name for name in first if name in second}
    assert len(shared) > 25
    for name in shared - {"size_of", "draw"}:
        assert first[name] == second[name], name


# ---- torchvision's twins ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("twin", "arch", "options"),
    [
        (torchvision.models.resnet18, R18, {"block": "basic", "first_shortcut": False}),
        (torchvision.models.resnet50, R50, {}),
    ],
)
def test_a_resnet_is_torchvisions(
    twin: Callable[[], nn.Module], arch: Arch, options: dict[str, Any], tmp_path: Path
) -> None:
    """By `init`, with what normalises the images on our side and by hand on theirs; in training too."""
    theirs = trained(twin())
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build(ClassifierConfig(num_classes=1000, backbone_options=options), arch)
    loaded = load_init(ours, str(tmp_path / "weights.pth"))
    assert not loaded.kept and not loaded.partly and not loaded.unused
    x = torch.rand(2, 3, 70, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for training in (False, True):
        got, want = ours.train(training)(x), theirs.train(training)((x - mean) / std)
        assert torch.equal(got, want)
    labels = torch.tensor([3, 999])
    for scores in (got, want):
        F.cross_entropy(scores, labels).backward()
    grads = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert torch.equal(p.grad, grads[name.removeprefix("backbone.")].grad), name


# ---- losses ----


def test_the_loss_of_labels_is_torchs() -> None:
    scores = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 6, 3, 3, 1])
    net = nn.Identity()
    for smoothing in (0.0, 0.1, {"boundary": [1, 3], "value": [0.3, 0.05]}):
        o = config.Train(label_smoothing=smoothing)
        for epoch in (1, 2, 3, 9):
            parts = classification.losses(net, scores, (labels, labels, 7), o, epoch, None)
            eps = smoothing if isinstance(smoothing, float) else (0.3 if epoch < 3 else 0.05)
            log_p = scores - scores.exp().sum(1, keepdim=True).log()
            wanted = -(1 - eps) * log_p[range(5), labels].mean() - eps * log_p.mean()
            assert set(parts) == {"loss_ce"}
            assert torch.equal(parts["loss_ce"], nn.CrossEntropyLoss(label_smoothing=eps)(scores, labels))
            torch.testing.assert_close(parts["loss_ce"], wanted)


def test_silent_classes_have_no_part_in_the_losses() -> None:
    """Of a net with more classes than the data."""
    generator = torch.Generator().manual_seed(0)
    scores, theirs = torch.randn(4, 7, generator=generator), torch.randn(4, 6, generator=generator)
    scores[:, 5:] = NEVER
    labels = torch.tensor([0, 4, 3, 3])
    logits = ClassLogits("fc", lambda output: output, softmax=True, of_image=True)
    distiller = Scores(ScoreJob(weight=2.0, temperature=1.5), "", logits, logits, (5, 3, 2, 1, 0))
    at = Teaching(Distill(), (distiller,)).begin(nn.Identity(), None, None, 1, 0)
    p, log_q = F.softmax(theirs[:, [5, 3, 2, 1, 0]] / 1.5, 1), F.log_softmax(scores[:, :5] / 1.5, 1)
    expected = 2 * 1.5**2 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(distiller.losses([scores], [theirs], at), {"loss_distill": expected})
    o = config.Train(label_smoothing=0.1)
    parts = classification.losses(nn.Identity(), scores, (labels, labels, 5), o, 1, None)
    assert torch.equal(parts["loss_ce"], F.cross_entropy(scores[:, :5], labels, label_smoothing=0.1))


# ---- training ----


@pytest.fixture(scope="module")
def unbroken(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(config, working folder) of a single-path training that nothing broke; it is evaluated twice."""
    folder = tmp_path_factory.mktemp("unbroken")
    changes = {"policy": "single_path", "steps": 40, "eval_epochs": 5, "label_smoothing": 0.1, "schedule": "cosine"}
    path = write(folder / "cfg.yaml", cls.tiny(toy_cls, train=changes, model={"dropout": 0.2}))
    train(path, folder / "work")
    return path, folder / "work"


@pytest.mark.long  # the same loop trains a detector: tests/nas/train/test_train.py
def test_killed_at_any_moment(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    path, reference = unbroken
    work = tmp_path / "work"
    train(path, work, stop=4)
    assert 4 <= cls.killed(path, work, tmp_path, 9) < 40
    train(path, work, "data.workers=1")
    for name in ("latest.pth", "best.pth"):
        assert equal(tensors(work / name), tensors(reference / name)), name
        assert checkpoint.load(str(work / name)).meta == checkpoint.load(str(reference / name)).meta
    again = train(path, tmp_path / "again", "train.steps=3")
    assert equal(tensors(again), tensors(train(path, tmp_path / "same", "train.steps=3")))
    assert not equal(tensors(again), tensors(train(path, tmp_path / "other", "train.steps=3", seed=1)))


def steps_of(recipe: Recipe, run: Run, archs: list[Arch], start: int = 0) -> list[float]:
    """The losses of a step at each of these archs."""
    data = open_split(recipe, "train")
    stop = start + len(archs)
    batches = supernet.batches_of(data, recipe, recipe.train, 0, start, stop, (32,), Ranks())
    options: dict[str, Any] = {"steps": stop, "steps_per_epoch": 4, "scales": (32,), "seed": 0, "device": CPU}
    options |= {"task": recipe.task, "section": recipe.data, "ranks": Ranks()}
    return [r.losses["loss"] for r in fit(run, batches, lambda step: [archs[step - start]], recipe.train, **options)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_single_path_moves_what_it_visits(toy_cls: Path, tmp_path: Path, optimizer: str) -> None:
    """Momentum and weight decay included: a block that is not on the path keeps all its bits, its statistics too."""
    changes = {"policy": "single_path", "optimizer": optimizer, "weight_decay": 0.1, "norm_weight_decay": 0.1}
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train=changes)))
    net: Any = nets.build(recipe, cls.CLASSES, 0)
    run = Run(net, make_optimizer(net, recipe.train, 8))
    space = recipe.space
    steps_of(recipe, run, [space.maximum(), space.minimum(), space.named("MIXED"), space.maximum()])  # momenta of all
    before = {k: v.clone() for k, v in net.state_dict().items()}
    arch = space.named("MIXED")
    (loss,) = steps_of(recipe, run, [arch], 4)
    on_path = {f"stages.{i // 2}.{i % 2}.{name}." for i, name in enumerate(("k7", "k3", "xception", "k5"))}
    assert math.isfinite(loss)
    for name, value in net.state_dict().items():
        inside = name.removeprefix("backbone.")
        visited = not inside.startswith("stages.") or any(inside.startswith(part) for part in on_path)
        assert torch.equal(value, before[name]) != visited, name


def test_other_families_and_policies_train(toy_cls: Path, tmp_path: Path) -> None:
    for family, sets in (
        ("basic", ("train.policy=anchors", "train.precision=bf16")),
        ("bottleneck", ("train.optimizer=adamw", "train.channels_last=true", "train.eval_archs=[MIN]")),
        ("mobilenet", ("train.sample_strategy=[max, random, middle, min]", "train.distill={}", "train.clip_norm=1")),
    ):
        path = write(tmp_path / f"{family}.yaml", cls.tiny(toy_cls, family))
        scored: dict[str, Any] = {}

        def note(_: int, name: str, found: Any, scored: dict[str, Any] = scored) -> None:
            scored[name] = found

        watch = supernet.Watch(lambda _: None, lambda _: None, note)
        final = tensors(train(path, tmp_path / family, "train.steps=3", *sets, watch=watch))
        assert all(value.isfinite().all() for value in final.values())
        assert "MAX" in scored and set(scored["MAX"]) == {"top1", "top5", "images_per_s"}
        assert (tmp_path / family / "best.pth").exists()


# ---- scores ----


def brute_force(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """How many images have fewer than k other classes that score as much as their own."""
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        better = [c for c, s in enumerate(row) if c != label and not s < row[label]]
        hits += len(better) < k
    return hits / len(labels)


def test_top1_and_top5_are_counted() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 9)).round(1), rng.integers(0, 9, 200)  # with equal scores
    scores[0] = 0  # the same for all classes
    scores[1] = np.nan  # a net that broke
    scores[2, labels[2]] = np.inf
    net, given = nn.Identity(), torch.tensor(scores, dtype=torch.float32)
    nine = tuple("abcdefghi")

    def told(n: int) -> list[Any]:
        parts = zip(given.split(n), torch.tensor(labels).split(n), strict=True)
        return [(part * 255, label) for part, label in parts]

    net.register_forward_pre_hook(lambda _, inputs: (inputs[0],))
    for n in (1, 7, 200):
        found = classification.evaluate(net, told(n), classification.Evaluator(nine, per_class=True), CPU).metrics
        assert found["top1"] == brute_force(scores.astype(np.float32), labels, 1)
        assert found["top5"] == brute_force(scores.astype(np.float32), labels, 5)
        assert found["images_per_s"] > 0
        for k, name in enumerate(nine):
            alone = brute_force(scores.astype(np.float32)[labels == k], labels[labels == k], 1)
            assert found[f"top1/{name}"] == pytest.approx(alone, abs=1e-6)
    assert "top5" not in classification.evaluate(net, told(7), classification.Evaluator(nine[:5]), CPU).metrics
    assert brute_force(scores[:2], labels[:2], 5) == 0


@pytest.mark.slow
def test_scoring_leaves_the_supernet_alone(learnt: tuple[str, str]) -> None:
    path, weights = learnt
    recipe = config.load(path)
    options: dict[str, Any] = {"split": None, "device": CPU, "seed": 0, "tune": False, "say": lambda _: None}
    session = sweep.open_session(recipe, weights, **options)
    before = {k: v.clone() for k, v in session.net.state_dict().items()}
    for arch in cls.archs_of(recipe.space):
        for shape in (32, (40, 36)):
            record = {"arch": arch.nested(), "data": {"input_shape": shape}}
            tested = sweep.test_record(session, record, arch, "t", True)
            raw = sweep.test_record(session, tested, arch, "raw", False)
            assert set(raw["metric"]["t"]) == set(raw["metric"]["raw"]) == {"top1", "top5"}
            assert (
                raw["protocol"]["t"]["calibration_images"] == 12 and raw["protocol"]["raw"]["calibration_images"] == 0
            )
            assert "max_edge" not in raw["protocol"]["t"] and raw["protocol"]["t"]["images"] == cls.IMAGES["val"]
    assert equal(before, session.net.state_dict())


def test_calibrated_statistics_are_the_mean_over_batches(learnt: tuple[str, str]) -> None:
    """As torch's own batch norm gathers them with momentum None; and by hand, of what arrives at each norm."""
    path, weights = learnt
    recipe = config.load(path)
    net, _ = nets.load(recipe, checkpoint.load(weights), cls.CLASSES, 0, to_train=False, where=weights)
    static: Any = subnet(net.eval(), recipe.space.named("MIXED"), nets.sized(recipe, cls.CLASSES))
    batches = [cls.images(6, seed=i) for i in range(3)]
    theirs = copy.deepcopy(static).train()
    arrived: dict[str, list[Any]] = {}
    for name, module in theirs.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.register_forward_pre_hook(lambda _, x, name=name: arrived.setdefault(name, []).append(x[0]))
    with torch.no_grad():
        for batch in batches:
            theirs(batch.float() / 255)
    assert calibrate(static, batches, CPU, task=TASKS["cls"]) == 18
    assert equal(static.state_dict(), theirs.state_dict())
    norms = calibrated_norms(static)
    assert len(norms) == len(arrived) > 5 and not static.training
    for name, parts in arrived.items():
        norm = static.get_submodule(name)
        mean = sum(x.mean((0, 2, 3)) for x in parts) / 3
        var = sum(x.transpose(0, 1).flatten(1).var(1) for x in parts) / 3
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-5)


def test_the_size_of_a_batch_decides_nothing(learnt: tuple[str, str]) -> None:
    """Of those that are scored; statistics are means over batches, so there the size belongs to the protocol."""
    path, weights = learnt
    found = []
    for size in (1, 5, 24, 100):
        sets = (f"test.batch_size={size}", "test.calibration_images=0", f"data.cache_mb={size % 2}")
        options: dict[str, Any] = {"split": None, "device": CPU, "seed": 0, "tune": False, "say": lambda _: None}
        session = sweep.open_session(config.load(path, sets), weights, **options)
        arch = session.recipe.space.named("MIXED")
        found.append(sweep.test_record(session, {"arch": arch.nested()}, arch, "t", False)["metric"]["t"])
    assert found == found[:1] * 4


def test_a_lone_image_at_the_end_is_no_batch(toy_cls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """13 images in batches of 6, whose last feature is 1 x 1: one image has no variance."""
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "basic", test={"calibration_images": 13}))
    sets = ("--set", "train.steps=1", "--set", "space.data.input_shape=16", "--device", "cpu")
    good("train", path, "--work-dir", tmp_path / "work", *sets)
    assert "test.calibration_images: 12 are taken, since in batches of 6" in caplog.text
    said = bad("train", path, "--work-dir", tmp_path / "one", *sets, "--set", "train.batch_size=1")
    assert "batch norms must see more than one image" in said and not (tmp_path / "one" / "latest.pth").exists()


# ---- tuning, and one arch alone ----


@pytest.mark.slow
def test_one_arch_alone_from_scratch(learnt: tuple[str, str], tmp_path: Path) -> None:
    """`subnet:` of a file or a name: train, test, tune and extract are then of that arch, which holds its own only."""
    path, weights = learnt
    archs = nas.archs_file(tmp_path / "a.jsonl", [{"arch": config.load(path).space.named("MIXED").nested()}])
    results = []
    for name in (str(archs), "MIXED"):
        alone = write(tmp_path / "alone.yaml", {**json.loads(Path(path).read_text()), "subnet": name})
        recipe = config.load(alone)
        assert recipe.space.count() == 1 and recipe.scales == (32, 40)
        work = tmp_path / f"of {Path(name).name}"
        final = train(alone, work, "train.steps=4")
        found = checkpoint.load(final)
        blocks = {n.split(".")[4] for n in found.net if n.startswith("backbone.stages.0.0.")}
        assert blocks == {"k7"} and len(found.net) < len(checkpoint.load(weights).net) / 2
        good("test", alone, "--checkpoint", final, "--archs", archs, "--out", work / "t.jsonl", "--raw")
        (tested,) = lines(work / "t.jsonl")
        assert set(tested["metric"]) == {"direct", "direct_raw"}
        good(
            "finetune",
            alone,
            "--checkpoint",
            final,
            "--arch",
            "MAX",
            "--out",
            work / "f.jsonl",
            "--work-dir",
            work / "f",
        )
        good("extract", alone, "--checkpoint", final, "--arch", archs, "--out", work / "m")
        good("extract", alone, "--checkpoint", work / "f" / "best" / "latest.pth", "--arch", "MAX", "--out", work / "n")
        results.append(tensors(final))
    assert equal(*results)


def test_classes_go_by_name(learnt: tuple[str, str], tmp_path: Path) -> None:
    path, weights = learnt
    own, recipe = checkpoint.load(weights), config.load(path)
    theirs = list(own.meta["categories"])
    for names in (theirs[::-1], theirs[2:], ["oval", *theirs[::-1], "star"]):
        for to_train in (False, True):
            net, match = nets.load(recipe, own, names, 0, to_train=to_train, where="it")
            fc: Any = net.get_submodule("fc")
            for mine, name in enumerate(names):
                if name in theirs:
                    assert torch.equal(fc.weight[mine], own.net["fc.weight"][theirs.index(name)])
                    assert torch.equal(fc.bias[mine], own.net["fc.bias"][theirs.index(name)])
                elif to_train:
                    assert 0 < fc.weight[mine].abs().max() < 1 and fc.bias[mine] > -1
                else:
                    assert not fc.weight[mine].any() and fc.bias[mine] == NEVER
            assert match.fresh == tuple(n for n in names if n not in theirs)
    with pytest.raises(UsageError, match="none of the data's classes"):
        nets.load(recipe, own, ["oval"], 0, to_train=False, where="it")
    few = ("test", path, "--checkpoint", weights, "--arch", "MIXED", "--set", "data.classes=[ring, circle]")
    good(*few, "--out", tmp_path / "few.jsonl")
    (record,) = lines(tmp_path / "few.jsonl")
    assert set(record["metric"]["direct"]) == {"top1"}  # of two classes
    more = ("train", path, "--work-dir", tmp_path / "more", "--set", "model.num_classes=11", "--set", "train.steps=2")
    good(*more)
    net, _ = nets.load(
        config.load(path, ["model.num_classes=11"]),
        checkpoint.load(str(tmp_path / "more" / "latest.pth")),
        cls.CLASSES,
        0,
        to_train=False,
        where="it",
    )
    set_arch(net.eval(), recipe.space.minimum())
    with torch.no_grad():
        assert int(net(torch.rand(8, 3, 32, 32)).argmax(1).max()) < 8


# ---- bad input ----


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown metric": ({"train": {"best_metric": "top_1"}}, "one of top1, top5, or top1/<class> (did you mean top1?)"),
    "metric of detection": ({"train": {"best_metric": "bbox_mAP"}}, "train.best_metric: must be one of top1, top5"),
    "unknown loss": ({"train": {"loss_weights": {"loss_cd": 2}}}, "there is no loss 'loss_cd' (did you mean loss_ce?)"),
    "loss of tuning": ({"finetune": {"loss_weights": {"ce": 2}}}, "finetune.loss_weights: there is no loss 'ce'"),
    "late boundary": (
        {"train": {"label_smoothing": {"boundary": [2], "value": [0.1]}}},
        "train.label_smoothing.boundary[0]: boundary must start at epoch 1, not 2",
    ),
    "boundaries that fall": (
        {"train": {"distill": {"weight": {"boundary": [1, 5, 3], "value": [1, 2, 3]}}}},
        "train.distill.weight.boundary[2]: boundary must ascend, but 3 follows 5",
    ),
    "fewer values": (
        {"train": {"loss_weights": {"loss_ce": {"boundary": [1, 5], "value": [1]}}}},
        "train.loss_weights.loss_ce.value: boundary and value must be of one length, but have 2 and 1",
    ),
    "boundary of no epoch": (
        {"train": {"distill": {"temperature": {"boundary": [1, 2.5], "value": [1, 2]}}}},
        "boundary must be epochs, whole numbers from 1 on",
    ),
    "no value": ({"train": {"label_smoothing": {"boundary": [1]}}}, "a schedule has the keys boundary and value"),
    "smoothing above 1": (
        {"train": {"label_smoothing": 1.5}},
        "train.label_smoothing: must be a number from 0 to 1, or {boundary, value}, not 1.5",
    ),
    "smoothing to above 1": (
        {"train": {"label_smoothing": {"boundary": [1, 2], "value": [0, 2]}}},
        "train.label_smoothing.value[1]: must be a number from 0 to 1, not 2",
    ),
    "no temperature": ({"train": {"distill": {"temperature": 0}}}, "temperature: must be a number above 0"),
    "a text as weight": ({"train": {"loss_weights": {"loss_ce": "much"}}}, "loss_weights.loss_ce: must be a number"),
    "a text as scheduled weight": (
        {"train": {"loss_weights": {"loss_ce": {"boundary": [1, 2], "value": [1, "much"]}}}},
        "loss_weights.loss_ce.value[1]: must be a number",
    ),
    "teacher without checkpoint": ({"train": {"distill": {"config": "t.yaml"}}}, "needs both config and checkpoint"),
    "checkpoint without config": ({"train": {"distill": {"checkpoint": "t.pth"}}}, "needs both config and checkpoint"),
    "in place by single paths": (
        {"train": {"distill": {}, "policy": "single_path"}},
        "train.distill: without a teacher it needs the largest arch in every step",
    ),
    "in place without max": (
        {"train": {"distill": {}, "sample_strategy": ["min", "random"]}},
        "train.distill: without a teacher it needs the largest arch in every step",
    ),
    "boxes": ({"data": {"max_edge": 600}}, "data: unknown key 'max_edge'"),
    "another subnet": ({"subnet": "MIXT"}, "subnet: no file MIXT, and no such named arch"),
    "classes too few": ({"model": {"num_classes": 3}}, "model.num_classes is 3, but the data has 8 categories"),
    "top5 of few": (
        {"data": {"classes": ["ring", "circle"]}, "train": {"best_metric": "top5"}},
        "train.best_metric top5 has no value: with 2 classes there is only top1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_config_must_not_say(name: str, toy_cls: Path, tmp_path: Path) -> None:
    changes, said = copy.deepcopy(BAD[name])
    subnet_key = {"subnet": changes.pop("subnet")} if "subnet" in changes else {}
    path = write(tmp_path / "cfg.yaml", {**cls.tiny(toy_cls, **changes), **subnet_key})
    assert said in bad("train", path, "--work-dir", tmp_path / "work")
    assert not list(tmp_path.rglob("*.pth")) and not (tmp_path / "work" / "latest.pth").exists()


def test_the_subnet_of_another_space(learnt: tuple[str, str], toy_cls: Path, tmp_path: Path) -> None:
    path, _ = learnt
    body = json.loads(Path(path).read_text())
    deeper = {**config.load(path).space.named("MIXED").nested()["backbone"]["body"], "depth": [3, 2]}
    wrong = {"backbone": {"stem": {"width": 9}, "body": deeper, "head": {"width": 24}}}
    for text, said in (
        (json.dumps({"arch": wrong}), ("backbone.stem.width", "backbone.body.depth")),
        (json.dumps({"arch": {"backbone": {"stem": {"width": 8}}}}), ("backbone.body.choice is missing",)),
        ('{"metric": {}}', ("has no record with an arch",)),
        ("", ("has no record with an arch",)),
        ("{no json", ("a.jsonl",)),
    ):
        (tmp_path / "a.jsonl").write_text(text + "\n" if text else "")
        faulty = write(tmp_path / "cfg.yaml", {**body, "subnet": str(tmp_path / "a.jsonl")})
        found = bad("train", faulty, "--work-dir", tmp_path / "work")
        assert "subnet: " in found and all(part in found for part in said), found
        assert not (tmp_path / "work").exists()


def test_class_folders_that_differ(learnt: tuple[str, str], toy_cls: Path, tmp_path: Path) -> None:
    path, weights = learnt
    body = json.loads(Path(path).read_text())
    other = tmp_path / "val"
    other.mkdir()
    for name in cls.CLASSES[1:]:
        (other / name).symlink_to(toy_cls / "val" / name)
    body["data"]["val"]["path"] = str(other)
    fewer = write(tmp_path / "fewer.yaml", body)
    done = nas.call("test", fewer, "--checkpoint", weights, "--arch", "MAX", "--out", tmp_path / "fewer.jsonl")
    assert done.code == 0 and "lacks (without examples: they count in no score): 1, checks" in done.err
    (other / "zigzag").symlink_to(toy_cls / "val" / "dots")
    wrong = write(tmp_path / "cfg.yaml", body)
    for verb in (
        ("train", wrong, "--work-dir", tmp_path / "work"),
        ("finetune", wrong, "--checkpoint", weights, "--arch", "MAX", "--out", tmp_path / "o.jsonl"),
    ):
        said = bad(*verb)
        assert "must have the same classes; " in said
        assert f"only {toy_cls / 'train'} has checks" in said and f"only {other} has zigzag" in said
    assert not (tmp_path / "work" / "latest.pth").exists() and not (tmp_path / "o.jsonl").exists()


@pytest.mark.slow
def test_the_checkpoint_of_another_task(learnt: tuple[str, str], tmp_path: Path) -> None:
    path, weights = learnt
    found = checkpoint.load(weights)
    old = checkpoint.Checkpoint(found.net, 1, {}, {k: v for k, v in found.meta.items() if k != "task"})
    checkpoint.save(str(tmp_path), "det.pth", old)  # those before there were tasks are a detector's
    det = {**json.loads(Path(path).read_text()), "task": "det", "model": {}, "data": {}, "train": {}}
    det["space"] = {"backbone.stem.width": 8, "backbone.body.width": [8] * 4, "backbone.body.depth": [1] * 4}
    as_det = write(tmp_path / "det.yaml", det)
    for config_path, file, said in (
        (path, tmp_path / "det.pth", "is the checkpoint of task det, but the config's is cls"),
        (as_det, weights, "is the checkpoint of task cls, but the config's is det"),
    ):
        common = (config_path, "--checkpoint", file, "--arch", "MAX")
        assert said in bad("test", *common, "--out", tmp_path / "o.jsonl")
        assert said in bad("finetune", *common, "--out", tmp_path / "o.jsonl", "--work-dir", tmp_path / "f")
        assert said in bad("extract", *common, "--out", tmp_path / "m")
    assert {p.name for p in tmp_path.iterdir()} == {"det.pth", "det.yaml"}
    (tmp_path / "work").mkdir()
    (tmp_path / "det.pth").rename(tmp_path / "work" / "latest.pth")
    assert "task det there, cls here" in bad("train", path, "--work-dir", tmp_path / "work", code=4)
    smooth = {**det, "train": {"label_smoothing": 0.1}, "finetune": {"label_smoothing": 0.1}}
    said = bad("train", write(tmp_path / "smooth.yaml", smooth), "--work-dir", tmp_path / "w")
    for key in ("train.label_smoothing", "finetune.label_smoothing"):
        assert f"{key}: is of task cls, but the task is det" in said
    assert not (tmp_path / "w").exists()
