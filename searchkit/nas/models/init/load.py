"""Initial weights: those of another network of the same backbone, of the same sizes or smaller ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import body_of, wiring_of
from searchkit.nas.models.init.names import (
    BACKBONE_NAMES,
    LAYOUTS,
    BackboneNames,
    Change,
    Layout,
    backbone_names,
    layout,
)
from searchkit.nas.models.init.sources import read_weights
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, PARTS
from searchkit.nas.models.table import BACKBONES, name_of
from searchkit.nas.nn import window

LAST = "fc."  # the last layer of a classifier, whose columns are as many as its feature is wide
COUNTER = "num_batches_tracked"  # of a norm; frozen norms have none, and it decides nothing
HIDDEN = "hidden."  # the layer between a classifier's mean and its last layer: that of the neck of this name
CLASSIFIER = "a layer behind the mean of a classifier"


@dataclass
class LoadedPart:
    """What became of the tensors of one part of a network: names, each in one of four groups."""

    part: str  # "backbone", "neck" or "head"
    whole: list[str] = field(default_factory=list)  # of the network, taken over as they are
    partly: list[str] = field(default_factory=list)  # of the network, larger than the file's: filled in part
    kept: list[str] = field(default_factory=list)  # of the network, not filled: they keep their initial values
    unused: list[str] = field(default_factory=list)  # of the file, each with the reason

    @property
    def filled(self) -> list[str]:
        return [*self.whole, *self.partly]

    @property
    def counts(self) -> str:
        """Such as `backbone 265 of 320 tensors, 53 of them in part`."""
        filled = sum(not name.endswith(COUNTER) for name in self.filled)
        partly = f", {len(self.partly)} of them in part" if self.partly else ""
        return f"{self.part} {filled} of {filled + len(self.kept)} tensors{partly}"


@dataclass(frozen=True)
class Loaded:
    """The outcome of `load_init`."""

    path: str
    whose: str | None  # the project whose names the file has; None for those of the network itself
    parts: tuple[LoadedPart, ...]  # that the network or the file has
    lost: tuple[str, ...]  # parts that both have, and nothing of the file's fits

    @property
    def whole(self) -> list[str]:
        return [name for part in self.parts for name in part.whole]

    @property
    def partly(self) -> list[str]:
        return [name for part in self.parts for name in part.partly]

    @property
    def kept(self) -> list[str]:
        return [name for part in self.parts for name in part.kept]

    @property
    def unused(self) -> list[str]:
        return [name for part in self.parts for name in part.unused]

    def lines(self) -> list[str]:
        """For a log: what was filled of each part, what of the file was not used, and what did not fit at all."""
        names = f" (in the names of {self.whose})" if self.whose else ""
        lines = [f"init {self.path}{names}: filled {'; '.join(part.counts for part in self.parts)}"]
        if self.partly:
            what = "the first channels and the centres of kernels are the file's, the rest keeps its initial values"
            lines.append(f"  in part: {what}")
        for part in self.parts:
            if part.unused:
                more = f", and {len(part.unused) - 3} more" if len(part.unused) > 3 else ""
                said = f"{len(part.unused)} unused: {', '.join(part.unused[:3])}{more}"
                lines.append(f"  the file's {part.part}: {said}")
        lines += [f"  NOTHING of the file's {part} fits into the network's {part}" for part in self.lost]
        return lines


def load_init(net: nn.Module, path: str) -> Loaded:
    """Fill a network from weights: a file (`torch.save` of a state dict, .safetensors), or a name for read_weights.

    Takes networks of this package, and those whose names searchkit.nas.models.init.names has: whole detectors, or a
    backbone, alone or with its last layer. The backbone of a classifier fits a detector, and the other way round.
    Where the backbone is wider or has larger kernels than the file's, the leading slices (and the centres) are filled,
    statistics of norms too: at the file's own architecture the network then computes what the file's did. Further
    channels, further blocks, and heads of other sizes (another number of classes) keep their values. Nothing in a file
    is executed.

    Raises UsageError where the file can't be read, is of another backbone, or nothing in it fits.
    """
    tensors, meta = read_weights(path)
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}  # of DataParallel
    own = dict(net.state_dict())
    of, there = _net(net, own), layout(tensors)
    given = (
        _of_unknown(tensors, of, isinstance(meta.get("space"), Mapping))
        if there is None
        else _of_layout(tensors, there, of)
    )
    body = {each.name: each.value for each in given if each.part == BACKBONE}
    row = backbone_names(body)
    _check_family(path, meta, row, of)
    if row is None and 2 * len(of.known(body)) < len(body):  # a few may be called so by chance
        raise _nothing_fits(path, tensors, row)
    given = _by_our_names(given, row, of)
    parts = {part: LoadedPart(part) for part in PARTS}
    for each in given:
        _fill(each, parts[each.part], of, tensors)
    filled = {name for part in parts.values() for name in part.filled}
    if all(name.endswith(COUNTER) for name in filled):
        raise _nothing_fits(path, tensors, row)
    for name in own:
        if name not in filled and not name.endswith(COUNTER):
            parts[of.part(name)].kept.append(name)
    offered = {each.part for each in given if each.why != CLASSIFIER}
    lost = tuple(p.part for p in parts.values() if p.part in offered and p.kept and not p.filled)
    shown = tuple(p for p in parts.values() if p.filled or p.kept or p.unused)
    other = any(each.there != of.begins[each.part] + each.name for each in given if not each.why)
    whose = there.whose if there is not None else row.whose if row is not None else None
    return Loaded(path, whose if other else None, shown, lost)


def _fill(each: _Given, part: LoadedPart, of: _Net, tensors: Mapping[str, Tensor]) -> None:
    """Put one tensor of a file to its place, and its name into the group where it belongs."""
    here = of.begins.get(each.part, "") + each.name
    into = None if each.why else of.own.get(here)
    if into is None:
        if not each.there.endswith(COUNTER):
            part.unused.append(f"{each.there} ({each.why or 'no such tensor in the network'})")
        return
    value = each.change(each.value, into, tensors) if each.change else each.value
    if into.shape == value.shape:
        into.copy_(value)
        part.whole.append(here)
    elif (each.part in of.elastic or _is_wider(here, value, into)) and _is_within(value, into):
        window(into, value.shape).copy_(value)
        part.partly.append(here)
    else:
        part.unused.append(f"{each.there} ({_size(value)} there, {_size(into)} here)")


def _is_wider(name: str, value: Tensor, into: Tensor) -> bool:
    """Whether this is a classifier's last layer, with as many classes, on a narrower feature."""
    return name.startswith(LAST) and value.dim() == into.dim() == 2 and value.shape[0] == into.shape[0]


