"""One dimension of a space: its choices, its combinations in order, and how it is read from a declaration."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.records.arch import Width, is_int

MAX_CHOICES = 10_000  # of one position: more is a slip of the pen, and would only eat memory
RANGE_KEYS = ("start", "end", "step")
BOUND_KEYS = ("min", "max", "stride")  # the same, where an int stands for all positions
DIM_KEYS = ("choices", *RANGE_KEYS, *BOUND_KEYS, "ascending")
NET_WISE, STAGE_WISE, TIED, BLOCK_WISE = STRATEGIES = ("net_wise", "stage_wise", "stage_wise_depth", "block_wise")

Rows = tuple[tuple[int, ...], ...]  # the choices of each position


def is_ints(value: Any) -> bool:
    """Whether it is a list of ints that is not empty."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_int, value))


@dataclass(frozen=True)
class Dim:
    """One dimension: the choices of each position (a scalar has one), kept sorted.

    With `ascending`, choices that no ascending combination has are dropped, so that the greatest (least) choice of
    every position together are a combination. With the strategy `net_wise` all positions have one value.

    `depth` names the dimension that says how many blocks each stage has, where this one hangs on it:
    `stage_wise_depth` takes the k-th choice of a stage where the depth takes its k-th; `block_wise` has the same number
    of positions (slots) for every stage, of which those from the depth on hold their value of `rest`.
    Alone, such a dimension counts its combinations as if nothing hung on anything: grid.py knows better.

    `phases` narrow the choices: those of each position from an epoch on, ascending from 1.
    Raises UsageError where no combination is left.
    """

    key: str
    choices: Rows
    scalar: bool = False
    ascending: bool = False
    strategy: str = ""
    depth: str = ""
    rest: tuple[int, ...] = ()
    phases: tuple[tuple[int, Rows], ...] = ()

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

    @property
    def common(self) -> bool:
        """Whether one value stands at all positions."""
        return self.strategy == NET_WISE

    @property
    def tied(self) -> bool:
        """Whether its choice is that of the depth."""
        return self.strategy == TIED and bool(self.depth)

    @property
    def free(self) -> Rows:
        """The choices of each position that is chosen by itself."""
        return self.choices[:1] if self.common else self.choices

    @cached_property
    def ways(self) -> Rows:
        """[i][k]: how many combinations of positions i, i+1 … begin with choice k of position i."""
        return self.weighed(tuple((1,) * len(row) for row in self.free))

    def weighed(self, weights: Rows) -> Rows:
        """`ways`, where a combination counts as often as the product of its choices' weights says."""
        rows: list[tuple[int, ...]] = [weights[-1]]
        for here, after, own in zip(self.free[-2::-1], self.free[:0:-1], weights[-2::-1], strict=True):
            later = list(zip(after, rows[-1], strict=True))
            rows.append(
                tuple(
                    w * sum(n for u, n in later if u >= v or not self.ascending) for v, w in zip(here, own, strict=True)
                )
            )
        return tuple(reversed(rows))

    def count(self) -> int:
        """How many combinations there are."""
        return sum(self.ways[0])

    def at(self, i: int) -> Width:
        """The i-th combination, in the order of `values`."""
        return self.pack(self.find(i, self.ways)[0])

    def find(self, i: int, ways: Rows, weights: Rows | None = None) -> tuple[tuple[int, ...], int]:
        """The i-th combination, each repeated by its weight; and which of its repetitions that is."""
        out: list[int] = []
        times = 1
        for p, choices in enumerate(self.free):
            for k, v in enumerate(choices):
                if self.ascending and out and v < out[-1]:
                    continue
                if i < times * ways[p][k]:
                    out.append(v)
                    times *= weights[p][k] if weights else 1
                    break
                i -= times * ways[p][k]
        return self.spread(out), i

    def values(self) -> Iterator[Width]:
        """Every combination, ascending; the last position changes fastest."""
        return map(self.pack, map(self.spread, self._tails(0, ())))

    def _tails(self, at: int, head: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if at == len(self.free):
            yield head
            return
        for v in self.free[at]:
            if not (self.ascending and head and v < head[-1]):
                yield from self._tails(at + 1, (*head, v))

    def spread(self, values: Sequence[int]) -> tuple[int, ...]:
        """The values of all positions from those of the positions that are free."""
        return tuple(values) * (len(self.choices) if self.common else 1)

    def given(self, depth: Sequence[int], depths: Rows) -> Rows:
        """What is left of each position at a combination of the depth, whose choices are `depths`."""
        if self.tied:
            return tuple((row[of.index(v)],) for row, of, v in zip(self.choices, depths, depth, strict=True))
        there = self.active(depth)
        return tuple(row if on else (v,) for row, on, v in zip(self.choices, there, self.rest, strict=True))

    def active(self, depth: Sequence[int]) -> list[bool]:
        """Of a block_wise one: whether each slot has a block at this depth."""
        slots = len(self.choices) // len(depth)
        return [i < d for d in depth for i in range(slots)]

    def at_epoch(self, epoch: int) -> Dim:
        """With the choices of an epoch (from 1); without phases of its own."""
        if not self.phases:
            return self
        rows = self.phases[bisect_right([first for first, _ in self.phases], epoch) - 1][1]
        return self.with_choices(rows)

    def with_choices(self, rows: Rows) -> Dim:
        """With other choices, and no phases."""
        return Dim(self.key, rows, self.scalar, self.ascending, self.strategy, self.depth, self.rest)

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
        if self.common:  # the nearest to all positions together
            found = self.unpack(value)
            return [min(self.choices[0], key=lambda v: (sum(abs(v - t) for t in found), v))] * len(found)
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
    """A dimension from `32`, `[64, 128]`, `{choices: …}`, `{start: …, end: …, step: …}` or `{min: …, max: …,
    stride: …}`, `ascending: true` or not.

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
    keys = BOUND_KEYS if any(name in spec for name in BOUND_KEYS) else RANGE_KEYS
    ranged = [name for name in (*RANGE_KEYS, *BOUND_KEYS) if name in spec]
    if "choices" in spec and ranged:
        wrong.append(f"{key} must have choices, or {_words(keys)}; not both")
    elif "choices" in spec:
        return _choices(key, spec["choices"], wrong)
    elif sorted(ranged) == sorted(keys):
        bounds = [spec[name] for name in keys]
        return _range(key, keys, _broadcast(bounds) if keys is BOUND_KEYS else bounds, wrong)
    elif any(name not in keys for name in ranged):
        wrong.append(f"{key} must have {_words(RANGE_KEYS)}, or {_words(BOUND_KEYS)}; not both")
    elif ranged or not unknown:
        missing = [name for name in keys if name not in spec]
        lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        wrong.append(f"{key} must have choices, or {_words(keys)}; {lacks}")
    return [], False


def _words(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:-1])} and {keys[-1]}"


def _broadcast(bounds: list[Any]) -> list[Any]:
    """Ints beside lists stand for every position."""
    lengths = [len(bound) for bound in bounds if is_ints(bound)]
    return [[bound] * lengths[0] if lengths and is_int(bound) else bound for bound in bounds]


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


def _range(key: str, keys: Sequence[str], bounds: list[Any], wrong: list[str]) -> tuple[list[list[int]], bool]:
    first, last, by_name = keys
    start, end, step = bounds
    scalar = all(map(is_int, bounds))
    rows = [(start, end, step)] if scalar else []
    if not scalar and all(map(is_ints, bounds)):
        if not len(start) == len(end) == len(step):
            lengths = f"{len(start)}, {len(end)} and {len(step)}"
            wrong.append(f"{key}: {_words(keys)} must be lists of one length, not of {lengths}")
            return [], False
        rows = list(zip(start, end, step, strict=True))
    if not rows:
        found = f"{start!r}, {end!r} and {step!r}"
        wrong.append(f"{key}: {_words(keys)} must be three ints, or three lists of ints, not {found}")
    out = []
    for i, (low, high, by) in enumerate(rows):
        name = key if scalar else f"{key}[{i}]"
        if by < 1:
            wrong.append(f"{name}: the {by_name} must be at least 1, not {by}")
        elif low > high:
            wrong.append(f"{name}: the {first} must not be above the {last}, but {low} > {high}")
        elif (high - low) // by >= MAX_CHOICES:
            wrong.append(f"{name}: a position must have at most {MAX_CHOICES} values, not {(high - low) // by + 1}")
        else:
            out.append(list(range(low, high + 1, by)))  # the end only where a step hits it
    return out, scalar
