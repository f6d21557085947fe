"""Samplers choose the next points of a search, stoppers end trials early; both see only its history (history.py).

The tables name them; a user's own is a dotted path `module:Class`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import inspect
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.suite.space.own import find

SAMPLERS = {
    "grid": "searchkit.suite.algorithms.grid:Grid",
    "random": "searchkit.suite.algorithms.random_search:Random",
    "tpe": "searchkit.suite.algorithms.tpe:Tpe",
    "nsga2": "searchkit.suite.algorithms.nsga2:Nsga2",
    "evolution": "searchkit.suite.algorithms.evolution:Evolution",
    "spos": "searchkit.suite.algorithms.spos:Spos",
}
STOPPERS = {
    "asha": "searchkit.suite.algorithms.asha:Asha",
    "median": "searchkit.suite.algorithms.stoppers:Median",
    "patience": "searchkit.suite.algorithms.stoppers:Patience",
    "threshold": "searchkit.suite.algorithms.stoppers:Threshold",
}
REQUIRED = inspect.Parameter.empty  # the "default" of an option that has none
_KINDS = {  # kind: its table, the arguments that are no options, the methods a class of that kind has
    "sampler": (SAMPLERS, ("self", "space", "objectives", "seed"), ("suggest",)),
    "stopper": (STOPPERS, ("self", "objective"), ("wants", "judge", "promote")),
}

__all__ = ["REQUIRED", "SAMPLERS", "STOPPERS", "needs_results", "options", "replays", "sampler", "stopper"]


def sampler(name: str) -> type[Any]:
    """The class of the sampler of that name, or of `module:Class`. Raises UsageError."""
    return _load("sampler", name)


def stopper(name: str) -> type[Any]:
    """The class of the stopper of that name, or of `module:Class`. Raises UsageError."""
    return _load("stopper", name)


def needs_results(sampler: Any) -> bool:
    """Whether a sampler (its class, or one that was made) looks at what became of the points; see history.Sampler."""
    return bool(getattr(sampler, "needs_results", True))


def replays(sampler: Any) -> bool:
    """Whether a sampler (its class, or one that was made) repeats what it was told; see history.Sampler."""
    return bool(getattr(sampler, "replays", False))


def options(kind: str, name: str) -> dict[str, Any]:
    """The options of a "sampler" or "stopper" with their defaults, REQUIRED where it has none. Raises UsageError."""
    parameters = inspect.signature(_load(kind, name).__init__).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][len(_KINDS[kind][1]) :]
    return {p.name: p.default for p in [*positional, *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]}


def _load(kind: str, name: str) -> type[Any]:
    table, _, methods = _KINDS[kind]
    path = table.get(name, name)
    if ":" not in path:
        hint = f"a {kind} of your own is written module:Class, and is looked for in the project's folder"
        raise UsageError(f"unknown {kind} {name!r}{did_you_mean(name, list(table))}", hint)
    found = find(f"{kind} {name!r}", path, type)
    missing = [method for method in methods if not callable(getattr(found, method, None))]
    if not isinstance(found, type) or missing:
        what = f"it has no {', '.join(missing)}" if isinstance(found, type) else f"it is a {type(found).__name__}"
        raise UsageError(f"{kind} {name!r}: must be a class with {', '.join(methods)}, but {what}")
    return found
