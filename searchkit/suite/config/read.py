"""A YAML config, or every fault of it in one report: `file:line:col: key: what must hold`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import nodes
from searchkit.reading.nodes import Document, Node, Section
from searchkit.suite.config import search as search_section
from searchkit.suite.config import shells
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

KEYS = ("task", "search", "resources", "run", "callbacks", "env", "monitor", "pavi", "stages")
TASK_KEYS = ("template", "search_args", "constraints", "measures", "reward_attribute")
STAGE_KEYS = ("name", *KEYS[:-1])
STAGE_VARIABLE = re.compile(r"(?<![A-Za-z0-9_])SEARCHKIT_STAGE_[A-Za-z0-9_]*")
_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}")
T = TypeVar("T")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
    text = document.text
    top = document.top(*KEYS)
    bare = replace(_BARE, run=Run(shell=shell))
    if top.get("stages") is not None:
        return _staged(top, text, bare)
    section = top.sub("task", *TASK_KEYS)
    top.require("task")
    reader = ArgReader(document.report)
    config = _settings(top, section, bare)
    task, template = _task(section, text, reader, config.run.shell)
    config = replace(config, task=task, template=template or config.template)
    search_section.check(top.part("search"), section, config, reader)
    search_section.check_direction(_monitor_section(top), section, config)
    template_section.check_workers(section, text, config)
    template_section.check_ends(section, config)
    template_section.note_shell(top, [config])
    return replace(config, notes=tuple(dict.fromkeys(document.report.notes))) if template else None


def _settings(top: Section, task: Section, base: Config) -> Config:
    """All but the task; what is not given here is as in `base`."""
    search = search_section.read(top.sub("search", *search_section.KEYS), base.search)
    resources = top.sub("resources", "gpus", "gpu_mem", "cpus")
    run = top.sub("run", "max_parallel", "timeout_s", "retries", "on_error", "workers", "shell")
    callbacks = top.sub("callbacks", "pre", "after")
    return replace(
        base,
        search=search,
        resources=Resources(
            _given(resources.whole("gpus", 0), base.resources.gpus),
            _given(resources.size("gpu_mem"), base.resources.gpu_mem_bytes),
            _given(resources.whole("cpus", 1), base.resources.cpus),
        ),
        run=Run(
            _given(run.whole("max_parallel", 1), base.run.max_parallel),
            _given(run.seconds("timeout_s"), base.run.timeout_s),
            _given(run.whole("retries", 0), base.run.retries),
            run.choice("on_error", ("continue", "stop"), base.run.on_error),
            _workers(run, base.run.workers),
            template_section.shell(run, base.run.shell),
        ),
        callbacks=Callbacks(
            _given(callbacks.word("pre"), base.callbacks.pre), _given(callbacks.word("after"), base.callbacks.after)
        ),
        env={**base.env, **_variables(Section(top.report, top.get("env"), top.at("env")))},
        monitor=_monitor(top, task, base, search.objectives),
    )


def _workers(run: Section, base: int | str | None) -> int | str | None:
    node = run.get("workers")
    if node is None:
        return base
    if isinstance(node.data, bool):
        return "auto" if node.data else None
    if not isinstance(node.data, int) or node.data < 1:
        run.fault("workers", node, f"must be true, false, or a whole number of 1 or more, not {node}")
    return node.data if isinstance(node.data, int) else base


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _staged(top: Section, text: str, bare: Config) -> Config:
    """A config of several stages. Its own task holds no command."""
    task = top.sub("task", *TASK_KEYS)
    for key in TASK_KEYS[:-1]:
        if key in task.entries:
            task.fault(key, task.entries[key][0], "belongs to a stage: stages: [{name: …, task: {…}}]")
    search = top.part("search")
    for key in search_section.POINTS:
        if key in search.entries:
            search.fault(key, search.entries[key][0], "belongs to the search of a stage, as its arguments do")
    base = _settings(top, task, bare)
    base = replace(base, task=replace(base.task, reward_attribute=task.word("reward_attribute")))
    listed = top.items("stages")
    if not listed and top.entries["stages"][1].kind == "list":
        top.fault("stages", top.entries["stages"][1], "must be a list of at least one stage")
    stages: list[Stage] = []
    readers: dict[str, ArgReader] = {}
    for section in listed:
        stage = _stage(section, text, base, tuple(stages), readers)
        stages += [stage] if stage else []
    template_section.note_shell(top, [stage.config for stage in stages])
    return replace(base, stages=tuple(stages), notes=tuple(dict.fromkeys(top.report.notes)))


def _stage(
    section: Section, text: str, base: Config, earlier: tuple[Stage, ...], readers: dict[str, ArgReader]
) -> Stage | None:
    """One stage; `readers` are those of the earlier ones, and get its own."""
    section.only(STAGE_KEYS)
    node = section.require("name")
    name = node.text if node is not None else ""
    if node is not None and not _STAGE.fullmatch(name):
        section.fault("name", node, f"must be letters, digits, '_' and '-' (at most 50), not {node}")
    twin = next((other.name for other in earlier if stage_variable(other.name) == stage_variable(name)), None)
    if node is not None and twin is not None:
        section.fault("name", node, f"{name!r} and {twin!r} would both be ${stage_variable(name)}; name one otherwise")
    section.require("task")
    task_section = section.sub("task", *TASK_KEYS)
    _check_stages_named(task_section, tuple(stage.name for stage in earlier))
    reader = ArgReader(section.report, f"{section.path}.", dict(readers))
    config = _settings(section, task_section, base)
    task, template = _task(task_section, text, reader, config.run.shell)
    readers[name] = reader
    config = replace(config, task=task, template=template or config.template)
    search_section.check(section.part("search"), task_section, config, reader)
    search_section.check_direction(_monitor_section(section), task_section, config)
    template_section.check_workers(task_section, text, config)
    template_section.check_ends(task_section, config)
    _check_best(reader, config, earlier)
    return Stage(name, config) if template and node else None


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


def _check_stages_named(section: Section, earlier: tuple[str, ...]) -> None:
    """Every `$SEARCHKIT_STAGE_…` of a stage must be a stage that runs before it."""
    known = tuple(stage_variable(name) for name in earlier)
    for _, node in section.entries.values():
        for leaf in _leaves(node):
            for found in STAGE_VARIABLE.findall(leaf.text):
                if found not in known:
                    near = did_you_mean(found, known) or " (none does)"
                    section.report.fault(leaf, f"{section.path}: ${found} must name a stage that runs before{near}")


def _leaves(node: Node) -> Iterator[Node]:
    children = [*node.items, *(value for _, value in node.entries.values())]
    if not children:
        yield node
    for child in children:
        yield from _leaves(child)


def _task(section: Section, text: str, reader: ArgReader, shell: Shell) -> tuple[Task, Template | None]:
    report, prefix = section.report, reader.prefix
    node = section.require("template")
    template = None if node is None else template_section.read(section, node, shell)
    listed = section.get("search_args")
    if listed is not None and listed.kind != "list":
        section.fault("search_args", listed, f"must be a list, not {listed}")
    args = reader.read(listed.items if listed else ())
    if listed is not None and not prefix and any(isinstance(arg, Subnet) for arg in args):
        for leaf in _leaves(listed):
            if STAGE_VARIABLE.search(leaf.text):
                report.fault(leaf, f"{section.path}: {leaf} names a stage, but this config has no stages")
    measures = _measures(section)
    constraints = _constraints(section, reader, measured=section.get("measures") is not None)
    if template is not None and node is not None:
        template_section.check(template, text, node, section, reader, args)
    source = template.source if template else ""
    return Task(source, args, constraints, section.word("reward_attribute"), measures), template


def _constraints(section: Section, reader: ArgReader, measured: bool) -> tuple[str, ...]:
    found = section.words("constraints")
    for path, node in found:
        names_in(node, path, reader, measured)
    return tuple(node.text for _, node in found)


def _measures(section: Section) -> Measures | None:
    """A function of the user's own, by its name alone or with what it is given. It is not imported to read a config."""
    node = section.get("measures")
    if node is None:
        return None
    inner = Section(section.report, node, section.at("measures")) if node.kind == "map" else None
    call = inner.only(("call", "given")).require("call") if inner else node
    if call is not None and not (call.kind == "scalar" and search_section.OWN.fullmatch(call.text)):
        what = f"must be a function of your own, as module:function, not {call}"
        (inner or section).fault("call" if inner else "measures", call, what)
    given = inner.part("given") if inner else None
    values = {name: value.data for name, (_, value) in given.entries.items()} if given else {}
    return Measures(call.text, values) if call is not None else None


