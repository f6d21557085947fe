"""search-nas report: what its page says, and that it says it by itself."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.errors import UsageError
from searchkit.nas.data.coco import load_coco
from searchkit.nas.data.coco_eval import Evaluator
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.report import bootstrap, candidates, figures, verdict
from tests.support.nas import bad, good, tiny, write

NAME = '<b>"A & B"</b> $x_'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Page(HTMLParser):
    """What a page fetches, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        self.open += [] if tag in ("meta", "link", "img") else [tag]
        assert tag not in ("script", "iframe", "object", "b")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def record(ap: float, macs: float, **more: Any) -> dict[str, Any]:
    scores = {"toy_bbox_mAP": ap, "toy_bbox_mAP_50": ap + 0.2, "toy_bbox_AP/circle <i>": ap, "toy_bbox_AP/square": -1.0}
    return {
        "arch": {"backbone": {"stem": {"width": int(macs) % 97}}},
        "data": {"input_shape": [64, 96]},
        "overhead": {"flops": macs, "params": 1e6, "convention": "macs", "ms": macs / 1e7, "ms_on": "cpu, 1 thread"},
        "metric": {"val": {"toy_bbox_mAP": ap + 0.01}, "test": scores},
        "protocol": {"val": {"split": "val"}, "test": {"split": "test", "checkpoint": "ab" * 32}},
        **more,
    }


def records(path: str, *some: dict[str, Any]) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(each) + "\n" for each in some))
    return path


def made(*argv: str) -> Page:
    good("report", *argv, "--out", "report.html")
    text = Path("report.html").read_text()
    page = Page(text)
    assert not page.open and all(value.startswith("data:") for value in page.fetched)
    assert not re.search(r"url\(|@import|https?://", text)
    return page


def test_every_record_is_in_the_table_and_the_best_within_the_budget_is_recommended() -> None:
    int8 = {
        "files": {
            "onnx": {"bytes": 4_000_000, "ms": 7.5},
            "onnx-int8": {"bytes": 1_000_000, "ms": 3.25, "bbox_mAP": 0.37},
        }
    }
    some = [record(0.4, 1.9e9, name=NAME), record(0.38, 0.9e9, **int8), record(0.5, 3e9, role="subnet")]
    page = made(records("s.jsonl", *some), "plain=" + records("p.jsonl", record(0.35, 1.8e9, name="MAX")),
                "--budget", "2 GMACs", "--budget", "1 GMACs", "--png", "r.png")  # fmt: skip
    words = "\n".join(page.words)
    for name in (NAME, "subnet 2", "subnet 3", "plain", "circle <i>", "3.2", "0.370", "4.0", "7.5"):
        assert name in page.words or name in words, name
    assert f"For 2 GMACs on cpu, 1 thread: {NAME} (subnet), 1.9 GMACs, 190.0 ms; AP 0.400 on test" in words
    assert "For 1 GMACs on cpu, 1 thread: subnet 2 (subnet)" in words
    assert (
        words.count("With layers of 8 bits") == 1 and "With layers of 8 bits it has 3.2 ms, AP 0.370 on test." in words
    )
    alone = "\n".join(made("plain=p.jsonl").words)
    assert "For any budget on cpu, 1 thread: plain, 1.8 GMACs" in alone
    assert (
        f"{NAME} (1.9 GMACs) has AP 0.400, plain (1.8 GMACs) 0.350: a difference of +0.050, whose spread is not known"
        in words
    )
    assert Path("r.png").stat().st_size > 10_000


def test_each_device_has_its_own_recommendation() -> None:
    def timed(ap: float, macs: float, cpu: float, gpu: float, **more: Any) -> dict[str, Any]:
        each = record(ap, macs, **more)
        return {**each, "overhead": {**each["overhead"], "ms_cpu": cpu, "ms_cuda0": gpu}}

    some = [timed(0.4, 1.9e9, 40.0, 3.0, name="wide"), timed(0.3, 0.9e9, 14.0, 2.5), timed(0.2, 0.5e9, 9.0, 9.0)]
    page = made(records("s.jsonl", *some), "--budget", "cpu:15 ms", "--budget", "cuda:0:3 ms", "--budget", "cpu:5 ms")
    words = "\n".join(page.words)
    assert "For 15 ms on cpu: subnet 2 (subnet), 900 MMACs, 14.0 ms; AP 0.300 on test" in words
    assert "For 3 ms on cuda:0: wide (subnet), 1.9 GMACs, 3.0 ms; AP 0.400 on test" in words
    assert "For 5 ms on cpu: no candidate is within it" in words and "The nearest is subnet 3, 9.0 ms." in words
    assert all(text in words for text in ("ms of one image on cpu", "ms of one image on cuda:0", "ms cuda:0"))


