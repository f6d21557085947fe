"""The cost of a network at any architecture, and of every point of a space, in seconds.

All numbers are sums over the pieces of plans (nas/models/part.py), whatever part they are of: rows on an image of
exactly the given shape, on the features and levels that come of it, on a fixed number of regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.cost.latency import DIGITS, Table
from searchkit.nas.cost.rules import (
    METERS,
    Convention,
    Meter,
    Sizes,
    Way,
    check_convention,
    layer_flops,
    layers_at,
    row_cost,
)
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, NetPlan, Pieces, Where
from searchkit.nas.models.plan import Layer, Row
from searchkit.nas.models.plans import plans_of
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    from searchkit.nas.models.part import NetConfig


@dataclass(frozen=True)
class Cost:
    """Of one image, or of one architecture at one input shape."""

    flops: Any  # an int by the convention, for `macs` multiply-adds; of a table ms, a float
    params: int  # for `macs`, of all torch parameters, those of frozen stages too


def price(plans: NetPlan, arch: Arch, input_shape: InputShape, convention: Way = "macs") -> Cost:
    """One architecture on one image: square with edge S, or (H, W). Sizes are not padded: odd ones stay odd."""
    ((_, flops, params),) = price_archs(plans, (arch,), (input_shape,), convention)
    return Cost(flops[0], params)


def meters_with(tables: Mapping[str, Table]) -> dict[str, Meter]:
    """METERS, and those of a config: its tables by name."""
    return {**METERS, **{name: Meter("flops", table) for name, table in tables.items()}}


def read_meters(
    plans: NetPlan,
    arch: Arch,
    input_shape: InputShape,
    names: Iterable[str] = tuple(METERS),
    meters: Mapping[str, Meter] = METERS,
) -> dict[str, Any]:
    """What one architecture costs on one image, by the names of `meters`: whole numbers, of a table ms.

    Raises UsageError for a name that is none, and for a row or an input shape that a table lacks.
    """
    names = tuple(names)
    for name in names:
        if name not in meters:
            raise UsageError(f"there is no meter {name!r}{did_you_mean(name, tuple(meters))}")
    ways = dict.fromkeys(meters[name].convention for name in names)
    costs = {way: price(plans, arch, input_shape, way) for way in ways}
    return {name: plain_cost(getattr(costs[meters[name].convention], meters[name].of)) for name in names}


def of_tables(tables: Mapping[str, Table], plans: NetPlan, arch: Arch, input_shape: InputShape) -> dict[str, Any]:
    """What a record has in `overhead` of the meters of a config: `{"ms": 3.2, "ms_on": what that is of}`."""
    costs = read_meters(plans, arch, input_shape, tables, meters_with(tables)) if tables else {}
    return {key: value for name in costs for key, value in ((name, costs[name]), (f"{name}_on", tables[name].text()))}


def plain_cost(cost: float) -> float:
    """A cost as records have it."""
    return round(cost, DIGITS) if isinstance(cost, float) else cost


def price_net(config: NetConfig, arch: Arch, input_shape: InputShape, convention: Convention = "macs") -> Cost:
    """`price` for a network's config. For many architectures take `plans_of` once, which is the slow part."""
    return price(plans_of(config, arch), arch, input_shape, convention)


def price_parts(plans: NetPlan, arch: Arch, input_shape: InputShape, convention: Way = "macs") -> dict[str, Cost]:
    """`price` of backbone, neck and head, which add up to it; a table's times less what is no row."""
    check_convention(convention)
    image = (height_width(input_shape),)
    end = _State((0,), 0, image, ())
    for row in plans.rows(arch):
        end = _after(end, row, convention)
    channels, sizes = tuple(c for c, _ in end.features), [s for _, s in end.features]
    neck = _cost_behind(plans.neck.plan(arch.part(NECK), channels), image, sizes, convention)
    both = _cost_behind(plans.behind(arch, channels), image, sizes, convention)
    head = Cost(both[0][0] - neck[0][0], both[1] - neck[1])
    return {BACKBONE: Cost(end.flops[0], end.params), NECK: Cost(neck[0][0], neck[1]), HEAD: head}


def layer_costs(
    plans: NetPlan, arch: Arch, input_shape: InputShape, convention: Convention = "macs"
) -> Iterator[tuple[tuple[int, str, str], Layer, int]]:
    """The layers of a network, each as (number of its piece, row, name) with its operations, once for each level that
    it runs on. They add up to `price`."""
    image = (height_width(input_shape),)
    given: dict[str, list[Sizes]] = {"feature": [], "level": []}
    for number, piece in enumerate(plans(arch)):
        for sizes in _runs(piece.where, image, given):
            for row in piece.rows:
                ((height, width),) = sizes
                layers, out = layers_at(row, height, width)
                for layer, inputs, outputs in layers:
                    yield (number, row.name, layer.name), layer, layer_flops(layer, inputs, outputs, convention)
                sizes = (out,)
                if row.output and piece.gives:
                    given[piece.gives].append(sizes)
            if piece.gives and not any(row.output for row in piece.rows):
                given[piece.gives].append(sizes)


