"""Tables of times: their sums are those of a network's rows, the same whenever they are asked for; what was measured
survives a kill; and a table is a meter like any other."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cli import progress, score
from searchkit.nas.cost.latency import FORMAT, read_table, row_text
from searchkit.nas.cost.price import of_tables, plans_of, price, price_archs, price_parts
from searchkit.nas.cost.rules import row_cost
from searchkit.nas.cost.unique import Placed, rows_of
from searchkit.nas.latency import eager, onnx_rows
from searchkit.nas.latency.device import device_at
from searchkit.nas.latency.judge import Sample, judge
from searchkit.nas.latency.log import opened
from searchkit.nas.latency.rows import Spec, specs_of
from searchkit.nas.models.layer_kinds import KINDS
from searchkit.nas.models.part import LEVELS, NetPlan
from searchkit.nas.models.plan import channels
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.subnet import search
from searchkit.nas.tasks import read as config
from searchkit.nas.train.recipe import Recipe, said_of, tables_of
from searchkit.records.arch import Arch
from tests.support import nas, suite
from tests.support.nas import CPU, bad, good, lines

TEMPLATES = Path(__file__).parents[2] / "templates"
ON = {"runtime": "eager", "version": "1", "device": "cpu", "name": "a processor", "threads": 1, "batch": 1}
# A space of each kind, small enough to look at all of its archs.
SPACES = {
    "det/faster_rcnn_small": ("model.num_classes=3",),
    "det/retinanet_bignas_small": ("model.num_classes=3",),
    "det/ssd_ofa_small": (
        "model.num_classes=3",
        "space.backbone.body.expand={choices: [[1], [3, 4], [3, 6], [6]], sample_strategy: block_wise}",
        "space.backbone.body.kernel={choices: [[3], [3, 5], [3], [3]], sample_strategy: block_wise}",
    ),
}


def recipe_of(name: str) -> Recipe:
    return config.load(str(TEMPLATES / f"{name}.yaml"), SPACES[name])


def plan_of(recipe: Recipe) -> NetPlan:
    return plans_of(recipe.model, recipe.space.maximum())


def ms_of(text: str, at: tuple[int, int]) -> float:
    """A time that is a function of its row."""
    return int(hashlib.sha256(f"{text} {at}".encode()).hexdigest()[:4], 16) / 1000


def made_up(placed: tuple[Placed, ...], shapes: tuple[InputShape, ...], **more: Any) -> dict[str, Any]:
    """A table of made-up times."""
    keys = dict.fromkeys((row_text(each.row), each.at) for each in placed)
    rows = [{"row": text, "at": list(at), "group": "image conv", "ms": ms_of(text, at)} for text, at in keys]
    rest = [[list(height_width(shape)), 1.5] for shape in shapes]
    body = {"format": FORMAT, "on": ON, "model": "", "correction": None, "rest": rest, "check": {}, "rows": rows}
    return {**body, **more}


def table_of(recipe: Recipe, path: Path, **more: Any) -> Path:
    rows = rows_of(plan_of(recipe), recipe.space, recipe.scales)
    path.write_text(json.dumps(made_up(rows.placed, recipe.scales, **more)))
    return path


# ---- the rows of a space


@pytest.mark.parametrize("name", SPACES)
def test_following_rows_finds_those_of_all_archs(name: str) -> None:
    recipe = recipe_of(name)
    plans = plan_of(recipe)
    whole = rows_of(plans, recipe.space, recipe.scales, whole=recipe.space.count())
    followed = rows_of(plans, recipe.space, recipe.scales, whole=0)
    assert whole.whole and whole.archs == recipe.space.count() > 100 and not followed.whole and not followed.late
    assert set(followed.placed) == set(whole.placed)


def own_sum(plans: NetPlan, arch: Arch, shape: InputShape) -> float:
    """The time of an arch by the made-up times, added up by another hand."""
    total, sizes, features = 1.5, (height_width(shape),), []
    for row in plans.rows(arch):
        total += ms_of(row_text(row), sizes[0])
        sizes = row_cost(row, sizes, "macs").sizes
        features += [sizes] if row.output else []
    given: dict[str, list[Any]] = {"feature": features, "level": []}
    for piece in plans.behind(arch, channels(plans.rows(arch))):
        on = piece.where.on
        if piece.where == LEVELS:
            inputs = list(given["level"])
        else:
            inputs = [given[on][piece.where.number]] if on in given else [((piece.where.number, 1),)]
        for at in inputs:
            for row in piece.rows:
                total += ms_of(row_text(row), at[0])
                at = row_cost(row, at, "macs").sizes
                if row.output and piece.gives:
                    given[piece.gives].append(at)
            if piece.gives and not any(row.output for row in piece.rows):
                given[piece.gives].append(at)
    return total


@pytest.mark.parametrize("name", SPACES)
def test_a_sum_is_that_of_all_rows_and_the_same_again(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    plans, table = plan_of(recipe), read_table(str(table_of(recipe, tmp_path / "t.json")))
    rng = random.Random(0)
    archs = [recipe.space.sample(rng) for _ in range(200)]
    for arch, times, _ in price_archs(plans, archs, recipe.scales, table):
        for shape, ms in zip(recipe.scales, times, strict=True):
            assert ms == pytest.approx(own_sum(plans, arch, shape), rel=1e-9)
    again = read_table(str(tmp_path / "t.json"))
    assert again.digest == table.digest == hashlib.sha256((tmp_path / "t.json").read_bytes()).hexdigest()
    for arch in archs[:20]:
        assert of_tables({"ms": table}, plans, arch, recipe.scales[0]) == of_tables(
            {"ms": again}, plans, arch, recipe.scales[0]
        )
        parts = price_parts(plans, arch, recipe.scales[0], table)
        whole = price(plans, arch, recipe.scales[0], table)
        assert sum(part.flops for part in parts.values()) + 1.5 == pytest.approx(whole.flops)
        assert whole.params == price(plans, arch, recipe.scales[0]).params


def test_rows_are_corrected_as_the_table_says(tmp_path: Path) -> None:
    recipe = recipe_of("det/faster_rcnn_small")
    correction = {"factor": 2.0, "on_top": {"image conv": 0.25}}
    plain = read_table(str(table_of(recipe, tmp_path / "a.json")))
    table = read_table(str(table_of(recipe, tmp_path / "b.json", correction=correction)))
    assert {key: 2 * ms + 0.25 for key, ms in plain.ms.items()} == table.ms


# ---- rows as they run


@pytest.mark.parametrize("name", ["det/faster_rcnn_small", "det/retinanet_bignas_small", "cls/bignas_mobilenet_small"])
def test_a_row_gives_out_what_its_plan_says_in_every_runtime(name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    recipe = config.load(str(TEMPLATES / f"{name}.yaml"), ["model.num_classes=3"])
    arch = recipe.space.minimum()
    rows = rows_of(plan_of(recipe), recipe.space.only(arch), recipe.scales[:1])
    kept = getattr(plan_of(recipe).head, "regions_kept", None)
    regions = None if kept is None else kept(arch.part("head"))
    for spec in specs_of(rows.placed, recipe.model, arch, regions):
        module = (eager.Added if spec.residual else eager.Walked)(spec).eval()
        with torch.no_grad():
            ran = module(torch.rand(eager.input_shape(spec)))
        shapes = [tuple(y.shape) for y in (ran if isinstance(ran, list) else [ran])]
        assert shapes == onnx_shapes(spec)
        if spec.on != "regions" and len(shapes) == 1 and len(shapes[0]) == 4:
            assert shapes[0][2:] == row_cost(spec.row, (spec.at,), "macs").sizes[0]
        assert spec.runs_at == ((100, 1) if spec.on == "regions" else spec.at)


def test_a_box_head_runs_on_the_proposals_of_an_arch() -> None:
    """As many as the config keeps, whatever it is priced on; where the space has them, as many as an arch says."""
    path = str(TEMPLATES / "det" / "faster_rcnn_small.yaml")
    for given, runs_at in (((), {100}), (("space.head.proposals={choices: [50, 300]}", "space.anchors="), {50, 300})):
        recipe = config.load(path, ["model.num_classes=3", *given])
        plans, maximum = plan_of(recipe), recipe.space.maximum()
        ends = (recipe.space.only(arch) for arch in (recipe.space.minimum(), maximum))
        rows = [row for end in ends for row in rows_of(plans, end, recipe.scales[:1]).placed]
        specs = specs_of(rows, recipe.model, maximum, plans.head.regions_kept(maximum.part("head")))
        assert {spec.runs_at[0] for spec in specs if spec.on == "regions"} == runs_at


def onnx_shapes(spec: Spec) -> list[tuple[int, ...]]:
    import onnxruntime

    model = onnx_rows.row_model(spec)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"x": np.zeros(eager.input_shape(spec), np.float32)})
    return [tuple(y.shape) for y in outputs]


def test_every_kind_of_layer_has_an_onnx_form() -> None:
    assert [kind for kind in KINDS if not hasattr(onnx_rows._Graph, f"_{kind}")] == ["split"]  # which has two outputs


def test_residual_blocks_are_told_by_the_network() -> None:
    recipe = recipe_of("det/faster_rcnn_small")
    rows = rows_of(plan_of(recipe), recipe.space, recipe.scales)
    specs = specs_of(rows.placed, recipe.model, recipe.space.maximum(), 100)
    assert {spec.residual for spec in specs if spec.on == "image" and spec.row.stage >= 0} == {True}
    assert {spec.residual for spec in specs if spec.on != "image" or spec.row.stage < 0} == {False}


# ---- sums held against whole networks


def samples(n: int, whole: Any) -> list[Sample]:
    rng, out = random.Random(0), []
    for i in range(n):
        rows = {"image conv": rng.randint(4, 20), "image depthwise": rng.randint(0, 9)}
        ms = {group: count * rng.uniform(0.05, 0.4) for group, count in rows.items()}
        image = ((96, 96), (128, 128))[i // 2 % 2]
        out.append(Sample(image, ms, rows, whole(image, ms, rows, rng)))
    return out


LEAST = {"image conv": 0.05, "image depthwise": 0.05}


def test_sums_that_add_up_are_taken_as_they_are() -> None:
    found = judge(samples(20, lambda image, ms, _rows, _rng: sum(ms.values()) + image[0] / 100), LEAST)
    assert found.holds and not found.is_corrected and found.said["judged_on"] == 10
    assert found.fit.rest == {(96, 96): pytest.approx(0.96), (128, 128): pytest.approx(1.28)}
    assert found.said["plain"]["error"] < 1e-9 and found.said["plain"]["spearman"] == found.said["plain"]["tau"] == 1


def test_what_each_row_takes_on_top_is_found() -> None:
    def whole(image: Any, ms: Mapping[str, float], rows: Mapping[str, int], _rng: Any) -> float:
        return 1.3 * sum(ms.values()) + 0.2 * rows["image depthwise"] + image[0] / 100

    found = judge(samples(40, whole), LEAST)
    assert found.is_corrected and found.holds and found.said["corrected"]["error"] < 0.02 < found.said["plain"]["error"]
    assert found.fit.correction.factor == pytest.approx(1.3, rel=0.05)


def test_networks_that_no_sum_tells_are_said_to_be_so() -> None:
    found = judge(samples(20, lambda _image, _ms, _rows, rng: rng.uniform(1, 9)), LEAST)
    assert not found.holds and min(found.said[name]["error"] for name in ("plain", "corrected")) > 0.05


# ---- measuring


def tiny_of_one(toy: Path, folder: Path) -> str:
    body = nas.tiny(toy, model={"num_classes": 3}, space={"data.input_shape": {"choices": [32]}})
    return nas.write(folder / "one.yaml", {**body, "subnet": "MIN"})


def measured(path: Path) -> dict[Any, float]:
    return {(entry["row"], *entry["at"]): entry["ms"] for entry in json.loads(path.read_text())["rows"]}


def test_a_killed_measurement_goes_on_without_losing_a_row(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tiny_of_one(toy, tmp_path), tmp_path / "t.json"
    words = ("latency", path, "--device", "cpu", "--runtime", "eager", "--nets", "2", "--out", str(out))
    log = Path(f"{out}.measured")
    with nas.killed_after(nas.spawn(*words, "--pause", "0.2", cwd=tmp_path)) as process:
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") > 4:
                break
            time.sleep(0.02)
    assert not out.exists()
    with open(log, "ab") as file:
        file.write(b'{"row": "torn')
    whole = log.read_bytes().splitlines()[1:-1]
    before = [json.loads(line) for line in whole]
    assert before
    with monkeypatch.context() as patch:
        patch.setattr(progress, "QUIET_S", 0.0)  # all that a log gets every 15 s
        again = nas.call(*words, "--pause", "0")
    assert "whole networks: 2" in again.out and not log.exists() and again.code == 0
    told = [line.split("  ")[0] for line in again.err.splitlines() if "/" in line.split("  ")[0]]
    n, rows = len([e for e in before if "row" in e]), [line for line in told if line.startswith("rows ")]
    assert rows == [f"rows {i}/{len(rows) + n - 1}" for i in range(n, len(rows) + n)]
    assert told[len(rows) :] == ["networks 5/10"] * 25 + [f"networks {i}/10" for i in range(6, 11)]  # 24 halvings
    after = measured(out)
    assert {(e["row"], *e["at"]): e["ms"] for e in before if "row" in e}.items() <= after.items()
    assert good(*words) and measured(out) == after  # nothing was left to measure
    assert "threads: 1 there, 2 here" in bad(*words, "--threads", "2", code=4)
    assert "model: " in bad(*words, "--set", "model.fpn_channels=8", code=4)
    table, recipe = read_table(str(out)), config.load(path)
    arch = recipe.space.minimum()
    assert price(plan_of(recipe), arch, 32, table).flops > 0
    with pytest.raises(UsageError, match=r"is of images of 32 x 32, not 48 x 48"):
        price(plan_of(recipe), arch, 48, table)


def test_a_log_is_of_one_process_and_one_head(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with opened(path, {"on": {"threads": 1}}) as log:
        log.add({"row": "a"})
        with pytest.raises(ConflictError, match="another process"), opened(path, {"on": {"threads": 1}}):
            pass
    with opened(path, {"on": {"threads": 1}}) as log:
        assert log.entries == [{"row": "a"}]
    with pytest.raises(ConflictError, match="threads: 1 there, 4 here"), opened(path, {"on": {"threads": 4}}):
        pass


def test_what_cannot_be_measured_is_refused(toy: Path, tmp_path: Path) -> None:
    path = nas.write(tmp_path / "c.yaml", nas.tiny(toy))
    out = ("--out", str(tmp_path / "t.json"))
    assert "this machine has no such device" in bad("latency", path, "--device", "cuda:77", *out)
    assert "There is cpu" in bad("latency", path, "--device", "cuda:77", *out)
    assert "at least two for each input shape (4), not 3" in bad(
        "latency", path, "--device", "cpu", "--nets", "3", *out
    )
    (tmp_path / "t.json").write_text("{}")
    assert "no latency table" in bad("latency", path, "--device", "cpu", "--runtime", "eager", *out)
    assert device_at("cpu") == CPU


@pytest.mark.slow
def test_whole_networks_of_onnxruntime_are_whole(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, out = tiny_of_one(toy, tmp_path), tmp_path / "t.json"
    assert "from pixels to what is found" in good("latency", path, "--device", "cpu", "--nets", "2", "--out", str(out))
    body = json.loads(out.read_text())
    (_, rest), *_ = body["rest"]
    assert body["on"]["runtime"] == "onnxruntime" and rest > 0  # proposals, RoIAlign and NMS are no rows


# ---- a meter like any other


@pytest.fixture
def metered(toy: Path, tmp_path: Path) -> str:
    """A config with a table of made-up times."""
    body = {**nas.tiny(toy), "meters": {"ms": str(tmp_path / "t.json")}}
    body["model"]["num_classes"] = 3
    path = nas.write(tmp_path / "metered.yaml", body)
    table_of(config.load(path), tmp_path / "t.json")
    return path


def test_flops_tell_ms_and_rules_pick_by_it(metered: str, tmp_path: Path) -> None:
    recipe = config.load(metered)
    plans, table = plan_of(recipe), tables_of(recipe)["ms"]
    good("flops", metered, "--out", tmp_path / "all.jsonl")
    records = lines(tmp_path / "all.jsonl")
    assert len(records) == recipe.space.points()
    for record in records[::37]:
        arch, shape = Arch.of(record["arch"]), record["data"]["input_shape"]
        assert record["overhead"]["ms"] == round(price(plans, arch, shape, table).flops, 4)
        assert record["overhead"]["ms_on"] == table.text()
    good("flops", metered, "--out", tmp_path / "some.jsonl", "--sample", "3", "--parts")
    for record in lines(tmp_path / "some.jsonl"):
        parts = record["overhead"]["parts"]
        assert sum(part["ms"] for part in parts.values()) == pytest.approx(record["overhead"]["ms"], abs=1e-3)
    limit = sorted(record["overhead"]["ms"] for record in records)[9]
    (tmp_path / "r.yaml").write_text(f"- where: ms <= {limit}\n- {{type: sample, operation: top, key: ms, value: 3}}\n")
    good("select", tmp_path / "all.jsonl", "--rules", tmp_path / "r.yaml", "--out", tmp_path / "picked.jsonl")
    picked = lines(tmp_path / "picked.jsonl")
    assert len(picked) == 3 and all(record["overhead"]["ms"] <= limit for record in picked)
    asked = ("flops", metered, "--out", tmp_path / "in.jsonl", "--sample", "4", "--range", "0", f"{limit}")
    good(*asked, "--meter", "ms", "--png", tmp_path / "ms.png")
    within = lines(tmp_path / "in.jsonl")
    assert len(within) == 4 and all(record["overhead"]["ms"] <= limit for record in within)
    assert (tmp_path / "ms.png").stat().st_size > 5000
    good(*asked[:-1], "1M", "--meter", "params", "--png", tmp_path / "params.png")
    assert all(record["overhead"]["params"] <= 1e6 for record in lines(tmp_path / "in.jsonl"))
    slow = bad(*asked[:-2], "900", "901", "--meter", "ms")
    assert "no point of the space costs 900 to 901 ms; its archs cost " in slow
    assert "--meter: there is no meter 'mss' (did you mean ms?)" in bad(*asked, "--meter", "mss")
    assert "--beside gaia" in bad(*asked, "--meter", "gaia", "--png", tmp_path / "no.png")
    assert "of which neither is given" in bad("flops", metered, "--out", tmp_path / "o.jsonl", "--meter", "ms")


def test_a_search_may_name_ms(metered: str, tmp_path: Path) -> None:
    recipe = config.load(metered)
    tables = tables_of(recipe)
    knobs = [knob.name for knob in recipe.space.knobs()]
    assert search.numeric(["ms <= 9"], knobs, recipe.space, 48, tables) == (["ms <= 9"], ["ms"])
    with pytest.raises(UsageError, match=r"there is no 'mss' .did you mean ms"):
        search.numeric(["mss <= 9"], knobs, recipe.space, 48, tables)
    with pytest.raises(UsageError, match="there is no 'ms'"):
        search.numeric(["ms <= 9"], knobs, recipe.space, 48)
    sample = search.sample_record(recipe, "direct", 48, ["bbox_mAP"])
    assert search.objectives(["bbox_mAP", "ms"], "nsga2", ["bbox_mAP"], sample) == [("bbox_mAP", "max"), ("ms", "min")]
    assert search.value_of({"overhead": {"ms": 3.5}}, "ms", "direct") == 3.5
    plan = search.Plan("random", {}, (("ms", "min"),), ("ms <= 9",), (48,), "val", 0, "direct", (), "", {})
    search.save(str(tmp_path), plan, search.Here(metered, "none", str(tmp_path)))
    measure = score.measures(str(tmp_path / search.PLAN), ["ms", "overhead.ms", "macs"])
    arch = recipe.space.minimum()
    found = measure(recipe.space.values_of(arch))
    expected = round(price(plan_of(recipe), arch, 48, tables["ms"]).flops, 4)
    assert found == {"ms": expected, "overhead.ms": expected, "macs": price(plan_of(recipe), arch, 48).flops}
    assert "meters.ms" in search.digests(recipe, False, tables) and "meters.ms" not in search.digests(recipe, False)


@pytest.mark.slow
def test_a_search_by_ms_keeps_to_it(trained: nas.Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    path = nas.write(tmp_path / "c.yaml", {**body, "meters": {"ms": str(tmp_path / "t.json")}})
    recipe = config.load(path)
    classes = replace(recipe, model=replace(recipe.model, num_classes=3))
    table_of(classes, tmp_path / "t.json")
    times = [
        t[0]
        for _, t, _ in price_archs(
            plan_of(classes), recipe.space.enumerate(), (48,), read_table(str(tmp_path / "t.json"))
        )
    ]
    limit = sorted(times)[len(times) // 3]
    how = ("--checkpoint", trained.checkpoint, "--device", "cpu", "--algorithm", "nsga2", "--population", "3")
    asked = ("--objective", "bbox_mAP", "--objective", "ms", "--constraint", f"ms <= {limit}", "--evaluations", "4")
    done = nas.call_in(tmp_path, nas.environment(), "search", path, *how, *asked)
    assert done.code == 0, done.both
    assert "summed by table" not in done.out and "a processor" in done.err
    records = lines(tmp_path / "search/results.jsonl")
    assert len(records) == 4 and all(record["overhead"]["ms"] <= limit for record in records)
    assert len(suite.show(tmp_path / "search", "search")["jobs"]) == 4


def test_what_speaks_against_a_table_is_said(metered: str, tmp_path: Path) -> None:
    recipe = config.load(metered)
    told = "\n".join(said_of(recipe, tables_of(recipe)))
    assert "no whole network was measured" in told and "measured for another `model`" in told
    assert "the table is of another machine" in told


def test_tables_and_names_with_faults(metered: str, toy: Path, tmp_path: Path) -> None:
    body = json.loads((tmp_path / "t.json").read_text())
    lost = body["rows"].pop()
    (tmp_path / "t.json").write_text(json.dumps(body))
    told = bad("flops", metered, "--out", tmp_path / "o.jsonl")
    assert f"has no row `{lost['row']}` at {lost['at'][0]} x {lost['at'][1]}" in told and "search-nas latency" in told
    for text, fault in (
        ("{", "cut short, or no JSON"),
        ("{}", "its `format` is not"),
        (json.dumps({"format": FORMAT}), "KeyError"),
    ):
        (tmp_path / "t.json").write_text(text)
        assert fault in bad("flops", metered, "--out", tmp_path / "o.jsonl")
    os.unlink(tmp_path / "t.json")
    assert "meters.ms: can't read the latency table" in bad("flops", metered, "--out", tmp_path / "o.jsonl")
    good("space", metered)  # a table that is still to be measured is no fault of the config
    for name in ("macs", "flops", "Ms", "ms_on"):
        path = nas.write(tmp_path / "bad.yaml", {**nas.tiny(toy), "meters": {name: "t.json"}})
        assert f"meters: the name '{name}'" in bad("space", path)
