"""What a search varies: arguments and their values, and how they are read from the nodes of a config file.

A value keeps two forms. `text` is what the user wrote and what a command is rendered from (`1e-3`, `010`, `no`);
`data` is what it means, for samplers, comparisons and constraints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchkit.errors import Fault, did_you_mean

# https://yaml.org/spec/1.2.2/#1032-tag-resolution. PyYAML resolves by YAML 1.1, where `no` is False, `010` is 8,
# `12:30` is 750 and `1e-3` is a string: each of these has sent a wrong value to somebody's training.
_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBERS = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
)
_MAX_DIGITS = 4000  # int() refuses more than 4300, and nobody means such a number
_BYTES = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_BYTES = 255  # of a folder's name
ARG_TYPES = ("Categorical", "Nested")


def typed(text: str) -> Any:
    """What a plain scalar means under the YAML 1.2 core schema; a word that means nothing special is itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= _MAX_DIGITS:
        for pattern, convert in _NUMBERS:
            if pattern.fullmatch(text):
                return convert(text)
    return text


@dataclass(frozen=True)
class Value:
    """One value as the user wrote it (`text`), and what it means (`data`)."""

    data: Any
    text: str


@dataclass(frozen=True)
class Categorical:
    """One argument, one of `values`."""

    name: str
    values: tuple[Value, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares: one."""
        return (self.name,)

    def points(self) -> tuple[dict[str, Value], ...]:
        """Every choice, in the order written."""
        return tuple({self.name: value} for value in self.values)


@dataclass(frozen=True)
class Nested:
    """Several arguments that vary together: one of `rows`, which all have the same keys."""

    rows: tuple[Mapping[str, Value], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares, in the order of the first row."""
        return tuple(self.rows[0]) if self.rows else ()

    def points(self) -> tuple[dict[str, Value], ...]:
        """Every row, its keys in the order of the first one, so that all jobs have their names in one order."""
        return tuple({name: row[name] for name in self.names} for row in self.rows)


Arg = Categorical | Nested


# --- nodes: values and their places ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A part of a file: what it holds, and where. `kind` is scalar, list, map, or bad (its fault is reported)."""

    kind: str
    line: int
    col: int
    data: Any = None
    text: str = ""  # what commands are rendered from
    items: tuple[Node, ...] = ()
    entries: Mapping[str, tuple[Node, Node]] = field(default_factory=dict)  # key -> (where it stands, its value)
    span: tuple[int, int] = (0, 0)  # in the text of the file
    size: int = 1  # nodes in it, aliases written out

    @property
    def is_null(self) -> bool:
        """Whether nothing is given here: `key:` or `key: null`."""
        return self.kind == "scalar" and self.data is None

    def __str__(self) -> str:
        if self.kind != "scalar":
            return {"list": "a list", "map": "a mapping"}.get(self.kind, "something else")
        return "nothing" if self.is_null else repr(self.text if len(self.text) <= 60 else self.text[:57] + "...")


class Report:
    """What there is to say about a file: faults, and notes of one line each."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def fault(self, node: Node, what: str) -> None:
        """Add a fault at the place of `node`."""
        self.faults.append(Fault(node.line, node.col, what))

    def note(self, node: Node, what: str) -> None:
        """Add a notice, which stops nobody."""
        self.notes.append(f"{self.filename}:{node.line}: {what}")


class Section:
    """One mapping of a file, read key by key: what is wrong goes to the report, and a default comes back."""

    def __init__(self, report: Report, node: Node | None, path: str) -> None:
        self.report = report
        self.node = node
        self.path = path
        self.entries: Mapping[str, tuple[Node, Node]] = {}
        if node is not None and node.kind == "map":
            self.entries = node.entries
        elif node is not None and node.kind != "bad" and not (node.is_null and path):
            what = f"must be a mapping (key: value), not {node}"
            report.fault(node, f"{path}: {what}" if path else f"the file {what}")

    def sub(self, key: str, *known: str) -> Section:
        """The section below `key`, which has only the known keys."""
        return Section(self.report, self.get(key), self.at(key)).only(known)

    def only(self, known: Sequence[str]) -> Section:
        """Report every key but the known ones."""
        for key, (where, _) in self.entries.items():
            if key not in known:
                prefix = f"{self.path}: " if self.path else ""
                self.report.fault(where, f"{prefix}unknown key {key!r}{did_you_mean(key, tuple(known))}")
        return self

    def at(self, key: str) -> str:
        """The path of a key, for messages."""
        return f"{self.path}.{key}" if self.path else key

    def fault(self, key: str, node: Node, what: str) -> None:
        """Report what is wrong with the value of `key`."""
        self.report.fault(node, f"{self.at(key)}: {what}")

    def get(self, key: str) -> Node | None:
        """The value of `key`; None where it is absent, null, or already reported."""
        _, node = self.entries.get(key, (None, None))
        return None if node is None or node.is_null or node.kind == "bad" else node

    def require(self, key: str) -> Node | None:
        """As `get`, but absent or null is a fault."""
        _, node = self.entries.get(key, (None, None))
        if self.node is not None and self.node.kind == "map" and (node is None or node.is_null):
            self.report.fault(node or self.node, f"{self.path}: missing key {key!r}".removeprefix(": "))
        return self.get(key)

    def word(self, key: str) -> str | None:
        """A text that is not empty."""
        node = self.get(key)
        if node is None or (node.kind == "scalar" and node.text.strip()):
            return node.text if node else None
        self.fault(key, node, f"must be a text, not {node}")
        return None

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        """One of `options`."""
        node = self.get(key)
        if node is not None and node.text not in options:
            self.fault(key, node, f"unknown {key} {node}{did_you_mean(node.text, tuple(options))}")
        return node.text if node is not None else default

    def whole(self, key: str, least: int) -> int | None:
        """An integer of at least `least`."""
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node.data, int) or isinstance(node.data, bool) or node.data < least:
            self.fault(key, node, f"must be a whole number of {least} or more, not {node}")
            return None
        return node.data

    def words(self, key: str) -> list[tuple[str, Node]]:
        """A list of texts, each with the path to it."""
        node = self.get(key)
        if node is not None and node.kind != "list":
            self.fault(key, node, f"must be a list, not {node}")
        found = [(f"{self.at(key)}[{i}]", item) for i, item in enumerate(node.items if node else ())]
        for path, item in found:
            if item.kind != "bad" and (item.kind != "scalar" or not item.text):
                self.report.fault(item, f"{path}: must be a text, not {item}")
        return [(path, item) for path, item in found if item.kind == "scalar" and item.text]

    def switch(self, key: str, default: bool) -> bool | str:
        """true, false, or a text."""
        node = self.get(key)
        if node is not None and isinstance(node.data, bool):
            return node.data
        return self.word(key) or default

    def size(self, key: str) -> int | None:
        """Bytes: a number, or one with K, M, G or T for powers of 1024."""
        node = self.get(key)
        if node is None:
            return None
        m = _BYTES.fullmatch(node.text)
        size = int(float(m[1]) * 1024 ** " KMGT".index(m[2].upper() or " ")) if m else 0
        if size < 1:
            self.fault(key, node, f"must be a number of bytes, or a size such as 6G or 512M, not {node}")
        return size

    def seconds(self, key: str) -> float | None:
        """Seconds: a number, or one with s, m, h or d."""
        node = self.get(key)
        if node is None:
            return None
        m = _SECONDS.fullmatch(node.text)
        seconds = float(m[1]) * _UNIT_S[m[2]] if m else 0.0
        if seconds <= 0:
            self.fault(key, node, f"must be seconds above 0, or a time such as 30s, 10m, 2h or 1d, not {node}")
        return seconds

    def variables(self) -> dict[str, str]:
        """All keys as the names of environment variables, with the texts they are set to."""
        for name, (where, node) in self.entries.items():
            if not _VARIABLE.fullmatch(name):
                self.fault(name, where, "must be the name of a variable: letters, digits and _")
            elif name.startswith("SEARCHKIT_"):
                self.fault(name, where, "is reserved; every job is given its own SEARCHKIT_ variables")
            if node.kind not in ("scalar", "bad"):
                self.fault(name, node, f"must be a text, not {node}")
        return {name: node.text for name, (_, node) in self.entries.items()}

    def patterns(self, key: str) -> tuple[str, ...]:
        """Regular expressions, each with a named group."""
        found = self.words(key)
        for path, node in found:
            try:
                if not re.compile(node.text).groupindex:
                    what = "must name a group for each number, such as acc=(?P<acc>[0-9.]+)"
                    self.report.fault(node, f"{path}: {what}")
            except (re.error, OverflowError, RecursionError) as e:
                self.report.fault(node, f"{path}: {node} is no regular expression: {e}")
        return tuple(node.text for _, node in found)


# --- nodes to arguments ----------------------------------------------------------------------------------------------


class ArgReader:
    """Reads `search_args`. `names` are those declared, with their places, also where their argument has a fault;
    `complete` is whether every argument could be asked for its names."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.names: dict[str, Node] = {}
        self.complete = True
        self._named = False

    def read(self, items: Iterable[Node]) -> tuple[Arg, ...]:
        """The arguments that could be read; every fault is in the report."""
        args: list[Arg] = []
        for i, node in enumerate(items):
            self._named = False
            arg = self._arg(Section(self.report, node, f"search_args[{i}]"))
            args += [arg] if arg else []
            self.complete = self.complete and self._named
        return tuple(args)

    def _arg(self, section: Section) -> Arg | None:
        kind = section.require("type")
        if kind is not None and kind.text == "Nested":
            return self._nested(section)
        if kind is None or kind.text == "Categorical":
            return self._categorical(section.only(("type", "name", "value")))
        self.report.fault(kind, f"{section.path}: unknown type {kind}{did_you_mean(kind.text, ARG_TYPES)}")
        if "name" in section.entries:
            self._name(section)
        return None

    def _name(self, section: Section) -> str | None:
        node = section.require("name")
        if node is None:
            return None
        name = node.text if node.kind == "scalar" else ""
        self._declare(name, node, section.path)
        return name

    def _categorical(self, section: Section) -> Arg | None:
        name = self._name(section)
        nodes = self._values(section)
        values = tuple(Value(node.data, node.text) for node in nodes)
        self._notes(section.path, nodes, [{"": value} for value in values])
        return Categorical(name, values) if name and values else None

    def _nested(self, section: Section) -> Arg | None:
        known = ["type", "value"]
        if "name" in section.entries:
            known.append("name")
            what = "a Nested argument has no name of its own; the keys of its rows are the names"
            section.fault("name", section.entries["name"][0], what)
        rows: list[dict[str, Value]] = []
        nodes: list[Node] = []
        for i, node in enumerate(self._values(section.only(known))):
            where = f"{section.path}.value[{i}]"
            if node.kind != "map" or not node.entries:
                found = "an empty one" if node.kind == "map" else node
                self.report.fault(node, f"{where}: must be a mapping of names to values, not {found}")
                continue
            row = {key: Value(value.data, value.text) for key, (_, value) in node.entries.items()}
            differs = row_faults(rows[0], row) if rows else ""
            if differs:
                self.report.fault(node, f"{where}: {differs}; all rows must have the same keys")
            for key, (place, _) in node.entries.items():
                if not rows or (differs and key not in self.names):
                    self._declare(key, place, where)
            rows.append(row)
            nodes.append(node)
        self._notes(section.path, nodes, rows)
        return Nested(tuple(rows)) if rows else None

    def _values(self, section: Section) -> tuple[Node, ...]:
        node = section.require("value")
        if node is not None and not node.items:
            found = "an empty one" if node.kind == "list" else node
            section.fault("value", node, f"must be a list of at least one value, not {found}")
        return node.items if node is not None else ()

    def _declare(self, name: str, node: Node, path: str) -> None:
        self._named = True
        what = name_fault(name)
        if what:
            self.report.fault(node, f"{path}: {what}")
        elif name in self.names:
            first = self.names[name].line
            self.report.fault(node, f"{path}: {name!r} is declared twice (first on line {first})")
        else:
            self.names[name] = node

    def _notes(self, path: str, nodes: Sequence[Node], rows: Sequence[Mapping[str, Value]]) -> None:
        """A value listed twice, by its text (the same command) or its meaning; a value too long for a folder's name."""
        seen: set[str] = set()
        for node, row in zip(nodes, rows, strict=True):
            by_text = "text " + repr([(key, row[key].text) for key in sorted(row)])
            by_data = "data " + repr([(key, row[key].data) for key in sorted(row)])
            if by_text in seen or by_data in seen:
                which = node if node.kind == "scalar" else node.text
                self.report.note(node, f"{path}: {which} is listed twice; each is a job of its own")
            seen |= {by_text, by_data}
            if any(len(value.text.encode("utf-8", "replace")) > _NAME_BYTES for value in row.values()):
                what = f"a value is longer than {_NAME_BYTES} bytes, so its folder in jobs/tree has a shortened name"
                self.report.note(node, f"{path}: {what}")


def name_fault(name: str) -> str:
    """Why `name` can't be the name of an argument; empty when it can."""
    if not name:
        return "a name must be a text that is not empty"
    bad = next((c for c in name if c in "{}/" or c.isspace() or not c.isprintable()), "")
    return f"the name {name!r} must not contain {bad!r}" if bad else ""


def row_faults(first: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """How the keys of a Nested row differ from those of the first row; empty when they don't."""
    missing = [name for name in first if name not in row]
    extra = [name for name in row if name not in first]
    parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"has {', '.join(map(repr, extra))}, which the first row lacks"] if extra else []
    return " and ".join(parts)
