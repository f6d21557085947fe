"""What trials are judged by: a name, and which end is best. Every comparison of scores goes through `loss`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

MODES = ("max", "min")
LOW_IS_GOOD = frozenset(["loss", "losses", "error", "errors", "err", "perplexity", "ppl", "latency", "latencies"])


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class Objective:
    """A scalar that jobs report, and whether more of it is better (`max`) or less (`min`)."""

    name: str
    mode: str


def loss(value: float, mode: str) -> float:
    """`value` so that less is better, and NaN the worst of all. Every comparison of scores goes through this."""
    if math.isnan(value):
        return math.inf
    return -value if mode == "max" else value


def losses(scores: Sequence[float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The losses of one trial's scores."""
    return tuple(loss(score, objective.mode) for score, objective in zip(scores, objectives, strict=True))


def sounds_low(name: str) -> bool:
    """Whether the name of a scalar says that less of it is better: `val/loss`, `Test Loss`, `topErr`, `ppl`."""
    return any(word.lower() in LOW_IS_GOOD for word in _WORDS.findall(name))
