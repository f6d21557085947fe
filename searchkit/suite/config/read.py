"""A YAML config, or every fault of it in one report: `file:line:col: key: what must hold`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import nodes
from searchkit.reading.fill import ABSENT, Part, whole_file
from searchkit.reading.nodes import Document, Node
from searchkit.suite.config import form, shells
from searchkit.suite.config import search as search_section
from searchkit.suite.config import task as template_section
from searchkit.suite.config.args import ArgReader, names_in
from searchkit.suite.config.settings import (
    Callbacks,
    Config,
    Measures,
    Monitor,
    Objective,
    Resources,
    Run,
    Search,
    Stage,
    Task,
    stage_variable,
)
from searchkit.suite.config.shells import Shell
from searchkit.suite.config.template import Template
from searchkit.suite.space.args import Best, Subnet

STAGE_VARIABLE = re.compile(r"(?<![A-Za-z0-9_])SEARCHKIT_STAGE_[A-Za-z0-9_]*")
T = TypeVar("T")

_BARE = Config(Task(""), Search(), Resources(), Run(), Callbacks(), {}, Monitor(), Template("", (), True))


def load(path: str, *, begun: Shell | None = None) -> tuple[Config, bytes]:
    """The config at `path`, and the bytes it was read from.

    begun: of a task that exists, the shell that it was begun with. It keeps that, and may leave open what a new one is
    asked for. A new one has bash where this machine has it, unless `run.shell` says otherwise.

    Raises ConfigError with every fault of the file, UsageError for a file that can't be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except OSError as e:
        raise UsageError(f"can't read the config {path}: {e.strerror}") from e
    return parse(raw, path, begun=begun), raw


def parse(raw: bytes, filename: str, *, begun: Shell | None = None) -> Config:
    """The config in `raw`; `filename` stands in the faults. Arguments and errors as `load`."""
    needs = "; it needs at least `task:` with its `template:`"
    document = nodes.parse(raw, filename, needs, begun=begun is not None)
    config = _config(document, begun or shells.default())
    document.check()
    assert config is not None  # else its fault is in the report
    return config


# --- sections --------------------------------------------------------------------------------------------------------


def _config(document: Document, shell: Shell) -> Config | None:
    text, top = document.text, whole_file(form.File, document)
    file = top.fill_onto(form.File())
    bare = replace(_BARE, run=Run(shell=shell))
    if top.get("stages") is not None:
        return _staged(top, file, text, bare)
    if top.node is not None and top.node.kind == "map" and top.get("task") is None:
        _, node = top.entries.get("task", (None, top.node))
        if node.kind != "bad":
            document.report.fault(node, "missing key 'task'")
    reader = ArgReader(document.report)
    config, template = _whole(file, bare, text, reader)
    template_section.note_shell(top, file.run, [config])
    return replace(config, notes=tuple(dict.fromkeys(document.report.notes))) if template else None


def _whole(
    sections: form.File | form.Stage, base: Config, text: str, reader: ArgReader
) -> tuple[Config, Template | None]:
    """A config without stages, or that of one stage; the template is None where it has a fault."""
    config = _settings(sections, form.Search, base)
    task, template = _task(sections.task, text, reader, config.run.shell)
    config = replace(config, task=task, template=template or config.template)
    search_section.check(sections.search, sections.task, config, reader)
    search_section.check_direction(_monitor_part(sections), sections.task, config)
    template_section.check_workers(sections.task, text, config)
    template_section.check_ends(sections.task, config)
    return config, template


