"""Random numbers as a function of what they are for: no generator, no state, thousands at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 to uint64, one to one; near values give numbers that have nothing in common.

    The last step of SplitMix64 (Steele, Lea and Flood, https://doi.org/10.1145/2714064.2660195).
    """
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _A
    values = (values ^ (values >> np.uint64(27))) * _B
    return np.asarray(values ^ (values >> np.uint64(31)))


def uniforms(seed: int, indices: Sequence[int] | np.ndarray, columns: int) -> np.ndarray:
    """(n, columns) float64 in [0, 1): row i depends on `seed` (in [0, 2^63)) and indices[i] alone, and a column's
    numbers don't depend on how many columns there are."""
    keys = mix(np.asarray(indices, np.int64).astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
    drawn = mix(keys[:, None] + _GOLDEN * np.arange(1, columns + 1, dtype=np.uint64))
    return np.asarray((drawn >> np.uint64(11)) * 2.0**-53)
