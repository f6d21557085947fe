"""A frozen dataclass from a mapping of a YAML file: its fields are the keys, their types and defaults the rules.

@dataclass(frozen=True)
class Run:
    policy: Literal["sandwich", "fixed"] = "sandwich"         # a choice
    retries: Whole = 0                                        # 0 or more; kinds.py has counts, ranges, bytes, paths …
    timeout_s: Seconds | None = None                          # 30s, 10m, 2h; null is the default
    lr: Annotated[float, number(above=0)] = 0.1
    stop: Median | Patience | Text | None = None              # by its shape; dataclasses by their `type`
    weights: Mapping[Text, Number] = field(default_factory=dict)
    gpu_mem_bytes: Annotated[Bytes | None, Key("gpu_mem")] = None    # a field that is named otherwise than its key

run = fill(Run, node, "run", report)                 # None where it has a fault
run = fill_onto(base, node, "run", report)           # what is not given, or has a fault, is as in `base`

Every fault goes to the report, at the place of the value or the key that has it, and none hides another one. A check
of several fields stands in `__post_init__`, which raises UsageError: it is told at the place of the mapping, or of a
key of it where it is an `At(key, message)`; several of these are raised together by `refuse(faults)`. A class may say
in `INSTEAD` (a ClassVar, key to text) what is told of keys that it doesn't have.

What a type can be: `int`, `float`, `bool`, `str` (any scalar, as it is written), `Any` (plain data), `Literal` (by its
text), `tuple[T, ...]` and `tuple[A, B]` (a list), `Mapping[K, V]`, a dataclass (a mapping), `A | B`, `Annotated[T,
kind]`, where the kind alone says how the value is read, `Annotated[tuple[T, ...], Some()]` (not empty), and `Part[T]`,
which is filled when its turn comes. Of a union of dataclasses the one is taken whose `Literal` field, which all of them
have (`type`), fits; if there is no such field, the first whose required keys are given, else the one that has the most
of the keys given. reading/schema.py makes JSON Schema of the same types.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, cast

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.keys import At, Faults, below, is_required, keys_of, nearest
from searchkit.reading.kinds import Bad, Choice, Reader, Some
from searchkit.reading.nodes import Document, Node, Report

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_NODES = {"list": "list", "mapping": "map"}
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def fill(cls: type[T], node: Node | None, path: str, report: Report, **given: Any) -> T | None:
    """An instance of the dataclass `cls`; None where a fault was reported. `given`: further defaults.

    Unknown keys are faults that name the nearest key, or list the valid ones with defaults; a null is the default.
    """
    values, failed, unknown = _fields(cls, node, path, report, given)
    made = _make(cls, {**given, **values}, node, path, report, failed)
    return None if failed or unknown else made


def fill_onto(base: T, node: Node | None, path: str, report: Report) -> T:
    """As `fill`, but what is not given is as in `base`, and so is what has a fault: the rest can still be checked."""
    cls: Any = type(base)
    held = {f.name: getattr(base, f.name) for f in dataclasses.fields(cls) if f.init}
    values, failed, _ = _fields(cls, node, path, report, held, onto=True)
    made = _make(cls, {**held, **values}, node, path, report, failed)
    return base if made is None else made


@dataclass(frozen=True, eq=False)
class Part(Generic[T_co]):
    """A value of a file that is filled later, as what its type says. node: None where it is absent or null. key: where
    its key stands, None where it has none."""

    hint: Any
    node: Node | None
    path: str
    report: Report
    key: Node | None = None

    def fill(self) -> T_co | None:
        """The value; None where it is absent, or has a fault, which is then in the report."""
        if self.node is None:
            return None
        try:
            filled: T_co = _value(self.hint, self.node, self.path, self.report)
        except Bad:
            return None
        return filled

    def fill_onto(self, base: T) -> T:
        """Of a mapping: as the function of that name."""
        return fill_onto(base, self.node, self.path, self.report)

    @property
    def entries(self) -> Mapping[str, tuple[Node, Node]]:
        """Of a mapping: each key with the place where it stands, and its value."""
        return {} if self.node is None else self.node.entries

    def at(self, key: str) -> str:
        """The path of a key, for messages."""
        return below(self.path, key)

    def get(self, key: str) -> Node | None:
        """The value of a key; None where it is absent, null, or no YAML."""
        _, node = self.entries.get(key, (None, None))
        return None if node is None or node.is_null or node.kind == "bad" else node

    def items(self, key: str) -> tuple[tuple[str, Node], ...]:
        """The items of a list below a key, each with the path to it."""
        node = self.get(key)
        return tuple((f"{self.at(key)}[{i}]", item) for i, item in enumerate(node.items if node else ()))

    def fault(self, key: str, what: str, node: Node | None = None) -> None:
        """Report what is wrong with the value of a key: at `node`, else at the value, else at the mapping."""
        self.report.fault(node or self.get(key) or self.node or Node("bad", 1, 1), f"{self.at(key)}: {what}")


ABSENT: Any = None  # the default of a Part that needn't be there


def whole_file(cls: type[T], document: Document) -> Part[T]:
    """The file as a part that is read into `cls`."""
    return Part(cls, document.root, "", document.report)


# --- dataclasses -----------------------------------------------------------------------------------------------------


def _fields(
    cls: type, node: Node | None, path: str, report: Report, held: Mapping[str, Any], onto: bool = False
) -> tuple[dict[str, Any], set[str], bool]:
    """The values of fields that are given and have no fault; the keys that have one, all of them where the mapping is
    none; whether a key is unknown.

    held: values of fields that needn't be given, or with `onto`, are not to be lost.
    """
    keys = keys_of(cls)
    entries = node.entries if node is not None else {}
    values: dict[str, Any] = {}
    is_mapping = node is None or node.kind == "map" or (node.is_null and bool(path))
    failed = set() if is_mapping else {*keys, path}
    if node is not None and not is_mapping and node.kind != "bad":
        what = f"must be a mapping (key: value), not {node}"
        report.fault(node, f"{path}: {what}" if path else f"the file {what}")
    unknown = False
    for name, (where, value) in entries.items():
        if name not in keys:
            instead = getattr(cls, "INSTEAD", {}).get(name)
            what = (
                f"{below(path, name)}: {instead}"
                if instead
                else f"{path}: unknown key {name!r}{nearest(name, keys, onto)}"
            )
            report.fault(where, what.removeprefix(": "))
            unknown = True
        elif not value.is_null:
            f, hint = keys[name]
            try:
                values[f.name] = _value(hint, value, below(path, name), report, held.get(f.name) if onto else None)
            except Bad as e:
                failed.add(name)
                if onto and e.rest is not None:
                    values[f.name] = e.rest
    for name, (f, hint) in keys.items():
        at, given = entries.get(name, (None, None))
        if given is None or given.is_null:
            if is_required(f) and (onto or f.name not in held):
                failed.add(name)
                if node is not None and is_mapping:
                    report.fault(given or node, f"{path}: missing key {name!r}".removeprefix(": "))
            given = None
        if typing.get_origin(hint) is Part:
            values[f.name] = Part(typing.get_args(hint)[0], given, below(path, name), report, at)
    return values, failed, unknown


def _make(
    cls: type[T], values: dict[str, Any], node: Node | None, path: str, report: Report, failed: set[str]
) -> T | None:
    """An instance; None where its own checks found a fault. Of the keys that failed defaults are taken, if all have
    one, for what else is wrong: what is said of these keys says nothing of the file."""
    if any(f.init and is_required(f) and f.name not in values for f in dataclasses.fields(cast(Any, cls))):
        return None
    try:
        return cls(**values)
    except UsageError as e:
        for fault in e.each if isinstance(e, Faults) else (e,):
            place, where, of = node or Node("bad", 1, 1), path, failed
            if isinstance(fault, At):
                place, where = place.entries.get(fault.key, (place, place))[1], below(path, fault.key)
                of = failed & {fault.key, *fault.beside}
            if not of:
                what = f"{where}: {fault.message}{f'; {fault.hint}' if fault.hint else ''}"
                report.fault(place, what.removeprefix(": "))
        return None


# --- values ----------------------------------------------------------------------------------------------------------


def _value(hint: Any, node: Node, path: str, report: Report, old: Any = None) -> Any:
    """The value of a node; `old`: that of a dataclass which it is filled onto. Raises Bad where it has a fault."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in options[1:]:
            if isinstance(mark, Reader):
                return mark.read(node, path, report)
            if isinstance(mark, Some) and node.kind != "bad" and not (node.items or node.entries):
                kind = "list" if typing.get_origin(options[0]) is tuple else "mapping"
                empty = "an empty one" if node.kind == _NODES[kind] else node
                report.fault(node, f"{path}: must be a {kind} of at least one {mark.what}, not {empty}")
                raise Bad
        return _value(options[0], node, path, report, old)
    if origin is Part:
        if node.is_null:
            report.ask(node, f"{path}: holds nothing", "write it, or remove it", "it is left out")
        return Part(options[0], None if node.is_null else node, path, report)
    if origin in (Union, types.UnionType):
        return _union(options, node, path, report, old)
    if origin is Literal:
        return Choice(*options).read(node, path, report)
    if origin is tuple:
        return _tuple(options, node, path, report)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(options, node, path, report)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(old, hint):
            return fill_onto(old, node, path, report)
        value = fill(hint, node, path, report)
        if value is None:
            raise Bad
        return value
    if hint in _KINDS:
        return _scalar(hint, node, path, report)
    if node.kind == "bad":
        raise Bad
    return node.data


