"""Architectures and spaces: brute force over small spaces is the oracle for every closed form."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import pickle
import random
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.nas.space.dim import Dim
from searchkit.nas.space.space import Space, read_space
from searchkit.records.arch import Arch

AR50_101: dict[str, Any] = {
    "backbone.stem.width": {"start": 32, "end": 64, "step": 16},
    "backbone.body.width": {
        "start": [48, 96, 192, 384],
        "end": [80, 160, 320, 640],
        "step": [16, 32, 64, 128],
        "ascending": True,
    },
    "backbone.body.depth": {"start": [2, 2, 5, 2], "end": [4, 6, 29, 4], "step": [1, 2, 2, 1]},
    "data.input_shape": {"choices": [480, 560, 640, 720, 800, 880, 960]},
    "anchors": {
        "R50": {
            "backbone.stem.width": 64,
            "backbone.body.width": [64, 128, 256, 512],
            "backbone.body.depth": [3, 4, 6, 3],
        }
    },
}


def fault(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as e:
        call(*args)
    assert e.value.exit_code == 2
    return e.value.message


# --- architectures ---------------------------------------------------------------------------------------------------

NESTED = {"backbone": {"stem": {"width": 64}, "body": {"width": [64, 128], "depth": (3, 4)}}}


def test_one_architecture_in_many_forms() -> None:
    arch = Arch.of(NESTED)
    forms = [
        {"backbone.body.depth": [3, 4], "backbone.stem.width": 64, "backbone.body.width": (64, 128)},
        {"arch": NESTED},
        {"arch.backbone.stem.width": 64, "backbone": {"body": {"width": [64, 128], "depth": [3, 4]}}},
        arch.nested(),
        dict(arch.items),
    ]
    assert {Arch.of(form) for form in forms} == {arch}
    assert arch["backbone.body.depth"] == (3, 4) and arch.get("backbone.stem.width") == 64
    assert arch.get("neck.width") is None and arch.get("neck.width", 7) == 7
    assert pickle.loads(pickle.dumps(arch)) == arch
    assert json.loads(json.dumps(arch.nested())) == arch.nested()
    assert arch != Arch.of({**forms[0], "backbone.stem.width": 63})
    assert list(arch) == list(arch.names) == sorted(arch.names) and "backbone.stem.width" in arch and "x" not in arch


def test_a_scalar_is_no_list_of_one() -> None:
    assert Arch.of({"a.b": 1}) != Arch.of({"a.b": [1]})
    assert Arch.of({"a.b": 1}).id != Arch.of({"a.b": [1]}).id


def test_id_is_a_hash_of_canonical_json() -> None:
    text = '{"backbone":{"body":{"depth":[3,4],"width":[64,128]},"stem":{"width":64}}}'
    assert Arch.of(NESTED).id == hashlib.sha256(text.encode()).hexdigest()[:10]


def test_parts_and_text() -> None:
    arch = Arch.of({**NESTED, "neck.width": 256})
    assert arch.part("backbone") == Arch.of(NESTED["backbone"])
    assert arch.part("backbone").part("stem") == Arch.of({"width": 64})
    assert arch.part("back").items == () and arch.part("neck.width").items == ()
    assert Arch.of(NESTED).text() == "body.depth=3,4 body.width=64,128 stem.width=64"
    assert arch.text().endswith("backbone.stem.width=64 neck.width=256")
    assert Arch(()).text() == "" and Arch.of({"width": 3}).text() == "width=3"


def test_an_unknown_name() -> None:
    assert fault(lambda: Arch.of(NESTED)["backbone.stem.widht"]) == (
        "the architecture has no 'backbone.stem.widht' (did you mean backbone.stem.width?)"
    )


NO_ARCH = {
    "float": ({"a": {"b": 1.5}}, "a.b of an architecture must be an int or a list of ints, not 1.5"),
    "bool": ({"a.b": True}, "a.b of an architecture must be an int or a list of ints, not True"),
    "text": ({"a.b": "3"}, "a.b of an architecture must be an int or a list of ints, not '3'"),
    "null": ({"a.b": None}, "a.b of an architecture must be an int or a list of ints, not None"),
    "empty": ({"a.b": []}, "a.b of an architecture must be an int or a list of ints, not []"),
    "lists": ({"a.b": [[1]]}, "a.b of an architecture must be an int or a list of ints, not [[1]]"),
    "mixed": ({"a.b": [1, "2"]}, "a.b of an architecture must be an int or a list of ints, not [1, '2']"),
    "twice": ({"a.b": 1, "arch": {"a": {"b": 2}}}, "an architecture can't have 'a.b' twice"),
    "inside": ({"a": 1, "a.b": 2}, "an architecture can't have both 'a' and 'a.b'"),
    "name": ({"a..b": 1}, "the name 'a..b' of an architecture must be words joined by dots"),
    "number": ({3: 1}, "the name 3 of an architecture must be words joined by dots"),
    "list": ([1], "an architecture must be a mapping of names to ints, not [1]"),
}


@pytest.mark.parametrize("case", NO_ARCH)
def test_what_is_no_architecture(case: str) -> None:
    data, message = NO_ARCH[case]
    assert fault(Arch.of, data) == message


# --- the grid, by brute force ----------------------------------------------------------------------------------------


@st.composite
def dims(draw: st.DrawFn, key: str) -> Dim:
    scalar = draw(st.booleans())
    row = st.lists(st.integers(0, 7), min_size=1, max_size=4)
    rows = draw(st.lists(row, min_size=1, max_size=1 if scalar else 4))
    ascending = draw(st.booleans())
    assume(not ascending or any(is_ascending(values) for values in itertools.product(*rows)))
    return Dim(key, tuple(map(tuple, rows)), scalar, ascending)


def is_ascending(values: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(values))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    keys = draw(st.permutations(["z.depth", "a.width", "m.kernel"]))[: draw(st.integers(1, 3))]
    space = Space(tuple(draw(dims(key)) for key in keys))
    assume(space.count() <= 3000)
    return space


def brute(space: Space) -> list[Arch]:
    per_dim = []
    for dim in space.dims:
        rows = [values for values in itertools.product(*dim.choices) if not dim.ascending or is_ascending(values)]
        per_dim.append([values[0] if dim.scalar else values for values in rows])
    keys = [dim.key for dim in space.dims]
    return [Arch.of(dict(zip(keys, values, strict=True))) for values in itertools.product(*per_dim)]


@settings(deadline=None, max_examples=150)
@given(spaces(), st.integers(0, 2**32))
def test_the_grid_is_what_brute_force_finds(space: Space, seed: int) -> None:
    everything = brute(space)
    grid = set(everything)
    assert list(space.enumerate()) == everything and len(grid) == len(everything)
    assert space.count() == len(everything)
    assert [space.at(i) for i in range(len(everything))] == everything
    for i in (-1, len(everything)):
        assert "the space has architectures 0 to" in fault(space.at, i)
    rng = random.Random(seed)
    for _ in range(10):
        assert space.sample(rng) in grid
    # the greatest and the least: of the grid, and beyond no other at any position
    for best, extreme in ((max, space.maximum()), (min, space.minimum())):
        assert extreme in grid
        for dim in space.dims:
            found = [dim.unpack(arch[dim.key]) for arch in everything]
            assert dim.unpack(extreme[dim.key]) == tuple(map(best, zip(*found, strict=True)))


@settings(deadline=None, max_examples=150)
@given(spaces(), spaces(), st.integers(0, 2**32))
def test_contains_and_faults(space: Space, other: Space, seed: int) -> None:
    grid = set(brute(space))
    rng = random.Random(seed)
    for arch in (*(other.sample(rng) for _ in range(5)), *rng.sample(sorted(grid, key=str), min(5, len(grid)))):
        assert space.contains(arch) == (arch in grid)
        assert not space.contains(arch) or not space.faults(arch)
        top = space.maximum()
        fits = set(arch) == set(top) and all(
            isinstance(arch[k], tuple) == isinstance(top[k], tuple) and inside(space, k, arch[k]) for k in top
        )
        assert fits == (not space.faults(arch))


def inside(space: Space, key: str, value: Any) -> bool:
    dim = next(dim for dim in space.dims if dim.key == key)
    found = dim.unpack(value)
    limits = [(min(1, row[0]), row[-1]) for row in dim.choices]
    return len(found) == len(limits) and all(low <= v <= high for v, (low, high) in zip(found, limits, strict=True))


@settings(deadline=None, max_examples=150)
@given(spaces(), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_children_stay_on_the_grid(space: Space, seed: int, p: float) -> None:
    grid = set(brute(space))
    rng = random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    for _ in range(10):
        child = space.mutate(a, rng, p)
        assert child in grid and (child != a or len(grid) == 1)
        both = space.crossover(a, b, rng)
        assert both in grid
        for dim in space.dims:
            ours, theirs, got = (dim.unpack(arch[dim.key]) for arch in (a, b, both))
            assert all(v in pair for v, pair in zip(got, zip(ours, theirs, strict=True), strict=True))
        a, b = child, both
    assert space.crossover(a, a, rng) == a


@settings(deadline=None, max_examples=100)
@given(spaces(), st.integers(0, 2**32))
def test_children_of_parents_off_the_grid(space: Space, seed: int) -> None:
    grid = set(brute(space))
    rng = random.Random(seed)
    values = {}
    for dim in space.dims:
        values[dim.key] = dim.pack([rng.randint(min(1, row[0]), row[-1]) for row in dim.choices])
    parent = Arch.of(values)
    assert not space.faults(parent)
    child = space.mutate(parent, rng)
    assert child in grid and (child != parent or len(grid) == 1)
    assert space.crossover(parent, child, rng) in grid


def test_mutation_reaches_everything() -> None:
    space = Space((Dim("a.w", ((1, 3, 5), (2, 4), (3, 4, 6)), ascending=True), Dim("b.d", ((1, 2),), scalar=True)))
    rng = random.Random(0)
    for start in brute(space):
        seen, arch = set(), start
        for _ in range(600):
            seen.add(arch)
            arch = space.mutate(arch, rng, 0)
        assert seen == set(brute(space))


def test_mutation_changes_about_p_of_the_positions() -> None:
    space = Space((Dim("a.w", tuple((1, 2, 3) for _ in range(40))),))
    rng = random.Random(0)
    parent = space.sample(rng)
    changed = [
        sum(x != y for x, y in zip(parent["a.w"], space.mutate(parent, rng, 0.2)["a.w"], strict=True))
        for _ in range(1000)
    ]
    assert abs(sum(changed) / 1000 - 8) < 0.4  # five standard errors


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_that_is_none(p: float) -> None:
    space = read_space(AR50_101)
    assert "the probability of a mutation" in fault(space.mutate, space.maximum(), random.Random(0), p)


def test_parents_must_fit() -> None:
    space = read_space({"a.w": {"choices": [1, 2]}})
    assert "does not fit into the space: a.w is 3" in fault(space.mutate, Arch.of({"a.w": 3}), random.Random(0))
    assert "b.w is no dimension" in fault(space.crossover, Arch.of({"a.w": 1}), Arch.of({"b.w": 1}), random.Random(0))


# --- uniformity ------------------------------------------------------------------------------------------------------

UNIFORM = {
    "plain": Space((Dim("a.w", ((1, 2, 3), (1, 2))), Dim("b.d", ((1, 2, 3),), scalar=True))),
    "ascending": Space((Dim("a.w", ((1, 2, 3), (1, 2, 3), (2, 3)), ascending=True),)),
    "both": Space((Dim("a.w", ((1, 4), (2, 3, 5)), ascending=True), Dim("b.d", ((1, 2), (3, 4))))),
}


def chi_square(seen: Counter[Arch], space: Space, draws: int) -> float:
    """In standard deviations above what is expected of uniform draws."""
    cells, free = space.count(), space.count() - 1
    expected = draws / cells
    statistic = sum((seen[arch] - expected) ** 2 / expected for arch in brute(space))
    return (statistic - free) / math.sqrt(2 * free)


@pytest.mark.parametrize("name", UNIFORM)
def test_samples_are_uniform(name: str) -> None:
    space, rng = UNIFORM[name], random.Random(1)
    draws = 500 * space.count()
    assert chi_square(Counter(space.sample(rng) for _ in range(draws)), space, draws) < 4


def test_the_test_of_uniformity_sees_a_skewed_sampler() -> None:
    """Raising the start to the value before, as the reference does, is not uniform."""
    space, rng = UNIFORM["ascending"], random.Random(1)
    draws = 500 * space.count()
    seen: Counter[Arch] = Counter()
    for _ in range(draws):
        out: list[int] = []
        for row in space.dims[0].choices:
            out.append(rng.choice([v for v in row if not out or v >= out[-1]]))
        seen[Arch.of({"a.w": out})] += 1
    assert chi_square(seen, space, draws) > 20


def test_the_same_seed_gives_the_same() -> None:
    space = read_space(AR50_101)
    runs = []
    for _ in range(2):
        rng = random.Random(5)
        a, b = space.sample(rng), space.sample(rng)
        runs.append((a, b, space.mutate(a, rng), space.crossover(a, b, rng)))
    assert runs[0] == runs[1]


# --- AR50-101 --------------------------------------------------------------------------------------------------------


def test_ar50_101() -> None:
    space = read_space(AR50_101)
    assert (space.count(), space.points()) == (85_293, 597_051)
    first = next(space.enumerate())
    assert first == space.minimum() == space.named("MIN") == space.at(0)
    assert space.maximum() == space.named("MAX") == space.at(85_292)
    assert space.maximum().nested() == {
        "backbone": {"stem": {"width": 64}, "body": {"width": [80, 160, 320, 640], "depth": [4, 6, 29, 4]}}
    }
    # the second row of the reference's table: the last position changes fastest, and its stem slowest
    assert space.at(1)["backbone.body.depth"] == (2, 2, 5, 3)
    assert space.at(85_293 // 3)["backbone.stem.width"] == 48
    r50 = space.named("R50")
    assert not space.contains(r50) and not space.faults(r50)  # 6 blocks lie off the grid, inside the maximum
    assert space.names() == ("MAX", "MIN", "R50")
    assert space.scales == (480, 560, 640, 720, 800, 880, 960)
    assert fault(space.named, "R5") == "the space has no architecture named 'R5' (did you mean R50?)"


def test_counts_need_no_enumeration() -> None:
    begin = time.monotonic()
    space = read_space(
        {
            "a.kernel": {"choices": [[3, 5, 7]] * 60},
            "a.width": {"start": [8] * 60, "end": [512] * 60, "step": [8] * 60, "ascending": True},
        }
    )
    assert space.count() == 3**60 * math.comb(64 + 60 - 1, 60)  # multisets of 60 out of 64
    rng = random.Random(0)
    for _ in range(5):
        assert space.contains(space.sample(rng))
        assert space.contains(space.mutate(space.maximum(), rng))
    assert space.at(space.count() - 1) == space.maximum() == space.named("MAX")
    assert next(iter(space.enumerate())) == space.minimum()
    assert time.monotonic() - begin < 10
