"""What a search varies: arguments and their values, and how they are read from the nodes of a config file.

A value keeps two forms. `text` is what the user wrote and what a command is rendered from (`1e-3`, `010`, `no`);
`data` is what it means, for samplers, comparisons and constraints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchkit.errors import did_you_mean
from searchkit.nodes import Node, Report, Section

_NAME_BYTES = 255  # of a folder's name
ARG_TYPES = ("Categorical", "Nested", "Subnet")


@dataclass(frozen=True)
class Value:
    """One value as the user wrote it (`text`), and what it means (`data`). Commands get its text, unless `argument`."""

    data: Any
    text: str
    argument: str | None = None  # what commands get where the text is only a short name

    @property
    def rendered(self) -> str:
        """What stands in a command."""
        return self.text if self.argument is None else self.argument


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


@dataclass(frozen=True)
class Subnet:
    """One argument, a file of records of a model space: those that the rules pick, `per_job` to a file.

    The files are made when the task is made (searchkit/store/subnets.py); then `values` holds their paths.
    """

    name: str
    space: str
    rules: str | None = None
    per_job: int = 1
    seed: int | None = None  # of the rules; None: that of the search
    values: tuple[Value, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that this declares: one."""
        return (self.name,)

    def points(self) -> tuple[dict[str, Value], ...]:
        """Every file, in the order picked; none before they are made."""
        return tuple({self.name: value} for value in self.values)


Arg = Categorical | Nested | Subnet


# --- nodes to arguments ----------------------------------------------------------------------------------------------


class ArgReader:
    """Reads `search_args`. `names` are those declared, with their places, also where their argument has a fault;
    `complete` is whether every argument could be asked for its names."""

    def __init__(self, report: Report, prefix: str = "") -> None:
        self.report = report
        self.prefix = prefix
        self.names: dict[str, Node] = {}
        self.complete = True
        self._named = False

    def read(self, items: Iterable[Node]) -> tuple[Arg, ...]:
        """The arguments that could be read; every fault is in the report."""
        args: list[Arg] = []
        for i, node in enumerate(items):
            self._named = False
            arg = self._arg(Section(self.report, node, f"{self.prefix}search_args[{i}]"))
            args += [arg] if arg else []
            self.complete = self.complete and self._named
        return tuple(args)

    def _arg(self, section: Section) -> Arg | None:
        kind = section.require("type")
        if kind is not None and kind.text == "Nested":
            return self._nested(section)
        if kind is None or kind.text == "Categorical":
            return self._categorical(section.only(("type", "name", "value")))
        if kind.text == "Subnet":
            return self._subnet(section.only(("type", "name", "space", "rules", "per_job", "seed")))
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

    def _subnet(self, section: Section) -> Arg | None:
        name = self._name(section)
        space = section.word("space") if section.require("space") else None
        if space is not None and not space.endswith((".json", ".jsonl")):
            section.fault("space", section.entries["space"][1], f"must be a .json or .jsonl file, not {space!r}")
        per_job, seed = section.whole("per_job", 1) or 1, section.whole("seed", 0)
        return Subnet(name, space, section.word("rules"), per_job, seed) if name and space else None

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
