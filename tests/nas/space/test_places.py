"""Where the faults of a config stand: each at the line and column of what is wrong, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchkit.errors import ConfigError, Fault
from searchkit.nas.space.samplers import sampler_of
from searchkit.nas.space.space import space_of
from searchkit.nas.tasks import read
from searchkit.reading import nodes
from searchkit.reading.cursor import Cursor
from searchkit.reading.nodes import Document, Node
from searchkit.records import rules
from tests.nas.space import test_samplers, test_space_declared, test_space_schedule, test_strategies
from tests.records import test_rules_declared


def steps(node: Node, path: str) -> Iterator[Node]:
    """The nodes that a path from `node` can lead to; names of dimensions have dots."""
    if not path:
        yield node
    for key, (_, value) in node.entries.items():
        for name in (key, key.removeprefix("arch.")):
            if path.startswith(f".{name}"):
                yield from steps(value, path[len(name) + 1 :])
    for i, item in enumerate(node.items):
        if path.startswith(f"[{i}]"):
            yield from steps(item, path[len(str(i)) + 2 :])
    if path and "space" in node.entries:  # whose keys are as those beside it
        yield from steps(node.entries["space"][1], path)


def places(document: Document, fault: Fault) -> set[tuple[int, int]]:
    """Where a fault may stand by its path: at the value, or at a key of it."""
    path = fault.what.partition(": ")[0]
    for root in ("space", "sampler", "rules", "rule", "model_sampling_rules", ""):
        if path.startswith(root):
            found = list(steps(document.root, path.removeprefix(root)))
            break
    assert found, f"{path} leads nowhere"
    keys = [where for node in found for where, _ in node.entries.values()]
    return {(node.line, node.col) for node in (*found, *keys)}


def spread(data: Any) -> bytes:
    """YAML with every value on a line of its own."""
    return yaml.safe_dump(data, default_flow_style=False, sort_keys=False).encode()


DATA: list[Any] = [data for data, _ in test_space_declared.FAULTS.values()]
DATA += [data for module in (test_strategies, test_space_schedule) for data, _ in module.FAULTS.values()]


@pytest.mark.parametrize("read_at", [space_of, sampler_of])
def test_every_fault_stands_where_its_path_leads(read_at: Callable[[Cursor], Any]) -> None:
    cases = DATA if read_at is space_of else [data for data, _ in test_samplers.FAULTS.values()]
    seen: set[tuple[int, int]] = set()
    for data in cases:
        document = nodes.parse(spread(data), "f")
        read_at(Cursor(document.root, "space" if read_at is space_of else "sampler", document.report))
        assert document.report.faults, data
        for fault in document.report.faults:
            assert (fault.line, fault.col) in places(document, fault), (fault, spread(data).decode())
            seen.add((fault.line, fault.col))
    assert len(seen) > 10  # they are told apart


def test_a_fault_of_a_rule_stands_where_its_path_leads() -> None:
    for text, messages in test_rules_declared.FAULTS.items():
        document = nodes.parse(spread(yaml.safe_load(text)), "f")
        with pytest.raises(ConfigError) as e:
            rules.read(document)
        assert len(e.value.faults) == sum(not line.startswith("    ") for line in messages)
        for fault in e.value.faults:
            if not fault.what.startswith("unknown key 'model_path'"):  # of the whole file
                assert (fault.line, fault.col) in places(document, fault), fault


CONFIG = """\
model: {num_classes: 3}
space:
  backbone.stem.width: {choices: [8, 16, x]}
  backbone.body.width:
    start: [8, 16, 32, 64]
    end: [16, 8, 64, 128]
    step: [8, 8, 0, 64]
  backbone.body.depth:
    choices: [[1, 2], [2, -1], 2, [3, 3]]
    sample_strategy: stage_wide
  backbone.body.kernel:
    min: 3
    max: 7
    strid: 2
  backbone.body.expand:
    choices: [1, 2]
    schedule:
      boundary: [1, 1]
      value: [[1], [1, 2]]
  data.input_shape: {choices: [96, 0, 96, [96, 96]]}
  anchors:
    MAX: {}
    small: {backbone.stem.width: [a]}
data: {}
train:
  policy: anchors
  sampler:
    type: concat
    model_samplers:
      - {type: anchor, anchors: [MAX, 7]}
      - {type: reange}
