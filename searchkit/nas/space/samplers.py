"""Which architecture a training step takes, as data: GAIA's record samplers, without their state.

`anchor` gives its architectures in turn, `range` and `candidate` draw the values of one dimension, `composite` merges
what each member gives (later ones win), `concat` gives its members in turn, each for as many steps as it is long, and
`repeat` makes a member `times` as long. The architecture of a step follows from (step, seed) alone, so all ranks agree
without talking, and a run that goes on has nothing to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.dim import RANGE_KEYS, Dim, read_dim
from searchkit.nas.space.space import Space
from searchkit.records.arch import PREFIX, Arch, Width, is_int
from searchkit.seeds import rng_of

MAX_TIMES = 10_000
KEYS = {
    "anchor": ("anchors",),
    "range": ("key", *RANGE_KEYS, "ascending"),
    "candidate": ("key", "candidates"),
    "concat": ("model_samplers",),
    "composite": ("model_samplers",),
    "repeat": ("model_sampler", "times"),
}


@dataclass(frozen=True)
class Anchors:
    """Architectures in turn: names of the space's, or values (of a part of the dimensions, inside a composite)."""

    anchors: tuple[str | Arch, ...]


@dataclass(frozen=True)
class Draw:
    """One value of `dim`, all combinations equally probable; of the space's own dimension `key` where it is None."""

    key: str
    dim: Dim | None


@dataclass(frozen=True)
class Concat:
    """The members in turn."""

    members: tuple[Sampler, ...]


@dataclass(frozen=True)
class Composite:
    """What all members give, merged."""

    members: tuple[Sampler, ...]


@dataclass(frozen=True)
class Repeat:
    """The member, for `times` as many steps."""

    member: Sampler
    times: int


Sampler = Anchors | Draw | Concat | Composite | Repeat
Values = dict[str, Width]


def cycle(sampler: Sampler, space: Space, step: int, seed: int) -> Arch:
    """The architecture of a global step (from 0). Raises UsageError where it does not fit into the space."""
    rng = rng_of(seed, step)
    return _fitting(_pick(sampler, step, space, lambda dim: dim.at(rng.randrange(dim.count()))), space)


def length(sampler: Sampler) -> int:
    """How many steps it takes until all have had their turn; a composite is as long as its longest member."""
    match sampler:
        case Anchors(anchors=anchors):
            return len(anchors)
        case Concat(members=members):
            return sum(map(length, members))
        case Composite(members=members):
            return max(map(length, members))
        case Repeat(member=member, times=times):
            return times * length(member)
    return 1


def traverse(sampler: Sampler, space: Space) -> Iterator[Arch]:
    """Every architecture, each once: members of a concat one after another, of a composite as a product of which the
    first changes slowest. Raises UsageError where one does not fit into the space."""
    return (_fitting(values, space) for values in _traverse(sampler, space))


def check(sampler: Sampler, space: Space) -> None:
    """Raises UsageError that names all that a step could give and that does not fit into the space."""
    wrong: dict[str, None] = {}  # ordered
    for step in range(length(sampler)):
        for extreme in (_least, _greatest):
            try:
                _fitting(_pick(sampler, step, space, extreme), space)
            except UsageError as e:
                wrong[e.message] = None
    if wrong:
        raise UsageError("\n".join(wrong), "every sampler must give a value for each dimension, inside the space")


def _least(dim: Dim) -> Width:
    return dim.pack([choices[0] for choices in dim.choices])


def _greatest(dim: Dim) -> Width:
    return dim.pack([choices[-1] for choices in dim.choices])


def _pick(sampler: Sampler, n: int, space: Space, draw: Callable[[Dim], Width]) -> Values:
    """What the n-th call of a sampler gives."""
    match sampler:
        case Anchors(anchors=anchors):
            return _anchor(anchors[n % len(anchors)], space)
        case Draw():
            return {sampler.key: draw(_dim(sampler, space))}
        case Concat(members=members):
            turn, place = divmod(n, length(sampler))
            for member in members:
                steps = length(member)
                if place < steps:
                    return _pick(member, turn * steps + place, space, draw)
                place -= steps
        case Composite(members=members):
            return {k: v for member in members for k, v in _pick(member, n, space, draw).items()}
        case Repeat(member=member):
            return _pick(member, n, space, draw)
    raise AssertionError(sampler)


def _traverse(sampler: Sampler, space: Space) -> Iterator[Values]:
    match sampler:
        case Anchors(anchors=anchors):
            yield from (_anchor(each, space) for each in anchors)
        case Draw(key=key):
            yield from ({key: value} for value in _dim(sampler, space).values())
        case Concat(members=members):
            for member in members:
                yield from _traverse(member, space)
        case Composite(members=(first, *rest)):
            for head in _traverse(first, space):
                for tail in _traverse(Composite(tuple(rest)), space) if rest else ({},):
                    yield head | tail
        case Repeat(member=member, times=times):
            for _ in range(times):
                yield from _traverse(member, space)


def _anchor(anchor: str | Arch, space: Space) -> Values:
    return dict((space.named(anchor) if isinstance(anchor, str) else anchor).items)


