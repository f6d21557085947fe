"""Schedules of dimensions: what of their choices there is from an epoch on.

They are those of aw_nas: https://github.com/walkerning/aw_nas.
"""

from __future__ import annotations

from dataclasses import replace

from searchkit.errors import UsageError
from searchkit.nas.space.blocks import slots_of, without_blocks
from searchkit.nas.space.declare import read_row
from searchkit.nas.space.dim import NET_INDEX, Dim, unlike
from searchkit.nas.space.order import Rows
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import is_int

SCHEDULE = "schedule"
SCHEDULE_KEYS = ("boundary", "value")

Steps = tuple[tuple[int, Cursor], ...]  # of a schedule: the epoch that each value begins at, and the value


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


def scheduled(dim: Dim, schedule: Cursor, steps: Steps, depth: Dim | None) -> Dim | None:
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
    return replace(dim, phases=tuple(phases))


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
    if dim.common and (uneven := unlike(dim.strategy, dim.key, narrow.choices)) is not None:
        value.fault(f"from epoch {epoch} on {uneven[1]}")
        return None
    if dim.strategy == NET_INDEX and (i := _renumbered(dim, narrow)) is not None:
        value.fault(
            f"from epoch {epoch} on {dim.key} must keep the choices of the same numbers at all positions, but keeps "
            f"{list(narrow.choices[dim.lead])} of {_place(dim, dim.lead)} and {list(narrow.choices[i])} of "
            f"{_place(dim, i)}"
        )
        return None
    return rows


def _renumbered(dim: Dim, narrow: Dim) -> int | None:
    """The first position that keeps choices of other numbers than the one that leads."""
    kept = [{k for k, v in enumerate(row) if v in left} for row, left in zip(dim.choices, narrow.choices, strict=True)]
    return next((i for i, row in enumerate(dim.choices) if len(row) > 1 and kept[i] != kept[dim.lead]), None)


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
        times = slots_of(depth) if dim.rest and depth is not None and len(given) == len(depth.choices) else 1
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
    return without_blocks(rows_left, dim.rest, depth) if dim.rest and depth is not None else rows_left
