"""The candidates of a report: detectors that were trained and scored, each a record with its role."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from searchkit import console
from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.shapes import shape_text
from searchkit.records import modelspace
from searchkit.records.arch import Arch

ROLES = {"subnet": "of the search", "plain": "plain", "pretrained": "pretrained"}
FILE = "candidate.jsonl"  # what is looked for in a folder
DETECTIONS = "found.json"  # beside a file of records: what its candidate finds, as search-nas test --detections writes
INT8 = "onnx-int8"  # the exported form of 8 bits
MODEL = "model"  # likewise, the extracted folder
CHOSEN_BY = ("val", "tuned", "finetune", "direct")  # tags of scores that a choice may be made by, the best first
SHOWN_BY = ("test", *CHOSEN_BY)  # tags of scores that are shown


@dataclass(frozen=True, eq=False)
class Candidate:
    """One detector."""

    name: str
    role: str  # of ROLES
    record: Mapping[str, Any]
    path: str  # of the file that the record is in

    @property
    def macs(self) -> float | None:
        return _number(self.record.get("overhead", {}).get("flops"))

    @property
    def params(self) -> float | None:
        return _number(self.record.get("overhead", {}).get("params"))

    @property
    def ms(self) -> float | None:
        """Of one image, fp32: of the exported file, or else of the network in PyTorch."""
        exported = self.form("onnx").get("ms")
        return _number(self.record.get("overhead", {}).get("ms") if exported is None else exported)

    def cost(self, meter: str) -> float | None:
        """What it costs by a meter: macs, ms, ms_int8, or what records have in `overhead`, such as ms_cuda0."""
        known = {"macs": self.macs, "ms": self.ms, "ms_int8": self.ms_int8}
        return known[meter] if meter in known else _number(self.record.get("overhead", {}).get(meter))

    @property
    def ms_int8(self) -> float | None:
        """Of one image, of the exported file of 8 bits."""
        return _number(self.form(INT8).get("ms"))

    @property
    def machine(self) -> str:
        """That its time is of; empty where it was not timed."""
        exported = self.form("onnx")
        if "ms" in exported:
            threads = console.counted(int(exported.get("threads", 1)), "thread")
            return f"{exported.get('device', 'cpu')}, {threads}, onnxruntime"
        return str(self.record.get("overhead", {}).get("ms_on", ""))

    @property
    def input(self) -> str:
        shape = self.record.get("data", {}).get("input_shape")
        return "" if shape is None else shape_text(modelspace.edge(shape))

    @property
    def arch(self) -> str:
        return Arch.of(self.record["arch"]).id if "arch" in self.record else ""

    def form(self, name: str) -> Mapping[str, Any]:
        """What is known of an exported file (onnx, onnx-int8), of the record or of the proof in its model's folder: its
        bytes, ms, threads, device, and its scores without the data's name."""
        of_record = self.record.get("files", {}).get(name)
        known: Mapping[str, Any] = of_record or self._proof.get("files", {}).get(name, {})
        return {**known, **_plain(known.get("score", {})), **_plain(known)}

    @cached_property
    def _proof(self) -> Mapping[str, Any]:
        path = self.beside(os.path.join(MODEL, "proof.json"))
        if path is None:
            return {}
        with open(path, encoding="utf-8") as file:
            proof: dict[str, Any] = json.load(file)
        return proof

    def tag(self, tags: Iterable[str]) -> str:
        """The first of these tags that the record has a score of; else any; empty where it has none."""
        scored = self.record.get("metric", {})
        return next((tag for tag in (*tags, *scored) if scored.get(tag)), "")

    def scores(self, tag: str) -> dict[str, float]:
        """The scores of a tag, without the prefix that the data's name is: bbox_mAP, bbox_AP/circle …"""
        return _plain(self.record.get("metric", {}).get(tag, {}))

    @property
    def ap(self) -> float | None:
        """The AP that is shown."""
        return self.scores(self.tag(SHOWN_BY)).get("bbox_mAP")

    @property
    def worth(self) -> float | None:
        """The AP that choices are made by."""
        return self.scores(self.tag(CHOSEN_BY)).get("bbox_mAP")

    @property
    def split(self) -> str:
        """That the shown AP is of."""
        return self.split_of(self.tag(SHOWN_BY))

    def split_of(self, tag: str) -> str:
        """That the scores of a tag are of; empty where it is not known."""
        return str(self.record.get("protocol", {}).get(tag, {}).get("split", ""))

    def beside(self, name: str) -> str | None:
        """A file or folder beside the record's, if it is there."""
        path = os.path.join(os.path.dirname(self.path), name)
        return path if os.path.exists(path) else None

    def detections(self) -> list[dict[str, Any]] | None:
        """What it finds on the images that the shown AP is of, as COCO's results; None where nobody kept that."""
        path = self.beside(DETECTIONS)
        if path is None:
            return None
        try:
            with open(path, encoding="utf-8") as file:
                rows: Any = json.load(file)
        except ValueError as e:
            raise UsageError(f"{path} is no JSON: {e}", _DETECTED) from e
        if not isinstance(rows, list) or not all(map(_is_detection, rows)):
            what = "a list" if not isinstance(rows, list) else "image_id, category_id, bbox and score in each item"
            raise UsageError(f"{path} must have {what}, as COCO's results do", _DETECTED)
        return rows


