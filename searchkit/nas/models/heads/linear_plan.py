"""The last layer of a classifier as a row. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from searchkit.nas.models.plan import CACHE, Layer, Row


@dataclass(frozen=True)
class LabelSizes:
    """What decides the cost of a classifier after its backbone: one linear layer on the mean of the last feature."""

    num_classes: int


@lru_cache(CACHE)
def label_row(width: int, num_classes: int) -> Row:
    """The last layer of a classifier; the mean in front of it costs no multiply-add."""
    return Row("", 0, 0, (Layer("linear", "fc", width, num_classes, bias=True),))
