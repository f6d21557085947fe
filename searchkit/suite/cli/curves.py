"""Learning curves: one scalar of every job over its steps, in greys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from searchkit.errors import UsageError, did_you_mean
from searchkit.records.objective import loss
from searchkit.suite.cli.pictures import DARK, GREY, LOG_FROM, MANY, legend, plain
from searchkit.suite.config.settings import Objective
from searchkit.suite.store import ranking
from searchkit.suite.store.job import State
from searchkit.suite.store.ranking import JobScalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("solid", "dashed", "dotted")  # of the best jobs


def draw(entries: Sequence[JobScalars], objective: Objective) -> tuple[Figure, int]:
    """(the figure, how many jobs are in it). Raises UsageError where no job reported the scalar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    curves = [(entry, _finite(entry, objective.name)) for entry in entries]
    curves = [(entry, points) for entry, points in curves if points]
    if not curves:
        names = tuple(sorted({name for entry in entries for name in entry.names}))
        near = did_you_mean(objective.name, names) if names else " (nor anything else)"
        raise UsageError(f"no job reported {objective.name!r}{near}")
    name, mode = objective.name, objective.mode
    ordered = sorted(curves, key=lambda curve: loss(ranking.reward(curve[0], name, mode), mode))
    _, ax = pyplot.subplots()
    for (entry, points), style in zip(ordered, STYLES, strict=False):
        last = ranking.reward(entry, objective.name, objective.mode)
        steps, values = zip(*points, strict=True)
        label = f"job {entry.name}: {last:.6g}"
        ax.plot(steps, values, color=DARK, linewidth=1.6, linestyle=style, label=label, zorder=3)
        ax.plot(steps[-1:], values[-1:], color=DARK, marker="o", markersize=3, zorder=3)
    rest = ordered[len(STYLES) :]
    counts = Counter(_kind(entry) for entry, _ in rest)
    width, size = (0.8, 4) if len(curves) < MANY else (0.3, 2)
    for entry, points in rest:
        kind = _kind(entry)
        steps, values = zip(*points, strict=True)
        label = f"{kind} ({counts.pop(kind)})" if kind in counts else "_"  # said once
        line, end = ("dashdot", "x") if kind == "pruned" else ("solid", ".")
        ax.plot(steps, values, color=GREY, linewidth=width, linestyle=line, label=label, zorder=2)
        ax.plot(steps[-1:], values[-1:], color=GREY, marker=end, markersize=size, zorder=2)
    numbers = [value for _, points in curves for _, value in points]
    if objective.mode == "min" and min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_FROM:
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel=objective.name)
    made = plain(ax, f"{name} by step: the {min(len(STYLES), len(curves))} best at the end in black ({mode})", 8, 5)
    legend(ax)
    return made, len(curves)


def _kind(entry: JobScalars) -> str:
    return "pruned" if entry.view.state is State.PRUNED else "others"


def _finite(entry: JobScalars, name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, value in sorted(entry.series.get(name, {}).items()) if math.isfinite(value)]
