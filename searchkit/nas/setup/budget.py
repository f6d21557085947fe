"""Budgets, and the space whose costs surround one. No torch."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.cost.price import plans_of, price_archs
from searchkit.nas.cost.unique import rows_of
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.families import Body, Family, Shape
from searchkit.nas.tasks import read as configs
from searchkit.seeds import rng_of

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
ARCHS = 60  # random ones that a space is priced by, at each input shape
LOW, HIGH = 0.2, 0.8  # shares of the costs, between which the budget is to lie
RARE = 0.1  # share of the costs, below which archs within a further budget are hard to find
STEP = 1.2  # from the smaller to the larger input shape of a space, as a factor of its edges
SMALLEST = 64  # px, of a short edge
ENLARGED = 2.0  # the most that images are enlarged, as a factor of their edges
LARGEST = 1333  # px, of a short edge


@dataclass(frozen=True)
class Budget:
    """What a network may cost, as it was asked for."""

    value: float
    unit: str  # macs or ms; of a named device what meter_of says
    text: str
    device: str = ""  # that a time is named for

    @property
    def option(self) -> str:
        """As --budget takes it."""
        return f"{self.device}:{self.value:g} ms" if self.device else self.text


def meter_of(device: str) -> str:
    """The name of the meter of a device, one of several: ms_cpu, ms_cuda0."""
    return f"ms_{device.replace(':', '')}"


def are_named(devices: Sequence[str]) -> bool:
    """Whether times say of which device they are. On the CPU alone they need not: exported files are timed there."""
    return tuple(devices) != ("cpu",)


def time_on(device: str, value: float) -> Budget:
    """A budget in ms that is for one of several devices."""
    return Budget(value, meter_of(device), f"{value:g} ms on {device}", device)


def read_budget(text: str) -> Budget:
    """`2 GMACs`, `300M`, `20 ms`, and for one of several devices `cpu:20 ms`. Raises UsageError for anything else."""
    named = re.fullmatch(r"\s*(cpu|cuda(?::\d+)?)\s*:\s*(.*)", text)
    if named:
        time = read_budget(named[2])
        if time.unit != "ms" or time.device:
            raise UsageError(f"--budget: {text!r} names a device, but is no time", "Such as --budget 'cpu:20 ms'")
        return time_on(named[1], time.value)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(ms|([KMGT]?)(?:MACs?)?)\s*", text, re.IGNORECASE)
    value = float(match[1]) if match else 0.0
    if match is None or value <= 0:
        raise UsageError(f"--budget: {text!r} is no cost", "Such as --budget '2 GMACs', '300 MMACs' or '20 ms'")
    if match[2].lower() == "ms":
        return Budget(value, "ms", f"{value:g} ms")
    macs = value * UNITS[match[3].upper()]
    if macs < 1e5:
        raise UsageError(f"--budget: {text!r} is {macs:g} MACs", "Did you mean GMACs? Such as --budget '2 GMACs'")
    return Budget(macs, "macs", f"{macs_text(macs)}MACs")


def on_devices(limits: Sequence[Budget], devices: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets by device: a time that names none is one for each of them. Raises UsageError for
    a device that was not asked for, and for one, beside the first, that no time is for."""
    out: list[Budget] = []
    for each in limits:
        if each.device and each.device not in devices:
            hint = f"Add --device {each.device}, or name one of {', '.join(devices)}"
            raise UsageError(f"--budget {each.option}: there is no such --device", hint)
        if each.unit == "macs":
            out.append(each)
        elif not are_named(devices):
            out.append(Budget(each.value, "ms", f"{each.value:g} ms"))
        else:
            out += [time_on(device, each.value) for device in ((each.device,) if each.device else devices)]
    for device in devices[1:]:
        if not any(each.device == device for each in out):
            hint = f"Such as --budget '{device}:20 ms'; or leave --device {device} out"
            raise UsageError(f"--device {device}: no budget is a time on it", hint)
    return tuple(dict.fromkeys(out))


def macs_text(macs: float) -> str:
    """`2 G`, `350 M`, in front of a unit."""
    unit = next(u for u in "TGMK" if macs >= UNITS[u] or u == "K")
    return f"{macs / UNITS[unit]:.3g} {unit}"


class BelowLeast(UsageError):
    """A budget that no network is within."""

    def __init__(self, macs: float, least: float, text: str = "", per_ms: float = 0.0, why: str = "") -> None:
        """macs: the budget; least: what the least network costs, MACs. text: the budget as it was given; per_ms: MACs
        of a ms, where that is a time. why: of that network."""
        self.macs, self.least, self.why = macs, least, why
        also = f", about {macs_text(macs)}MACs," if per_ms else ""
        ms = f", about {least / per_ms:.3g} ms" if per_ms else ""
        enough = f"{least * 1.5 / per_ms:.3g} ms" if per_ms else f"{macs_text(least * 1.5)}MACs"
        super().__init__(
            f"--budget {text or f'{macs_text(macs)}MACs'}{also} is below what the least network costs, "
            f"{macs_text(least)}MACs{ms}{why}",
            f"Give --budget '{enough}' or more, or another --family",
        )

    def of(self, text: str, per_ms: float) -> BelowLeast:
        """The same of a budget as it was given."""
        return BelowLeast(self.macs, self.least, text, per_ms, self.why)


