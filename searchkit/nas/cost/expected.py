"""How the cost of a network hangs on its widths, as a sum that a gradient goes through. No torch.

Where each width is chosen by itself, the number of a layer's channels is a function of one choice, and the
multiply-adds of a layer are a product of two such numbers (one, where it has a filter for each channel). So the MACs of
a network of expected widths are a closed form: DMCP's expected FLOPs (Guo et al., CVPR 2020), for any network that has
a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from searchkit.errors import UsageError
from searchkit.nas.cost.price import layer_costs
from searchkit.nas.models.part import NetPlan
from searchkit.nas.models.plan import Layer
from searchkit.nas.space.shapes import InputShape
from searchkit.records.arch import Arch

Place = tuple[int, str, str]  # the piece of a plan, a row of it, a layer of that
WEIGHED = ("conv", "linear")
DIFFERS = ("kernel", "stride", "padding", "dilation", "scale")  # what widths alone don't change


class Width(NamedTuple):
    """The channels that a layer reads or gives out: at each choice of a unit, the least first."""

    unit: int | None  # None: they are fixed, at the one number of `channels`
    channels: tuple[int, ...]


class Term(NamedTuple):
    """The multiply-adds of a layer: `each` times the channels that it reads and those that it gives out; of one in
    groups, the latter alone."""

    each: float
    read: Width | None
    made: Width


@dataclass(frozen=True)
class Widths:
    """All layers with weights of a network: what they read, and what they cost."""

    reads: Mapping[Place, Width]  # of those whose input has several widths
    terms: tuple[Term, ...]


def widths_of(
    plans: NetPlan, largest: Arch, units: Sequence[Sequence[Arch]], names: Sequence[str], shape: InputShape
) -> Widths:
    """How the layers of a network hang on units, each given as the largest architecture with that unit alone at each of
    its choices, the least first.

    Raises UsageError, naming it, for a unit that changes anything but widths, and for a layer whose widths hang on two.
    """
    whole = _layers(plans, largest)
    found: dict[tuple[Place, str], Width] = {}
    for number, (archs, name) in enumerate(zip(units, names, strict=True)):
        each = [_layers(plans, arch) for arch in archs]
        _check_widths(whole, each, name)
        for place in whole:
            for side in ("cin", "cout"):
                channels = tuple(getattr(layers[place], side) for layers in each)
                if len(set(channels)) == 1:
                    continue
                if (other := found.get((place, side))) is not None:
                    raise UsageError(
                        f"the channels of {place[1]}.{place[2]} hang on {names[other.unit or 0]} and on {name}, but "
                        "they must hang on one choice",
                        "Say how wide blocks are inside by the dimension backbone.body.hidden, in place of body.expand",
                    )
                found[place, side] = Width(number, channels)

    def width(place: Place, side: str) -> Width:
        return found.get((place, side)) or Width(None, (getattr(whole[place], side),))

    terms = []
    for place, layer, macs in layer_costs(plans, largest, shape):
        if layer.kind in WEIGHED and macs:
            read, made = (None if layer.groups > 1 else width(place, "cin")), width(place, "cout")
            terms.append(Term(macs / ((read.channels[-1] if read else 1) * made.channels[-1]), read, made))
    weighed = {place for place, layer in whole.items() if layer.kind in WEIGHED}
    reads = {place: each for (place, side), each in found.items() if side == "cin" and place in weighed}
    return Widths(reads, tuple(terms))


def macs_of(widths: Widths, value: Callable[[Width], float]) -> float:
    """The multiply-adds of a network where the channels of each layer are as `value` says: numbers, or tensors."""
    return sum(each * value(made) * (1 if read is None else value(read)) for each, read, made in widths.terms)


def _layers(plans: NetPlan, arch: Arch) -> dict[Place, Layer]:
    """The layers with weights or norms of a network, in their order."""
    return {
        (number, row.name, layer.name): layer
        for number, piece in enumerate(plans(arch))
        for row in piece.rows
        for layer in row.layers
        if layer.kind in (*WEIGHED, "norm")
    }


def _check_widths(whole: Mapping[Place, Layer], each: Sequence[Mapping[Place, Layer]], name: str) -> None:
    changed = False
    for layers in each:
        if layers.keys() != whole.keys() or any(
            getattr(layer, key) != getattr(whole[place], key) for place, layer in layers.items() for key in DIFFERS
        ):
            raise UsageError(
                f"{name} has several choices, but it is no width: widths alone are learnt",
                "Give it one choice; or prune it by search-nas prune, which takes every dimension",
            )
        changed |= any(layer != whole[place] for place, layer in layers.items())
    if not changed:
        raise UsageError(f"{name} has several choices, but no layer hangs on it", "Give it one choice")
