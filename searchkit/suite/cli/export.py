"""The rows of a task (searchkit.suite.facts.flat_rows) as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

# The kinds of columns in their order, after those of the job itself.
KINDS = ("param", "score", "scalar", "data", "overhead", "record", "pre", "after", "command", "run_path")


def _kind(column: str) -> int:
    kind = column.partition(".")[0]
    return KINDS.index(kind) if kind in KINDS else -1


def to_csv(table: list[dict[str, Any]]) -> str:
    """CSV with every column that any row has: kind by kind, and of one kind in order of first appearance. (The first
    row may be of a job that reported nothing.)"""
    columns = sorted(dict.fromkeys(name for row in table for name in row), key=_kind)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
