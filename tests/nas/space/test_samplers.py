"""Samplers: the architecture of a step follows from (step, seed); the oracle is a sampler that keeps counters."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.nas.space import samplers as sample
from searchkit.nas.space.samplers import (
    Anchors,
    Composite,
    Concat,
    Draw,
    Repeat,
    Sampler,
    check,
    cycle,
    length,
    read_sampler,
)
from searchkit.nas.space.space import Space, read_space
from searchkit.records.arch import Arch
from tests.nas.space.test_space import AR50_101, chi_square

ROOT = Path(__file__).resolve().parents[3]
RANGES = [
    {"type": "range", "key": f"arch.{key}", **spec} for key, spec in AR50_101.items() if key.startswith("backbone.")
]
R101 = {
    "arch.backbone.stem.width": 64,
    "arch.backbone.body.width": [64, 128, 256, 512],
    "arch.backbone.body.depth": [3, 4, 23, 3],
}
AR50TO101 = {
    "type": "concat",
    "model_samplers": [
        {"type": "anchor", "anchors": ["MAX", "MIN", {"name": "R101", **R101}, {"name": "R77"}, "R50"]},
        {"type": "repeat", "times": 3, "model_sampler": {"type": "composite", "model_samplers": RANGES}},
    ],
}


def ar50_101() -> Space:
    anchors = {**AR50_101["anchors"], "R77": {**AR50_101["anchors"]["R50"], "backbone.body.depth": [3, 4, 15, 3]}}
    return read_space({**AR50_101, "anchors": anchors})


def fault(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as e:
        call(*args)
    return e.value.message


def test_the_cycle_of_ar50to101() -> None:
    space, sampler = ar50_101(), read_sampler(AR50TO101)
    assert length(sampler) == 8
    fixed = [space.maximum(), space.minimum(), Arch.of(R101), space.named("R77"), space.named("R50")]
    drawn = []
    for turn in range(50):
        archs = [cycle(sampler, space, 8 * turn + i, seed=3) for i in range(8)]
        assert archs[:5] == fixed
        assert all(space.contains(arch) for arch in archs[5:])
        drawn += archs[5:]
    assert len(set(drawn)) > 140  # of 150 draws out of 85,293
    check(sampler, space)


def test_a_step_has_no_past() -> None:
    space, sampler = ar50_101(), read_sampler(AR50TO101)
    forward = [cycle(sampler, space, step, 7) for step in range(40)]
    order = list(range(40))
    random.Random(0).shuffle(order)
    state = random.getstate()
    assert {step: cycle(sampler, space, step, 7) for step in order} == dict(enumerate(forward))
    assert random.getstate() == state  # the global generator is not touched
    assert [cycle(sampler, space, step, 8) for step in range(40)] != forward


@pytest.mark.slow
def test_every_process_agrees() -> None:
    """Hashes of strings differ from process to process; the seed of a step must not."""
    code = (
        "from tests.nas.space.test_samplers import *; s = ar50_101(); r = read_sampler(AR50TO101);"
        "print([cycle(r, s, step, 11).id for step in range(12)])"
    )
    outs = {
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env={"PYTHONHASHSEED": h})
        for h in ("1", "2")
    }
    space, sampler = ar50_101(), read_sampler(AR50TO101)
    assert outs == {f"{[cycle(sampler, space, step, 11).id for step in range(12)]}\n"}


def test_draws_are_uniform_over_steps() -> None:
    spec = {"choices": [[1, 2, 3], [1, 2, 3], [2, 3]], "ascending": True}
    space = read_space({"a.w": spec, "b.d": {"choices": [1, 2]}})
    members = [
        {"type": "range", "key": "a.w"},  # the space's own dimension
        {"type": "candidate", "key": "b.d", "candidates": [2, 1]},
    ]
    sampler = read_sampler({"type": "composite", "model_samplers": members})
    draws = 500 * space.count()
    seen = Counter(cycle(sampler, space, step, 0) for step in range(draws))
    assert chi_square(seen, space, draws) < 4


# --- with counters as the oracle -------------------------------------------------------------------------------------


class Stateful:
    """The same samplers, each with a counter of its own calls; a draw gives the number of its call instead."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.calls = 0
        below = getattr(sampler, "members", None) or ([sampler.member] if isinstance(sampler, Repeat) else [])
        self.below = [Stateful(each) for each in below]

    def steps(self) -> int:
        if isinstance(self.sampler, Anchors):
            return len(self.sampler.anchors)
        if isinstance(self.sampler, Repeat):
            return self.sampler.times * self.below[0].steps()
        return (sum if isinstance(self.sampler, Concat) else max)([each.steps() for each in self.below] or [1])

    def sample(self) -> dict[str, Any]:
        n = self.calls
        self.calls += 1
        if isinstance(self.sampler, Anchors):
            anchor = self.sampler.anchors[n % len(self.sampler.anchors)]
            assert isinstance(anchor, Arch)
            return dict(anchor.items)
        if isinstance(self.sampler, Draw):
            return {self.sampler.key: 1000}
        if isinstance(self.sampler, Repeat):
            return self.below[0].sample()
        if isinstance(self.sampler, Composite):
            return {k: v for each in self.below for k, v in each.sample().items()}
        ends = list(itertools.accumulate(each.steps() for each in self.below))
        return self.below[next(i for i, end in enumerate(ends) if n % ends[-1] < end)].sample()


