"""The pictures of search-ctl plot: Optuna's plots of a study in memory, made fit for paper without colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from searchkit import fonts
from searchkit.errors import UsageError
from searchkit.suite.algorithms import study
from searchkit.suite.space.args import Arg, Range

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from searchkit.suite.config.settings import Objective
    from searchkit.suite.store.ranking import Scored

NEEDED = {"history": 1, "parallel": 2, "importance": 4, "pareto": 1}  # rows with scores
MANY = 100  # from so many rows on, marks are small and lines thin
TICKS = 12  # names of values on one axis
LABEL = 18  # characters of one
DEPTH = 8  # of the trees of f-ANOVA: the time of deeper ones grows with the square of the jobs, the answer is the same
LOG_FROM = 50.0  # numbers that span this factor are drawn on a log scale
DARK, GREY, LIGHT = "#000000", "#808080", "#d0d0d0"


# --- the study -------------------------------------------------------------------------------------------------------


def study_of(
    rows: Iterable[Scored], args: Sequence[Arg], objectives: Sequence[Objective], *, coded: bool = False
) -> optuna.Study:
    """The rows as the trials of a study in memory; takes time in proportion to them.

    The number of a trial is that of its job, the gaps being filled with failed trials; records of subnets, of which a
    job may have many, are counted through. Arguments whose values are all numbers are numbers to Optuna, others texts.

    coded: as f-ANOVA can take them. It looks at ranges as even, so those on a log scale are given by their logarithm;
    and its time doubles with each value of a text, so texts are given by their number in order of appearance.
    """
    import optuna

    made = study.create(objectives, optuna.samplers.RandomSampler(seed=0))
    listed = sorted(rows, key=lambda row: row.entry.view.job.index)
    by_job = not any(row.entry.row for row in listed)
    columns = _columns([_params(row, args) for row in listed], args, coded)
    trials: list[optuna.trial.FrozenTrial] = []
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    for i, row in enumerate(listed):
        while by_job and len(trials) < row.entry.view.job.index:
            trials.append(failed)
        present = {name: column for name, column in columns.items() if i in column.values}
        trial = optuna.trial.create_trial(
            values=list(row.scores),
            params={name: column.values[i] for name, column in present.items()},
            distributions={name: column.kind for name, column in present.items()},
        )
        trials.append(trial)
    with study.quiet():
        made.add_trials(trials)
    return made


@dataclass(frozen=True)
class _Column:
    """One argument: its distribution of Optuna, and its value in each row that has it."""

    kind: Any
    values: dict[int, Any]


def _columns(points: Sequence[dict[str, Any]], args: Sequence[Arg], coded: bool) -> dict[str, _Column]:
    names = dict.fromkeys(name for point in points for name in point)
    ranges = {arg.key: arg.log for arg in args if isinstance(arg, Range)}
    columns = {}
    for name in names:
        values = {i: point[name] for i, point in enumerate(points) if name in point}
        columns[name] = _column(values, ranges.get(name), coded)
    return columns


def _column(values: dict[int, Any], log: bool | None, coded: bool) -> _Column:
    from optuna import distributions as of

    if any(isinstance(value, str) for value in values.values()):
        texts = {i: _label(value) for i, value in values.items()}
        choices = tuple(dict.fromkeys(texts.values()))
        if not coded:
            return _Column(of.CategoricalDistribution(choices), texts)
        place = {text: k for k, text in enumerate(choices)}
        return _Column(of.IntDistribution(0, len(choices) - 1), {i: place[text] for i, text in texts.items()})
    low, high = min(values.values()), max(values.values())
    log = low > 0 and high / low >= LOG_FROM if log is None else log
    if log and coded:
        values = {i: math.log10(value) for i, value in values.items()}
        return _Column(of.FloatDistribution(math.log10(low), math.log10(high)), values)
    if all(isinstance(value, int) for value in values.values()):
        return _Column(of.IntDistribution(low, high, log=log), values)
    return _Column(of.FloatDistribution(float(low), float(high), log=log), values)


def _params(row: Scored, args: Sequence[Arg]) -> dict[str, Any]:
    """One job's arguments, those of a Nested as one: numbers, or texts."""
    job = row.entry.view.job
    point: dict[str, Any] = {}
    for arg in args:
        names = [name for name in arg.names if name in job.values]
        if len(names) == 1:
            value = job.values[names[0]]
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            point[arg.key] = value if number else job.text[names[0]]
        elif names:
            point[arg.key] = ", ".join(job.text[name] for name in names)
    return point


