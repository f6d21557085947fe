"""An architecture of another project in a space of ours, which may write the same values down in another form."""

from __future__ import annotations

from contextlib import suppress

from searchkit.errors import UsageError
from searchkit.nas.models.part import NetPlan
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch, Width


def settled(arch: Arch, space: Space, plans: NetPlan) -> Arch:
    """An architecture without the names that a space does not have, if its network is the same one without them: the
    options of its parts say what they would."""
    keys = {dim.key for dim in space.dims}
    for name in arch.names:
        if name not in keys:
            less = Arch(tuple(item for item in arch.items if item[0] != name))
            with suppress(UsageError):  # what does not fit is told as of any arch
                arch = less if plans(less) == plans(arch) else arch
    return arch


def placed(arch: Arch, space: Space, file: str, config: str) -> Arch:
    """The architecture as the space has it: a value for all, for each stage, or in slots for each block.

    Dimensions that it does not have take the only choice there is. Raises UsageError, with all reasons, where it does
    not fit.
    """
    depths = _tuple(arch["backbone.body.depth"])
    values: dict[str, Width] = dict(arch.items)
    for dim in space.dims:
        found = values.get(dim.key)
        if found is None:
            if all(len(row) == 1 for row in dim.choices):
                values[dim.key] = dim.pack(tuple(row[0] for row in dim.choices))
        elif dim.scalar:
            alike = set(_tuple(found))
            values[dim.key] = alike.pop() if len(alike) == 1 else found
        else:
            values[dim.key] = _resized(_tuple(found), len(dim.choices), depths, [row[0] for row in dim.choices])
    whole = Arch(tuple(sorted(values.items())))
    if faults := space.faults(whole):
        raise UsageError(f"{file} does not fit into the space of {config}: {'; '.join(faults)}")
    return space.canonical(whole)


def _tuple(value: Width) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _resized(value: tuple[int, ...], length: int, depths: tuple[int, ...], least: list[int]) -> tuple[int, ...]:
    """A dimension with as many values as the space has: for each stage, or slots for the blocks of each."""
    stages = len(depths)
    if len(value) == length or length % stages or len(value) % stages:
        return value
    there, here = len(value) // stages, length // stages
    of_stage = [value[there * s : there * (s + 1)] for s in range(stages)]
    of_stage = [row * depth if there == 1 else row[:depth] for row, depth in zip(of_stage, depths, strict=True)]
    if here == 1:
        return tuple(row[0] for row in of_stage) if all(len(set(row)) == 1 for row in of_stage) else value
    if any(len(row) > here for row in of_stage):
        return value
    return tuple(v for s, row in enumerate(of_stage) for v in [*row, *least[here * s + len(row) : here * (s + 1)]])
