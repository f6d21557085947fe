"""Samplers and stoppers as a config names them: by name, or by a mapping of `type` and the options of their class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.kinds import Bad, Kind, Reader
from searchkit.reading.nodes import Node, Report
from searchkit.records.objective import Objective

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # the name of a class or function of the user's own
_WORD = r"[A-Za-z_][\w.\u0080-\uffff]*"  # for ECMA, \w is ASCII
OWN_SCHEMA: Mapping[str, Any] = {"type": "string", "pattern": f"^{_WORD}:{_WORD}$"}


def _function(node: Node) -> str:
    if not OWN.fullmatch(node.text):
        raise ValueError
    return node.text


Function = Annotated[str, Kind("a function of your own, as module:function", _function, OWN_SCHEMA)]


@dataclass(frozen=True)
class StopRule:
    """A rule by which trials end early: the name of a stopper, and its options. A sampler is named in the same form."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Named(Reader):
    """How one is read; `kind` is sampler or stopper. What options it has is said by the constructor of its class."""

    shapes = ("scalar", "map")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.must = f"the name of a {kind}, or a mapping of type and its options"

    def read(self, node: Node, path: str, report: Report) -> StopRule:
        """The name and the options. One of the user's own is not imported: it checks its options when it is made."""
        from searchkit.suite import algorithms  # here: most commands read no search

        if node.kind == "bad":
            raise Bad
        is_map = node.kind == "map"
        named = node.entries.get("type", (node, None))[1] if is_map else node
        if is_map and (named is None or named.is_null):
            report.fault(named or node, f"{path}: missing key 'type'")
            raise Bad
        if named is None or named.kind == "bad":
            raise Bad
        name, known = named.text, self._table()
        if named.kind != "scalar" or (name not in known and not OWN.fullmatch(name)):
            where = f"{path}.type" if is_map else path
            is_name = named.kind == "scalar" and not named.is_null
            unknown = f"unknown {self.kind} {named}{did_you_mean(name, known)}"
            report.fault(named, f"{where}: {unknown if is_name else f'must be {self.must}, not {named}'}")
            raise Bad
        given = {key: entry for key, entry in node.entries.items() if key != "type"}
        options = {key: value.data for key, (_, value) in given.items()}
        if name not in known:
            return StopRule(name, options)
        defaults, faults = algorithms.options(self.kind, name), len(report.faults)
        listed = ", ".join(f"{key}: {_shown(value)}" for key, value in defaults.items())
        has = f"its options are {listed}" if defaults else "it has none"
        for key, (place, value) in given.items():
            if key not in defaults:
                report.fault(place, f"{path}: {name} has no option {key!r}; {has}")
            elif must := _unlike(value.data, defaults[key]):
                report.fault(value, f"{path}.{key}: must be {must}, not {value}")
        for key, default in defaults.items():
            if default is algorithms.REQUIRED and key not in given:
                report.fault(node, f"{path}: {name} needs the option {key!r}; {has}")
        if len(report.faults) > faults:
            raise Bad
        if self.kind == "stopper":
            try:
                algorithms.stopper(name)(Objective("", "max"), **options)
            except UsageError as e:
                answer = e.hint or "give another value"
                report.ask(node, f"{path}: {e.message}", answer, "a task begun before goes on as it began")
        return StopRule(name, options)

    def to_schema(self) -> Mapping[str, Any]:
        """The names, and for each the options that the constructor of its class takes."""
        of_own: Mapping[str, Any] = {"properties": {"type": OWN_SCHEMA}, "required": ["type"]}
        cases = [self._options_schema(name) for name in self._table()]
        mapping = {"type": "object", "anyOf": [*cases, of_own]}
        return {"anyOf": [{"enum": list(self._table())}, OWN_SCHEMA, mapping]}

    def _options_schema(self, name: str) -> Mapping[str, Any]:
        from searchkit.suite import algorithms

        defaults = algorithms.options(self.kind, name)
        needed = [key for key, default in defaults.items() if default is algorithms.REQUIRED]
        return {
            "properties": {"type": {"enum": [name]}, **{key: _like_schema(value) for key, value in defaults.items()}},
            "required": ["type", *needed],
            "additionalProperties": False,
        }

    def _table(self) -> tuple[str, ...]:
        from searchkit.suite import algorithms

        return tuple(algorithms.SAMPLERS if self.kind == "sampler" else algorithms.STOPPERS)


# What an option must be to be like its default, by the type of that: in words, in Python, and in JSON Schema.
_LIKE: tuple[tuple[type, str, Any, str], ...] = (
    (bool, "true or false", bool, "boolean"),
    (int, "a whole number", int, "integer"),
    (float, "a number", int | float, "number"),
    (str, "a text", str, "string"),
)


def _unlike(value: Any, default: Any) -> str:
    """What a value must be to be like the default of an option; empty where it is, and where none can be told."""
    for kind, words, types, _ in _LIKE:
        if isinstance(default, kind):
            return "" if isinstance(value, types) and (kind is bool or not isinstance(value, bool)) else words
    return ""


def _like_schema(default: Any) -> Mapping[str, Any]:
    return next(({"type": name, "default": default} for kind, _, _, name in _LIKE if isinstance(default, kind)), {})


def _shown(default: Any) -> str:
    import json

    return "(needed)" if isinstance(default, type) else json.dumps(default, default=str)


Sampler = Annotated[StopRule, Named("sampler")]
Stopper = Annotated[StopRule, Named("stopper")]
