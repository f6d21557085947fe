"""Which parts of a network can be made smaller at the least loss, without training: the score is measured with one unit
at a time reduced, and a threshold on what that costs decides all units together. No torch.

This is FastNAS of NVIDIA's Model Optimizer (https://github.com/NVIDIA/Model-Optimizer, `modelopt.torch.prune.fastnas`),
over all dimensions of a space: widths, depths, kernels, expansions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.space.space import Space
from searchkit.nas.space.units import Reduction, Unit, reduced
from searchkit.records.arch import Arch

FORMAT = "searchkit sensitivity 1"


@dataclass(frozen=True)
class Sensitivity:
    """What the score loses where one unit alone is reduced. The map is of one network and one way to score it; it
    serves all budgets, in whatever meter."""

    base: float  # the score of the whole network
    scores: Mapping[Reduction, float]  # the higher the better
    units: Mapping[Unit, tuple[int, ...]]

    @property
    def losses(self) -> dict[Unit, dict[int, float]]:
        """By unit, from its greatest choice on, what that choice loses: 0 at the greatest, and never less than what a
        greater choice loses. A score that rises is no loss."""
        losses: dict[Unit, dict[int, float]] = {}
        for unit, (greatest, *lower) in self.units.items():
            most = 0.0
            losses[unit] = {greatest: most}
            for value in lower:
                if (score := self.scores.get(Reduction(unit, value))) is not None:
                    most = max(most, self.base - score)
                    losses[unit][value] = most
        return losses

    def order(self) -> list[tuple[float, Reduction]]:
        """All reductions with what they lose, the least first; of equal losses the one that takes less of its unit's
        choices away, so that equals are spread over the units."""
        steps = [
            (loss, n / len(values), place, Reduction(unit, value))
            for place, (unit, values) in enumerate(self.losses.items())
            for n, (value, loss) in enumerate(values.items())
            if n
        ]
        return [(loss, reduction) for loss, _, _, reduction in sorted(steps, key=lambda step: step[:3])]

    def as_json(self) -> list[dict[str, Any]]:
        """Unit by unit: the choices, each with its score and what it loses."""
        return [
            {
                "unit": unit.name,
                "choices": [
                    {"value": v, "score": self.scores.get(Reduction(unit, v), self.base), "loss": round(loss, 6)}
                    for v, loss in values.items()
                ],
            }
            for unit, values in self.losses.items()
        ]


class Pruned(NamedTuple):
    """What a budget leaves of a network."""

    arch: Arch  # on the grid of the space
    threshold: float  # on the loss of a unit
    cost: float


def within(
    sensitivity: Sensitivity, space: Space, start: Arch, budget: float, cost_of: Callable[[Arch], float], text: str
) -> Pruned:
    """The architecture at the least threshold that is within a budget: every unit has its least choice that loses no
    more than the threshold; those that lose just as much are reduced one by one.

    All thresholds are tried, from the least on, in place of FastNAS's bisection: there are few, and a cost need not
    fall with the threshold, as times don't. text: the budget as it was asked for. Raises UsageError, naming the
    reachable range, where no threshold is enough.
    """
    cost = cost_of(start)
    if cost <= budget:
        return Pruned(start, 0.0, cost)
    taken: dict[Unit, int] = {}
    least = cost
    for loss, (unit, value) in sensitivity.order():
        taken[unit] = value
        arch = space.nearest(reduced(space, start, (Reduction(*item) for item in taken.items())))
        cost = cost_of(arch)
        if cost <= budget:
            return Pruned(arch, loss, cost)
        least = min(least, cost)
    raise unreachable(text, least, cost_of(start))


def unreachable(text: str, least: float, most: float) -> UsageError:
    """What to raise for a budget that no architecture is within, of those that cost so much."""
    return UsageError(
        f"--target {text} can't be met: archs of this space cost {_told(least)} to {_told(most)}",
        "Ask for a budget within, or widen the space: give its dimensions smaller choices",
    )


def _told(cost: float) -> str:
    """A cost for people: to the unit, or of small ones to four digits."""
    return f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}"