def _dim(sampler: Draw, space: Space) -> Dim:
    if sampler.dim is not None:
        return sampler.dim
    for dim in space.dims:
        if dim.key == sampler.key:
            return dim
    known = [dim.key for dim in space.dims]
    raise UsageError(f"the space has no dimension {sampler.key!r}{did_you_mean(sampler.key, known)}")


def _fitting(values: Values, space: Space) -> Arch:
    arch = Arch(tuple(sorted(values.items())))
    if wrong := space.faults(arch):
        raise UsageError(f"the sampler gives what does not fit into the space: {'; '.join(wrong)}")
    return space.canonical(arch)


# --- declarations ----------------------------------------------------------------------------------------------------


def read_sampler(data: Any, where: str = "sampler") -> Sampler:
    """A sampler from plain data (`type: concat`, `model_samplers: […]` …). Raises UsageError with every fault.

    The input shape and all else under `data.*` are no part of an architecture, and are left out.
    """
    wrong: list[str] = []
    sampler = _read(data, where, wrong)
    if sampler is None and not wrong:
        wrong.append(f"{where}: must give at least one dimension of an architecture")
    if sampler is None or wrong:
        raise UsageError("\n".join(wrong), f"the samplers are {', '.join(KEYS)}")
    return sampler


def _read(data: Any, where: str, wrong: list[str]) -> Sampler | None:
    if not isinstance(data, Mapping):
        wrong.append(f"{where}: must be a mapping with a type, not {data!r}")
        return None
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in KEYS:
        known = did_you_mean(str(kind), tuple(KEYS))
        wrong.append(
            f"{where}: unknown type {kind!r}{known}" if "type" in data else f"{where}: missing key 'type'{known}"
        )
        return None
    known_keys = ("type", "mode", *KEYS[kind])  # mode: GAIA's default verb, which is the caller's choice here
    unknown = [
        f"{where}: unknown key {key!r}{did_you_mean(str(key), KEYS[kind])}" for key in data if key not in known_keys
    ]
    wrong += unknown
    if kind == "anchor":
        return _read_anchors(data.get("anchors"), f"{where}.anchors", wrong)
    if kind in ("range", "candidate"):
        return None if unknown else _read_draw(data, kind, where, wrong)
    if kind == "repeat":
        times = data.get("times", 1)
        member = _read(data.get("model_sampler"), f"{where}.model_sampler", wrong)
        if not is_int(times) or not 1 <= times <= MAX_TIMES:
            wrong.append(f"{where}.times: must be a whole number from 1 to {MAX_TIMES}, not {times!r}")
            return None
        return Repeat(member, times) if member else None
    given = data.get("model_samplers")
    if not isinstance(given, (list, tuple)) or not given:
        wrong.append(f"{where}.model_samplers: must be a list of at least one sampler, not {given!r}")
        return None
    read = [_read(each, f"{where}.model_samplers[{i}]", wrong) for i, each in enumerate(given)]
    members = tuple(member for member in read if member is not None)
    return (Concat(members) if kind == "concat" else Composite(members)) if members else None


def _read_draw(data: Mapping[str, Any], kind: str, where: str, wrong: list[str]) -> Draw | None:
    key = data.get("key")
    if not isinstance(key, str) or not key:
        wrong.append(f"{where}.key: must be the name of a dimension, such as backbone.body.depth, not {key!r}")
        return None
    if key.startswith("data."):
        return None
    key = key.removeprefix(PREFIX)
    if kind == "candidate":
        spec = {"choices": data.get("candidates")}
    else:
        spec = {name: data[name] for name in (*RANGE_KEYS, "ascending") if name in data}
        if not spec:
            return Draw(key, None)
    try:
        return Draw(key, read_dim(key, spec))
    except UsageError as e:
        wrong += [f"{where}: {what}" for what in e.message.split("\n")]
        return None


def _is_aside(key: Any) -> bool:
    """Whether a key of a record is no part of its architecture."""
    return str(key).partition(".")[0] in ("name", "data", "overhead", "metric")


def _read_anchors(given: Any, where: str, wrong: list[str]) -> Anchors | None:
    if not isinstance(given, (list, tuple)) or not given:
        wrong.append(f"{where}: must be a list of names or of architectures, not {given!r}")
        return None
    out: list[str | Arch] = []
    names: set[str] = set()
    for i, each in enumerate(given):
        name = each.get("name") if isinstance(each, Mapping) else each
        values = {k: v for k, v in each.items() if not _is_aside(k)} if isinstance(each, Mapping) else {}
        if name is not None and not isinstance(name, str):
            wrong.append(f"{where}[{i}]: must be a name or an architecture, not {each!r}")
        elif name in names:
            wrong.append(f"{where}[{i}]: the name {name!r} is there twice")
        elif name is not None and not values:
            out.append(name)
        else:
            try:
                out.append(Arch.of(values))
            except UsageError as e:
                wrong.append(f"{where}[{i}]: {e.message}")
        names |= {name} if isinstance(name, str) else set()
    return Anchors(tuple(out)) if out else None
