"""One step of training: the gradient of its archs, formats, frozen stages, scales."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from searchkit.errors import ConfigError, UsageError
from searchkit.nas.tasks import detection
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint, supernet
from searchkit.nas.train import net as nets
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.loop import Archs, Run, Where, fit, update
from searchkit.nas.train.splits import open_split
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.nas import CPU, space_of, tensors, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


def one_step(path: str, archs: list[Arch], *sets: str) -> dict[str, torch.Tensor]:
    """How a step of SGD with lr 1 at these archs, on one batch, moves the weights; norms keep fixed statistics."""
    recipe = config.load(path, (*sets, "train.lr=1", "train.momentum=0", "train.weight_decay=0"))
    data = open_split(recipe, "train")
    net = nets.build(recipe, data.names, 0)
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    run = Run(net, make_optimizer(net, recipe.train, 1))
    batches = supernet.batches_of(data, recipe, recipe.train, 0, 0, 1, (64,), Ranks())
    options: dict[str, Any] = {"steps": 1, "steps_per_epoch": 1, "scales": (64,), "seed": 0, "device": CPU}
    options |= {"task": recipe.task, "section": recipe.data, "ranks": Ranks()}
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


def test_a_step_may_make_several_moves(toy_cls: Path, tmp_path: Path) -> None:
    """A strategy moves what its gradients are of, as often as it updates; all else stays as it is."""
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, train={"momentum": 0, "weight_decay": 0})))
    data = open_split(recipe, "train")
    archs = [recipe.space.maximum()]
    settings = recipe.train

    def trained(strategy: Any) -> tuple[Run, list[float]]:
        net, alpha = nets.build(recipe, data.names, 0), nn.ParameterDict({"alpha": nn.Parameter(torch.zeros(2))})
        extras = nn.ModuleDict({"alphas": alpha})
        run = Run(net, make_optimizer(net, settings, 8, extras), extras=extras)
        batches = supernet.batches_of(data, recipe, settings, 0, 0, 2, (32,), Ranks())
        options: dict[str, Any] = {"steps": 2, "steps_per_epoch": 4, "scales": (32,), "seed": 0, "device": CPU}
        options |= {"task": recipe.task, "section": recipe.data, "ranks": Ranks(), "strategy": strategy}
        return run, [r.losses["loss"] for r in fit(run, batches, lambda _: archs, settings, **options)]

    weights = Archs(lambda _: archs, settings, recipe.task)

    def two_moves(run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]:
        losses = weights(run, images, targets, at)
        update(run, settings, Ranks())
        assert all(p.grad is None for p in run.net.parameters())
        alpha = run.extras.get_parameter("alphas.alpha")
        (alpha - torch.tensor([1.0, 2.0])).square().sum().backward()  # type: ignore[no-untyped-call]
        return losses

    (plain, seen), (other, same) = trained(None), trained(two_moves)
    assert seen == same and nas.equal(plain.net.state_dict(), other.net.state_dict())
    zero, alpha = (run.extras.get_parameter("alphas.alpha") for run in (plain, other))
    assert not zero.any()
    torch.testing.assert_close(alpha.detach(), torch.tensor([1.0, 2.0]) * (1 - (1 - 2 * settings.lr) ** 2))


class Counting(nn.Module):
    """A policy with a state: it visits the largest arch where a number that it counts is even."""

    visits: torch.Tensor

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("visits", torch.zeros((), dtype=torch.long))

    def forward(self, step: int) -> list[Arch]:
        self.visits += 1 + step % 3
        return [self.space.minimum() if self.visits % 2 else self.space.maximum()]


def test_a_policy_may_have_a_state(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saved with the run, which goes on as the unbroken one."""
    monkeypatch.setattr(supernet, "policy_of", lambda recipe, *_: Counting(recipe.space))
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, data={"val": None}))
    unbroken = train(path, tmp_path / "unbroken")
    train(path, tmp_path / "work", stop=4)
    again = train(path, tmp_path / "work")
    assert nas.equal(tensors(again), tensors(unbroken))
    assert checkpoint.load(again).extras["policy.visits"] == sum(1 + step % 3 for step in range(6))


@pytest.mark.slow
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
    with pytest.raises(ConfigError) as e:
        config.load(path, ["train.loss_weights.loss_clas=3"])
    assert [fault.what.partition(" (")[0] for fault in e.value.faults] == [
        "train.loss_weights: there is no loss 'loss_clas'"
    ]


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


@pytest.mark.slow
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
        detection.set_scale(net, shape, replace(recipe.data, max_edge=100))
        (size,) = net.transform([wide])[0].image_sizes
        assert size == expected
