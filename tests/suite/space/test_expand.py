"""What may vary is read as the user wrote it, multiplied out in the order of declaration, and named on disk."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.errors import ConfigError, UsageError
from searchkit.reading.nodes import typed
from searchkit.suite.config import read as c
from searchkit.suite.space import expand as e
from searchkit.suite.space.args import Arg, Categorical, Nested, Value


def read(text: str) -> c.Config:
    return c.parse(text.encode(), "cfg.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(text)
    return str(error.value).splitlines()


def values(written: str) -> list[Value]:
    """The values of a list, as `value: [...]` gives them."""
    arg = read(f"task:\n  template: x {{a}}\n  search_args:\n  - {{type: Categorical, name: a, value: {written}}}\n")
    return list(next(a for a in arg.task.search_args if isinstance(a, Categorical)).values)


# --- arguments as written ---------------------------------------------------------------------------------------------

CORE = [
    *[("1e-3", 0.001), ("1.0e-3", 0.001), ("1.", 1.0), (".5", 0.5), ("-.5", -0.5), ("+1", 1), ("1E5", 1e5)],
    *[("010", 10), ("0x1F", 31), ("0o17", 15), ("0b1", "0b1"), ("1_000", "1_000"), ("-0x1", "-0x1")],
    *[("no", "no"), ("off", "off"), ("yes", "yes"), ("on", "on"), ("y", "y"), ("12:30", "12:30"), ("1:2:3", "1:2:3")],
    *[("true", True), ("True", True), ("false", False), ("FALSE", False), ("tRue", "tRue")],
    *[("~", None), ("null", None), ("Null", None), ("nil", "nil"), ("2020-01-01", "2020-01-01"), ("1.2.3", "1.2.3")],
    *[(".inf", float("inf")), ("-.INF", float("-inf")), ("+.Inf", float("inf")), ("inf", "inf"), ("nan", "nan")],
    *[("=", "="), ("<<", "<<"), ("abc def", "abc def"), ("9" * 5000, "9" * 5000), ("٣", "٣")],
]


@pytest.mark.parametrize(("written", "meant"), CORE)
def test_core_schema(written: str, meant: Any) -> None:
    (value,) = values(f"[{written}]")
    assert value == Value(meant, written)
    assert type(value.data) is type(meant)
    assert values(f"['{written}']") == [Value(written, written)]
    assert values(f"[!!str {written}]") == [Value(written, written)]


def test_nan_and_nothing() -> None:
    (nan,) = values("[.nan]")
    assert nan.text == ".nan" and math.isnan(nan.data)
    assert typed("") is None


@pytest.mark.parametrize(
    ("written", "data", "text"),
    [
        ("[[1, 1e-3,2 ]]", [1, 0.001, 2], "[1, 1e-3,2 ]"),
        ("[{a: no, 1: [x]}]", {"a": "no", "1": ["x"]}, "{a: no, 1: [x]}"),
        ("[[1,\n      2]]", [1, 2], "[1, 2]"),
        ("[[1, # one\n      2e1]]", [1, 20.0], "[1,20.0]"),
        ('["a\\tb"]', "a\tb", "a\tb"),
        ("['it''s']", "it's", "it's"),
        ("[a\n      b]", "a b", "a b"),
        ("[&x 1e0]", 1.0, "1e0"),
        ("[[&x é, *x]]", ["é", "é"], '["é","é"]'),
    ],
)
def test_source_text(written: str, data: Any, text: str) -> None:
    assert values(written) == [Value(data, text)]


def test_block_values() -> None:
    config = read(
        """
task:
  template: x {a}
  search_args:
    - type: Categorical
      name: a
      value:
        - 1e-3
        -
        - - 1
          - b: 1e-3
        - |
          two
          lines
        - >-
          folded
          text
"""
    )
    assert config.task.search_args[0].points() == (
        {"a": Value(0.001, "1e-3")},
        {"a": Value(None, "")},
        {"a": Value([1, {"b": 0.001}], '[1,{"b":0.001}]')},
        {"a": Value("two\nlines\n", "two\nlines\n")},
        {"a": Value("folded text", "folded text")},
    )


def test_aliases_and_merge_keys() -> None:
    config = read(
        """
