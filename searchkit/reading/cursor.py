"""Where a reader is in a config: a node, its path in messages, and the report that its faults go to.

choices = at["choices"]                  # path: space.a.w.choices
for item in choices.items:               # path: space.a.w.choices[0] …
    if not is_int(item.data):
        item.fault("must be an int")     # cfg.yaml:6:19: space.a.w.choices[0]: must be an int

For what dataclasses can't say (fill.py reads these): forms that mix, names that are keys. Plain data (of JSON, of a
record, written in Python) is read by the same functions: `read_plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.yaml_tree import MAX_DEPTH, Node, Report

_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Cursor:
    """A node with its path and its report."""

    node: Node
    path: str
    report: Report

    @property
    def data(self) -> Any:
        """What it holds, as plain data."""
        return self.node.data

    @property
    def is_broken(self) -> bool:
        """Whether a fault of something in it was reported as it was read as YAML."""
        return _is_broken(self.node)

    def fault(self, what: str) -> None:
        """Report what is wrong with it; nothing where a fault of it was reported already."""
        if self.node.kind != "bad":
            self.report.fault(self.node, f"{self.path}: {what}".removeprefix(": "))

    def fault_of_key(self, key: str, what: str) -> None:
        """Report what is wrong with a key of it, at the place of the key."""
        self.report.fault(self.node.entries[key][0], f"{self.path}: {what}".removeprefix(": "))

    def __contains__(self, key: object) -> bool:
        return key in self.node.entries

    def __getitem__(self, key: str) -> Cursor:
        return Cursor(self.node.entries[key][1], f"{self.path}.{key}".removeprefix("."), self.report)

    def get(self, key: str) -> Cursor | None:
        """The value of a key, if it is there."""
        value = self.node.entries.get(key)
        return Cursor(value[1], f"{self.path}.{key}".removeprefix("."), self.report) if value else None

    @property
    def items(self) -> list[Cursor]:
        """Those of a list, in order; of anything else none."""
        return [Cursor(item, f"{self.path}[{i}]", self.report) for i, item in enumerate(self.node.items)]

    @property
    def shown(self) -> str:
        """What it holds, for messages."""
        return _shown(self.node)

    def only(self, keys: Iterable[str]) -> Cursor:
        """It, without all other keys."""
        entries = {key: self.node.entries[key] for key in keys if key in self.node.entries}
        data = {key: value.data for key, (_, value) in entries.items()}
        return replace(self, node=replace(self.node, entries=entries, data=data))

    def check_keys(self, known: tuple[str, ...], shown: tuple[str, ...] = ()) -> bool:
        """Report every key that is not `known`, with the nearest of `shown`; whether there is none."""
        unknown = [key for key in self.node.entries if key not in known]
        for key in unknown:
            self.fault_of_key(key, f"unknown key {key!r}{did_you_mean(key, shown or known)}")
        return not unknown


def _is_broken(node: Node) -> bool:
    return node.kind == "bad" or any(map(_is_broken, (*node.items, *(value for _, value in node.entries.values()))))


def node_of(data: Any) -> Node:
    """Plain data as a node without a place, whose text is for messages alone. Raises UsageError for keys that are no
    texts, and for data that is nested deeper than a file may be, as what holds itself is."""
    return _node(data, 0, {})


def _node(data: Any, depth: int, known: dict[int, Node]) -> Node:
    """`known`: the nodes of lists and mappings by id, so that what is shared is made once."""
    if depth > MAX_DEPTH:
        raise UsageError(f"lists and mappings must not be nested deeper than {MAX_DEPTH}")
    if not isinstance(data, Mapping | list | tuple):
        text = "" if data is None else str(data).lower() if isinstance(data, bool) else str(data)
        return Node("scalar", 0, 0, data, text)
    if id(data) in known:
        return known[id(data)]
    if isinstance(data, Mapping):
        if odd := [key for key in data if not isinstance(key, str)]:
            raise UsageError(f"a key must be a text, not {odd[0]!r}")
        values = {key: _node(value, depth + 1, known) for key, value in data.items()}
        text = _joined("{}", (f"{key}: {_shown(value)}" for key, value in values.items()))
        node = Node("map", 0, 0, data, text, entries={key: (value, value) for key, value in values.items()})
    else:
        items = tuple(_node(item, depth + 1, known) for item in data)
        node = Node("list", 0, 0, list(data), _joined("[]", map(_shown, items)), items)
    known[id(data)] = node
    return node


def _shown(node: Node) -> str:
    text = "nothing" if node.is_null else repr(node.data) if isinstance(node.data, str) else node.text
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _joined(brackets: str, texts: Iterable[str]) -> str:
    """The texts of a list or mapping as one, which ends where no message would show more."""
    shown, size = [], 0
    for text in texts:
        if size > _SHOWN:
            break
        shown.append(text)
        size += len(text)
    return f"{brackets[0]}{', '.join(shown)}{brackets[1]}"


def read_plain(read: Callable[[Cursor], Any], data: Any, path: str, hint: str = "") -> Any:
    """What a reader makes of plain data. Raises UsageError with every fault, one a line, which `path` begins."""
    report = Report("")
    value = read(Cursor(node_of(data), path, report))
    if report.faults:
        raise UsageError("\n".join(dict.fromkeys(fault.what for fault in report.faults)), hint)
    assert value is not None  # else there is a fault
    return value
