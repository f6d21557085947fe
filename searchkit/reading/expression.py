"""The one expression language: for constraints, conditions and rules. It is data: nothing is ever executed.

A lexer of our own turns every name, number and string into an underscore word of the same length; what is left are
operators, which Python's parser orders into a tree; a whitelist turns that tree into tuples, and these become closures.
So a name may contain hyphens or be a Python keyword (`batch-size`, `lambda`), columns stay those of the user's text,
and no expression can take attributes, call anything but five functions, run for long, or eat memory. A name that is
neither a word of Python's nor declared is quoted: `name('val/acc')`.

`parse_lambda` reads the form `lambda x: x["a.b"] > 1` into the same tree, as if `a.b > 1` were written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.closures import FUNCTIONS, Function, Tree, build, read

ALLOWED = (
    "allowed: names, numbers (also 140G, 1.5M, 2k), 'strings', [lists], + - * / // % **, < <= > >= == !=, "
    "and or not in, indexing x[0], sum len min max abs, and name('val/acc') for names with other characters"
)
MAX_CHARS = 20_000
MAX_DEPTH = 150  # of nesting; well below Python's own recursion limit
MAX_DIGITS = 1000  # of a number

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
_LAMBDA = re.compile(r"\s*lambda\s+([^\W\d]\w*)\s*:")
_DECLARABLE = re.compile(r"[^\W\d][\w.-]*")
_QUOTE = "name"  # the function that quotes a name
_PLAIN = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
_ODD_NAME = re.compile(r"[^\W\d][\w.@#$:%/+-]*\w")  # as they are met: AR@100, val/acc, val-f1

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

Atom = tuple[str, Any]  # ("name", name) | ("const", value)


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text, the names it reads in order of first use, and the tree that `evaluate` walks."""

    text: str
    names: tuple[str, ...]
    tree: Tree


class ExpressionError(UsageError):
    """A text that can't be read as an expression. `column` counts from 0, and from 1 in the message."""

    def __init__(self, text: str, column: int, what: str) -> None:
        super().__init__(f"column {column + 1} of {_short(text)}: {what}", ALLOWED)
        self.text = text
        self.column = column

    def pointer(self) -> str:
        """Two lines: the text (the part of a long one), and a caret below the column."""
        begin = self.text.rfind("\n", 0, self.column) + 1
        start = max(begin, self.column - 60)
        line = self.text[start : start + 100].partition("\n")[0].replace("\t", " ")
        return f"{line}\n{' ' * (self.column - start)}^"


def parse(text: str, names: Iterable[str] = ()) -> Expression:
    """Read `text`; `names` are those that may contain hyphens. Raises UsageError with the column at fault."""
    return _parse(text, names, 0, "")


def parse_lambda(text: str) -> Expression:
    """Read `lambda x: …`, in which `x["a.b"]` is the name a.b. Raises UsageError with the column at fault."""
    m = _LAMBDA.match(text)
    if m is None:
        raise ExpressionError(text, 0, "it must begin as `lambda x:` does")
    return _parse(text, (), m.end(), m[1])


def _parse(text: str, names: Iterable[str], start: int, row: str) -> Expression:
    """Read `text` from `start` on; `row`: the variable of a lambda."""
    if len(text) > MAX_CHARS:
        raise UsageError(f"an expression must have at most {MAX_CHARS} characters, not {len(text)}", ALLOWED)
    blank, atoms = _lex(text, names, start)
    shift = len(blank) - len(blank.lstrip())
    if blank.isspace() or not blank:
        raise UsageError("an expression must not be empty", ALLOWED)
    try:
        body = ast.parse(blank.strip(), mode="eval").body
    except SyntaxError as e:
        column = shift + e.offset - 1 if e.offset else len(text.rstrip())  # 0 stands for the end
        raise ExpressionError(text, column, "the expression can't go on like this") from e
    except (MemoryError, RecursionError, ValueError) as e:
        raise UsageError(f"{_short(text)} is nested too deeply", ALLOWED) from e
    if isinstance(body, ast.Tuple):
        raise ExpressionError(text, shift, "one expression is needed, not several with commas")
    builder = _Builder(text, shift, atoms, row)
    tree = builder.build(body, 0)
    return Expression(text, tuple(builder.names), tree)


