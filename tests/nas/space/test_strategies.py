"""Sampling strategies: every closed form against brute force, and no two archs that are one network."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.nas.models.plan import per_block
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.train.values import text_of
from searchkit.records.arch import Arch
from tests.nas.space.test_space import fault

DEPTH, WIDTH, KERNEL, EXPAND = (f"backbone.body.{name}" for name in ("depth", "width", "kernel", "expand"))


def network(arch: Arch) -> tuple[Any, ...]:
    """What blocks an arch has: equal for archs that are one network."""
    depths = arch[DEPTH]
    assert isinstance(depths, tuple)
    blocks = [per_block(key, arch[key], depths) for key in arch if key in (KERNEL, EXPAND)]
    return depths, arch.get(WIDTH), arch.get("backbone.stem.width"), tuple(blocks)


def ascends(
    values: Sequence[int],
    *,
    min_slope: float = 1,
    max_slope: float = math.inf,
    start_stage: int = 0,
    end_stage: int | None = None,
) -> bool:
    """Whether each value is so many times the one before."""
    return all(
        u * min_slope <= v <= u * max_slope
        for i, (u, v) in enumerate(itertools.pairwise(values), 1)
        if start_stage < i <= (len(values) if end_stage is None else end_stage)
    )


def brute(spec: dict[str, Any]) -> set[tuple[Any, ...]]:
    """All networks of a declaration, in the words of its strategies."""
    rows = {key: each["choices"] for key, each in spec.items()}
    how = {key: each.get("sample_strategy", "") for key, each in spec.items()}
    found = set()
    for depths in itertools.product(*rows[DEPTH]):
        if how[DEPTH] == "net_wise" and len(set(depths)) > 1:
            continue
        ranks = {sorted(row).index(d) for row, d in zip(rows[DEPTH], depths, strict=True) if len(row) > 1}
        if how[DEPTH] == "net_wise_index" and len(ranks) > 1:
            continue
        if how[DEPTH] == "ordered_stage_wise_depth" and not ascends(depths):
            continue
        values = []
        for key in (WIDTH, "backbone.stem.width", KERNEL, EXPAND):
            if key not in rows:
                values.append([None])
            elif key == "backbone.stem.width":
                values.append(rows[key])
            elif how[key] == "net_wise":
                values.append([(v,) * len(depths) for v in rows[key][0]])
            elif how[key] == "net_wise_index":
                ranks = range(max(map(len, rows[key])))
                values.append([tuple(sorted(row)[k if len(row) > 1 else 0] for row in rows[key]) for k in ranks])
            elif how[key] == "stage_wise_depth":
                ranks = [sorted(row).index(d) for row, d in zip(rows[DEPTH], depths, strict=True)]
                values.append([tuple(sorted(row)[k] for row, k in zip(rows[key], ranks, strict=True))])
            elif how[key] == "block_wise":
                stages = [itertools.product(row, repeat=d) for row, d in zip(rows[key], depths, strict=True)]
                values.append(list(itertools.product(*stages)))
            elif how[key] == "ordered_block_wise":
                stages = [itertools.product(row, repeat=d) for row, d in zip(rows[key], depths, strict=True)]
                values.append([v for v in itertools.product(*stages) if ascends([w for part in v for w in part])])
            elif isinstance(how[key], dict):
                values.append([v for v in itertools.product(*rows[key]) if ascends(v, **how[key]["kwargs"])])
            else:
                values.append(list(itertools.product(*rows[key])))
        for width, stem, kernel, expand in itertools.product(*values):
            blocks = []
            for key, value in sorted(((KERNEL, kernel), (EXPAND, expand))):
                if value is not None:
                    by_block = how[key] in ("block_wise", "ordered_block_wise")
                    blocks.append(value if by_block else per_block(key, value, depths))
            found.add((depths, width, stem, tuple(blocks)))
    return found


HOW = ("net_wise", "net_wise_index", "stage_wise", "stage_wise_depth", "block_wise", "ordered_block_wise", "steep")


def spaces() -> st.SearchStrategy[tuple[dict[str, Any], Space]]:
    """Declarations, with what they give; ordered ones may have no combination."""
    return specs().map(lambda spec: (spec, read(spec))).filter(lambda pair: pair[1] is not None)


def read(spec: dict[str, Any]) -> Any:
    """The space of a declaration; None for one that has nothing in it."""
    try:
        return read_space(spec)
    except UsageError as e:
        pruned = "as many choices as" in e.message  # an ascending depth lost one, and what is tied to it did not
        assert pruned or ("ascending" in e.message and "combination" in e.message)
        return None


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    stages = draw(st.integers(1, 3))
    row = st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True)
    depths = draw(st.lists(row, min_size=stages, max_size=stages))
    out: dict[str, Any] = {DEPTH: {"choices": depths}}
    match draw(st.sampled_from(("", "net_wise", "net_wise_index", "ordered_stage_wise_depth"))):
        case "net_wise":
            depths = [depths[0]] * stages
            out[DEPTH] = {"choices": depths, "sample_strategy": "net_wise"}
        case "":
            pass
        case how:
            out[DEPTH]["sample_strategy"] = how
    for key in draw(st.lists(st.sampled_from((WIDTH, KERNEL, EXPAND)), unique=True)):
        how = draw(st.sampled_from(HOW))
        rows = draw(st.lists(row, min_size=stages, max_size=stages))
        if how == "stage_wise_depth":
            rows = [draw(st.permutations(range(1, 6)))[: len(each)] for each in depths]
        if how == "steep":
            least, most = draw(st.sampled_from(((1, 2), (0.5, 1), (1.5, 3), (2, 2))))
            kwargs = {"min_slope": least, "max_slope": most, "start_stage": draw(st.integers(0, 1))}
            how = {"name": "ordered_stage_wise", "kwargs": kwargs | draw(st.sampled_from(({}, {"end_stage": 2})))}
        if how in ("block_wise", "ordered_block_wise") and key == WIDTH:
            continue
        out[key] = {"choices": [rows[0]] * stages if how == "net_wise" else rows, "sample_strategy": how}
    if draw(st.booleans()):
        out["backbone.stem.width"] = {"choices": [8, 16]}
    return dict(draw(st.permutations(list(out.items()))))


def whole(space: Space) -> list[Arch]:
    assume(space.count() <= 600)
    return list(space.enumerate())


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(spaces())
def test_the_grid_is_what_brute_force_finds(declared: tuple[dict[str, Any], Space]) -> None:
    spec, space = declared
    archs = whole(space)
    assert len(archs) == space.count() == len(set(archs)) == len({network(arch) for arch in archs})
    assert {network(arch) for arch in archs} == brute(spec)
    assert [space.at(i) for i in range(len(archs))] == archs
    assert {space.maximum(), space.minimum(), space.middle()} <= set(archs)
    assert all(space.contains(arch) and space.canonical(arch) == arch for arch in archs)
    for key in archs[0]:
        found = [v if isinstance(v, tuple) else (v,) for v in (arch[key] for arch in archs)]
        top, low = space.maximum()[key], space.minimum()[key]
        assert (top if isinstance(top, tuple) else (top,)) == tuple(map(max, zip(*found, strict=True)))
        assert (low if isinstance(low, tuple) else (low,)) == tuple(map(min, zip(*found, strict=True)))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(spaces(), st.integers(0, 2**32))
def test_children_are_archs_of_the_space(declared: tuple[dict[str, Any], Space], seed: int) -> None:
    space, rng = declared[1], random.Random(seed)
    grid = set(whole(space))
    a, b = space.sample(rng), space.sample(rng)
    for p in (0, 0.1, 0.5, 1):
        child, both = space.mutate(a, rng, p), space.crossover(a, b, rng)
        assert child in grid and both in grid and (child != a or len(grid) == 1)
        a, b = child, both
    assert space.crossover(a, a, rng) == a
    seen = {a}
    for _ in range(2000 if len(grid) <= 12 else 0):
        if seen == grid:
            break
        a = space.mutate(a, rng, 0)
        seen.add(a)
    assert not len(grid) <= 12 or seen == grid


@settings(deadline=None, max_examples=150)
@given(spaces())
def test_knobs_are_the_space(declared: tuple[dict[str, Any], Space]) -> None:
    space = declared[1]
    archs = whole(space)
    points: list[dict[str, int]] = [{}]
    try:
        knobs = space.knobs()
    except UsageError as e:
        assert "can't be searched: " in e.message and any(dim.ascending for dim in space.dims)
        return
    for knob in knobs:
        assert knob.name.isidentifier() and len(knob.choices) > 1
        points = [
            {**point, knob.name: v} if there else point
            for point in points
            for there in [knob.when is None or point.get(knob.when[0], 0) > knob.when[1]]
            for v in (knob.choices if there else knob.choices[:1])
        ]
    unordered = [point for point in points if any(point.get(b, 9) < point.get(a, 0) for a, b in space.orders())]
    for point in unordered[:5]:
        with pytest.raises(UsageError, match="must not be below"):
            space.arch_of(point)
    points = [point for point in points if point not in unordered]
    found = [space.arch_of(point) for point in points]
    assert len(found) == len(set(found)) == len(archs) and set(found) == set(archs)
    assert [space.values_of(arch) for arch in found] == points


def test_blocks_that_ascend_too_seldom_are_not_searched() -> None:
    ordered = {"choices": [[1, 2, 3, 4]] * 3, "sample_strategy": "ordered_block_wise"}
    few = read_space({DEPTH: [2, 2, 2], WIDTH: [1, 1, 1], KERNEL: ordered})
    assert few.count() == 84 and len(few.knobs()) == 6 and len(few.orders()) == 5  # of 4,096
    many = read_space({DEPTH: [4, 4, 4], WIDTH: [1, 1, 1], KERNEL: ordered})
    with pytest.raises(UsageError, match=r"kernel can't be searched: .* in one of 36,873 choices of all blocks") as e:
        many.knobs()
    assert "block_wise" in e.value.hint


def test_a_change_that_another_takes_back_is_none() -> None:
    """A limit to the slope moves other positions along, and a later position may move them back."""
    steep = {"name": "ordered_stage_wise", "kwargs": {"min_slope": 1, "max_slope": 2}}
    space = read_space({DEPTH: [1, 1, 1], WIDTH: {"choices": [[1], [1, 2], [1, 2]], "sample_strategy": steep}})
    for seed in range(200):
        parent = space.sample(random.Random(seed))
        assert space.mutate(parent, random.Random(seed), 0.9) != parent


SEED_002: dict[str, Any] = {  # United-Perception's ResNet-18, with its strategies; expand_ratio is left out
    DEPTH: {
        "space": {"min": [1, 1, 2, 2, 4], "max": [1, 3, 4, 4, 6], "stride": [1, 1, 1, 1, 1]},
        "sample_strategy": "stage_wise_depth",
    },
    WIDTH: {
        "space": {"min": [32, 48, 96, 192, 384], "max": [64, 80, 160, 320, 640], "stride": [16, 16, 32, 64, 128]},
        "sample_strategy": "stage_wise",
    },
    KERNEL: {"space": {"min": [3, 3, 3, 3, 3], "max": [7, 3, 3, 3, 3], "stride": 2}, "sample_strategy": "stage_wise"},
}


def test_the_reference_s_space() -> None:
    space = read_space(SEED_002)
    assert space.count() == 3**5 * 3**4 * 3
    assert space.maximum()[WIDTH] == (64, 80, 160, 320, 640) and space.held()[KERNEL][:2] == ((3, 5, 7), (3,))
    names = [knob.name for knob in space.knobs()]
    assert names[:2] == ["body_depth_1", "body_depth_2"] and "body_kernel_0" in names and len(names) == 4 + 5 + 1
    one = {**SEED_002, KERNEL: {"min": 3, "max": 7, "stride": 2, "sample_strategy": "net_wise"}}
    assert read_space(one).maximum()[KERNEL] == 7 and read_space(one).count() == 3**5 * 3**4 * 3
    ranges = {"min": [3] * 5, "max": 7, "stride": 2, "sample_strategy": "net_wise"}
    space = read_space({**SEED_002, KERNEL: ranges})
    assert space.maximum()[KERNEL] == (7,) * 5 and space.count() == 3**5 * 3**4 * 3


OFA: dict[str, Any] = {
    DEPTH: {"choices": [[2, 3, 4]] * 5},
    KERNEL: {"min": 3, "max": 7, "stride": 2, "sample_strategy": "block_wise"},
    EXPAND: {"choices": [3, 4, 6], "sample_strategy": "block_wise"},
}


def test_ofa_s_space() -> None:
    space = read_space(OFA)  # 2 x 10^19 archs, as its authors say
    assert space.count() == (9**2 + 9**3 + 9**4) ** 5
    assert space.at(space.count() - 1) == space.maximum() and space.at(0) == space.minimum()
    assert space.minimum()[KERNEL] == (3,) * 20 and len(space.held()[EXPAND]) == 20
    rng = random.Random(0)
    shares = Counter(space.sample(rng)[DEPTH][0] for _ in range(2000))  # type: ignore[index]
    assert all(abs(shares[depth] / 2000 - 1 / 3) < 0.03 for depth in (2, 3, 4))  # though most archs are deep
    knobs = {knob.name: knob for knob in space.knobs()}
    assert len(knobs) == 5 + 40 and knobs["body_kernel_5"].when is None
    assert knobs["body_kernel_6"].when == ("body_depth_1", 2) and knobs["body_expand_19"].when == ("body_depth_4", 3)
    values = space.values_of(space.minimum())
    assert len(values) == 5 + 20 and space.arch_of({**values, "body_kernel_19": 7}) == space.minimum()


def test_slots_without_a_block_are_no_difference() -> None:
    anchor = {DEPTH: [2, 2], KERNEL: [5, 5, 7, 3, 7, 7]}
    spec = {
        DEPTH: {"choices": [[1, 3], [1, 2]]},
        KERNEL: {"choices": [[3, 5], [3, 7]], "sample_strategy": "block_wise"},
    }
    space = read_space({**spec, "anchors": {"A": anchor}})
    assert space.held()[KERNEL] == ((3, 5), (3, 5), (3, 5), (3, 7), (3, 7), (3,))
    assert space.named("A")[KERNEL] == (5, 5, 3, 3, 7, 3) == space.canonical(Arch.of(anchor))[KERNEL]
    assert not space.faults(Arch.of(anchor)) and not space.contains(Arch.of(anchor))
    assert fault(space.values_of, space.named("A")).startswith("the architecture is not on the grid")
    one = space.only(Arch.of(anchor))
    assert list(one.enumerate()) == [space.named("A")] and one.names() == ("MAX", "MIN") and one.knobs() == ()
    shallow = read_space({DEPTH: [1, 1], KERNEL: {"choices": [3, 5], "sample_strategy": "block_wise"}})
    assert shallow.held()[KERNEL] == ((3, 5), (3,)) * 2 and shallow.count() == 4  # two slots at least


def test_depths_are_drawn_evenly_and_their_archs_too() -> None:
    spec = {
        KERNEL: {"choices": [3, 5], "sample_strategy": "block_wise"},
        DEPTH: {"choices": [[1, 2], [1, 2]]},
        WIDTH: {"choices": [[8, 16], [16, 32]], "sample_strategy": "stage_wise_depth"},
    }
    space, rng = read_space(spec), random.Random(1)
    draws, seen = 200 * space.count(), Counter[Arch]()
    for _ in range(draws):
        seen[space.sample(rng)] += 1
    of_depth = Counter(arch[DEPTH] for arch in space.enumerate())
    assert space.count() == 36 and sorted(of_depth.values()) == [4, 8, 8, 16]
    expected = {arch: draws / 4 / of_depth[arch[DEPTH]] for arch in space.enumerate()}
    statistic = sum((seen[arch] - n) ** 2 / n for arch, n in expected.items())
    assert (statistic - 35) / (2 * 35) ** 0.5 < 4


def test_ascending_dimensions_are_one_knob_where_they_must_be() -> None:
    rows = {"choices": [[1, 2, 3], [1, 2, 3]], "ascending": True}
    space = read_space(
        {"a.w": rows, "a.v": {"choices": [[1, 2], [3, 4]], "ascending": True}, "b_d": {"choices": [4, 5]}}
    )
    assert [(knob.name, len(knob.choices)) for knob in space.knobs()] == [
        ("a_w", 6),
        ("a_v_0", 2),
        ("a_v_1", 2),
        ("b_d", 2),
    ]
    archs = list(space.enumerate())
    assert [space.arch_of(space.values_of(arch)) for arch in archs] == archs
    assert {space.values_of(arch)["a_w"] for arch in archs} == set(range(6))
    message = fault(space.arch_of, {"a_w": 6, "a_v_0": 1, "b_d": 4, "a_vv": 1})
    assert (
        "a_w must be one of [0, 1, 2, 3, 4, 5], not 6" in message and "a_v_1 must be one of [3, 4], but is" in message
    )
    assert "there is no knob 'a_vv'" in message


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"a.w": {"choices": [1], "sample_strategy": "net_wide"}},
        "unknown sample_strategy 'net_wide' (did you mean net_wise?)",
    ),
    "no text": (
        {"a.w": {"choices": [1], "sample_strategy": ["net_wise"]}},
        "a.w.sample_strategy: unknown sample_strategy [",
    ),
    "no name": (
        {"a.w": {"choices": [1], "sample_strategy": {"kwargs": {}}}},
        "a.w.sample_strategy: a sample_strategy with limits is {name: …, kwargs: {…}}, but there is no name",
    ),
    "no limits": (
        {"a.w": {"choices": [[1]], "sample_strategy": {"name": "net_wise", "kwargs": {"min_slope": 1}}}},
        "a.w.sample_strategy.kwargs: net_wise has no limits; ordered_stage_wise and ordered_stage_wise_depth have",
    ),
    "limit": (
        {"a.w": {"choices": [[1]], "sample_strategy": {"name": "ordered_stage_wise", "kwargs": {"min_slop": 1}}}},
        "a.w.sample_strategy.kwargs: unknown key 'min_slop' (did you mean min_slope?)",
    ),
    "no number": (
        {"a.w": {"choices": [[1]], "sample_strategy": {"name": "ordered_stage_wise", "kwargs": {"min_slope": 0}}}},
        "a.w.sample_strategy.kwargs.min_slope: must be a number above 0, how many times the value before, not 0",
    ),
    "slopes": (
        {
            "a.w": {
                "choices": [[1]],
                "sample_strategy": {"name": "ordered_stage_wise", "kwargs": {"min_slope": 2, "max_slope": 1.5}},
            }
        },
        "a.w.sample_strategy.kwargs: max_slope must not be below min_slope, but 1.5 < 2",
    ),
    "steep": (
        {
            "a.w": {
                "choices": [[2, 3], [7, 8], [9]],
                "sample_strategy": {"name": "ordered_stage_wise", "kwargs": {"max_slope": 2, "end_stage": 1}},
            }
        },
        "a.w has no ascending by 1 to 2 times (positions 1 to 1) combination",
    ),
    "numbers": (
        {"a.w": {"choices": [[4], [1, 2], [1, 2, 3]], "sample_strategy": "net_wise_index"}},
        "a.w is net_wise_index, so all positions must have as many choices, or one, but a.w[1] has 2 and a.w[2] has 3",
    ),
    "blocks": (
        {"a.depth": [1, 2], "a.w": {"choices": [[5], [3]], "sample_strategy": "ordered_block_wise"}},
        "a.w: the dimension a.w has no ascending combination",
    ),
    "typo": (
        {"a.w": {"choices": [1], "sample_stategy": "net_wise"}},
        "'sample_stategy' (did you mean sample_strategy?)",
    ),
    "stage_wise int": (
        {"a.w": {"min": 1, "max": 3, "stride": 1, "sample_strategy": "stage_wise"}},
        "can't be stage_wise: it has one int, not a list with one for each stage (valid: net_wise)",
    ),
    "block depth": (
        {"a.depth": {"choices": [[1, 2]], "sample_strategy": "block_wise"}},
        "a.depth.sample_strategy: can't be block_wise: it is a depth itself, and has no blocks of its own",
    ),
    "no depth": (
        {"a.w": {"choices": [1, 2], "sample_strategy": "block_wise"}, "b.depth": [1, 2]},
        "a.w.sample_strategy: can't be block_wise: that needs a.depth, which is not declared (valid: net_wise)",
    ),
    "one depth": (
        {"a.w": {"choices": [1, 2], "sample_strategy": "block_wise"}, "a.depth": 2},
        "that needs a.depth to have one value for each stage",
    ),
    "ranges": (
        {"a.w": {"choices": [[1, 2], [1, 3]], "sample_strategy": "net_wise"}},
        "a.w is net_wise, so all positions must have the same choices, but a.w[0] has [1, 2] and a.w[1] has [1, 3]",
    ),
    "tied": (
        {
            "a.depth": {"choices": [[1, 2], [1]]},
            "a.w": {"choices": [[1, 2], [3, 4]], "sample_strategy": "stage_wise_depth"},
        },
        "as many choices as a.depth, but a.w[1] has 2 [3, 4] and a.depth[1] has 1 [1]",
    ),
    "stages": (
        {"a.depth": [1, 2], "a.w": {"choices": [[1]] * 3, "sample_strategy": "block_wise"}},
        "a.w: must have a value for each stage of a.depth, which has 2, not 3",
    ),
    "ascending": (
        {"a.w": {"choices": [[1, 2], [1, 2]], "ascending": True, "sample_strategy": "net_wise"}},
        "a.w.sample_strategy: a.w is ascending, which can't go with net_wise, only with stage_wise",
    ),
    "mixed": (
        {"a.w": {"min": 1, "end": 3, "step": 1}},
        "a.w: must have start, end and step, or min, max and stride; not both",
    ),
    "no stride": ({"a.w": {"min": 1, "max": 3}}, "a.w: must have choices, or min, max and stride; stride is missing"),
    "stride": ({"a.w": {"space": {"min": 1, "max": 3, "stride": 0}}}, "a.w.stride: must be at least 1, not 0"),
    "space": (
        {"a.w": {"space": 3, "sample_strategy": "net_wise"}},
        "a.w.space: must be a mapping with min, max, stride, not 3",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_declaration(case: str) -> None:
    spec, expected = FAULTS[case]
    message = fault(read_space, spec)
    assert expected in message and len(message.split("\n")) == 1


def test_a_space_that_no_sampler_can_turn() -> None:
    space = read_space({"a.w": {"choices": [list(range(200))] * 4, "ascending": True}})
    with pytest.raises(UsageError, match="ascending combinations, more than"):
        space.knobs()


def test_ordered_strategies_are_ascending_ones() -> None:
    """BigNAS' names of them."""
    spec = {"choices": [[8, 16, 24], [8, 16], [12, 32]]}
    ordered = read_space({WIDTH: {**spec, "sample_strategy": "ordered_stage_wise"}})
    assert [*ordered.enumerate()] == [*read_space({WIDTH: {**spec, "ascending": True}}).enumerate()]
    assert not any(a[WIDTH] != tuple(sorted(a[WIDTH])) for a in ordered.enumerate())  # type: ignore[arg-type]
    depths = read_space({DEPTH: {"choices": [[1, 2], [1, 2]], "sample_strategy": "ordered_stage_wise_depth"}})
    assert [a[DEPTH] for a in depths.enumerate()] == [(1, 1), (1, 2), (2, 2)]
    depth = {DEPTH: {"choices": [[1, 2]]}}
    for spec, what in (
        ({"choices": [8, 16], "sample_strategy": "ordered_stage_wise"}, "only a list of values has an order"),
        ({"choices": [[8, 16]], "sample_strategy": "ordered_stage_wise_depth"}, "is ascending, which can't go with"),
        ({"choices": [[8], [4]], "sample_strategy": "ordered_stage_wise"}, "has no ascending combination"),
        ({"choices": [[8]], "sample_strategy": "ordered_stage"}, "did you mean ordered_stage_wise?"),
    ):
        assert what in fault(read_space, {**depth, WIDTH: spec})


def test_a_declaration_of_before_has_its_digest_of_before() -> None:
    """So that searches go on: what came later is no part of it where it says nothing."""
    block = {DEPTH: {"choices": [[1, 2], [1, 2]]}, KERNEL: {"choices": [3, 5], "sample_strategy": "block_wise"}}
    rows = {"choices": [[8, 16], [8, 16]], "ascending": True}
    text = text_of(read_space({**block, WIDTH: rows}))
    assert (
        "slope" not in text and "deepest" not in text and text.startswith("Space(dims=(Dim(key='backbone.body.depth', ")
    )
    assert text == repr(read_space({**block, WIDTH: rows})).replace(LATER_DEFAULTS, "")
    steep = {**rows, "sample_strategy": {"name": "ordered_stage_wise", "kwargs": {"max_slope": 1.5}}}
    assert "slope=Slope(least=1, most=1.5, " in text_of(read_space({**block, WIDTH: steep}))


LATER_DEFAULTS = ", slope=Slope(least=1, most=inf, first=0, last=None), deepest=()"