anchors = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(
    lambda values: Anchors(tuple(Arch.of({"a.w": v}) for v in values))
)
samplers = st.recursive(
    anchors | st.just(Draw("a.w", None)),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda members: Concat(tuple(members)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda members: Composite(tuple(members)))
        | st.tuples(inner, st.integers(1, 3)).map(lambda t: Repeat(*t))
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(samplers)
def test_calls_without_counters(sampler: Any) -> None:
    space = read_space({"a.w": {"choices": [1, 1000]}})
    oracle = Stateful(sampler)
    assert length(sampler) == oracle.steps()
    for step in range(3 * length(sampler) + 1):
        arch = sample._fitting(sample._pick(sampler, step, space, lambda dim: 1000), space)
        assert dict(arch.items) == oracle.sample()


# --- traverse --------------------------------------------------------------------------------------------------------


def test_traverse_gives_each_once() -> None:
    space = read_space({"a.w": {"choices": [[1, 2], [1, 2]], "ascending": True}, "b.d": {"choices": [3, 4]}})
    ranges = [{"type": "range", "key": "b.d"}, {"type": "range", "key": "a.w"}]
    grid = {"type": "composite", "model_samplers": ranges}
    found = list(sample.traverse(read_sampler(grid), space))
    expected = [{"b.d": d, "a.w": w} for d in (3, 4) for w in ([1, 1], [1, 2], [2, 2])]
    assert found == [Arch.of(values) for values in expected]
    anchor = {"type": "anchor", "anchors": ["MIN", "MAX"]}
    both = {"type": "concat", "model_samplers": [anchor, {"type": "repeat", "times": 2, "model_sampler": grid}]}
    assert list(sample.traverse(read_sampler(both), space)) == [space.minimum(), space.maximum(), *found, *found]


@pytest.mark.slow
def test_traverse_of_ar50_101_is_the_space() -> None:
    space = ar50_101()
    flops = [{"type": "candidate", "key": "data.input_shape", "candidates": [480, 560]}, *RANGES]
    sampler = read_sampler({"type": "composite", "model_samplers": flops, "mode": "traverse"})
    assert len(set(sample.traverse(sampler, space))) == space.count()


# --- faults ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Any, list[str]]] = {
    "no mapping": (["anchor"], ["sampler: must be a mapping with a type, not ['anchor']"]),
    "no type": (
        {"key": "a.w"},
        ["sampler: missing key 'type' (valid: anchor, range, candidate, concat, composite, repeat)"],
    ),
    "type": ({"type": "rnage"}, ["sampler.type: unknown type 'rnage' (did you mean range?)"]),
    "key": ({"type": "range", "key": "a.w", "strat": 1}, ["sampler: unknown key 'strat' (did you mean start?)"]),
    "nested": (
        {"type": "concat", "model_samplers": [{"type": "anchor"}, {"type": "repeat", "times": 0, "model_sampler": 3}]},
        [
            "sampler.model_samplers[0]: missing key 'anchors'",
            "sampler.model_samplers[1].model_sampler: must be a mapping with a type, not 3",
            "sampler.model_samplers[1].times: must be a whole number from 1 to 10000, not 0",
        ],
    ),
    "range": (
        {"type": "range", "key": "a.w", "start": 3, "end": 1, "step": 1},
        ["sampler.start: must not be above the end, but 3 > 1"],
    ),
    "no name": (
        {"type": "candidate", "candidates": [1]},
        ["sampler: missing key 'key': the name of a dimension, such as backbone.body.depth"],
    ),
    "no candidates": (
        {"type": "candidate", "key": "a.w"},
        ["sampler: missing key 'candidates'"],
    ),
    "anchors": (
        {"type": "anchor", "anchors": ["R", {"name": "R", "a.w": 1}, 3, {"a.w": "x"}]},
        [
            "sampler.anchors[1]: the name 'R' is there twice",
            "sampler.anchors[2]: must be a name or an architecture, not 3",
            "sampler.anchors[3].a.w: a.w of an architecture must be an int or a list of ints, not 'x'",
        ],
    ),
    "empty": (
        {"type": "concat", "model_samplers": []},
        ["sampler.model_samplers: must be a list of at least one sampler, not []"],
    ),
    "only data": (
        {"type": "candidate", "key": "data.input_shape", "candidates": [480]},
        ["sampler: must give at least one dimension of an architecture"],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case: str) -> None:
    data, expected = FAULTS[case]
    assert fault(read_sampler, data).split("\n") == expected


MISFITS = {
    "missing": ({"type": "range", "key": "a.w"}, "the sampler gives what does not fit into the space: b.d is missing"),
    "unknown anchor": (
        {"type": "anchor", "anchors": ["R51"]},
        "the space has no architecture named 'R51' (did you mean R50?)",
    ),
    "unknown dimension": ({"type": "range", "key": "a.v"}, "the space has no dimension 'a.v' (did you mean a.w?)"),
    "too large": (
        {
            "type": "composite",
            "model_samplers": [
                {"type": "range", "key": "a.w", "start": 1, "end": 7, "step": 1},
                {"type": "range", "key": "b.d"},
            ],
        },
        "the sampler gives what does not fit into the space: a.w is 7, but must be from 1 to 4",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_sampler_that_does_not_fit(case: str) -> None:
    data, message = MISFITS[case]
    space = read_space(
        {"a.w": {"choices": [1, 4]}, "b.d": {"choices": [1, 2]}, "anchors": {"R50": {"a.w": 3, "b.d": 1}}}
    )
    assert fault(check, read_sampler(data), space) == message
    with pytest.raises(UsageError):
        [cycle(read_sampler(data), space, step, 0) for step in range(50)]


def test_a_record_is_an_anchor() -> None:
    """What a model space holds can be trained as it is."""
    record = {"arch": {"a": {"w": 3}}, "data": {"input_shape": [3, 480, 480]}, "overhead": {"flops": 1.5}, "name": "x"}
    sampler = read_sampler({"type": "anchor", "anchors": [record]})
    assert cycle(sampler, read_space({"a.w": {"choices": [1, 4]}}), 5, 0) == Arch.of({"a.w": 3})
