"""Samplers choose the next points of a search, stoppers end trials early; both see only its history (history.py).

The tables name them; a user's own is a dotted path `module:Class`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from searchkit.errors import SearchkitError, UsageError, did_you_mean
from searchkit.suite.space.own import find

if TYPE_CHECKING:
    from searchkit.suite.algorithms.history import Trial, Verdict

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

__all__ = [
    "REQUIRED",
    "SAMPLERS",
    "STOPPERS",
    "explained",
    "make",
    "needs_results",
    "options",
    "replays",
    "sampler",
    "stopper",
]


def sampler(name: str) -> type[Any]:
    """The class of the sampler of that name, or of `module:Class`. Raises UsageError."""
    return _load("sampler", name)


def stopper(name: str) -> type[Any]:
    """The class of the stopper of that name, or of `module:Class`. Raises UsageError."""
    return _load("stopper", name)


def make(kind: str, name: str, *arguments: Any, **chosen_options: Any) -> Any:
    """A "sampler" or "stopper" with its options. Raises UsageError, also for whatever one of the user's own raises."""
    cls = _load(kind, name)
    if ":" not in name:
        return cls(*arguments, **chosen_options)  # its options were checked when the config was read
    declared = options(kind, name)
    for option in chosen_options:
        if option not in declared and not _takes_any(cls):
            raise UsageError(f"{kind} {name!r} has no option {option!r}{did_you_mean(option, list(declared))}")
    if lacking := [
        option for option, default in declared.items() if default is REQUIRED and option not in chosen_options
    ]:
        raise UsageError(f"{kind} {name!r} needs {', '.join(lacking)}", f"{{type: {name!r}, {lacking[0]}: …}}")
    with explained(kind, name):
        algorithm = cls(*arguments, **chosen_options)
    return _Own(name, algorithm) if kind == "stopper" else algorithm


@contextlib.contextmanager
def explained(kind: str, name: str) -> Iterator[None]:
    """Whatever a class of the user's own raises is a UsageError that names it, and the line of its file."""
    try:
        yield
    except SearchkitError:
        raise
    except Exception as e:
        if ":" not in name:
            raise
        import traceback  # kept off the start-up path

        file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == file]
        where = f" ({os.path.basename(file)}:{lines[-1]})" if file and lines else ""
        raise UsageError(f"the {kind} {name} failed: {type(e).__name__}: {e}{where}") from e


@dataclass(frozen=True)
class _Own:
    """A stopper of the user's own that was made; whatever it raises is a UsageError."""

    name: str
    stopper: Any

    def wants(self, step: int, last: int | None = None) -> bool:
        with explained("stopper", self.name):
            return bool(self.stopper.wants(step, last))

    def judge(self, history: Sequence[Trial], trial: Trial) -> Verdict:
        with explained("stopper", self.name):
            verdict: Verdict = self.stopper.judge(history, trial)
            return verdict

    def promote(self, history: Sequence[Trial]) -> int | None:
        with explained("stopper", self.name):
            index: int | None = self.stopper.promote(history)
            return index

    def __getattr__(self, name: str) -> Any:
        """What a stopper may have beside these, such as `trust`."""
        return getattr(self.stopper, name)


def _takes_any(cls: type[Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls.__init__).parameters.values())


def needs_results(sampler: Any) -> bool:
    """Whether a sampler (its class or an object) looks at the results of its points; see history.Sampler."""
    return bool(getattr(sampler, "needs_results", True))


def replays(sampler: Any) -> bool:
    """Whether a sampler (its class or an object) replays what it was told; see history.Sampler."""
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
    cls = find(f"{kind} {name!r}", path, type)
    missing = [method for method in methods if not callable(getattr(cls, method, None))]
    if not isinstance(cls, type) or missing:
        fault = f"it has no {', '.join(missing)}" if isinstance(cls, type) else f"it is a {type(cls).__name__}"
        raise UsageError(f"{kind} {name!r}: must be a class with {', '.join(methods)}, but {fault}")
    return cls
