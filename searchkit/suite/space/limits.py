"""Conditions and constraints as functions of a point, and what those that no point meets can reach."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.closures import as_list
from searchkit.reading.expression import Expression
from searchkit.suite.space.args import Point


class Rule:
    """A condition or constraint over arguments, or where it is `measured`, also over `measures`, which are all other
    names in it. Raises UsageError for what can't be read, and for other names where it is not measured."""

    def __init__(self, subject: str, text: str, names: Mapping[str, str], measured: bool = False) -> None:
        self.subject = subject
        self.parsed = expression.parse(text, names)
        self.text = text
        self.names = tuple(name for name in self.parsed.names if name in names)
        self.measures = tuple(name for name in self.parsed.names if name not in names)
        self._run = expression.function(self.parsed, _value)
        if self.measures and not measured:
            near = expression.unquoted(text, names) or did_you_mean(self.measures[0], list(names))
            raise UsageError(f"{subject}: {self.measures[0]!r} in {text!r} is not a declared argument{near}")

    def holds(self, point: Point, otherwise: bool) -> bool:
        """Whether it holds; `otherwise` where it names what does not exist at the point."""
        for name in self.names:
            if name not in point:
                return otherwise
        try:
            return bool(self._run(point))
        except UsageError as e:
            at = ", ".join(f"{name}={value.text}" for name, value in point.items())
            raise UsageError(f"{self.subject}: {e.message} (at {at})", e.hint) from e


def all_hold(rules: Sequence[Rule], point: Point) -> bool:
    """Whether a point meets all constraints. Raises UsageError for one that can't be evaluated."""
    return all(rule.holds(point, True) for rule in rules)


def _value(name: str) -> Callable[[Point], Any]:
    return lambda point: as_list(point[name].data)


def unmet(rules: Sequence[Rule], points: Sequence[Point]) -> str:
    """Why none of `points` meets all of `rules`."""
    n = len(points)
    met = [[rule.holds(point, True) for point in points] for rule in rules]
    never = [rule for rule, hits in zip(rules, met, strict=True) if not any(hits)]
    if never:
        return "; ".join(f"none of {n:,} meets {rule.text!r}: {_sides(rule, points)}" for rule in never)
    shares = ", ".join(
        f"{rule.text!r} is met by {sum(hits) / max(1, n):.1%}" for rule, hits in zip(rules, met, strict=True)
    )
    for (one, a), (other, b) in itertools.combinations(zip(rules, met, strict=True), 2):
        if not any(map(min, a, b)):
            return f"none of {n:,} meets both {one.text!r} and {other.text!r} ({shares})"
    both = sum(all(hits) for hits in zip(*met, strict=True)) if rules else n
    return f"{both:,} of {n:,} meet all constraints ({shares})"


def _sides(rule: Rule, points: Sequence[Point]) -> str:
    """For each comparison in a constraint, the values that its sides take: `0.1 to 0.9 > 1`."""
    shown = []
    for first, operations in _comparisons(rule.parsed.tree):
        parts = [_range(rule, first, points)]
        for op, tree in operations:
            parts += [op, _range(rule, tree, points)]
        shown.append(" ".join(parts))
    return "its sides are " + ", ".join(shown) if shown else f"it is {_range(rule, rule.parsed.tree, points)}"


def _comparisons(tree: Any) -> Iterator[tuple[Any, Sequence[tuple[str, Any]]]]:
    if tree[0] == "compare":
        yield tree[1], tree[2:]
    elif tree[0] in ("and", "or", "not"):
        for operand in tree[1:]:
            yield from _comparisons(operand)


def _range(rule: Rule, tree: Any, points: Sequence[Point]) -> str:
    run = expression.function(Expression(rule.text, rule.names, tree), _value)
    results = [run(point) for point in points if all(name in point for name in rule.names)]
    if results and all(isinstance(result, int | float) and not isinstance(result, bool) for result in results):
        return span(results)
    texts = list(dict.fromkeys(map(repr, results)))
    return " or ".join(texts[:3]) + (" …" if len(texts) > 3 else "")


def span(numbers: Sequence[float]) -> str:
    """The range of numbers, for messages."""
    low, high = min(numbers), max(numbers)
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