def _is_within(value: Tensor, into: Tensor) -> bool:
    """Whether a tensor fits into the first channels of another, and in the centre of its kernels."""
    if value.dim() != into.dim() or any(a > b for a, b in zip(value.shape, into.shape, strict=True)):
        return False
    return all((b - a) % 2 == 0 for a, b in zip(value.shape[2:], into.shape[2:], strict=True))


def _size(t: Tensor) -> str:
    return "x".join(map(str, t.shape)) or "one number"


# --- where the tensors of a file belong ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """One tensor of a file: its name there, the part that it is of, and its name below that part."""

    there: str
    part: str
    name: str
    value: Tensor
    why: str = ""  # it has no place in the network
    change: Change | None = None


@dataclass(frozen=True)
class _Net:
    """The network that is filled."""

    own: Mapping[str, Tensor]
    kinds: Mapping[str, str | None]  # of its parts, as the tables call them; None for a class of the user's own
    begins: Mapping[str, str]  # how the names of its parts begin; those of the head do anyhow
    elastic: Collection[str]  # parts whose tensors may be larger than a file's; each row of a head has its own meaning

    def known(self, body: Iterable[str]) -> set[str]:
        """Which of these names tensors of its backbone have."""
        return {name for name in body if self.begins[BACKBONE] + name in self.own}

    def below(self, part: str) -> list[str]:
        """The names of the tensors of a part, below it."""
        begin = self.begins.get(part)
        return [] if begin is None else [name[len(begin) :] for name in self.own if name.startswith(begin)]

    def part(self, name: str) -> str:
        """The part that one of its tensors is of."""
        return next(part for part, begin in self.begins.items() if name.startswith(begin))


def _net(net: nn.Module, own: Mapping[str, Tensor]) -> _Net:
    wiring = wiring_of(net)
    body = wiring.places[BACKBONE]
    parts = {BACKBONE: body_of(net), NECK: wiring.neck, HEAD: wiring.head}
    neck = f"{body.rpartition('.')[0]}.{wiring.neck.MODULE}."
    has_neck = any(name.startswith(neck) for name in own)
    begins = {BACKBONE: f"{body}.", **({NECK: neck} if has_neck else {}), HEAD: ""}
    kinds = {part: name_of(part, type(module)) for part, module in parts.items()}
    return _Net(own, kinds, begins, wiring.places.keys() - {HEAD})


def _of_layout(tensors: Mapping[str, Tensor], there: Layout, of: _Net) -> list[_Given]:
    """The tensors of a file of a layout that is known."""
    given = []
    for name, value in tensors.items():
        place, match = next((place, match) for place in there.places if (match := place.begins.match(name)))
        below = match.expand(place.ours) + name[match.end() :]
        given.append(_Given(name, place.part, below, value, _misfit(place.part, there, of), place.change))
    counts = _levels(each.name for each in given if each.part == NECK), _levels(of.below(NECK))
    if counts[0] == counts[1]:
        return given
    why = "of {} features, but here there are {}: they would be other levels".format(*counts)
    return [replace(each, why=each.why or why) if each.part == NECK else each for each in given]


