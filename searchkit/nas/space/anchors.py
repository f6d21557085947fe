"""An architecture as a config writes it out: an anchor of a space or of a sampler."""

from __future__ import annotations

from collections.abc import Iterator

from searchkit.reading.cursor import Cursor
from searchkit.records.arch import PREFIX, Arch, collect, is_int


def read_arch(at: Cursor) -> Arch | None:
    """The architecture of a nested or dotted mapping (or both). None where a fault was reported."""
    if at.is_broken:
        return None
    if at.node.kind != "map":
        at.fault(f"an architecture must be a mapping of names to ints, not {at.shown}")
        return None
    values, wrong = collect(at.data)
    for name, fault in wrong:
        place = place_of(at, name)
        not_ints = [item for item in place.items if not is_int(item.data)]
        (not_ints[0] if not_ints else place).fault(fault)
    return None if wrong else Arch(tuple(sorted(values.items())))


def place_of(at: Cursor, name: str, i: int | None = None) -> Cursor:
    """Where the value of a dotted name stands in an architecture, or the i-th one of it; the whole architecture where
    it has no such name."""
    places = dict(_places(at, ""))
    place = places.get(name) or places.get(PREFIX + name) or at
    return place if i is None or not place.items else place.items[i]


def _places(at: Cursor, path: str) -> Iterator[tuple[str, Cursor]]:
    for key in at.node.entries:
        full = f"{path}.{key}" if path else key
        yield full, at[key]
        yield from _places(at[key], full)
