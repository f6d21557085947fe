"""One architecture of a supernet, as records and rules have it: dotted names to ints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.errors import UsageError, did_you_mean

Width = int | tuple[int, ...]


def plain(value: Width) -> str:
    """`3,4,6,3`, or the int."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def is_int(value: Any) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


PREFIX = "arch."  # of names in records and in rules; architectures drop it


@dataclass(frozen=True)
class Arch:
    """One architecture: dotted names to an int or a tuple of ints, sorted by name; equal in any order given."""

    items: tuple[tuple[str, Width], ...]

    @staticmethod
    def of(mapping: Mapping[str, Any]) -> Arch:
        """From a nested or dotted mapping (or both); a leading `arch.` is dropped. UsageError for all but ints."""
        if not isinstance(mapping, Mapping):
            raise UsageError(f"an architecture must be a mapping of names to ints, not {mapping!r}")
        values, wrong = collect(mapping)
        if wrong:
            raise UsageError("\n".join(fault for _, fault in wrong))
        return Arch(tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> Width:
        for key, value in self.items:
            if key == name:
                return value
        raise UsageError(f"the architecture has no {name!r}{did_you_mean(name, self.names)}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names, sorted."""
        return tuple(name for name, _ in self.items)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or `default`."""
        return next((value for key, value in self.items if key == name), default)

    def part(self, prefix: str) -> Arch:
        """The names below `prefix`, which is removed; empty where there are none."""
        start = prefix + "."
        return Arch(tuple((k[len(start) :], value) for k, value in self.items if k.startswith(start)))

    def nested(self) -> dict[str, Any]:
        """As nested dicts, tuples as lists: the `arch` of a record."""
        out: dict[str, Any] = {}
        for name, value in self.items:
            *parents, last = name.split(".")
            into = out
            for part in parents:
                into = into.setdefault(part, {})
            into[last] = list(value) if isinstance(value, tuple) else value
        return out

    @property
    def id(self) -> str:
        """The first 10 hex digits of the SHA-256 of the canonical JSON (sorted keys, no spaces)."""
        from hashlib import sha256  # only here: it loads OpenSSL

        text = json.dumps(self.nested(), sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:10]

    def text(self) -> str:
        """One short line, without a first part that all names share: `body.depth=3,4,6,3 stem.width=64`."""
        first = {name.partition(".")[0] for name in self.names}
        cut = len(first.pop()) + 1 if len(first) == 1 and all("." in name for name in self.names) else 0
        return " ".join(f"{name[cut:]}={plain(value)}" for name, value in self.items)


def collect(mapping: Mapping[str, Any]) -> tuple[dict[str, Width], list[tuple[str, str]]]:
    """The values of an architecture by name; and what is wrong with them, each with the name that it is about."""
    values: dict[str, Width] = {}
    wrong: list[tuple[str, str]] = []
    _collect(mapping, "", values, wrong)
    names = sorted(values)
    for name in names:
        inside = next((other for other in names if other.startswith(name + ".")), None)
        if inside:
            wrong.append((inside, f"an architecture can't have both {name!r} and {inside!r}"))
    return values, wrong


def _collect(mapping: Mapping[str, Any], path: str, values: dict[str, Width], wrong: list[tuple[str, str]]) -> None:
    for key, value in mapping.items():
        full = f"{path}.{key}" if path else key
        if not isinstance(key, str) or not all(key.split(".")):
            wrong.append((str(full), f"the name {full!r} of an architecture must be words joined by dots"))
            continue
        if isinstance(value, Mapping):
            _collect(value, full, values, wrong)
            continue
        name = full.removeprefix(PREFIX)
        if name in values:
            wrong.append((name, f"an architecture can't have {name!r} twice"))
        elif isinstance(value, (list, tuple)) and value and all(map(is_int, value)):
            values[name] = tuple(value)
        elif is_int(value):
            values[name] = value
        else:
            wrong.append((name, f"{name} of an architecture must be an int or a list of ints, not {value!r}"))
