"""Random points of a space whose cost is within a range."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.nas.space.shapes import InputShape, shape_text
from searchkit.nas.space.space import Space
from searchkit.reading import expression
from searchkit.records.arch import Arch

TRIES = 500  # points that are drawn at most, for each that is asked for

CostOf = Callable[[Arch, InputShape], float]  # by whichever meter


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included; as it was written."""

    low: float
    high: float
    text: str

    @staticmethod
    def of(texts: Sequence[str], unit: str = "") -> Range:
        """Of two numbers as expressions have them: 200G, 1.5e9; unit: in front of which they stand, as text. Raises
        UsageError for others."""
        numbers = []
        for text in texts:
            parsed = expression.parse(text)
            number = None if parsed.names else expression.evaluate(parsed, {})
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UsageError(f"--range: {text!r} is no number", "Such as --range 200G 400G")
            numbers.append(number)
        if not numbers[0] <= numbers[1]:
            raise UsageError(f"--range: {texts[0]} is above {texts[1]}", "Give the lower one first")
        return Range(numbers[0], numbers[1], f"{texts[0]} to {texts[1]}{unit}")

    def holds(self, value: float) -> bool:
        """Whether a value is within it."""
        return self.low <= value <= self.high


def sample_points(
    space: Space, scales: Sequence[InputShape], n: int, rng: random.Random, within: Range, cost_of: CostOf
) -> tuple[list[tuple[Arch, InputShape]], int]:
    """(n different random points whose cost is within a range, or fewer; how many were drawn to find them).

    Raises UsageError, naming what the space reaches at each input shape, where none has such a cost.
    """
    reached = {shape: (cost_of(space.minimum(), shape), cost_of(space.maximum(), shape)) for shape in scales}
    possible = [shape for shape, (least, most) in reached.items() if least <= within.high and within.low <= most]
    texts = [f"{least:,} to {most:,} at {shape_text(shape)}" for shape, (least, most) in reached.items()]
    if not possible:
        raise UsageError(
            f"--range: no point of the space costs {within.text}; its archs cost {'; '.join(texts)}",
            "Choose a range within, or widen the space",
        )
    found: dict[tuple[Arch, InputShape], None] = {}
    drawn = 0
    while len(found) < n and drawn < n * TRIES:
        drawn += 1
        point = space.sample(rng), rng.choice(possible)
        if within.holds(cost_of(*point)):
            found[point] = None
    if not found:
        raise UsageError(
            f"--range: none of {drawn:,} random points costs {within.text}; archs of the space cost {'; '.join(texts)}",
            "Widen the range",
        )
    return [*found], drawn
