"""Which architecture a training step takes, as data: GAIA's record samplers, without their state.

`anchor` gives its architectures in turn, `range` and `candidate` draw the values of one dimension, `composite` merges
what each member gives (later ones win), `concat` gives its members in turn, each for as many steps as it is long, and
`repeat` makes a member `times` as long. The architecture of a step follows from (step, seed) alone, so all ranks agree
without talking, and a run that goes on has nothing to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.space.anchors import place_of, read_arch
from searchkit.nas.space.declare import RANGE_KEYS, dim_of, read_choices, read_listed
from searchkit.nas.space.dim import Dim
from searchkit.nas.space.space import Space
from searchkit.reading.cursor import Cursor, read_plain
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
    places: tuple[Cursor, ...] = field(default=(), compare=False, repr=False)  # of each in a config


@dataclass(frozen=True)
class Draw:
    """One value of `dim`, all combinations equally probable; of the space's own dimension `key` where it is None."""

    key: str
    dim: Dim | None
    place: Cursor | None = field(default=None, compare=False, repr=False)  # in a config


@dataclass(frozen=True)
class Concat:
    """The members in turn."""

    members: tuple[Sampler, ...]


@dataclass(frozen=True)
class Composite:
    """What all members give, merged."""

    members: tuple[Sampler, ...]
    place: Cursor | None = field(default=None, compare=False, repr=False)  # in a config


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
    if wrong := misfits(sampler, space):
        raise UsageError("\n".join(dict.fromkeys(fault for _, fault in wrong)), MISFIT_HINT)


MISFIT_HINT = "every sampler must give a value for each dimension, inside the space"


def misfits(sampler: Sampler, space: Space) -> list[tuple[Cursor | None, str]]:
    """All that a step could give and that does not fit into the space, with the place of what gives it."""
    wrong = _unknown(sampler, space)
    for step in range(length(sampler)):
        for extreme in (_least, _greatest):
            try:
                values = _pick(sampler, step, space, extreme)
            except UsageError:
                continue  # a name that is unknown
            for key, i, fault in space.misfits(Arch(tuple(sorted(values.items())))):
                place, _ = _giver(sampler, step, key, i, space)
                wrong.append((place, f"the sampler gives what does not fit into the space: {fault}"))
    return list({(place and place.path, fault): (place, fault) for place, fault in wrong}.values())  # each once


def _unknown(sampler: Sampler, space: Space) -> list[tuple[Cursor | None, str]]:
    """The names that the space has not."""
    match sampler:
        case Concat() | Composite():
            return [each for member in sampler.members for each in _unknown(member, space)]
        case Repeat():
            return _unknown(sampler.member, space)
    tries: list[tuple[Cursor | None, Callable[[], object]]] = []
    if isinstance(sampler, Draw):
        tries = [(sampler.place, lambda: _dim(sampler, space))]
    else:
        places = sampler.places or [None] * len(sampler.anchors)
        tries = [(p, partial(_anchor, anchor, space)) for p, anchor in zip(places, sampler.anchors, strict=True)]
    wrong = []
    for place, look_up in tries:
        try:
            look_up()
        except UsageError as e:
            wrong.append((place, e.message))
    return wrong


def _giver(sampler: Sampler, n: int, key: str, i: int | None, space: Space) -> tuple[Cursor | None, bool]:
    """Where what the n-th call gives for a dimension (its i-th position) stands, and True; where it gives nothing, what
    should, and False."""
    match sampler:
        case Anchors(anchors=anchors, places=places):
            turn = n % len(anchors)
            place = place_of(places[turn], key, i) if places else None
            return place, key in _anchor(anchors[turn], space)
        case Draw():
            return sampler.place, key == sampler.key
        case Concat():
            member, at = _turn(sampler, n)
            return _giver(member, at, key, i, space)
        case Composite(members=members):
            given = [_giver(member, n, key, i, space) for member in members]
            return next((each for each in reversed(given) if each[1]), (sampler.place, False))
        case Repeat(member=member):
            return _giver(member, n, key, i, space)


def _turn(sampler: Concat, n: int) -> tuple[Sampler, int]:
    """Whose turn the n-th call is, and which of that member's calls."""
    turn, place = divmod(n, length(sampler))
    for member in sampler.members:
        steps = length(member)
        if place < steps:
            return member, turn * steps + place
        place -= steps
    raise AssertionError(sampler)


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
        case Concat():
            member, at = _turn(sampler, n)
            return _pick(member, at, space, draw)
        case Composite(members=members):
            return {k: v for member in members for k, v in _pick(member, n, space, draw).items()}
        case Repeat(member=member):
            return _pick(member, n, space, draw)


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

HINT = f"the samplers are {', '.join(KEYS)}"


