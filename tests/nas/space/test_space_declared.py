"""Spaces as they are declared: every form, and every fault at once."""

from __future__ import annotations

from typing import Any

import pytest

from searchkit.nas.space.space import read_space
from searchkit.records.arch import Arch
from tests.nas.space.test_space import brute, fault


def test_forms_of_a_dimension() -> None:
    space = read_space(
        {
            "arch.a.fixed": 32,
            "a.list": [64, 128],
            "a.one": {"choices": [7, 3, 5]},
            "a.each": {"choices": [[5, 3], 7, [3, 5, 7]]},
            "a.range": {"start": 1, "end": 6, "step": 2},  # no step hits the end
            "width": {"start": [2, 2], "end": [2, 4], "step": [1, 2]},
        }
    )
    assert [dim.key for dim in space.dims] == ["a.fixed", "a.list", "a.one", "a.each", "a.range", "width"]
    assert [dim.choices for dim in space.dims] == [
        ((32,),),
        ((64,), (128,)),
        ((3, 5, 7),),
        ((3, 5), (7,), (3, 5, 7)),
        ((1, 3, 5),),
        ((2,), (2, 4)),
    ]
    assert [dim.scalar for dim in space.dims] == [True, False, True, False, True, False]
    assert space.count() == 3 * 6 * 3 * 2 == space.points() == len(brute(space))
    assert space.scales == () and space.maximum()["a.fixed"] == 32


def test_the_maximum_of_an_ascending_space_is_on_the_grid() -> None:
    space = read_space({"a.w": {"choices": [[1, 9], [2, 4, 6], [3, 5]], "ascending": True}})
    assert space.dims[0].choices == ((1,), (2, 4), (3, 5))  # nothing can follow 9, nor 6
    assert space.maximum()["a.w"] == (1, 4, 5) and space.contains(space.maximum())
    assert space.faults(Arch.of({"a.w": [1, 6, 5]})) == ["a.w[1] is 6, but must be from 1 to 4"]


SHAPES = {
    "edge": (640, (640,)),
    "edges": ({"choices": [800, 640]}, (800, 640)),  # in the order declared
    "range": ({"start": 480, "end": 640, "step": 80}, (480, 560, 640)),
    "pairs": ([[480, 640], [640, 480]], ((480, 640), (640, 480))),
    "choices of pairs": ({"choices": [[480, 640], 320]}, ((480, 640), 320)),
}


@pytest.mark.parametrize("form", SHAPES)
def test_forms_of_input_shapes(form: str) -> None:
    spec, scales = SHAPES[form]
    space = read_space({"a.w": {"choices": [1, 2]}, "data.input_shape": spec})
    assert space.scales == scales and space.points() == 2 * len(scales)


