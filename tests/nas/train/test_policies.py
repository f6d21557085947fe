"""Which archs a step visits and at which rate: functions of seed and step alone; schedules are those of torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.space.space import read_space
from searchkit.nas.train import loop, policies, schedules
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.sections import Train
from searchkit.records.arch import Arch
from tests.support import nas
from tests.support.nas import space_of, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- policies ----


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


@pytest.mark.slow
def test_training_runs_what_the_policy_says(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in policies.POLICIES:
        body = tiny(toy, train={"policy": name, "steps": 3}, data={"val": None})
        visited = visits(write(tmp_path / "cfg.yaml", body), tmp_path / name, monkeypatch)
        said = policies.policy(name, space_of(body), 0, random_archs=1)
        assert visited == [arch for step in range(3) for arch in said(step)]


# ---- strategies, schedules and bins of a step ----

SPACE: dict[str, Any] = {
    "a.depth": {"choices": [[1, 2], [1, 2, 3]]},
    "a.kernel": {
        "choices": [3, 5, 7],
        "sample_strategy": "block_wise",
        "schedule": {"boundary": [1, 3], "value": [[5], [3, 5, 7]]},
    },
    "a.stem": {"boundary": [1, 2], "value": [[8], [8, 16, 24]]},
    "anchors": {
        "EARLY": {"a.depth": [2, 2], "a.kernel": [5] * 6, "a.stem": 8},
        "LATE": {"a.depth": [2, 2], "a.kernel": [7] * 6, "a.stem": 8},
    },
}


def test_a_sandwich_of_named_layers() -> None:
    space = read_space({key: {k: v for k, v in each.items() if k != "schedule"} for key, each in SPACE.items()})
    words = ("min", "random", "middle", "LATE", "max", "random")
    choose = policies.policy("sandwich", space, 3, sample_strategy=words)
    for step in range(1, 30):  # the stem is free from epoch 2 on
        largest, *rest = choose(step)
        assert largest == space.maximum() and len(rest) == 5
        rng = policies.rng_of(3, "arch", step)
        drawn = [space.sample(rng), space.sample(rng)]
        listed = [space.minimum(), drawn[0], space.middle(), space.named("LATE"), drawn[1]]
        assert Counter(rest) + Counter([largest]) == Counter([*listed, largest])
    assert space.middle() == Arch.of({"a.depth": [1, 2], "a.kernel": [5, 3, 3, 5, 5, 3], "a.stem": 16})
    many = policies.policy("sandwich", space, 3, sample_strategy=["random", "max", "max"])(1)
    assert many[:2] == [space.maximum()] * 2 and len(many) == 3


def test_a_slim_arch_has_ends_alone() -> None:
    space = read_space({key: {k: v for k, v in each.items() if k != "schedule"} for key, each in SPACE.items()})
    choose = policies.policy("sandwich", space, 3, sample_strategy=["max", "random_slim", "random_slim", "min"])
    seen = {arch for step in range(1, 40) for arch in choose(step)} - {space.maximum(), space.minimum()}
    for arch in seen:
        assert space.contains(arch) and arch["a.stem"] in (8, 24)
        assert all(value in (3, 7) for value in arch["a.kernel"])  # type: ignore[union-attr]
    assert {arch["a.depth"] for arch in seen} == {(1, 1), (1, 3), (2, 1), (2, 3)}
    assert choose(5) == choose(5)
    one = read_space({"a.width": 8})
    assert policies.policy("sandwich", one, 0, sample_strategy=["random_slim"])(0) == [one.maximum()]


def test_strategies_that_no_step_can_obey() -> None:
    space = read_space(SPACE)

    def refused(**options: Any) -> UsageError:
        with pytest.raises(UsageError) as e:
            policies.policy(options.pop("name", "sandwich"), space, 0, **options)
        return e.value

    assert refused(sample_strategy=["max", "randm"]).message == (
        "train.sample_strategy: there is no 'randm' (did you mean random?)"
    )
    for number in (3, "3"):
        error = refused(sample_strategy=["max", number])
        assert error.message.startswith("train.sample_strategy: 3 is no name: give that arch a name") and error.hint
    assert "must be a list such as" in refused(sample_strategy="max").message
    late = refused(sample_strategy=["max", "LATE"])
    assert late.message.startswith("train.sample_strategy: from epoch 1 on: the space has no architecture named 'LATE'")
    assert "no choice that its schedules leave out" in late.hint
    assert "train.sample_strategy: " + refused(name="fixed", arch="LATE").message == late.message
    cycle = {"type": "anchor", "anchors": ["EARLY", "LATE"]}
    assert "from epoch 1 on" in refused(name="anchors", sampler=cycle).message
    macs = {"name": "single_path", "macs": lambda arch: 10.0 * arch["a.stem"]}
    assert "must be [low, high, width]" in refused(**macs, macs_bins=[1, 2]).message
    assert "low < high" in refused(**macs, macs_bins=[5, 5, 1]).message
    assert refused(**macs, macs_bins=[300, 400, 10]).message == (
        "train.macs_bins: no arch has 300 to 400 MACs; those of the space have 80 to 240"
    )


def test_steps_are_of_their_epoch() -> None:
    space = read_space(SPACE)
    for name in policies.POLICIES:
        choose = policies.policy(name, space, 1, steps_per_epoch=20)
        for step in (*range(0, 100, 3), 10_000):
            now, archs = space.at_epoch(1 + step // 20), choose(step)
            assert all(now.contains(arch) and space.contains(arch) for arch in archs)
            if name in ("sandwich", "fixed"):
                assert archs[0] == now.maximum()
    cycle = policies.policy("anchors", space, 1, steps_per_epoch=20, random_archs=1)
    assert [cycle(step)[0] for step in range(3)] == [space.at_epoch(1).named(name) for name in ("MAX", "MIN", "EARLY")]
    assert [cycle(step)[0] for step in range(60, 64)] == [space.named(name) for name in space.names()]
    assert space.at_epoch(1).maximum() != space.maximum()


def test_bins_of_macs_are_visited_alike() -> None:
    space = read_space({"a.width": {"choices": [[1, 2, 3, 4, 5, 6]] * 4}})

    def macs(arch: Arch) -> int:
        return sum(arch["a.width"])  # type: ignore[arg-type]

    choose = policies.policy("single_path", space, 5, macs=macs, macs_bins=(4, 24, 5))
    costs = [macs(choose(step)[0]) for step in range(2000)]
    bins = Counter(min(3, (cost - 4) // 5) for cost in costs)
    assert set(costs) == set(range(4, 25)) and all(abs(bins[i] - 500) < 100 for i in range(4))
    assert [macs(choose(step)[0]) for step in reversed(range(50))] == costs[:50][::-1]
    narrow = read_space({"a.width": {"choices": [[1, 9]]}})
    far = policies.policy("single_path", narrow, 0, macs=macs, macs_bins=(4, 8, 4))  # nothing is in it: the nearest
    assert {far(step)[0] for step in range(20)} == {narrow.maximum()}


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
    linear = by_torch(lambda o: kinds.LinearLR(o, 1.0, 0.05, total_iters=steps), steps)
    assert factors("linear", steps, floor=0.05) == pytest.approx(linear)
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


@pytest.mark.parametrize("mult", [1, 2, 3])
def test_warm_restarts_are_those_of_torch(mult: int) -> None:
    """Whatever the length of the training: the first steps of a longer one are the shorter one."""
    kind = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    theirs = by_torch(lambda o: kind(o, 7, T_mult=mult, eta_min=0.05), 100)
    ours = factors("cosine", 100, floor=0.05, restart_steps=7, restart_mult=mult)
    assert ours == pytest.approx(theirs)
    assert factors("cosine", 60, floor=0.05, restart_steps=7, restart_mult=mult) == ours[:60]
    assert [step for step, rate in enumerate(ours) if rate == 1] == {
        1: [*range(0, 100, 7)],
        2: [0, 7, 21, 49],
        3: [0, 7, 28, 91],
    }[mult]


def test_restarts_are_counted_in_epochs() -> None:
    """At the boundaries of a space's schedule, which counts epochs from 1: the first step of epoch 81 begins anew."""
    settings = Train(schedule="cosine", restart_epochs=80)
    rates = [schedules.factor_at(settings, step, 1000 * 3, 3) for step in (0, 80 * 3 - 1, 80 * 3, 160 * 3)]
    assert rates[0] == rates[2] == rates[3] == 1 and rates[1] < 0.001
    for wrong in ({"restart_epochs": 2}, {"schedule": "cosine", "restart_mult": 2}):
        with pytest.raises(UsageError, match=r"is of schedule cosine|needs restart_epochs"):
            Train(**wrong)


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
    assert Train(epochs=3, batch_size=4).total_steps(10, 2) == 6  # 10 images fill two batches of 8
    assert Train(epochs=3, steps=5).total_steps(10, 2) == 5
