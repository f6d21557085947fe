"""Dimensions as a config declares them: what a sampling strategy adds to a list of choices (scheduled.py: a schedule).

The strategies are those of United-Perception's BigNAS: https://github.com/ModelTC/United-Perception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.blocks import slots_of, without_blocks
from searchkit.nas.space.declare import BOUND_KEYS, DIM_KEYS, MAX_CHOICES, Choices, dim_of, read_choices, read_listed
from searchkit.nas.space.dim import BLOCK_WISE, NET_INDEX, NET_WISE, STAGE_WISE, STRATEGIES, TIED, Dim, unlike
from searchkit.nas.space.order import Slope
from searchkit.nas.space.scheduled import SCHEDULE, SCHEDULE_KEYS, Steps, read_schedule, scheduled
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import is_int

# The strategies whose values don't fall from stage to stage, or block to block, and what they are beside `ascending:
# true`.
ORDERED = {"ordered_stage_wise": STAGE_WISE, "ordered_stage_wise_depth": TIED, "ordered_block_wise": BLOCK_WISE}
STEEP = ("ordered_stage_wise", "ordered_stage_wise_depth")  # those whose slope may have limits
NAME, KWARGS = "name", "kwargs"  # of a strategy with limits
SLOPE_KEYS = ("min_slope", "max_slope", "start_stage", "end_stage")
STRATEGY, SPACE = "sample_strategy", "space"
KEYS = (*DIM_KEYS, STRATEGY, SCHEDULE, SPACE, *SCHEDULE_KEYS)


@dataclass(frozen=True)
class _Declared:
    """One dimension by its choices alone, and where what else is declared of it stands."""

    dim: Dim
    at: Cursor
    places: tuple[Cursor, ...]  # of the choices of each position
    strategy: Cursor | None = None  # its name
    slope: Slope = field(default_factory=Slope)
    schedule: Cursor | None = None
    steps: Steps = ()


def read_dims(parts: Mapping[str, Cursor]) -> tuple[Dim, ...]:
    """The dimensions of a space by name, in the order declared; one with a fault is left out."""
    declared = {key: each for key, at in parts.items() if (each := _declared(key, at)) is not None}
    dims = []
    for key, each in declared.items():
        sibling = f"{key.rpartition('.')[0]}.depth".removeprefix(".")
        depth = declared[sibling].dim if sibling in declared and sibling != key else None
        strategy = _plain(each.strategy.node.text) if each.strategy else ""
        if depth is None and sibling in parts and sibling != key and strategy in (TIED, BLOCK_WISE):
            continue  # the fault is the depth's
        dim = _with(each, strategy, depth, sibling)
        if dim is not None and each.schedule is not None:
            dim = scheduled(dim, each.schedule, each.steps, depth)
        if dim is not None:
            dims.append(dim)
    return tuple(dims)


def _declared(key: str, at: Cursor) -> _Declared | None:
    if at.is_broken:
        return None
    if at.node.kind != "map":
        choices = read_choices(at)
        dim = None if choices is None else dim_of(key, choices, at)
        return None if choices is None or dim is None else _Declared(dim, at, choices.places)
    report = at.report
    faults = len(report.faults)
    at.check_keys(KEYS)
    strategy, slope = _strategy(at[STRATEGY]) if STRATEGY in at else (None, Slope())
    plain = _with_inner(at)
    schedule = at[SCHEDULE] if SCHEDULE in at and not at[SCHEDULE].node.is_null else None
    choices, steps = None, None
    beside = [name for name in SCHEDULE_KEYS if name in at]
    given = [name for name in plain.node.entries if name != "ascending"]
    if beside:
        if schedule is not None or given:
            at.fault_of_key(beside[0], f"write boundary and value below `{SCHEDULE}:` where there are other keys")
        schedule = at.only(SCHEDULE_KEYS)
    if schedule is not None:
        steps = read_schedule(schedule)
    if beside and steps:
        choices = _last_choices(steps[-1][1])
    elif given or len(report.faults) == faults:
        choices = read_choices(plain)
    dim = None if choices is None else dim_of(key, choices, plain)
    if dim is not None and strategy is not None and strategy.node.text in STEEP:
        dim = _ordered(dim, strategy, slope)
    if choices is None or dim is None or len(report.faults) > faults:
        return None
    return _Declared(dim, at, choices.places, strategy, slope, schedule, steps or ())


def _plain(strategy: str) -> str:
    return ORDERED.get(strategy, strategy)


def _strategy(at: Cursor) -> tuple[Cursor | None, Slope]:
    """Where the name of a strategy stands, `net_wise` or `{name: …, kwargs: …}`, and the slope that it says. Faults are
    reported."""
    name = at
    if at.node.kind == "map":
        at.check_keys((NAME, KWARGS))
        if NAME not in at:
            at.fault(f"a {STRATEGY} with limits is {{{NAME}: …, {KWARGS}: {{…}}}}, but there is no {NAME}")
            return None, Slope()
        name = at[NAME]
    known = (*STRATEGIES, *ORDERED)
    if name.node.text not in known:
        name.fault(f"unknown {STRATEGY} {name.shown}{did_you_mean(name.node.text, known)}")
        return name, Slope()
    limits = at.get(KWARGS) if name is not at else None
    if limits is None or limits.node.is_null:
        return name, Slope()
    if name.node.text not in STEEP:
        limits.fault(f"{name.node.text} has no limits; {' and '.join(STEEP)} have")
        return name, Slope()
    return name, _slope(limits)


def _slope(at: Cursor) -> Slope:
    """The limits of a slope; faults are reported."""
    if at.node.kind != "map":
        at.fault(f"must be a mapping with {', '.join(SLOPE_KEYS)}, not {at.shown}")
        return Slope()
    at.check_keys(SLOPE_KEYS)
    least, most, first, last = (at.get(key) for key in SLOPE_KEYS)
    values = {"least": least, "most": most, "first": first, "last": last}
    given = {name: each for name, each in values.items() if each is not None and not each.node.is_null}
    for name, each in given.items():
        number = isinstance(each.data, int | float) and not isinstance(each.data, bool)
        if name in ("least", "most") and not (number and 0 < each.data < math.inf):
            each.fault(f"must be a number above 0, how many times the value before, not {each.shown}")
            return Slope()
        if name in ("first", "last") and not (is_int(each.data) and each.data >= 0):
            each.fault(f"must be a position, a whole number from 0 on, not {each.shown}")
            return Slope()
    slope = Slope(**{name: each.data for name, each in given.items()})
    if slope.most < slope.least:
        at.fault(f"max_slope must not be below min_slope, but {slope.most:g} < {slope.least:g}")
    elif slope.last is not None and slope.last <= slope.first:
        at.fault(f"end_stage must be above start_stage, but {slope.last} <= {slope.first}")
    else:
        return slope
    return Slope()


def _ordered(dim: Dim, strategy: Cursor, slope: Slope) -> Dim | None:
    """A dimension whose values follow each other so; None where it can't have any."""
    if dim.scalar:
        strategy.fault(f"can't be {strategy.node.text}: it has one value, and only a list of values has an order")
        return None
    try:
        return replace(dim, ascending=True, slope=slope)
    except UsageError as e:
        strategy.fault(e.message)
        return None


