"""A YAML config as frozen dataclasses, or every fault of it in one report: `file:line:col: key: what must hold`.

The file is read as YAML events, not as Python objects: each value keeps its place and its source text (`1e-3` stays
`1e-3`), nothing in a file can make an object, and neither deep nesting nor a bomb of aliases can take us down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from searchkit import template as templates
from searchkit.errors import ConfigError, UsageError, did_you_mean
from searchkit.space import expression
from searchkit.space.args import Arg, ArgReader, Node, Report, Section, typed
from searchkit.template import Template

KEYS = ("task", "search", "resources", "run", "callbacks", "env", "monitor", "pavi")
MAX_DEPTH = 100  # of nested lists and mappings
MAX_NODES = 1_000_000  # with aliases written out


@dataclass(frozen=True)
class Task:
    """The command, what varies in it, and the expressions that every job must meet."""

    template: str | tuple[str, ...]
    search_args: tuple[Arg, ...] = ()
    constraints: tuple[str, ...] = ()
    reward_attribute: str | None = None


@dataclass(frozen=True)
class Search:
    """How points are chosen."""

    seed: int = 0
    sampler: str = "grid"


@dataclass(frozen=True)
class Resources:
    """What one job needs; `gpus` and `gpu_mem_bytes` are None where the config is silent."""

    gpus: int | None = None
    gpu_mem_bytes: int | None = None
    cpus: int = 1


@dataclass(frozen=True)
class Run:
    """How jobs are run; `timeout_s` is per attempt."""

    max_parallel: int | None = None
    timeout_s: float | None = None
    retries: int = 0
    on_error: str = "continue"


@dataclass(frozen=True)
class Callbacks:
    """Commands run before and after each job's own."""

    pre: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Monitor:
    """Which numbers are collected and shown. `tensorboard` is whether, or the folder where, event files are read."""

    reward_attribute: str | None = None
    mode: str = "max"
    scalars: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    tensorboard: bool | str = True
    compare_name: str | None = None
    compare_id: str | None = None


@dataclass(frozen=True)
class Config:
    """A whole config. `notes` are one-line notices for the user, none of which is a fault."""

    task: Task
    search: Search
    resources: Resources
    run: Run
    callbacks: Callbacks
    env: Mapping[str, str]
    monitor: Monitor
    template: Template
    notes: tuple[str, ...] = ()

    @property
    def reward_attribute(self) -> str | None:
        """The scalar that ranks the jobs: the monitor's, else the task's (they may not differ)."""
        return self.monitor.reward_attribute or self.task.reward_attribute

    @property
    def arg_names(self) -> tuple[str, ...]:
        """Every declared argument, in the order of declaration."""
        return tuple(name for arg in self.task.search_args for name in arg.names)


def load(path: str) -> tuple[Config, bytes]:
    """The config at `path`, and the bytes it was read from.

    Raises ConfigError with every fault of the file, UsageError for a file that can't be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except OSError as e:
        raise UsageError(f"can't read the config {path}: {e.strerror}") from e
    return parse(raw, path), raw


def parse(raw: bytes, filename: str) -> Config:
    """The config in `raw`; `filename` stands in the faults. Raises as `load`."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{filename} is not UTF-8 (at byte {e.start})", "save it as UTF-8") from e
    report = Report(filename)
    config = _config(_Reader(text, report).read(), text, report)
    if config is None or report.faults:
        raise ConfigError(filename, list(dict.fromkeys(report.faults)))
    return config


# --- sections --------------------------------------------------------------------------------------------------------


def _config(root: Node, text: str, report: Report) -> Config | None:
    top = Section(report, root, "").only(KEYS)
    task_section = top.sub("task", "template", "search_args", "constraints", "reward_attribute")
    top.require("task")
    search = top.sub("search", "seed", "sampler")
    resources = top.sub("resources", "gpus", "gpu_mem", "cpus")
    run = top.sub("run", "max_parallel", "timeout_s", "retries", "on_error")
    on_error = run.choice("on_error", ("continue", "stop"), "continue")
    callbacks = top.sub("callbacks", "pre", "after")
    task, template = _task(task_section, text)
    monitor = _monitor(top, task_section)
    parts = (
        Search(search.whole("seed", 0) or 0, search.choice("sampler", ("grid",), "grid")),
        Resources(resources.whole("gpus", 0), resources.size("gpu_mem"), resources.whole("cpus", 1) or 1),
        Run(run.whole("max_parallel", 1), run.seconds("timeout_s"), run.whole("retries", 0) or 0, on_error),
        Callbacks(callbacks.word("pre"), callbacks.word("after")),
        Section(report, top.get("env"), "env").variables(),
        monitor,
    )
    if task is None or template is None:
        return None
    return Config(task, *parts, template, tuple(dict.fromkeys(report.notes)))