def test_within_a_time_the_file_of_8_bits_may_be_that_of_a_larger_network() -> None:
    def timed(ap: float, macs: float, ms: float, int8_ms: float) -> dict[str, Any]:
        forms = {"onnx": {"ms": ms}, "onnx-int8": {"ms": int8_ms, "bbox_mAP": ap - 0.01}}
        return record(ap, macs, files=forms)

    some = [timed(0.3, 1e8, 9.0, 6.0), timed(0.4, 2e8, 15.0, 9.5), timed(0.5, 4e8, 29.0, 18.0)]
    words = "\n".join(made(records("s.jsonl", *some), "--budget", "10 ms", "--budget", "5 ms", "--png", "r.png").words)
    line = next(line for line in words.splitlines() if line.startswith("For 10 ms"))
    assert "subnet 1 (subnet), 100 MMACs, 9.0 ms" in line
    assert "With layers of 8 bits subnet 2 has 9.5 ms, AP 0.390 on test." in line
    assert words.count("With layers of 8 bits") == 1


def test_what_is_missing_is_said() -> None:
    words = "\n".join(made("nowhere.jsonl", "--trust", "none.json", "--task", "det").words)
    for item in ("nowhere.jsonl", "candidates", "a baseline", "none.json", "without --config", "no candidate has both"):
        assert item in words
    words = "\n".join(
        made(records("half.jsonl", {"arch": {"a": 1}}, {"metric": {"direct": {"toy_bbox_mAP": 0.1}}})).words
    )
    assert "subnet 1" in words and "subnet 2" in words and "int8" in words
    assert "must be an .html file" in bad("report", "half.jsonl", "--out", "report.pdf")
    assert "there is no role 'plian' (did you mean plain?)" in bad("report", "plian=half.jsonl", "--out", "report.html")
    said = bad("report", records("one.jsonl", record(0.1, 1e9)), "--out", "report.html", "--png", "report.txt")
    assert "can't write the picture report.txt: Format 'txt' is not supported" in said
    Path("torn.jsonl").write_text('{"arch": {\n')
    assert "torn.jsonl:1" in bad("report", "torn.jsonl", "--out", "report.html")


def test_folders_are_searched_and_the_newest_attempt_counts(tmp_path: Path) -> None:
    records("jobs/0/proj/candidate.jsonl", record(0.1, 1e9))
    records("jobs/0/attempt-2/proj/candidate.jsonl", record(0.2, 1e9))
    records("jobs/10/proj/candidate.jsonl", record(0.3, 1e9))
    records("jobs/2/proj/candidate.jsonl", record(0.4, 1e9))
    found = candidates.read_candidates(["jobs"]).candidates
    assert [each.ap for each in found] == [0.2, 0.4, 0.3]
    # a file that survives attempts is linked from the folders that hold its detections
    records("kept/0/checkpoint/candidate.jsonl", record(0.1, 1e9))
    for place, time in (("proj", 100), ("attempt-2/proj", 200)):
        (folder := tmp_path / "kept/0" / place).mkdir(parents=True)
        (folder / "candidate.jsonl").symlink_to(tmp_path / "kept/0/checkpoint/candidate.jsonl")
        (folder / "found.json").write_text("[]")
        os.utime(folder / "found.json", (time, time))
    (kept,) = candidates.read_candidates(["kept"]).candidates
    assert kept.path == "kept/0/attempt-2/proj/candidate.jsonl" and kept.detections() == []
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    for broken in ({"a": 1}, ["a"], [{**row, "bbox": [1, 2, 3]}], [{**row, "score": "x"}], [row, {"image_id": 1}]):
        Path(kept.path).with_name("found.json").write_text(json.dumps(broken))
        with pytest.raises(UsageError, match=r"found.json must have (a list|image_id, .* in each item), as COCO's"):
            kept.detections()


