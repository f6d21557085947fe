"""Names of a backbone's features, and where they are. No torch."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.plan import CACHE, feature_rows


class Places(NamedTuple):
    """For each part of a backbone (its stem, its stages, its last conv if it has one) whether it ends in a feature, and
    whether what its first block is widened to, before it halves the image, is one."""

    ends: tuple[bool, ...]
    widened: tuple[bool, ...]


@lru_cache(CACHE)
def places_of(strides: tuple[int, ...], tail: bool, names: tuple[str, ...] | None) -> Places:
    """Where the features of these names are. strides: of the stem and the stages, 1 or 2; tail: there is a last conv
    behind them.

    `c3` is the last output of 1/8 of the image (2 to the power of 3), not counting the last conv; `tail` is the end,
    with the last conv if there is one; `c4.expand` is what the block that halves `c4` widens it to, before it does.
    None: every output before a halving, from a quarter of the image on, and the tail. Raises UsageError for names that
    there are not.
    """
    none = (False,) * (len(strides) + tail)
    if names is None:
        return Places(feature_rows((*strides, *((1,) if tail else ()))), none)
    ends, total = {}, 0
    for i, stride in enumerate(strides):
        total += stride - 1
        ends[f"c{total}"] = i
    whole = {**ends, "tail": len(none) - 1}
    widened = {f"{name}.expand": i + 1 for name, i in ends.items() if i + 1 < len(strides)}
    known = (*whole, *widened)
    for name in names:
        if name not in known:
            raise UsageError(f"the backbone has no feature {name!r}{did_you_mean(name, known)}")
    if not names or len(set(names)) != len(names):
        raise UsageError(f"features must be names, each once, but are {', '.join(names) or 'none'}")
    marked, tapped = {whole.get(name) for name in names}, {widened.get(name) for name in names}
    return Places(tuple(i in marked for i in range(len(none))), tuple(i in tapped for i in range(len(none))))