@dataclass(frozen=True, eq=False)
class Priced:
    """What the archs of a space cost, by input shape."""

    shapes: tuple[Shape, ...]
    macs: np.ndarray  # (archs, shapes), of random archs
    largest: np.ndarray  # (shapes,), of MAX
    least: np.ndarray  # (shapes,), of MIN

    def least_at(self, shapes: Sequence[Shape]) -> float:
        """What MIN costs at the cheapest of these shapes."""
        return min(float(self.least[self.shapes.index(shape)]) for shape in shapes)

    def of(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Costs at some of the shapes."""
        costs: np.ndarray = self.macs[:, [self.shapes.index(s) for s in shapes]].ravel()
        return costs


def _recipe(config: str) -> Any:
    """The recipe of a config's text."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        return configs.load(path)


def rows_in(config: str) -> int:
    """How many rows the space of a config's text has, each at each of its sizes: what a table of times measures."""
    recipe = _recipe(config)
    return len(rows_of(plans_of(recipe.model, recipe.space.maximum()), recipe.space, recipe.scales).placed)


def price_text(config: str, shapes: Sequence[Shape], seed: int) -> Priced:
    """Price the space of a config's text at these shapes."""
    recipe = _recipe(config)
    space, rng = recipe.space, rng_of(seed, "setup")
    archs = [space.minimum(), space.maximum(), *(space.sample(rng) for _ in range(ARCHS))]
    priced = price_archs(plans_of(recipe.model, space.maximum()), archs, tuple(shapes), "macs")
    costs = np.array([flops for _, flops, _ in priced], np.float64)
    return Priced(tuple(shapes), costs[2:], costs[1], costs[0])


def shapes_of(facts: Facts, family: Family, multiple: int = 0) -> tuple[Shape, ...]:
    """The input shapes that a family may have for these images, ascending. multiple: of their edges, px; 0: the
    family's."""
    multiple = multiple or family.multiple
    height, width = facts.size
    aspect = facts.aspect(family.stretches)
    short = min(height, width)
    most = min(LARGEST, max(SMALLEST, math.ceil(short * ENLARGED)))

    def near(edge: float) -> int:
        return max(multiple, round(edge / multiple) * multiple)

    shapes: dict[Shape, None] = {}
    for edge in range(SMALLEST, most + multiple, multiple):
        shape = (edge, near(edge * aspect)) if aspect >= 1 else (near(edge / aspect), edge)
        if aspect == 1 or shape[0] != shape[1]:  # a square is another kind of shape
            shapes[shape] = None
    return tuple(shapes)


def pair_of(shapes: Sequence[Shape], i: int) -> tuple[Shape, ...]:
    """A shape and the first one that is STEP times as large, or the last; the shape alone where it is that."""
    edge = min(shapes[i])
    larger = next((s for s in shapes if min(s) >= edge * STEP), shapes[-1])
    return tuple(dict.fromkeys((shapes[i], larger)))


def share_below(costs: np.ndarray, budget: float) -> float:
    """Which share of the costs a budget is enough for."""
    return float((costs <= budget).mean())


@dataclass(frozen=True, eq=False)
class Fit:
    """A space whose costs surround a budget, or come as near to that as they can."""

    body: Body
    shapes: tuple[Shape, ...]
    share: float  # of its random archs, that the budget is enough for
    priced: Priced


def surround(
    bodies: Sequence[Body],
    text_of: Callable[[Body, Sequence[Shape]], str],
    shapes: Sequence[Shape],
    budget: float,
    preferred: int,
    seed: int,
    smallest: float = math.inf,
) -> Fit:
    """The body and the pair of input shapes for a budget (MACs): of those with which it lies between LOW and HIGH of
    the costs, the ones whose short edge is nearest to `preferred` px; else those with which it comes nearest to that.

    smallest: another budget, for which there shall be an arch, too, where that can be. text_of: the config of a body at
    shapes. Raises UsageError where the budget is below the least that all can cost.
    """
    pairs = [pair_of(shapes, i) for i in range(len(shapes))]
    if smallest < budget:  # budgets far apart take input shapes that are
        pairs += [(one, other) for i, one in enumerate(shapes) for other in shapes[i + 1 :]]
    fits: list[tuple[tuple[float, ...], Fit]] = []
    least = float("inf")
    for body in bodies:
        priced = price_text(text_of(body, shapes[:1]), shapes, seed)
        least = min(least, float(priced.least.min()))
        for pair in pairs:
            share = share_below(priced.of(pair), budget)
            outside = max(0.0, LOW - share, share - HIGH)
            away = abs(math.log(sum(map(min, pair)) / len(pair) / preferred))
            off = abs(share - 0.5)
            rare = max(0.0, RARE - share_below(priced.of(pair), smallest))
            apart = min(pair[-1]) / min(pair[0]) if smallest < budget else 0.0  # costs between them are rare
            rank = (float(priced.least_at(pair) > smallest), outside + rare, apart, away + off, -body.width)
            fits.append((rank, Fit(body, pair, share, priced)))
    if budget < least:
        raise BelowLeast(budget, least, why=f" (its smallest input is {shapes[0][0]}x{shapes[0][1]} px)")
    return min(fits, key=lambda fit: fit[0])[1]


@dataclass(frozen=True)
class Plain:
    """The detector to beat: a named arch alone, at one input shape."""

    arch: str  # MAX, or MIN
    shape: Shape
    macs: float


def plain_of(priced: Priced, budget: float) -> Plain:
    """MAX at the largest shape at which it is within a budget; where it is at none, MIN likewise, which is at the
    smallest shape at least."""
    for name, costs in (("MAX", priced.largest), ("MIN", priced.least)):
        if within := [i for i, cost in enumerate(costs) if cost <= budget]:
            i = max(within, key=lambda i: costs[i])
            return Plain(name, priced.shapes[i], float(costs[i]))
    return Plain("MIN", priced.shapes[0], float(priced.least[0]))
