"""The model space as a file: one record a line, for one architecture at one input shape.

A record is `{"overhead": {"flops", "params", "convention"}, "arch": {…}, "data": {"input_shape"}, "metric": {tag: …}}`;
what else it holds (`index`, `level_0`, `name`, …) is kept as it is. Rules and tables see it flattened to dotted names.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from searchkit.errors import UsageError
from searchkit.records.arch import Arch

Record = dict[str, Any]
GROUPS = ("overhead", "arch", "data", "metric")
# How operations were counted, and what people read above such a column.
CONVENTIONS = {"macs": "MACs", "gaia": "FLOPs (gaia)", "ptflops": "FLOPs (ptflops)"}
DEFAULT_CONVENTION = "gaia"  # of records that don't say
CONVENTION = "overhead.convention"
INPUT = "data.input_shape"
MAX_FAULTS = 10  # of one file, in a message
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_SHAPE = re.compile(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*){0,2}")


# --- files -----------------------------------------------------------------------------------------------------------


def load(path: str) -> list[Record]:
    """The records of a .json or .jsonl file: one object a line, or one array of objects.

    Raises UsageError with path:line of every line that is no record.
    """
    if not path.endswith((".json", ".jsonl")):
        raise UsageError(f"a model space must be a .json or .jsonl file, not {path}", _HINT)
    wrong: list[str] = []
    try:
        with open(path, encoding="utf-8-sig") as file, _no_collection():
            records = [record for line, record in _items(path, file, wrong) if _is_record(record, path, line, wrong)]
    except (OSError, UnicodeDecodeError) as e:
        reason = "it is not UTF-8" if isinstance(e, UnicodeDecodeError) else e.strerror
        raise UsageError(f"can't read the model space {path}: {reason}") from e
    if wrong:
        more = f"\n… and {len(wrong) - MAX_FAULTS} more" if len(wrong) > MAX_FAULTS else ""
        raise UsageError("\n".join(wrong[:MAX_FAULTS]) + more, _HINT)
    return records


_HINT = (
    'a record is one JSON object a line: {"overhead": {…}, "arch": {…}, "data": {"input_shape": 480}, "metric": {…}}'
)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: as records are added it would go through all the earlier ones again and again (14 s for
    600,000 records, 3 s without), and parsing makes no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _is_record(record: Any, path: str, line: int, wrong: list[str]) -> bool:
    fault = _fault(record)
    if fault:
        wrong.append(f"{path}:{line}: {fault}")
    return not fault


def _fault(record: Any) -> str:
    if not isinstance(record, dict):
        return f"a record must be a JSON object, not {json.dumps(record)[:60]}"
    has_group = False
    for name, value in record.items():
        if name in GROUPS:
            has_group = True
            if not isinstance(value, dict) and value is not None:
                return f"{name} must be an object, not {json.dumps(value)[:60]}"
        elif "." in name:  # a record that is flat already
            has_group = has_group or name.partition(".")[0] in GROUPS
    if not has_group:
        return f"a record must have {', '.join(GROUPS[:-1])} or {GROUPS[-1]}; this one has none of them"
    return ""


def _items(path: str, file: TextIO, wrong: list[str]) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file, each with its line; lines that are none go to `wrong`."""
    begun = False
    for number, line in enumerate(file, 1):
        if not begun and line.lstrip().startswith("["):
            yield from _array(path, "\n" * (number - 1) + line + file.read())
            return
        if line.strip():
            begun = True
            try:
                yield number, json.loads(line.rstrip())  # a fault is then on line 1, at its column
            except (ValueError, RecursionError) as e:
                wrong.append(f"{path}:{number}: this line is no JSON object: {_reason(e)}")


def _array(path: str, text: str) -> list[tuple[int, Any]]:
    """The elements of one array, each with the line that it begins on."""
    out: list[tuple[int, Any]] = []
    at = text.index("[") + 1
    line = text.count("\n", 0, at) + 1
    try:
        while True:
            start = _skip(text, at)
            line += text.count("\n", at, start)
            if text[start : start + 1] == "]" and not out:
                end = start
            else:
                item, after = _DECODER.raw_decode(text, start)
                out.append((line, item))
                end = _skip(text, after)
                line += text.count("\n", start, end)
            if text[end : end + 1] == ",":
                at = end + 1
            elif text[end : end + 1] == "]" and not text[end + 1 :].strip():
                return out
            else:
                raise ValueError("an array of objects must go on with , or end with ]")
    except (ValueError, RecursionError) as e:
        if isinstance(e, json.JSONDecodeError):
            line = e.lineno
        raise UsageError(f"{path}:{line}: this is no JSON array of objects: {_reason(e)}", _HINT) from e


def _skip(text: str, at: int) -> int:
    m = _SPACE.match(text, at)
    return m.end() if m else at