def _monitor_section(top: Section) -> Section:
    return top.part("pavi" if "pavi" in top.entries else "monitor")


def _monitor(top: Section, task: Section, base: Config, objectives: tuple[Objective, ...]) -> Monitor:
    key = "monitor"
    if "pavi" in top.entries and "monitor" in top.entries:
        top.report.fault(top.entries["pavi"][0], "pavi: is another name for monitor; give one of the two")
    elif "pavi" in top.entries:
        key = "pavi"
        top.report.note(top.entries["pavi"][0], "`pavi` is read as `monitor`")
    section = top.sub(key, "reward_attribute", "mode", "score", "scalars", "regex", "tensorboard", "compare")
    compare = section.sub("compare", "name", "id")
    reward, other = section.word("reward_attribute"), task.get("reward_attribute")
    if reward is not None and other is not None and reward != other.text:
        node = section.entries["reward_attribute"][1]
        section.fault("reward_attribute", node, f"is {node}, but task.reward_attribute is {other}; give one")
    ranks = reward or (other.text if other is not None else base.reward_attribute)
    mode = section.choice("mode", ("max", "min"), base.monitor.mode)
    if ranks is None and objectives and objectives[0].value is None:
        reward = ranks = objectives[0].name
    judged = next((objective for objective in objectives if objective.name == ranks), None)
    if judged is not None and section.get("mode") is not None and mode != judged.mode:
        what = f"is {mode}, but search.objectives says {judged.mode} for {ranks}; give one"
        section.fault("mode", section.entries["mode"][1], what)
    patterns = _patterns(section, "regex")
    faulty = bool(section.report.faults)
    groups = {name for pattern in patterns if not faulty for name in re.compile(pattern).groupindex} - {"step"}
    if ranks and not objectives and groups and ranks not in groups:
        what = f"{section.at('regex')}: no group is the reward {ranks!r} (there are {', '.join(sorted(groups))})"
        section.report.note(section.entries["regex"][1], f"{what}; it has to be reported in another way")
    scalars = [node.text for _, node in section.words("scalars")] or list(base.monitor.scalars)
    if scalars and ranks:
        scalars.append(ranks)
    return Monitor(
        reward_attribute=reward if base.task is _BARE.task else ranks,
        mode=judged.mode if judged else mode,
        score=section.choice("score", ("last", "best"), base.monitor.score),
        scalars=tuple(dict.fromkeys(scalars)),
        regex=patterns or base.monitor.regex,
        tensorboard=section.switch("tensorboard", base.monitor.tensorboard),
        compare_name=_given(compare.word("name"), base.monitor.compare_name),
        compare_id=_given(compare.word("id"), base.monitor.compare_id),
        mode_given=judged is not None or section.get("mode") is not None or base.monitor.mode_given,
    )


def _variables(section: Section) -> dict[str, str]:
    """All keys as the names of environment variables, with the texts they are set to."""
    for name, (where, node) in section.entries.items():
        if not _VARIABLE.fullmatch(name):
            section.fault(name, where, "must be the name of a variable: letters, digits and _")
        elif name.startswith("SEARCHKIT_"):
            section.fault(name, where, "is reserved; every job is given its own SEARCHKIT_ variables")
        if node.kind not in ("scalar", "bad"):
            section.fault(name, node, f"must be a text, not {node}")
    return {name: node.text for name, (_, node) in section.entries.items()}


def _patterns(section: Section, key: str) -> tuple[str, ...]:
    """Regular expressions, each with a named group."""
    found = section.words(key)
    for path, node in found:
        try:
            if not re.compile(node.text).groupindex:
                what = "must name a group for each number, such as acc=(?P<acc>[0-9.]+)"
                section.report.fault(node, f"{path}: {what}")
        except (re.error, OverflowError, RecursionError) as e:
            section.report.fault(node, f"{path}: {node} is no regular expression: {e}")
    return tuple(node.text for _, node in found)
