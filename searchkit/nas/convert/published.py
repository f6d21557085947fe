"""What networks of other projects cost by their own words, and whether ours costs the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

from searchkit.nas.cost.rules import Convention


@dataclass(frozen=True)
class Published:
    """A cost as a project tells it."""

    name: str
    words: tuple[str, ...]  # that the name of a file, in small letters and digits alone, has all
    flops: int
    unit: int  # that the figure is rounded to
    convention: Convention
    source: str

    def compared(self, flops: int) -> str:
        """One line about our cost beside theirs."""
        told = f"{self.name} is published with {self.flops / 1e6:g}M ({self.convention}, {self.source})"
        if abs(flops - self.flops) <= self.unit / 2:
            return f"{told}: {flops:,}, the same when rounded"
        more = (flops - self.flops) / self.flops
        return f"{told}, but this network costs {flops:,}: {abs(more):.1%} {'more' if more > 0 else 'less'}"


_ATTENTIVE = "its README"
PUBLISHED = (
    *(
        Published(f"AttentiveNAS-A{i}", ("attentive", f"a{i}"), mega * 10**6, 10**6, "macs", _ATTENTIVE)
        for i, mega in enumerate((203, 279, 317, 357, 444, 491, 709))
    ),
    Published("OFA note8_lat22", ("note8", "lat22"), 67 * 10**6, 10**6, "macs", "once-for-all's README"),
    Published("AutoSlim MBV2_320M", ("mbv2", "320m"), 320 * 10**6, 10**7, "ptflops", "mmrazor's metafile"),
    Published("SPOS", ("spos",), 330 * 10**6, 10**7, "ptflops", "mmrazor's metafile"),
    Published("DMCP_MBV2_100M", ("dmcp", "100m"), 102 * 10**6, 10**6, "ptflops", "mmrazor's metafile"),
)


def published(name: str) -> Published | None:
    """The row that the name of a file or network has all words of; None where there is none."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((row for row in PUBLISHED if all(word in plain for word in row.words)), None)
