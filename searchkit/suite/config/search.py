"""The `search:` section of a config: how points are chosen, judged, ended early, and when there are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from searchkit.errors import UsageError
from searchkit.reading import expression
from searchkit.reading.fill import Part
from searchkit.reading.nodes import Node
from searchkit.suite.config import form
from searchkit.suite.config.args import ArgReader, near
from searchkit.suite.config.named import StopRule
from searchkit.suite.config.settings import Config, Search
from searchkit.suite.space.args import Arg

LIMITS = ("n_trials", "time_budget_s", "target")


def read(part: Part[Any], cls: type[form.SharedSearch], base: Search) -> Search:
    """The section, as one of `cls`; what is not given is as in `base`, but for points: these belong to the arguments of
    one stage."""
    names = [f.name for f in fields(form.SharedSearch) if f.name != "sampler"]
    filled = part.fill_onto(cls(**{name: getattr(base, name) for name in names}))
    sampler = filled.sampler or StopRule(base.sampler, base.sampler_options)
    if part.get("sampler") is not None and filled.sampler is None:
        sampler = StopRule("")  # its fault is in the report
    _check_objectives(part)
    return Search(
        sampler=sampler.type,
        sampler_options=sampler.options,
        n_trials=filled.n_trials,
        time_budget_s=filled.time_budget_s,
        target=filled.target,
        seed=filled.seed or 0,
        objectives=filled.objectives,
        stop=(filled.stop,) if isinstance(filled.stop, StopRule) else filled.stop or (),
        enqueue=filled.enqueue if isinstance(filled, form.Search) else (),
        warm_start=filled.warm_start if isinstance(filled, form.Search) else None,
    )


def _check_objectives(part: Part[Any]) -> None:
    names: list[str] = []
    for path, item in part.items("objectives"):
        _, node = item.entries.get("name", (None, None))
        if node is not None and node.kind == "scalar":
            if node.text in names:
                part.report.fault(node, f"{path}.name: {node.text!r} is an objective already")
            names.append(node.text)


# --- what several keys say together ----------------------------------------------------------------------------------


def check(section: Part[Any], task: Part[Any], config: Config, reader: ArgReader) -> None:
    """What the search needs of the arguments, the objectives and the limits. What is wrong with a key that is inherited
    is told at the task."""
    search, scored = config.search, bool(config.objectives)

    def place(key: str) -> Node:
        node = section.get(key) or section.node or task.node
        assert node is not None  # a task has a node
        return node

    for key in ("sampler", "target", "stop") if not scored else ():
        if not (config.task.search_args or section.get(key)):
            continue
        needed = _needs_results(search.sampler) if key == "sampler" else getattr(search, key) not in (None, ())
        if needed:
            what = f"{search.sampler} needs a score" if key == "sampler" else "needs a score"
            section.fault(key, f"{what}: give task.reward_attribute or search.objectives", place(key))
    if search.stop and len(config.objectives) > 1:
        what = f"judges by the first of the objectives, {config.objectives[0].name}"
        section.report.note(place("stop"), f"{section.at('stop')}: {what}")
    endless = next((arg.key for arg in config.task.search_args if arg.size is None), None)
    enough = any(getattr(search, key) is not None or section.get(key) for key in LIMITS)
    if search.sampler == "grid":
        _check_grid(config.task.search_args, reader)
    elif search.sampler and endless is not None and not enough:
        what = f"{search.sampler} would go on for ever, as {endless!r} has no end of values"
        section.fault("sampler", f"{what}; give {', '.join(LIMITS[:-1])} or {LIMITS[-1]}", place("sampler"))
    _check_points(section, config, reader)


def check_direction(monitor: Part[Any], task: Part[Any], config: Config) -> None:
    """A reward that is named like a loss, where nothing says which end of it is best: asked of what judges by it."""
    name = config.unclear_reward
    place = monitor.get("reward_attribute") or task.get("reward_attribute") or monitor.node or task.node
    if not name or place is None:
        return
    what = f"{monitor.at('mode')}: missing, and {name!r} sounds as if less of it were better"
    if config.is_search:
        monitor.report.ask(place, what, "say which is best: `mode: min` or `mode: max`", "this task began with `max`")
    else:
        monitor.report.note(place, f"{what}; until it is given, no job is called the best, and `search-ctl best` asks")


def _needs_results(sampler: str) -> bool:
    """Whether a sampler needs a score. One of the user's own is not imported to tell (searching.py asks it)."""
    from searchkit.suite import algorithms

    return sampler in algorithms.SAMPLERS and algorithms.needs_results(algorithms.sampler(sampler))


def _check_grid(args: Sequence[Arg], reader: ArgReader) -> None:
    for arg in args:
        if arg.size is None:
            try:
                arg.grid()
            except UsageError as e:
                reader.report.fault(reader.names[arg.key], f"{reader.prefix}search_args: {e.message}; {e.hint}")


def _check_points(section: Part[Any], config: Config, reader: ArgReader) -> None:
    """Each point of `enqueue`: its names are arguments, its values are theirs, and it meets the constraints over
    arguments. (What its measures are is seen when they are taken.)"""
    from searchkit.suite.space.space import Space

    points = section.items("enqueue")
    if not points:
        return
    args, constraints = config.task.search_args, config.task.constraints
    try:
        if config.task.measures:
            parsed = [expression.parse(text, reader.names) for text in constraints]
            constraints = tuple(each.text for each in parsed if reader.names.keys() >= set(each.names))
        space = Space(args, constraints)
    except UsageError:  # its faults are in the report
        return
    later = [name for arg in space.args if not arg.size and arg.size is not None for name in arg.names]
    for path, point in points:
        known = {name: entry for name, entry in point.entries.items() if name not in later}
        unknown = [name for name in known if name not in reader.names]
        for name in unknown if reader.complete else ():
            what = f"{path}: {name!r} is not a declared argument{near(name, reader)}"
            section.report.fault(known[name][0], what)
        if unknown or (point.kind != "map" and not point.is_null):
            continue
        try:
            genes = space.genes({name: value.data for name, (_, value) in known.items()})
            if not space.feasible(genes):
                section.report.fault(point, f"{path}: does not meet the constraints")
        except UsageError as e:
            section.report.fault(point, f"{path}: {e.message}")