_DETECTED = "It must be what search-nas test --detections writes"


def _is_detection(row: Any) -> bool:
    if not isinstance(row, dict) or not {"image_id", "category_id"} <= row.keys():
        return False
    box = row.get("bbox")
    numbers = [*box, row.get("score")] if isinstance(box, list) else []
    return len(numbers) == 5 and all(_number(value) is not None for value in numbers)


def _plain(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores of boxes without what stands in front of their names."""
    numbers = {name: value for name, value in scores.items() if "bbox_" in name and isinstance(value, int | float)}
    return {name[name.index("bbox_") :]: float(value) for name, value in numbers.items()}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass
class Read:
    """What was read, and what was not there."""

    candidates: list[Candidate] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_candidates(given: Sequence[str]) -> Read:
    """The candidates of files and folders of records, each `FILE` or `ROLE=FILE`: the role of records that name none.
    Of a folder all files candidate.jsonl in it; of several attempts of a job the newest."""
    out = Read()
    named: dict[str, int] = {}
    for text in given:
        role, equals, path = text.partition("=")
        if not equals or role not in ROLES:
            if equals and not os.path.exists(text) and re.fullmatch(r"\w+", role):
                raise UsageError(
                    f"there is no role {role!r}{did_you_mean(role, tuple(ROLES))}", "Give ROLE=FILE, or FILE"
                )
            role, path = "subnet", text
        files = _files(path)
        if not files:
            out.missing.append(f"records: {path} ({'nothing in it' if os.path.isdir(path) else 'no such file'})")
        for file in files:
            for record in modelspace.load(file):
                nested = modelspace.fold(modelspace.flatten(record)) if any("." in key for key in record) else record
                kind = str(nested.get("role", role))
                named[kind] = named.get(kind, 0) + 1
                name = str(nested.get("name") or "")
                if not name or name in ("MAX", "MIN"):
                    name = f"{kind} {named[kind]}" if kind == "subnet" else kind
                out.candidates.append(Candidate(_unique(name, out.candidates), kind, nested, file))
    return out


def _unique(name: str, there: Sequence[Candidate]) -> str:
    taken = {each.name for each in there}
    names = (name, *(f"{name} ({i})" for i in range(2, len(there) + 3)))
    return next(each for each in names if each not in taken)


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        return []
    newest: dict[str, str] = {}
    for file in sorted(glob.glob(os.path.join(glob.escape(path), "**", FILE), recursive=True), key=_times):
        newest[os.path.relpath(file, path).split(os.sep)[0]] = file
    return [newest[key] for key in sorted(newest, key=lambda key: (len(key), key))]


def _times(file: str) -> tuple[float, float]:
    """When a file was written, and the detections beside it: one that survives attempts is linked from their folders,
    where its detections are."""
    beside = os.path.join(os.path.dirname(file), DETECTIONS)
    return os.path.getmtime(file), os.path.getmtime(beside) if os.path.exists(beside) else 0.0


def recommended(candidates: Sequence[Candidate], budget: float, meter: str) -> Candidate | None:
    """The best within a budget (meter: see `cost`) by the AP that choices are made by; of equals the cheapest."""
    within = [(c, c.cost(meter)) for c in candidates if c.worth is not None]
    fitting = [(c, cost) for c, cost in within if cost is not None and cost <= budget]
    if not fitting:
        return None
    return min(fitting, key=lambda pair: (-(pair[0].worth or 0.0), pair[1]))[0]
