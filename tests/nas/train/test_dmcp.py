"""DMCP: what chains expect, what they learn from, which archs they give, and a training that is broken off."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.errors import ConfigError, UsageError
from searchkit.nas.cost.price import plans_of, price
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.models.network import build
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint, markov
from searchkit.nas.train.dmcp import Dmcp
from searchkit.nas.train.markov import Markov, expected, flops_loss, weighed
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.nas import equal, lines, tensors, train, write

pytestmark = pytest.mark.usefixtures("one_thread")

MOBILENET: dict[str, Any] = {
    "backbone.stem.width": {"choices": [4, 6, 8]},
    "backbone.body.width": {"choices": [[5, 7, 9], [8, 12, 16]]},  # none as the stem: then a block has a shortcut
    "backbone.body.depth": [1, 2],
    "backbone.body.expand": [1, 2],
    "backbone.body.hidden": {"choices": [[0], [0], [8, 12, 16], [8, 20, 32]], "sample_strategy": "block_wise"},
    "backbone.head.width": {"choices": [8, 16, 24]},
}
RESNET: dict[str, Any] = {
    "backbone.stem.width": {"choices": [4, 8]},
    "backbone.body.width": {"choices": [[2, 4], [2, 3, 4]]},
    "backbone.body.depth": [2, 1],
    "backbone.body.hidden": {"choices": [[2, 6], [2, 4, 8], [3, 6], [3]], "sample_strategy": "block_wise"},
}
NETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mobilenet": (
        {"backbone": "mobilenet_v2", "backbone_options": {"strides": [1, 2], "stem_stride": 1, "activation": "relu"}},
        MOBILENET,
    ),
    "bottleneck": ({"backbone": "resnet", "backbone_options": {"block": "bottleneck"}}, RESNET),
    "basic": ({"backbone": "resnet", "backbone_options": {"block": "basic"}}, RESNET),
}


def chains(net: str, target: float = 0.0, **options: Any) -> tuple[Markov, ClassifierConfig, Space]:
    """The policy of a network, by default for a cost in the middle of its space."""
    model, declared = NETS[net]
    space = read_space(declared)
    net_config = ClassifierConfig(num_classes=4, **model)
    plans = plans_of(net_config, space.maximum())
    least, most = (price(plans, arch, 32).flops / 1e6 for arch in (space.minimum(), space.maximum()))
    settings = Dmcp(target or (least + most) / 2, **options)
    return Markov(settings, space, plans, 32, seed=0, steps=100, random_archs=2), net_config, space


@pytest.mark.parametrize("net", NETS)
def test_what_is_expected_is_the_closed_form(net: str) -> None:
    """At the start all chains go on with .5; where they go on for sure, or not at all, it is an arch of the grid."""
    policy, _, space = chains(net)
    marginals = policy.marginals(policy.alpha)
    for choices, kept in zip(policy.units.values(), marginals, strict=True):
        by_hand = choices[0] + sum((b - a) * 0.5**i for i, (a, b) in enumerate(pairwise(choices), 1))
        assert float(expected(choices, kept)) == pytest.approx(by_hand, abs=1e-12)
    rng = random.Random(1)
    for arch in (space.maximum(), space.minimum(), *(space.sample(rng) for _ in range(4))):
        hard = [_kept(arch, unit, choices) for unit, choices in policy.units.items()]
        assert float(policy.expected_macs(hard)) == price(policy.plans, arch, 32).flops
    assert space.nearest(policy.expected_arch()) in set(space.enumerate())


def _kept(arch: Arch, unit: Any, choices: tuple[int, ...]) -> Tensor:
    value = arch[unit.key] if unit.position is None else arch[unit.key][unit.position]  # type: ignore[index]
    return torch.tensor([float(v <= value) for v in choices], dtype=torch.float64)


@pytest.mark.parametrize("net", NETS)
def test_channels_that_are_not_kept_are_as_not_there(net: str) -> None:
    """With every chain certain, the largest network computes what the arch does, but for what norms see: here they are
    the identity."""
    policy, net_config, space = chains(net)
    whole: Any = build(net_config, space.maximum(), space.held()).double().eval()
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    from searchkit.nas.models.elastic import set_arch

    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    rng = random.Random(2)
    for arch in (space.minimum(), *(space.sample(rng) for _ in range(3))):
        hard = [_kept(arch, unit, choices) for unit, choices in policy.units.items()]
        set_arch(whole, space.maximum())
        with torch.no_grad(), weighed(whole, policy.widths.reads, hard):
            masked = whole(x)
        set_arch(whole, arch)
        torch.testing.assert_close(masked, whole(x).detach(), rtol=1e-9, atol=1e-12)
    assert not any(module._forward_pre_hooks for module in whole.modules())


def test_the_loss_of_the_cost_has_no_gradient_in_its_dead_band() -> None:
    def slope(kind: Any, at: float) -> float:
        cost = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        loss = flops_loss(kind, cost, 100.0)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(cost.grad)  # type: ignore[arg-type]

    assert all(slope("log_l1", at) == 0 for at in (95.0, 97.5, 99.999))
    for at in (20.0, 94.999, 100.0, 130.0, 400.0, 1000.0):
        away = at - 100 if at < 95 else at - 95
        assert slope("log_l1", at) == pytest.approx(1 / away)
        step = 1e-4
        ends = [float(flops_loss("log_l1", torch.tensor(v, dtype=torch.float64), 100.0)) for v in (at, at + step)]
        if at not in (94.999, 400.0):
            assert slope("log_l1", at) == pytest.approx((ends[1] - ends[0]) / step, rel=1e-3)
    assert slope("l1", 80) == -1 and slope("l2", 80) == -40 and slope("inverted_log_l1", 80) < 0


def test_samples_are_drawn_by_the_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _, space = chains("mobilenet", arch_sample_num=3)
    policy.alpha.fill_(1.0)
    rng = random.Random(3)
    drawn = [policy.sample(rng) for _ in range(1500)]
    assert all(space.contains(arch) for arch in drawn)
    for unit, choices in policy.units.items():
        for i, p in enumerate(policy.marginals(policy.alpha)[0][: len(choices)]):
            share = sum(bool(_kept(arch, unit, choices)[i]) for arch in drawn) / len(drawn)
            assert share == pytest.approx(float(p), abs=4 * (0.25 / len(drawn)) ** 0.5)
    told = policy.ended(str(tmp_path))
    names = sorted(path.name for path in (tmp_path / "model_sample").iterdir())
    assert names == ["expected_ch.json", "sample_0.json", "sample_1.json", "sample_2.json"] and len(told) == 1
    target = policy.settings.target_flops * 1e6
    for name in names[1:]:
        (record,) = lines(tmp_path / "model_sample" / name)
        arch = Arch.of(record["arch"])
        assert record["overhead"]["flops"] == price(policy.plans, arch, 32).flops
        assert abs(record["overhead"]["flops"] - target) <= 0.01 * target
    policy.alpha.fill_(-9.0)  # only the least ones are left
    monkeypatch.setattr(markov, "TRIES", 50)
    assert "note: 3 samples were wanted" in policy.ended(str(tmp_path))[1]
    assert sorted(path.name for path in (tmp_path / "model_sample").iterdir()) == ["expected_ch.json"]


def test_a_step_of_the_chains_is_the_gradient_by_differences() -> None:
    """Of the cost alone: an independent way to the same number."""
    policy, _, _ = chains("bottleneck")
    policy.alpha.copy_(torch.linspace(-1, 1, len(policy.alpha), dtype=torch.float64))

    def cost(alpha: Tensor) -> Tensor:
        macs = policy.expected_macs(policy.marginals(alpha)) / 1e6
        return flops_loss("l2", macs, policy.settings.target_flops)

    alpha = policy.alpha.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cost(alpha), [alpha])
    for i in range(len(alpha)):
        step = torch.zeros_like(policy.alpha)
        step[i] = 1e-6
        by_hand = float(cost(policy.alpha + step) - cost(policy.alpha - step)) / 2e-6
        assert float(gradient[i]) == pytest.approx(by_hand, rel=1e-4, abs=1e-12)
    was = policy.alpha.clone()
    policy.move(gradient, policy.start)
    policy.move(gradient, policy.start)
    torch.testing.assert_close(policy.alpha, was - policy.settings.arch_lr * 2.9 * gradient)
    assert policy.rate(100) == pytest.approx(0.1) and policy.start == 50


def test_what_is_no_width_is_refused() -> None:
    model, declared = NETS["mobilenet"]
    net_config = ClassifierConfig(num_classes=4, **model)

    def refused(target: float = 0.5, **changes: Any) -> str:
        space = read_space({**declared, **changes})
        with pytest.raises(UsageError) as e:
            plans = plans_of(net_config, space.maximum())
            Markov(Dmcp(target), space, plans, 32, seed=0, steps=9, random_archs=2)
        return str(e.value)

    assert "backbone.body.depth[1] has several choices, but it is no width" in refused(
        **{"backbone.body.depth": {"choices": [[1], [1, 2]]}}
    )
    assert "no width" in refused(**{"backbone.body.kernel": {"choices": [3, 5]}})
    assert "train.dmcp.target_flops 900 (millions of MACs) can't be met: archs of this space cost" in refused(900)
    two = {key: value for key, value in declared.items() if key != "backbone.body.hidden"}
    space = read_space({**two, "backbone.body.expand": {"choices": [[1], [2, 3]]}})
    with pytest.raises(UsageError, match=r"hang on .* and on .*, but they must hang on one choice"):
        Markov(Dmcp(0.5), space, plans_of(net_config, space.maximum()), 32, seed=0, steps=9, random_archs=2)


# ---- a training ----


def body_of(toy_cls: Path, **dmcp: Any) -> dict[str, Any]:
    model, declared = NETS["mobilenet"]
    settings = {"target_flops": 0.45, "arch_start_train": 3, "arch_sample_num": 1, "distill_iter": 2, **dmcp}
    body = cls.tiny(toy_cls, "mobilenet", train={"policy": "dmcp", "random_archs": 1, "dmcp": settings, "steps": 7})
    return {**body, "model": model, "space": {**declared, "data.input_shape": {"choices": [32]}}}


def test_a_training_goes_on_in_each_phase_and_retrains_a_sample(toy_cls: Path, tmp_path: Path) -> None:
    body = body_of(toy_cls)
    path = write(tmp_path / "dmcp.yaml", body)
    unbroken = train(path, tmp_path / "unbroken")
    kept = checkpoint.load(unbroken)
    assert kept.extras["policy.alpha"].abs().min() > 0  # 4 of 7 steps moved them
    for stop in (1, 3, 5):  # before narrower archs are taught, before the chains learn, in the middle of that
        train(path, tmp_path / f"work{stop}", stop=stop)
        again = train(path, tmp_path / f"work{stop}")
        assert equal(tensors(again), tensors(unbroken)) and equal(checkpoint.load(again).extras, kept.extras)
    sample = tmp_path / "unbroken" / "model_sample" / "expected_ch.json"
    alone = {**body_of(toy_cls, retraining=True), "subnet": str(sample)}
    retrained = train(write(tmp_path / "alone.yaml", alone), tmp_path / "alone")
    meta = checkpoint.load(retrained).meta
    assert Arch.of(meta["space"]) == Arch.of(json.loads(sample.read_text())["arch"])
    several = write(tmp_path / "all.yaml", body_of(toy_cls, retraining=True))
    said = nas.bad("train", several, "--work-dir", tmp_path / "x")
    assert "train.dmcp.retraining trains one arch, but the space has several" in said


def test_the_weights_don_t_learn_from_the_chains_step(toy_cls: Path, tmp_path: Path) -> None:
    """Without momentum of their own in the norms, and as long as widths are drawn evenly, they end the same."""
    path = write(tmp_path / "dmcp.yaml", body_of(toy_cls))
    with_chains = checkpoint.load(train(path, tmp_path / "a")).net
    without = checkpoint.load(train(path, tmp_path / "b", "train.dmcp.arch_start_train=7")).net
    same = [k for k in with_chains if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert same and all(torch.equal(with_chains[k], without[k]) for k in same)


def test_keys_that_don_t_go_together_are_refused(toy_cls: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "dmcp.yaml", body_of(toy_cls))
    recipe = config.load(path)
    assert recipe.train.distill is not None and recipe.train.distill.label_weight == 0
    for sets, said in (
        (("train.policy=sandwich",), "train.dmcp: is of policy dmcp, but policy is sandwich"),
        (("train.dmcp=null",), "train.dmcp: is missing: policy dmcp needs its target_flops"),
        (("train.distill={weight: 2}",), "and so does dmcp.distill_cfg: set its distill_weight to 0"),
        (("train.dmcp.target=9",), "unknown key"),
        (("train.dmcp.floss_type=log",), "floss_type"),
    ):
        with pytest.raises(ConfigError) as e:
            config.load(path, sets)
        assert said in str(e.value)
    off = config.load(path, ("train.dmcp.distill_cfg={distill_weight: 0}", "train.distill={weight: 2}"))
    assert off.train.distill is not None and off.train.distill.weight == 2
