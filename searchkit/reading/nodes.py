"""Reading a YAML file key by key: typed getters that collect every fault of a file as `file:line:col`.

document = nodes.load("cfg.yaml")
train = document.top("model", "train").sub("train", "steps", "lr")
steps, lr = train.whole("steps", 1), train.number("lr")
space = document.top().get("space")     # space.data: plain Python data
document.check()                        # raises ConfigError with all faults
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchkit.errors import ConfigError, UsageError, did_you_mean
from searchkit.reading import yaml_tree
from searchkit.reading.yaml_tree import Node, Report, place, typed

__all__ = ["Document", "Node", "Report", "Section", "load", "parse", "place", "typed"]

_BYTES = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Document:
    """A YAML file that was read: its tree, its source, and the report that every fault of it goes to."""

    root: Node
    report: Report
    text: str
    raw: bytes

    def top(self, *known: str) -> Section:
        """The whole file as a section; with `known`, every other key is a fault."""
        section = Section(self.report, self.root, "")
        return section.only(known) if known else section

    def check(self) -> None:
        """Raise ConfigError with every fault found so far, if there is one."""
        if self.report.faults:
            raise ConfigError(self.report.filename, list(dict.fromkeys(self.report.faults)))


def load(path: str, needs: str = "") -> Document:
    """The YAML file at `path`. Raises UsageError for one that can't be read, else as `parse`."""
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except OSError as e:
        raise UsageError(f"can't read {path}: {e.strerror}", "Name a YAML file that exists and may be read") from e
    return parse(raw, path, needs)


def parse(raw: bytes, filename: str, needs: str = "", *, begun: bool = False) -> Document:
    """The YAML in `raw`; `filename` stands in the faults, `needs` in what an empty file is told. `begun`: as of Report.

    Raises ConfigError for what is no YAML, UsageError for what is not UTF-8. Faults of single values are in the report.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{filename} is not UTF-8 (at byte {e.start})", "save it as UTF-8") from e
    report = Report(filename, begun)
    return Document(yaml_tree.read(text, report, needs), report, text, raw)


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
        return self.part(key).only(known)

    def part(self, key: str) -> Section:
        """The section below `key`, whose keys were or will be looked at elsewhere."""
        return Section(self.report, self.get(key), self.at(key))

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

    def number(self, key: str, least: float = -math.inf) -> float | None:
        """A number of at least `least`; not infinite, not NaN."""
        node = self.get(key)
        if node is None:
            return None
        good = isinstance(node.data, int | float) and not isinstance(node.data, bool) and math.isfinite(node.data)
        if not good or node.data < least:
            what = "must be a number" + (f" of {least:g} or more" if least > -math.inf else "")
            self.fault(key, node, f"{what}, not {node}")
            return None
        return float(node.data)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        node = self.get(key)
        if node is not None and not isinstance(node.data, bool):
            self.fault(key, node, f"must be true or false, not {node}")
        return node.data if node is not None and isinstance(node.data, bool) else default

    def items(self, key: str) -> list[Section]:
        """A list of mappings."""
        node = self.get(key)
        if node is not None and node.kind != "list":
            self.fault(key, node, f"must be a list, not {node}")
        return [Section(self.report, item, f"{self.at(key)}[{i}]") for i, item in enumerate(node.items if node else ())]

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

    def switch(self, key: str, default: bool | str) -> bool | str:
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
