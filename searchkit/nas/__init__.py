"""Supernets: train one network that holds thousands, price its subnets in closed form, score, and cut the best one out.

`search-nas` is the command; the same steps for Python load on first use, and only they load torch:
`load_config`, `train_supernet`, `open_supernet`, `price`, `score`, `extract` … (searchkit/nas/api.py, docs/python.md).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from searchkit.nas.api import (
        Arch,
        ArchLike,
        Cost,
        Recipe,
        Session,
        arch_of,
        build_supernet,
        calibrate,
        extract,
        find_arch,
        load_config,
        load_extracted,
        meters,
        open_supernet,
        price,
        prices,
        score,
        set_arch,
        train_supernet,
    )

__all__ = [
    "Arch",
    "ArchLike",
    "Cost",
    "Recipe",
    "Session",
    "arch_of",
    "build_supernet",
    "calibrate",
    "extract",
    "find_arch",
    "load_config",
    "load_extracted",
    "meters",
    "open_supernet",
    "price",
    "prices",
    "score",
    "set_arch",
    "train_supernet",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        from searchkit.nas import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
