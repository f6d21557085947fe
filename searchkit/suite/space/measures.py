"""Measures: numbers that a user's function gives for a point (its cost), for constraints to limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from searchkit.errors import SearchkitError, UsageError
from searchkit.suite.space.genes import named
from searchkit.suite.space.own import find

Measures = Callable[[Mapping[str, Any]], Mapping[str, float]]  # of a point's values by name


@dataclass(frozen=True)
class Measure:
    """A user's function, by its name in the config. Calling it raises UsageError, which names it and the
    point, for whatever it raises and for an answer that is no mapping of names to numbers."""

    name: str
    function: Callable[[Mapping[str, Any]], Any]

    def __call__(self, values: Mapping[str, Any]) -> dict[str, float]:
        try:
            numbers = self.function(values)
        except Exception as e:  # whatever the user's code does
            raise _failed(self.name, e, values) from e
        if not isinstance(numbers, Mapping):
            raise UsageError(
                f"task.measures: {self.name} must give a mapping of names to numbers, not {numbers!r} {_at(values)}"
            )
        for name, value in numbers.items():
            if not isinstance(name, str) or not _is_number(value):
                raise UsageError(
                    f"task.measures: {self.name} must give names with numbers, not {name!r}: {value!r} {_at(values)}"
                )
        return {name: int(value) if isinstance(value, Integral) else float(value) for name, value in numbers.items()}


def load(call: str, given: Mapping[str, Any]) -> Measure:
    """What `function(**given)` returns, `call` being `module:function`. Raises UsageError for what can't be imported or
    called, and for what it returns that can't be called."""
    function = find(f"task.measures: {call}", call)
    if not callable(function):
        raise UsageError(f"task.measures: {call} must be a function, not a {type(function).__name__}")
    try:
        measure = function(**given)
    except Exception as e:  # whatever the user's code does
        raise _failed(call, e, given) from e
    if not callable(measure):
        raise UsageError(
            f"task.measures: {call}({named(given)}) must return a function of a point's values, not {measure!r}",
            "the named function is called once, with the values of `given`; what it returns is called at every point",
        )
    return Measure(call, measure)


def _is_number(value: object) -> bool:
    """Numpy's numbers too; but neither a truth value nor NaN, which no comparison orders."""
    return not isinstance(value, bool) and isinstance(value, Real) and not math.isnan(value)


def _failed(name: str, e: Exception, values: Mapping[str, Any]) -> UsageError:
    hint = e.hint if isinstance(e, SearchkitError) else ""
    return UsageError(f"task.measures: {name} failed: {type(e).__name__}: {e} {_at(values)}", hint)


def _at(values: Mapping[str, Any]) -> str:
    return f"(at {named(values)})" if values else "(without a value)"
