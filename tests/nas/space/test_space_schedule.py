"""Spaces by epoch: what a schedule narrows, and every fault of one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from searchkit.nas.space.space import Space, read_space
from searchkit.nas.train.schedules import Scheduled, value_at
from searchkit.reading.cursor import node_of
from searchkit.reading.kinds import Bad, number
from searchkit.reading.nodes import Report
from searchkit.records.arch import Arch
from tests.nas.space.test_space import fault

DEPTH, WIDTH, KERNEL = (f"backbone.body.{name}" for name in ("depth", "width", "kernel"))

PROGRESSIVE: dict[str, Any] = {  # kernels, then depths, then widths
    DEPTH: {
        "choices": [[1, 2], [1, 2, 3]],
        "schedule": {"boundary": [1, 5, 9], "value": [[2, 3], [[2], [2, 3]], [1, 2, 3]]},
    },
    KERNEL: {
        "choices": [3, 5, 7],
        "sample_strategy": "block_wise",
        "schedule": {"boundary": [1, 3], "value": [[7], [7, 5, 3]]},
    },
    WIDTH: {"choices": [[8, 16], [16, 24, 32]], "sample_strategy": "stage_wise_depth"},
    "backbone.stem.width": {"boundary": [1, 7], "value": [[16], [8, 16]]},
    "data.input_shape": {"choices": [32, 64]},
    "anchors": {
        "SMALL": {DEPTH: [2, 2], KERNEL: [3] * 6, WIDTH: [16, 32], "backbone.stem.width": 16},
        "OFF": {DEPTH: [2, 3], KERNEL: [7] * 6, WIDTH: [12, 32], "backbone.stem.width": 16},
    },
}


def allowed(arch: Arch, epoch: int) -> bool:
    """What the schedules above say of an arch, in other words."""
    depths, kernels, widths, stem = (arch[key] for key in (DEPTH, KERNEL, WIDTH, "backbone.stem.width"))
    assert isinstance(depths, tuple) and isinstance(kernels, tuple) and isinstance(widths, tuple)
    blocks = [kernels[3 * s + i] for s in range(2) for i in range(depths[s])]
    return (
        (epoch >= 9 or depths[0] == 2)
        and (epoch >= 9 or depths[1] > 1)
        and (epoch >= 3 or set(blocks) == {7})
        and (epoch >= 7 or stem == 16)
    )


def test_each_epoch_has_the_archs_that_its_schedules_leave() -> None:
    space = read_space(PROGRESSIVE)
    assert space.scheduled and [first for first, _ in space.phases] == [1, 3, 5, 7, 9]
    archs = list(space.enumerate())
    for epoch in (1, 2, 3, 6, 7, 9, 1000):
        now = space.at_epoch(epoch)
        grid = list(now.enumerate())
        assert grid == [arch for arch in archs if allowed(arch, epoch)]
        assert now.count() == len(grid) and not now.scheduled and now.scales == space.scales
        assert now.maximum() == max(grid, key=lambda arch: [*map(arch.get, (DEPTH, "backbone.stem.width", KERNEL))])
        assert now.minimum() in grid and now.middle() in grid
        assert [now.arch_of(now.values_of(arch)) for arch in grid] == grid
    assert space.at_epoch(9).dims == read_space({k: _plain(v) for k, v in PROGRESSIVE.items() if k != "anchors"}).dims
    assert space.at_epoch(1).minimum() == Arch.of(
        {DEPTH: [2, 2], KERNEL: [7, 7, 3, 7, 7, 3], WIDTH: [16, 24], "backbone.stem.width": 16}
    )
    assert space.maximum() == space.at_epoch(9).maximum() and space.minimum() == space.at_epoch(9).minimum()


def _plain(spec: Any) -> Any:
    if "boundary" in spec:
        return {"choices": spec["value"][-1]}
    return {key: value for key, value in spec.items() if key != "schedule"}


def test_anchors_wait_for_their_choices() -> None:
    space = read_space(PROGRESSIVE)
    assert [space.at_epoch(epoch).names()[2:] for epoch in (1, 2, 3, 9)] == [("OFF",), ("OFF",)] + [
        ("SMALL", "OFF")
    ] * 2


def test_a_space_without_schedules_is_itself() -> None:
    space = read_space({"a.w": {"choices": [1, 2]}})
    assert space.at_epoch(3) is space and not space.scheduled and space.phases == ((1, space),)


def test_forms_of_a_schedule() -> None:
    whole = {"choices": [[3, 5], [3, 7]]}
    each = {"boundary": [1, 2], "value": [[[5], 7], [[3, 5], [3, 7]]]}
    for spec, first, last in (
        ({"boundary": [1, 81], "value": [[7], [7, 5, 3]]}, ((7,),), ((3, 5, 7),)),
        ({"boundary": [1, 2], "value": [7, [5, 7]]}, ((7,),), ((5, 7),)),
        ({**whole, "schedule": each}, ((5,), (7,)), ((3, 5), (3, 7))),
        (each, ((5,), (7,)), ((3, 5), (3, 7))),
        ({**whole, "schedule": {"boundary": [1, 2], "value": [[5, 7], [3, 5, 7]]}}, ((5,), (7,)), ((3, 5), (3, 7))),
        ({**each, "value": [[[5], [7]], [[3, 5], [6, 7]]], "ascending": True}, ((5,), (7,)), ((3, 5), (6, 7))),
    ):
        space: Space = read_space({"a.kernel": spec})
        assert space.at_epoch(1).dims[0].choices == first and space.dims[0].choices == last
    net = {
        "choices": [[3, 5]] * 2,
        "sample_strategy": "net_wise",
        "schedule": {"boundary": [1, 2], "value": [5, [3, 5]]},
    }
    space = read_space({"a.kernel": net})
    assert [phase.count() for _, phase in space.phases] == [1, 2]
    slots = {
        **net,
        "sample_strategy": "block_wise",
        "schedule": {"boundary": [1, 2], "value": [[[5], [3]], [[3, 5], [3, 5]]]},
    }
    space = read_space({"a.depth": [1, 2], "a.kernel": slots})
    assert [list(phase.held()["a.kernel"]) for _, phase in space.phases] == [
        [(5,), (3,), (3,), (3,)],
        [(3, 5), (3,), (3, 5), (3, 5)],
    ]


def scheduled(boundary: Any, value: Any, **more: Any) -> dict[str, Any]:
    return {"a.w": {"choices": [[1, 2], [2, 3]], "schedule": {"boundary": boundary, "value": value}, **more}}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "start": (scheduled([2, 5], [[2], [1, 2, 3]]), "a.w.schedule.boundary[0]: boundary must start at epoch 1, not 2"),
    "ascend": (scheduled([1, 5, 5], [[2]] * 3), "a.w.schedule.boundary[2]: boundary must ascend, but 5 follows 5"),
    "lengths": (
        scheduled([1, 5], [[2]]),
        "a.w.schedule.value: boundary and value must be of one length, but have 2 and 1",
    ),
    "keys": (
        {"a.w": {"choices": [1], "schedule": {"boundary": [1]}}},
        "a.w.schedule: a schedule has the keys boundary and value, but lacks value",
    ),
    "epochs": (
        scheduled([1, "x"], [[2], [2]]),
        "a.w.schedule.boundary[1]: boundary must be epochs, whole numbers from 1 on, not 'x'",
    ),
    "wider": (
        scheduled([1, 5], [[2, 4], [1, 2, 3]]),
        "a.w.schedule.value[0][1]: widens above the space: 4 is no choice of a.w",
    ),
    "wider there": (scheduled([1, 5], [[[2], [1, 2]], [1, 2, 3]]), "widens above the space: 1 is no choice of a.w[1]"),
    "narrower": (
        scheduled([1, 5], [[2], [2, 3]]),
        "a.w.schedule.value[1]: the last value narrows below the space: 1 of a.w[0] would never be trained",
    ),
    "nothing": (
        scheduled([1, 5], [[1], [1, 2, 3]]),
        "a.w.schedule.value[0]: the value from epoch 1 on leaves a.w[1] without a choice",
    ),
    "ascending": (
        {
            "a.w": {
                "choices": [[1, 2], [1, 2]],
                "ascending": True,
                "schedule": {"boundary": [1, 2], "value": [[[2], [1]], [1, 2]]},
            }
        },
        "a.w.schedule.value[0]: the value from epoch 1 on leaves nothing: the dimension a.w has no ascending",
    ),
    "stages": (
        scheduled([1, 5], [[[2]], [1, 2, 3]]),
        "a.w.schedule.value[0]: must be 2 lists, one for each position, not [[2]]",
    ),
    "what": (scheduled([1, 5], ["x", [1, 2, 3]]), "a.w.schedule.value[0]: must be an int, or a list of ints, not 'x'"),
    "beside": (
        {"a.w": {"choices": [1], "boundary": [1], "value": [[1]]}},
        "write boundary and value below `schedule:`",
    ),
    "alone": ({"a.w": {"boundary": [3], "value": [[1]]}}, "a.w.boundary[0]: boundary must start at epoch 1, not 3"),
    "tied": (
        {
            "a.depth": {"choices": [[1, 2]]},
            "a.w": {
                "choices": [[1, 2]],
                "sample_strategy": "stage_wise_depth",
                "schedule": {"boundary": [1], "value": [[1, 2]]},
            },
        },
        "a.w can't have a schedule: it follows a.depth, whose schedule narrows both",
    ),
    "unequal": (
        {
            "a.w": {
                "choices": [[1, 2]] * 2,
                "sample_strategy": "net_wise",
                "schedule": {"boundary": [1, 2], "value": [[[1], [2]], [1, 2]]},
            }
        },
        "a.w.schedule.value[0]: from epoch 1 on a.w is net_wise, so all positions must have the same choices",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_schedule(case: str) -> None:
    spec, expected = FAULTS[case]
    message = fault(read_space, spec)
    assert expected in message and len(message.split("\n")) == 1


def test_schedules_of_numbers() -> None:
    spec = {"boundary": [1, 81], "value": [0, 0.1]}
    assert [value_at(spec, epoch) for epoch in (1, 80, 81, 500)] == [0, 0, 0.1, 0.1]
    assert value_at(0.5, 3) == 0.5 and value_at(None, 1) is None


def faults_of(spec: Any) -> str:
    """What is said of a number between 0 and 1, or its schedule."""
    report = Report("")
    with suppress(Bad):
        Scheduled(number(0, 1)).read(node_of(spec), "weight", report)
    return " ".join(fault.what for fault in report.faults)


def test_faults_of_a_number_s_schedule() -> None:
    assert faults_of({"boundary": [1, 81], "value": [0, 0.1]}) == "" == faults_of(0.3)
    for boundary, value, words in (
        ([2, 3], [0, 1], "start at epoch 1"),
        ([1, 3, 3], [0, 1, 2], "must ascend"),
        ([1, 3], [0], "one length"),
        ([1, 2.5], [0, 1], "whole numbers"),
        (1, 0, "must be lists"),
    ):
        assert words in faults_of({"boundary": boundary, "value": value})
    assert "lacks value" in faults_of({"boundary": [1]})
    assert faults_of(2) == "weight: must be a number from 0 to 1, or {boundary, value}, not 2"
    assert faults_of({"boundary": [1, 2], "value": [0, "x"]}).startswith("weight.value[1]: must be a number from 0 to")