"""
FAULTS = [
    "3:42: space.backbone.stem.width.choices[2]: must be an int, not 'x'",
    "5:16: space.backbone.body.width.start[1]: must not be above the end, but 16 > 8",
    "7:18: space.backbone.body.width.step[2]: must be at least 1, not 0",
    "9:27: space.backbone.body.depth.choices[1][1]: must be at least 0, not -1",
    "9:39: space.backbone.body.depth.choices[3][1]: 3 is listed twice",
    "10:22: space.backbone.body.depth.sample_strategy: unknown sample_strategy 'stage_wide' (did you mean stage_wise?)",
    "12:5: space.backbone.body.kernel: must have choices, or min, max and stride; stride is missing",
    "14:5: space.backbone.body.kernel: unknown key 'strid' (did you mean stride?)",
    "18:21: space.backbone.body.expand.schedule.boundary[1]: boundary must ascend, but 1 follows 1",
    "20:36: space.data.input_shape.choices[1]: must be a short edge, or [H, W], in pixels; not 0",
    "20:39: space.data.input_shape.choices[2]: 96 is listed twice",
    "20:43: space.data.input_shape.choices[3]: 96 and [96, 96] can't both be in a space: costs and records take them "
    "for one input shape, but a network that keeps the aspect of images sees these at two sizes; keep one of them",
    "22:5: space.anchors: the name 'MAX' is that of the grid itself",
    "23:35: space.anchors.small.backbone.stem.width[0]: backbone.stem.width of an architecture must be an int or a "
    "list of ints, not ['a']",
    "30:39: train.sampler.model_samplers[0].anchors[1]: must be a name or an architecture, not 7",
    "31:16: train.sampler.model_samplers[1].type: unknown type 'reange' (did you mean range?)",
]


def faults(path: Path, text: str, *overrides: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        read.load(str(path), overrides)
    return [f"{fault.line}:{fault.col}: {fault.what}" for fault in e.value.faults]


def test_a_config_with_a_fault_on_every_line(tmp_path: Path) -> None:
    assert faults(tmp_path / "cfg.yaml", CONFIG) == FAULTS


FITTING = """\
model: {}
space:
  backbone.stem.width: {choices: [8, 16]}
  backbone.body.width: [8, 8, 8, 8]
  backbone.body.depth: {choices: [[1, 2], 1, 1, 1]}
  anchors:
    A: {backbone.stem.width: 24, backbone.body.width: [8, 8, 8, 8], backbone.body.depth: [1, 1, 2, 1]}
"""


def test_archs_that_do_not_fit(tmp_path: Path) -> None:
    assert faults(tmp_path / "a.yaml", FITTING) == [
        "7:30: space.anchors.A.backbone.stem.width: backbone.stem.width is 24, but must be from 1 to 16",
        "7:97: space.anchors.A.backbone.body.depth[2]: backbone.body.depth[2] is 2, but must be from 1 to 1",
    ]
    train = """\
train:
  policy: anchors
  best_arch: B
  eval_archs: [MAX, MIM]
  sampler:
    type: composite
    model_samplers:
      - {type: candidate, key: backbone.stem.width, candidates: [8, 32]}
      - {type: range, key: backbone.body.wdth}
      - {type: anchor, anchors: [{backbone.body.depth: [1, 1, 1, 9]}]}
"""
    assert faults(tmp_path / "b.yaml", FITTING.partition("  anchors:")[0] + train) == [
        "8:14: train.best_arch: the space has no architecture named 'B' (valid: MAX, MIN)",
        "9:21: train.eval_archs[1]: the space has no architecture named 'MIM' (did you mean MIN?)",
        "14:9: train.sampler.model_samplers[1]: the space has no dimension 'backbone.body.wdth' (did you mean "
        "backbone.body.width?)",
    ]
    known = train.replace("wdth", "width").replace("best_arch: B", "best_arch: MAX").replace("MIM", "MIN")
    assert faults(tmp_path / "c.yaml", FITTING.partition("  anchors:")[0] + known) == [
        "13:65: train.sampler.model_samplers[0].candidates: the sampler gives what does not fit into the space: "
        "backbone.stem.width is 32, but must be from 1 to 16",
        "15:66: train.sampler.model_samplers[2].anchors[0].backbone.body.depth[3]: the sampler gives what does not fit "
        "into the space: backbone.body.depth[3] is 9, but must be from 1 to 1",
    ]


def test_what_a_flag_replaces_stands_where_it_was(tmp_path: Path) -> None:
    whole = FITTING.partition("  anchors:")[0]
    assert faults(tmp_path / "a.yaml", whole, "space.backbone.stem.width={choices: [8, b]}") == [
        "3:24: space.backbone.stem.width.choices[1]: must be an int, not 'b'"
    ]
