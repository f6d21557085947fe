"""A space holds the points it says; genes and values are two forms of a point; conditions and constraints hold."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.suite.space.args import Arg, Best, Categorical, Nested, Point, Range, Subnet, Value
from searchkit.suite.space.expand import count, expand, size
from searchkit.suite.space.space import Dim, Genes, Space


def categorical(name: str, *data: Any, when: str | None = None) -> Categorical:
    return Categorical(name, tuple(Value(x, str(x)) for x in data), when)


def data(point: Point) -> dict[str, Any]:
    return {name: value.data for name, value in point.items()}


def drawn(space: Space, rng: random.Random) -> Genes:
    """A random point, by the simplest draws that there are."""

    def choose(dim: Dim) -> float | int:
        if dim.arg.size is not None:
            return rng.choice(list(dim.arg.grid()))
        if dim.log:  # logarithms are rounded, beyond a bound too
            return min(max(math.exp(rng.uniform(math.log(dim.low), math.log(dim.high))), dim.low), dim.high)
        return rng.uniform(dim.low, dim.high)

    return space.complete(choose)


# --- random spaces, and the same by brute force ----------------------------------------------------------------------


small = st.integers(0, 3)


@st.composite
def spaces(draw: st.DrawFn, finite: bool = True, in_order: bool = False) -> Space:
    """Up to four arguments, conditions of which none goes round, up to two constraints."""
    n = draw(st.integers(1, 4))
    rank = list(range(n)) if in_order else draw(st.permutations(range(n)))
    numbers = [f"a{i}" if i % 2 else f"batch-size{i}" for i in range(n)]  # all of them hold numbers
    args: list[Arg] = []
    for i, name in enumerate(numbers):
        before = [numbers[j] for j in range(n) if rank[j] < rank[i]]
        when = None
        if before and draw(st.booleans()):
            when = f"{draw(st.sampled_from(before))} {draw(st.sampled_from(['<', '>=', '!=']))} {draw(small)}"
            if len(before) > 1 and draw(st.booleans()):
                when += f" {draw(st.sampled_from(['and', 'or']))} {draw(st.sampled_from(before))} > 1"
        kinds = ["cat", "nested", "int", "step"] + ([] if finite else ["uniform", "log", "logint"])
        kind = draw(st.sampled_from(kinds))
        if kind in ("cat", "nested"):
            values = draw(st.lists(small, min_size=1, max_size=3, unique=True))
            rows = tuple({name: Value(x, str(x)), f"n{i}": Value(-x, str(-x))} for x in values)
            args.append(categorical(name, *values, when=when) if kind == "cat" else Nested(rows, when))
        elif kind == "int":
            args.append(Range(name, "Int", draw(st.integers(-1, 1)), 4, draw(small) or 1, when))
        elif kind == "step":
            low = draw(st.integers(0, 1))
            args.append(Range(name, "Uniform", low, low + 1, draw(st.sampled_from([0.3, 0.5, 1])), when))
        elif kind == "uniform":
            args.append(Range(name, "Uniform", 0, draw(st.floats(0.5, 4)), None, when))
        else:
            kind = {"log": "LogUniform", "logint": "LogInt"}[kind]
            args.append(Range(name, kind, 1, draw(st.integers(2, 99)), None, when))
    rules = [f"{a} + {b} <= {draw(st.integers(0, 6))}" for a, b in itertools.pairwise(numbers) if draw(st.booleans())]
    return Space(tuple(args), tuple(rules[:2]))


def holds(text: str, point: Mapping[str, Any], otherwise: bool) -> bool:
    """An expression by Python itself."""
    names = {name: f"x{i}" for i, name in enumerate(f"{p}{i}" for p in ("a", "n", "batch-size") for i in range(6))}
    used = [name for name in names if name in text]
    if any(name not in point for name in used):
        return otherwise
    for name in used:
        text = text.replace(name, names[name])
    return bool(eval(text, {names[name]: point[name] for name in used}))


def brute(space: Space) -> list[dict[str, Any]]:
    """The points, in the order of the product of all arguments as they are declared, each where it first appears."""
    found: dict[str, dict[str, Any]] = {}
    for parts in itertools.product(*(arg.points() for arg in space.args)):
        point: dict[str, Any] = {}
        rest = dict(enumerate(parts))
        for _ in space.args:  # so often, every argument has had its turn after those that it needs
            for i, part in list(rest.items()):
                when = space.args[i].when
                if when is None or holds(when, point, False):
                    point |= data(part)
                    del rest[i]
        point = {name: point[name] for arg in space.args for name in arg.names if name in point}
        if all(holds(rule, point, True) for rule in space.constraints):
            found.setdefault(json.dumps(point), point)
    return list(found.values())


@settings(deadline=None, max_examples=150)
@given(spaces())
def test_the_grid_is_the_product_filtered(space: Space) -> None:
    points = [data(point) for point in space.points()]
    expected = brute(space)
    assert sorted(map(repr, points)) == sorted(map(repr, expected))
    assert [data(space.point(genes)) for genes in space.grid()] == points
    assert count(space.args, space.constraints) == len(points)
    free = Space(space.args)
    assert free.size() == size(space.args) == len(list(free.grid()))
    assert len({space.key(genes) for genes in space.grid()}) == len(points)


@settings(deadline=None, max_examples=80)
@given(spaces(in_order=True))
def test_the_grid_is_in_the_order_of_the_product(space: Space) -> None:
    assert [data(point) for point in space.points()] == brute(space)
    assert [data(point) for point in expand(space.args, space.constraints)] == brute(space)


@settings(deadline=None, max_examples=150)
@given(spaces(finite=False), st.randoms(use_true_random=False))
def test_genes_and_values_are_one_point(space: Space, rng: random.Random) -> None:
    genes = drawn(space, rng)
    point = space.point(genes)
    assert space.fault(genes) == ""
    assert space.genes(data(point)) == genes
    assert space.genes({name: value.text for name, value in point.items()}) == genes
    assert space.genes(dict(reversed(data(point).items()))) == genes
    assert list(space.genes(data(point))) == list(genes)
    assert list(genes) == [arg.key for arg in space.args if arg.key in genes]
    assert list(point) == [name for arg in space.args if arg.key in genes for name in arg.names]
    assert json.loads(json.dumps(genes)) == genes
    assert space.key(dict(reversed(genes.items()))) == space.key(genes)
    assert space.key(json.loads(json.dumps(genes))) == space.key(genes)
    everything = {name: data(point).get(name) for arg in space.args for name in arg.names}
    assert space.genes(everything) == genes  # as in a table with empty cells
    assert all(float(value.text) == value.data for value in point.values())


@settings(deadline=None, max_examples=150)
@given(spaces(finite=False), st.randoms(use_true_random=False))
def test_only_what_exists_is_asked_for(space: Space, rng: random.Random) -> None:
    asked: list[str] = []

    def choose(dim: Dim) -> float | int:
        asked.append(dim.name)
        return dim.low

    genes = space.complete(choose)
    assert sorted(asked) == sorted(genes)
    assert asked == [dim.name for dim in space.dims() if dim.name in genes]
    point = data(space.point(genes))
    for dim in space.dims():
        exists = dim.when is None or holds(dim.when, point, False)
        assert (dim.name in genes) == exists == space.active(genes, dim)
        others = {name: gene for name, gene in genes.items() if name != dim.name}
        if exists:
            assert space.fault(others)
            assert space.fault(genes | {dim.name: dim.high + 1}) and space.fault(genes | {dim.name: math.nan})
            assert space.fault(genes | {dim.name: "x"}) and space.fault(genes | {dim.name: True})  # type: ignore[dict-item]
        else:
            assert dim.when and dim.when in space.fault(genes | {dim.name: dim.low})
    assert space.feasible(genes) == all(holds(rule, point, True) for rule in space.constraints)


@pytest.mark.slow
@settings(deadline=None)
@given(spaces(finite=False), st.lists(st.randoms(use_true_random=False), min_size=2, max_size=2))
def test_different_points_have_different_keys(space: Space, rngs: list[random.Random]) -> None:
    one, other = (drawn(space, rng) for rng in rngs)
    assert (space.key(one) == space.key(other)) == (data(space.point(one)) == data(space.point(other)))


# --- ranges ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(-50, 50), st.integers(1, 100), st.integers(1, 40), st.sampled_from([1, 10, 1000]))
def test_steps_are_as_they_are_written(low: int, span: int, step: int, scale: int) -> None:
    """In decimals: 0.1 + 2 * 0.1 is 0.3, and 0 to 0.3 by 0.1 are four values."""
    if step > span:
        step = span
    arg = Range("x", "Uniform", low / scale, (low + span) / scale, step / scale)
    exact = [Fraction(low + i * step, scale) for i in range(span // step + 1)]
    assert arg.size == len(exact) and list(arg.grid()) == [float(x) for x in exact] and arg.last == float(exact[-1])
    assert [value["x"].text for value in arg.points()] == [repr(float(x)) for x in exact]
    for i, x in enumerate(exact):
        assert arg.snap(float(x) * (1 + 1e-15)) == arg.snap(low / scale + i * (step / scale)) == float(x)


def test_ranges() -> None:
    assert list(Range("n", "Int", 1, 6, 2).grid()) == [1, 3, 5] and Range("n", "Int", 1, 6, 2).last == 5
    assert Range("n", "Int", -2, 2).size == 5 and Range("n", "LogInt", 1, 1024).size == 1024
    assert Range("x", "Uniform", 0, 1).size is None and Range("x", "LogUniform", 1e-9, 1).size is None
    assert Range("x", "LogUniform", 1e-5, 1).at(3e-5) == {"x": Value(3e-5, "3e-05")}
    assert Range("x", "Uniform", -1, 1).at(-0.0)["x"].text == "0.0"
    space = Space((Range("n", "LogInt", 1, 8), Range("x", "Uniform", 0, 1, 0.3), categorical("c", "a", "b")))
    kinds = [(dim.kind, dim.low, dim.high, dim.step, dim.log, dim.arg.size) for dim in space.dims()]
    assert kinds == [("int", 1, 8, 1, True, 8), ("float", 0.0, 0.9, 0.3, False, 4), ("index", 0, 1, 1, False, 2)]
    assert [type(dim.low) for dim in space.dims()] == [int, float, int]
    assert space.complete(lambda dim: 0.8999999 if dim.kind == "float" else 1.0) == {"n": 1, "x": 0.9, "c": 1}


@pytest.mark.parametrize(
    ("kind", "low", "high", "step", "what"),
    [
        ("Uniform", 1, 0, None, "high: must be above low, which is 1, not 0"),
        ("Int", 3, 3, None, "high: must be above low, which is 3, not 3"),
        ("LogUniform", 0, 1, None, "low: must be above 0, as every value on a log scale, not 0"),
        ("LogInt", -1, 1, None, "low: must be above 0"),
        ("LogUniform", 1, 2, 0.5, "step: is not for LogUniform"),
        ("Uniform", 0, 1, 0, "step: must be above 0, not 0"),
        ("Int", 0, 4, 5, "step: must be at most high - low, which is 4, not 5"),
        ("Int", 0, 1.5, None, "high: must be a whole number"),
        ("Int", 0, 2**60, None, "high: must be a whole number between"),
        ("Uniform", -1e308, 1e308, None, "high: must be less than 1.8e308 above low"),
        ("Uniform", 0, math.inf, 1, "high: must be less than 1.8e308 above low"),
        ("Uniform", math.nan, 1, None, "high: must be less"),
        ("Float", 0, 1, None, "kind: must be one of Uniform"),
    ],
)
def test_bounds_that_leave_nothing(kind: str, low: float, high: float, step: float | None, what: str) -> None:
    with pytest.raises(UsageError) as error:
        Range("x", kind, low, high, step)
    assert error.value.message.startswith(f"the argument 'x': {what}")


# --- values given by people ------------------------------------------------------------------------------------------

TYPES = Space(
    (
        Categorical(
            "c",
            (
                *(Value(1, "1"), Value("1", "1"), Value(True, "true"), Value(None, "null"), Value("", "")),
                *(Value(0.001, "1e-3"), Value([1, 2], "[1, 2]"), Value({"a": 1}, "{a: 1}"), Value(math.nan, ".nan")),
            ),
        ),
    )
)


@pytest.mark.parametrize("i", range(9))
def test_a_value_keeps_its_type(i: int) -> None:
    ((_, value),) = TYPES.point({"c": i}).items()
    assert TYPES.genes({"c": value.data}) == {"c": i}


@pytest.mark.parametrize(
    ("found", "i"),
    [
        (1.0, 0),
        ("true", 2),
        ("1e-3", 5),
        ("0.001", 5),
        ("[1, 2]", 6),
        ([1.0, 2], 6),
        ("null", 3),
        ("~", 3),
        (".NaN", 8),
    ],
)
def test_a_value_may_be_written_otherwise(found: Any, i: int) -> None:
    assert TYPES.genes({"c": found}) == {"c": i}


@pytest.mark.parametrize("found", [False, 0, 2, "2", [1], [True, 2], {"a": True}, {}, "1 ", 0.002])
def test_no_value_becomes_another(found: Any) -> None:
    with pytest.raises(UsageError, match=r"^c=.* is none of: c=1; c=1; c=true; c=null; c=; .* … \(9 in all\)$"):
        TYPES.genes({"c": found})


PEOPLE = Space(
    (
        categorical("opt", "sgd", "adam"),
        Range("lr", "LogUniform", 0.001, 1),
        Range("mom", "Uniform", 0, 1, 0.1, when="opt == 'sgd'"),
        Range("n", "Int", 0, 10, 5),
        Nested(tuple({"w": Value(w, str(w)), "h": Value(h, str(h))} for w, h in ((1, 1), (1, 2), (2, 2)))),
    ),
    ("lr * n < 5",),
)


@pytest.mark.parametrize(
    ("values", "genes"),
    [
        ({}, {}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": "1e-2", "opt": "adam"}, {"opt": 1, "lr": 0.01}),
        ({"mom": 0.30000000000000004, "opt": "sgd"}, {"opt": 0, "mom": 0.3}),
        ({"mom": "0.3"}, {"mom": 0.3}),
        ({"mom": "", "opt": "adam", "lr": 0.1}, {"opt": 1, "lr": 0.1}),
        ({"mom": None}, {}),
        ({"n": 5.0}, {"n": 5}),
        ({"n": " 10 "}, {"n": 10}),
        ({"h": "2", "w": 1}, {"w,h": 1}),
        ({"h": 1}, {"w,h": 0}),
    ],
)
def test_values_that_fit(values: dict[str, Any], genes: Genes) -> None:
    found = PEOPLE.genes(values)
    assert found == genes and list(found) == list(genes)
    assert [type(gene) for gene in found.values()] == [type(gene) for gene in genes.values()]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"lrr": 1}, "'lrr' is no argument of this search (did you mean lr?)"),
        ({"lr": 2}, "lr must be a number from 0.001 to 1.0, not 2"),
        ({"lr": True}, "lr must be a number from 0.001 to 1.0, not True"),
        ({"lr": "fast"}, "lr must be a number from 0.001 to 1.0, not 'fast'"),
        ({"lr": math.nan}, "lr must be a number from 0.001 to 1.0, not nan"),
        ({"lr": 10**400}, "lr must be a number from 0.001 to 1.0, not 1000"),
        ({"n": 3}, "n must be a whole number from 0 to 10 in steps of 5, not 3"),
        ({"n": 2.5}, "n must be a whole number from 0 to 10 in steps of 5, not 2.5"),
        ({"mom": 0.35}, "mom must be a number from 0.0 to 1.0 in steps of 0.1, not 0.35"),
        ({"opt": "adam", "mom": 0.3}, "mom=0.3 can't be given here, where \"opt == 'sgd'\" does not hold"),
        ({"opt": "rmsprop"}, "opt=rmsprop is none of: opt=sgd; opt=adam"),
        ({"w": 2, "h": 1}, "w=2, h=1 is none of: w=1, h=1; w=1, h=2; w=2, h=2"),
        ({"w": 1}, "several rows have w=1; give h too"),
        ({"opt": "sgd", "mom": None}, "mom must be a number from 0.0 to 1.0 in steps of 0.1, not None"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as error:
        PEOPLE.genes(values)
    assert error.value.message.startswith(what)


def test_faults_of_genes() -> None:
    genes: Genes = {"opt": 1, "lr": 0.1, "n": 5, "w,h": 0}
    assert PEOPLE.fault(genes) == ""
    assert PEOPLE.fault(genes | {"l": 1}) == "'l' is no argument (did you mean lr?)"
    assert PEOPLE.fault(genes | {"n": 4}) == "'n' must be a whole number from 0 to 10 in steps of 5, not 4"
    assert PEOPLE.fault(genes | {"opt": 2}) == "'opt' must be the index of a value, from 0 to 1, not 2"
    assert PEOPLE.fault(genes | {"opt": 0}) == "'mom' is missing"
    assert PEOPLE.fault(genes | {"mom": 0.1}) == "'mom' does not exist where \"opt == 'sgd'\" does not hold"


# --- conditions and constraints ---------------------------------------------------------------------------------------


def test_conditions() -> None:
    """A condition over what does not exist does not hold, whatever it says; a constraint over it does."""
    space = Space(
        (
            Range("beta", "Int", 1, 3, when="momentum != 5 or opt == 'sgd'"),  # declared before what it needs
            categorical("opt", "sgd", "adam"),
            Range("momentum", "Int", 1, 2, when="opt == 'sgd'"),
        ),
        ("beta + momentum < 5", "beta < 9"),
    )
    assert [dim.name for dim in space.dims()] == ["opt", "momentum", "beta"]
    points = [data(point) for point in space.points()]
    assert {"opt": "adam"} in points and len(points) == 1 + 3 + 2 and space.size() == 1 + 6
    assert all(list(point) == [name for name in ("beta", "opt", "momentum") if name in point] for point in points)


def test_size_of_large_spaces_is_exact() -> None:
    """Only what conditions name is gone through, group by group."""
    args: list[Arg] = []
    for i in range(20):
        args += [Range(f"a{i}", "Int", 1, 10), Range(f"b{i}", "Int", 1, 10**9, when=f"a{i} > 3")]
    args.append(Range("z", "Int", 1, 10**6))
    start = time.monotonic()
    assert Space(tuple(args)).size() == (3 + 7 * 10**9) ** 20 * 10**6
    assert time.monotonic() - start < 5
    assert Space((*args, Range("x", "Uniform", 0, 1))).size() is None


def test_a_constraint_cuts_the_grid_early() -> None:
    """What the first arguments decide is not tried with all values of the others."""
    args = (categorical("a", 1, 2), categorical("b", 3, 4), *(Range(f"c{i}", "Int", 1, 1000) for i in range(5)))
    start = time.monotonic()
    assert list(Space(args, ("a > b",)).grid()) == []
    assert list(Space(args, ("1 > 2",)).grid()) == []
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("args", "constraints", "what"),
    [
        (
            (Range("a", "Int", 1, 2, when="b > 1"), Range("b", "Int", 1, 2, when="a > 1")),
            (),
            "the conditions go round: 'a' needs 'b' needs 'a'",
        ),
        ((Range("a", "Int", 1, 2, when="a > 1"),), (), "the conditions go round: 'a' needs 'a'"),
        (
            (Range("c", "Int", 1, 2, when="b > 1"), *(Range(n, "Int", 1, 2, when=f"{o} > 1") for n, o in ("ab", "ba"))),
            (),
            "the conditions go round: 'b' needs 'a' needs 'b'",
        ),
        ((Range("lr", "Int", 1, 2, when="lrr > 1"),), (), "the condition of lr: 'lrr' in 'lrr > 1' is not a declared"),
        ((Range("lr", "Int", 1, 2),), ("lr < wd",), "constraint: 'wd' in 'lr < wd' is not a declared argument"),
        ((Range("lr", "Int", 1, 2),), ("lr <",), "column 5 of 'lr <': the expression can't go on like this"),
        ((Range("lr", "Int", 1, 2), categorical("lr", 1)), (), "the argument 'lr' is declared twice"),
    ],
)
def test_faults_of_a_space(args: tuple[Arg, ...], constraints: tuple[str, ...], what: str) -> None:
    with pytest.raises(UsageError) as error:
        Space(args, constraints)
    assert error.value.message.startswith(what)


def test_what_can_not_be_evaluated_says_where() -> None:
    space = Space((categorical("a", 1, "x"), Range("b", "Int", 0, 1, when="a < 2")), ("b / a < 9",))
    with pytest.raises(UsageError, match=r"the condition of b: can't evaluate 'a < 2': .* \(at a=x\)"):
        list(space.grid())
    with pytest.raises(UsageError, match=r"constraint: can't evaluate 'b / a < 9': .* \(at a=x, b=1\)"):
        space.feasible({"a": 1, "b": 1})


def test_the_grid_of_a_continuum() -> None:
    space = Space((categorical("a", 1), Range("lr", "LogUniform", 1, 2), Range("wd", "Uniform", 0, 1)))
    with pytest.raises(UsageError, match="the argument 'lr' is LogUniform, which has no end of values") as error:
        space.grid()
    assert "step" not in error.value.hint
    with pytest.raises(UsageError) as error:
        size(space.args[::2])
    assert error.value.hint == "give it a step, or choose a sampler other than grid (search.sampler: random)"


REACHES = {
    (
        "lr * batch-size <= 0.001",
    ): "none of 1,000 meets 'lr * batch-size <= 0.001': its sides are 0.016 to 51.2 <= 0.001",
    ("lr > 1 and opt == 'adam'", "lr > 0"): (
        "none of 1,000 meets \"lr > 1 and opt == 'adam'\": its sides are 0.001 to 0.1 > 1, 'sgd' or 'adam' == 'adam'"
    ),
    ("opt",): "1,000 of 1,000 meet all constraints ('opt' is met by 100.0%)",
    ("not len(opt)",): "none of 1,000 meets 'not len(opt)': it is False",
    ("momentum > 1",): "none of 1,000 meets 'momentum > 1'",
}


@pytest.mark.parametrize("constraints", REACHES)
def test_the_reach_of_constraints(constraints: tuple[str, ...]) -> None:
    args = (
        Range("lr", "LogUniform", 0.001, 0.1),
        Range("batch-size", "LogInt", 16, 512),
        categorical("opt", "sgd", "adam"),
        Range("momentum", "Uniform", 0, 1, when="opt == 'sgd'"),
    )
    start = time.monotonic()
    found = Space(args, constraints).reach(1000, random.Random(0))
    assert time.monotonic() - start < 1
    if constraints == ("momentum > 1",):  # holds where there is none
        assert found.startswith("5") and "of 1,000 meet all constraints ('momentum > 1' is met by 5" in found
    else:
        assert found == REACHES[constraints]


def test_the_reach_of_constraints_that_exclude_each_other() -> None:
    space = Space((Range("x", "Uniform", 0, 1),), ("x < 0.4", "x > 0.6", "x >= 0"))
    found = space.reach(1000, random.Random(0))
    assert found.startswith("none of 1,000 meets both 'x < 0.4' and 'x > 0.6' ('x < 0.4' is met by ")
    assert "'x >= 0' is met by 100.0%)" in found


# --- arguments whose values come later --------------------------------------------------------------------------------


def test_arguments_without_values_yet() -> None:
    for arg in (Subnet("s", space="space.json"), Best(stage="a", number=5, args=("lr", "wd"))):
        assert arg.points() == () and arg.size == 0 and Space((arg,)).size() == 0 and list(expand((arg,))) == []


def test_best() -> None:
    rows = ({"wd": Value(2, "2"), "lr": Value(1, "1")}, {"lr": Value(3, "3")})
    arg = Best(rows, stage="a", number=2, args=("lr", "wd"))
    assert arg.names == ("lr", "wd") and arg.key == "lr,wd" and arg.size == 2
    space = Space((arg, Range("n", "Int", 1, 2, when="wd > 1")))
    assert [data(point) for point in space.points()] == [
        {"lr": 1, "wd": 2, "n": 1},
        {"lr": 1, "wd": 2, "n": 2},
        {"lr": 3},
    ]
    assert space.genes({"lr": 3, "wd": ""}) == {"lr,wd": 1} and space.genes({"lr": "1"}) == {"lr,wd": 0}
