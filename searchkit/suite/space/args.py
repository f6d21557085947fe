"""What a search varies: arguments and their values.

A value has two forms. `text` is what the user wrote and what a command is rendered from (`1e-3`, `010`, `no`);
`data` is what it means, for samplers, comparisons and constraints.

A sampler knows neither: it chooses a *gene* for each argument, the index of a value or row, or the number itself where
the argument is a range. `arg.at(gene)` is what that stands for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from searchkit.errors import UsageError

LARGEST = 2**53  # of whole numbers: up to here a float, which samplers compute with, holds every one
INTEGERS = ("Int", "LogInt")
LOGARITHMIC = ("LogUniform", "LogInt")
RANGES = ("Uniform", "LogUniform", "Int", "LogInt")
ARG_TYPES = ("Categorical", "Nested", "Subnet", *RANGES, "Best")


@dataclass(frozen=True)
class Value:
    """One value as the user wrote it (`text`), and what it means (`data`). Commands get its text, unless `argument`."""

    data: Any
    text: str
    argument: str | None = None  # what commands get where the text is only a short name

    @property
    def rendered(self) -> str:
        """What stands in a command."""
        return self.text if self.argument is None else self.argument


Point = dict[str, Value]  # one job's values, in declaration order
Gene = float | int


@dataclass(frozen=True)
class Categorical:
    """One argument, one of `values`; a gene is the index of one. As with all arguments, `when` is a condition over
    others: where it does not hold, there is no such argument."""

    name: str
    values: tuple[Value, ...]
    when: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares: one."""
        return (self.name,)

    @property
    def key(self) -> str:
        """The gene's name: that of the argument."""
        return self.name

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    def grid(self) -> Iterable[Gene]:
        """Every gene."""
        return range(self.size)

    def at(self, gene: Gene) -> Point:
        """The value of that index."""
        return {self.name: self.values[int(gene)]}

    def points(self) -> tuple[Point, ...]:
        """Every value, in the order written."""
        return tuple(map(self.at, self.grid()))


@dataclass(frozen=True)
class Nested:
    """Several arguments that vary together: one of `rows`, which all have the same keys; a gene is the index of one."""

    rows: tuple[Mapping[str, Value], ...]
    when: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares, in the order of the first row."""
        return tuple(self.rows[0]) if self.rows else ()

    @property
    def key(self) -> str:
        """The gene's name: the names that this declares."""
        return ",".join(self.names)

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def grid(self) -> Iterable[Gene]:
        """Every gene."""
        return range(self.size)

    def at(self, gene: Gene) -> Point:
        """A row, its keys in the order of `names`, so that all jobs have their names in one order."""
        row = self.rows[int(gene)]
        return {name: row[name] for name in self.names if name in row}

    def points(self) -> tuple[Point, ...]:
        """Every row, in the order written."""
        return tuple(map(self.at, self.grid()))


@dataclass(frozen=True)
class Subnet(Categorical):
    """One argument, a file of records of a model space: those that the rules pick, `per_job` to a file.

    The files are made when the task is made (suite/store/subnets.py); then `values` holds their paths.
    """

    values: tuple[Value, ...] = ()
    _: KW_ONLY
    space: str
    rules: str | None = None
    per_job: int = 1
    seed: int | None = None  # of the rules; None: that of the search


