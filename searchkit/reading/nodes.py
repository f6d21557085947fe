"""A YAML file as a tree of nodes that know their places, and the report that collects every fault of it.

document = nodes.load("cfg.yaml")
recipe = fill(Recipe, document.root, "", document.report)    # reading/fill.py
document.check()                                             # raises ConfigError with all faults
"""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.errors import ConfigError, UsageError
from searchkit.reading import yaml_tree
from searchkit.reading.yaml_tree import Node, Report, place, typed

__all__ = ["Document", "Node", "Report", "load", "parse", "place", "typed"]


@dataclass(frozen=True)
class Document:
    """A YAML file that was read: its tree, its source, and the report that every fault of it goes to."""

    root: Node
    report: Report
    text: str
    raw: bytes

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
