"""Learning rates, and other numbers, as functions of progress, so that a resumed run needs no state for them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from searchkit.nas.space.scheduled import read_schedule
from searchkit.nas.space.schema import schedule_schema
from searchkit.reading.cursor import Cursor
from searchkit.reading.kinds import Bad, Kind, Reader
from searchkit.reading.nodes import Node, Report

SCHEDULES = ("constant", "step", "linear", "cosine", "one_cycle")


def factor(
    name: str,
    step: int,
    steps: int,
    *,
    warmup_steps: int = 0,
    warmup_factor: float = 0.001,
    milestones: tuple[float, ...] = (0.75, 0.92),
    gamma: float = 0.1,
    floor: float = 0.0,
    restart_steps: float | None = None,
    restart_mult: float = 1.0,
) -> float:
    """What the learning rate is multiplied by at a step (the first is 0).

    Linear warm-up from `warmup_factor` over `warmup_steps`; then `constant`; `step`: times `gamma` at each milestone (a
    fraction of all steps); `linear`: straight from 1 to `floor`; `cosine`: half a cosine from 1 to `floor` (Loshchilov
    & Hutter, "SGDR", ICLR 2017), with `restart_steps` anew after so many steps, and then each time after `restart_mult`
    times as many, whatever `steps` is; `one_cycle`: cosine up from 0.04 over the first 30 % and down to `floor` (Smith
    & Topin, "Super-Convergence", 2018; the warm-up keys are not used).
    """
    done = step / max(1, steps)
    if name == "one_cycle":
        top = 0.3
        if done < top:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * done / top)) / 2
        return floor + (1 - floor) * (1 + math.cos(math.pi * (done - top) / (1 - top))) / 2
    warm = 1.0
    if step < warmup_steps:
        warm = warmup_factor + (1 - warmup_factor) * step / warmup_steps
    if name == "step":
        return float(warm * gamma ** bisect.bisect_right(milestones, done))
    if name == "linear":
        return warm * (floor + (1 - floor) * (1 - done))
    if name == "cosine":
        if restart_steps is not None:
            done = _of_cycle(step, restart_steps, restart_mult)
        return warm * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
    return warm


def _of_cycle(step: int, length: float, mult: float) -> float:
    """Which fraction of its cycle is done at a step; the first cycle has `length` steps, each next one `mult` times as
    many as that before it."""
    if mult == 1:
        return math.fmod(step, length) / length
    left = float(step)
    while left >= length:
        left -= length
        length *= mult
    return left / length


def factor_at(settings: Any, step: int, steps: int, steps_per_epoch: int) -> float:
    """`factor` as a section about optimisation says it."""
    restart = settings.restart_epochs
    return factor(
        settings.schedule,
        step,
        steps,
        warmup_steps=settings.warmup_steps,
        warmup_factor=settings.warmup_factor,
        milestones=settings.milestones,
        gamma=settings.gamma,
        floor=settings.floor,
        restart_steps=None if restart is None else restart * steps_per_epoch,
        restart_mult=settings.restart_mult,
    )


def scaled_lr(lr: float, policy: str, batch: int, base_batch: int) -> float:
    """The learning rate for a batch over all ranks: `linear` (Goyal et al., 2017), `sqrt`, or `none`."""
    if policy == "linear":
        return lr * batch / base_batch
    if policy == "sqrt":
        return lr * math.sqrt(batch / base_batch)
    return lr


class Scheduled(Reader):
    """Of a key: a number of a kind, or its schedule: {boundary: [1, 81], value: [a, b]}, the number from each of these
    epochs (from 1) on. The value is plain data, as `value_at` takes it."""

    shapes = ("scalar", "map")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.must = f"{kind.must}, or {{boundary, value}}"

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The value of `node`. Raises Bad where it has a fault."""
        at = Cursor(node, path, report)
        if node.kind != "map":
            Kind(self.must, self.kind.of, self.kind.schema).read(node, path, report)
            return node.data
        steps = read_schedule(at)
        if steps is None:
            raise Bad
        faults = len(report.faults)
        for _, value in steps:
            with suppress(Bad):
                self.kind.read(value.node, value.path, report)
        if at.is_broken or len(report.faults) > faults:
            raise Bad
        return node.data

    def to_schema(self) -> Mapping[str, Any]:
        """The same in JSON Schema."""
        return {"anyOf": [self.kind.schema, schedule_schema(self.kind.schema)]}


def value_at(spec: Any, epoch: int) -> Any:
    """The value of a schedule in an epoch (the first is 1); anything but a schedule is its own value."""
    if not isinstance(spec, Mapping):
        return spec
    return spec["value"][max(0, bisect.bisect_right(spec["boundary"], epoch) - 1)]