def test_boxes_spreads_and_the_verdict_are_of_the_detections(tmp_path: Path) -> None:
    toy = Path(make_toy_det(str(tmp_path / "toy"), images={"train": 2, "val": 24, "test": 2}, size=(64, 64)))
    config = write(tmp_path / "net.yaml", tiny(toy))
    data = load_coco(str(toy / "annotations/instances_val.json"), str(toy / "images"))
    rng, aps = np.random.default_rng(0), {}
    for name, noise in (("good", 1.0), ("bad", 4.0)):
        rows = []
        for image in data.images:
            moved = image.boxes + rng.normal(0, noise, image.boxes.shape)
            for (x0, y0, x1, y1), label in zip(moved.tolist(), image.labels, strict=True):
                bbox = [x0, y0, max(1.0, x1 - x0), max(1.0, y1 - y0)]
                rows.append({"image_id": image.file_id, "category_id": data.categories[label - 1][0], "bbox": bbox,
                             "score": float(rng.uniform(0.3, 1))})  # fmt: skip
        Path(name).mkdir()
        (Path(name) / "found.json").write_text(json.dumps(rows))
        predictions = {
            image.id: {
                "boxes": [[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (r["bbox"] for r in of_it)],
                "scores": [r["score"] for r in of_it],
                "labels": [[n for n, _ in data.categories].index(r["category_id"]) + 1 for r in of_it],
            }
            for image in data.images
            if (of_it := [r for r in rows if r["image_id"] == image.file_id])
        }
        aps[name] = Evaluator(data).evaluate(predictions)["bbox_mAP"]
        matches = bootstrap.matches_of(Evaluator(data, "pycocotools").matches(predictions))
        assert bootstrap.ap(matches, np.ones(24)) == pytest.approx(aps[name], abs=1e-9)
        records(f"{name}/candidate.jsonl", record(aps[name], 1e9))
        twice = bootstrap.spread_of(matches, matches, 24, n=20)
        assert (twice.value, twice.low, twice.high) == (0, 0, 0)
    page = made("good", "plain=bad", "--config", config, "--split", "val", "--budget", "2G")
    words = "\n".join(page.words)
    assert "the search paid" in words and f"{aps['good']:.3f}" in words
    assert len([uri for uri in page.fetched if uri.startswith("data:image/jpeg")]) == 3 * 8
    assert Path("report.html").stat().st_size < 5e6
    other = "\n".join(made("bad", "plain=good", "--config", config, "--split", "val").words)
    assert "the search did not pay" in other
    same = "\n".join(made("good", "plain=good", "--config", config, "--split", "val").words)
    assert "It can't be told whether the search paid: so much may be chance" in same
    some = "\n".join(made("good", "plain=bad", "--config", config, "--split", "val", "--budget", "0.5G").words)
    assert "the search paid" not in some and "no candidate is within it" in some
    assert "to be chosen by. The nearest is subnet 1, 1 GMACs." in some
    records("good/candidate.jsonl", record(0.02, 1e9))
    records("bad/candidate.jsonl", record(0.01, 1e9))
    low = "\n".join(made("good", "plain=bad", "--config", config, "--split", "val", "--budget", "2G").words)
    assert "It can't be told whether the search paid: subnet 1 and plain have hardly learnt anything" in low
    assert "the best there is, but no recommendation: subnet 1 has hardly learnt anything" in low


def test_the_search_is_not_held_against_what_costs_more_nor_praised_for_few_images() -> None:
    own = candidates.Candidate("own", "subnet", record(0.5, 1e9), "")
    other = candidates.Candidate("other", "plain", record(0.3, 3e9), "")

    def matches(hit: bool, n: int) -> list[bootstrap.Matches]:
        every = np.ones((len(bootstrap.IOUS), n), bool)
        return [bootstrap.Matches(np.arange(n), every & hit, every, np.ones(n))]

    def said(most: float, better: bool = True, n: int = 16) -> str:
        pair = matches(better, n), matches(not better, n)
        return verdict.verdict(own, other, pair, n, (most, "macs", "so much"), 0)

    assert said(4e9).endswith(": the search paid.") and said(4e9, False).endswith(": the search did not pay.")
    assert "other (3 GMACs, more than so much)" in said(2e9) and said(2e9, False).endswith(": it is worse.")
    assert "whether the search paid: so few images" in said(4e9, n=14)
    unknown = verdict.verdict(own, other, None, 0, (4e9, "macs", "so much"), 0)
    assert unknown.endswith("whose spread is not known, so it can't be told whether the search paid.")
    of_val = {**own.record, "protocol": {"val": {"split": "val"}, "test": {"split": "val"}}}
    own = candidates.Candidate("own", "subnet", of_val, "")
    assert "which favours it" in said(4e9)


def test_names_of_points_cover_neither_each_other_nor_marks() -> None:
    crowd = [figures.Point(55 + i / 10, 0.3 + i / 900, "subnet", f"subnet {i}") for i in range(4)]
    some = [*crowd, figures.Point(60, 0.5, "plain", "plain"), figures.Point(40, 0.1, "subnet", "a longer name")]
    axes = figures.Axes.of(some, [(60, "60 MMACs")])
    boxes = [place.box(axes.at(p.x, p.y), p.name) for p, place in axes.places(some, [(60, "60 MMACs")])]
    left, top, right, bottom = figures.FRAME
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        assert left <= x0 < x1 <= right and top <= y0 < y1 <= bottom
        assert all(x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0 for a0, b0, a1, b1 in boxes[:i])


def test_ticks_are_round_and_figures_hold_one_point() -> None:
    assert figures.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert figures.svg([figures.Point(1, 0.5, "plain", NAME)], "x", "y").count("<rect") == 2
