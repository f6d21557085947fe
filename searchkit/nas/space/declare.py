"""How a config declares the choices of a dimension: an int, a list of ints, choices, or a range. Each fault is told at
its own place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.nas.space.dim import Dim
from searchkit.nas.space.order import Rows
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import is_int

MAX_CHOICES = 10_000  # of one position: more is a slip of the pen, and would only eat memory
RANGE_KEYS = ("start", "end", "step")
BOUND_KEYS = ("min", "max", "stride")  # the same, where an int stands for all positions
DIM_KEYS = ("choices", *RANGE_KEYS, *BOUND_KEYS, "ascending")


@dataclass(frozen=True)
class Choices:
    """The choices of each position in the order declared, whether there is but one, and where those of each stand."""

    rows: Rows
    scalar: bool
    places: tuple[Cursor, ...]


def read_dim(key: str, at: Cursor) -> Dim | None:
    """The dimension `key` from `32`, `[64, 128]`, `{choices: …}`, `{start: …, end: …, step: …}` or `{min: …, max: …,
    stride: …}`, `ascending: true` or not. None where a fault was reported."""
    choices = read_choices(at)
    return None if choices is None else dim_of(key, choices, at)


def dim_of(key: str, choices: Choices, at: Cursor) -> Dim | None:
    """The dimension of these choices, ascending where `at` says so."""
    given = at.get("ascending")
    ascending = given is not None and given.data is True
    if given is not None and not isinstance(given.data, bool):
        given.fault(f"must be true or false, not {given.shown}")
        return None
    if given is not None and ascending and choices.scalar:
        given.fault("it has one value, and can't be ascending; only a list of values can")
        return None
    try:
        return Dim(key, choices.rows, choices.scalar, ascending)
    except UsageError as e:
        at.fault(e.message)
        return None


def read_choices(at: Cursor, least: int = 0) -> Choices | None:
    """The choices that a declaration gives, each of at least `least`; None where a fault was reported."""
    node = at.node
    if is_int(node.data):
        return Choices(((node.data,),), True, (at,)) if _is_at_least(at, least) else None
    if node.kind == "list" and node.items and not any(item.kind == "list" for item in node.items):
        values = read_ints(at, least)
        return None if values is None else Choices(tuple((v,) for v in values), False, tuple(at.items))
    if node.kind != "map":
        at.fault(f"must be an int, a list of ints, {{choices}} or {{start, end, step}}, not {at.shown}")
        return None
    known = at.check_keys(DIM_KEYS)
    keys = BOUND_KEYS if any(name in at for name in BOUND_KEYS) else RANGE_KEYS
    ranged = [name for name in node.entries if name in (*RANGE_KEYS, *BOUND_KEYS)]
    mixed = [name for name in ranged if name not in keys]
    choices = None
    if "choices" in at and ranged:
        at.fault_of_key(ranged[0], f"must have choices, or {_words(keys)}; not both")
    elif "choices" in at:
        choices = read_listed(at["choices"], least)
    elif mixed:
        at.fault_of_key(mixed[0], f"must have {_words(RANGE_KEYS)}, or {_words(BOUND_KEYS)}; not both")
    elif len(ranged) == len(keys):
        choices = _range(at, keys, least)
    elif ranged or known:
        missing = [name for name in keys if name not in at]
        lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        at.fault(f"must have choices, or {_words(keys)}; {lacks}")
    return choices if known else None


def read_listed(at: Cursor, least: int = 0) -> Choices | None:
    """A list of choices, or for each position a list of them; an int there stands for one that does not vary."""
    if at.node.kind != "list" or not at.node.items:
        at.fault(f"must be a list of ints, or a list of such lists for each position, not {at.shown}")
        return None
    if not any(item.kind == "list" for item in at.node.items):
        values = read_ints(at, least, distinct=True)
        return None if values is None else Choices((tuple(values),), True, (at,))
    rows = [read_row(item, least, distinct=True) for item in at.items]
    good = tuple(tuple(row) for row in rows if row is not None)
    return Choices(good, False, tuple(at.items)) if len(good) == len(rows) else None


def read_row(at: Cursor, least: int | None = 0, *, distinct: bool = False) -> list[int] | None:
    """The choices of one position: ints, or one int."""
    if is_int(at.data):
        return [at.data] if _is_at_least(at, least) else None
    return read_ints(at, least, distinct=distinct)


def read_ints(at: Cursor, least: int | None = 0, *, distinct: bool = False) -> list[int] | None:
    """A list of ints that is not empty."""
    if at.node.kind != "list" or not at.node.items:
        at.fault(f"must be an int, or a list of ints, not {at.shown}")
        return None
    good: list[int] = []
    for item in at.items:
        if not is_int(item.data):
            item.fault(f"must be an int, not {item.shown}")
        elif _is_at_least(item, least):
            if distinct and item.data in good:
                item.fault(f"{item.data} is listed twice")
            else:
                good.append(item.data)
    return good if len(good) == len(at.node.items) else None


def _is_at_least(at: Cursor, least: int | None) -> bool:
    if least is not None and at.data < least:
        at.fault(f"must be at least {least}, not {at.data}")
        return False
    return True


def _words(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:-1])} and {keys[-1]}"


def _range(at: Cursor, keys: Sequence[str], least: int) -> Choices | None:
    """From the first to the last of `keys`, by the third; lists of them for several positions."""
    first, last, step = (at[name] for name in keys)
    given = (first, last, step)
    read = [_bound(bound, least if bound is first else None) for bound in given]
    bounds = [numbers for numbers in read if numbers is not None]
    if len(bounds) < len(given):
        return None
    listed = [bound for bound in given if bound.node.kind == "list"]
    ints = [bound for bound in given if bound.node.kind != "list"]
    if listed and ints and tuple(keys) == RANGE_KEYS:
        ints[0].fault(f"{_words(keys)} must be three ints, or three lists of ints, not {_each_shown(at, keys)}")
        return None
    n = len(listed[0].node.items) if listed else 1
    if uneven := [bound for bound in listed if len(bound.node.items) != n]:
        lengths = [str(len(bound.node.items)) for bound in listed]
        uneven[0].fault(
            f"{_words(keys)} must be lists of one length, not of {', '.join(lengths[:-1])} and {lengths[-1]}"
        )
        return None
    rows = [_steps(keys, [numbers[i % len(numbers)] for numbers in bounds]) for i in range(n)]
    good = tuple(row for row in rows if row is not None)
    places = tuple(listed[0].items) if listed else (at,)
    return Choices(good, not listed, places) if len(good) == n else None


def _each_shown(at: Cursor, keys: Sequence[str]) -> str:
    shown = [at[name].shown for name in keys]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _bound(at: Cursor, least: int | None) -> list[Cursor] | None:
    """Where the numbers of a bound stand: one, or one for each position."""
    if is_int(at.data):
        return [at] if _is_at_least(at, least) else None
    return None if read_ints(at, least) is None else at.items


def _steps(keys: Sequence[str], bounds: Sequence[Cursor]) -> tuple[int, ...] | None:
    start, end, step = bounds
    low, high, by = (bound.data for bound in bounds)
    n = (high - low) // by + 1 if by >= 1 else 0
    if by < 1:
        step.fault(f"must be at least 1, not {by}")
    elif low > high:
        start.fault(f"must not be above the {keys[1]}, but {low} > {high}")
    elif n > MAX_CHOICES:
        end.fault(f"a position must have at most {MAX_CHOICES} values, not {n}")
    else:
        return tuple(range(low, high + 1, by))  # the end only where a step hits it
    return None
