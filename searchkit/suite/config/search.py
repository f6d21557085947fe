"""The `search:` section of a config: how points are chosen, judged, ended early, and when there are enough."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.nodes import Node, Section
from searchkit.suite.config.args import ArgReader, near
from searchkit.suite.config.settings import Config, Objective, Search, StopRule, WarmStart
from searchkit.suite.space.args import Arg

KEYS = (
    *("sampler", "n_trials", "time_budget_s", "target", "seed"),
    *("objectives", "stop", "enqueue", "warm_start"),
)
POINTS = ("enqueue", "warm_start")  # keys about the arguments of one stage
LIMITS = ("n_trials", "time_budget_s", "target")
MODES = ("max", "min")
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # the name of a class or function of the user's own


def read(section: Section, base: Search) -> Search:
    """The section; what is not given is as in `base`, but for points, which belong to the arguments of one stage."""
    sampler, options = base.sampler, base.sampler_options
    if (node := section.get("sampler")) is not None:
        rule = _named(section, "sampler", node)
        sampler, options = (rule.type, rule.options) if rule else ("", {})  # its fault is in the report
    return Search(
        seed=_given(section.whole("seed", 0), base.seed),
        sampler=sampler,
        sampler_options=options,
        n_trials=_given(section.whole("n_trials", 1), base.n_trials),
        time_budget_s=_given(section.seconds("time_budget_s"), base.time_budget_s),
        target=_given(section.number("target"), base.target),
        objectives=_objectives(section) or base.objectives,
        stop=base.stop if section.get("stop") is None else _stop(section),
        enqueue=_enqueue(section),
        warm_start=_warm_start(section),
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


# --- samplers and stoppers, with their options -----------------------------------------------------------------------


def _named(section: Section, kind: str, node: Node, path: str = "") -> StopRule | None:
    """A sampler or stopper: its name, or a mapping of `type` and its options."""
    from searchkit.suite import algorithms  # here: most commands read no search

    path = path or section.at(kind)
    inner = Section(section.report, node, path) if node.kind == "map" else None
    named = inner.require("type") if inner else node
    if named is None:
        return None
    name, known = named.text, algorithms.SAMPLERS if kind == "sampler" else algorithms.STOPPERS
    given = {key: entry for key, entry in inner.entries.items() if key != "type"} if inner else {}
    options = {key: value.data for key, (_, value) in given.items()}
    where = f"{path}.type" if inner else path
    if named.kind != "scalar" or (name not in known and not OWN.fullmatch(name)):
        section.report.fault(named, f"{where}: unknown {kind} {named}{did_you_mean(name, tuple(known))}")
        return None
    if name not in known:  # the user's own is not imported to read a config; it checks its options when it is made
        return StopRule(name, options)
    defaults, known_faults = algorithms.options(kind, name), len(section.report.faults)
    listed = ", ".join(f"{key}: {_shown(value)}" for key, value in defaults.items())
    has = f"its options are {listed}" if defaults else "it has none"
    for key, (place, value) in given.items():
        if key not in defaults:
            section.report.fault(place, f"{path}: {name} has no option {key!r}; {has}")
        elif what := _unlike(value.data, defaults[key]):
            section.report.fault(value, f"{path}.{key}: must be {what}, not {value}")
    for key, default in defaults.items():
        if default is algorithms.REQUIRED and key not in given:
            section.report.fault(node, f"{path}: {name} needs the option {key!r}; {has}")
    if kind == "stopper" and len(section.report.faults) == known_faults:
        try:
            algorithms.stopper(name)(Objective("", MODES[0]), **options)
        except UsageError as e:
            answer = e.hint or "give another value"
            section.report.ask(node, f"{path}: {e.message}", answer, "a task begun before goes on as it began")
    return StopRule(name, options)


def _shown(default: Any) -> str:
    import json

    return "(needed)" if isinstance(default, type) else json.dumps(default, default=str)


def _unlike(value: Any, default: Any) -> str:
    """What a value must be to be like the default of an option; empty where it is, and where none can be told."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a text"
    return ""