def _scalar(hint: Any, node: Node, path: str, report: Report) -> Any:
    if node.kind == "scalar":
        if hint is str:
            return node.text
        if hint is float and isinstance(node.data, int | float) and not isinstance(node.data, bool):
            return float(node.data)
        if type(node.data) is hint:
            return node.data
    if node.kind != "bad":
        report.fault(node, f"{path}: must be {_KINDS[hint]}, not {node}")
    raise Bad


def _tuple(options: tuple[Any, ...], node: Node, path: str, report: Report) -> tuple[Any, ...]:
    if node.kind == "bad":
        raise Bad
    if node.kind != "list":
        report.fault(node, f"{path}: must be a list, not {node}")
        raise Bad
    if options[-1] is Ellipsis:
        hints = [options[0]] * len(node.items)
    elif len(options) != len(node.items):
        report.fault(node, f"{path}: must have {len(options)} values, not {len(node.items)}")
        raise Bad
    else:
        hints = list(options)
    values, failed = [], False
    for i, (hint, item) in enumerate(zip(hints, node.items, strict=True)):
        at = f"{path}[{i}]"
        try:
            value = _value(hint, item, at, report)
        except Bad:
            failed = True
            continue
        if item.is_null and isinstance(value, str | Mapping):
            kept = f"it counts as {value or 'an empty one'}"
            report.ask(item, f"{at}: holds nothing", "write it, or remove it", kept)
            if not report.begun:
                failed = True
                continue
        values.append(value)
    if failed:
        raise Bad(tuple(values))
    return tuple(values)


