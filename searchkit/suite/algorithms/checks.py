"""What the value of an option must be: each returns it, or raises UsageError."""

from __future__ import annotations

import math
from typing import Any

from searchkit.errors import UsageError


def whole(option: str, value: Any, least: int) -> int:
    """A whole number, `least` or more. `option` names the algorithm and its option: "tpe: n_startup"."""
    if type(value) is not int or value < least:
        raise UsageError(f"{option} must be a whole number, {least} or more, not {value!r}")
    return value


def number(option: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A number, from `low` to `high`, both included."""
    if type(value) not in (int, float) or not low <= value <= high:
        bounds = "" if low == -math.inf else f" from {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
        raise UsageError(f"{option} must be a number{bounds}, not {value!r}")
    return float(value)


def flag(option: str, value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise UsageError(f"{option} must be true or false, not {value!r}")
    return value
