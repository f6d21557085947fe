"""From arguments to jobs: the product in declaration order, the constraints, and the folder names of `jobs/tree`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from searchkit.suite.space.args import Arg, Point, Range
from searchkit.suite.space.space import Space

__all__ = ["Point", "count", "escape", "expand", "shared_level", "size", "tree_path"]

NESTED = 8  # varying arguments that have a level of `jobs/tree` each, if they are no ranges
NAME_BYTES = 255  # the longest file name of every Linux file system in use
_EMPTY = "%empty"  # `%e` and `%~` are no escapes ('%' and two hex digits), so no text can be escaped to these
_CUT = "%~"


def size(args: Sequence[Arg]) -> int:
    """How many points the product has, before constraints; one, where nothing varies.

    Raises UsageError for an argument without an end of values.
    """
    for arg in args:
        arg.grid()
    return Space(tuple(args)).size() or 0


def expand(args: Sequence[Arg], constraints: Iterable[str] = ()) -> Iterator[Point]:
    """Every point that meets all constraints, one at a time; the first argument varies slowest. What a condition
    switches off is not in the point.

    Raises UsageError, at once, for an expression that can't be read and an argument without an end of values; later for
    one that can't be evaluated at a point (which it names).
    """
    return Space(tuple(args), tuple(constraints)).points()


def count(args: Sequence[Arg], constraints: Sequence[str] = ()) -> int:
    """How many points `expand` gives. Raises UsageError as `expand` does."""
    return sum(1 for _ in expand(args, constraints)) if constraints else size(args)


def tree_path(point: Point, sampled: Collection[str] = ()) -> tuple[str, ...]:
    """The folders of a point under `jobs/tree`: name, value, name, value …, each a valid file name.

    The arguments in `sampled` share one last level: `lr=0.0123,wd=0.0004`.
    """
    levels = [part for name, value in point.items() if name not in sampled for part in (name, value.text)]
    last = ",".join(f"{name}={value.text}" for name, value in point.items() if name in sampled)
    return tuple(escape(part) for part in ([*levels, last] if last else levels))


def shared_level(space: Space) -> tuple[str, ...]:
    """The arguments that share one level of `jobs/tree` where a sampler chooses their values: ranges, whose values
    hardly ever repeat; and all where many vary, or the folders would nest as deep."""
    if sum(len(arg.names) for arg in space.args if arg.size != 1) > NESTED:
        return tuple(name for arg in space.args for name in arg.names)
    return tuple(arg.name for arg in space.args if isinstance(arg, Range))


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
