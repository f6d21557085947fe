"""How arguments are read from the nodes of a config file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.nodes import Node, Report, Section
from searchkit.suite.space.args import (
    ARG_TYPES,
    INTEGERS,
    RANGES,
    Arg,
    Best,
    Categorical,
    Nested,
    Range,
    Subnet,
    Value,
    order,
    range_faults,
)

_NAME_BYTES = 255  # of a folder's name


class ArgReader:
    """Reads `search_args`. `names` are those declared, with their places, also where their argument has a fault;
    `complete` is whether every argument could be asked for its names.

    needs: for each name that a condition may switch off, the names in the condition.
    earlier: the readers of the stages before this one, for Best; None where the config has no stages.
    """

    def __init__(self, report: Report, prefix: str = "", earlier: Mapping[str, ArgReader] | None = None) -> None:
        self.report = report
        self.prefix = prefix
        self.earlier = earlier
        self.names: dict[str, Node] = {}
        self.needs: dict[str, tuple[str, ...]] = {}
        self.complete = True
        self._groups: list[list[str]] = []  # the names of each argument
        self._whens: list[Node | None] = []

    def read(self, items: Iterable[Node]) -> tuple[Arg, ...]:
        """The arguments that could be read; every fault is in the report."""
        args: list[Arg] = []
        for i, node in enumerate(items):
            self._groups.append([])
            section = Section(self.report, node, f"{self.prefix}search_args[{i}]")
            self._whens.append(section.get("when") if section.word("when") else None)
            arg = self._arg(section)
            args += [arg] if arg else []
            self.complete = self.complete and bool(self._groups[-1])
        self._conditions()
        return tuple(args)

    def _arg(self, section: Section) -> Arg | None:
        kind = section.require("type")
        if kind is None or kind.text == "Categorical":
            return self._categorical(section.only(("type", "name", "value", "when")))
        if kind.text == "Nested":
            return self._nested(section)
        if kind.text == "Subnet":
            return self._subnet(section.only(("type", "name", "space", "rules", "per_job", "seed", "when")))
        if kind.text in RANGES:
            return self._range(section, kind.text)
        if kind.text == "Best":
            return self._best(section.only(("type", "stage", "number", "args", "folder", "checkpoint", "when")))
        self.report.fault(kind, f"{section.path}: unknown type {kind}{did_you_mean(kind.text, ARG_TYPES)}")
        if "name" in section.entries:
            self._name(section)
        return None

    def _when(self) -> str | None:
        node = self._whens[-1]
        return None if node is None else node.text

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
        return Categorical(name, values, self._when()) if name and values else None

    def _subnet(self, section: Section) -> Arg | None:
        name = self._name(section)
        space = section.word("space") if section.require("space") else None
        if space is not None and not space.endswith((".json", ".jsonl")):
            section.fault("space", section.entries["space"][1], f"must be a .json or .jsonl file, not {space!r}")
        per_job, seed = section.whole("per_job", 1) or 1, section.whole("seed", 0)
        rules, when = section.word("rules"), self._when()
        return Subnet(name, when=when, space=space, rules=rules, per_job=per_job, seed=seed) if name and space else None

    def _range(self, section: Section, kind: str) -> Arg | None:
        steps = ("step",) if kind in ("Uniform", "Int") else ()
        section.only(("type", "name", "low", "high", *steps, "when"))
        name = self._name(section)
        low, high = (self._number(section, key, kind) if section.require(key) else None for key in ("low", "high"))
        step = self._number(section, "step", kind) if steps else None
        if low is None or high is None or (steps and step is None and section.get("step") is not None):
            return None
        faults = range_faults(kind, low, high, step)
        for key, what in faults:
            section.fault(key, section.entries[key][1], what)
        if faults or not name:
            return None
        arg = Range(name, kind, low, high, step, self._when())
        if step is not None and arg.last != high:
            what = f"no whole number of steps goes from low to high; the last value is {arg.last}"
            self.report.note(section.entries["step"][1], f"{section.path}.step: {what}")
        return arg

    def _number(self, section: Section, key: str, kind: str) -> Any:
        node = section.get(key)
        number: Any = None if node is None else node.data
        good = isinstance(number, int if kind in INTEGERS else int | float) and not isinstance(number, bool)
        if node is not None and not (good and math.isfinite(number)):
            what = "whole number" if kind in INTEGERS else "number"
            section.fault(key, node, f"must be a {what}, not {node}")
            return None
        return number

    def _nested(self, section: Section) -> Arg | None:
        known = ["type", "value", "when"]
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
        return Nested(tuple(rows), self._when()) if rows else None

    def _best(self, section: Section) -> Arg | None:
        node, number = section.require("stage"), section.whole("number", 1) if section.require("number") else None
        if node is None:
            return None
        if self.earlier is None:
            section.fault("stage", node, "this config has no stages, whose best jobs could be taken")
            return None
        stage = self.earlier.get(node.text)
        if stage is None:
            near = did_you_mean(node.text, tuple(self.earlier)) or " (none does)"
            section.fault("stage", node, f"{node} must be a stage that runs before{near}")
            return None
        folder, checkpoint = section.word("folder"), section.word("checkpoint")
        listed = dict.fromkeys(item.text for _, item in section.words("args"))
        given = section.get("args")
        args = tuple(listed if given is not None and given.kind == "list" else stage.names)
        if not (args or folder or checkpoint):
            what = f"the stage {node} has no arguments" if stage.complete and not stage.names else "takes no argument"
            section.fault("stage", node, f"{what}; name one for what its jobs left: folder, or checkpoint")
        places = {item.text: item for _, item in section.words("args")}
        for name in args:
            place = places.get(name, node)
            lacks = [need for need in stage.needs.get(name, ()) if need not in args]
            if name not in stage.names and stage.complete:
                what = f"the stage {node} has no argument {name!r}{did_you_mean(name, tuple(stage.names))}"
                section.fault("args", place, what)
            elif lacks:
                what = f"{name!r} needs {', '.join(map(repr, lacks))} beside it, on which it depends in that stage"
                section.fault("args", place, what)
            self._declare(name, place, section.path)
            if name in stage.needs:
                self.needs[name] = stage.needs[name]
        for key, more in (("folder", folder), ("checkpoint", checkpoint)):
            if more:
                self._declare(more, section.entries[key][1], section.path)
        found = Best(
            when=self._when(), stage=node.text, number=number or 1, args=args, folder=folder, checkpoint=checkpoint
        )
        return found if number and found.names else None

    def _values(self, section: Section) -> tuple[Node, ...]:
        node = section.require("value")
        if node is not None and not node.items:
            found = "an empty one" if node.kind == "list" else node
            section.fault("value", node, f"must be a list of at least one value, not {found}")
        return node.items if node is not None else ()

    def _declare(self, name: str, node: Node, path: str) -> None:
        self._groups[-1].append(name)
        what = name_fault(name)
        if what:
            self.report.fault(node, f"{path}: {what}")
        elif name in self.names:
            first = self.names[name].line
            self.report.fault(node, f"{path}: {name!r} is declared twice (first on line {first})")
        else:
            self.names[name] = node

    def _conditions(self) -> None:
        """Check each `when`: it can be read, its names are declared, and no conditions depend on each other."""
        needs: list[tuple[str, ...]] = []
        for i, (group, node) in enumerate(zip(self._groups, self._whens, strict=True)):
            needs.append(names_in(node, f"{self.prefix}search_args[{i}].when", self) if node else ())
            for name in group if node else ():
                self.needs[name] = (*self.needs.get(name, ()), *needs[-1])
        _, cycle = order(self._groups, needs)
        if cycle:
            chain = " needs ".join(repr(",".join(self._groups[i])) for i in [*cycle, cycle[0]])
            node = self._whens[cycle[0]]
            assert node is not None  # what needs something has a condition
            self.report.fault(node, f"{self.prefix}search_args[{cycle[0]}].when: the conditions go round: {chain}")

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


def names_in(node: Node, path: str, reader: ArgReader, measured: bool = False) -> tuple[str, ...]:
    """The names in an expression (a condition, a constraint); what is wrong with it goes to the report.

    measured: names that are no arguments are measures; which of these there are is known when they are taken.
    """
    try:
        used = expression.parse(node.text, reader.names).names
    except UsageError as e:
        reader.report.fault(node, f"{path}: {e.message}; {e.hint}")
        return ()
    for name in used:
        if name not in reader.names and reader.complete and not measured:
            instead = expression.unquoted(node.text, reader.names) or near(name, reader)
            reader.report.fault(node, f"{path}: {name!r} is not a declared argument{instead}")
    return used


def near(name: str, reader: ArgReader) -> str:
    """` (did you mean …?)` for what is no argument."""
    return did_you_mean(name, tuple(reader.names)) or " (none is declared)"


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
