"""searchkit runs a training command over a search space and ranks what it reports.

A training script needs at most two names of it: `searchkit.report(acc=0.9, step=3)` and `searchkit.params(lr=0.1)`.
They load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost more than all the rest of this package
if TYPE_CHECKING:
    from searchkit.worker import params, report

__version__ = "0.1.0"
__all__ = ["__version__", "params", "report"]


def __getattr__(name: str) -> object:
    if name not in ("params", "report"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from searchkit import worker

    return getattr(worker, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