@dataclass(frozen=True)
class Best(Nested):
    """The arguments `args` as the best `number` jobs of an earlier stage had them; each such job is a row.

    folder, checkpoint: arguments that this adds, the job's working folder and its checkpoint folder.
    The rows are filled in when that stage has ended (suite/store/best.py). A row lacks what its job did not have.
    """

    rows: tuple[Mapping[str, Value], ...] = ()
    _: KW_ONLY
    stage: str
    number: int
    args: tuple[str, ...]
    folder: str | None = None
    checkpoint: str | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """The arguments that are a folder of the job."""
        return tuple(name for name in (self.folder, self.checkpoint) if name)

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares, whether or not its rows are known."""
        return (*self.args, *self.folders)


@dataclass(frozen=True)
class Range:
    """One argument, a number from `low` to `high`, both included; its genes are the numbers themselves.

    kind: Uniform, LogUniform (any number), Int, LogInt (whole numbers); the Log ones are even on a log scale.
    step: of Uniform and Int. The values are low, low + step … up to the last that is not above high.
    Raises UsageError for bounds that leave nothing to choose.
    """

    name: str
    kind: str
    low: float
    high: float
    step: float | None = None
    when: str | None = None

    def __post_init__(self) -> None:
        for key, fault in range_faults(self.kind, self.low, self.high, self.step):
            raise UsageError(f"the argument {self.name!r}: {key}: {fault}")

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares: one."""
        return (self.name,)

    @property
    def key(self) -> str:
        """The gene's name: that of the argument."""
        return self.name

    @property
    def integer(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in INTEGERS

    @property
    def log(self) -> bool:
        """Whether it is even on a log scale."""
        return self.kind in LOGARITHMIC

    @property
    def size(self) -> int | None:
        """How many values it has; None: a continuum."""
        if self.integer:
            return int((self.high - self.low) // (self.step or 1)) + 1
        return None if self.step is None else _steps(self.low, self.high, self.step) + 1

    @property
    def last(self) -> Gene:
        """The highest value that it takes: below `high` where the step does not meet it."""
        size = self.size
        return float(self.high) if size is None else self._nth(size - 1)

    def snap(self, gene: Gene) -> Gene:
        """The value nearest to `gene`, which may lie beyond the bounds: 0.1 + 2 * 0.1 is 0.3."""
        if not math.isfinite(gene):
            return gene
        if self.step is not None or self.integer:
            return self._nth(round((gene - self.low) / (self.step or 1)))
        return float(gene) + 0.0  # -0.0 is 0.0

    def grid(self) -> Iterator[Gene]:
        """Every value, ascending. Raises UsageError for a continuum."""
        size = self.size
        if size is None:
            hint = "" if self.log else "give it a step, or "
            raise UsageError(
                f"the argument {self.name!r} is {self.kind}, which has no end of values",
                f"{hint}choose a sampler other than grid (search.sampler: random)",
            )
        return map(self._nth, range(size))

    def at(self, gene: Gene) -> Point:
        """The value of that gene; its text is the shortest that reads back as the same number."""
        number = self.snap(gene)
        return {self.name: Value(number, repr(number))}

    def points(self) -> tuple[Point, ...]:
        """Every value, ascending. Raises UsageError for a continuum."""
        return tuple(map(self.at, self.grid()))

    def _nth(self, i: int) -> Gene:
        if self.integer:
            return int(self.low) + i * int(self.step or 1)
        from decimal import Decimal  # the step is meant as it is written: in floats, 0.1 + 2 * 0.1 is above 0.3

        return float(Decimal(repr(float(self.low))) + i * Decimal(repr(float(self.step or 1)))) + 0.0


Arg = Categorical | Nested | Subnet | Range | Best


def range_faults(kind: str, low: float, high: float, step: float | None) -> list[tuple[str, str]]:
    """What is wrong with the bounds of a Range, each with the key at fault."""
    faults = []
    integer, log = kind in INTEGERS, kind in LOGARITHMIC
    for key, bound in (("low", low), ("high", high)):
        if integer and not (abs(bound) <= LARGEST and bound == int(bound)):
            faults.append((key, f"must be a whole number between -2**53 and 2**53, not {bound}"))
        if log and bound <= 0:
            faults.append((key, f"must be above 0, as every value on a log scale, not {bound}"))
    if kind not in RANGES:
        faults.append(("kind", f"must be one of {', '.join(RANGES)}, not {kind!r}"))
    if low >= high:
        faults.append(("high", f"must be above low, which is {low}, not {high}"))
    elif not math.isfinite(high - low):
        faults.append(("high", f"must be less than 1.8e308 above low, not {high}"))
    if step is not None and log:
        faults.append(("step", f"is not for {kind}, whose values are even on a log scale"))
    elif step is not None and step <= 0:
        faults.append(("step", f"must be above 0, not {step}"))
    elif step is not None and 0 < high - low < math.inf and not _steps(low, high, step):
        faults.append(("step", f"must be at most high - low, which is {high - low:g}, not {step}"))
    return faults


def order(names: Sequence[Sequence[str]], needs: Sequence[Iterable[str]]) -> tuple[list[int], list[int]]:
    """Arguments so that each comes after those that its condition names, else in the order given; and a cycle.

    names: what each argument declares. needs: the names in its condition; unknown ones count for nothing.
    Returns the indices in order, and the indices of one cycle of conditions, empty where there is none.
    """
    owner = {name: i for i, group in enumerate(names) for name in group}
    parents = [{owner[name] for name in needed if name in owner} for needed in needs]
    ordered: list[int] = []
    remaining = list(range(len(names)))
    while remaining:
        free = next((i for i in remaining if parents[i].isdisjoint(remaining)), None)
        if free is None:
            break
        ordered.append(free)
        remaining.remove(free)
    path: list[int] = remaining[:1]
    while path and path[-1] not in path[:-1]:
        path.append(min(parents[path[-1]].intersection(remaining)))
    return ordered, path[path.index(path[-1]) : -1] if path else []


def _steps(low: float, high: float, step: float) -> int:
    """How many whole steps lie between the bounds, in decimals as they are written: 0 to 0.3 by 0.1 are 3."""
    from decimal import Decimal

    first, last, width = (Decimal(repr(float(x))) for x in (low, high, step))
    return int((last - first) // width)