def _misfit(part: str, there: Layout, of: _Net) -> str:
    """Why a part of such a file has no place in the network; nothing of a class of the user's own, whose names are its
    own business."""
    if part == BACKBONE:
        return ""  # whose kind is told by its names
    kind, here = there.neck if part == NECK else there.head, of.kinds[part]
    return "" if here in (kind, None) else f"of {kind}, but the {part} here is {here}"


def _levels(names: Iterable[str]) -> int:
    """How many features a pyramid reads, by the names of its tensors."""
    return len({match[1] for name in names if (match := re.match(r"inner_blocks\.(\d+)\.", name))})


def _of_unknown(tensors: Mapping[str, Tensor], of: _Net, is_ours: bool) -> list[_Given]:
    """The tensors of any other file: a backbone with a prefix or without one, and what else has the names of ours, if
    it is a checkpoint of ours, or the network one whose names are in no table either."""
    is_known = not is_ours and any((row.neck, row.head) == (of.kinds[NECK], of.kinds[HEAD]) for row in LAYOUTS)
    prefixes = (of.begins[BACKBONE], "backbone.body.", "backbone.", "")
    prefix = next(prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors))
    given = []
    for name, value in tensors.items():
        if name.startswith(prefix):
            given.append(_Given(name, BACKBONE, name[len(prefix) :], value))
        else:
            part = next(part for part, begin in of.begins.items() if name.startswith(begin))
            why = "" if not is_known and name in of.own else "its names are in no table"
            why = CLASSIFIER if name.startswith(LAST) and name not in of.own else why
            given.append(_Given(name, part, name[len(of.begins[part]) :], value, why))
    return given


def _check_family(path: str, meta: Mapping[str, Any], row: BackboneNames | None, of: _Net) -> None:
    """Raises UsageError where the file is of a backbone that we have, and the network has another one of those."""
    config = meta.get("config")  # of a checkpoint of ours
    there = config.get("model.backbone") if isinstance(config, Mapping) else None
    there = there if there in BACKBONES else row.kind if row is not None else None
    here = of.kinds[BACKBONE]
    if there is not None and here is not None and there != here:
        raise UsageError(
            f"{path} is of another family: its backbone is a {there}, but this network's is a {here}",
            f"Set model.backbone: {there}, or give the weights of a {here}.",
        )


def _by_our_names(given: list[_Given], row: BackboneNames | None, of: _Net) -> list[_Given]:
    """The same, with the tensors of the backbone by our names; those of a last layer are of the head."""
    body = [each.name for each in given if each.part == BACKBONE]
    same = of.kinds[BACKBONE] is None and of.known(body)  # a class of the user's own
    ours = {name: name for name in body} if row is None or same else row.ours(body)
    here = []
    for each in given:
        if each.part == BACKBONE and each.name not in ours:
            each = replace(each, why="its name is in no table")
        elif each.part == BACKBONE and ours[each.name].startswith(HIDDEN):
            each = _hidden(each, ours[each.name].removeprefix(HIDDEN), of)
        elif each.part == BACKBONE and ours[each.name].startswith(LAST):
            fits = f"{LAST}weight" in of.own
            each = replace(each, part=HEAD, name=ours[each.name], why="" if fits else CLASSIFIER)
        elif each.part == BACKBONE:
            each = replace(each, name=ours[each.name])
        here.append(each)
    return here


def _hidden(each: _Given, name: str, of: _Net) -> _Given:
    """A tensor of a linear layer between the mean and the last layer, which the neck `hidden` has as a 1x1 conv."""
    if of.kinds[NECK] != HIDDEN.removesuffix("."):
        return replace(each, part=HEAD, why=CLASSIFIER)
    value = each.value[:, :, None, None] if each.value.dim() == 2 else each.value
    return replace(each, part=NECK, name=name, value=value)


def _nothing_fits(path: str, tensors: Mapping[str, Tensor], row: BackboneNames | None) -> UsageError:
    names = [name for name in tensors if not name.endswith(COUNTER)]
    if row is not None:
        return UsageError(
            f"{path}: none of its {len(names)} tensors fits into the network, though they are named as a {row.kind}'s",
            "Its sizes are others, or larger: give a smaller network's, or set model.backbone_options as it has them.",
        )
    known = "; ".join(f"{row.kind} of {row.whose}" for row in BACKBONE_NAMES)
    return UsageError(
        f"{path}: its {len(names)} tensors don't fit into the network, and no table has their names: "
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
        "It must hold a state dict of a network with this backbone, or of the backbone alone, with the names of this "
        f"package or of another that is known: {known}.",
    )
