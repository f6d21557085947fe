"""The range of an activation, of whose values there is a histogram: one table. No torch.

A value is rounded to one of LEVELS steps between the ends of the range, and what is beyond them is cut off: a wide
range has coarse steps, a narrow one cuts off more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BINS = 2048  # of a histogram: 8 for each step of the widest range
LEVELS = 256  # of uint8
PARTS = 100  # of the widest range, that `mse` tries
LEAST_PARTS = 20  # the narrowest of them
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Histogram:
    """How often an activation has which values: `counts` (BINS,) of equal bins from low to high, the least and the
    greatest value."""

    counts: np.ndarray
    low: float
    high: float

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin (BINS,)."""
        return self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS


Range = tuple[float, float]


def with_zero(low: float, high: float) -> Range:
    """The range, widened to hold 0, which is always one of the steps: padding is 0."""
    return min(low, 0.0), max(high, 0.0)


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8 of a range has them: the nearest step, or the end."""
    low, high = with_zero(low, high)
    step = max(high - low, TINY) / (LEVELS - 1)
    zero = round(-low / step)
    nearest: np.ndarray = (np.clip(np.rint(values / step) + zero, 0, LEVELS - 1) - zero) * step
    return nearest


def widest(seen: Histogram, percentile: float) -> Range:
    """From the least to the greatest value: nothing is cut off."""
    return seen.low, seen.high


def most(seen: Histogram, percentile: float) -> Range:
    """The range beyond whose ends lie 100 - percentile of a hundred values each (Wu et al., "Integer Quantization for
    Deep Learning Inference", 2020, §5); an end that is 0 stays."""
    if seen.high <= seen.low:
        return seen.low, seen.high
    below = np.cumsum(seen.counts) / seen.counts.sum()
    cut = 1 - percentile / 100
    width = (seen.high - seen.low) / BINS
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, 1 - cut, side="left"))
    low = seen.low if seen.low == 0 else seen.low + first * width
    high = seen.high if seen.high == 0 else seen.low + (min(last, BINS - 1) + 1) * width
    return low, max(high, low)


def closest(seen: Histogram, percentile: float) -> Range:
    """Of PARTS of the widest range, that whose rounded values have the least mean squared distance to the values, as
    far as a histogram tells."""
    if seen.high <= seen.low:
        return seen.low, seen.high
    centres = seen.centres
    tried = [(seen.low * part / PARTS, seen.high * part / PARTS) for part in range(PARTS, LEAST_PARTS - 1, -1)]
    errors = [float((seen.counts * (centres - rounded(centres, *each)) ** 2).sum()) for each in tried]
    return tried[int(np.argmin(errors))]


METHODS: Mapping[str, Callable[[Histogram, float], Range]] = {"minmax": widest, "percentile": most, "mse": closest}
WITHOUT_COUNTS = frozenset({"minmax"})  # that need no counts