def _task(section: Section, text: str) -> tuple[Task | None, Template | None]:
    report = section.report
    node = section.require("template")
    template = None if node is None else _template(section, node)
    reader = ArgReader(report)
    listed = section.get("search_args")
    if listed is not None and listed.kind != "list":
        section.fault("search_args", listed, f"must be a list, not {listed}")
    args = reader.read(listed.items if listed else ())
    constraints = _constraints(section, reader)
    if template is None or node is None:
        return None, None
    for name in template.names:
        if name not in reader.names and reader.complete:
            what = (
                f"{{{name}}} is not a declared argument{_near(name, reader)}; write {{{{{name}}}}} for the literal text"
            )
            section.fault("template", _placeholder(text, node, name), what)
    unused = [name for name in reader.names if name not in template.names]
    if unused and not template.names:
        report.note(node, "the template uses no argument: the script reads searchkit.params()")
    for name in unused if template.names else ():
        what = f"{name!r} is declared, but the template never uses {{{name}}}"
        if not templates.PLACEHOLDER.fullmatch(f"{{{name}}}"):
            what += " (placeholders begin with a letter and hold letters, digits, '_', '-' and '.')"
        report.fault(reader.names[name], f"search_args: {what}")
    return Task(template.source, args, constraints, section.word("reward_attribute")), template


def _template(section: Section, node: Node) -> Template | None:
    parts = node.items if node.kind == "list" else (node,)
    odd = next((part for part in parts if part.kind in ("list", "map")), None)
    if odd is not None:
        section.fault("template", odd, f"must be a command for /bin/sh, or the list of its words, not {odd}")
        return None
    try:
        return templates.parse([part.text for part in parts] if node.kind == "list" else node.text)
    except UsageError as e:
        section.fault("template", node, f"{e.message}; {e.hint}" if e.hint else e.message)
        return None


def _near(name: str, reader: ArgReader) -> str:
    return did_you_mean(name, tuple(reader.names)) or " (none is declared)"


def _placeholder(text: str, node: Node, name: str) -> Node:
    """The place of `{name}` inside the template; the template's own where an escape hides it."""
    for part in node.items or (node,):
        for m in templates.PLACEHOLDER.finditer(text, *part.span):
            if m["name"] == name:
                return _place(text, m.start())
    return node


def _constraints(section: Section, reader: ArgReader) -> tuple[str, ...]:
    found = []
    for path, node in section.words("constraints"):
        found.append(node.text)
        try:
            used = expression.parse(node.text, reader.names).names
        except UsageError as e:
            section.report.fault(node, f"{path}: {e.message}; {e.hint}")
            continue
        for name in used:
            if name not in reader.names and reader.complete:
                section.report.fault(node, f"{path}: {name!r} is not a declared argument{_near(name, reader)}")
    return tuple(found)


def _monitor(top: Section, task: Section) -> Monitor:
    key = "monitor"
    if "pavi" in top.entries and "monitor" in top.entries:
        top.report.fault(top.entries["pavi"][0], "pavi: is another name for monitor; give one of the two")
    elif "pavi" in top.entries:
        key = "pavi"
        top.report.note(top.entries["pavi"][0], "`pavi` is read as `monitor`")
    section = top.sub(key, "reward_attribute", "mode", "scalars", "regex", "tensorboard", "compare")
    compare = section.sub("compare", "name", "id")
    reward, other = section.word("reward_attribute"), task.get("reward_attribute")
    if reward is not None and other is not None and reward != other.text:
        node = section.entries["reward_attribute"][1]
        section.fault("reward_attribute", node, f"is {node}, but task.reward_attribute is {other}; give one")
    ranks = reward or (other.text if other is not None else "")
    scalars = [node.text for _, node in section.words("scalars")]
    if scalars and ranks:
        scalars.append(ranks)
    return Monitor(
        reward_attribute=reward,
        mode=section.choice("mode", ("max", "min"), "max"),
        scalars=tuple(dict.fromkeys(scalars)),
        regex=section.patterns("regex"),
        tensorboard=section.switch("tensorboard", True),
        compare_name=compare.word("name"),
        compare_id=compare.word("id"),
    )


# --- YAML to nodes ---------------------------------------------------------------------------------------------------

# https://yaml.org/spec/1.2.2/#51-character-set; checked here since libyaml reports no line for it
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTANGLED = re.compile(r"[\s\[{,:][&*!#]|['\"].*\n")  # anchors, aliases, tags, comments, strings of several lines
_KINDS = {"ScalarEvent": "scalar", "SequenceStartEvent": "list", "MappingStartEvent": "map"}
_TAGS = {"scalar": "tag:yaml.org,2002:str", "list": "tag:yaml.org,2002:seq", "map": "tag:yaml.org,2002:map"}