def _stop(section: Section) -> tuple[StopRule, ...]:
    node = section.get("stop")
    if node is None:
        return ()
    several = [(f"{section.at('stop')}[{i}]", item) for i, item in enumerate(node.items)]
    listed = several if node.kind == "list" else [(section.at("stop"), node)]
    rules = [_named(section, "stopper", item, path) for path, item in listed]
    return tuple(rule for rule in rules if rule)


# --- the rest --------------------------------------------------------------------------------------------------------


def _objectives(section: Section) -> tuple[Objective, ...]:
    found: list[Objective] = []
    listed = section.items("objectives")
    if not listed and (node := section.get("objectives")) is not None and node.kind == "list":
        section.fault("objectives", node, "must be a list of at least one objective")
    for each in listed:
        each.only(("name", "mode", "value"))
        name = each.word("name") if each.require("name") else None
        mode = each.choice("mode", MODES, "") if each.require("mode") else ""
        value = each.word("value")
        if name in [objective.name for objective in found]:
            each.fault("name", each.entries["name"][1], f"{name!r} is an objective already")
        if value is not None:
            try:
                expression.parse(value)
            except UsageError as e:
                each.fault("value", each.entries["value"][1], f"{e.message}; {e.hint}")
        if name and mode in MODES:
            found.append(Objective(name, mode, value))
    return tuple(found)


def _enqueue(section: Section) -> tuple[Mapping[str, Any], ...]:
    return tuple({name: value.data for name, (_, value) in each.entries.items()} for each in section.items("enqueue"))


def _warm_start(section: Section) -> WarmStart | None:
    inner = section.sub("warm_start", "task", "csv")
    task, csv = inner.word("task"), inner.word("csv")
    node = section.get("warm_start")
    if node is not None and node.kind == "map" and (task is None) == (csv is None):
        section.fault("warm_start", node, "must have either `task`, another task, or `csv`, a file of the project")
    return WarmStart(task, csv) if task or csv else None


# --- what several keys say together ----------------------------------------------------------------------------------


def check(section: Section, task: Section, config: Config, reader: ArgReader) -> None:
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
            section.fault(key, place(key), f"{what}: give task.reward_attribute or search.objectives")
    if search.stop and len(config.objectives) > 1:
        what = f"judges by the first of the objectives, {config.objectives[0].name}"
        section.report.note(place("stop"), f"{section.at('stop')}: {what}")
    endless = next((arg.key for arg in config.task.search_args if arg.size is None), None)
    enough = any(getattr(search, key) is not None or section.get(key) for key in LIMITS)
    if search.sampler == "grid":
        _check_grid(config.task.search_args, reader)
    elif search.sampler and endless is not None and not enough:
        what = f"{search.sampler} would go on for ever, as {endless!r} has no end of values"
        section.fault("sampler", place("sampler"), f"{what}; give {', '.join(LIMITS[:-1])} or {LIMITS[-1]}")
    _check_points(section, config, reader)


def check_direction(monitor: Section, task: Section, config: Config) -> None:
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


def _check_points(section: Section, config: Config, reader: ArgReader) -> None:
    """Each point of `enqueue`: its names are arguments, its values are theirs, and it meets the constraints over
    arguments. (What its measures are is seen when they are taken.)"""
    from searchkit.suite.space.space import Space

    args, constraints = config.task.search_args, config.task.constraints
    try:
        if config.task.measures:
            parsed = [expression.parse(text, reader.names) for text in constraints]
            constraints = tuple(each.text for each in parsed if reader.names.keys() >= set(each.names))
        space = Space(args, constraints)
    except UsageError:  # its faults are in the report
        return
    later = [name for arg in space.args if not arg.size and arg.size is not None for name in arg.names]
    for each in section.items("enqueue"):
        known = {name: entry for name, entry in each.entries.items() if name not in later}
        unknown = [name for name in known if name not in reader.names]
        for name in unknown if reader.complete else ():
            what = f"{each.path}: {name!r} is not a declared argument{near(name, reader)}"
            each.report.fault(known[name][0], what)
        if unknown or each.node is None:
            continue
        try:
            genes = space.genes({name: value.data for name, (_, value) in known.items()})
            if not space.feasible(genes):
                each.report.fault(each.node, f"{each.path}: does not meet the constraints")
        except UsageError as e:
            each.report.fault(each.node, f"{each.path}: {e.message}")
