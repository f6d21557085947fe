"""The one expression language: for constraints, conditions and rules. It is data: nothing is ever executed.

A lexer of our own turns every name, number and string into an underscore word of the same length; what is left are
operators, which Python's parser orders into a tree; a whitelist turns that tree into tuples; `evaluate` walks them.
So a name may contain hyphens or be a Python keyword (`batch-size`, `lambda`), columns stay those of the user's text,
and no expression can take attributes, call anything but five functions, run for long, or eat memory.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.errors import UsageError, did_you_mean

ALLOWED = (
    "allowed: names, numbers (also 140G, 1.5M, 2k), 'strings', [lists], + - * / // % **, < <= > >= == !=, "
    "and or not in, indexing x[0], and sum len min max abs"
)
MAX_CHARS = 20_000
MAX_DEPTH = 150  # of nesting; well below Python's own recursion limit
MAX_DIGITS = 1000  # of a number
MAX_BITS = 4096  # of an integer result: 10 ** 1000 passes, 10 ** 10 ** 10 does not

_SUFFIXES = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12}
_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_WORDS = ("and", "or", "not", "in")
_FOREIGN = ("if", "else", "for", "is", "lambda", "await", "async", "yield", "import", "while", "def", "class")
_INSTEAD = {"=": "==", "&": "and", "|": "or", "!": "not", "^": "**", ";": "and"}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string> '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" )
      | (?P<number> (?P<digits> 0[xX][0-9a-fA-F]+ | (?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+) (?:[eE][-+]?[0-9]+)? ) \w* )
      | (?P<name> [^\W\d]\w* (?:\.\w+)* )
      | (?P<op> \*\* | // | <= | >= | == | != | [-+*/%<>()\[\],] )""",
    re.VERBOSE,
)
_DECLARABLE = re.compile(r"[^\W\d][\w.-]*")

_SYMBOLS: Mapping[type, str] = {  # the whitelist of operators
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.USub: "-",
    ast.UAdd: "+",
    ast.Not: "not",
}

