"""The time of a network on a device as a sum: a table of what each row takes at each size, measured there once.

searchkit.nas.latency measures tables and writes them. A table is one more way to count, beside the conventions of
rules.py: price.py sums over the same rows of the same plans. No torch.

A table is a JSON file: what it was measured on (`on`), for which model (`model`), a time for each row at each size of
its input (`rows`), what is no row, for each input shape (`rest`), a correction of the rows where sums need one, and how
far the sums are off from whole networks (`check`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

from searchkit.console import counted
from searchkit.errors import UsageError
from searchkit.nas.cost.rules import RowCost, Sizes, row_cost
from searchkit.nas.models.plan import Layer, Row

FORMAT = "searchkit latency 1"
SUMMED = "summed by table"
FEW = 5  # whole networks that judge sums; with fewer nothing is said of how far these are off
DIGITS = 4  # of a sum in ms: a tenth of a microsecond
# What a layer is told by beside its kind and its widths, where it is not the default.
_SIGNS = {"kernel": "k", "stride": "s", "padding": "p", "groups": "g", "dilation": "d", "scale": "x", "levels": "l"}
_FLAGS = ("bias", "same", "ceil", "branch")
_PLAIN = {f.name: f.default for f in fields(Layer)}

Key = tuple[str, int, int]  # a row in words, height and width of its input


@dataclass(frozen=True)
class On:
    """What times were measured on: two that are equal can stand in one table."""

    runtime: str  # eager, onnxruntime
    version: str  # of torch or onnxruntime
    device: str  # cpu, cuda:0
    name: str  # of the processor or the GPU
    threads: int
    batch: int = 1

    def text(self) -> str:
        """In one line, for people."""
        threads = f", {counted(self.threads, 'thread')}" if self.device == "cpu" else ""
        return f"{self.runtime} {self.version}, {self.name}{threads}, {counted(self.batch, 'image')}"


@dataclass(frozen=True)
class Correction:
    """What makes sums of rows as long as whole networks: each row is `factor` times its own time, and what a row of its
    group takes on top."""

    factor: float = 1.0
    on_top: Mapping[str, float] | None = None  # ms, by group

    def of(self, group: str, ms: float) -> float:
        """A row's time within a network."""
        return self.factor * ms + (self.on_top or {}).get(group, 0.0)


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it counts. Two are never equal: caches are keyed by it."""

    path: str
    digest: str
    on: On
    model: str  # digest of the model that it is of
    ms: Mapping[Key, float]  # corrected
    rest: Mapping[tuple[int, int], float]  # ms, by height and width of the image; empty: no whole network was measured
    check: Mapping[str, Any]

    def text(self) -> str:
        """What a sum is of: a record has it as `<meter>_on`."""
        return f"{self.on.text()}, {SUMMED} {self.digest[:8]}"

    def is_told(self, name: str, overhead: Mapping[str, Any]) -> bool:
        """Whether a record's costs have a time of that name that stays: this table's, or one that was measured."""
        on = str(overhead.get(f"{name}_on", ""))
        return name in overhead and (SUMMED not in on or on == self.text())

    @property
    def trust(self) -> str:
        """How far its sums are from whole networks, in words."""
        if not self.check:
            return "no whole network was measured, so sums lack what is no row"
        if self.check["judged_on"] < FEW:
            return "too few whole networks were measured to judge its sums"
        its = self.check[self.check["used"]]
        off = f"its sums are {its['error']:.1%} off (median of {self.check['judged_on']} networks)"
        return off if self.check["holds"] else f"{off}: measure the best whole (search-nas test --speed)"

    def begin(self, image: Sizes) -> tuple[float, ...]:
        """What an image takes beside all rows."""
        return tuple(self._rest(height, width) for height, width in image)

    def row_cost(self, row: Row, sizes: Sizes) -> RowCost:
        """One row at several sizes of its input. Raises UsageError for one that was not measured."""
        counted = row_cost(row, sizes, "macs")
        text = row_text(row)
        try:
            return RowCost(tuple(self.ms[text, h, w] for h, w in sizes), counted.params, counted.sizes)
        except KeyError as e:
            _, height, width = e.args[0]
            raise UsageError(
                f"the latency table {self.path} has no row `{text}` at {height} x {width}", self._more
            ) from None

    def _rest(self, height: int, width: int) -> float:
        if not self.rest:
            return 0.0
        if (height, width) not in self.rest:
            known = ", ".join(f"{h} x {w}" for h, w in self.rest)
            raise UsageError(
                f"the latency table {self.path} is of images of {known}, not {height} x {width}", self._more
            )
        return self.rest[height, width]

    @cached_property
    def _more(self) -> str:
        return (
            f"Measure what it lacks of the space, on its device ({self.on.text()}): search-nas latency CONFIG --out "
            f"{self.path}; or leave the table out: --set meters="
        )


def row_text(row: Row) -> str:
    """A row in words: all that its time depends on but for the size of its input. Names say nothing."""
    return "; ".join(map(_layer_text, row.layers))


def _layer_text(layer: Layer) -> str:
    widths = str(layer.cout) if layer.cin == layer.cout else f"{layer.cin}>{layer.cout}"
    values = ((sign, getattr(layer, name), _PLAIN[name]) for name, sign in _SIGNS.items())
    signs = (f"{sign}{value}" for sign, value, plain in values if value != plain)
    return " ".join((layer.kind, widths, *signs, *(flag for flag in _FLAGS if getattr(layer, flag))))


def read_table(path: str) -> Table:
    """A table as `search-nas latency` wrote it. Raises UsageError for another file."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as e:
        raise UsageError(f"can't read the latency table {path}: {e.strerror}", _HINT) from e
    try:
        body = json.loads(raw)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise UsageError(f"{path} is no latency table: its `format` is not {FORMAT!r}", _HINT)
        correction = Correction(**body["correction"]) if body["correction"] else Correction()
        rows = {(row["row"], *map(int, row["at"])): row for row in body["rows"]}
        ms = {key: correction.of(row["group"], float(row["ms"])) for key, row in rows.items()}
        rest = {(int(at[0]), int(at[1])): float(value) for at, value in body["rest"]}
        on = On(**body["on"])
        check, model = dict(body["check"]), str(body["model"])
    except (ValueError, KeyError, TypeError, IndexError) as e:
        reason = "it is cut short, or no JSON" if isinstance(e, ValueError) else f"{type(e).__name__} {e}"
        raise UsageError(f"{path} is no latency table: {reason}", _HINT) from e
    return Table(path, hashlib.sha256(raw).hexdigest(), on, model, ms, rest, check)


NO_TABLES: Mapping[str, Table] = MappingProxyType({})
_HINT = "Measure one: search-nas latency CONFIG --device cpu --out table.json"
