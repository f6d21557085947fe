"""Records of a model space: what was written is read back, files from elsewhere load unchanged, faults have a line."""

from __future__ import annotations

import copy
import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.records import modelspace as ms
from searchkit.records.arch import Arch


def fault(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as e:
        call(*args)
    assert e.value.exit_code == 2
    return e.value.message


# Of the published tables: the two first rows of the documentation, and a row as its fine-tuning tool writes it.
TABLE = "".join(
    f'{{"overhead": {{"flops": {flops}, "params": {params}}}, "arch": {{"backbone": {{"stem": {{"width": 32}}, '
    f'"body": {{"width": [48, 96, 192, 384], "depth": {depth}}}}}}}, "data": {{"input_shape": 480}}}}\n'
    for flops, params, depth in ((46314197434.0, 28010543, [2, 2, 5, 2]), (47443272634.0, 33024047, [2, 2, 5, 4]))
)
TUNED = (
    '{"level_0": 9, "index": 75697, "name": "x", "data": {"input_shape": [3, 560, 560]}, '
    '"overhead": {"flops": 137606157134.0, "params": 103623820}, "arch": {"backbone": {"stem": {"width": 64}, '
    '"body": {"width": [80, 160, 320, 640], "depth": [2, 6, 27, 4]}}}, "metric": {"direct": '
    '{"coco_bbox_mAP": 0.416, "coco_bbox_mAP_copypaste": "0.416 0.611"}, "finetune": {"coco_bbox_mAP": 0.441}}}\n'
)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flops.json", "flops.jsonl"])
@pytest.mark.parametrize(
    "text", [TABLE, TUNED, TABLE + TUNED, TABLE.replace("\n", "\r\n"), "\ufeff" + TABLE, "\n\n" + TABLE]
)
def test_lines_load_unchanged(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    lines = [line for line in text.lstrip("\ufeff").split("\n") if line.strip()]
    records = ms.load(str(path))
    assert records == [json.loads(line) for line in lines]
    assert [ms.dumps(record) for record in records] == [line.strip() for line in lines]  # byte for byte


@pytest.mark.parametrize("indent", [None, 2])
def test_one_array(tmp_path: Path, indent: int | None) -> None:
    records = [json.loads(line) for line in (TABLE + TUNED).splitlines()]
    path = tmp_path / "a.json"
    path.write_text("\n " + json.dumps(records, indent=indent) + "\n")
    assert ms.load(str(path)) == records


@pytest.mark.parametrize("text", ["", "\n\n", "[]", " [ ]\n"])
def test_no_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert ms.load(str(path)) == []


LINE_FAULTS = {  # the beginnings of the lines: the words of Python's parser change
    '{"arch": {}}\n{"arch": {}\n{"arch": {}}\n[1]\n"x"\n': [
        "2: this line is no JSON object: ",
        "4: a record must be a JSON object, not [1]",
        '5: a record must be a JSON object, not "x"',
    ],
    '\n{"flops": 3}\n': ["2: a record must have overhead, arch, data or metric; this one has none of them"],
    '{"arch": 3, "data": {}}\n': ["1: arch must be an object, not 3"],
    "{'arch': {}}\n": ["1: this line is no JSON object: "],
    "[" * 100_000: ["1: this is no JSON array of objects: it is nested too deeply"],
    '[{"arch": {}},\n\n{"arch": 3},\n4]': [
        "3: arch must be an object, not 3",
        "4: a record must be a JSON object, not 4",
    ],
    '[{"arch": {}},\n{"arch": }]': ["2: this is no JSON array of objects: "],
    '[{"arch": {}}\n{"arch": {}}]': [
        "2: this is no JSON array of objects: an array of objects must go on with , or end with ]"
    ],
    '[{"arch": {}}]\n{"arch": {}}': [
        "1: this is no JSON array of objects: an array of objects must go on with , or end with ]"
    ],
}


@pytest.mark.parametrize("text", LINE_FAULTS, ids=range(len(LINE_FAULTS)))
def test_faults_have_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    found = fault(ms.load, str(path)).split("\n")
    assert len(found) == len(LINE_FAULTS[text])
    assert all(line.startswith(f"{path}:{begin}") for line, begin in zip(found, LINE_FAULTS[text], strict=True))


def test_many_faults_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1\n" * 500)
    lines = fault(ms.load, str(path)).split("\n")
    assert len(lines) == 11 and lines[-1] == "… and 490 more"


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    assert fault(ms.load, "flops.yaml") == "a model space must be a .json or .jsonl file, not flops.yaml"
    assert fault(ms.load, str(tmp_path / "no.json")).endswith("no.json: No such file or directory")
    (tmp_path / "a.json").write_bytes(b'{"arch": {"a": "\xff"}}')
    assert fault(ms.load, str(tmp_path / "a.json")).endswith("a.json: it is not UTF-8")
    assert gc.isenabled()


def test_a_record_may_be_flat_already(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"arch.backbone.stem.width": 32, "data.input_shape": 480}\n')
    (record,) = ms.load(str(path))
    assert ms.key(record) == (Arch.of({"backbone.stem.width": 32}).id, (480, 480))


def test_odd_texts_survive(tmp_path: Path) -> None:
    record = {"metric": {"a": {"é\u2028\n": "\ud800", "nan": math.inf}}, "arch": {}}
    path = tmp_path / "a.jsonl"
    path.write_text(ms.dumps(record) + "\n")
    assert ms.load(str(path)) == [record] and "\n" not in ms.dumps(record)


# --- flat and nested -------------------------------------------------------------------------------------------------

keys = st.text("abc_0é -", min_size=1, max_size=3)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
records = st.recursive(
    st.dictionaries(keys, values, max_size=3),
    lambda inner: st.dictionaries(keys, inner | values, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow])  # the first texts of a process take a second
@given(records)
def test_flatten_and_fold_are_inverse(record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    flat = ms.flatten(record)
    assert ms.fold(flat) == record == before
    assert ms.flatten(ms.fold(flat)) == flat == ms.flatten(flat)
    assert all(not isinstance(value, list) and (not isinstance(value, dict) or not value) for value in flat.values())


def test_flat_names() -> None:
    flat = ms.flatten(json.loads(TUNED))
    assert flat["arch.backbone.body.depth"] == (2, 6, 27, 4)
    assert flat["metric.finetune.coco_bbox_mAP"] == 0.441
    assert flat["index"] == 75697 and flat["data.input_shape"] == (3, 560, 560)
    assert hash(tuple(flat.items()))


def test_two_values_of_one_name() -> None:
    assert fault(ms.flatten, {"a": {"b": 1}, "a.b": 2}) == "a record can't have 'a.b' twice"
    assert fault(ms.fold, {"a": 1, "a.b": 2}) == "a record can't have 'a.b': 'a' in it is a value already"
    assert fault(ms.fold, {"a.b": 1, "a": 2}) == "a record can't have 'a' twice"


# --- what records mean -----------------------------------------------------------------------------------------------

SIZES = {
    480: (480, 480),
    (480, 640): (480, 640),
    (3, 480, 640): (480, 640),
    (1, 28, 28): (28, 28),
    "3,480,640": (480, 640),
    " 480, 640 ": (480, 640),
    "480": (480, 480),
    (480,): (480, 480),
}


@pytest.mark.parametrize("shape", SIZES)
def test_image_size(shape: Any) -> None:
    assert ms.image_size(shape) == SIZES[shape]
    if isinstance(shape, tuple):
        assert ms.image_size(list(shape)) == SIZES[shape]


@pytest.mark.parametrize(
    "shape",
    [None, True, 0, -5, 480.0, [], [1, 2, 3, 4], [480, 0], ["480"], "480x640", "", ",", "1,2,3,4", "3,,4", {}, [[480]]],
)
def test_no_image_size(shape: Any) -> None:
    assert fault(ms.image_size, shape).startswith("an input shape must be S, [H, W], [C, H, W] or 'C,H,W' in pixels")


@pytest.mark.parametrize("shape", [560, [560, 560], [3, 560, 560], "3,560,560"])
def test_a_square_input_is_its_edge(shape: Any) -> None:
    record = {"data": {"input_shape": shape}, "arch": {"a": {"w": 3}}}
    before = copy.deepcopy(record)
    assert ms.for_rules(record)["data.input_shape"] == 560
    assert ms.key(record) == (Arch.of({"a.w": 3}).id, (560, 560))
    assert record == before  # the file keeps its form


def test_other_inputs() -> None:
    assert ms.for_rules({"data": {"input_shape": [3, 480, 640]}})["data.input_shape"] == (480, 640)
    assert ms.for_rules({"data": {"input_shape": None}})["data.input_shape"] is None
    assert ms.key({"arch": {"a.w": 3}}) == (Arch.of({"a.w": 3}).id, None)
    assert ms.key({"arch": {"a.w": 3}, "data": {"x": 1}}) == ms.key({"arch.a.w": 3})
    assert fault(ms.key, {"data": {}, "name": 3}).endswith("under `arch`, but this one has data, name")


def test_keys_tell_architectures_and_shapes_apart() -> None:
    made = [
        {"arch": {"a": {"w": w, "d": [d, 2]}}, "data": {"input_shape": s}}
        for w in (1, 2)
        for d in (1, 2)
        for s in (5, [5, 6])
    ]
    assert len({ms.key(record) for record in made}) == len(made)


def test_conventions() -> None:
    macs = {"overhead": {"flops": 1, "convention": "macs"}}
    gaia = {"overhead": {"flops": 1, "convention": "gaia"}}
    absent = {"overhead": {"flops": 1}}
    assert ms.convention([macs, macs]) == "macs"
    assert ms.convention([gaia, absent]) == ms.convention([absent]) == ms.convention([]) == "gaia"
    assert ms.convention([{"overhead.convention": "macs"}]) == "macs"
    with pytest.raises(UsageError) as e:
        ms.convention([macs, absent, gaia, gaia])
    assert e.value.message == "all costs must be counted by one convention, but there are 3 of gaia and 1 of macs"
    assert "where: overhead.convention == 'macs'" in e.value.hint
    unknown = fault(ms.convention, [{"overhead": {"convention": "flops"}}])
    assert unknown.endswith("must be one of macs, gaia, ptflops, not 'flops'")
    assert ms.for_rules(absent)["overhead.convention"] == "gaia" and "overhead.convention" not in ms.for_rules(
        {"arch": {}}
    )
