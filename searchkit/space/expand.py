"""From arguments to jobs: the product in declaration order, the constraints, and the folder names of `jobs/tree`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from searchkit.errors import UsageError
from searchkit.space import expression
from searchkit.space.args import Arg, Value

Point = dict[str, Value]  # one job's values, in declaration order

NAME_BYTES = 255  # the longest file name of every Linux file system in use
_EMPTY = "%empty"  # `%e` and `%~` are no escapes ('%' and two hex digits), so no text can be escaped to these
_CUT = "%~"


def size(args: Sequence[Arg]) -> int:
    """How many points the product has, before constraints; one, where nothing varies."""
    return math.prod(len(arg.points()) for arg in args)


def expand(args: Sequence[Arg], constraints: Iterable[str] = ()) -> Iterator[Point]:
    """Every point that meets all constraints, one at a time; the first argument varies slowest.

    Raises UsageError for a constraint that can't be read, or can't be evaluated at a point (which it names).
    """
    names = tuple(name for arg in args for name in arg.names)
    rules = [expression.parse(text, names) for text in constraints]
    return _expand(args, rules)


def _expand(args: Sequence[Arg], rules: list[expression.Expression]) -> Iterator[Point]:
    for parts in itertools.product(*(arg.points() for arg in args)):
        point = {name: value for part in parts for name, value in part.items()}
        if not rules or _meets(point, rules):
            yield point


def _meets(point: Point, rules: list[expression.Expression]) -> bool:
    lookup = {name: value.data for name, value in point.items()}
    try:
        return all(expression.evaluate(rule, lookup) for rule in rules)
    except UsageError as e:
        at = ", ".join(f"{name}={value.text}" for name, value in point.items())
        raise UsageError(f"constraint: {e.message} (at {at})", e.hint) from e


def count(args: Sequence[Arg], constraints: Sequence[str] = ()) -> int:
    """How many points `expand` gives. Raises UsageError as `expand` does."""
    return sum(1 for _ in expand(args, constraints)) if constraints else size(args)


def tree_path(point: Point) -> tuple[str, ...]:
    """The folders of a point under `jobs/tree`: name, value, name, value …, each a valid file name."""
    return tuple(escape(part) for name, value in point.items() for part in (name, value.text))


def escape(text: str) -> str:
    """`text` as one file name: different texts stay different, and plain ones stay as they are.

    `/`, `%`, control characters, `.`, `..` are percent-escaped; the empty text becomes `%empty`; what is longer
    than 255 bytes is cut at a character and ends in `%~` and a hash of the whole.
    """
    if not text:
        return _EMPTY
    if text in (".", ".."):
        return text.replace(".", "%2E")
    escaped = "".join(_percent(c) if _is_awkward(c) else c for c in text)
    raw = escaped.encode()
    if len(raw) <= NAME_BYTES:
        return escaped
    import hashlib  # only here: it loads OpenSSL, which costs a start-up more than all the rest of this module

    suffix = _CUT + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
    return raw[: NAME_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix


def _is_awkward(c: str) -> bool:
    return c in "/%" or c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff"


def _percent(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
