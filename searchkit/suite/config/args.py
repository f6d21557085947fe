"""How arguments are read from the nodes of a config file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.fill import Part
from searchkit.reading.nodes import Node, Report
from searchkit.suite.config import form
from searchkit.suite.space.args import Arg, Best, Categorical, Nested, Range, Subnet, Value, order, range_faults

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

    def read(self, parts: Iterable[Part[form.AnyArg]]) -> tuple[Arg, ...]:
        """The arguments that could be read; every fault is in the report."""
        args: list[Arg] = []
        for i, given in enumerate(parts):
            part = replace(given, path=f"{self.prefix}search_args[{i}]")  # without `task`: shorter, and as clear
            self._groups.append([])
            when = part.get("when")
            self._whens.append(when if when is not None and when.kind == "scalar" and when.text.strip() else None)
            arg = self._arg(part)
            args += [arg] if arg else []
            self.complete = self.complete and bool(self._groups[-1])
        self._conditions()
        return tuple(args)

    def _arg(self, part: Part[form.AnyArg]) -> Arg | None:
        filled = part.fill()
        if isinstance(filled, form.BestArg):
            return self._best(filled, part)
        rows = self._rows(part)
        kind = part.get("type")
        if "name" in part.entries and (kind is None or kind.text != "Nested"):
            self._declare_by(part, "name")
        match filled:
            case form.CategoricalArg(name=name, value=values, when=when):
                self._notes(part, [{"": value} for value in values])
                return Categorical(name, values, when)
            case form.NestedArg(value=values, when=when):
                self._notes(part, values)
                return Nested(values, when) if rows else None
            case form.SubnetArg(name=name, space=space, rules=rules, per_job=per_job, seed=seed, when=when):
                return Subnet(name, when=when, space=space, rules=rules, per_job=per_job, seed=seed)
            case form.UniformArg() | form.LogUniformArg() | form.IntArg() | form.LogIntArg():
                return self._range(filled, part)
        return None

    def _declare_by(self, part: Part[form.AnyArg], key: str) -> None:
        """Declare the name that a key holds, if it can be one; else its fault is in the report."""
        _, node = part.entries[key]
        if node.kind == "scalar" and not form.name_fault(node.text) and not node.is_null:
            self._declare(node.text, node, part.path)

    def _range(self, filled: form.RangeArg, part: Part[form.AnyArg]) -> Arg | None:
        step = getattr(filled, "step", None)
        faults = range_faults(filled.type, filled.low, filled.high, step)
        for key, what in faults:
            part.fault(key, what)
        if faults:
            return None
        arg = Range(filled.name, filled.type, filled.low, filled.high, step, filled.when)
        if step is not None and arg.last != filled.high:
            what = f"no whole number of steps goes from low to high; the last value is {arg.last}"
            self.report.note(part.entries["step"][1], f"{part.at('step')}: {what}")
        return arg

    def _rows(self, part: Part[form.AnyArg]) -> bool:
        """Declare the names of a Nested argument, also where it has faults. Returns whether all rows have the same."""
        kind = part.get("type")
        if kind is None or kind.text != "Nested":
            return True
        rows = [(path, row) for path, row in part.items("value") if row.kind == "map" and row.entries]
        same = True
        for path, row in rows:
            if differs := row_faults(rows[0][1].entries, row.entries):
                self.report.fault(row, f"{path}: {differs}; all rows must have the same keys")
                same = False
            for name, (place, _) in row.entries.items():
                is_new = row is rows[0][1] or (differs and name not in self.names)
                if is_new and not form.name_fault(name):
                    self._declare(name, place, path)
        return same

    def _best(self, filled: form.BestArg, part: Part[form.AnyArg]) -> Arg | None:
        node = part.entries["stage"][1]
        if self.earlier is None:
            part.fault("stage", "this config has no stages, whose best jobs could be taken")
            return None
        stage = self.earlier.get(filled.stage)
        if stage is None:
            near = did_you_mean(filled.stage, tuple(self.earlier)) or " (none does)"
            part.fault("stage", f"{node} must be a stage that runs before{near}")
            return None
        args = tuple(stage.names if filled.args is None else dict.fromkeys(filled.args))
        if not (args or filled.folder or filled.checkpoint):
            what = f"the stage {node} has no arguments" if stage.complete and not stage.names else "takes no argument"
            part.fault("stage", f"{what}; name one for what its jobs left: folder, or checkpoint")
        places = {item.text: item for _, item in part.items("args")}
        for name in args:
            place = places.get(name, node)
            lacks = [need for need in stage.needs.get(name, ()) if need not in args]
            if name not in stage.names and stage.complete:
                what = f"the stage {node} has no argument {name!r}{did_you_mean(name, tuple(stage.names))}"
                part.fault("args", what, place)
            elif lacks:
                what = f"{name!r} needs {', '.join(map(repr, lacks))} beside it, on which it depends in that stage"
                part.fault("args", what, place)
            self._declare(name, place, part.path)
            if name in stage.needs:
                self.needs[name] = stage.needs[name]
        for key, more in (("folder", filled.folder), ("checkpoint", filled.checkpoint)):
            if more:
                self._declare(more, part.entries[key][1], part.path)
        best = Best(
            when=filled.when,
            stage=filled.stage,
            number=filled.number,
            args=args,
            folder=filled.folder,
            checkpoint=filled.checkpoint,
        )
        return best if best.names else None

    def _declare(self, name: str, node: Node, path: str) -> None:
        self._groups[-1].append(name)
        if what := form.name_fault(name):
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

    def _notes(self, part: Part[form.AnyArg], rows: Sequence[Mapping[str, Value]]) -> None:
        """A value listed twice, by its text (the same command) or its meaning; a value too long for a folder's name."""
        seen: set[str] = set()
        for (_, node), row in zip(part.items("value"), rows, strict=True):
            by_text = "text " + repr([(key, row[key].text) for key in sorted(row)])
            by_data = "data " + repr([(key, row[key].data) for key in sorted(row)])
            if by_text in seen or by_data in seen:
                which = node if node.kind == "scalar" else node.text
                self.report.note(node, f"{part.path}: {which} is listed twice; each is a job of its own")
            seen |= {by_text, by_data}
            if any(len(value.text.encode("utf-8", "replace")) > _NAME_BYTES for value in row.values()):
                what = f"a value is longer than {_NAME_BYTES} bytes, so its folder in jobs/tree has a shortened name"
                self.report.note(node, f"{part.path}: {what}")


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


def row_faults(first: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """How the keys of a Nested row differ from those of the first row; empty when they don't."""
    missing = [name for name in first if name not in row]
    extra = [name for name in row if name not in first]
    parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"has {', '.join(map(repr, extra))}, which the first row lacks"] if extra else []
    return " and ".join(parts)
