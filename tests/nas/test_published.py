"""Networks that others published: what they cost by our plans is what their authors say, to the unit."""

from __future__ import annotations

import runpy
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest

from searchkit.nas.cost.rules import CONVENTIONS, Convention
from searchkit.nas.models.backbones.mobilenet_plan import MobileNetV2Plan
from searchkit.nas.models.backbones.shufflenet_plan import shufflenet_plan
from searchkit.nas.models.plan import Layer, Plan, Row
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from tests.support.backbones import cost

# Of a MobileNetV2: width of the stem, (channels inside or None, width) of each block by stages, width of the last conv.
AUTOSLIM_320M = (
    8,
    (
        ((None, 8),),
        ((96, 16), (96, 16)),
        ((96, 24), (144, 24), (144, 24)),
        ((144, 56), (288, 56), (288, 56), (288, 56)),
        ((288, 96), (432, 96), (432, 96)),
        ((864, 240), (1440, 240), (960, 240)),
        ((1440, 480),),
    ),
    1920,
)
DMCP_100M = (
    9,
    (
        ((None, 10),),
        ((36, 16), (16, 16)),
        ((48, 21), (41, 21), (22, 21)),
        ((60, 24), (44, 24), (272, 24), (272, 24)),
        ((310, 36), (294, 36), (351, 36)),
        ((693, 80), (96, 80), (864, 80)),
        ((960, 192),),
    ),
    1280,
)
SPOS = (2, 0, 2, 0, 3, 1, 1, 0, 0, 1, 0, 1, 0, 3, 1, 2, 2, 0, 1, 3)
DETNAS_300M = (2, 1, 2, 0, 2, 1, 1, 2, 3, 3, 1, 3, 0, 0, 3, 1, 3, 1, 3, 2)


def mobilenet(stem: int, stages: tuple[tuple[tuple[int | None, int], ...], ...], last: int) -> Plan:
    depths = tuple(len(blocks) for blocks in stages)
    hidden = [
        [stages[0][0][1] if mid is None else mid for mid, _ in blocks] + [1] * (max(depths) - len(blocks))
        for blocks in stages
    ]
    hidden[0][0] = stem  # its filters work on the stem's channels
    arch = {"stem.width": stem, "head.width": last, "body.depth": depths, "body.expand": (1, 6, 6, 6, 6, 6, 6)}
    arch |= {"body.width": tuple(blocks[0][1] for blocks in stages), "body.hidden": tuple(chain.from_iterable(hidden))}
    whole = Arch.of(arch)
    return MobileNetV2Plan(whole).plan(whole)


def shufflenet(choices: tuple[int, ...]) -> Plan:
    sizes = {"stem.width": 16, "body.width": (64, 160, 320, 640), "body.depth": (4, 4, 8, 4), "head.width": 1024}
    return shufflenet_plan(Arch.of({**sizes, "body.choice": choices}), stem_pool=False, keep_width=True)


def classifier(backbone: Plan) -> Plan:
    """With the mean over the last feature, and the last layer of ImageNet's 1,000 classes."""
    width = backbone[-1].cout
    return (
        *backbone,
        Row("", 9, 0, (Layer("mean", "mean", width, width), Layer("linear", "fc", width, 1000, bias=True))),
    )


@pytest.mark.parametrize(
    ("plan", "macs", "ptflops", "params"),
    [
        (mobilenet(*AUTOSLIM_320M), 305_072_416, 320_247_520, 5_767_288),
        (mobilenet(*DMCP_100M), 85_424_809, 92_945_868, 2_185_121),
        (shufflenet(SPOS), 317_023_040, 328_547_840, 3_354_104),
        (shufflenet(DETNAS_300M), 321_219_008, None, 3_532_072),
    ],
    ids=["AutoSlim 320M", "DMCP 100M", "SPOS of mmrazor", "DetNAS FPN-300M"],
)
def test_published_costs(plan: Plan, macs: int, ptflops: int | None, params: int) -> None:
    net = classifier(plan)
    assert cost(net, (224, 224), "macs") == (macs, params)
    assert ptflops is None or cost(net, (224, 224), "ptflops") == (ptflops, params)
    assert cost(net, (224, 224), "gaia")[1] < params  # which has no norms


def test_what_people_read_of_each_convention() -> None:
    assert tuple(modelspace.CONVENTIONS) == CONVENTIONS == get_args(Convention)


PRINTED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "published.py"))
ROWS = PRINTED["rows"]()


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_the_table_of_published_costs(row: dict[str, Any]) -> None:
    """benchmarks/published.py prints it: each is ours to the unit, and the published number, or it says why not."""
    lines = [*PRINTED["lines_of"](row)]
    assert {line.meter: line.ours for line in lines} == row["ours"]
    assert {*row["published"]} <= {*row["ours"]}
    assert row.get("note") or all(line.difference in ("", "0") for line in lines)
    assert row["name"] in PRINTED["table"](lines)
