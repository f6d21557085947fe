"""Ranges of activations: each method against another implementation of it."""

from __future__ import annotations

import numpy as np
import pytest

from searchkit.errors import UsageError
from searchkit.nas.quant.ranges import BINS, LEVELS, METHODS, Histogram, rounded
from searchkit.nas.quant.settings import Rounding


def seen(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(np.histogram(values, BINS, (low, high))[0], low, high)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Mostly small, a few large ones."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0.2, 1, 20_000), rng.normal(0, 8, 60)]).astype(np.float32)


def test_the_widest_range_is_from_the_least_to_the_greatest(values: np.ndarray) -> None:
    assert METHODS["minmax"](seen(values), 0) == (values.min(), values.max())
    assert METHODS["percentile"](seen(values), 100) == pytest.approx((float(values.min()), float(values.max())))


@pytest.mark.parametrize("percentile", [99.99, 99.5, 90])
def test_a_percentile_is_numpys_within_a_bin(values: np.ndarray, percentile: float) -> None:
    low, high = METHODS["percentile"](seen(values), percentile)
    wide = float(values.max() - values.min()) / BINS
    assert low == pytest.approx(float(np.percentile(values, 100 - percentile)), abs=2 * wide)
    assert high == pytest.approx(float(np.percentile(values, percentile)), abs=2 * wide)
    positive = np.maximum(values, 0)  # of a relu
    assert METHODS["percentile"](seen(positive), percentile)[0] == 0


def test_mse_is_nearest_of_all_parts_of_the_widest(values: np.ndarray) -> None:
    low, high = METHODS["mse"](seen(values), 0)

    def error(part: float) -> float:
        of = rounded(values, values.min() * part, values.max() * part)
        return float(((values - of) ** 2).mean())

    found = high / float(values.max())
    assert low == pytest.approx(float(values.min()) * found) and 0.2 <= found < 1
    best = min(error(part / 100) for part in range(20, 101))
    assert error(found) <= best * 1.02 and error(found) < error(1)


def test_rounded_values_are_steps_that_hold_0() -> None:
    x = np.linspace(-3, 9, 1001)
    y = rounded(x, -1, 5)
    assert len(np.unique(y)) == LEVELS and 0 in y
    inside = (x > -1) & (x < 5)
    assert np.abs(y - x)[inside].max() <= 6 / (LEVELS - 1) * 0.5 + 1e-9
    assert rounded(x, 2, 5).min() == 0  # widened


def test_a_value_that_is_always_the_same_has_a_range() -> None:
    for method in METHODS.values():
        assert method(Histogram(np.zeros(BINS), 2.0, 2.0), 99.0) == (2.0, 2.0)


def test_what_no_rounding_is() -> None:
    for fault, names in (
        ({"method": "entropy"}, "method must be one of minmax, percentile, mse"),
        ({"percentile": 40}, "percentile must be above 50"),
        ({"images": 0}, "at least one image"),
        ({"keep_float": "some"}, "keep_float must be a number of layers or auto"),
    ):
        with pytest.raises(UsageError, match=names):
            Rounding(**fault)