def read_sampler(data: Any, where: str = "sampler") -> Sampler:
    """A sampler from plain data (`type: concat`, `model_samplers: […]` …). Raises UsageError with every fault.

    The input shape and all else under `data.*` are no part of an architecture, and are left out.
    """
    sampler: Sampler = read_plain(sampler_of, data, where, HINT)
    return sampler


def sampler_of(at: Cursor) -> Sampler | None:
    """A sampler as a config declares it, as `read_sampler`; None where a fault was reported, at its place."""
    faults = len(at.report.faults)
    sampler = _read(at)
    if sampler is None and len(at.report.faults) == faults:
        at.fault("must give at least one dimension of an architecture")
    return sampler if len(at.report.faults) == faults else None


def _read(at: Cursor) -> Sampler | None:
    """None where a fault was reported, and for what is no part of an architecture."""
    if at.node.kind != "map":
        at.fault(f"must be a mapping with a type, not {at.shown}")
        return None
    if "type" not in at:
        at.fault(f"missing key 'type'{did_you_mean('', tuple(KEYS))}")
        return None
    kind = at["type"].data
    if not isinstance(kind, str) or kind not in KEYS:
        at["type"].fault(f"unknown type {at['type'].shown}{did_you_mean(str(kind), tuple(KEYS))}")
        return None
    # mode: GAIA's default verb, which is the caller's choice here
    known = at.check_keys(("type", "mode", *KEYS[kind]), KEYS[kind])
    needed = {"anchor": "anchors", "repeat": "model_sampler", "concat": "model_samplers", "composite": "model_samplers"}
    if kind in needed and needed[kind] not in at:
        at.fault(f"missing key {needed[kind]!r}")
        return None
    if kind == "anchor":
        return _anchors(at["anchors"])
    if kind in ("range", "candidate"):
        return _read_draw(at, kind) if known and not at.is_broken else None
    if kind == "repeat":
        return _read_repeat(at)
    members = _members(at["model_samplers"])
    if not members:
        return None
    return Concat(members) if kind == "concat" else Composite(members, at)


def _read_repeat(at: Cursor) -> Sampler | None:
    member = _read(at["model_sampler"])
    times = at["times"].data if "times" in at else 1
    if not is_int(times) or not 1 <= times <= MAX_TIMES:
        at["times"].fault(f"must be a whole number from 1 to {MAX_TIMES}, not {at['times'].shown}")
        return None
    return Repeat(member, times) if member else None


def _members(at: Cursor) -> tuple[Sampler, ...]:
    if not at.items:
        at.fault(f"must be a list of at least one sampler, not {at.shown}")
    return tuple(member for each in at.items if (member := _read(each)) is not None)


def _read_draw(at: Cursor, kind: str) -> Draw | None:
    if "key" not in at:
        at.fault("missing key 'key': the name of a dimension, such as backbone.body.depth")
        return None
    key = at["key"].data
    if not isinstance(key, str) or not key:
        at["key"].fault(f"must be the name of a dimension, such as backbone.body.depth, not {at['key'].shown}")
        return None
    if key.startswith("data."):
        return None
    key = key.removeprefix(PREFIX)
    if kind == "candidate" and "candidates" not in at:
        at.fault("missing key 'candidates'")
        return None
    spec = at.only((*RANGE_KEYS, "ascending"))
    if kind == "range" and not spec.node.entries:
        return Draw(key, None, at)
    choices = read_listed(at["candidates"]) if kind == "candidate" else read_choices(spec)
    dim = None if choices is None else dim_of(key, choices, spec)
    return None if dim is None else Draw(key, dim, at["candidates"] if kind == "candidate" else at)


def _is_aside(key: str) -> bool:
    """Whether a key of a record is no part of its architecture."""
    return key.partition(".")[0] in ("name", "data", "overhead", "metric")


def _anchors(at: Cursor) -> Anchors | None:
    if not at.items:
        at.fault(f"must be a list of names or of architectures, not {at.shown}")
        return None
    out: list[str | Arch] = []
    places: list[Cursor] = []
    names: set[str] = set()
    for each in at.items:
        name = each["name"].data if "name" in each else None if each.node.kind == "map" else each.data
        values = each.only(key for key in each.node.entries if not _is_aside(key))
        anchor: str | Arch | None = None
        if not isinstance(name, str) and (name is not None or each.node.kind != "map"):
            each.fault(f"must be a name or an architecture, not {each.shown}")
        elif name in names:
            each.fault(f"the name {name!r} is there twice")
        elif name is not None and not values.node.entries:
            anchor = name
        else:
            anchor = read_arch(values)
        if anchor is not None:
            out.append(anchor)
            places.append(each)
        names |= {name} if isinstance(name, str) else set()
    return Anchors(tuple(out), tuple(places)) if out else None
