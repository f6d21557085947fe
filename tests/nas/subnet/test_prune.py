"""Pruning without training: the map of what each unit is worth, and what a threshold on it leaves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from searchkit.errors import UsageError
from searchkit.nas.cost.target import Target, read_target
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.space.units import Reduction, Unit, reduced, reductions_of, units_of
from searchkit.nas.subnet.sensitivity import Sensitivity, within
from searchkit.records.arch import Arch
from tests.support import cls, nas
from tests.support.nas import bad, call, good, lines, write

SPACE = {
    "backbone.stem.width": {"choices": [8, 16, 24]},
    "backbone.body.width": {"start": [8, 16], "end": [24, 32], "step": [8, 8], "ascending": True},
    "backbone.body.depth": {"choices": [[1, 2, 3], [2, 4]]},
    "backbone.body.kernel": {"choices": [[3, 5, 7], [3, 5, 7]], "sample_strategy": "net_wise"},
    "backbone.body.rate": {"choices": [[1, 2, 3], [5, 9]], "sample_strategy": "stage_wise_depth"},
    "backbone.body.expand": {"choices": [[2, 4], [3, 6]], "sample_strategy": "block_wise"},
}


def space() -> Space:
    return read_space(SPACE)


def test_units_are_what_is_chosen_by_itself() -> None:
    units = units_of(space())
    assert units[Unit("backbone.stem.width", None)] == (24, 16, 8)
    assert units[Unit("backbone.body.width", 1)] == (32, 24, 16)
    assert [unit.position for unit in units if unit.key == "backbone.body.kernel"] == [0]  # one value for both stages
    assert not any(unit.key == "backbone.body.rate" for unit in units)  # it follows the depth
    assert sum(unit.key == "backbone.body.expand" for unit in units) == 7  # the blocks that there are, 3 and 4 of them


def test_a_reduction_takes_along_what_hangs_on_it_alone() -> None:
    it, whole = space(), space().maximum()
    depth = reduced(it, whole, [Reduction(Unit("backbone.body.depth", 0), 1)])
    assert depth["backbone.body.depth"] == (1, 4) and depth["backbone.body.rate"] == (1, 9)
    assert depth["backbone.body.expand"] == (4, 2, 2, 2, 6, 6, 6, 6)  # slots without a block hold their rest
    kernel = reduced(it, whole, [Reduction(Unit("backbone.body.kernel", 0), 3)])
    assert kernel["backbone.body.kernel"] == (3, 3)
    steep = reduced(it, whole, [Reduction(Unit("backbone.body.width", 1), 16)])
    assert steep["backbone.body.width"] == (24, 16) and not it.contains(steep)
    assert it.contains(it.nearest(steep)) and not it.faults(steep)
    assert it.nearest(whole) == whole


def drawn(rng: random.Random, it: Space) -> Sensitivity:
    """Scores at random, so that none is as another."""
    units = units_of(it)
    return Sensitivity(0.8, {r: rng.uniform(0.3, 0.9) for r in reductions_of(units)}, units)


def test_what_a_choice_loses_is_monotone_and_nothing_at_the_whole_unit() -> None:
    measured = drawn(random.Random(1), space())
    for unit, losses in measured.losses.items():
        values = [*losses]
        assert values == [*measured.units[unit]] and losses[values[0]] == 0
        assert [*losses.values()] == sorted(losses.values())
        for n, value in enumerate(values[1:], 1):
            worst = max(0.8 - measured.scores[Reduction(unit, v)] for v in values[1 : n + 1])
            assert losses[value] == max(0.0, worst)
    order = [loss for loss, _ in measured.order()]
    assert order == sorted(order) and len(order) == len(measured.scores)


def cost_of(arch: Arch) -> float:
    """It grows with every number of an arch."""
    return sum((1 + n % 7) * v for n, (_, values) in enumerate(arch.items) for v in cost_values(values))


def cost_values(values: int | tuple[int, ...]) -> tuple[int, ...]:
    return values if isinstance(values, tuple) else (values,)


def bisected(measured: Sensitivity, it: Space, budget: float) -> tuple[Arch, float]:
    """FastNAS as it is published: the least threshold by bisection, each unit at its least choice within it."""

    def at(threshold: float) -> Arch:
        taken = [
            Reduction(unit, [v for v, loss in losses.items() if loss <= threshold][-1])
            for unit, losses in measured.losses.items()
        ]
        return it.nearest(reduced(it, it.maximum(), taken))

    low, high = -1.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if middle >= 0 and cost_of(at(middle)) <= budget else (middle, high)
    return at(high), high


@pytest.mark.parametrize("seed", range(6))
def test_a_budget_gives_what_a_bisection_gives(seed: int) -> None:
    it = space()
    units, rng = units_of(it), random.Random(seed)
    scores = {}
    for unit, (_, *lower) in units.items():  # each choice loses more than the one before, and no two as much
        falling = sorted((rng.random() for _ in lower), reverse=True)
        scores |= {Reduction(unit, v): score for v, score in zip(lower, falling, strict=True)}
    measured = Sensitivity(1.0, scores, units)
    least, most = cost_of(it.minimum()), cost_of(it.maximum())
    last = 0.0
    for share in (1.0, 0.9, 0.7, 0.4, 0.1, 0.0):
        budget = least + share * (most - least)
        pruned = within(measured, it, it.maximum(), budget, cost_of, f"{budget:g}")
        arch, threshold = bisected(measured, it, budget)
        assert pruned.cost == cost_of(pruned.arch) <= budget and it.contains(pruned.arch)
        assert (pruned.arch, pruned.threshold) == (arch, pytest.approx(max(0.0, threshold), abs=1e-9))
        assert pruned.threshold >= last  # the tighter the budget, the higher
        last = pruned.threshold
    with pytest.raises(UsageError, match=r"can't be met: archs of this space cost"):
        within(measured, it, it.maximum(), least - 1, cost_of, "too little")


def test_equal_losses_are_spread_over_the_units() -> None:
    it = space()
    units = units_of(it)
    flat = Sensitivity(1.0, dict.fromkeys(reductions_of(units), 0.5), units)
    first = [reduction for _, reduction in flat.order()][: len(units)]
    assert len({reduction.unit for reduction in first[:5]}) == 5
    assert within(flat, it, it.maximum(), cost_of(it.maximum()) - 1, cost_of, "").cost > cost_of(it.minimum())


def test_targets() -> None:
    assert read_target("50%") == Target(0.5, True, "macs", "50%")
    assert read_target("1 GMACs").of(5) == 1e9 and read_target("300M").value == 3e8
    assert read_target("8 ms", ("ms",)) == Target(8, False, "ms", "8 ms")
    assert read_target("50% ms", ("ms",)).of(30) == 15
    assert read_target("2M params").meter == "params" and read_target("70% ptflops").meter == "ptflops"
    for text in ("8 ms", "abc", "0", "-1G", "1 2", "%"):
        with pytest.raises(UsageError, match="is no cost"):
            read_target(text)
    with pytest.raises(UsageError, match="more than the whole"):
        read_target("120%")


# ---- the verb ----


def test_the_verb_measures_once_for_all_budgets(toy_cls: Path, tmp_path: Path) -> None:
    space = {
        "backbone.stem.width": 8,
        "backbone.body.width": {"choices": [[4, 8], [8, 12], [16]]},
        "backbone.body.depth": {"choices": [[1], [1, 2], [1]]},
        "backbone.body.expand": {"choices": [[1], [2], [2]]},
        "backbone.head.width": 16,
        "data.input_shape": {"choices": [32]},
    }
    body = {**cls.tiny(toy_cls, "mobilenet", train={"steps": 2}), "space": space}
    path = write(tmp_path / "net.yaml", body)
    checkpoint, work = nas.train(path, tmp_path / "work"), tmp_path / "prune"
    given = ("prune", path, "--checkpoint", checkpoint, "--work-dir", work)
    out = good(*given, "--target", "80%", "--target", "100%")
    assert "80%: " in out and "backbone.body.width[0]" in out
    scores = (work / "scores.jsonl").read_bytes()
    assert scores.count(b"\n") == 4  # the whole one, and each of three units at its one smaller choice
    some, whole = lines(work / "pruned.jsonl")
    assert whole["pruned"]["threshold"] == 0 and whole["overhead"]["flops"] == whole["pruned"]["budget"]
    assert some["overhead"]["flops"] == some["pruned"]["cost"] <= some["pruned"]["budget"]
    assert some["metric"]["direct"].keys() == whole["metric"]["direct"].keys()
    told = json.loads((work / "sensitivity.json").read_text())
    assert [unit["choices"][0]["loss"] for unit in told["units"]] == [0, 0, 0]
    again = json.loads(good(*given, "--target", "90% params", "--json"))  # another meter, nothing is measured anew
    assert (work / "scores.jsonl").read_bytes() == scores
    assert again[0]["overhead"]["params"] == again[0]["pruned"]["cost"]
    said = call(*given, "--target", "90%", "--sort", "taylor").both
    assert "by the squared sum of weight times gradient" in said
    assert f"weights of all: {work}/sorted-taylor.pth" in said
    first, second = lines(work / "scores.jsonl")[0], lines(work / "scores.jsonl")[4]
    assert first["arch"] == second["arch"] and first["protocol"] != second["protocol"]
    assert first["metric"] == second["metric"]  # the whole network computes the same
    assert "sorted by taylor already" in call(*given, "--target", "90%", "--sort", "taylor").both
    said = bad(*given, "--target", "10K")
    assert "--target 10K can't be met: archs of this space cost" in said
    assert "milliseconds need a table of times" in bad(*given, "--target", "8 ms")
    given = ("test", path, "--checkpoint", work / "sorted-taylor.pth", "--archs", work / "pruned.jsonl")
    good(*given, "--out", work / "tested.jsonl")
    assert lines(work / "tested.jsonl")[0]["metric"] == lines(work / "pruned.jsonl")[0]["metric"]
