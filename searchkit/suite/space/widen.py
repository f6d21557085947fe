"""How a search space has changed: whether every point of the old one is still a point of the new one."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchkit.suite.space.args import Arg, Best, Categorical, Nested, Point, Range, Subnet

_SHOWN = 5  # more values than this are counted, not named


@dataclass(frozen=True)
class Widened:
    """One argument that differs: what was added to it, or why it may not change so.

    moved: the new positions of a list's values, by their old ones; None: unchanged. lost: the first few of the values
    that are gone, each as `name=value`.
    """

    summary: str = ""
    fault: str = ""
    moved: list[int] | None = None
    lost: tuple[str, ...] = ()


def compare(old: Arg, new: Arg) -> Widened | None:
    """What differs between an argument and what it is to be; None: nothing."""
    if old == new:
        return None
    if type(old) is not type(new) or old.names != new.names or isinstance(old, Subnet | Best):
        return Widened(fault=_other_kind(old, new))
    if old.when != new.when:
        return Widened(fault=f"exists {_when(new)}, and existed {_when(old)}: its jobs would be others")
    if isinstance(old, Range) and isinstance(new, Range):
        return _range(old, new)
    assert isinstance(old, Categorical | Nested) and isinstance(new, Categorical | Nested)
    return _values(old.points(), new.points())


def _other_kind(old: Arg, new: Arg) -> str:
    if isinstance(old, Subnet | Best) and type(old) is type(new):
        return "its values were picked when the task began, and are kept"
    kinds = [arg.kind if isinstance(arg, Range) else type(arg).__name__ for arg in (old, new)]
    if kinds[0] != kinds[1]:
        return f"is {kinds[1]}, and was {kinds[0]}"
    return f"is {', '.join(new.names)}, and was {', '.join(old.names)}"


def _when(arg: Arg) -> str:
    return f"when {arg.when!r}" if arg.when else "always"


def _range(old: Range, new: Range) -> Widened:
    if old.kind != new.kind:
        return Widened(fault=f"is {new.kind}, and was {old.kind}")
    if (old.step or None) != (new.step or None):
        return Widened(fault=f"its step is {new.step or 'none'}, and was {old.step or 'none'}: values would be lost")
    if new.low > old.low or new.last < old.last:
        fault = f"must reach from {old.low} to {old.last} at least, as it did; it reaches from {new.low} to {new.last}"
        return Widened(fault=fault)
    if old.size is not None and (new.snap(old.low) != old.low or new.snap(old.last) != old.last):
        return Widened(fault=f"in steps of {new.step} from {new.low} it misses {old.low}, which was a value")
    return Widened(f"{old.low} to {old.high} is now {new.low} to {new.high}")


def _values(old: Sequence[Point], new: Sequence[Point]) -> Widened:
    places: dict[str, deque[int]] = defaultdict(deque)
    for i, point in enumerate(new):
        places[_exactly(point)].append(i)
    moved: list[int] = []
    lost: list[Point] = []
    for point in old:
        at = places[_exactly(point)]
        if at:
            moved.append(at.popleft())
        else:
            lost.append(point)
    if lost:
        fault = f"{_listed(lost)} {'was a value' if len(lost) == 1 else 'were values'}, and must stay so"
        return Widened(fault=fault, lost=tuple(map(_assigned, lost[:_SHOWN])))
    more = [new[i] for i in sorted(i for at in places.values() for i in at)]
    summary = (
        f"{len(more)} value{'s'[: len(more) != 1]} added: {_listed(more)}"
        if more
        else "its values are in another order"
    )
    return Widened(summary, moved=moved if moved != list(range(len(old))) else None)


def _exactly(point: Point) -> str:
    return repr([(name, value.text, value.data) for name, value in point.items()])


def _listed(points: Sequence[Point]) -> str:
    texts = [next(iter(point.values())).text if len(point) == 1 else _row(point) for point in points[:_SHOWN]]
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    return ", ".join(texts) + more


def _assigned(point: Point) -> str:
    return ",".join(f"{name}={value.text}" for name, value in point.items())


def _row(point: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{name}: {getattr(value, 'text', value)}" for name, value in point.items()) + "}"