def _label(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LABEL else f"{text[: LABEL - 1]}…"


# --- the pictures ----------------------------------------------------------------------------------------------------


def draw(kind: str, rows: Sequence[Scored], args: Sequence[Arg], objectives: Sequence[Objective]) -> Figure:
    """One of KINDS as a figure of matplotlib. Raises UsageError where there is too little to draw."""
    import matplotlib

    matplotlib.use("Agg")
    if len(rows) < NEEDED[kind]:
        names = ", ".join(objective.name for objective in objectives)
        raise UsageError(
            f"{kind} needs {NEEDED[kind]} or more jobs that ended with a value of {names}, got {len(rows)}"
        )
    varying = _varying(rows, args)
    if kind in ("parallel", "importance") and not varying:
        raise UsageError(f"{kind} needs an argument that varies among the jobs, and these {len(rows)} are all alike")
    if kind == "importance" and len({row.scores for row in rows}) == 1:
        raise UsageError(
            f"importance needs values of {objectives[0].name} that differ, and all are {rows[0].scores[0]:g}"
        )
    made = study_of(rows, args, objectives, coded=kind == "importance")
    draws = {"history": _history, "parallel": _parallel, "importance": _importance, "pareto": _pareto}
    with study.quiet(), matplotlib.rc_context():
        figure: Figure = draws[kind](made, rows, varying, objectives)
    return figure


def _varying(rows: Sequence[Scored], args: Sequence[Arg]) -> list[str]:
    """The arguments that have more than one value among the rows."""
    seen: dict[str, set[Any]] = {arg.key: set() for arg in args}
    for row in rows:
        point = _params(row, args)
        for name, values in seen.items():
            values.add(point.get(name))
    return [name for name, values in seen.items() if len(values) > 1]


def _history(made: optuna.Study, rows: Sequence[Scored], _: Sequence[str], objectives: Sequence[Objective]) -> Figure:
    from optuna.visualization import matplotlib as plots

    ax = plots.plot_optimization_history(made, target_name=objectives[0].name)
    figure = plain(ax, f"{objectives[0].name} by job", 8, 5)
    size = 8 if len(rows) >= MANY else 24
    at: dict[str, list[tuple[int, float]]] = {"finished": [], "pruned": []}
    for row in rows if not any(row.entry.row for row in rows) else ():
        at[str(row.entry.view.state)].append((row.entry.view.job.index, row.scores[0]))
    marks = ax.collections[0]
    if at["pruned"]:
        marks.set_offsets(at["finished"] or [(float("nan"), float("nan"))])
        xs, ys = zip(*at["pruned"], strict=True)
        ax.scatter(xs, ys, marker="x", s=size, c=GREY, linewidths=0.8, label="pruned")
    marks.set(facecolors="none", edgecolors=GREY, sizes=[size], linewidths=0.8, label="finished")
    ax.lines[0].set(
        color=DARK, alpha=1.0, linewidth=1.5, drawstyle="steps-post", label=f"best so far ({objectives[0].mode})"
    )
    ax.set(xlabel="row" if any(row.entry.row for row in rows) else "job", ylabel=objectives[0].name)
    low, high = min(row.scores[0] for row in rows), max(row.scores[0] for row in rows)
    if objectives[0].mode == "min" and low > 0 and high / low >= LOG_FROM:
        ax.set_yscale("log")  # else a few bad losses press all the others to the ground
    legend(ax)
    return figure


def _parallel(
    made: optuna.Study, rows: Sequence[Scored], varying: Sequence[str], objectives: Sequence[Objective]
) -> Figure:
    import numpy as np
    import optuna
    from matplotlib import colors
    from optuna.visualization import matplotlib as plots

    names = list(varying) if int(optuna.__version__.split(".")[0]) >= 5 else _everywhere(made, varying)
    ax = plots.plot_parallel_coordinate(made, params=names, target_name=objectives[0].name)
    figure = plain(ax, f"{objectives[0].name} ({objectives[0].mode}) by arguments: the best tenth in black", 8, 5.5)
    lines: Any = ax.collections[0]
    values, segments = np.asarray(lines.get_array()), lines.get_segments()
    order = np.argsort(values if objectives[0].mode == "max" else -values, kind="stable")
    rank = np.arange(len(order), 0, -1)  # shades by rank: by value, one bad outlier makes all the others alike
    best = rank <= max(1, len(rank) // 10)
    lines.set_segments([segments[i] for i in order])  # the best are drawn last, and thick
    lines.set_array(rank)
    lines.set_linewidth(np.where(best, 1.6, 0.3 if len(rows) >= MANY else 0.9))
    shades = [(0.0, "0.0"), (0.1, "0.2"), (0.11, "0.55"), (1.0, "0.88")]
    lines.set_cmap(colors.LinearSegmentedColormap.from_list("greys", shades))
    lines.set_clim(1, len(rank))
    lines.colorbar.set_label("rank (1 is the best)")
    lines.colorbar.ax.invert_yaxis()
    axes = [axis for axis in figure.axes if axis is not ax and not axis.xaxis.get_visible()]
    figure.set_size_inches(max(8.0, 3.0 + 1.6 * len(axes)), 5.5)
    for axis in axes:
        _tidy_axis(axis)
    names = [text.get_text() for text in ax.get_xticklabels()]
    ax.set_xticks(ax.get_xticks(), [textwrap.fill(_label(name), 14) for name in names], rotation=0)
    return figure


def _tidy_axis(ax: Axes) -> None:
    """Name at most TICKS values of an axis of texts, each legible above the lines."""
    ticks, texts = ax.get_yticks(), [text.get_text() for text in ax.get_yticklabels()]
    step = -(-len(ticks) // TICKS)
    if step > 1 and len(texts) == len(ticks) and ax.get_yscale() == "linear":
        ax.set_yticks(ticks[::step], texts[::step])
    ax.tick_params(labelsize=8, colors=DARK)
    for text in ax.get_yticklabels():
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6})


def _everywhere(made: optuna.Study, names: Sequence[str]) -> list[str]:
    """The arguments that every trial has: not those under a condition that does not hold for all."""
    points = [trial.params for trial in made.get_trials(deepcopy=False) if trial.values]
    return [name for name in names if all(name in point for point in points)]


def _importance(
    made: optuna.Study, rows: Sequence[Scored], varying: Sequence[str], objectives: Sequence[Objective]
) -> Figure:
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    common = _everywhere(made, varying)
    if not common:
        raise UsageError(f"importance needs an argument that every job has, and {', '.join(varying)} depend on others")
    ax = plots.plot_param_importances(
        made, FanovaImportanceEvaluator(max_depth=DEPTH, seed=0), params=common, target_name=objectives[0].name
    )
    title = f"share of the variance of {objectives[0].name} (f-ANOVA of {len(rows)})"
    if left_out := [name for name in varying if name not in common]:
        title += f"\nnot shown, as not every job has them: {', '.join(left_out)}"
    figure = plain(ax, title, 8, 1.5 + 0.45 * len(common))
    for bar in ax.patches:
        bar.set(facecolor=GREY, edgecolor=DARK)
    for text in ax.texts:
        text.set_text(f" {text.get_text()}")
    ax.set(xlabel="importance", ylabel="")
    ax.set_yticks(ax.get_yticks(), [_label(text.get_text()) for text in ax.get_yticklabels()])
    if legend := ax.get_legend():
        legend.remove()
    return figure


def _pareto(made: optuna.Study, rows: Sequence[Scored], _: Sequence[str], objectives: Sequence[Objective]) -> Figure:
    from optuna.visualization import matplotlib as plots

    names = [f"{objective.name} ({objective.mode})" for objective in objectives]
    ax = plots.plot_pareto_front(made, target_names=names)
    figure = plain(ax, "Pareto front", 8, 6)
    size = 8 if len(rows) >= MANY else 24
    front = [row for row in rows if row.front == 0]
    *others, best = ax.collections
    for marks in others:
        marks.set(
            facecolors="none",
            edgecolors=GREY,
            sizes=[size],
            linewidths=0.8,
            label=f"other jobs ({len(rows) - len(front)})",
        )
    best.set(facecolors=DARK, edgecolors=DARK, sizes=[36], label=f"front ({len(front)})")
    best.set_paths([_diamond()])
    if len(objectives) == 2:
        points = sorted(row.scores for row in front)
        ax.plot(*zip(*points, strict=True), color=DARK, linewidth=0.8, linestyle="--", zorder=0)
        for row in front if len(front) <= TICKS else ():
            ax.annotate(
                row.entry.name, (row.scores[0], row.scores[1]), xytext=(5, 5), textcoords="offset points", fontsize=8
            )
    legend(ax)
    return figure


def _diamond() -> Any:
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle("D")
    return style.get_path().transformed(style.get_transform())


def legend(ax: Axes) -> None:
    """Below the picture, where nothing else is."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)


def plain(ax: Axes, title: str, width: float, height: float) -> Figure:
    """Black on white, whatever style the plot was made in; sizes in inches."""
    figure: Any = ax.figure
    figure.set_size_inches(width, height)
    figure.set_facecolor("white")
    ax.set_title("", loc="left")
    ax.set_title(title, color=DARK, fontsize=12)
    ax.set_facecolor("white")
    ax.grid(True, color=LIGHT, linewidth=0.5)
    ax.tick_params(colors=DARK)
    for spine in ax.spines.values():
        spine.set_color(DARK)
    for axis in (ax.xaxis, ax.yaxis, getattr(ax, "zaxis", ax.yaxis)):
        axis.label.set_color(DARK)
    made: Figure = figure
    return made


def render(figure: Figure, form: str) -> bytes:
    """The figure as a file of that form; the same figure gives the same bytes."""
    import io

    import matplotlib
    from matplotlib import pyplot

    to = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "searchkit"}), fonts.quiet():
        figure.savefig(to, format=form, dpi=150, bbox_inches="tight", metadata={"Date": None} if form == "svg" else {})
    pyplot.close(figure)
    return to.getvalue()