task:
  template: x {lr} {wd} {bs} {n}
  search_args:
    - &first {type: Categorical, name: n, value: &ns [1, 2]}
    - type: Nested
      value:
        - &base {lr: 1, wd: 2, bs: 3}
        - {<<: *base, wd: 4}
        - {bs: 5, <<: [{lr: 6, bs: 7}, *base]}
        - {"bs": 1, "lr": 2, "wd": 3}
env: {A: &a 1e-3, B: *a}
"""
    )
    assert config.task.search_args[0].points()[1] == {"n": Value(2, "2")}
    rows = [{name: v.data for name, v in point.items()} for point in config.task.search_args[1].points()]
    assert all(list(row) == ["lr", "wd", "bs"] for row in rows)
    assert [tuple(row.values()) for row in rows] == [(1, 2, 3), (1, 4, 3), (6, 2, 5), (2, 3, 1)]
    assert config.env == {"A": "1e-3", "B": "1e-3"}


@pytest.mark.parametrize(
    ("written", "shown"),
    [("[1, 2, 1]", "1"), ("[1, '1']", "'1'"), ("[1e-3, 0.001]", "0.001"), ("[[a], [a]]", "[a]")],
)
def test_note_for_a_value_listed_twice(written: str, shown: str) -> None:
    config = read(f"task:\n  template: x {{a}}\n  search_args:\n  - {{type: Categorical, name: a, value: {written}}}")
    assert config.notes == (f"cfg.yaml:4: search_args[0]: {shown} is listed twice; each is a job of its own",)


def test_note_for_a_row_listed_twice() -> None:
    config = read(
        "task:\n  template: x {a} {b}\n  search_args:\n"
        "  - type: Nested\n    value:\n    - {a: 1, b: 2}\n    - {b: 2, a: 1}"
    )
    assert config.notes == ("cfg.yaml:7: search_args[0]: {b: 2, a: 1} is listed twice; each is a job of its own",)
    assert not read(
        "task:\n  template: x {a}\n  search_args:\n  - {type: Categorical, name: a, value: [1, 1.0, true]}"
    ).notes


def test_note_for_steps_that_do_not_meet_the_end() -> None:
    config = read("task:\n  template: x {a}\n  search_args:\n  - {type: Int, name: a, low: 1, high: 9, step: 3}")
    assert config.notes == (
        "cfg.yaml:4: search_args[0].step: no whole number of steps goes from low to high; the last value is 7",
    )
    assert [point["a"].text for point in e.expand(config.task.search_args)] == ["1", "4", "7"]


def test_note_for_a_long_value() -> None:
    short, long = "é" * 127 + "e", "é" * 128
    start = "task:\n  template: x {a}\n  search_args:\n  - type: Categorical\n    name: a\n    value: "
    assert not read(f"{start}[{short}]").notes
    assert read(f"{start}[{long}]").notes == (
        "cfg.yaml:6: search_args[0]: a value is longer than 255 bytes, so its folder in jobs/tree has a shortened name",
    )


# --- faults of arguments ----------------------------------------------------------------------------------------------

ARGS = {
    "{type: Categorial, name: a, value: [1]}": [
        "5:12: search_args[1]: unknown type 'Categorial' (did you mean Categorical?)"
    ],
    "{name: a, value: [1]}": ["5:5: search_args[1]: missing key 'type'"],
    "{type: Categorical, value: [1]}": ["5:5: search_args[1]: missing key 'name'"],
    "{type: Categorical, name: a}": ["5:5: search_args[1]: missing key 'value'"],
    "{type: Categorical, name: a, value: }": ["5:41: search_args[1]: missing key 'value'"],
    "{type: Categorical, name: a, values: [1]}": [
        "5:5: search_args[1]: missing key 'value'",
        "5:34: search_args[1]: unknown key 'values' (did you mean value?)",
    ],
    "{type: Categorical, name: a, value: []}": [
        "5:41: search_args[1].value: must be a list of at least one value, not an empty one"
    ],
    "{type: Categorical, name: a, value: 5}": [
        "5:41: search_args[1].value: must be a list of at least one value, not 5"
    ],
    "{type: Categorical, name: a, value: {b: 1}}": ["5:41: search_args[1].value: must be a list, not a mapping"],
    "{type: Categorical, name: [a], value: [1]}": ["5:31: search_args[1].name: must be a text, not a list"],
    "{type: Categorical, name: '', value: [1]}": ["5:31: search_args[1].name: a name must be a text that is not empty"],
    "{type: Categorical, name: 'a b', value: [1]}": ["5:31: search_args[1].name: the name 'a b' must not contain ' '"],
    "{type: Categorical, name: a/b, value: [1]}": ["5:31: search_args[1].name: the name 'a/b' must not contain '/'"],
    "{type: Categorical, name: 'a{b', value: [1]}": ["5:31: search_args[1].name: the name 'a{b' must not contain '{'"],
    '{type: Categorical, name: "a\\0b", value: [1]}': ["5:31: a NUL or half a surrogate pair can't be part of a text"],
    '{type: Categorical, name: a, value: [1, "\\0"]}': ["5:45: a NUL or half a surrogate pair can't be part of a text"],
    "{type: Categorical, name: lr, value: [1]}": ["5:31: search_args[1]: 'lr' is declared twice (first on line 4)"],
    "{type: Nested, value: [{a: 1, lr: 2}]}": [
        "5:35: search_args[1].value[0]: 'lr' is declared twice (first on line 4)"
    ],
    "{type: Nested, name: q, value: [{a: 1}]}": [
        "5:20: search_args[1].name: a Nested argument has no name of its own; the keys of its rows are the names"
    ],
    "{type: Nested, value: [{a: 1, b: 2}, {a: 1}]}": [
        "5:42: search_args[1].value[1]: lacks 'b'; all rows must have the same keys"
    ],
    "{type: Nested, value: [{a: 1}, {a: 1, c: 2, d: 3}]}": [
        "5:36: search_args[1].value[1]: has 'c', 'd', which the first row lacks; all rows must have the same keys"
    ],
    "{type: Nested, value: [{a: 1}, {b: 1}]}": [
        "5:36: search_args[1].value[1]: lacks 'a' and has 'b', which the first row lacks; "
        "all rows must have the same keys"
    ],
    "{type: Nested, value: [{a: 1}, 5]}": [
        "5:36: search_args[1].value[1]: must be a mapping of at least one name and its value, not 5"
    ],
    "{type: Nested, value: [{a: 1}, {}]}": [
        "5:36: search_args[1].value[1]: must be a mapping of at least one name and its value, not an empty one"
    ],
    "{type: Nested, value: [{'a b': 1}]}": ["5:29: search_args[1].value[0].a b: the name 'a b' must not contain ' '"],
    "{type: Uniform, name: a, low: 1, high: 0}": ["5:44: search_args[1].high: must be above low, which is 1, not 0"],
    "{type: Int, name: a, low: 3, high: 3}": ["5:40: search_args[1].high: must be above low, which is 3, not 3"],
    "{type: LogUniform, name: a, low: 0, high: 1}": ["5:38: search_args[1].low: must be a number above 0, not 0"],
    "{type: LogInt, name: a, low: -1, high: 1}": [
        "5:34: search_args[1].low: must be a whole number between 1 and 2**53, as every one on a log scale, not -1"
    ],
    "{type: Int, name: a, low: 1, high: 4, step: 0}": [
        "5:49: search_args[1].step: must be a whole number of 1 or more, not 0"
    ],
    "{type: Int, name: a, low: 1, high: 4, step: 4}": [
        "5:49: search_args[1].step: must be at most high - low, which is 3, not 4"
    ],
    "{type: LogInt, name: a, low: 1, high: 4, step: 2}": [
        "5:46: search_args[1]: unknown key 'step' (valid: type, name, low, high, when)"
    ],
    "{type: Int, name: a, low: 1.5, high: true, step: x}": [
        "5:31: search_args[1].low: must be a whole number between -2**53 and 2**53, not 1.5",
        "5:42: search_args[1].high: must be a whole number between -2**53 and 2**53, not true",
        "5:54: search_args[1].step: must be a whole number of 1 or more, not 'x'",
    ],
    "{type: Uniform, name: a, low: .nan, high: .inf}": [
        "5:35: search_args[1].low: must be a number, not .nan",
        "5:47: search_args[1].high: must be a number, not .inf",
    ],
    "{type: Uniform, low: 1}": [f"5:5: search_args[1]: missing key '{key}'" for key in ("high", "name")],
    "{type: Uniform, name: a, low: 0, high: 1}": [
        "5:27: search_args: the argument 'a' is Uniform, which has no end of values; "
        "give it a step, or choose a sampler other than grid (search.sampler: random)"
    ],
    "{type: Categorical, name: a, value: [1], when: lrr > 1}": [
        "5:52: search_args[1].when: 'lrr' is not a declared argument (did you mean lr?)"
    ],
    "{type: Categorical, name: a, value: [1], when: a > 1}": [
        "5:52: search_args[1].when: the conditions go round: 'a' needs 'a'"
    ],
    "{type: Categorical, name: a, value: [1], when: [1]}": ["5:52: search_args[1].when: must be a text, not a list"],
    "{type: Nested, value: [{a: 1, b-c: 1}], when: lr > b-c}": [
        "5:51: search_args[1].when: the conditions go round: 'a,b-c' needs 'a,b-c'"
    ],
    "5": ["5:5: search_args[1]: must be a mapping (key: value), not 5"],
    "{}": [f"5:5: search_args[1]: missing key '{key}'" for key in ("name", "type", "value")],
}


@pytest.mark.parametrize("arg", ARGS)
def test_arg_faults(arg: str) -> None:
    # a template without placeholders, so that nothing else is at fault
    text = f"task:\n  template: x\n  search_args:\n  - {{type: Categorical, name: lr, value: [1]}}\n  - {arg}\n"
    assert faults(text) == ["cfg.yaml:" + fault for fault in ARGS[arg]]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])), min_size=1, unique=True))
def test_quoted_texts_arrive_as_they_are(texts: list[str]) -> None:
    written = "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
    assert values(written) == [Value(text, text) for text in texts]


def test_conditions_go_round() -> None:
    text = "task:\n  template: x\n  search_args:\n"
    for name, when in (("a", "b > 1"), ("b", "c-d > 1"), ("c-d", "a > 1 and e > 1"), ("e", "")):
        text += f"  - {{type: Int, name: {name}, low: 1, high: 2{', when: ' * bool(when)}{when}}}\n"
    assert faults(text) == [
        "cfg.yaml:4:49: search_args[0].when: the conditions go round: 'a' needs 'b' needs 'c-d' needs 'a'"
    ]
    config = read(text.replace("a > 1 and ", ""))
    assert [arg.when for arg in config.task.search_args] == ["b > 1", "c-d > 1", "e > 1", None]
    texts = [{name: value.text for name, value in point.items()} for point in e.expand(config.task.search_args)]
    assert texts[0] == {"e": "1"} and texts[-1] == {"a": "2", "b": "2", "c-d": "2", "e": "2"}
    assert len(texts) == e.count(config.task.search_args) == 1 + 1 + 1 + 2


# --- the product ------------------------------------------------------------------------------------------------------


def categorical(name: str, *data: Any) -> Categorical:
    return Categorical(name, tuple(Value(x, str(x)) for x in data))


def plain(points: Sequence[e.Point]) -> list[dict[str, Any]]:
    return [{name: value.data for name, value in point.items()} for point in points]


REFERENCE: tuple[Arg, ...] = (
    categorical("epochs", 3, 5),
    categorical("gamma", 0.7, 0.8),
    Nested(
        (
            {"lr": Value(0.5, "0.5"), "batch-size": Value(512, "512")},
            {"batch-size": Value(1024, "1024"), "lr": Value(1, "1")},
        )
    ),
)


def test_reference_grid() -> None:
    points = list(e.expand(REFERENCE))
    assert e.size(REFERENCE) == e.count(REFERENCE) == len(points) == 8
    assert [tuple(point.values()) for point in plain(points)] == [
        (epochs, gamma, lr, size) for epochs in (3, 5) for gamma in (0.7, 0.8) for lr, size in ((0.5, 512), (1, 1024))
    ]
    assert all(list(point) == ["epochs", "gamma", "lr", "batch-size"] for point in points)
    assert e.tree_path(points[0]) == ("epochs", "3", "gamma", "0.7", "lr", "0.5", "batch-size", "512")


def test_nothing_varies() -> None:
    assert list(e.expand(())) == [{}] and e.size(()) == e.count(()) == 1 and e.tree_path({}) == ()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(), max_size=4), max_size=4))
def test_order_is_that_of_product(pools: list[list[int]]) -> None:
    args = [categorical(f"a{i}", *pool) for i, pool in enumerate(pools)]
    points = plain(list(e.expand(args)))
    assert [tuple(point.values()) for point in points] == list(itertools.product(*pools))
    assert e.size(args) == len(points)


def test_expansion_is_lazy() -> None:
    args = [categorical(f"a{i}", *range(1000)) for i in range(10)]
    assert e.size(args) == 1000**10
    assert plain([next(e.expand(args, ["a9 > 500"]))])[0]["a9"] == 501


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1), st.lists(st.integers(-5, 5), min_size=1), st.integers(-25, 25))
def test_constraints_filter(a: list[int], b: list[int], limit: int) -> None:
    args = [categorical("a", *a), categorical("batch-size", *b)]
    rules = [f"a * batch-size <= {limit}", "a != batch-size"]
    expected = [(x, y) for x in a for y in b if x * y <= limit and x != y]
    assert [tuple(point.values()) for point in plain(list(e.expand(args, rules)))] == expected
    assert e.count(args, rules) == len(expected)


def test_constraints_that_fail() -> None:
    args = [categorical("a", 1, "x")]
    with pytest.raises(UsageError, match="column 3"):
        e.expand(args, ["a @ 1"])  # when called, not at the first point
    with pytest.raises(UsageError) as error:
        list(e.expand(args, ["a < 5"]))
    assert error.value.message.startswith("constraint: can't evaluate 'a < 5': '<' not supported")
    assert error.value.message.endswith("(at a=x)")


def test_sampled_arguments_share_a_level() -> None:
    point = {"lr": Value(0.1, "0.1"), "opt": Value("a/b", "a/b"), "wd": Value(1e-5, "1e-05")}
    assert e.tree_path(point, ("lr", "wd", "x")) == ("opt", "a%2Fb", "lr=0.1,wd=1e-05")
    assert e.tree_path(point, ("x",)) == e.tree_path(point)
    assert e.tree_path({"wd": Value("", "")}, ("wd",)) == ("wd=",)


# --- file names -------------------------------------------------------------------------------------------------------

NAMES = {
    "0.7": "0.7",
    "1e-3": "1e-3",
    "batch size, é 数": "batch size, é 数",
    "a=b~c": "a=b~c",
    "": "%empty",
    ".": "%2E",
    "..": "%2E%2E",
    "...": "...",
    ".hidden": ".hidden",
    "a/b": "a%2Fb",
    "/": "%2F",
    "100%": "100%25",
    "%2F": "%252F",
    "%empty": "%25empty",
    "a\0b\nc\x7f\x85": "a%00b%0Ac%7F%C2%85",
    "\ud800": "%ED%A0%80",
    "x" * 255: "x" * 255,
    "é" * 127: "é" * 127,
}


@pytest.mark.parametrize("text", NAMES, ids=ascii)
def test_names(text: str) -> None:
    assert e.escape(text) == NAMES[text]


def test_long_names_stay_distinct() -> None:
    long = ["x" * 256, "x" * 257, "x" * 255 + "y", "é" * 128, "/" * 86, "é" * 127 + "ab", "数" * 400, "数" * 400 + "a"]
    names = [e.escape(text) for text in long]
    names += [e.escape(name) for name in names]  # a value may look like a shortened name
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) <= 255 and "\ufffd" not in name for name in names)
    assert names[0][:231] == "x" * 231


texts = st.text(st.characters(exclude_categories=())) | st.text("./%~\0 empty25Fé数", max_size=8)
texts |= st.builds(lambda text, n: text * n, texts, st.integers(1, 300))


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(texts, unique=True))
def test_escape_is_injective_and_valid(several: list[str]) -> None:
    names = [e.escape(text) for text in several]
    assert len(set(names)) == len(names)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.mkdir(os.path.join(folder, name))  # the file system has the last word
        assert sorted(os.listdir(folder)) == sorted(names)
