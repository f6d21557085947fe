"""The keys that a dataclass is filled from: its fields, the nearest to an unknown one, and paths for messages."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.kinds import Key


class At(UsageError):
    """What is wrong with the value of one key of a mapping, raised by the `__post_init__` of its dataclass. beside:
    the other keys whose values it is wrong with; where one of these has a fault itself, it is not told."""

    def __init__(self, key: str, message: str, hint: str = "", *, beside: Iterable[str] = ()) -> None:
        super().__init__(message, hint)
        self.key, self.beside = key, tuple(beside)


class Faults(UsageError):
    """All that is wrong with the values of a mapping."""

    def __init__(self, each: Sequence[At]) -> None:
        super().__init__("; ".join(f"{fault.key} {fault.message}" for fault in each))
        self.each = tuple(each)


def refuse(faults: Iterable[At]) -> None:
    """For a `__post_init__`: raises all of these at once, if there is one."""
    each = [*faults]
    if each:
        raise Faults(each)


def below(path: str, key: str) -> str:
    """The path of a key, for messages."""
    return f"{path}.{key}" if path else key


@cache
def keys_of(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """The keys that a dataclass reads, in order, each with its field and its type."""
    hints = typing.get_type_hints(cls, include_extras=True)
    read = [f for f in dataclasses.fields(cls) if f.init]
    return {name: (f, hints[f.name]) for f in read if (name := _key(f.name, hints[f.name]))}


def _key(name: str, hint: Any) -> str:
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark.name for mark in marks if isinstance(mark, Key)), name)


def is_required(f: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def nearest(name: str, keys: Mapping[str, tuple[dataclasses.Field[Any], Any]], onto: bool) -> str:
    """The nearest key, else all of them: with their defaults, unless these say nothing, or are those of a base."""
    near = did_you_mean(name, tuple(keys))
    if "did you mean" in near or onto or all(f.default in (None, dataclasses.MISSING) for f, _ in keys.values()):
        return near
    return "; there are " + ", ".join(f"{each}{_default(f)}" for each, (f, _) in keys.items())


def _default(f: dataclasses.Field[Any]) -> str:
    """A field's default as YAML writes it; nothing where it has none."""
    if f.default is dataclasses.MISSING:
        return ""
    if isinstance(f.default, str) and f.default:
        return f" ({f.default})"
    import json  # kept off the start-up path

    return f" ({json.dumps(f.default, default=str)})"
