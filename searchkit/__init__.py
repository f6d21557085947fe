"""searchkit runs a training command over a search space and ranks what it reports.

A training script needs at most two names of it: `searchkit.report(acc=0.9, step=3)` and `searchkit.params(lr=0.1)`; one
that serves many trials in one process, `for trial in searchkit.trials():`, too. A notebook takes `searchkit.open` to
look at tasks, `searchkit.run` to start one, and `searchkit.nas` for supernets. All load on first use, so that importing
the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost more than all the rest of this package
if TYPE_CHECKING:
    from searchkit import nas
    from searchkit.errors import SearchkitError
    from searchkit.job.report import params, report
    from searchkit.job.trial import TrialStopped
    from searchkit.job.trials import trials
    from searchkit.suite.api import open, run

__version__ = "0.1.0"
__all__ = ["SearchkitError", "TrialStopped", "__version__", "nas", "open", "params", "report", "run", "trials"]


def __getattr__(name: str) -> object:
    if name in ("params", "report"):
        from searchkit.job import report as worker

        return getattr(worker, name)
    if name == "trials":
        from searchkit.job.trials import trials as serve

        return serve
    if name == "TrialStopped":
        from searchkit.job.trial import TrialStopped as stopped

        return stopped
    if name in ("open", "run"):
        from searchkit.suite import api

        return getattr(api, name)
    if name == "nas":
        import searchkit.nas as found

        return found
    if name == "SearchkitError":
        from searchkit.errors import SearchkitError as error

        return error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
