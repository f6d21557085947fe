"""The subnet that extract and predict are asked for: its arch, its record, its batch-norm statistics."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.cli.options import input_shape_of
from searchkit.records import modelspace


@dataclass(frozen=True)
class Chosen:
    """An arch at an input shape, and the record that named it, if one did."""

    arch: Any
    shape: Any
    record: Mapping[str, Any] | None = None
    records: str | None = None  # the file of the record
    tag: str | None = None  # of the metric by which the record was chosen


def choose(text: str | None, metric: str | None, recipe: Any, source: Any, shape: str | None) -> Chosen:
    """What --arch, --metric and --input say; source: the opened checkpoint. Raises UsageError for what it lacks."""
    arch, record = _arch(text, metric, recipe, source)
    if faults := recipe.space.faults(arch):
        raise UsageError(f"--arch: {'; '.join(faults)}", "Take an arch of this config's space")
    if record is None or text is None:
        return Chosen(arch, _shape(shape) if shape else source.input_shape or recipe.scales[0])
    from searchkit.nas.subnet.records import shape_of

    own = shape_of(record, recipe) if "data" in record else source.input_shape or recipe.scales[0]
    tag = metric.split(".")[1] if metric and metric.count(".") > 1 else None
    return Chosen(arch, _shape(shape) if shape else own, record, text, tag)


def statistics_of(recipe: Any, source: Any, chosen: Chosen, *, raw: bool, calibrate: bool, seed: int) -> Any:
    """(the batch-norm statistics that the subnet gets, the score of its record that was measured with them or None)."""
    from searchkit.nas.subnet import statistics

    score, why = None, "there is no record of a score"
    if chosen.record is not None:
        score, why = statistics.score_of(chosen.record, source.sha256, source.protocol, chosen.shape, chosen.tag)
    given = statistics.statistics_of(
        recipe,
        score,
        why,
        alone=source.alone,
        raw=raw,
        again=calibrate,
        seed=seed,
        records=chosen.records,
    )
    return given, None if raw or calibrate else score


def said_of(statistics: Mapping[str, Any], images: int) -> str:
    """One line for people about the statistics of a network, as a proof has them."""
    origin = {
        "calibrated": f"calibrated on {images} training images",
        "raw": "raw, as the checkpoint has them",
        "own": "those of its own training",
    }[statistics["kind"]]
    note = f"; {statistics['note']}" if "note" in statistics else ""
    return f"batch-norm statistics: {origin} ({statistics['why']}{note})"


def _arch(text: str | None, metric: str | None, recipe: Any, source: Any) -> tuple[Any, dict[str, Any] | None]:
    """(arch, its record or None)."""
    from searchkit.records.arch import Arch

    if text is None:
        if source.maximum != recipe.supernet.maximum() or recipe.space.count() == 1:
            return source.maximum, None  # of a tuned subnet, or the only one
        raise UsageError("no arch given", f"--arch takes a name ({', '.join(recipe.space.names())}), JSON, or a file")
    if text.lstrip().startswith("{"):
        try:
            return Arch.of(json.loads(text)), None
        except json.JSONDecodeError as e:
            raise UsageError(f"--arch is no JSON: {e}") from e
    if not os.path.exists(text):
        return recipe.space.named(text), None
    record = _record(text, metric)
    return Arch.of(record["arch"]), record


def _record(path: str, metric: str | None) -> dict[str, Any]:
    """The record of a file with most of a metric, or the first."""
    from searchkit.nas.cli.records import read

    records = read(path)
    if metric:
        flat = [modelspace.flatten(r) for r in records]
        scored = [(f[metric], -i) for i, f in enumerate(flat) if isinstance(f.get(metric), int | float)]
        if not scored:
            names = sorted({name for f in flat for name in f if name.startswith("metric.")})
            raise UsageError(
                f"--metric: no record of {path} has {metric}", f"There are {', '.join(names[:12]) or 'none'}"
            )
        records = [records[-max(scored)[1]]]
    if not records or "arch" not in records[0]:
        raise UsageError(f"{path} has no record with an arch")
    return records[0]


def _shape(text: str) -> Any:
    """What --input says; H,W is what it says where both are equal, too."""
    input_shape_of(text)
    return int(text) if text.strip().isdecimal() else modelspace.image_size(text)
