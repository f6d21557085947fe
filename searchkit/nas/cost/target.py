"""What a network may cost, as it is asked for: a number of a meter, or a share of what the whole network costs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.nas.cost.rules import METERS

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "%": 0.01}


@dataclass(frozen=True)
class Target:
    """A budget."""

    value: float  # of the meter; a share of the whole network's, if `relative`
    relative: bool
    meter: str  # a name of METERS, or of a table of times
    text: str  # as it was asked for

    def of(self, whole: float) -> float:
        """The budget where the whole network costs so much."""
        return self.value * whole if self.relative else self.value


def read_target(text: str, tables: Collection[str] = ()) -> Target:
    """`50%`, `1 GMACs`, `300M`, `8 ms`, `50% ms`, `2M params`. tables: names of tables of times. Without a meter it is
    of MACs. Raises UsageError for anything else."""
    known = sorted((*METERS, *tables), key=len, reverse=True)
    lower = text.strip().lower()
    meter = next((name for name in known if lower.endswith(name.lower())), "")
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kmgt%]?)", lower.removesuffix(meter.lower()).strip())
    if match is None or not float(match[1]):
        times = "" if tables else "; milliseconds need a table of times (search-nas latency) among the config's meters"
        raise UsageError(
            f"--target {text!r} is no cost: it is a share or a number, and a meter ({', '.join(sorted(known))}){times}",
            "Such as --target 50%, '1 GMACs', '8 ms', '50% ms' or '2M params'",
        )
    value, relative = float(match[1]) * UNITS[match[2]], match[2] == "%"
    if relative and value > 1:
        raise UsageError(f"--target {text!r} is more than the whole network", "Give a share of at most 100%")
    return Target(value, relative, meter or "macs", text.strip())
