"""Training: a run that was killed ends as an unbroken one; policies, schedules, gradients and ranks keep their laws."""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import get_worker_info
from torchvision.models import resnet

from searchkit.errors import UsageError
from searchkit.models.detector import set_arch
from searchkit.space.arch import Arch, Space, read_space
from searchkit.train import checkpoint, config, loop, policies, schedules, supernet
from searchkit.train import net as nets
from searchkit.train.bench import open_split
from searchkit.train.config import Train
from searchkit.train.distributed import Ranks
from searchkit.train.loop import Run, fit, make_optimizer
from tests import nas, suite
from tests.nas import CPU, equal, tensors, tiny, train, write


@pytest.fixture(autouse=True)
def one_thread() -> None:
    nas.one_thread()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nas.toy(tmp_path_factory)


@pytest.fixture(scope="module")
def unbroken(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(config, working folder) of a training that nothing broke; it is evaluated twice."""
    folder = tmp_path_factory.mktemp("unbroken")
    path = write(folder / "cfg.yaml", tiny(toy, train={"steps": 24, "eval_epochs": 2, "warmup_steps": 2}))
    train(path, folder / "work")
    return path, folder / "work"


# ---- resume ----


def test_killed_at_any_moment(unbroken: tuple[str, Path], tmp_path: Path) -> None:
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
    for moment in (lambda: work.exists, lambda: changed(1), half_written, lambda: changed(3)):
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
    assert sorted(p.name for p in work.iterdir()) == ["best.pth", "latest.pth", "tensorboard"]  # no half-made file


def test_broken_off_and_gone_on_with_workers(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    path, reference = unbroken
    assert get_worker_info() is None
    for stop in (5, 17, None):
        train(path, tmp_path / "work", "data.workers=2", stop=stop)
    assert equal(tensors(tmp_path / "work" / "latest.pth"), tensors(reference / "latest.pth"))


def test_attempts_of_a_job_go_on(unbroken: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reference = unbroken
    monkeypatch.setenv("SEARCHKIT_CHECKPOINT", str(tmp_path / "kept"))
    train(path, tmp_path / "attempt-1", stop=14)
    train(path, tmp_path / "attempt-2")
    for name in ("latest.pth", "best.pth"):
        assert (tmp_path / "attempt-2" / name).resolve() == tmp_path / "kept" / name
        assert equal(tensors(tmp_path / "attempt-2" / name), tensors(reference / name))


def test_the_seed_decides(unbroken: tuple[str, Path], tmp_path: Path) -> None:
    path, reference = unbroken
    other = train(path, tmp_path / "other", "train.steps=2", seed=1)
    assert not equal(tensors(other), tensors(train(path, tmp_path / "same", "train.steps=2", seed=0)))
    again = tensors(train(path, tmp_path / "again"))
    assert equal(again, tensors(reference / "latest.pth"))
    with pytest.raises(UsageError, match="of another training: seed 0 there, 1 here"):
        train(path, tmp_path / "again", seed=1)
    with pytest.raises(UsageError, match="steps 24 there, 25 here"):
        train(path, tmp_path / "again", "train.steps=25")


def test_a_lower_rate_counts_after_a_resume(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    train(path, tmp_path / "work", stop=3)
    rates: list[float] = []
    watch = nas.quiet(lambda report: rates.append(report.lr))
    train(path, tmp_path / "work", "train.lr=0.001", "train.schedule=constant", watch=watch)
    assert rates == [0.001] * 4


# ---- policies ----


def space_of(body: dict[str, Any]) -> Space:
    return read_space(body["space"])


def test_policies_visit_what_they_say(toy: Path) -> None:
    space = space_of(nas.TINY)
    largest, smallest, middle = (space.named(name) for name in ("MAX", "MIN", "MIDDLE"))
    sandwich = policies.policy("sandwich", space, 3, random_archs=2)
    single = policies.policy("single_path", space, 3)
    for step in range(20):
        visited = sandwich(step)
        assert visited[:2] == [largest, smallest] and len(visited) == 4
        assert all(space.contains(arch) for arch in [*visited, *single(step)]) and len(single(step)) == 1
    assert len({single(step)[0] for step in range(600)}) == space.count()  # all of them, in time
    anchors = policies.policy("anchors", space, 3, random_archs=2)
    for turn in range(3):
        cycle = [anchors(5 * turn + i) for i in range(5)]
        assert cycle[:3] == [[largest], [smallest], [middle]]
        assert all(len(archs) == 1 and space.contains(archs[0]) for archs in cycle[3:])
    assert [policies.policy("anchors", space, 3, random_archs=0)(step) for step in range(3)] == cycle[:3]
    assert policies.policy("fixed", space, 3, arch="MIDDLE")(7) == [middle]


def test_policies_are_functions_of_seed_and_step() -> None:
    space = space_of(nas.TINY)
    for name in policies.POLICIES:
        visited = [policies.policy(name, space, 5)(step) for step in range(12)]
        one = policies.policy(name, space, 5)
        assert [one(step) for step in reversed(range(12))] == visited[::-1]
        if name in ("sandwich", "single_path", "anchors"):
            assert [policies.policy(name, space, 6)(step) for step in range(12)] != visited


def test_a_cycle_written_as_samplers(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = [
        {"type": "range", "key": key, **values}
        for key, values in (
            ("arch.backbone.stem.width", {"start": 4, "end": 8, "step": 4}),
            ("arch.backbone.body.width", {"start": [8, 8, 8, 8], "end": [8, 8, 16, 16], "step": [4, 4, 8, 8]}),
            ("arch.backbone.body.depth", {"start": [1, 1, 1, 1], "end": [2, 1, 2, 1], "step": [1, 1, 1, 1]}),
        )
    ]
    cycle = [
        {"type": "anchor", "anchors": [{"name": "MAX"}, {"name": "MIDDLE"}]},
        {"type": "repeat", "times": 2, "model_sampler": {"type": "composite", "model_samplers": ranges}},
    ]
    sampler = {"type": "concat", "model_samplers": cycle}
    body = tiny(toy, train={"policy": "anchors", "sampler": sampler, "steps": 6})
    visited = visits(write(tmp_path / "cfg.yaml", body), tmp_path / "work", monkeypatch)
    space = space_of(body)
    assert visited[::4] == [space.maximum()] * 2 and visited[1::4] == [space.named("MIDDLE")] * 2
    for arch in visited[2:4]:
        assert not space.faults(arch) and arch["backbone.body.width"][:2] == (8, 8)  # type: ignore[index]
    body["train"]["sampler"] = {"type": "anchor", "anchors": ["MIDLE"]}
    with pytest.raises(UsageError, match=r"no architecture named 'MIDLE' \(did you mean MIDDLE"):
        train(write(tmp_path / "cfg.yaml", body), tmp_path / "other")


def visits(path: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> list[Arch]:
    """The archs that a training runs, in order."""
    visited: list[Arch] = []

    def noted(net: nn.Module, arch: Arch) -> None:
        visited.append(arch)
        set_arch(net, arch)

    monkeypatch.setattr(loop, "set_arch", noted)
    train(path, work)
    return visited


def test_training_runs_what_the_policy_says(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in policies.POLICIES:
        body = tiny(toy, train={"policy": name, "steps": 3}, data={"val": None})
        visited = visits(write(tmp_path / "cfg.yaml", body), tmp_path / name, monkeypatch)
        said = policies.policy(name, space_of(body), 0, random_archs=1)
        assert visited == [arch for step in range(3) for arch in said(step)]


# ---- schedules ----


def factors(name: str, steps: int, **more: Any) -> list[float]:
    return [schedules.factor(name, step, steps, **more) for step in range(steps)]


def by_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int, lr: float = 1.0) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_schedules_are_those_of_torch(steps: int) -> None:
    kinds = torch.optim.lr_scheduler
    cosine = by_torch(lambda o: kinds.CosineAnnealingLR(o, steps, eta_min=0.05), steps)
    assert factors("cosine", steps, floor=0.05) == pytest.approx(cosine)
    at = [math.ceil(0.75 * steps), math.ceil(0.92 * steps)]
    step = by_torch(lambda o: kinds.MultiStepLR(o, at, gamma=0.1), steps)
    assert factors("step", steps, milestones=(0.75, 0.92), gamma=0.1) == pytest.approx(step)
    assert factors("constant", steps) == by_torch(lambda o: kinds.ConstantLR(o, 1.0), steps)
    if steps > 4:
        warm = by_torch(lambda o: kinds.LinearLR(o, 0.001, 1.0, total_iters=4), steps)
        assert factors("constant", steps, warmup_steps=4, warmup_factor=0.001) == pytest.approx(warm)
        assert factors("cosine", steps, warmup_steps=4) == pytest.approx(
            [a * b for a, b in zip(warm, factors("cosine", steps), strict=True)]
        )


def test_one_cycle_is_nearly_that_of_torch() -> None:
    kind = torch.optim.lr_scheduler.OneCycleLR  # its two halves end one step early
    theirs = by_torch(lambda o: kind(o, 1.0, 1000, div_factor=25, final_div_factor=0.04 / 0.01), 1000, lr=0.04)
    ours = factors("one_cycle", 1000, floor=0.01)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.01
    assert ours[0] == 0.04 and ours[300] == 1 and ours[-1] == pytest.approx(0.01, abs=1e-4)


def test_rates_are_scaled_with_the_batch() -> None:
    for scaling, expected in (("linear", 0.08), ("sqrt", 0.04), ("none", 0.02)):
        o = Train(lr=0.02, base_batch=4, lr_scaling=scaling)  # type: ignore[arg-type]
        groups = make_optimizer(nn.Conv2d(1, 1, 1), o, 16).param_groups
        assert [g["lr"] for g in groups] == pytest.approx([expected] * 2)
        assert [g["weight_decay"] for g in groups] == [o.weight_decay, o.norm_weight_decay]
    assert Train(epochs=3, batch_size=4).total_steps(10, 2) == 4  # 30 images / 8
    assert Train(epochs=3, steps=5).total_steps(10, 2) == 5


# ---- one step ----


def one_step(path: str, archs: list[Arch], *sets: str) -> dict[str, torch.Tensor]:
    """How a step of SGD with lr 1 at these archs, on one batch, moves the weights; norms keep fixed statistics."""
    recipe = config.load(path, (*sets, "train.lr=1", "train.momentum=0", "train.weight_decay=0"))
    data = open_split(recipe.data, "train")
    net = nets.build(recipe, data.names, 0)
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    run = Run(net, make_optimizer(net, recipe.train, 1))
    batches = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, Ranks())
    options: dict[str, Any] = {"steps": 1, "scales": (64,), "max_edge": 100, "seed": 0, "device": CPU, "ranks": Ranks()}
    (report,) = fit(run, batches, lambda _: archs, recipe.train, **options)
    assert math.isfinite(report.losses["loss"])
    return {k: v.detach() - before[k] for k, v in net.named_parameters()}


def test_the_gradient_of_a_sandwich_is_the_mean_of_its_archs(toy: Path, tmp_path: Path) -> None:
    # All anchors and proposals are in the losses: nothing is drawn, so that single archs see what the sandwich sees.
    body = tiny(toy, model={"rpn_batch_per_image": 100_000, "box_batch_per_image": 100_000})
    path = write(tmp_path / "cfg.yaml", body)
    space = space_of(body)
    archs = [space.maximum(), space.minimum(), space.named("MIDDLE")]
    together = one_step(path, archs)
    alone = [one_step(path, [arch]) for arch in archs]
    for name, moved in together.items():
        mean = sum(each[name] for each in alone) / 3
        torch.testing.assert_close(moved, mean, rtol=1e-4, atol=1e-6, msg=name)
    outside = together["backbone.body.layer1.1.conv1.weight"]  # MIN has one block in the first stage
    assert alone[1]["backbone.body.layer1.1.conv1.weight"].abs().max() == 0 < outside.abs().max()


def test_other_losses_and_formats_run(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy, data={"val": None}))
    largest = [space_of(nas.TINY).maximum()]
    plain = one_step(path, largest)
    for sets in (("train.precision=bf16",), ("train.clip_norm=0.1",), ("train.loss_weights={loss_objectness: 3}",)):
        moved = one_step(path, largest, *sets)
        assert any(not torch.equal(moved[k], plain[k]) for k in plain), sets
    clipped = one_step(path, largest, "train.clip_norm=0.1")
    assert torch.cat([v.reshape(-1) for v in clipped.values()]).norm() <= 0.1001
    for sets in (("train.channels_last=true", "train.precision=bf16"), ("train.optimizer=adamw",)):
        work = tmp_path / sets[0]
        final = tensors(train(path, work, "train.steps=2", *sets))
        assert all(value.isfinite().all() for value in final.values())
    with pytest.raises(UsageError, match="there is no loss 'loss_clas'"):
        config.load(path, ["train.loss_weights={loss_clas: 3}"])


def test_frozen_stages_stay(toy: Path, tmp_path: Path) -> None:
    body = tiny(toy, model={"backbone_options": {"block": "basic", "frozen_stages": 1}}, data={"val": None})
    path = write(tmp_path / "cfg.yaml", body)
    recipe = config.load(path)
    start = nets.build(recipe, ("a", "b", "c"), 0).state_dict()
    after = tensors(train(path, tmp_path / "work"), optimizer=False)
    frozen = ("backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1")
    same = {name for name, value in start.items() if torch.equal(value, after[name])}
    assert same >= {name for name in start if name.startswith(frozen)}
    assert not any(name.startswith("backbone.body.layer2.0.conv") for name in same)


def test_images_are_seen_at_every_scale(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy, train={"scales": [32, 64, 96], "steps": 12}, data={"val": None}))
    seen: list[tuple[int, int]] = []
    real = nets.build_at

    def noted(*args: Any) -> nn.Module:
        net = real(*args)
        net.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
        return net

    monkeypatch.setattr(nets, "build_at", noted)
    train(path, tmp_path / "work")
    per_step = [set(seen[i : i + 3]) for i in range(0, 36, 3)]
    assert all(len(sizes) == 1 for sizes in per_step)  # all archs of a step see the same batch
    assert set.union(*per_step) == {(32, 32), (64, 64), (96, 96)}


def test_a_scale_is_a_short_edge_or_a_height_and_a_width(toy: Path, tmp_path: Path) -> None:
    recipe = config.load(write(tmp_path / "cfg.yaml", tiny(toy)))
    net: Any = nets.build(recipe, ("a",), 0)
    wide = torch.rand(3, 60, 120)
    for shape, expected in ((40, (40, 80)), ((48, 64), (32, 64)), ((96, 48), (48, 96)), (80, (50, 100))):
        loop.set_scale(net, shape, 100)
        (size,) = net.transform([wide])[0].image_sizes
        assert size == expected


# ---- initial weights ----


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
    assert "fc.weight (no such tensor in the network)" in " ".join(said)
    with pytest.raises(UsageError, match=r"cannot read .*none.pth"):
        train(write(tmp_path / "cfg.yaml", {**body, "init": "none.pth"}), tmp_path / "other")


# ---- ranks ----

# What each rank does, as a script: its gradients against those of the whole batch, then a training of which it notes
# the archs and the digest of all tensors after every step.
RANK = """
import hashlib, json, sys
import torch
from searchkit.models.detector import build, set_arch
from searchkit.train import config, distributed, loop, supernet
from tests import nas

nas.one_thread()
path, work = sys.argv[1:]
recipe = config.load(path)
ranks = distributed.join(nas.CPU)
gaps = []
for options in ({"norm": "gn", "norm_group": 2}, {"norm": "frozen"}):
    torch.manual_seed(0)
    model = config.load(path, ["model.backbone_options=" + json.dumps({"block": "basic", **options})]).model
    net = build(model, recipe.space.maximum())
    set_arch(net, recipe.space.named("MIDDLE"))
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def gradients(images):
        net.zero_grad()
        sum((level.square()).mean() for level in net.backbone(images).values()).backward()
        return [p for p in net.backbone.parameters() if p.grad is not None]

    whole = [p.grad.clone() for p in gradients(batch)]
    ours = gradients(batch[2 * ranks.rank : 2 * ranks.rank + 2])
    distributed.average_gradients(ours, ranks)
    gaps += [float((p.grad - w).abs().max() / w.abs().max().clamp(min=1e-3)) for p, w in zip(ours, whole, strict=True)]

archs, digests = [], []
fit, set_arch_ = supernet.fit, loop.set_arch

def noted(net, arch):
    archs.append(arch.id)
    set_arch_(net, arch)

def watched(run, *args, **more):
    for report in fit(run, *args, **more):
        state = b"".join(v.detach().numpy().tobytes() for v in run.net.state_dict().values())
        digests.append(hashlib.sha256(state).hexdigest())
        yield report

loop.set_arch, supernet.fit = noted, watched
supernet.train_supernet(recipe, work, seed=0, device=nas.CPU, watch=nas.quiet())
with open(f"{work}/{ranks.rank}.json", "w") as f:
    json.dump({"gap": max(gaps), "archs": archs, "digests": digests}, f)
"""


def torchrun(cwd: Path, *argv: str) -> str:
    """The output of `torchrun --nproc-per-node 2 argv`."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *argv],
        cwd=cwd,
        env=nas.environment(PYTHONPATH=str(Path(__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ranks_stay_together(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy, train={"policy": "single_path", "steps": 4}))
    (tmp_path / "rank.py").write_text(RANK)
    torchrun(tmp_path, str(tmp_path / "rank.py"), path, str(tmp_path / "work"))
    first, second = (json.loads((tmp_path / "work" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["archs"] == second["archs"] and len(set(first["archs"])) > 1
    assert first["digests"] == second["digests"] and len(set(first["digests"])) == 4
    assert max(first["gap"], second["gap"]) < 1e-5
    # the same by the command, which speaks once
    out = torchrun(
        tmp_path, "-m", "searchkit.nas_cli", "train", path, "--work-dir", "by_command", "--json", "--device", "cpu"
    )
    shown = json.loads(out)
    assert shown["step"] == 4 and set(shown["metrics"]) == {"MAX", "MIN"} and math.isfinite(shown["losses"]["loss"])
    final = checkpoint.load(str(tmp_path / "by_command" / "latest.pth"))
    state = b"".join(value.numpy().tobytes() for value in final.net.values())
    assert hashlib.sha256(state).hexdigest() == first["digests"][-1]


# ---- what goes wrong ----


def test_a_loss_that_is_not_finite(toy: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    train(path, tmp_path / "work", stop=3)
    before = tensors(tmp_path / "work" / "latest.pth")
    said = nas.bad("train", path, "--work-dir", tmp_path / "work", "--set", "train.lr=1e30", code=1)
    step = int(said.split("error: step ")[1].split(":")[0])
    assert step == 3 and "the loss is not finite" in said and "images [" in said and "Lower train.lr" in said
    assert before["step"] == 2 and tensors(tmp_path / "work" / "latest.pth")["step"] == 3


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
