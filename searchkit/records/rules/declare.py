"""Rules as data, and how they are read from a config. Conditions are expressions; nothing is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from searchkit.errors import ConfigError, UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.closures import Tree
from searchkit.reading.cursor import Cursor, read_plain
from searchkit.reading.expression import Expression, ExpressionError
from searchkit.reading.nodes import Document
from searchkit.records.arch import is_int
from searchkit.records.modelspace import INPUT

SIZES = INPUT + "[]"  # the name of the same shape where a rule indexes it; no key of a file is called so
OPERATIONS = ("top", "last", "random")
TYPES = {  # the keys of each; `name` is for tables
    "eval": ("where", "func_str", "missing", "name"),
    "sample": ("operation", "key", "value", "mode", "seed", "missing", "name"),
    "merge": ("reset_index", "name"),
    "sequential": ("rules", "name"),
    "parallel": ("rules", "name"),
    "sliced_parallel": ("rules", "name"),
}
BESIDE = ("model_space_path", "model_space_filename")  # keys beside GAIA's `model_sampling_rules`, for its tools
TOP = "model_sampling_rules"
MAX_RULES = 10_000  # YAML aliases can repeat without end

HINT = (
    "a rule is `where: overhead.flops <= 140G`, or has a type: parallel, sequential or sliced_parallel (with rules), "
    "sample (operation: top, last or random; key; value; mode: number or ratio), or merge"
)


@dataclass(frozen=True)
class Eval:
    """Keep the records for which `expr` holds; `skip`: leave out those that lack a name, instead of failing."""

    path: str
    label: str
    expr: Expression
    skip: bool = False


@dataclass(frozen=True)
class Sample:
    """Take `value` records of each group, or with `ratio` that part of it: the top (greatest `key`), last or random."""

    path: str
    label: str
    operation: str
    key: str
    value: Fraction
    ratio: bool = False
    seed: int | None = None
    skip: bool = False


@dataclass(frozen=True)
class Merge:
    """One group of all, without exact duplicates."""

    path: str
    label: str


@dataclass(frozen=True)
class Sequential:
    """One rule after another."""

    path: str
    label: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Parallel:
    """Of every group, a group for each rule."""

    path: str
    label: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Sliced:
    """The i-th rule on the i-th group; there must be as many groups as rules."""

    path: str
    label: str
    rules: tuple[Rule, ...]


Rule = Eval | Sample | Merge | Sequential | Parallel | Sliced
NESTED: Mapping[str, type[Sequential] | type[Parallel] | type[Sliced]] = {
    "sequential": Sequential,
    "parallel": Parallel,
    "sliced_parallel": Sliced,
}


def parse(data: Any, where: str = "rules") -> Rule:
    """The rule that plain data declares: a rule, a list of rules, or a mapping with `rules` or `model_sampling_rules`.

    Raises UsageError with every fault, one a line (an expression's with a caret below); `where` begins each.
    """
    try:
        rule: Rule = read_plain(_rule, data, "", HINT)
        return rule
    except UsageError as e:
        lines = [line if line.startswith("    ") else f"{where}: {line}" for line in e.message.splitlines()]
        raise UsageError("\n".join(lines), e.hint) from None


def read(document: Document) -> Rule:
    """The rule that a file declares, as `parse`. Raises ConfigError with every fault and its place."""
    rule = _rule(Cursor(document.root, "", document.report))
    if document.report.faults:
        raise ConfigError(document.report.filename, list(dict.fromkeys(document.report.faults)), HINT)
    assert rule is not None  # else there is a fault
    return rule


def _rule(at: Cursor) -> Rule | None:
    if TOP in at:
        for key in at.node.entries:
            if key not in (TOP, *BESIDE):
                at.fault_of_key(key, f"unknown key {key!r} beside {TOP}{did_you_mean(key, (TOP, *BESIDE))}")
        at = at[TOP]
    path = TOP if at.path else "rule" if at.node.kind == "map" and "rules" not in at else "rules"
    at = replace(at, path=path)
    reader = _Reader()
    if at.node.kind == "list":
        return reader.nested(at, at, "sequential")
    return reader.read(at)


class _Reader:
    """Reads rules, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, at: Cursor) -> Rule | None:
        self.count += 1
        if self.count > MAX_RULES:
            if self.count == MAX_RULES + 1:  # told once
                at.fault(f"rules must be at most {MAX_RULES}, those that aliases repeat too")
            return None
        if at.node.kind != "map":
            at.fault(f"a rule must be a mapping, not {at.shown}")
            return None
        kind = at["type"].data if "type" in at else "sequential" if "rules" in at else "eval"
        if not isinstance(kind, str) or kind not in TYPES:
            at["type"].fault(f"unknown type {at['type'].shown}{did_you_mean(str(kind), tuple(TYPES))}")
            return None
        at.check_keys(("type", *TYPES[kind]), TYPES[kind])
        if "name" in at and not isinstance(at["name"].data, str):
            at["name"].fault(f"must be a text, not {at['name'].shown}")
        if kind in NESTED:
            if "rules" not in at:
                at.fault("missing key 'rules'")
                return None
            return self.nested(at, at["rules"], kind)
        if at.is_broken:
            return None
        if kind == "eval":
            return _eval(at)
        return _sample(at) if kind == "sample" else Merge(at.path, _label(at, "merge"))

    def nested(self, at: Cursor, rules: Cursor, kind: str) -> Rule | None:
        """A rule whose parts stand in a list."""
        if at.path == "rules":
            rules = replace(rules, path=at.path)
        if not rules.items:
            rules.fault(f"must be a list of at least one rule, not {rules.shown}")
            return None
        read = [self.read(each) for each in rules.items]
        label = _label(at, f"{kind} of {len(read)}")
        return NESTED[kind](at.path, label, tuple(rule for rule in read if rule is not None))


