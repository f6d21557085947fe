"""Random points of a space within a range of cost: what is drawn, what is said of a range that nothing is in."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from searchkit.errors import UsageError
from searchkit.nas.cost.sample import Range
from tests.support.nas import bad, good, lines, tiny, write


def test_points_within_a_range(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "cfg.yaml", tiny(toy))
    monkeypatch.chdir(tmp_path)
    good("flops", path, "--out", "all.jsonl")
    costs = sorted(record["overhead"]["flops"] for record in lines("all.jsonl"))
    low, high = costs[len(costs) // 3], costs[len(costs) // 2]
    asked = ("flops", path, "--sample", "5", "--range", str(low), f"{high / 1e6}M", "--out")
    assert "5 records" in good(*asked, "some.jsonl", "--png", "some.png") and Path("some.png").stat().st_size > 5000
    found = lines("some.jsonl")
    assert all(low <= record["overhead"]["flops"] <= high for record in found)
    assert len({json.dumps([record["arch"], record["data"]]) for record in found}) == 5
    good(*asked, "again.jsonl", "--parts")
    again = lines("again.jsonl")
    parts = [record["overhead"].pop("parts") for record in again]
    assert again == found
    assert [sum(cost["flops"] for cost in each.values()) for each in parts] == [r["overhead"]["flops"] for r in found]
    assert "--parts needs --sample N or --records FILE" in bad("flops", path, "--parts", "--out", "none.jsonl")
    # what can't be reached: by each input shape, and never an endless loop
    text = bad("flops", path, "--sample", "5", "--range", "200G", "400G", "--out", "none.jsonl")
    assert "--range: no point of the space costs 200G to 400G; its archs cost " in text
    shapes = {shape: [r["overhead"]["flops"] for r in lines("all.jsonl") if r["data"]["input_shape"] == shape]
              for shape in (48, 64)}  # fmt: skip
    for shape, those in shapes.items():
        assert f"{min(those):,} to {max(those):,} at {shape}" in text
    gap = next((a + 1, b - 1) for a, b in pairwise(costs) if b - a > 2)
    text = bad("flops", path, "--sample", "2", "--range", *map(str, gap), "--out", "none.jsonl")
    assert "none of 1,000 random points costs" in text and not Path("none.jsonl").exists()
    assert "--range needs --sample N" in bad("flops", path, "--range", "1G", "2G", "--out", "none.jsonl")


def test_the_range_of_bignas_documentation_is_not_reached(tmp_path: Path) -> None:
    """flops_range: ['200G', '400G'] for a supernet whose largest subnet has 161.6 G: BigNAS draws for ever."""
    path = Path(__file__).parents[3] / "templates" / "det" / "retinanet_bignas_r18.yaml"
    text = bad("flops", path, "--sample", "100", "--range", "200G", "400G", "--out", tmp_path / "none.jsonl")
    assert "costs 200G to 400G; its archs cost 37,358,447,616 to 161,580,865,536 at 768x1344" in text


def test_ranges_are_two_numbers() -> None:
    assert Range.of(("1.5M", "2e9")) == Range(1.5e6, 2e9, "1.5M to 2e9")
    for texts, what in (
        (("2G", "1G"), "2G is above 1G"),
        (("macs", "1G"), "'macs' is no number"),
        (("1", "'a'"), "no num"),
    ):
        with pytest.raises(UsageError, match=what):
            Range.of(texts)
