"""The meaning of an expression: its tree becomes a function of a row. Numbers stay small and nothing is repeated, so
that no tree can run for long or eat memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from searchkit.errors import UsageError, did_you_mean

MAX_BITS = 4096  # of an integer result: 10 ** 1000 passes, 10 ** 10 ** 10 does not

Tree = tuple[Any, ...]  # ("const", value) | ("name", name) | ("compare", first, (op, tree), …) | (operation, tree, …)
Function = Callable[[Any], Any]  # from a row: whatever holds the values of the names


def build(tree: Tree, reader: Callable[[str], Function]) -> Function:
    """The function of a tree; `reader(name)` is that of a name."""
    match tree:
        case ("const", value):
            return lambda row: value
        case ("name", name):
            return reader(name)
        case ("compare", first, (op, second)):
            compare, a, b = _COMPARISONS[op], build(first, reader), build(second, reader)
            return lambda row: compare(a(row), b(row))
        case ("compare", first, *rest):
            return _chain(build(first, reader), [(_COMPARISONS[op], build(t, reader)) for op, t in rest])
    op = tree[0]
    parts = [build(each, reader) for each in tree[2 if op == "call" else 1 :]]
    if op in ("and", "or"):
        return _until(op == "or", parts)
    if op == "not":
        return lambda row: not parts[0](row)
    if op == "list":
        return lambda row: [part(row) for part in parts]
    if op == "index":
        return lambda row: _index(parts[0](row), parts[1](row))
    if op == "call":
        call = FUNCTIONS[tree[1]]
        return lambda row: call(*[part(row) for part in parts])
    return lambda row: _arithmetic(op, *[part(row) for part in parts])


def _chain(first: Function, rest: list[tuple[Callable[[Any, Any], Any], Function]]) -> Function:
    """`a < b < c`: the operands after the first comparison that fails are not evaluated."""

    def run(row: Any) -> bool:
        left = first(row)
        for compare, operand in rest:
            right = operand(row)
            if not compare(left, right):
                return False
            left = right
        return True

    return run


def _until(stop: bool, parts: list[Function]) -> Function:
    """`and` (stop = False), `or` (stop = True): the value of the first part that decides, else of the last."""

    def run(row: Any) -> Any:
        result: Any = None
        for part in parts:
            result = part(row)
            if bool(result) is stop:
                break
        return result

    return run


def read(name: str) -> Function:
    """The value of `name` in a mapping: by the whole dotted name, else part by part. UsageError where it is unknown."""
    return lambda lookup: _read(lookup, name)


def _read(lookup: Mapping[str, Any], name: str) -> Any:
    if name in lookup:
        return as_list(lookup[name])
    value: Any = lookup
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UsageError(f"unknown name {name!r}{did_you_mean(name, [str(key) for key in lookup])}")
        value = value[part]
    return as_list(value)


def as_list(value: Any) -> Any:
    """A tuple as the list that the language has for it, so that `depth == [3, 4]` holds for either; else `value`."""
    return [as_list(each) for each in value] if isinstance(value, tuple) else value


def _index(container: Any, key: Any) -> Any:
    if not isinstance(container, (Mapping, list, tuple, str)):
        raise TypeError(f"a {type(container).__name__} can't be indexed")
    if isinstance(container, Mapping) and key not in container:
        raise LookupError(f"no key {key!r}")
    return container[key]


def _arithmetic(op: str, *operands: Any) -> int | float:
    """Numbers only: `'ab' * 10 ** 9` and `'%1000000000d' % 1` would eat all memory."""
    for each in operands:
        if not isinstance(each, (int, float)):
            raise TypeError(f"{op} needs numbers, not a {type(each).__name__}")
    if len(operands) == 1:
        number: int | float = operands[0]
        return -number if op == "-" else +number
    a, b = operands
    if isinstance(a, int) and isinstance(b, int) and op in ("*", "**"):
        bits = a.bit_length() + b.bit_length() if op == "*" else a.bit_length() * b
        if bits > MAX_BITS and abs(a) > 1:
            raise ValueError(f"the result of {op} is too large")
    result: int | float | complex = _ARITHMETIC[op](a, b)
    if isinstance(result, complex):
        raise ValueError(f"{a} has no real power {b}")
    return result


_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {"sum": sum, "len": len, "min": min, "max": max, "abs": abs}
