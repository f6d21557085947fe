"""Dimensions as a config declares them: what a sampling strategy and a schedule add to a list of choices.

The strategies are those of United-Perception's BigNAS, the schedules those of aw_nas:
https://github.com/ModelTC/United-Perception, https://github.com/walkerning/aw_nas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.dim import (
    BLOCK_WISE,
    BOUND_KEYS,
    DIM_KEYS,
    NET_WISE,
    STAGE_WISE,
    STRATEGIES,
    TIED,
    Dim,
    Rows,
    is_ints,
    read_dim,
)
from searchkit.records.arch import is_int

STRATEGY, SCHEDULE, SPACE = "sample_strategy", "schedule", "space"
SCHEDULE_KEYS = ("boundary", "value")
KEYS = (*DIM_KEYS, STRATEGY, SCHEDULE, SPACE, *SCHEDULE_KEYS)


def read_dims(specs: Mapping[str, Any], wrong: list[str]) -> tuple[Dim, ...]:
    """The dimensions of a space in the order declared, by name; faults go to `wrong`, and leave their dimension out."""
    plain: dict[str, tuple[Dim, str, Any]] = {}
    for key, spec in specs.items():
        try:
            plain[key] = _plain(key, spec)
        except UsageError as e:
            wrong += e.message.split("\n")
    dims = []
    for key, (dim, strategy, schedule) in plain.items():
        sibling = f"{key.rpartition('.')[0]}.depth".removeprefix(".")
        depth = plain[sibling][0] if sibling in plain and sibling != key else None
        if depth is None and sibling in specs and sibling != key and strategy in (TIED, BLOCK_WISE):
            continue  # the fault is the depth's
        try:
            dims.append(_scheduled(_with(dim, strategy, depth, sibling), schedule, depth))
        except UsageError as e:
            wrong += e.message.split("\n")
    return tuple(dims)


def _plain(key: str, spec: Any) -> tuple[Dim, str, Any]:
    """The choices as declared, the strategy, the schedule. Raises UsageError with every fault, one a line."""
    if not isinstance(spec, Mapping):
        return read_dim(key, spec), "", None
    rest = {name: value for name, value in spec.items() if name in KEYS}
    strategy, schedule = rest.pop(STRATEGY, ""), rest.pop(SCHEDULE, None)
    wrong = [f"{key} has the unknown key {name!r}{did_you_mean(str(name), KEYS)}" for name in spec if name not in KEYS]
    if STRATEGY in spec and strategy not in STRATEGIES:
        wrong.append(f"{key} has the unknown {STRATEGY} {strategy!r}{did_you_mean(str(strategy), STRATEGIES)}")
    if SPACE in rest:
        inner = rest.pop(SPACE)
        if isinstance(inner, Mapping) and not set(inner) & set(rest):
            rest |= inner
        else:
            wrong.append(f"{key}.{SPACE} must be a mapping with {', '.join(BOUND_KEYS)}, not {inner!r}")
    if any(name in rest for name in SCHEDULE_KEYS):
        given = {name: rest.pop(name) for name in SCHEDULE_KEYS if name in rest}
        if schedule is not None or set(rest) - {"ascending"}:
            wrong.append(f"{key}: write boundary and value below `{SCHEDULE}:` where there are other keys")
        schedule = given
        if (faults := boundary_faults(given)) or not _is_choices(given["value"][-1]):
            last = given.get("value")
            wrong += [f"{key}: {what}" for what in faults or [f"value must be lists of ints, not {last!r}"]]
        else:
            rest["choices"] = _listed(given["value"][-1])
    elif schedule is not None:
        wrong += [f"{key}.{SCHEDULE}: {what}" for what in boundary_faults(schedule)]
    if not wrong or set(rest) - {"ascending"}:
        try:
            dim = read_dim(key, rest)
        except UsageError as e:
            wrong.append(e.message)
    if wrong:
        raise UsageError("\n".join(wrong))
    return dim, strategy, schedule


# --- strategies ------------------------------------------------------------------------------------------------------


def _with(dim: Dim, strategy: str, depth: Dim | None, sibling: str) -> Dim:
    """A dimension with its strategy; `sibling` names the depth beside it, or itself."""
    if not strategy:
        return dim
    is_depth = sibling == dim.key
    if reason := _impossible(dim, strategy, depth, sibling):
        valid = [each for each in STRATEGIES if not _impossible(dim, each, depth, sibling)]
        raise UsageError(f"{dim.key} can't have the {STRATEGY} {strategy}: {reason} (valid: {', '.join(valid)})")
    if dim.ascending and (strategy in (NET_WISE, BLOCK_WISE) or (strategy == TIED and not is_depth)):
        raise UsageError(f"{dim.key} can't be ascending with the {STRATEGY} {strategy}, only with {STAGE_WISE}")
    if strategy == NET_WISE:
        _same(dim.key, dim.choices, "")
        return dim if dim.scalar else Dim(dim.key, dim.choices, strategy=strategy)
    if strategy == STAGE_WISE or is_depth:
        return dim
    assert depth is not None
    return _tied(dim, depth) if strategy == TIED else _block_wise(dim, depth)


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


def _same(key: str, rows: Rows, what: str) -> None:
    other = next((i for i, row in enumerate(rows) if row != rows[0]), None)
    if other is not None:
        raise UsageError(
            f"{key} is {NET_WISE}, so all positions must have the same choices, but{what} {key}[0] has "
            f"{list(rows[0])} and {key}[{other}] has {list(rows[other])}"
        )


def _tied(dim: Dim, depth: Dim) -> Dim:
    _stages(dim, depth, len(dim.choices) == len(depth.choices))
    wrong = [
        f"{dim.key} is {TIED}, so it must have as many choices as {depth.key}, but {dim.key}[{i}] has {len(row)} "
        f"{list(row)} and {depth.key}[{i}] has {len(of)} {list(of)}"
        for i, (row, of) in enumerate(zip(dim.choices, depth.choices, strict=True))
        if len(row) != len(of)
    ]
    if wrong:
        raise UsageError("\n".join(wrong))
    return Dim(dim.key, dim.choices, strategy=TIED, depth=depth.key)


def _slots(depth: Dim) -> int:
    """Slots for each stage: for the deepest one, and at least 2, so that no list of slots is one of stages."""
    return max(2, *(row[-1] for row in depth.choices))


def _block_wise(dim: Dim, depth: Dim) -> Dim:
    stages, slots = len(depth.choices), _slots(depth)
    rows = dim.choices * stages if dim.scalar else dim.choices
    _stages(dim, depth, len(rows) in (stages, stages * slots))
    if len(rows) == stages:
        rows = tuple(row for row in rows for _ in range(slots))
    rest = tuple(row[0] for row in rows)
    rows = _without_blocks(rows, rest, depth)
    return Dim(dim.key, rows, strategy=BLOCK_WISE, depth=depth.key, rest=rest)


def _without_blocks(rows: Rows, rest: tuple[int, ...], depth: Dim) -> Rows:
    """With nothing but `rest` in slots that never have a block."""
    slots = _slots(depth)
    return tuple(row if i % slots < depth.choices[i // slots][-1] else (rest[i],) for i, row in enumerate(rows))


def _stages(dim: Dim, depth: Dim, fits: bool) -> None:
    if not fits:
        raise UsageError(
            f"{dim.key} must have a value for each stage of {depth.key}, which has {len(depth.choices)}, "
            f"not {len(dim.choices)}"
        )


# --- schedules -------------------------------------------------------------------------------------------------------


def boundary_faults(schedule: Any) -> list[str]:
    """What is wrong with `{boundary: [1, 81], value: [a, b]}`, whatever the values are."""
    if not isinstance(schedule, Mapping):
        return [f"a schedule must be {{boundary, value}}, not {schedule!r}"]
    if set(schedule) != set(SCHEDULE_KEYS):
        return [f"a schedule has the keys boundary and value, not {', '.join(map(str, schedule)) or 'none'}"]
    boundary, value = schedule["boundary"], schedule["value"]
    if not all(isinstance(part, (list, tuple)) and part for part in (boundary, value)):
        return [f"boundary and value of a schedule must be lists, not {boundary!r} and {value!r}"]
    wrong = []
    if len(boundary) != len(value):
        wrong.append(f"boundary and value must be of one length, but have {len(boundary)} and {len(value)}")
    if not is_ints(boundary):
        return [*wrong, f"boundary must be epochs, whole numbers from 1 on, not {list(boundary)}"]
    if boundary[0] != 1:
        wrong.append(f"boundary must start at epoch 1, not {boundary[0]}")
    if any(after <= before for before, after in pairwise(boundary)):
        wrong.append(f"boundary must ascend, but is {list(boundary)}")
    return wrong


def _is_choices(value: Any) -> bool:
    """An int, ints for all positions, or a list of these for each position."""
    rows = value if isinstance(value, (list, tuple)) else [value]
    return is_int(value) or is_ints(value) or (len(rows) > 0 and all(is_int(row) or is_ints(row) for row in rows))


def _listed(value: Any) -> Any:
    return [value] if is_int(value) else value


def _scheduled(dim: Dim, schedule: Any, depth: Dim | None) -> Dim:
    """A dimension with its phases."""
    if schedule is None:
        return dim
    if dim.tied:
        raise UsageError(f"{dim.key} can't have a {SCHEDULE}: it follows {dim.depth}, whose {SCHEDULE} narrows both")
    wrong: list[str] = []
    phases = []
    for epoch, value in zip(schedule["boundary"], schedule["value"], strict=True):
        where = f"{dim.key}: the value from epoch {epoch} on"
        found = len(wrong)
        rows = _phase(dim, value, depth, where, wrong)
        if len(wrong) == found:
            try:
                narrow = dim.with_choices(rows)
                _same(dim.key, narrow.choices, f" from epoch {epoch} on") if dim.common else None
                phases.append((epoch, rows))
            except UsageError as e:
                wrong.append(f"{where} leaves nothing: {e.message}" if dim.ascending else e.message)
    if not wrong:
        for i, (row, last) in enumerate(zip(dim.choices, phases[-1][1], strict=True)):
            if never := [v for v in row if v not in last]:
                wrong.append(
                    f"{_place(dim, i)}: the last value narrows below the space: {', '.join(map(str, never))} would "
                    "never be trained"
                )
    if wrong:
        raise UsageError("\n".join(wrong))
    return Dim(dim.key, dim.choices, dim.scalar, dim.ascending, dim.strategy, dim.depth, dim.rest, tuple(phases))


def _place(dim: Dim, i: int) -> str:
    return dim.key if dim.scalar else f"{dim.key}[{i}]"


def _phase(dim: Dim, value: Any, depth: Dim | None, where: str, wrong: list[str]) -> Rows:
    """The choices of every position in a phase."""
    n = len(dim.choices)
    if not _is_choices(value):
        wrong.append(f"{where} must be a list of ints, or of such lists for each stage, not {value!r}")
        return ()
    if is_int(value) or (is_ints(value) and isinstance(value, (list, tuple))):
        given: list[Sequence[int]] = [_listed(value)] * n
        outside = [v for v in given[0] if not any(v in row for row in dim.choices)]
        wrong += [f"{where} widens above the space: {v} is no choice of {dim.key}" for v in outside]
    else:
        given = [_listed(row) for row in value]
        if dim.rest and depth is not None and len(given) == len(depth.choices):
            given = [row for row in given for _ in range(_slots(depth))]
        if dim.scalar or len(given) != n:
            wanted = "a list of ints" if dim.scalar else f"{n} lists, one for each position"
            wrong.append(f"{where} must be {wanted}, not {value!r}")
            return ()
        outside = []
        for i, (row, of) in enumerate(zip(given, dim.choices, strict=True)):
            outside = [v for v in row if v not in of and not (dim.rest and of == (dim.rest[i],))]
            wrong += [f"{where} widens above the space: {v} is no choice of {_place(dim, i)}" for v in outside]
    rows = tuple(tuple(v for v in row if v in new) for row, new in zip(dim.choices, given, strict=True))
    if dim.rest and depth is not None:
        rows = _without_blocks(rows, dim.rest, depth)
    if not outside:
        empty = [_place(dim, i) for i, row in enumerate(rows) if not row]
        wrong += [f"{where} leaves {name} without a choice" for name in empty]
    return rows
