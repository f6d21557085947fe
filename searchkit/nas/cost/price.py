"""The cost of a network at any architecture, and of every point of a space, in seconds.

All numbers are sums over the rows of plans (nas/models/plan.py): backbone, pyramid and region proposals on an image of
exactly the given shape, the box head on a fixed number of proposals; a classifier's last layer on the mean of the
last feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.cost.rules import Convention, Sizes, check_convention, row_cost
from searchkit.nas.models.heads.faster_rcnn_plan import HeadSizes, box_row, rpn_row
from searchkit.nas.models.heads.linear_plan import LabelSizes, label_row
from searchkit.nas.models.necks.fpn_plan import fpn_rows
from searchkit.nas.models.plan import Plan, Row
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    from searchkit.nas.models.network import NetConfig

PlanOf = Callable[[Arch], Plan]  # from the part of an architecture below `backbone.`
Heads = HeadSizes | LabelSizes  # everything after the backbone
BACKBONE = "backbone"


@dataclass(frozen=True)
class Cost:
    """Of one image, or of one architecture at one input shape."""

    flops: int  # by the convention; for `macs`, multiply-adds
    params: int  # for `macs`, of all torch parameters, those of frozen stages too


def price(plans: PlanOf, heads: Heads, arch: Arch, input_shape: InputShape, convention: Convention = "macs") -> Cost:
    """One architecture on one image: square with edge S, or (H, W). Sizes are not padded: odd ones stay odd."""
    ((_, flops, params),) = price_archs(plans, heads, (arch,), (input_shape,), convention)
    return Cost(flops[0], params)


def price_net(config: NetConfig, arch: Arch, input_shape: InputShape, convention: Convention = "macs") -> Cost:
    """`price` for a network's config. For many architectures take `plans_of` once, which is the slow part."""
    return price(plans_of(config, arch), config.heads, arch, input_shape, convention)


def plans_of(config: NetConfig, maximum: Arch) -> PlanOf:
    """The plans of a config's backbone up to the maximal architecture, for `price`, `price_space` and `write_space`.

    The backbone is made without memory for its weights (tens of milliseconds). This imports torch; pricing does not.
    """
    import torch

    from searchkit.nas.models.elastic import make_backbone

    with torch.device("meta"):
        plan: PlanOf = make_backbone(config.backbone, config.backbone_options, maximum).plan
    return plan


def price_space(
    plans: PlanOf, heads: Heads, space: Space, convention: Convention = "macs", *, start: int = 0
) -> Iterator[tuple[Arch, InputShape, Cost]]:
    """Every point of a space from number `start` on: the order is that of `space.enumerate()`, then that of its scales.

    Raises UsageError where the space has no input shapes.
    """
    scales = space_scales(space)
    skip, first = divmod(start, len(scales))
    archs = islice(space.enumerate(), skip, None)
    points = (
        (arch, shape, Cost(cost, params))
        for arch, flops, params in price_archs(plans, heads, archs, scales, convention)
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
    """Sums over the first rows of a backbone."""

    flops: tuple[int, ...]
    params: int
    sizes: Sizes  # of the last row's output
    features: tuple[tuple[int, Sizes], ...]  # channels and sizes of what the backbone gives out, finest first


def price_archs(
    plans: PlanOf,
    heads: Heads,
    archs: Iterable[Arch],
    input_shapes: tuple[InputShape, ...],
    convention: Convention,
) -> Iterator[tuple[Arch, tuple[int, ...], int]]:
    """(architecture, flops at each input shape, parameters) of each architecture in turn.

    Neighbours in a space begin with the same rows: the sums up to there are kept from one to the next.
    """
    check_convention(convention)
    sizes = tuple(map(height_width, input_shapes))
    rows: list[Row] = []
    states = [_State((0,) * len(sizes), 0, sizes, ())]  # states[i]: before rows[i]
    seen: dict[tuple[tuple[int, Sizes], ...], tuple[tuple[int, ...], int]] = {}
    for arch in archs:
        plan = plans(arch.part(BACKBONE))
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
        head = seen.get(end.features)
        if head is None:
            head = seen[end.features] = _head_cost(heads, end.features, convention)
        yield arch, tuple(map(int.__add__, end.flops, head[0])), end.params + head[1]


def _after(state: _State, row: Row, convention: Convention) -> _State:
    cost = row_cost(row, state.sizes, convention)
    features = (*state.features, (row.cout, cost.sizes)) if row.output else state.features
    return _State(tuple(map(int.__add__, state.flops, cost.flops)), state.params + cost.params, cost.sizes, features)


def _head_cost(
    heads: Heads, features: tuple[tuple[int, Sizes], ...], convention: Convention
) -> tuple[tuple[int, ...], int]:
    """(flops at each input shape, parameters) of everything after the backbone."""
    if isinstance(heads, LabelSizes):
        width, sizes = features[-1]
        cost = row_cost(label_row(width, heads.num_classes), ((1, 1),) * len(sizes), convention)
        return cost.flops, cost.params
    if not 0 < len(features) <= heads.levels:
        raise UsageError(
            f"the backbone must give out 1 to {heads.levels} features, one for each level of the pyramid, "
            f"but it gives out {len(features)}",
            "Mark the rows with `output=True`, or change the number of levels.",
        )
    levels = [sizes for _, sizes in features]
    parts = [
        row_cost(row, sizes, convention)
        for row, sizes in zip(fpn_rows(tuple(c for c, _ in features), heads.fpn_channels), levels, strict=True)
    ]
    while len(levels) < heads.levels:  # every second position of the level before
        levels.append(tuple(((h + 1) // 2, (w + 1) // 2) for h, w in levels[-1]))
    proposals = row_cost(box_row(heads), ((heads.proposals, 1),) * len(levels[0]), convention)
    rpn = [row_cost(rpn_row(heads), sizes, convention) for sizes in levels]
    flops = zip(*(part.flops for part in (*parts, *rpn, proposals)), strict=True)
    # the weights of the region proposals are the same at all levels
    return tuple(map(sum, flops)), sum(part.params for part in (*parts, rpn[0], proposals))
