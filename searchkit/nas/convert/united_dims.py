"""How United-Perception's BigNAS declares a dimension of a network: a list, or what its positions may be and how they
vary together. The first position is the stem's, the others are the stages'."""

from __future__ import annotations

from typing import Any

from searchkit.errors import did_you_mean
from searchkit.nas.convert.parts import count, counts
from searchkit.nas.space.dim import STRATEGIES
from searchkit.nas.space.strategy import ORDERED, SLOPE_KEYS, STEEP
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import is_int

MOST_CHOICES = 10_000
TOGETHER = ("net_wise", "net_wise_index", *ORDERED)  # the strategies by which stages hang on each other
OF_DEPTH = {"stage_wise_depth": None, "ordered_stage_wise_depth": "ordered_stage_wise_depth"}


def dimension(at: Cursor, key: str, notes: list[str]) -> tuple[Any, Any]:
    """(the stem's declaration, that of the stages) of a list with one entry for the stem and one for each stage."""
    if at.node.kind == "list":
        values = counts(at)
        return values[0], values[1:]
    space, together = at.get("space"), strategy(at, key, notes)
    name = together["name"] if isinstance(together, dict) else together
    positions = None if space is None else choices(space)
    if positions is None:
        if space is None:
            at.fault("must be a list, or {space: {min, max, stride}, sample_strategy}")
        return 1, [1]
    first, *rest = positions
    stages: dict[str, Any] = {"choices": rest} if any(len(row) > 1 for row in rest) else {}
    if name in TOGETHER and len(first) > 1:
        notes.append(f"{at.path}: the stem is no stage here, and varies by itself, not by {name}")
    if not stages:
        return one(first), [row[0] for row in rest]
    return one(first), stages | ({"sample_strategy": together} if together else {})


def one(row: list[int]) -> Any:
    """The declaration of a position by its choices."""
    return row[0] if len(row) == 1 else {"choices": row}


def strategy(at: Cursor, key: str, notes: list[str]) -> Any:
    """How the stages of a dimension vary together, as we call it; None for stage by stage."""
    given = at.get("sample_strategy")
    if given is None:
        return None
    name = given["name"] if given.node.kind == "map" and "name" in given else given
    text = str(name.data)
    if key == "depth" and text in OF_DEPTH:
        known = OF_DEPTH[text]
    elif text in STRATEGIES or text in ORDERED:
        known = None if text == "stage_wise" else text
    else:
        near = did_you_mean(text, (*STRATEGIES, *ORDERED))
        notes.append(f"{at.path}: there is no strategy {text} here{near}: it is taken as stage by stage")
        known = None
    limits = given["kwargs"] if given.node.kind == "map" and "kwargs" in given else None
    if limits is None or limits.node.kind != "map" or not limits.node.entries:
        return known
    if known not in STEEP:
        notes.append(f"{at.path}: the kwargs of {text} are left out")
        return known
    kept = {name: limits[name].data for name in SLOPE_KEYS if name in limits and not limits[name].node.is_null}
    if left := [name for name in limits.node.entries if name not in SLOPE_KEYS]:
        notes.append(f"{at.path}: of the kwargs of {text}, {', '.join(left)} are left out")
    for stage in ("start_stage", "end_stage"):  # they count from the stem, which is no stage here
        if stage in kept:
            kept[stage] = max(0, count(limits[stage]) - 1) if kept[stage] != 0 else 0
    if kept.get("end_stage") is not None and kept["end_stage"] <= kept.get("start_stage", 0):
        return None
    return {"name": known, "kwargs": kept}


def choices(space: Cursor) -> list[list[int]] | None:
    """What each position may be."""
    if "dynamic_range" in space:
        return [counts(item) for item in space["dynamic_range"].items]
    if missing := [key for key in ("min", "max") if key not in space]:
        space.fault(f"must have min, max and stride, but lacks {' and '.join(missing)}")
        return None
    low, high = (counts(space[key]) for key in ("min", "max"))
    if len(low) != len(high):
        space.fault(f"min and max must be of one length, but have {len(low)} and {len(high)}")
        return None
    given = space.get("stride")
    steps = (
        [1] * len(low)
        if given is None
        else [count(given)] * len(low)
        if is_int(given.data)
        else counts(given, len(low))
    )
    if any((b - a) // step > MOST_CHOICES for a, b, step in zip(low, high, steps, strict=True)):
        space.fault(f"a position must have no more than {MOST_CHOICES:,} choices")
        return None
    rows = [list(range(a, b + 1, step)) for a, b, step in zip(low, high, steps, strict=True)]
    for i, (row, a, b) in enumerate(zip(rows, low, high, strict=True)):
        if not row or row[-1] != b:
            space.fault(f"position {i}: from {a} to {b} in steps of {steps[i]} does not end at {b}")
            return None
    return rows
