"""Sorting the channels inside blocks by importance where a space opens to narrower widths, as once-for-all does
(https://arxiv.org/abs/1908.09791), so that the first channels are the best ones.

It changes the order in which a block's inner channels stand, in every tensor that has them, and what the optimizer has
gathered for these; what the network computes at the widths that were open before stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import body_of, wiring_of
from searchkit.nas.models.part import BACKBONE
from searchkit.nas.models.plan import Layer, Plan, Row
from searchkit.nas.space.space import Space
from searchkit.nas.train.criteria import CRITERIA, Criterion
from searchkit.records.arch import Arch

Place = tuple[str, str]  # a row, and the layer of it that reads the channels
Widths = dict[Place, set[int]]
PlanOf = Callable[[Arch], Plan]  # from the part of an architecture below `backbone.`


@dataclass
class Inner:
    """Channels between two layers of a row, which may stand in any order: the layers that make, norm or read them, each
    with the dimension of its weights that they are."""

    width: int
    layers: list[tuple[str, int]] = field(default_factory=list)


def inner_channels(row: Row) -> dict[str, Inner]:
    """The channels inside a row, by the conv or linear layer that reads them last.

    Those that a grouped conv (but for one filter a channel) makes or reads are none, nor are a row's own input and
    output, which other rows share.
    """
    found: dict[str, Inner] = {}
    now: Inner | None = None
    outer: Inner | None = None  # what a squeeze-and-excitation weighs
    squeezed = False
    for layer in row.layers:
        if layer.kind in ("split", "concat", "shuffle"):
            return {}
        if layer.branch:
            continue
        if layer.kind == "mean":
            outer, squeezed = now, True
        elif layer.kind == "gate":
            if outer and now:
                outer.layers += now.layers
            now = outer
        elif layer.kind == "norm" and now:
            now.layers.append((layer.name, 0))
        elif layer.kind in ("conv", "linear"):
            now = _after(layer, now, squeezed, found)
            squeezed = False
    return found


def _after(layer: Layer, now: Inner | None, squeezed: bool, found: dict[str, Inner]) -> Inner | None:
    """The channels behind a conv or linear layer, of which those before it take note."""
    if layer.groups == layer.cin == layer.cout > 1:
        if now:
            now.layers.append((layer.name, 0))
        return now
    if layer.groups > 1:
        return None
    if now:
        now.layers.append((layer.name, 1))
        if not squeezed:  # else they go on behind the gate
            found[layer.name] = now
    return Inner(layer.cout, [(layer.name, 0)])


def widths_of(plan: PlanOf, space: Space) -> Widths:
    """All widths that channels inside a backbone's rows have at the architectures of a space.

    Those of one dimension with any other are tried, and the greatest of all else: a width inside a block follows from
    two of them at most (how wide, and how many times wider).
    """
    widths: Widths = {}
    dims = [dim for dim in space.dims if dim.key.startswith(f"{BACKBONE}.")]
    base = [[row[-1] for row in dim.free] for dim in dims]

    def seen(*changes: tuple[int, int, int]) -> Widths:
        rows = [list(values) for values in base]
        for dim, position, value in changes:
            rows[dim][position] = value
        values = {dim.key: dim.pack(dim.spread(row)) for dim, row in zip(dims, rows, strict=True)}
        try:
            there = plan(Arch(tuple(sorted(values.items()))).part(BACKBONE))
        except UsageError:  # what the space ties together does not go by itself
            return {}
        return {(row.name, name): {inner.width} for row in there for name, inner in inner_channels(row).items()}

    first = seen()
    _join(widths, first)
    choices = [
        (d, p, value)
        for d, dim in enumerate(dims)
        for p, row in enumerate(dim.free)
        for value in row
        if value != row[-1]
    ]
    matter = []
    for choice in choices:
        found = seen(choice)
        _join(widths, found)
        if any(found[place] != first.get(place) for place in found):
            matter.append(choice)
    for a, b in combinations(matter, 2):
        if a[:2] != b[:2]:
            _join(widths, seen(a, b))
    return widths


def _join(widths: Widths, more: Widths) -> None:
    for place, values in more.items():
        widths.setdefault(place, set()).update(values)


class Sorter:
    """Called before each step of a training: sorts where the step's epoch opens a space to narrower widths.

    All that it does follows from the step and the weights, so that a training that was broken off goes on as an
    unbroken one, and all ranks of one do the same. from_weights: the network did not begin at random: the largest one
    is taken for trained, and the first step may be one that opens.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        space: Space,
        steps_per_epoch: int,
        say: Callable[[str], None],
        from_weights: bool,
    ) -> None:
        self.body: Any = body_of(net)
        self.maximum = wiring_of(net).maximum
        self.optimizer, self.space, self.say = optimizer, space, say
        self.steps_per_epoch, self.from_weights = max(1, steps_per_epoch), from_weights

    def __call__(self, step: int) -> None:
        """Sort, and say what was sorted, if this step is the first of an epoch that opens narrower widths."""
        epoch = self._epoch(step)
        now = self.space.at_epoch(epoch)
        if step > 0:
            before = self.space.at_epoch(self._epoch(step - 1))
        elif self.from_weights:
            before = now.only(now.maximum())
        else:
            return
        if before is now:
            return
        old, new = widths_of(self.body.plan, before), widths_of(self.body.plan, now)
        opened = {place: old.get(place, set()) for place, widths in new.items() if widths - old.get(place, set())}
        if not opened:
            return
        sort_channels(self.body, self.body.plan(self.maximum.part(BACKBONE)), opened, self.optimizer)
        places = "place" if len(opened) == 1 else "places"
        self.say(
            f"epoch {epoch} opens narrower widths at {len(opened)} {places} inside blocks: channels are sorted there"
        )

    def _epoch(self, step: int) -> int:
        return 1 + step // self.steps_per_epoch