def _mapping(options: tuple[Any, ...], node: Node, path: str, report: Report) -> dict[str, Any]:
    if node.kind == "bad":
        raise Bad
    if node.kind != "map" and not node.is_null:
        report.fault(node, f"{path}: must be a mapping (key: value), not {node}")
        raise Bad
    values, failed = {}, False
    for name, (where, item) in node.entries.items():
        here = dataclasses.replace(where, text=name, data=name) if where.kind == "scalar" else where
        try:
            read = _value(options[0], here, below(path, name), report)
            values[read] = _value(options[1], item, below(path, name), report)
        except Bad:
            failed = True
    if failed:
        raise Bad
    return values


# --- unions ----------------------------------------------------------------------------------------------------------


def _union(options: Sequence[Any], node: Node, path: str, report: Report, old: Any) -> Any:
    """The value of the one option that the shape of the node leaves; of several, of the first that fits."""
    if node.kind == "bad":
        raise Bad
    if node.is_null and type(None) in options:
        return None
    every = [o for o in options if o is not type(None)]
    fitting = [o for o in every if _shapes(o) is None or node.kind in (_shapes(o) or ())] if len(every) > 1 else every
    classes = [o for o in fitting if dataclasses.is_dataclass(o)]
    if len(classes) > 1:
        cls = choose(classes, node, path, report)
        fitting = [o for o in fitting if o not in classes or o is cls]
    if len(fitting) == 1:
        return _value(fitting[0], node, path, report, old)
    for option in fitting:
        trial = Report(report.filename, report.begun)
        try:
            value = _value(option, node, path, trial)
        except Bad:
            continue
        report.notes += trial.notes
        return value
    report.fault(node, f"{path}: must be {_either([must(o) for o in every])}, not {node}")
    raise Bad


