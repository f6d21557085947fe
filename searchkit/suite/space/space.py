"""A search space: arguments, the conditions under which they exist, and the constraints that every point must meet.

A point is chosen as *genes*: for each argument that exists there, a number of a range or the index of a value, so that
no value changes its type on the way through a sampler. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from searchkit.errors import UsageError, did_you_mean
from searchkit.suite.space.args import Arg, Gene, Point, Value, order
from searchkit.suite.space.genes import Dim, Genes, dim_of, gene_of, named
from searchkit.suite.space.limits import Rule, all_hold, span, unmet
from searchkit.suite.space.measures import Measures

__all__ = ["Dim", "Genes", "Space"]

_KEPT = 100_000  # points whose measures are remembered


class Random(Protocol):
    """Any generator: of `random`, of numpy."""

    def random(self) -> float:
        """A number from 0 (included) to 1 (excluded)."""
        ...


@dataclass(frozen=True)
class Space:
    """The arguments and constraints of a search. Raises UsageError for two arguments of one name, an expression that
    can't be read or names no argument, and conditions that depend on each other.

    A condition that names an argument which does not exist at a point does not hold there; such a constraint does.

    measure: gives numbers of a whole point from its values by name, such as its cost; constraints may name them. It
    gives the same numbers for the same values, and is asked once for a point (of the last 100,000), and only where the
    constraints over arguments alone hold. What it raises goes through.

    withdrawn: points that have all the texts of one of these, by name, are left out of `grid` and `points`.
    """

    args: tuple[Arg, ...]
    constraints: tuple[str, ...] = ()
    measure: Measures | None = None
    withdrawn: tuple[frozenset[tuple[str, str]], ...] = ()

    def __post_init__(self) -> None:
        _ = self._parts  # so that faults are raised here, not at first use

    def dims(self) -> tuple[Dim, ...]:
        """The arguments, each after those that its condition names, else in the order of declaration."""
        return self._parts.dims

    def active(self, genes_so_far: Mapping[str, Gene], dim: Dim) -> bool:
        """Whether an argument exists, given the genes of those before it in `dims`. UsageError if it can't be told."""
        rule = self._parts.conditions[dim.name]
        return rule is None or rule.holds(self._read(genes_so_far), False)

    def complete(self, choose: Callable[[Dim], Gene]) -> Genes:
        """The point of the chosen genes: `choose` is asked for each argument that exists, in the order of `dims`.

        Numbers are moved to the nearest step. Constraints are not looked at.
        """
        genes: Genes = {}
        point: Point = {}
        for dim in self._parts.dims:
            rule = self._parts.conditions[dim.name]
            if rule is None or rule.holds(point, False):
                genes[dim.name] = gene = dim.snap(choose(dim))
                if self._parts.controls:
                    point.update(dim.arg.at(gene))
        return self._declared(genes)

    def feasible(self, genes: Mapping[str, Gene]) -> bool:
        """Whether all constraints hold. Raises UsageError for one that can't be evaluated, and for a name in it that is
        neither an argument nor a measure."""
        parts = self._parts
        if not (parts.rules or parts.measured):
            return True
        point = self._read(genes)
        return all_hold(parts.rules, point) and parts.affordable(point)

    def measured(self, genes: Mapping[str, Gene]) -> dict[str, float]:
        """The measures at a point that constraints name. Raises UsageError as `feasible`."""
        row = self._parts.with_measures(self._read(genes)) if self._parts.measured else {}
        return {name: row[name].data for name in self._parts.measures}

    def point(self, genes: Mapping[str, Gene]) -> Point:
        """The values that genes stand for, in the order of declaration."""
        return {name: value for arg in self.args if arg.key in genes for name, value in arg.at(genes[arg.key]).items()}

    def genes(self, values: Mapping[str, Any]) -> Genes:
        """The genes of values, each given as what it means or as its text. Arguments that are not given are left out.

        None or an empty text stands for an argument that does not exist there. Raises UsageError for what is no
        argument, no value of it, or does not exist beside the others.
        """
        names = [name for arg in self.args for name in arg.names]
        for name in values:
            if name not in names:
                raise UsageError(f"{name!r} is no argument of this search{did_you_mean(name, names)}")
        genes: Genes = {}
        point: Point = {}
        absent: set[str] = set()
        for dim in self._parts.dims:
            own_values = {name: values[name] for name in dim.arg.names if name in values}
            rule = self._parts.conditions[dim.name]
            decidable = rule is None or all(name in point or name in absent for name in rule.names)
            blank = all(value is None or value == "" for value in own_values.values())
            if rule is not None and decidable and not rule.holds(point, False):
                absent.update(dim.arg.names)
                if not blank:
                    raise UsageError(f"{named(own_values)} can't be given here, where {dim.when!r} does not hold")
            elif own_values and (decidable or not blank):
                genes[dim.name] = gene = gene_of(dim, own_values)
                point |= dim.arg.at(gene)
        return self._declared(genes)

    def fault(self, genes: Mapping[str, Gene]) -> str:
        """Why genes are no point of this space: one is missing, unknown or out of bounds. Empty where they are one.

        Constraints are not looked at (see `feasible`).
        """
        unknown = [name for name in genes if name not in self._parts.conditions]
        if unknown:
            return f"{unknown[0]!r} is no argument{did_you_mean(unknown[0], list(self._parts.conditions))}"
        point: Point = {}
        for dim in self._parts.dims:
            rule = self._parts.conditions[dim.name]
            exists = rule is None or rule.holds(point, False)
            if exists and dim.name not in genes:
                return f"{dim.name!r} is missing"
            if not exists and dim.name in genes:
                return f"{dim.name!r} does not exist where {dim.when!r} does not hold"
            if not exists:
                continue
            gene = genes[dim.name]
            if not dim.holds(gene):
                return f"{dim.name!r} must be {dim.allowed}, not {gene!r}"
            point |= dim.arg.at(gene)
        return ""

    def key(self, genes: Mapping[str, Gene]) -> str:
        """A hash of the point, the same whatever the order of the genes."""
        import hashlib  # only here: it loads OpenSSL

        exact = sorted((name, self._parts.by_name[name].snap(gene)) for name, gene in genes.items())
        return hashlib.sha256(repr(exact).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def size(self) -> int | None:
        """How many points the grid has before constraints, conditions respected; None where there is a continuum."""
        if any(arg.size is None for arg in self.args):
            return None
        return math.prod(self._count(group, {}) for group in self._parts.groups)

    def grid(self) -> Iterator[Genes]:
        """Every point that meets the constraints; what comes first in `dims` varies slowest.

        Raises UsageError, now, for an argument without an end of values.
        """
        return (self._declared(genes) for genes, _ in self._grid())

    def points(self) -> Iterator[Point]:
        """The points of `grid`, as `point` gives them. Raises UsageError as `grid` does."""
        grid = self._grid()
        names = [name for arg in self.args for name in arg.names]
        if self._parts.in_order:
            return (point for _, point in grid)
        return ({name: point[name] for name in names if name in point} for _, point in grid)

    def is_withdrawn(self, point: Point) -> bool:
        """Whether `grid` leaves a point out that meets the constraints."""
        texts = {(name, value.text) for name, value in point.items()}
        return any(pairs <= texts for pairs in self.withdrawn)

    def reach(self, tries: int, rng: Random) -> str:
        """Why no point meets the constraints, from `tries` points drawn at random: for one that none met, the values
        that its two sides took; else how often each was met. Of measures also their ranges, over the points that meet
        the constraints over arguments. Raises UsageError as `feasible`."""
        parts = self._parts
        drawn = [self.point(self.complete(lambda dim: _draw(dim, rng))) for _ in range(tries)]
        met = [point for point in drawn if all_hold(parts.rules, point)] if parts.measured else []
        if not met:
            return unmet(parts.rules, drawn)
        rows = [parts.with_measures(point) for point in met]
        ranges = ", ".join(f"{name} is {span([row[name].data for row in rows])}" for name in parts.measures)
        return f"{unmet(parts.measured, rows)}; {ranges}"

    # --- inside ------------------------------------------------------------------------------------------------------

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts(self.args, self.constraints, self.measure)

    def _read(self, genes: Mapping[str, Gene]) -> Point:
        by_name = self._parts.by_name
        return {name: v for key, gene in genes.items() for name, v in by_name[key].arg.at(gene).items()}

    def _declared(self, genes: Genes) -> Genes:
        if self._parts.in_order:
            return genes
        return {arg.key: genes[arg.key] for arg in self.args if arg.key in genes}

    def _grid(self) -> Iterator[tuple[Genes, Point]]:
        for arg in self.args:
            if arg.size is None:
                arg.grid()  # raises, with a hint
        first = [rule for rule in self._parts.rules if not rule.names]
        return self._walk(0, {}, {}) if all_hold(first, {}) else iter(())

    def _walk(self, depth: int, genes: Genes, point: Point) -> Iterator[tuple[Genes, Point]]:
        """All that the arguments from `depth` on add to a point. A constraint is looked at as soon as it can be."""
        if depth == len(self._parts.dims):
            if self._parts.affordable(point) and not (self.withdrawn and self.is_withdrawn(point)):
                yield genes, point
            return
        dim = self._parts.dims[depth]
        condition, decided = self._parts.conditions[dim.name], self._parts.decided[depth]
        if condition is not None and not condition.holds(point, False):
            yield from self._walk(depth + 1, genes, point)
            return
        for gene in dim.arg.grid():
            longer = {**point, **dim.arg.at(gene)}
            if not decided or all_hold(decided, longer):
                yield from self._walk(depth + 1, {**genes, dim.name: gene}, longer)

    def _count(self, dims: Sequence[Dim], point: Point) -> int:
        """The size of the product of `dims`: only those that conditions name are gone through value by value."""
        total = 1
        for i, dim in enumerate(dims):
            condition = self._parts.conditions[dim.name]
            if condition is not None and not condition.holds(point, False):
                continue
            if dim.name in self._parts.controls:
                following = dims[i + 1 :]
                return total * sum(self._count(following, {**point, **dim.arg.at(gene)}) for gene in dim.arg.grid())
            total *= dim.arg.size or 0
        return total


# --- what a space is compiled to -------------------------------------------------------------------------------------


class _Parts:
    """What a space is made of: its dims in an order in which their conditions can be told, and its expressions."""

    def __init__(self, args: Sequence[Arg], constraints: Sequence[str], measure: Measures | None) -> None:
        owner: dict[str, str] = {}  # argument to dim
        for arg in args:
            for name in arg.names:
                if name in owner:
                    raise UsageError(f"the argument {name!r} is declared twice", "Give each argument its own name")
                owner[name] = arg.key
        self.conditions = {
            arg.key: Rule(f"the condition of {arg.key}", arg.when, owner) if arg.when else None for arg in args
        }
        listed = [Rule("constraint", text, owner, measure is not None) for text in constraints]
        self.rules = [rule for rule in listed if not rule.measures]
        self.measured = [rule for rule in listed if rule.measures]
        self.measures = tuple(dict.fromkeys(name for rule in self.measured for name in rule.measures))
        self._owner, self._measure = owner, measure
        self._known: dict[str, Point] = {}  # the measures of points, the oldest first
        needs = {key: [owner[name] for name in rule.names] if rule else [] for key, rule in self.conditions.items()}
        ordered, cycle = order([[arg.key] for arg in args], list(needs.values()))
        if cycle:
            chain = " needs ".join(repr(args[i].key) for i in [*cycle, cycle[0]])
            raise UsageError(f"the conditions go round: {chain}", "Remove the condition of one of them")
        self.in_order = ordered == sorted(ordered)  # the dims are in the order of declaration
        self.dims = tuple(dim_of(args[i]) for i in ordered)
        self.by_name = {dim.name: dim for dim in self.dims}
        rank = {dim.name: i for i, dim in enumerate(self.dims)}
        self.decided: list[list[Rule]] = [[] for _ in self.dims]  # the constraints whose last name is that of each dim
        for rule in self.rules:
            if rule.names:
                self.decided[max(rank[owner[name]] for name in rule.names)].append(rule)
        self.controls = {key for keys in needs.values() for key in keys}  # the dims that conditions name
        self.groups = _groups(self.dims, needs)

    def affordable(self, point: Point) -> bool:
        """Whether a whole point meets the constraints over measures."""
        return not self.measured or all_hold(self.measured, self.with_measures(point))

    def with_measures(self, point: Point) -> Point:
        """A point with the measures that constraints name. Raises UsageError for one that is not given."""
        key = repr(sorted((name, value.data) for name, value in point.items()))
        measures = self._known.get(key)
        if measures is None:
            measures = self._known[key] = self._take({name: value.data for name, value in point.items()})
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return point | measures

    def _take(self, values: dict[str, Any]) -> Point:
        assert self._measure is not None  # else no constraint is over measures
        measures = self._measure(values)
        both = next((name for name in measures if name in self._owner), None)
        if both is not None:
            raise UsageError(f"the measure {both!r} has the name of an argument", "Give one of them another name")
        for rule in self.measured:
            for name in rule.measures:
                if name not in measures:
                    near = did_you_mean(name, [*measures, *self._owner])
                    fault = f"{name!r} in {rule.text!r} is neither an argument nor a measure{near}"
                    raise UsageError(f"constraint: {fault}", f"the measures are {', '.join(measures) or 'none'}")
        return {name: Value(measures[name], repr(measures[name])) for name in self.measures}


def _groups(dims: Sequence[Dim], needs: Mapping[str, Sequence[str]]) -> list[list[Dim]]:
    """The dims that conditions tie together, directly or by others."""
    group = {dim.name: dim.name for dim in dims}
    for key, others in needs.items():
        for other in others:
            merged, target = group[key], group[other]
            group = {name: target if its == merged else its for name, its in group.items()}
    return [[dim for dim in dims if group[dim.name] == root] for root in dict.fromkeys(group.values())]


def _draw(dim: Dim, rng: Random) -> Gene:
    """A random gene, one in six being at an end of its range, where most expressions have their extremes."""
    at = min(max(rng.random() * 1.2 - 0.1, 0.0), 1.0)
    if dim.kind == "index":
        return min(int(at * (int(dim.high) + 1)), int(dim.high))
    low, high = float(dim.low), float(dim.high)
    number = math.exp(math.log(low) + at * (math.log(high) - math.log(low))) if dim.log else low + at * (high - low)
    return min(max(dim.snap(number), dim.low), dim.high)
