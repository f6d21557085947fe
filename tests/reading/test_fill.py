"""A dataclass is filled from a file, or every fault is told at its place; its schema takes and refuses the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest

from searchkit.errors import UsageError
from searchkit.reading import nodes, schema
from searchkit.reading.fill import ABSENT, Part, fill, fill_onto
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import (
    Bytes,
    Count,
    Fraction,
    Key,
    Number,
    Seconds,
    Some,
    Text,
    Whole,
    file_of,
    matching,
    number,
    whole,
)


@dataclass(frozen=True)
class Median:
    type: Literal["median"]
    quantile: Fraction = 0.5


@dataclass(frozen=True)
class Patience:
    type: Literal["patience", "calm"]
    epochs: Count


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    step: int = 1

    def __post_init__(self) -> None:
        refuse(self.faults())

    def faults(self) -> Iterator[At]:
        if self.start > self.end:
            yield At("end", f"must be at least start, which is {self.start}, not {self.end}", beside=("start",))
        if self.step == 0:
            yield At("step", "must not be 0")


@dataclass(frozen=True)
class Limits:
    low: int = 0
    high: int = 1
    more: int = 1

    def __post_init__(self) -> None:
        refuse(self.faults())

    def faults(self) -> Iterator[At]:
        if self.low >= self.high:
            yield At("high", f"must be above low, which is {self.low}", beside=("low",))
        if self.more == 0:
            yield At("more", "must not be 0")


@dataclass(frozen=True)
class Choices:
    choices: tuple[Any, ...]


@dataclass(frozen=True)
class Pair:
    task: Text | None = None
    csv: Annotated[str, file_of(".csv")] | None = None
    SCHEMA: ClassVar[Mapping[str, Any]] = {"oneOf": [{"required": ["task"]}, {"required": ["csv"]}]}

    def __post_init__(self) -> None:
        if (self.task is None) == (self.csv is None):
            raise UsageError("give task or csv")


@dataclass(frozen=True)
class Everything:
    word: str = "x"
    text: Text | None = None
    policy: Literal["sandwich", "fixed", "3"] = "sandwich"
    flag: bool = False
    retries: Whole = 0
    few: Annotated[int, whole(2, 5)] = 3
    lr: Annotated[float, number(above=0)] = 0.1
    low: Number = -1.0
    memory_bytes: Annotated[Bytes | None, Key("memory")] = None
    timeout_s: Seconds | None = None
    hidden: Annotated[int, Key("")] = 7
    name: Annotated[str, matching("[a-z]+", "small letters")] = "abc"
    edges: tuple[int, ...] = ()
    pair: tuple[float, float] | None = None
    some: Annotated[tuple[Text, ...], Some("word")] = ("a",)
    size: int | tuple[int, int] = 4
    board: bool | Text = True
    stop: Median | Patience | Text | None = None
    dims: Mapping[Text, Span | Choices | int] = field(default_factory=dict)
    either: Pair | None = None
    pairs: Limits | None = None
    part: Part[Median | Patience] = ABSENT
    free: Any = None


GOOD = {
    "{}": Everything(),
    "{word: 5, text: no, policy: 3, flag: true}": Everything("5", "no", "3", True),
    "{word: ~, retries: , lr: 1, low: 1e3, few: 5}": Everything(lr=1.0, low=1000.0, few=5),
    "{memory: 1.5G, timeout_s: 2h, name: yes}": Everything(memory_bytes=3 << 29, timeout_s=7200.0, name="yes"),
    "{edges: [1, 2], pair: [0, 1], some: [a, 2], size: [3, 4]}": Everything(
        edges=(1, 2), pair=(0.0, 1.0), some=("a", "2"), size=(3, 4)
    ),
    "{size: 3, board: runs, stop: mine, free: {a: [1]}}": Everything(
        size=3, board="runs", stop="mine", free={"a": [1]}
    ),
    "{stop: {type: median}, either: {task: a}}": Everything(stop=Median("median"), either=Pair("a")),
    "{stop: {type: calm, epochs: 3}, board: false}": Everything(stop=Patience("calm", 3), board=False),
    "{dims: {a.b: {start: 1, end: 2}, c: {choices: [x]}, d: 7}}": Everything(
        dims={"a.b": Span(1, 2), "c": Choices(("x",)), "d": 7}
    ),
}
BAD = {
    "[]": ["1:1: the file must be a mapping (key: value), not a list"],
    "{wrd: 1, zzz: 2}": [
        "1:2: unknown key 'wrd' (did you mean word?)",
        "1:10: unknown key 'zzz'; there are word (x), text (null), policy (sandwich), flag (false), retries (0), "
        "few (3), lr (0.1), low (-1.0), memory (null), timeout_s (null), name (abc), edges ([]), pair (null), "
        'some (["a"]), size (4), board (true), stop (null), dims, either (null), pairs (null), part (null), '
        "free (null)",
    ],
    "{hidden: 5}": None,
    "{word: [1], text: ' '}": ["1:8: word: must be a text, not a list", "1:19: text: must be a text, not ' '"],
    "{policy: sandwhich}": [
        "1:10: policy: must be one of sandwich, fixed, 3, not 'sandwhich' (did you mean sandwich?)"
    ],
    "{policy: [fixed]}": ["1:10: policy: must be one of sandwich, fixed, 3, not a list"],
    "{flag: 1, retries: -1}": [
        "1:8: flag: must be true or false, not 1",
        "1:20: retries: must be a whole number of 0 or more, not -1",
    ],
    "{few: 6}": ["1:7: few: must be a whole number from 2 to 5, not 6"],
    "{few: 3.5, lr: 0}": [
        "1:7: few: must be a whole number from 2 to 5, not 3.5",
        "1:16: lr: must be a number above 0, not 0",
    ],
    "{lr: true, low: x}": [
        "1:6: lr: must be a number above 0, not true",
        "1:17: low: must be a number, not 'x'",
    ],
    "{memory: 6X, timeout_s: 0}": [
        "1:10: memory: must be a number of bytes, or a size such as 6G or 512M, not '6X'",
        "1:25: timeout_s: must be seconds above 0, or a time such as 30s, 10m, 2h or 1d, not 0",
    ],
    "{memory_bytes: 5}": None,
    "{name: A1}": ["1:8: name: must be small letters, not 'A1'"],
    "{edges: [1, x, 2.5], pair: [1]}": [
        "1:13: edges[1]: must be a whole number, not 'x'",
        "1:16: edges[2]: must be a whole number, not 2.5",
        "1:28: pair: must have 2 values, not 1",
    ],
    "{edges: 1, some: []}": [
        "1:9: edges: must be a list, not 1",
        "1:18: some: must be a list of at least one word, not an empty one",
    ],
    "{size: x}": ["1:8: size: must be a whole number, not 'x'"],
    "{size: {}}": ["1:8: size: must be a whole number or a list, not a mapping"],
    "{size: [1, y]}": ["1:12: size[1]: must be a whole number, not 'y'"],
    "{board: [a]}": ["1:9: board: must be true or false or a text, not a list"],
    "{stop: {type: mean}}": ["1:15: stop: unknown type 'mean' (did you mean median?)"],
    "{stop: {type: calm, quantile: 1}}": [
        "1:8: stop: missing key 'epochs'",
        "1:21: stop: unknown key 'quantile' (valid: type, epochs)",
    ],
    "{stop: {type: median, quantile: 2}}": ["1:33: stop.quantile: must be a number from 0 to 1, not 2"],
    "{stop: {epochs: x}}": [
        "1:8: stop: missing key 'type'",
        "1:17: stop.epochs: must be a whole number of 1 or more, not 'x'",
    ],
    "{stop: [1]}": ["1:8: stop: must be a mapping (key: value) or a text, not a list"],
    "{dims: {a: {start: 1, end: x}, b: {stat: 1}, c: y}}": [
        "1:28: dims.a.end: must be a whole number, not 'x'",
        "1:35: dims.b: missing key 'end'",
        "1:35: dims.b: missing key 'start'",
        "1:36: dims.b: unknown key 'stat' (did you mean start?)",
        "1:49: dims.c: must be a whole number, not 'y'",
    ],
    "{either: {}}": ["1:10: either: give task or csv"],
    "{dims: {a: {start: 3, end: 2, step: s}}}": [
        "1:28: dims.a.end: must be at least start, which is 3, not 2",
        "1:37: dims.a.step: must be a whole number, not 's'",
    ],
    "{pairs: {low: 3, high: x, more: 0}}": [  # whether high is above low can't be told
        "1:24: pairs.high: must be a whole number, not 'x'",
        "1:33: pairs.more: must not be 0",
    ],
    "{either: {csv: a.txt}}": ["1:16: either.csv: must be a .csv file, not 'a.txt'"],
}
TOGETHER = {
    "{dims: {a: {start: 3, end: 2}}}": ["1:28: dims.a.end: must be at least start, which is 3, not 2"],
    "{dims: {a: {start: 3, end: 2, step: 0}}}": [
        "1:28: dims.a.end: must be at least start, which is 3, not 2",
        "1:37: dims.a.step: must not be 0",
    ],
}


def read(text: str) -> tuple[Everything | None, list[str], Any]:
    document = nodes.parse(text.encode(), "f")
    filled = fill(Everything, document.root, "", document.report)
    faults = sorted(document.report.faults)
    return filled, [f"{f.line}:{f.col}: {f.what}" for f in faults], document.root.data


@pytest.mark.parametrize("text", GOOD)
def test_what_is_filled(text: str) -> None:
    filled, faults, _ = read(text)
    assert faults == [] and filled is not None
    assert filled.part.node is None and filled.part.path == "part"
    assert filled == Everything(**{**vars(GOOD[text]), "part": filled.part})


@pytest.mark.parametrize("text", [*BAD, *TOGETHER])
def test_every_fault_at_its_place(text: str) -> None:
    filled, faults, _ = read(text)
    expected = {**BAD, **TOGETHER}[text]
    assert filled is None and faults and expected in (None, faults)


def test_the_schema_takes_and_refuses_the_same() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'searchkit[dev]'")
    made = schema.of(Everything, "everything")
    jsonschema.Draft7Validator.check_schema(made)
    check = jsonschema.Draft7Validator(made)
    for text in [*GOOD, *TOGETHER]:
        assert not list(check.iter_errors(read(text)[2])), text
    for text in BAD:
        assert list(check.iter_errors(read(text)[2])), text


def test_onto_another_one() -> None:
    """What is not given, or has a fault, is as in the base."""
    base = Everything(retries=3, lr=0.5, either=Pair("a"), hidden=9)
    document = nodes.parse(b"{lr: 2, retries: x, either: {task: b}, nope: 1}", "f")
    filled = fill_onto(base, document.root, "", document.report)
    assert (filled.lr, filled.retries, filled.hidden, filled.either) == (2.0, 3, 9, Pair("b"))
    assert len(document.report.faults) == 2
    assert fill_onto(base, None, "run", document.report).lr == 0.5


def test_a_part_is_filled_in_its_turn() -> None:
    document = nodes.parse(b"{part: {type: median, quantile: x}}", "f")
    filled = fill(Everything, document.root, "", document.report)
    assert filled is not None and not document.report.faults
    assert filled.part.fill() is None
    filled.part.fault("quantile", "odd")
    assert [f.what for f in document.report.faults] == [
        "part.quantile: must be a number from 0 to 1, not 'x'",
        "part.quantile: odd",
    ]