def tag_of(classes: Sequence[Any]) -> str | None:
    """The key by whose `Literal` several dataclasses are told apart; None where they have none in common."""
    common = [name for name in keys_of(classes[0]) if all(name in keys_of(cls) for cls in classes)]
    return next(
        (n for n in common if all(typing.get_origin(keys_of(cls)[n][1]) is Literal for cls in classes)),
        None,
    )


def tags(cls: Any, tag: str) -> tuple[str, ...]:
    """The values of the key `tag` that mean `cls`."""
    return typing.get_args(keys_of(cls)[tag][1])


def choose(classes: Sequence[Any], node: Node, path: str, report: Report) -> Any:
    """The dataclass that a mapping is meant as. Raises Bad for a tag that none has."""
    tag = tag_of(classes)
    given = {name for name, (_, value) in node.entries.items() if not value.is_null}
    if tag in given:
        named = node.entries[tag][1]
        by_name = {text: cls for cls in classes for text in tags(cls, tag)}
        if named.kind == "scalar" and named.text in by_name:
            return by_name[named.text]
        if named.kind != "bad":
            report.fault(named, f"{path}: unknown {tag} {named}{did_you_mean(named.text, tuple(by_name))}")
        raise Bad
    untagged = [cls for cls in classes if tag is not None and not is_required(keys_of(cls)[tag][0])]
    complete = [cls for cls in classes if {k for k, (f, _) in keys_of(cls).items() if is_required(f)} <= given]
    return (untagged or complete or [max(classes, key=lambda cls: len(given & set(keys_of(cls))))])[0]


def _shapes(hint: Any) -> tuple[str, ...] | None:
    """The kinds of nodes that a type may be read from; None: it can't be told."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return next((m.shapes for m in options[1:] if isinstance(m, Reader)), _shapes(options[0]))
    if origin is tuple:
        return ("list",)
    if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return ("map",)
    return ("scalar",) if origin is Literal or hint in _KINDS else None


def must(hint: Any) -> str:
    """What a value of a type must be, for messages."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        some = next((f"a list of {m.what}s" for m in options[1:] if isinstance(m, Some)), must(options[0]))
        return next((m.must for m in options[1:] if isinstance(m, Reader)), some)
    if origin is Literal:
        return Choice(*options).must
    if origin is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a mapping (key: value)"
    return _KINDS.get(hint, "a value")


def _either(words: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(words))
    return distinct[0] if len(distinct) == 1 else f"{', '.join(distinct[:-1])} or {distinct[-1]}"