def regions_of(plans: NetPlan, arch: Arch) -> int:
    """On how many boxes of an image the rows of a network are counted that run on boxes; 0 where none do."""
    return sum(piece.where.number for piece in plans(arch) if piece.where.on == "regions")


def price_space(
    plans: NetPlan, space: Space, convention: Convention = "macs", *, start: int = 0
) -> Iterator[tuple[Arch, InputShape, Cost]]:
    """Every point of a space from number `start` on: the order is that of `space.enumerate()`, then that of its scales.

    Raises UsageError where the space has no input shapes.
    """
    scales = space_scales(space)
    skip, first = divmod(start, len(scales))
    archs = islice(space.enumerate(), skip, None)
    points = (
        (arch, shape, Cost(cost, params))
        for arch, flops, params in price_archs(plans, archs, scales, convention)
        for shape, cost in zip(scales, flops, strict=True)
    )
    return islice(points, first, None)


def space_scales(space: Space) -> tuple[InputShape, ...]:
    """The input shapes of a space; it must have some."""
    if not space.scales:
        raise UsageError(
            "pricing a space needs input shapes, but it has none", "Add data.input_shape to it: {choices: [480, 640]}"
        )
    return space.scales


class _State(NamedTuple):
    """Sums over the first rows of a network."""

    flops: tuple[Any, ...]
    params: int
    sizes: Sizes  # of the last row's output
    features: tuple[tuple[int, Sizes], ...]  # channels and sizes of what was given out, finest first


def price_archs(
    plans: NetPlan, archs: Iterable[Arch], input_shapes: tuple[InputShape, ...], convention: Way
) -> Iterator[tuple[Arch, tuple[Any, ...], int]]:
    """(architecture, flops at each input shape, parameters) of each architecture in turn.

    Neighbours in a space begin with the same rows: the sums up to there are kept from one to the next, and so are those
    of everything behind the backbone.
    """
    check_convention(convention)
    image = tuple(map(height_width, input_shapes))
    rows: list[Row] = []
    begin = (0,) * len(image) if isinstance(convention, str) else convention.begin(image)
    states = [_State(begin, 0, image, ())]  # states[i]: before rows[i]
    seen: dict[Any, tuple[tuple[Any, ...], int]] = {}
    for arch in archs:
        plan = plans.rows(arch)
        same = 0
        for old, new in zip(rows, plan, strict=False):
            if old is not new:
                break
            same += 1
        del rows[same:], states[same + 1 :]
        for row in plan[same:]:
            rows.append(row)
            states.append(_after(states[-1], row, convention))
        end = states[-1]
        key = (end.features, _of_others(arch))
        rest = seen.get(key)
        if rest is None:
            pieces = plans.behind(arch, tuple(channels for channels, _ in end.features))
            rest = seen[key] = _cost_behind(pieces, image, [sizes for _, sizes in end.features], convention)
        yield arch, tuple(map(add, end.flops, rest[0])), end.params + rest[1]


def _of_others(arch: Arch) -> tuple[Any, ...]:
    """The names and values of an architecture that the backbone doesn't read; they are sorted, so it comes first."""
    if arch.items[-1][0].startswith(BACKBONE):
        return ()
    return tuple(item for item in arch.items if not item[0].startswith(f"{BACKBONE}."))


def _after(state: _State, row: Row, convention: Way) -> _State:
    cost = row_cost(row, state.sizes, convention)
    features = (*state.features, (row.cout, cost.sizes)) if row.output else state.features
    return _State(tuple(map(add, state.flops, cost.flops)), state.params + cost.params, cost.sizes, features)


def _cost_behind(
    pieces: Pieces, image: Sizes, features: Iterable[Sizes], convention: Way
) -> tuple[tuple[Any, ...], int]:
    """(flops at each input shape, parameters) of pieces that run on the features of a backbone."""
    flops: list[tuple[Any, ...]] = [(0,) * len(image)]
    params = 0
    given: dict[str, list[Sizes]] = {"feature": [*features], "level": []}
    for piece in pieces:
        for i, sizes in enumerate(_runs(piece.where, image, given)):
            for row in piece.rows:
                cost = row_cost(row, sizes, convention)
                sizes = cost.sizes
                flops.append(cost.flops)
                params += 0 if i else cost.params  # the weights are the same at all levels
                if row.output and piece.gives:
                    given[piece.gives].append(sizes)
            if piece.gives and not any(row.output for row in piece.rows):
                given[piece.gives].append(sizes)
    return tuple(map(sum, zip(*flops, strict=True))), params


def _runs(where: Where, image: Sizes, given: dict[str, list[Sizes]]) -> list[Sizes]:
    """The sizes of what a piece runs on, for each input shape: of each level in turn, else of one input."""
    if where.on == "levels":
        return [*given["level"]]
    if where.on in given:
        return [given[where.on][where.number]]
    if where.on == "image":
        return [image]
    return [((where.number, 1),) * len(image)]