Tree = tuple[Any, ...]  # ("const", value) | ("name", name) | ("compare", first, (op, tree), …) | (operation, tree, …)
Atom = tuple[str, Any]  # ("name", name) | ("const", value)


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text, the names it reads in order of first use, and the tree that `evaluate` walks."""

    text: str
    names: tuple[str, ...]
    tree: Tree


def parse(text: str, names: Iterable[str] = ()) -> Expression:
    """Read `text`; `names` are those that may contain hyphens. Raises UsageError with the column at fault."""
    if len(text) > MAX_CHARS:
        raise UsageError(f"an expression must have at most {MAX_CHARS} characters, not {len(text)}", ALLOWED)
    blank, atoms = _lex(text, names)
    shift = len(blank) - len(blank.lstrip())
    if blank.isspace() or not blank:
        raise UsageError("an expression must not be empty", ALLOWED)
    try:
        body = ast.parse(blank.strip(), mode="eval").body
    except SyntaxError as e:
        column = shift + e.offset - 1 if e.offset else len(text.rstrip())  # 0 stands for the end
        raise _error(text, column, "the expression can't go on like this") from e
    except (MemoryError, RecursionError, ValueError) as e:
        raise UsageError(f"{_short(text)} is nested too deeply", ALLOWED) from e
    if isinstance(body, ast.Tuple):
        raise _error(text, shift, "one expression is needed, not several with commas")
    builder = _Builder(text, shift, atoms)
    tree = builder.build(body, 0)
    return Expression(text, tuple(builder.names), tree)


def evaluate(expr: Expression, lookup: Mapping[str, Any]) -> Any:
    """The value of `expr`, its names read from `lookup`: by the whole dotted name, else part by part.

    Raises UsageError for a name that `lookup` lacks, values that an operation can't take, and results too large.
    """
    try:
        return _value(expr.tree, lookup)
    except UsageError as e:
        raise UsageError(f"can't evaluate {_short(expr.text)}: {e.message}", e.hint) from e
    except OverflowError as e:
        raise UsageError(f"can't evaluate {_short(expr.text)}: the result is too large") from e
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
        raise UsageError(f"can't evaluate {_short(expr.text)}: {e}") from e


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _error(text: str, column: int, what: str) -> UsageError:
    """`column` counts from 0 here and from 1 in the message."""
    return UsageError(f"column {column + 1} of {_short(text)}: {what}", ALLOWED)


# --- text to words ---------------------------------------------------------------------------------------------------


def _lex(text: str, names: Iterable[str]) -> tuple[str, dict[int, Atom]]:
    """The text with every atom as underscores of the same length, and what stands at each of these columns."""
    declared = sorted((n for n in names if _DECLARABLE.fullmatch(n) and n not in _WORDS), key=len, reverse=True)
    # `lr` must not be found in `lr2` or `lr.max`, but is in `lr-1`
    own = re.compile("(?:" + "|".join(map(re.escape, declared)) + r")(?!\w|\.\w)") if declared else None
    out: list[str] = []
    atoms: dict[int, Atom] = {}
    at = 0
    while at < len(text):
        m = own.match(text, at) if own else None
        kind = "declared" if m else ""
        if m is None:
            m = _TOKEN.match(text, at)
            if m is None:
                raise _error(text, at, _stray(text[at]))
            kind = m.lastgroup or ""
        word = m.group()
        if kind not in ("space", "op") and out and out[-1][-1].isidentifier():
            raise _error(text, at, f"an operator must stand before {_short(word)}")
        if kind == "space":
            out.append(" " * len(word))
        elif kind == "op" or (kind == "name" and word in _WORDS):
            out.append(word)
        else:
            atoms[at] = ("name", word) if kind == "declared" else _atom(kind, m, text, at)
            out.append("_" * len(word))
        at = m.end()
    return "".join(out), atoms


def _stray(c: str) -> str:
    instead = f" (write {_INSTEAD[c]})" if c in _INSTEAD else ""
    return "a string that doesn't end" if c in "'\"" else f"{c!r} is not allowed{instead}"


def _atom(kind: str, m: re.Match[str], text: str, at: int) -> Atom:
    word = m.group()
    if kind == "name":
        if word in _FOREIGN:
            raise _error(text, at, f"{word!r} is not allowed")
        return ("const", _CONSTANTS[word]) if word in _CONSTANTS else ("name", word)
    try:
        value = ast.literal_eval(word) if kind == "string" else _number(m["digits"], word[len(m["digits"]) :])
    except (ValueError, SyntaxError) as e:
        raise _error(text, at, f"{_short(word)} is no {kind}") from e
    return ("const", value)


def _number(digits: str, suffix: str) -> int | float:
    """A number, its suffix decimal as in `140G` operations. Raises ValueError."""
    if suffix not in _SUFFIXES or len(digits) > MAX_DIGITS:
        raise ValueError
    if digits[:2] in ("0x", "0X"):
        return int(digits, 16)
    whole = digits.replace("_", "").isdigit()
    if not suffix or whole:
        return int(digits) * 10 ** _SUFFIXES[suffix] if whole else float(digits)
    # one conversion from text rounds once, a product with a power of ten twice; `1e3k` has two exponents: refused
    scaled = float(f"{digits}e{_SUFFIXES[suffix]}")
    return int(scaled) if scaled.is_integer() else scaled


# --- words to a tree -------------------------------------------------------------------------------------------------


class _Builder:
    """Turns the syntax tree of the underscored text into tuples; what is not on the whitelist is an error."""

    def __init__(self, text: str, shift: int, atoms: Mapping[int, Atom]) -> None:
        self.text = text
        self.shift = shift
        self.atoms = atoms
        self.names: dict[str, None] = {}  # ordered

    def build(self, node: ast.expr, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise UsageError(f"{_short(self.text)} is nested too deeply", ALLOWED)
        match node:
            case ast.Name():
                kind, value = self.atoms[node.col_offset + self.shift]
                if kind == "name":
                    self.names[value] = None
                return (kind, value)
            case ast.BoolOp():
                return ("and" if isinstance(node.op, ast.And) else "or", *self._all(node.values, depth))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SYMBOLS:
                return (_SYMBOLS[type(op)], self.build(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SYMBOLS:
                return (_SYMBOLS[type(op)], *self._all([left, right], depth))
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _SYMBOLS for op in ops):
                first, *others = self._all([left, *rest], depth)
                return ("compare", first, *zip((_SYMBOLS[type(op)] for op in ops), others, strict=True))
            case ast.Subscript(value=value, slice=key):
                return ("index", *self._all([value, key], depth))
            case ast.List(elts=elts) | ast.Tuple(elts=elts):
                return ("list", *self._all(elts, depth))
            case ast.Call(func=ast.Name() as func, args=args):
                return ("call", self._function(func), *self._all(args, depth))
        raise _error(self.text, node.col_offset + self.shift, "this form is not allowed")

    def _all(self, nodes: list[ast.expr], depth: int) -> list[Tree]:
        return [self.build(node, depth + 1) for node in nodes]

    def _function(self, func: ast.Name) -> str:
        column = func.col_offset + self.shift
        name = str(self.atoms[column][1])
        if name not in _FUNCTIONS:
            raise _error(self.text, column, f"unknown function {name!r}{did_you_mean(name, list(_FUNCTIONS))}")
        return name


# --- a tree to a value -----------------------------------------------------------------------------------------------


def _value(tree: Tree, lookup: Mapping[str, Any]) -> Any:
    match tree:
        case ("const", value):
            return value
        case ("name", name):
            return _read(lookup, name)
        case ("compare", first, *rest):
            left = _value(first, lookup)
            for op, tree_right in rest:
                right = _value(tree_right, lookup)
                if not _COMPARISONS[op](left, right):
                    return False
                left = right
            return True
        case ("and" | "or" as op, *trees):
            result: Any = None
            for each in trees:
                result = _value(each, lookup)
                if bool(result) is (op == "or"):
                    break
            return result
        case ("not", operand):
            return not _value(operand, lookup)
    op, values = tree[0], [_value(each, lookup) for each in tree[2 if tree[0] == "call" else 1 :]]
    if op == "list":
        return values
    if op == "index":
        return _index(*values)
    return _FUNCTIONS[tree[1]](*values) if op == "call" else _arithmetic(op, *values)


def _read(lookup: Mapping[str, Any], name: str) -> Any:
    if name in lookup:
        return lookup[name]
    found: Any = lookup
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise UsageError(f"unknown name {name!r}{did_you_mean(name, [str(key) for key in lookup])}")
        found = found[part]
    return found


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
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"sum": sum, "len": len, "min": min, "max": max, "abs": abs}
