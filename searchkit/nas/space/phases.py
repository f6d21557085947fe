"""A space by epoch: its dimensions as their schedules narrow them."""

from __future__ import annotations

from collections.abc import Mapping

from searchkit.nas.space.dim import Dim
from searchkit.records.arch import Width


def narrowed(dims: tuple[Dim, ...], epoch: int) -> tuple[Dim, ...]:
    """The dimensions in an epoch (the first is 1), without phases. What is tied to a depth keeps the choices of the
    same numbers as the depth does."""
    whole = {dim.key: dim for dim in dims}
    now = {dim.key: dim.at_epoch(epoch) for dim in dims}
    for dim in dims:
        if dim.tied and whole[dim.depth].phases:
            rows = zip(dim.choices, whole[dim.depth].choices, now[dim.depth].choices, strict=True)
            now[dim.key] = dim.with_choices(
                tuple(tuple(v for v, d in zip(row, depths, strict=True) if d in left) for row, depths, left in rows)
            )
    return tuple(now.values())


def needs_no_more(values: Mapping[str, Width], whole: tuple[Dim, ...], narrow: tuple[Dim, ...]) -> bool:
    """Whether an architecture has no choice that the narrowed dimensions leave out. A value off the grid must lie
    between those that are left; of what is tied to a depth, not above them."""
    depths = {dim.key: dim.unpack(values[dim.key]) for dim in whole}
    for dim, left in zip(whole, narrow, strict=True):
        there = dim.active(depths[dim.depth]) if dim.rest else [True] * len(dim.choices)
        for v, all_, some, on in zip(dim.unpack(values[dim.key]), dim.choices, left.choices, there, strict=True):
            low = 0 if dim.tied else some[0]
            if on and some != all_ and (v not in some if v in all_ and not dim.tied else not low <= v <= some[-1]):
                return False
    return True
