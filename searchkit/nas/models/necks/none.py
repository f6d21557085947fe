"""No neck: the features of the backbone are the levels. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from searchkit.nas.models.part import Channels, Piece, Pieces, feature
from searchkit.nas.models.plan import CACHE

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


@dataclass(frozen=True)
class NoOptions:
    """There is nothing to choose."""


class NoNeck:
    """A neck that gives on what it gets."""

    Options: ClassVar[type] = NoOptions
    NAMES: ClassVar[tuple[str, ...]] = ()
    MODULE: ClassVar[str] = ""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def plan(self, arch: Arch, features: Channels) -> Pieces:
        """A piece without rows for each feature."""
        return _as_they_are(len(features))

    def module(self, arch: Arch, features: Channels) -> None:
        """There is nothing to run."""


@lru_cache(CACHE)
def _as_they_are(count: int) -> Pieces:
    return tuple(Piece((), feature(i), "level") for i in range(count))