def _settings(sections: form.File | form.Stage, search: type[form.SharedSearch], base: Config) -> Config:
    """All but the task; what is not given here is as in `base`."""
    filled = search_section.read(sections.search, search, base.search)
    return replace(
        base,
        search=filled,
        resources=sections.resources.fill_onto(base.resources),
        run=sections.run.fill_onto(base.run),
        callbacks=sections.callbacks.fill_onto(base.callbacks),
        env={**base.env, **(sections.env.fill() or {})},
        monitor=_monitor(sections, base, filled.objectives),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _staged(top: Part[form.File], file: form.File, text: str, bare: Config) -> Config:
    """A config of several stages. Its own task holds no command."""
    task = file.task.fill_onto(form.SharedTask())
    base = _settings(file, form.SharedSearch, bare)
    base = replace(base, task=replace(base.task, reward_attribute=task.reward_attribute))
    stages: list[Stage] = []
    readers: dict[str, ArgReader] = {}
    for part in file.stages:
        stage = _stage(part, text, base, tuple(stages), readers) if part.node is not None else None
        stages += [stage] if stage else []
    template_section.note_shell(top, file.run, [stage.config for stage in stages])
    return replace(base, stages=tuple(stages), notes=tuple(dict.fromkeys(top.report.notes)))


def _stage(
    part: Part[form.Stage], text: str, base: Config, earlier: tuple[Stage, ...], readers: dict[str, ArgReader]
) -> Stage | None:
    """One stage; `readers` are those of the earlier ones, and get its own."""
    stage = part.fill_onto(form.Stage(name="", task=ABSENT))
    name = stage.name
    twin = next((other.name for other in earlier if stage_variable(other.name) == stage_variable(name)), None)
    if name and twin is not None:
        part.fault("name", f"{name!r} and {twin!r} would both be ${stage_variable(name)}; name one otherwise")
    _check_stages_named(stage.task, tuple(other.name for other in earlier))
    reader = ArgReader(part.report, f"{part.path}.", dict(readers))
    config, template = _whole(stage, base, text, reader)
    named = part.get("name")
    readers[named.text if named is not None else ""] = reader
    _check_best(reader, config, earlier)
    return Stage(name, config) if template and name else None


def _check_best(reader: ArgReader, config: Config, earlier: tuple[Stage, ...]) -> None:
    """The stages whose best jobs are taken can tell which these are."""
    scored = {stage.name: bool(stage.config.objectives) for stage in earlier}
    unclear = {stage.name: stage.config.unclear_reward for stage in earlier if not stage.config.is_search}
    for arg in config.task.search_args:
        if isinstance(arg, Best) and unclear.get(arg.stage):
            what = f"{reader.prefix}search_args: {unclear[arg.stage]!r} of the stage {arg.stage!r} sounds as if less of"
            what += " it were better, and nothing says so"
            ask = "say which jobs are best, in its monitor: `mode: min` or `mode: max`"
            reader.report.ask(reader.names[arg.names[0]], what, ask, "this task began with `max`")
        if isinstance(arg, Best) and not scored.get(arg.stage, True):
            what = f"the stage {arg.stage!r} has neither reward_attribute nor objectives to tell its best jobs"
            reader.report.fault(reader.names[arg.names[0]], f"{reader.prefix}search_args: {what}")


def _check_stages_named(task: Part[Any], earlier: tuple[str, ...]) -> None:
    """Every `$SEARCHKIT_STAGE_…` of a stage must be a stage that runs before it."""
    known = tuple(stage_variable(name) for name in earlier)
    for _, node in task.entries.values():
        for leaf in _leaves(node):
            for variable in STAGE_VARIABLE.findall(leaf.text):
                if variable not in known:
                    near = did_you_mean(variable, known) or " (none does)"
                    task.report.fault(leaf, f"{task.path}: ${variable} must name a stage that runs before{near}")


def _leaves(node: Node) -> Iterator[Node]:
    children = [*node.items, *(value for _, value in node.entries.values())]
    if not children:
        yield node
    for child in children:
        yield from _leaves(child)


def _task(part: Part[Any], text: str, reader: ArgReader, shell: Shell) -> tuple[Task, Template | None]:
    task = part.fill_onto(form.Task(ABSENT))
    template = template_section.read(task.template, shell)
    args = reader.read(task.search_args)
    listed = part.get("search_args")
    _, given = part.entries.get("search_args", (None, None))
    if given is not None and not given.is_null and given.kind != "list":
        reader.complete = False
    if listed is not None and not reader.prefix and any(isinstance(arg, Subnet) for arg in args):
        for leaf in _leaves(listed):
            if STAGE_VARIABLE.search(leaf.text):
                part.report.fault(leaf, f"{part.path}: {leaf} names a stage, but this config has no stages")
    measured = part.get("measures") is not None
    for path, node in part.items("constraints"):
        if node.kind == "scalar" and node.text.strip():
            names_in(node, path, reader, measured)
    if template is not None:
        template_section.check(template, text, part, reader, args)
    source = template.source if template else ""
    measures = Measures(task.measures) if isinstance(task.measures, str) else task.measures
    return Task(source, args, task.constraints, task.reward_attribute, measures), template


def _monitor_part(sections: form.Sections) -> Part[form.Monitor]:
    return sections.monitor if sections.pavi.key is None else sections.pavi


def _monitor(sections: form.File | form.Stage, base: Config, objectives: tuple[Objective, ...]) -> Monitor:
    part = _monitor_part(sections)
    report = part.report
    if sections.pavi.key and sections.monitor.key:
        report.fault(sections.pavi.key, "pavi: is another name for monitor; give one of the two")
    elif sections.pavi.key:
        report.note(sections.pavi.key, "`pavi` is read as `monitor`")
    monitor = part.fill_onto(form.Monitor())
    reward, other = monitor.reward_attribute, sections.task.get("reward_attribute")
    if reward is not None and other is not None and reward != other.text:
        node = part.get("reward_attribute")
        part.fault("reward_attribute", f"is {node}, but task.reward_attribute is {other}; give one")
    ranks = reward or (other.text if other is not None else base.reward_attribute)
    mode = monitor.mode or base.monitor.mode
    if ranks is None and objectives and objectives[0].value is None:
        reward = ranks = objectives[0].name
    judged = next((objective for objective in objectives if objective.name == ranks), None)
    if judged is not None and monitor.mode is not None and mode != judged.mode:
        part.fault("mode", f"is {mode}, but search.objectives says {judged.mode} for {ranks}; give one")
    groups = {name for pattern in monitor.regex for name in re.compile(pattern).groupindex} - {"step"}
    if ranks and not objectives and groups and ranks not in groups:
        what = f"{part.at('regex')}: no group is the reward {ranks!r} (there are {', '.join(sorted(groups))})"
        report.note(part.entries["regex"][1], f"{what}; it has to be reported in another way")
    scalars = list(monitor.scalars or base.monitor.scalars)
    if scalars and ranks:
        scalars.append(ranks)
    return Monitor(
        reward_attribute=reward if base.task is _BARE.task else ranks,
        mode=judged.mode if judged else mode,
        score=monitor.score or base.monitor.score,
        scalars=tuple(dict.fromkeys(scalars)),
        regex=monitor.regex or base.monitor.regex,
        tensorboard=_given(monitor.tensorboard, base.monitor.tensorboard),
        compare_name=_given(monitor.compare.name, base.monitor.compare_name),
        compare_id=_given(monitor.compare.id, base.monitor.compare_id),
        mode_given=judged is not None or part.get("mode") is not None or base.monitor.mode_given,
    )