def _label(at: Cursor, default: str) -> str:
    """What tables call a rule: its name, if it has one."""
    return str(at["name"].data or default) if "name" in at else default


def _skip(at: Cursor) -> bool:
    missing = at["missing"].data if "missing" in at else "error"
    if missing not in ("error", "skip"):
        at["missing"].fault(f"must be error or skip, not {at['missing'].shown}")
    return bool(missing == "skip")


def _eval(at: Cursor) -> Rule | None:
    given = [key for key in ("where", "func_str") if key in at]
    if len(given) != 1:
        lacks = "" if given else f", but has {', '.join(at.node.entries) or 'nothing'}"
        at.fault(f"must have {'one of ' if given else ''}where or func_str, or a type{lacks}")
        return None
    place = at[given[0]]
    text = str(place.data) if isinstance(place.data, bool) else place.data
    if not isinstance(text, str):
        place.fault(f"must be an expression, not {place.shown}")
        return None
    try:
        is_lambda = text.split(maxsplit=1)[:1] in (["lambda"], ["lambda:"])
        expr = expression.parse_lambda(text) if is_lambda else expression.parse(text)
    except ExpressionError as e:
        pointer = "".join(f"\n    {line}" for line in e.pointer().split("\n"))
        place.fault(f"{e.message}{pointer}")
        return None
    except UsageError as e:
        place.fault(e.message)
        return None
    hidden = [name for name in expr.names if any(part.startswith("__") for part in name.split("."))]
    if hidden:
        place.fault(f"no key of a record is called {hidden[0]!r}")
        return None
    body = " ".join((text.partition(":")[2] if is_lambda else text).split())
    label = _label(at, body if len(body) <= 60 else body[:57] + "...")
    return Eval(at.path, label, replace(expr, tree=_sizes(expr.tree)), _skip(at))


def _sample(at: Cursor) -> Rule:
    operation, key, seed = (at[name].data if name in at else None for name in ("operation", "key", "seed"))
    mode = at["mode"].data if "mode" in at else "number"
    if operation not in OPERATIONS:
        if "operation" in at:
            at["operation"].fault(f"must be one of {', '.join(OPERATIONS)}, not {at['operation'].shown}")
        else:
            at.fault(f"missing key 'operation': one of {', '.join(OPERATIONS)}")
    if key is not None and (not isinstance(key, str) or not key):
        at["key"].fault(f"must be the name of a number, such as metric.direct.mAP, not {at['key'].shown}")
    if key is None and operation in ("top", "last"):
        at.fault(f"missing key 'key': {operation} of what?")
    if mode not in ("number", "ratio"):
        at["mode"].fault(f"must be number or ratio, not {at['mode'].shown}")
    if seed is not None and not is_int(seed):
        at["seed"].fault(f"must be a whole number, not {at['seed'].shown}")
    value = _value(at["value"], mode) if "value" in at else Fraction(1)
    amount = f"{float(value):.6g} of the rows" if mode == "ratio" else str(value)
    label = _label(at, f"sample {operation} {amount}" + (f" by {key}" if key and operation != "random" else ""))
    return Sample(at.path, label, str(operation), str(key or ""), value, mode == "ratio", seed, _skip(at))


def _value(at: Cursor, mode: Any) -> Fraction:
    """Exact as written: 0.29 of 100 rows are 29, though `0.29 * 100` is below it."""
    value = at.data
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e18:
        exact = Fraction(str(value))
        if 0 < exact <= 1 if mode == "ratio" else exact >= 1 and exact.denominator == 1:
            return exact
    needed = "above 0 and at most 1" if mode == "ratio" else "a whole number of at least 1"
    at.fault(f"must be {needed}, not {at.shown}")
    return Fraction(1)


def _sizes(tree: Tree) -> Tree:
    """An index into the input shape reads its list: rules written for [C, H, W] say `[-1] == 480`."""
    if tree[:2] == ("index", ("name", INPUT)):
        return ("index", ("name", SIZES), *tree[2:])
    return tuple(_sizes(part) if isinstance(part, tuple) else part for part in tree)
