"""YAML as a tree of nodes that know their places.

The file is read as YAML events, not as Python objects: each value keeps its place and its source text (`1e-3` stays
`1e-3`), nothing in a file can make an object, and neither deep nesting nor a bomb of aliases can take us down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from searchkit.errors import ConfigError, Fault

MAX_DEPTH = 100  # of nested lists and mappings
MAX_NODES = 1_000_000  # with aliases written out
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
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return "nothing" if self.is_null else repr(text) if isinstance(self.data, str) else text


class Report:
    """What there is to say about a file: faults, and notes of one line each. `begun`: of a task that exists."""

    def __init__(self, filename: str, begun: bool = False) -> None:
        self.filename = filename
        self.begun = begun
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def fault(self, node: Node, what: str) -> None:
        """Add a fault at the place of `node`."""
        self.faults.append(Fault(node.line, node.col, what))

    def note(self, node: Node, what: str) -> None:
        """Add a notice, which stops nobody."""
        self.notes.append(f"{self.filename}:{node.line}: {what}")

    def ask(self, node: Node, what: str, answer: str, kept: str) -> None:
        """Say what a config leaves open: a fault that asks for an `answer`, but a note on a task that was begun before
        anybody was asked; that goes on as it began (`kept`)."""
        if self.begun:
            self.note(node, f"{what}; {kept}")
        else:
            self.fault(node, f"{what}; {answer}")


def read(text: str, report: Report, needs: str = "") -> Node:
    """The root of a YAML text; `needs` ends what an empty one is told.

    Raises ConfigError where there is none, or the rest can't be read; faults of single values are in the report.
    """
    return _Reader(text, report, needs).read()


# https://yaml.org/spec/1.2.2/#51-character-set; checked here since libyaml reports no line for it
# (two patterns, as one set of all these takes 4 ms to compile)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_NO_CHARACTERS = re.compile("[\ud800-\udfff\ufffe\uffff]")
_ENTANGLED = re.compile(r"[\s\[{,:][&*!#]|['\"].*\n")  # anchors, aliases, tags, comments, strings of several lines
_KINDS = {"ScalarEvent": "scalar", "SequenceStartEvent": "list", "MappingStartEvent": "map"}
_TAGS = {"scalar": "tag:yaml.org,2002:str", "list": "tag:yaml.org,2002:seq", "map": "tag:yaml.org,2002:map"}


def place(text: str, index: int) -> Node:
    """A place without content."""
    return Node("bad", text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


class _Reader:
    """Turns the events of a YAML file into nodes."""

    def __init__(self, text: str, report: Report, needs: str) -> None:
        self.text = text
        self.needs = needs
        self.report = report
        self.anchors: dict[str, Node | None] = {}  # None while the node is still open
        self.depth = 0

    def read(self) -> Node:
        """The root. Raises ConfigError where there is none, or the rest can't be read."""
        import yaml  # here: whoever only wants the classes of this module doesn't pay for it

        first = [m for pattern in (_CONTROLS, _NO_CHARACTERS) if (m := pattern.search(self.text))]
        if bad := min(first, key=lambda m: m.start(), default=None):
            self._stop(place(self.text, bad.start()), f"the character {bad.group()!r} is not allowed in YAML")
        try:
            # events, since libyaml's own composer recurses without a limit: 100,000 brackets are a segmentation fault
            self.events: Iterator[Any] = iter(
                yaml.parse(self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            )
            next(self.events)  # the stream starts
            if type(next(self.events)).__name__ == "StreamEndEvent":
                self._stop(place(self.text, 0), f"the file is empty{self.needs}")
            root = self._node(next(self.events))
            next(self.events)  # the document ends
            after = next(self.events)
            if type(after).__name__ == "DocumentStartEvent":
                self._stop(self._at(after), "a second document starts here; a config is one")
            return root
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            at = Node("bad", mark.line + 1, mark.column + 1) if mark else place(self.text, 0)
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