FAULTS: dict[str, tuple[Any, list[str]]] = {
    "no mapping": ([1], ["space: must be a mapping of dotted names to their values, not [1]"]),
    "nothing": ({}, ["space: must have at least one dimension"]),
    "typo of a key": (
        {"a.w": {"strat": 1, "end": 3, "step": 1}},
        [
            "space.a.w: unknown key 'strat' (did you mean start?)",
            "space.a.w: must have choices, or start, end and step; start is missing",
        ],
    ),
    "typo of anchors": (
        {"a.w": 1, "anchor": {"R": {"a.w": 1}}},
        ["space: unknown key 'anchor' (did you mean anchors?)"],
    ),
    "typo of data": (
        {"a.w": 1, "data.inputshape": 480},
        ["space: unknown key 'data.inputshape' (did you mean data.input_shape?)"],
    ),
    "backwards": (
        {"a.w": {"start": 5, "end": 1, "step": 1}, "a.v": {"start": [1, 9], "end": [2, 8], "step": [1, 1]}},
        [
            "space.a.w.start: must not be above the end, but 5 > 1",
            "space.a.v.start[1]: must not be above the end, but 9 > 8",
        ],
    ),
    "no step": ({"a.w": {"start": 1, "end": 3, "step": 0}}, ["space.a.w.step: must be at least 1, not 0"]),
    "lengths": (
        {"a.w": {"start": [1, 2], "end": [3], "step": [1, 1]}},
        ["space.a.w.end: start, end and step must be lists of one length, not of 2, 1 and 2"],
    ),
    "mixed": (
        {"a.w": {"start": [1, 2], "end": [3, 4], "step": 1}},
        ["space.a.w.step: start, end and step must be three ints, or three lists of ints, not [1, 2], [3, 4] and 1"],
    ),
    "both": (
        {"a.w": {"choices": [1], "step": 1}},
        ["space.a.w: must have choices, or start, end and step; not both"],
    ),
    "huge": (
        {"a.w": {"start": 1, "end": 10**12, "step": 1}},
        ["space.a.w.end: a position must have at most 10000 values, not 1000000000000"],
    ),
    "no choices": (
        {"a.w": {"choices": []}},
        ["space.a.w.choices: must be a list of ints, or a list of such lists for each position, not []"],
    ),
    "twice": ({"a.w": {"choices": [[1], [2, 2]]}}, ["space.a.w.choices[1][1]: 2 is listed twice"]),
    "no int": (
        {"a.w": 1.5, "a.v": True},
        [
            "space.a.w: must be an int, a list of ints, {choices} or {start, end, step}, not 1.5",
            "space.a.v: must be an int, a list of ints, {choices} or {start, end, step}, not true",
        ],
    ),
    "negative": ({"a.w": {"choices": [-1, 2]}}, ["space.a.w.choices[0]: must be at least 0, not -1"]),
    "scalar ascending": (
        {"a.w": {"choices": [1, 2], "ascending": True}},
        ["space.a.w.ascending: it has one value, and can't be ascending; only a list of values can"],
    ),
    "ascending what": (
        {"a.w": {"choices": [[1], [2]], "ascending": "yes"}},
        ["space.a.w.ascending: must be true or false, not 'yes'"],
    ),
    "never ascending": (
        {"a.w": {"choices": [[5], [3, 4]], "ascending": True}},
        ["space.a.w: the dimension a.w has no ascending combination: ((5,), (3, 4))"],
    ),
    "inside": ({"a.w": 1, "a.w.x": 2}, ["space: a.w.x and a.w exclude each other"]),
    "again": ({"a.w": 1, "arch.a.w": 2}, ["space: a.w is declared twice"]),
    "name": (
        {"a..w": 1, " b": 1},
        [f"space: the name '{name}' must be words joined by dots" for name in ("a..w", " b")],
    ),
    "ambiguous shape": (
        {"a.w": 1, "data.input_shape": [480, 560]},
        ["space.data.input_shape: is [480, 560]: write {choices: [480, 560]} for short edges, [[480, 560]] for (H, W)"],
    ),
    "no shape": (
        {"a.w": 1, "data.input_shape": {"choices": [480, [1, 2, 3], 0, "S", 480]}},
        [
            "space.data.input_shape.choices[1]: must be a short edge, or [H, W], in pixels; not [1, 2, 3]",
            "space.data.input_shape.choices[2]: must be a short edge, or [H, W], in pixels; not 0",
            "space.data.input_shape.choices[3]: must be a short edge, or [H, W], in pixels; not 'S'",
            "space.data.input_shape.choices[4]: 480 is listed twice",
        ],
    ),
    "one shape in records": (
        {"a.w": 1, "data.input_shape": {"choices": [[64, 64], [64, 96], 64]}},
        [
            "space.data.input_shape.choices[2]: 64 and [64, 64] can't both be in a space: costs and records take them "
            "for one input shape, but a network that keeps the aspect of images sees these at two sizes; keep one of "
            "them"
        ],
    ),
    "anchors": (
        {
            "a.w": {"choices": [1, 4]},
            "a.d": {"choices": [[1, 2], [1, 2]]},
            "anchors": {
                "MAX": {"a.w": 4},
                "few": {"a.w": 3},
                "more": {"a.w": 3, "a.d": [1, 1], "a.dd": 1},
                "high": {"a.w": 5, "a.d": [1, 3]},
                "low": {"a.w": 0, "a.d": [1, 1, 1]},
                "flat": {"a.w": [1], "a.d": 1},
                "text": {"a.w": "1", "a.d": [1, 1]},
                "fine": {"a.w": 2, "a.d": [2, 1]},
            },
        },
        [
            "space.anchors: the name 'MAX' is that of the grid itself",
            "space.anchors.few: a.d is missing",
            "space.anchors.more.a.dd: a.dd is no dimension (did you mean a.d?)",
            "space.anchors.high.a.w: a.w is 5, but must be from 1 to 4",
            "space.anchors.high.a.d[1]: a.d[1] is 3, but must be from 1 to 2",
            "space.anchors.low.a.w: a.w is 0, but must be from 1 to 4",
            "space.anchors.low.a.d: a.d has 3 values [1, 1, 1], but must have 2",
            "space.anchors.flat.a.w: a.w is [1], but must be an int",
            "space.anchors.flat.a.d: a.d is 1, but must be a list of 2 ints",
            "space.anchors.text.a.w: a.w of an architecture must be an int or a list of ints, not '1'",
        ],
    ),
    "no anchors": (
        {"a.w": 1, "anchors": ["R50"]},
        ["space.anchors: must be a mapping of names to architectures, not ['R50']"],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_declaration(case: str) -> None:
    data, expected = FAULTS[case]
    assert fault(read_space, data).split("\n") == expected


def test_a_key_that_is_no_text() -> None:
    assert fault(read_space, {"a.w": 1, 3: 1}) == "a key must be a text, not 3"


def test_all_faults_at_once_with_their_place() -> None:
    message = fault(read_space, {"a.w": {"start": 1}, "a.v": 1.5, "data.input_shape": -1}, "cfg.yaml: space")
    assert len(message.split("\n")) == 3
    assert all(line.startswith("cfg.yaml: space.") for line in message.split("\n"))
