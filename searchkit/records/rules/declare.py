"""Rules as data, and how they are read from a config. Conditions are expressions; nothing is ever executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading import expression
from searchkit.reading.closures import Tree
from searchkit.reading.expression import Expression, ExpressionError
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
MAX_DEPTH, MAX_RULES = 50, 10_000  # YAML aliases can nest without end

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
    reader = _Reader()
    path = "rule" if isinstance(data, Mapping) and "rules" not in data else "rules"
    if isinstance(data, Mapping) and TOP in data:
        for key in data:
            if key not in (TOP, *BESIDE):
                reader.fault("", f"unknown key {key!r} beside {TOP}{did_you_mean(str(key), (TOP, *BESIDE))}")
        data, path = data[TOP], TOP
    if isinstance(data, (list, tuple)):
        data = {"type": "sequential", "rules": data}
    rule = reader.read(data, path, 0)
    if rule is None or reader.wrong:
        raise UsageError("\n".join(f"{where}: {what}" for what in reader.wrong), HINT)
    return rule


class _Reader:
    """Reads rules; what is wrong with any is in `wrong`."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.count = 0

    def fault(self, path: str, what: str) -> None:
        self.wrong.append(f"{path}: {what}" if path else what)

    def read(self, data: Any, path: str, depth: int) -> Rule | None:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_RULES:
            if self.count <= MAX_RULES + 1:
                self.fault(path, f"rules must be nested at most {MAX_DEPTH} deep, and be at most {MAX_RULES}")
            return None
        if not isinstance(data, Mapping):
            self.fault(path, f"a rule must be a mapping, not {_short(data)}")
            return None
        kind = data.get("type", "sequential" if "rules" in data else "eval")
        if kind not in TYPES:
            self.fault(path, f"unknown type {kind!r}{did_you_mean(str(kind), tuple(TYPES))}")
            return None
        keys = TYPES[kind]
        for key in data:
            if key not in ("type", *keys):
                self.fault(path, f"unknown key {key!r}{did_you_mean(str(key), keys)}")
        name = data.get("name", "")
        if not isinstance(name, str):
            self.fault(f"{path}.name", f"must be a text, not {_short(name)}")
        if kind in NESTED:
            return self._nested(data, path, kind, depth)
        if kind == "eval":
            return self._eval(data, path)
        return self._sample(data, path) if kind == "sample" else Merge(path, str(name or "merge"))

    def _nested(self, data: Mapping[str, Any], path: str, kind: str, depth: int) -> Rule | None:
        given = data.get("rules")
        below = path if path == "rules" else f"{path}.rules"
        if not isinstance(given, (list, tuple)) or not given:
            self.fault(below, f"must be a list of at least one rule, not {_short(given)}")
            return None
        rules = [self.read(each, f"{below}[{i}]", depth + 1) for i, each in enumerate(given)]
        label = str(data.get("name") or f"{kind} of {len(rules)}")
        return NESTED[kind](path, label, tuple(rule for rule in rules if rule is not None))

    def _skip(self, data: Mapping[str, Any], path: str) -> bool:
        missing = data.get("missing", "error")
        if missing not in ("error", "skip"):
            self.fault(f"{path}.missing", f"must be error or skip, not {_short(missing)}")
        return bool(missing == "skip")

    def _eval(self, data: Mapping[str, Any], path: str) -> Rule | None:
        given = [key for key in ("where", "func_str") if key in data]
        if len(given) != 1:
            lacks = "" if given else f", but has {', '.join(map(str, data)) or 'nothing'}"
            self.fault(path, f"must have {'one of ' if given else ''}where or func_str, or a type{lacks}")
            return None
        key, text = given[0], data[given[0]]
        if isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str):
            self.fault(f"{path}.{key}", f"must be an expression, not {_short(text)}")
            return None
        try:
            is_lambda = text.split(maxsplit=1)[:1] in (["lambda"], ["lambda:"])
            expr = expression.parse_lambda(text) if is_lambda else expression.parse(text)
        except ExpressionError as e:
            pointer = "".join(f"\n    {line}" for line in e.pointer().split("\n"))
            self.fault(f"{path}.{key}", f"{e.message}{pointer}")
            return None
        except UsageError as e:
            self.fault(f"{path}.{key}", e.message)
            return None
        hidden = [name for name in expr.names if any(part.startswith("__") for part in name.split("."))]
        if hidden:
            self.fault(f"{path}.{key}", f"no key of a record is called {hidden[0]!r}")
            return None
        body = " ".join((text.partition(":")[2] if is_lambda else text).split())
        label = str(data.get("name") or (body if len(body) <= 60 else body[:57] + "..."))
        expr = dataclasses.replace(expr, tree=_sizes(expr.tree))
        return Eval(path, label, expr, self._skip(data, path))

    def _sample(self, data: Mapping[str, Any], path: str) -> Rule:
        operation, key, mode = data.get("operation"), data.get("key"), data.get("mode", "number")
        if operation not in OPERATIONS:
            self.fault(f"{path}.operation", f"must be one of {', '.join(OPERATIONS)}, not {_short(operation)}")
        if key is not None and (not isinstance(key, str) or not key):
            self.fault(f"{path}.key", f"must be the name of a number, such as metric.direct.mAP, not {_short(key)}")
        if key is None and operation in ("top", "last"):
            self.fault(path, f"missing key 'key': {operation} of what?")
        if mode not in ("number", "ratio"):
            self.fault(f"{path}.mode", f"must be number or ratio, not {_short(mode)}")
        seed = data.get("seed")
        if seed is not None and type(seed) is not int:
            self.fault(f"{path}.seed", f"must be a whole number, not {_short(seed)}")
        value = self._value(data.get("value", 1), mode, path)
        amount = f"{float(value):.6g} of the rows" if mode == "ratio" else str(value)
        label = f"sample {operation} {amount}" + (f" by {key}" if key and operation != "random" else "")
        label = str(data.get("name") or label)
        skip = self._skip(data, path)
        return Sample(path, label, str(operation), str(key or ""), value, mode == "ratio", seed, skip)

    def _value(self, value: Any, mode: Any, path: str) -> Fraction:
        """Exact as written: 0.29 of 100 rows are 29, though `0.29 * 100` is below it."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e18:
            exact = Fraction(str(value))
            if 0 < exact <= 1 if mode == "ratio" else exact >= 1 and exact.denominator == 1:
                return exact
        wanted = "above 0 and at most 1" if mode == "ratio" else "a whole number of at least 1"
        self.fault(f"{path}.value", f"must be {wanted}, not {_short(value)}")
        return Fraction(1)


def _sizes(tree: Tree) -> Tree:
    """An index into the input shape reads its list: rules written for [C, H, W] say `[-1] == 480`."""
    if tree[:2] == ("index", ("name", INPUT)):
        return ("index", ("name", SIZES), *tree[2:])
    return tuple(_sizes(part) if isinstance(part, tuple) else part for part in tree)


def _short(value: Any) -> str:
    text = repr(value)
    return "nothing" if value is None else text if len(text) <= 60 else text[:57] + "..."
