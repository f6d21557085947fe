"""One dimension of a space: its choices, its combinations in order, and how it is read from a declaration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from searchkit.errors import UsageError, did_you_mean

Width = int | tuple[int, ...]

MAX_CHOICES = 10_000  # of one position: more is a slip of the pen, and would only eat memory
RANGE_KEYS = ("start", "end", "step")
DIM_KEYS = ("choices", *RANGE_KEYS, "ascending")


def plain(value: Width) -> str:
    """`3,4,6,3`, or the int."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def is_int(value: Any) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_ints(value: Any) -> bool:
    """Whether it is a list of ints that is not empty."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_int, value))


@dataclass(frozen=True)
class Dim:
    """One dimension: the choices of each position (a scalar has one), kept sorted.

    With `ascending`, choices that no ascending combination has are dropped, so that the greatest (least) choice of
    every position together are a combination. Raises UsageError where none is left.
    """

    key: str
    choices: tuple[tuple[int, ...], ...]
    scalar: bool = False
    ascending: bool = False

    def __post_init__(self) -> None:
        choices = [sorted(set(values)) for values in self.choices]
        if self.ascending:
            for i in range(1, len(choices)):
                choices[i] = [v for v in choices[i] if choices[i - 1] and v >= choices[i - 1][0]]
            for i in reversed(range(len(choices) - 1)):
                choices[i] = [v for v in choices[i] if choices[i + 1] and v <= choices[i + 1][-1]]
        if not choices or not all(choices) or (self.scalar and len(choices) != 1):
            what = "has no ascending combination" if self.ascending else "must have a choice at every position"
            raise UsageError(f"the dimension {self.key} {what}: {self.choices}")
        object.__setattr__(self, "choices", tuple(map(tuple, choices)))

    @cached_property
    def ways(self) -> tuple[tuple[int, ...], ...]:
        """[i][k]: how many combinations of positions i, i+1 … begin with choice k of position i."""
        rows = [(1,) * len(self.choices[-1])]
        for here, after in zip(self.choices[-2::-1], self.choices[:0:-1], strict=True):
            later = list(zip(after, rows[-1], strict=True))
            rows.append(tuple(sum(n for w, n in later if w >= v or not self.ascending) for v in here))
        return tuple(reversed(rows))

    def count(self) -> int:
        """How many combinations there are."""
        return sum(self.ways[0])

    def at(self, i: int) -> Width:
        """The i-th combination, in the order of `values`."""
        out: list[int] = []
        for choices, ways in zip(self.choices, self.ways, strict=True):
            for v, n in zip(choices, ways, strict=True):
                if self.ascending and out and v < out[-1]:
                    continue
                if i < n:
                    out.append(v)
                    break
                i -= n
        return self.pack(out)

    def values(self) -> Iterator[Width]:
        """Every combination, ascending; the last position changes fastest."""
        return map(self.pack, self._tails(0, ()))

    def _tails(self, at: int, head: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if at == len(self.choices):
            yield head
            return
        for v in self.choices[at]:
            if not (self.ascending and head and v < head[-1]):
                yield from self._tails(at + 1, (*head, v))

    def pack(self, values: Sequence[int]) -> Width:
        """The values of all positions as an architecture holds them."""
        return values[0] if self.scalar else tuple(values)

    def unpack(self, value: Width) -> tuple[int, ...]:
        """The other way round."""
        return value if isinstance(value, tuple) else (value,)

    def others(self, values: Sequence[int], i: int) -> list[int]:
        """What position i may become while the others stay; `values` is a combination."""
        low = values[i - 1] if self.ascending and i > 0 else min(self.choices[i])
        high = values[i + 1] if self.ascending and i + 1 < len(values) else max(self.choices[i])
        return [v for v in self.choices[i] if low <= v <= high and v != values[i]]

    def nearest(self, value: Width) -> list[int]:
        """A combination near `value`, position by position (the lower one of two as near); itself if it is one."""
        out: list[int] = []
        for target, choices in zip(self.unpack(value), self.choices, strict=True):
            free = [v for v in choices if not (self.ascending and out and v < out[-1])]
            out.append(min(free, key=lambda v: (abs(v - target), v)))
        return out

    def faults(self, value: Width) -> list[str]:
        """Why a value does not fit into the maximal model."""
        if isinstance(value, tuple) == self.scalar:
            wanted = "an int" if self.scalar else f"a list of {len(self.choices)} ints"
            shown = list(value) if isinstance(value, tuple) else value
            return [f"{self.key} is {shown}, but must be {wanted}"]
        found = self.unpack(value)
        if len(found) != len(self.choices):
            return [f"{self.key} has {len(found)} values {list(found)}, but must have {len(self.choices)}"]
        wrong = []
        for i, (v, choices) in enumerate(zip(found, self.choices, strict=True)):
            low = min(1, choices[0])  # 0 fits only where the space itself has it
            if not low <= v <= choices[-1]:
                name = self.key if self.scalar else f"{self.key}[{i}]"
                wrong.append(f"{name} is {v}, but must be from {low} to {choices[-1]}")
        return wrong


# --- declarations ----------------------------------------------------------------------------------------------------


def read_dim(key: str, spec: Any) -> Dim:
    """A dimension from `32`, `[64, 128]`, `{choices: …}` or `{start: …, end: …, step: …}`, `ascending: true` or not.

    Raises UsageError that names every fault, one a line.
    """
    ascending = spec.get("ascending", False) if isinstance(spec, Mapping) else False
    wrong = [] if isinstance(ascending, bool) else [f"{key}.ascending must be true or false, not {ascending!r}"]
    choices, scalar = read_values(key, spec, wrong)
    if ascending is True and scalar:
        wrong.append(f"{key} can't be ascending: it has one value; only a list of values can")
    wrong += [f"{key} must have values of at least 0, not {v}" for row in choices for v in row if v < 0]
    if wrong:
        raise UsageError("\n".join(wrong))
    return Dim(key, tuple(map(tuple, choices)), scalar, ascending)


def read_values(key: str, spec: Any, wrong: list[str]) -> tuple[list[list[int]], bool]:
    """The choices of each position, in the order declared, and whether there is but one; faults go to `wrong`."""
    if is_int(spec):
        return [[spec]], True
    if is_ints(spec):
        return [[v] for v in spec], False
    if not isinstance(spec, Mapping):
        wrong.append(f"{key} must be an int, a list of ints, {{choices}} or {{start, end, step}}, not {spec!r}")
        return [], False
    unknown = [name for name in spec if name not in DIM_KEYS]
    wrong += [f"{key} has the unknown key {name!r}{did_you_mean(str(name), DIM_KEYS)}" for name in unknown]
    ranged = [name for name in RANGE_KEYS if name in spec]
    if "choices" in spec and ranged:
        wrong.append(f"{key} must have choices, or start, end and step; not both")
    elif "choices" in spec:
        return _choices(key, spec["choices"], wrong)
    elif len(ranged) == len(RANGE_KEYS):
        return _range(key, spec["start"], spec["end"], spec["step"], wrong)
    elif ranged or not unknown:
        wrong.append(f"{key} must have choices, or start, end and step; {_lacks(spec)}")
    return [], False


def _lacks(spec: Mapping[str, Any]) -> str:
    missing = [name for name in RANGE_KEYS if name not in spec]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def _choices(key: str, given: Any, wrong: list[str]) -> tuple[list[list[int]], bool]:
    scalar = is_ints(given)
    rows = [given] if scalar else given
    if isinstance(rows, (list, tuple)):  # a bare int stands for a position that does not vary
        rows = [[row] if is_int(row) else row for row in rows]
    if not isinstance(rows, list) or not rows or not all(map(is_ints, rows)):
        wrong.append(f"{key}.choices must be a list of ints, or a list of such lists for each position, not {given!r}")
        return [], False
    for i, row in enumerate(rows):
        twice = sorted({v for v in row if row.count(v) > 1})
        name = f"{key}.choices" if scalar else f"{key}.choices[{i}]"
        wrong += [f"{name} lists {v} twice" for v in twice]
    return [list(row) for row in rows], scalar


def _range(key: str, start: Any, end: Any, step: Any, wrong: list[str]) -> tuple[list[list[int]], bool]:
    scalar = all(map(is_int, (start, end, step)))
    rows = [(start, end, step)] if scalar else []
    if not scalar and all(map(is_ints, (start, end, step))):
        if not len(start) == len(end) == len(step):
            lengths = f"{len(start)}, {len(end)} and {len(step)}"
            wrong.append(f"{key}: start, end and step must be lists of one length, not of {lengths}")
            return [], False
        rows = list(zip(start, end, step, strict=True))
    if not rows:
        found = f"{start!r}, {end!r} and {step!r}"
        wrong.append(f"{key}: start, end and step must be three ints, or three lists of ints, not {found}")
    out = []
    for i, (low, high, by) in enumerate(rows):
        name = key if scalar else f"{key}[{i}]"
        if by < 1:
            wrong.append(f"{name}: the step must be at least 1, not {by}")
        elif low > high:
            wrong.append(f"{name}: the start must not be above the end, but {low} > {high}")
        elif (high - low) // by >= MAX_CHOICES:
            wrong.append(f"{name}: a position must have at most {MAX_CHOICES} values, not {(high - low) // by + 1}")
        else:
            out.append(list(range(low, high + 1, by)))  # the end only where a step hits it
    return out, scalar
