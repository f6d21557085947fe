"""Where a search stands: the records that its workers append, the best of them, the front."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from searchkit import fsio
from searchkit.nas.subnet.search import value_of
from searchkit.records import pareto
from searchkit.records.arch import Arch
from searchkit.records.objective import Objective, loss, losses

Record = dict[str, Any]


class Tail:
    """The records that are appended to a file; each is given once."""

    def __init__(self, path: str) -> None:
        self.path, self.at = path, 0

    def new(self) -> list[Record]:
        """Those since the last call. An incomplete line is left for later; one that is no record is skipped."""
        try:
            if os.stat(self.path).st_size == self.at:
                return []
        except FileNotFoundError:
            return []
        raw = fsio.read_bytes(self.path, self.at) or b""
        complete = raw[: raw.rfind(b"\n") + 1]
        self.at += len(complete)
        records = []
        for line in complete.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("arch"), dict):
                records.append(record)
        return records


@dataclass
class Standing:
    """The records of a search so far, each arch at an input shape once, and the best of them."""

    wanted: tuple[Objective, ...]
    tag: str
    records: list[Record] = field(default_factory=list)
    scores: list[tuple[float, ...]] = field(default_factory=list)
    points: set[str] = field(default_factory=set)  # arch and input shape
    best: dict[str, int] = field(default_factory=dict)  # objective -> index of its best record
    front: list[int] = field(default_factory=list)  # indices, in the order of the records

    def add(self, records: Iterable[Record]) -> int:
        """Take these in; returns how many are new."""
        before = len(self.records)
        for record in records:
            key = f"{Arch.of(record['arch']).id} {record.get('data', {}).get('input_shape')}"
            if key not in self.points and self.tag in record.get("metric", {}):
                self.points.add(key)
                self.records.append(record)
                self.scores.append(tuple(value_of(record, objective.name, self.tag) for objective in self.wanted))
                self._place(len(self.records) - 1)
        return len(self.records) - before

    def _place(self, i: int) -> None:
        for k, objective in enumerate(self.wanted):
            score = self.scores[i][k]
            if score == score and (
                objective.name not in self.best or self._loss(i, k) < self._loss(self.best[objective.name], k)
            ):
                self.best[objective.name] = i
        rows = [*self.front, i]  # a record once off the front stays off it
        on_front = pareto.front([self.scores[n] for n in rows], [objective.mode for objective in self.wanted])
        self.front = [rows[n] for n in on_front]

    def _loss(self, i: int, k: int) -> float:
        return loss(self.scores[i][k], self.wanted[k].mode)

    def ranked_front(self) -> list[int]:
        """The front, best of the first objective first; of equals the first scored."""
        return sorted(self.front, key=lambda i: (losses(self.scores[i], self.wanted), i))
