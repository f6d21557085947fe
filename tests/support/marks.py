"""What of a sweep `make test` runs, and what `make test-all` alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some_of(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """All cases as parameters, in order; those beside the `kept` ones are `long`."""
    every = list(cases)
    assert all(case in every for case in kept), kept
    return [pytest.param(case, marks=() if case in kept else pytest.mark.long) for case in every]