def evaluate(expr: Expression, lookup: Mapping[str, Any]) -> Any:
    """The value of `expr`, its names read from `lookup`: by the whole dotted name, else part by part.

    Raises UsageError for a name that `lookup` lacks, values that an operation can't take, and results too large.
    """
    return _cached(expr)(lookup)


def function(expr: Expression, reader: Callable[[str], Function] | None = None) -> Function:
    """`expr` as a function of a row, for many rows: `reader(name)` is a function from a row to the value of a name.

    The function raises UsageError as `evaluate` does, and whatever else the readers raise.
    """
    run = build(expr.tree, reader or read)

    def call(row: Any) -> Any:
        try:
            return run(row)
        except UsageError as e:
            raise UsageError(f"can't evaluate {_short(expr.text)}: {e.message}", e.hint) from e
        except OverflowError as e:
            raise UsageError(f"can't evaluate {_short(expr.text)}: the result is too large") from e
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
            raise UsageError(f"can't evaluate {_short(expr.text)}: {e}") from e

    return call


_cached = lru_cache(maxsize=64)(function)  # two expressions of one text and one list of names have one tree


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


# --- text to words ---------------------------------------------------------------------------------------------------


def _lex(text: str, names: Iterable[str], at: int) -> tuple[str, dict[int, Atom]]:
    """The text with every atom as underscores of the same length, what stands before `at` as spaces; and what stands
    at each of these columns."""
    declared = sorted((n for n in names if _DECLARABLE.fullmatch(n) and n not in _WORDS), key=len, reverse=True)
    # `lr` must not be found in `lr2` or `lr.max`, but is in `lr-1`
    own = re.compile("(?:" + "|".join(map(re.escape, declared)) + r")(?!\w|\.\w)") if declared else None
    out: list[str] = [" " * at] if at else []
    atoms: dict[int, Atom] = {}
    while at < len(text):
        m = own.match(text, at) if own else None
        kind = "declared" if m else ""
        if m is None:
            m = _TOKEN.match(text, at)
            if m is None:
                raise ExpressionError(text, at, _stray(text, at))
            kind = m.lastgroup or ""
        word = m.group()
        if kind not in ("space", "op") and out and out[-1][-1].isidentifier():
            raise ExpressionError(text, at, f"an operator must stand before {_short(word)}")
        if kind == "space":
            out.append(" " * len(word))
        elif kind == "op" or (kind == "name" and word in _WORDS):
            out.append(word)
        else:
            atoms[at] = ("name", word) if kind == "declared" else _atom(kind, m, text, at)
            out.append("_" * len(word))
        at = m.end()
    return "".join(out), atoms


def _stray(text: str, at: int) -> str:
    c = text[at]
    instead = _INSTEAD.get(c, "")
    if c == "`" and (m := re.compile("`([^`]+)`").match(text, at)):
        instead = quoted(m[1])
    elif c in "@#$:":
        around = (m for m in _ODD_NAME.finditer(text) if m.start() < at < m.end())
        instead = next((quoted(m.group()) for m in around), "")
    written = f" (write {instead})" if instead else ""
    return "a string that doesn't end" if c in "'\"" else f"{c!r} is not allowed{written}"


def quoted(name: str) -> str:
    """A name as it stands in an expression, whatever it holds."""
    means_else = name in _WORDS or name in _FOREIGN or name in _CONSTANTS
    return name if _PLAIN.fullmatch(name) and not means_else else f"{_QUOTE}({name!r})"


def unquoted(text: str, names: Iterable[str]) -> str:
    """` (write name('val/acc'))` where `text` holds some of `names` that have to be quoted, and are not; else empty."""
    bare = [name for name in names if not _PLAIN.fullmatch(name) and quoted(name) not in text]
    bare = [name for name in bare if re.search(rf"(?<![\w/.@-]){re.escape(name)}(?![\w/@])", text)]
    return f" (write {' and '.join(map(quoted, bare))})" if bare else ""


