"""Dimensions as a config declares them: what a sampling strategy and a schedule add to a list of choices.

The strategies are those of United-Perception's BigNAS, the schedules those of aw_nas:
https://github.com/ModelTC/United-Perception, https://github.com/walkerning/aw_nas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.declare import (
    BOUND_KEYS,
    DIM_KEYS,
    Choices,
    dim_of,
    read_choices,
    read_listed,
    read_row,
)
from searchkit.nas.space.dim import BLOCK_WISE, NET_WISE, STAGE_WISE, STRATEGIES, TIED, Dim, Rows
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import is_int

# The strategies whose values don't fall from stage to stage, and what they are beside `ascending: true`. BigNAS' limits
# of their slope are no part of it.
ORDERED = {"ordered_stage_wise": STAGE_WISE, "ordered_stage_wise_depth": TIED}
STRATEGY, SCHEDULE, SPACE = "sample_strategy", "schedule", "space"
SCHEDULE_KEYS = ("boundary", "value")
KEYS = (*DIM_KEYS, STRATEGY, SCHEDULE, SPACE, *SCHEDULE_KEYS)

Steps = tuple[tuple[int, Cursor], ...]  # of a schedule: the epoch that each value begins at, and the value


@dataclass(frozen=True)
class _Declared:
    """One dimension by its choices alone, and where what else is declared of it stands."""

    dim: Dim
    at: Cursor
    places: tuple[Cursor, ...]  # of the choices of each position
    strategy: Cursor | None = None
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
            dim = _scheduled(dim, each.schedule, each.steps, depth)
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
    strategy = at.get(STRATEGY)
    known = (*STRATEGIES, *ORDERED)
    if strategy is not None and strategy.node.text not in known:
        strategy.fault(f"unknown {STRATEGY} {strategy.shown}{did_you_mean(strategy.node.text, known)}")
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
    if dim is not None and strategy is not None and strategy.node.text in ORDERED:
        dim = _ordered(dim, strategy)
    if choices is None or dim is None or len(report.faults) > faults:
        return None
    return _Declared(dim, at, choices.places, strategy, schedule, steps or ())


def _plain(strategy: str) -> str:
    return ORDERED.get(strategy, strategy)


def _ordered(dim: Dim, strategy: Cursor) -> Dim | None:
    """A dimension whose values don't fall; None where it can't have any."""
    if dim.scalar:
        strategy.fault(f"can't be {strategy.node.text}: it has one value, and only a list of values has an order")
        return None
    try:
        return replace(dim, ascending=True)
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
    if dim.ascending and (strategy in (NET_WISE, BLOCK_WISE) or (strategy == TIED and not is_depth)):
        each.strategy.fault(f"{dim.key} is ascending, which can't go with {strategy}, only with {STAGE_WISE}")
        return None
    if strategy == NET_WISE:
        if (other := _unlike(dim.choices)) is not None:
            each.places[other].fault(_unlike_text(dim.key, dim.choices, other))
            return None
        return dim if dim.scalar else Dim(dim.key, dim.choices, strategy=strategy)
    if strategy == STAGE_WISE or is_depth:
        return dim
    assert depth is not None
    return _tied(each, depth) if strategy == TIED else _block_wise(each, depth)


def _impossible(dim: Dim, strategy: str, depth: Dim | None, sibling: str) -> str:
    """Why a dimension can't have a strategy, whatever its choices; empty where it can."""
    if strategy in (STAGE_WISE, TIED) and dim.scalar:
        return "it has one int, not a list with one for each stage"
    if sibling == dim.key:
        return "it is a depth itself, and has no blocks of its own" if strategy == BLOCK_WISE else ""
    if strategy in (TIED, BLOCK_WISE):
        if depth is None:
            return f"that needs {sibling}, which is not declared"
        if depth.scalar:
            return f"that needs {sibling} to have one value for each stage, not one int"
    return ""


def _unlike(rows: Rows) -> int | None:
    """The first position whose choices are not those of the first one."""
    return next((i for i, row in enumerate(rows) if row != rows[0]), None)


def _unlike_text(key: str, rows: Rows, i: int) -> str:
    return (
        f"{key} is {NET_WISE}, so all positions must have the same choices, but {key}[0] has {list(rows[0])} and "
        f"{key}[{i}] has {list(rows[i])}"
    )


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


def _slots(depth: Dim) -> int:
    """Slots for each stage: for the deepest one, and at least 2, so that no list of slots is one of stages."""
    return max(2, *(row[-1] for row in depth.choices))


def _block_wise(each: _Declared, depth: Dim) -> Dim | None:
    dim, stages, slots = each.dim, len(depth.choices), _slots(depth)
    rows = dim.choices * stages if dim.scalar else dim.choices
    if not _fits(each, depth, len(rows) in (stages, stages * slots)):
        return None
    if len(rows) == stages:
        rows = tuple(row for row in rows for _ in range(slots))
    rest = tuple(row[0] for row in rows)
    rows = _without_blocks(rows, rest, depth)
    return Dim(dim.key, rows, strategy=BLOCK_WISE, depth=depth.key, rest=rest)