def _with_inner(at: Cursor) -> Cursor:
    """The keys about choices, also those below `space:`."""
    plain = at.only(DIM_KEYS)
    if SPACE not in at:
        return plain
    inner = at[SPACE]
    if inner.node.kind != "map" or set(inner.node.entries) & set(plain.node.entries):
        twice = [name for name in inner.node.entries if name in plain]
        inner.fault(
            f"{twice[0]} is there twice"
            if twice
            else f"must be a mapping with {', '.join(BOUND_KEYS)}, not {inner.shown}"
        )
        return plain
    return replace(plain, node=replace(plain.node, entries={**plain.node.entries, **inner.node.entries}))


def _last_choices(value: Cursor) -> Choices | None:
    """The choices of a dimension that only has a schedule: those of its last value."""
    if is_int(value.data):
        return Choices(((value.data,),), True, (value,))
    return read_listed(value)


# --- strategies ------------------------------------------------------------------------------------------------------


def _with(each: _Declared, strategy: str, depth: Dim | None, sibling: str) -> Dim | None:
    """A dimension with its strategy; `sibling` names the depth beside it, or itself. None where there is a fault."""
    dim = each.dim
    if each.strategy is None:
        return dim
    is_depth = sibling == dim.key
    if reason := _impossible(dim, strategy, depth, sibling):
        valid = [other for other in STRATEGIES if not _impossible(dim, other, depth, sibling)]
        each.strategy.fault(f"can't be {strategy}: {reason} (valid: {', '.join(valid)})")
        return None
    if dim.ascending and (strategy in (NET_WISE, NET_INDEX) or (strategy == TIED and not is_depth)):
        each.strategy.fault(
            f"{dim.key} is ascending, which can't go with {strategy}, only with {STAGE_WISE} and {BLOCK_WISE}"
        )
        return None
    if strategy in (NET_WISE, NET_INDEX):
        if (uneven := unlike(strategy, dim.key, dim.choices)) is not None:
            each.places[uneven[0]].fault(uneven[1])
            return None
        return dim if dim.scalar else Dim(dim.key, dim.choices, strategy=strategy)
    if strategy == STAGE_WISE or is_depth:
        return dim
    assert depth is not None
    return _tied(each, depth) if strategy == TIED else _block_wise(each, depth)