def _atom(kind: str, m: re.Match[str], text: str, at: int) -> Atom:
    word = m.group()
    if kind == "name":
        if word in _FOREIGN:
            raise ExpressionError(text, at, f"{word!r} is not allowed")
        return ("const", _CONSTANTS[word]) if word in _CONSTANTS else ("name", word)
    try:
        value = ast.literal_eval(word) if kind == "string" else _number(m["digits"], word[len(m["digits"]) :])
    except (ValueError, SyntaxError) as e:
        raise ExpressionError(text, at, f"{_short(word)} is no {kind}") from e
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

    def __init__(self, text: str, shift: int, atoms: Mapping[int, Atom], row: str) -> None:
        self.text = text
        self.shift = shift
        self.atoms = atoms
        self.row = row  # the variable of a lambda: every name is one of its keys
        self.names: dict[str, None] = {}  # ordered

    def build(self, node: ast.expr, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise UsageError(f"{_short(self.text)} is nested too deeply", ALLOWED)
        match node:
            case ast.Name():
                kind, value = self._atom(node)
                if kind == "name" and self.row:
                    what = f"write {self.row}['{value.removeprefix(self.row + '.')}']"
                    what = (
                        f"{self.row} must be followed by a key, as in {self.row}['a.b']" if value == self.row else what
                    )
                    raise ExpressionError(self.text, node.col_offset + self.shift, what)
                return self._name(value) if kind == "name" else (kind, value)
            case ast.BoolOp():
                return ("and" if isinstance(node.op, ast.And) else "or", *self._all(node.values, depth))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SYMBOLS:
                return (_SYMBOLS[type(op)], self.build(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SYMBOLS:
                return (_SYMBOLS[type(op)], *self._all([left, right], depth))
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _SYMBOLS for op in ops):
                first, *others = self._all([left, *rest], depth)
                return ("compare", first, *zip((_SYMBOLS[type(op)] for op in ops), others, strict=True))
            case ast.Subscript(value=ast.Name() as value, slice=ast.Name() as key) if self._is_key(value, key):
                return self._name(self._atom(key)[1])
            case ast.Subscript(value=value, slice=key):
                return ("index", *self._all([value, key], depth))
            case ast.List(elts=elts) | ast.Tuple(elts=elts):
                return ("list", *self._all(elts, depth))
            case ast.Call(func=ast.Name() as func, args=args) if self._atom(func) == ("name", _QUOTE):
                return self._name(self._quoted(func, args))
            case ast.Call(func=ast.Name() as func, args=args):
                return ("call", self._function(func), *self._all(args, depth))
        raise ExpressionError(self.text, node.col_offset + self.shift, "this form is not allowed")

    def _atom(self, node: ast.Name) -> Atom:
        return self.atoms[node.col_offset + self.shift]

    def _quoted(self, func: ast.Name, args: list[ast.expr]) -> str:
        match args:
            case [ast.Name() as only]:
                kind, word = self._atom(only)
                if kind == "const" and isinstance(word, str) and word:
                    return word
        what = f"{_QUOTE}(…) takes one name in quotes, as in {_QUOTE}('val/acc')"
        raise ExpressionError(self.text, func.col_offset + self.shift, what)

    def _name(self, name: str) -> Tree:
        self.names[name] = None
        return ("name", name)

    def _is_key(self, value: ast.Name, key: ast.Name) -> bool:
        kind, word = self._atom(key)
        return bool(self.row) and self._atom(value) == ("name", self.row) and kind == "const" and isinstance(word, str)

    def _all(self, nodes: list[ast.expr], depth: int) -> list[Tree]:
        return [self.build(node, depth + 1) for node in nodes]

    def _function(self, func: ast.Name) -> str:
        column = func.col_offset + self.shift
        name = str(self.atoms[column][1])
        if name not in FUNCTIONS:
            raise ExpressionError(self.text, column, f"unknown function {name!r}{did_you_mean(name, list(FUNCTIONS))}")
        return name