def _reason(e: Exception) -> str:
    if isinstance(e, RecursionError):
        return "it is nested too deeply"
    return f"{e.msg} at column {e.colno}" if isinstance(e, json.JSONDecodeError) else str(e)


def dumps(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON, without the line's end; keys in their order."""
    return json.dumps(record)


# --- flat and nested -------------------------------------------------------------------------------------------------


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to values; lists become tuples. Raises UsageError where two values have one name."""
    out: dict[str, Any] = {}
    _flatten(record, "", out)
    return out


def _flatten(mapping: Mapping[str, Any], prefix: str, out: dict[str, Any]) -> None:
    for key, value in mapping.items():
        name = prefix + key
        if isinstance(value, Mapping) and value:
            _flatten(value, name + ".", out)
        elif name in out:
            raise UsageError(f"a record can't have {name!r} twice")
        else:
            out[name] = _tuples(value) if isinstance(value, (list, tuple)) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _lists(value: Any) -> Any:
    return list(map(_lists, value)) if isinstance(value, (list, tuple)) else value


def fold(flat: Mapping[str, Any]) -> Record:
    """The nested record of dotted names; tuples become lists. Raises UsageError for a name inside another's value."""
    out: Record = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        into: Any = out
        for part in parents:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise UsageError(f"a record can't have {name!r}: {part!r} in it is a value already")
        if last in into:
            raise UsageError(f"a record can't have {name!r} twice")
        into[last] = _lists(value)
    return out


# --- what records mean -----------------------------------------------------------------------------------------------


def image_size(input_shape: Any) -> tuple[int, int]:
    """(H, W) in pixels from S, [H, W], [C, H, W] or a text `C,H,W`. Raises UsageError for all else."""
    shape = input_shape
    if isinstance(shape, str):
        shape = [int(part) for part in shape.split(",")] if _SHAPE.fullmatch(shape) else None
    sizes = list(shape) if isinstance(shape, (list, tuple)) else [shape]
    if 1 <= len(sizes) <= 3 and all(type(size) is int and size > 0 for size in sizes):
        return (sizes[0], sizes[0]) if len(sizes) == 1 else (sizes[-2], sizes[-1])
    raise UsageError(f"an input shape must be S, [H, W], [C, H, W] or 'C,H,W' in pixels, not {input_shape!r}")


def edge(input_shape: Any) -> int | tuple[int, int]:
    """The edge of a square input, else (H, W)."""
    if type(input_shape) is int:
        return input_shape
    height, width = image_size(input_shape)
    return height if height == width else (height, width)


def for_rules(record: Mapping[str, Any]) -> dict[str, Any]:
    """`flatten`, with a square input as its edge, and the convention of a cost that does not say."""
    flat = flatten(record)
    if flat.get(INPUT) is not None:
        flat[INPUT] = edge(flat[INPUT])
    if any(name.startswith("overhead.") for name in flat):
        flat.setdefault(CONVENTION, DEFAULT_CONVENTION)
    return flat


def convention_of(record: Mapping[str, Any]) -> str:
    """How the cost of a record was counted: one of CONVENTIONS. Raises UsageError for all else."""
    overhead = record.get("overhead")
    name = overhead.get("convention") if isinstance(overhead, Mapping) else None
    name = record.get(CONVENTION) if name is None else name
    if name is None:
        return DEFAULT_CONVENTION
    if name not in CONVENTIONS:
        raise UsageError(f"{CONVENTION} must be one of {', '.join(CONVENTIONS)}, not {name!r}")
    return str(name)


def convention(records: Iterable[Mapping[str, Any]]) -> str:
    """The one convention of all records; of none, `gaia`. Raises UsageError with the counts where they are mixed."""
    counts = Counter(map(convention_of, records))
    if len(counts) > 1:
        mixture = " and ".join(f"{n} of {name}" for name, n in sorted(counts.items()))
        hint = f"keep one of them first, for example by the rule `where: {CONVENTION} == 'macs'`; none given means gaia"
        raise UsageError(f"all costs must be counted by one convention, but there are {mixture}", hint)
    return next(iter(counts), DEFAULT_CONVENTION)


def key(record: Mapping[str, Any]) -> Hashable:
    """The identity of a record: (id of its architecture, (H, W) or None). UsageError where it has no architecture."""
    if "data" not in record and "arch" not in record:
        record = fold(record)
    if not isinstance(record.get("arch"), Mapping):
        raise UsageError(f"a record must have an architecture under `arch`, but this one has {', '.join(record)}")
    data = record.get("data")
    shape = data.get("input_shape") if isinstance(data, Mapping) else None
    return (Arch.of(record["arch"]).id, None if shape is None else image_size(shape))