def _place(text: str, index: int) -> Node:
    """A place without content."""
    return Node("bad", text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


class _Reader:
    """Turns the events of a YAML file into nodes."""

    def __init__(self, text: str, report: Report) -> None:
        self.text = text
        self.report = report
        self.anchors: dict[str, Node | None] = {}  # None while the node is still open
        self.depth = 0

    def read(self) -> Node:
        """The root. Raises ConfigError where there is none, or the rest can't be read."""
        import yaml  # here: whoever only wants the classes of this module doesn't pay for it

        bad = _UNPRINTABLE.search(self.text)
        if bad:
            self._stop(_place(self.text, bad.start()), f"the character {bad.group()!r} is not allowed in YAML")
        try:
            # events, since libyaml's own composer recurses without a limit: 100,000 brackets are a segmentation fault
            self.events: Iterator[Any] = iter(
                yaml.parse(self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            )
            next(self.events)  # the stream starts
            if type(next(self.events)).__name__ == "StreamEndEvent":
                self._stop(_place(self.text, 0), "the file is empty; it needs at least `task:` with its `template:`")
            root = self._node(next(self.events))
            next(self.events)  # the document ends
            after = next(self.events)
            if type(after).__name__ == "DocumentStartEvent":
                self._stop(self._at(after), "a second document starts here; a config is one")
            return root
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            at = Node("bad", mark.line + 1, mark.column + 1) if mark else _place(self.text, 0)
            self._stop(at, f"not YAML: {e.problem}{f' ({e.context})' if e.context else ''}")

    def _stop(self, at: Node, what: str) -> NoReturn:
        self.report.fault(at, what)
        raise ConfigError(self.report.filename, self.report.faults)

    def _at(self, event: Any, kind: str = "bad", **content: Any) -> Node:
        start = event.start_mark
        content.setdefault("span", (start.index, event.end_mark.index))
        return Node(kind, start.line + 1, start.column + 1, **content)

    def _node(self, event: Any) -> Node:
        kind = _KINDS.get(type(event).__name__)
        if kind is None:
            return self._alias(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._stop(self._at(event), f"lists and mappings must not be nested deeper than {MAX_DEPTH}")
        node = {"scalar": self._scalar, "list": self._list, "map": self._map}[kind](event)
        self.depth -= 1
        if event.tag not in (None, "!", _TAGS[kind]):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.report.fault(node, f"the tag {tag} is not allowed")
            node = self._at(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        here = self._at(event)
        if event.anchor not in self.anchors:
            self.report.fault(here, f"*{event.anchor} stands for nothing: no &{event.anchor} comes before it")
            return here
        node = self.anchors[event.anchor]
        if node is None:
            self.report.fault(here, f"*{event.anchor} stands inside of what it stands for")
            return here
        return replace(node, line=here.line, col=here.col)

    def _scalar(self, event: Any) -> Node:
        text: str = event.value
        if "\0" in text or re.search("[\ud800-\udfff]", text):
            self.report.fault(self._at(event), "a NUL or half a surrogate pair can't be part of a text")
            return self._at(event)
        data = typed(text) if not event.style and event.tag is None else text
        return self._at(event, "scalar", data=data, text=text)

    def _list(self, event: Any) -> Node:
        items = []
        while type(following := next(self.events)).__name__ != "SequenceEndEvent":
            items.append(self._node(following))
        data = [item.data for item in items]
        return self._whole(event, following, "list", items, data=data, items=tuple(items))

    def _map(self, event: Any) -> Node:
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        while type(following := next(self.events)).__name__ != "MappingEndEvent":
            is_merge = getattr(following, "value", None) == "<<" and not following.style
            key, value = self._node(following), self._node(next(self.events))
            if is_merge:
                merged |= self._bases(value)
            elif key.kind != "scalar":
                if key.kind != "bad":
                    self.report.fault(key, f"a key must be a text, not {key}")
            elif key.text in own:
                self.report.fault(key, f"the key {key.text!r} is given twice (first on line {own[key.text][0].line})")
            else:
                own[key.text] = (key, value)
        entries = {**merged, **own}
        data = {name: value.data for name, (_, value) in entries.items()}
        return self._whole(event, following, "map", [v for _, v in entries.values()], data=data, entries=entries)

    def _bases(self, value: Node) -> dict[str, tuple[Node, Node]]:
        entries: dict[str, tuple[Node, Node]] = {}
        for base in value.items if value.kind == "list" else (value,):
            if base.kind not in ("map", "bad"):
                self.report.fault(base, f"<<: must be a mapping, or a list of mappings, not {base}")
            entries |= {key: entry for key, entry in base.entries.items() if key not in entries}  # the first wins
        return entries

    def _whole(self, start: Any, end: Any, kind: str, parts: Sequence[Node], **content: Any) -> Node:
        """A collection; its text is its source in one line where it is in flow style, otherwise compact JSON."""
        size = 1 + sum(part.size for part in parts)
        if size > MAX_NODES:  # before it is written out
            self._stop(self._at(start), f"aliases must not make more than {MAX_NODES:,} values of a file")
        span = (start.start_mark.index, end.end_mark.index)
        source = self.text[slice(*span)]
        if start.flow_style and not _ENTANGLED.search(source):
            text = re.sub(r"\s*\n\s*", " ", source)
        else:
            import json

            text = json.dumps(content["data"], ensure_ascii=False, separators=(",", ":"))
        return self._at(start, kind, span=span, text=text, size=size, **content)