def layers_at(body: nn.Module, row: Row, inner: Inner) -> list[tuple[nn.Module, int]]:
    """The modules of the layers that share channels inside a row, each with the dimension that these are."""
    return [(body.get_submodule(f"{row.name}.{layer}".lstrip(".")), dim) for layer, dim in inner.layers]


def importances(body: nn.Module, rows: Iterable[Row], criterion: Criterion) -> dict[Place, Tensor]:
    """How much each channel inside the rows of a network at its maximal architecture counts, by place."""
    return {
        (row.name, name): criterion.importance(layers_at(body, row, inner))
        for row in rows
        for name, inner in inner_channels(row).items()
    }


@torch.no_grad()
def sort_channels(
    body: nn.Module,
    rows: Iterable[Row],
    opened: Mapping[Place, set[int]],
    optimizer: torch.optim.Optimizer | None,
    ranked: Mapping[Place, Tensor] | None = None,
) -> None:
    """Sort channels inside rows of a network at its maximal architecture by their importance, the greatest first: the
    sum of the absolute weights that read them, or what `ranked` says. opened: where, and the widths that were open
    before: channels stay on their side of each of these."""
    for row in rows:
        for name, inner in inner_channels(row).items():
            place = row.name, name
            if place not in opened:
                continue
            layers = layers_at(body, row, inner)
            importance = CRITERIA["reading"].importance(layers) if ranked is None else ranked[place]
            group = max((_grouped(layer) for layer, _ in layers), default=1)
            order = _order(importance, opened[place], group)
            for layer, dim in layers:
                for tensor in _with_channels(layer, dim, inner.width):
                    _permute(tensor, dim, order, optimizer)


def _grouped(layer: nn.Module) -> int:
    """How many neighbouring channels must stay together: those of a group of a group norm."""
    return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def _order(importance: Tensor, bounds: Iterable[int], group: int) -> Tensor:
    """The channels in their new order; equally important ones stay as they were."""
    scores = importance.view(-1, group).mean(1)
    edges = sorted({0, *(bound // group for bound in bounds), len(scores)})
    parts = [left + torch.argsort(scores[left:right], descending=True, stable=True) for left, right in pairwise(edges)]
    groups = torch.cat(parts)
    return (groups[:, None] * group + torch.arange(group, device=groups.device)).flatten()


def _with_channels(layer: nn.Module, dim: int, width: int) -> Iterator[Tensor]:
    """The weights of a layer; where the channels are its output, its bias, and a norm's statistics."""
    for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
        is_weight = name == "weight" and tensor.dim() > 1
        if is_weight or (dim == 0 and tensor.dim() == 1 and len(tensor) == width):
            yield tensor


def _permute(tensor: Tensor, dim: int, order: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """In place: a parameter stays the one that an optimizer knows."""
    state = optimizer.state.get(tensor, {}) if optimizer else {}
    for each in (tensor, *state.values()):
        if isinstance(each, Tensor) and each.shape == tensor.shape:
            each.copy_(each.index_select(dim, order))