def _without_blocks(rows: Rows, rest: tuple[int, ...], depth: Dim) -> Rows:
    """With nothing but `rest` in slots that never have a block."""
    slots = _slots(depth)
    return tuple(row if i % slots < depth.choices[i // slots][-1] else (rest[i],) for i, row in enumerate(rows))


def _fits(each: _Declared, depth: Dim, fits: bool) -> bool:
    if not fits:
        stages, found = len(depth.choices), len(each.dim.choices)
        each.at.fault(f"must have a value for each stage of {depth.key}, which has {stages}, not {found}")
    return fits


# --- schedules -------------------------------------------------------------------------------------------------------


def read_schedule(at: Cursor) -> Steps | None:
    """The steps of `{boundary: [1, 81], value: [a, b]}`, whatever the values are; None where a fault was reported."""
    node, faults = at.node, len(at.report.faults)
    if node.kind != "map":
        at.fault(f"a schedule must be {{boundary, value}}, not {at.shown}")
        return None
    at.check_keys(SCHEDULE_KEYS)
    if missing := [name for name in SCHEDULE_KEYS if name not in at]:
        at.fault(f"a schedule has the keys boundary and value, but lacks {' and '.join(missing)}")
    lists = [at[name] for name in SCHEDULE_KEYS if name in at]
    for each in lists:
        if each.node.kind != "list" or not each.node.items:
            each.fault(f"boundary and value of a schedule must be lists, not {each.shown}")
    if len(at.report.faults) > faults:
        return None
    boundary, value = (at[name].items for name in SCHEDULE_KEYS)
    if len(boundary) != len(value):
        at["value"].fault(f"boundary and value must be of one length, but have {len(boundary)} and {len(value)}")
    before = 0
    for epoch in boundary:
        number = epoch.data
        if not is_int(number):
            epoch.fault(f"boundary must be epochs, whole numbers from 1 on, not {epoch.shown}")
        elif epoch is boundary[0] and number != 1:
            epoch.fault(f"boundary must start at epoch 1, not {number}")
        elif number <= before:
            epoch.fault(f"boundary must ascend, but {number} follows {before}")
        before = number if is_int(number) else before
    if len(at.report.faults) > faults:
        return None
    return tuple((epoch.data, each) for epoch, each in zip(boundary, value, strict=True))


def _scheduled(dim: Dim, schedule: Cursor, steps: Steps, depth: Dim | None) -> Dim | None:
    """A dimension with its phases; None where a fault was reported."""
    if dim.tied:
        schedule.fault(f"{dim.key} can't have a {SCHEDULE}: it follows {dim.depth}, whose {SCHEDULE} narrows both")
        return None
    read = [_narrow(dim, epoch, value, depth) for epoch, value in steps]
    phases = [(epoch, rows) for (epoch, _), rows in zip(steps, read, strict=True) if rows is not None]
    if len(phases) < len(steps):
        return None
    lost = False
    for i, (row, last) in enumerate(zip(dim.choices, phases[-1][1], strict=True)):
        if never := [v for v in row if v not in last]:
            lost = True
            steps[-1][1].fault(
                f"the last value narrows below the space: {', '.join(map(str, never))} of {_place(dim, i)} would never "
                "be trained"
            )
    if lost:
        return None
    return Dim(dim.key, dim.choices, dim.scalar, dim.ascending, dim.strategy, dim.depth, dim.rest, tuple(phases))


def _place(dim: Dim, i: int) -> str:
    return dim.key if dim.scalar else f"{dim.key}[{i}]"


def _narrow(dim: Dim, epoch: int, value: Cursor, depth: Dim | None) -> Rows | None:
    """The choices of every position from an epoch on."""
    rows = _phase(dim, value, depth)
    if rows is None:
        return None
    if empty := [_place(dim, i) for i, row in enumerate(rows) if not row]:
        value.fault(f"the value from epoch {epoch} on leaves {', '.join(empty)} without a choice")
        return None
    try:
        narrow = dim.with_choices(rows)
    except UsageError as e:
        value.fault(f"the value from epoch {epoch} on leaves nothing: {e.message}")
        return None
    if dim.common and (other := _unlike(narrow.choices)) is not None:
        value.fault(f"from epoch {epoch} on {_unlike_text(dim.key, narrow.choices, other)}")
        return None
    return rows


def _phase(dim: Dim, value: Cursor, depth: Dim | None) -> Rows | None:
    """What of the choices of every position is in a value: ints for all positions, or such a list for each."""
    n, items = len(dim.choices), value.items or [value]
    faults = len(value.report.faults)
    if not any(item.node.kind == "list" for item in items):
        row = read_row(value, None)
        if row is None:
            return None
        given = [row] * n
        for item in items:
            if not any(item.data in of for of in dim.choices):
                item.fault(f"widens above the space: {item.data} is no choice of {dim.key}")
    else:
        rows = [read_row(item, None) for item in items]
        given = [row for row in rows if row is not None]
        if len(given) < len(rows):
            return None
        times = _slots(depth) if dim.rest and depth is not None and len(given) == len(depth.choices) else 1
        if dim.scalar or len(given) * times != n:
            needed = "a list of ints" if dim.scalar else f"{n} lists, one for each position"
            value.fault(f"must be {needed}, not {value.shown}")
            return None
        given = [row for row in given for _ in range(times)]
        for i, of in enumerate(dim.choices):
            position = items[i // times]
            for item in position.items or [position]:
                v = item.data
                if v not in of and not (dim.rest and of == (dim.rest[i],)):
                    item.fault(f"widens above the space: {v} is no choice of {_place(dim, i)}")
    if len(value.report.faults) > faults:
        return None
    rows_left = tuple(tuple(v for v in row if v in new) for row, new in zip(dim.choices, given, strict=True))
    return _without_blocks(rows_left, dim.rest, depth) if dim.rest and depth is not None else rows_left
