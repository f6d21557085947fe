"""What the code before the two wings left: a project with its workspace, and supernets with a search over one of them.

tests/assets/old/ has both as they were in /home/me, on a machine called box, and what that code said of them
(expected.json): its looks at the tasks, and how tasks, search, scores and training went on there. The finished attempts
of it are real, and so are what was stopped (`stop --jobs`), broken off (two Ctrl-C) and left to do.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchkit.suite.store import journal

ASSETS = Path(__file__).parents[1] / "assets" / "old"
HOME, PYTHON = "/home/me", "/home/me/searchkit/.venv/bin/python"


def expected(name: str) -> dict[str, Any]:
    """What the old code said of `project` or `nets`."""
    facts: dict[str, Any] = json.loads((ASSETS / "expected.json").read_text())[name]
    return facts


def unpack(name: str, folder: Path) -> Path:
    """`project` or `nets` below `folder`, its paths rewritten as if it had been made there, by this Python."""
    with tarfile.open(ASSETS / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in sorted((folder / name).rglob("*")):
        if not path.is_symlink() and path.is_file() and path.suffix not in (".pth", ".png"):
            _rewrite(path, folder)
    return folder / name


def _rewrite(path: Path, folder: Path) -> None:
    text = path.read_text(encoding="utf-8")
    moved = text.replace(PYTHON, sys.executable).replace(HOME, str(folder))
    if moved != text and path.parent.name == "events":  # each line ends in its checksum
        events = [journal.decode(line.encode()) for line in text.splitlines()]
        moved = b"".join(journal.encode(_moved(event, folder)) for event in events if event).decode()
    if moved != text:
        path.write_text(moved, encoding="utf-8")


def _moved(event: journal.Event, folder: Path) -> journal.Event:
    plain = json.dumps({key: value for key, value in event.items() if key != "crc"})
    moved: journal.Event = json.loads(plain.replace(PYTHON, sys.executable).replace(HOME, str(folder)))
    return moved


def lacks(then: Any, now: Any, folder: Path, where: str = "") -> list[str]:
    """What the old code said and today's does not, as places; what is said in addition is no matter."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            fault
            for key, value in then.items()
            for fault in (lacks(value, now[key], folder, f"{where}.{key}") if key in now else [f"{where}.{key}"])
        ]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [fault for i, (a, b) in pairs for fault in lacks(a, b, folder, f"{where}[{i}]")]
    then = then.replace(HOME, str(folder)) if isinstance(then, str) else then
    return [] if then == now else [f"{where}: {then!r} then, {now!r} now"]