def _impossible(dim: Dim, strategy: str, depth: Dim | None, sibling: str) -> str:
    """Why a dimension can't have a strategy, whatever its choices; empty where it can."""
    if strategy in (STAGE_WISE, TIED, NET_INDEX) and dim.scalar:
        return "it has one int, not a list with one for each stage"
    if sibling == dim.key:
        return "it is a depth itself, and has no blocks of its own" if strategy == BLOCK_WISE else ""
    if strategy in (TIED, BLOCK_WISE):
        if depth is None:
            return f"that needs {sibling}, which is not declared"
        if depth.scalar:
            return f"that needs {sibling} to have one value for each stage, not one int"
    return ""


def _tied(each: _Declared, depth: Dim) -> Dim | None:
    dim = each.dim
    if not _fits(each, depth, len(dim.choices) == len(depth.choices)):
        return None
    uneven = [i for i, (row, of) in enumerate(zip(dim.choices, depth.choices, strict=True)) if len(row) != len(of)]
    for i in uneven:
        row, of = dim.choices[i], depth.choices[i]
        each.places[i].fault(
            f"{dim.key} is {TIED}, so it must have as many choices as {depth.key}, but {dim.key}[{i}] has {len(row)} "
            f"{list(row)} and {depth.key}[{i}] has {len(of)} {list(of)}"
        )
    return None if uneven else Dim(dim.key, dim.choices, strategy=TIED, depth=depth.key)


def _block_wise(each: _Declared, depth: Dim) -> Dim | None:
    dim, stages, slots = each.dim, len(depth.choices), slots_of(depth)
    if stages * slots > MAX_CHOICES:
        each.at.fault(
            f"can't be {BLOCK_WISE}: {depth.key} asks for {stages * slots:,} blocks, more than {MAX_CHOICES:,}"
        )
        return None
    rows = dim.choices * stages if dim.scalar else dim.choices
    if not _fits(each, depth, len(rows) in (stages, stages * slots)):
        return None
    if len(rows) == stages:
        rows = tuple(row for row in rows for _ in range(slots))
    ascending = dim.ascending or (each.strategy is not None and each.strategy.node.text in ORDERED)
    rest, deepest = tuple(row[0] for row in rows), tuple(row[-1] for row in depth.choices) if ascending else ()
    rows = without_blocks(rows, rest, depth)
    try:
        blocks = Dim(dim.key, rows, False, ascending, BLOCK_WISE, depth.key, rest, deepest=deepest)
    except UsageError as e:
        each.at.fault(e.message)
        return None
    return replace(blocks, rest=tuple(row[0] for row in blocks.choices))


def _fits(each: _Declared, depth: Dim, fits: bool) -> bool:
    if not fits:
        stages, values = len(depth.choices), len(each.dim.choices)
        each.at.fault(f"must have a value for each stage of {depth.key}, which has {stages}, not {values}")
    return fits
