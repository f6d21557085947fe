"""What is chosen of layers by name, norms and transforms of kernels, and what a choice asks for. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from searchkit.errors import UsageError, did_you_mean

NormName = Literal["bn", "frozen", "gn", "sync_bn"]
Transform = Literal["none", "chained", "direct"]


class NormStyle(NamedTuple):
    """The norms of a network, which backbones take as the options `norm` and `norm_…`.

    name: "bn"; "frozen", of which nothing is learnt or updated; "gn", in groups of `group` channels, of which all
    widths are multiples; or "sync_bn", "bn" over the ranks of a training together, in groups of `ranks` neighbours (0:
    all).
    """

    name: str
    group: int
    eps: float
    momentum: float = 0.1
    ranks: int = 0

    def check(self, widths: Iterable[int] = ()) -> None:
        """Raises UsageError where there is no such norm, or it can't be of one of these widths."""
        if self.ranks < 0:
            raise UsageError(f"norm_ranks must be at least 0, but is {self.ranks}", "0 stands for all ranks.")
        if not self.eps >= 0 or self.group < 1:
            raise UsageError(
                f"norm_eps must be at least 0 and norm_group at least 1, but they are {self.eps:g} and {self.group}"
            )
        if not 0 <= self.momentum <= 1:
            raise UsageError(f"norm_momentum must be from 0 to 1, but is {self.momentum:g}")
        names = get_args(NormName)
        if self.name not in names:
            raise UsageError(
                f"norm must be one of {', '.join(names)}, but is {self.name!r}{did_you_mean(self.name, names)}"
            )
        for width in widths if self.name == "gn" else ():
            if width % self.group:
                raise UsageError(
                    f"a group norm of {self.group} channels a group cannot take {width} channels",
                    "Set norm_group to a number that divides all widths.",
                )


def check_transform(name: str) -> None:
    """Raises UsageError for anything but the names of transforms."""
    names = get_args(Transform)
    if name not in names:
        raise UsageError(f"transform must be one of {', '.join(names)}, but is {name!r}{did_you_mean(name, names)}")
