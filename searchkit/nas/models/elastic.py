"""What the networks of all tasks share: parts whose architecture is a value, and the rules of what it may be.

A network (searchkit.nas.models.network builds it) has its `wiring`: the architecture it was built at, its maximum, and
where its parts are. The only state of the search is the `arch` of each part that has one, and the network's
`settings`, what of an architecture needs no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, Channels, Head, Neck, levels_of, options_at, parted
from searchkit.nas.models.plan import Held
from searchkit.nas.models.plans import made_backbone
from searchkit.nas.models.table import part_class
from searchkit.records.arch import Arch


@dataclass(frozen=True)
class Wiring:
    """What a network is beside its weights."""

    maximum: Arch  # that it was built at; no other may exceed it
    neck: Neck
    head: Head
    places: Mapping[str, str]  # by part, the dotted name of the module that has its `arch`


def make_backbone(name: str, options: Mapping[str, Any], arch: Arch, held: Held | None = None) -> Any:
    """The backbone alone, with new weights, at the names of `arch` below `backbone.`.

    held: the choices of a supernet's space, for backbones with alternatives (`CHOICES`), which hold them all; None: a
    static network holds those of `arch` alone. For a plan without weights, call it within `torch.device("meta")`: no
    memory is taken, no random number drawn.
    """
    cls = part_class(BACKBONE, name)
    return made_backbone(cls, name, options, arch, **alternatives(BACKBONE, cls, held))


def alternatives(part: str, cls: Any, held: Held | None) -> dict[str, Held]:
    """The keyword `held` of a part's module, where its class has alternatives (CHOICES) that the space chooses from."""
    names = [key for key in getattr(cls, "CHOICES", ()) if held and f"{part}.{key}" in held]
    return {"held": {key: held[f"{part}.{key}"] for key in names}} if held and names else {}


def body_of(net: nn.Module) -> nn.Module:
    """The backbone of a network of ours. UsageError for another module."""
    return net.get_submodule(wiring_of(net).places[BACKBONE])


def arch_of(net: nn.Module) -> Arch:
    """The architecture that a supernet, or a static network of ours, runs now. UsageError for another module."""
    parts: dict[str, Any] = {part: net.get_submodule(place).arch for part, place in wiring_of(net).places.items()}
    items = [(f"{part}.{name}", value) for part, arch in parts.items() for name, value in arch.items]
    return Arch(tuple(sorted((*items, *settings_of(net).items))))


def settings_of(net: Any) -> Arch:
    """What needs no weights of the architecture that a network of ours runs; what this doesn't say is as its config
    has it."""
    settings: Arch = net.settings
    return settings


def set_arch(net: nn.Module, arch: Arch) -> None:
    """Let a supernet run this architecture from now on; its weights stay as they are. It may lie off the grid of the
    space, but within the maximum. Raises UsageError, with all reasons, where its weights don't hold it."""
    check_arch(net, arch)
    wiring = wiring_of(net)
    arch, settings = parted(wiring.head, arch)
    modules: dict[str, Any] = {part: net.get_submodule(place) for part, place in wiring.places.items()}
    body = modules[BACKBONE]
    if len(modules) > 1:
        features, levels = channels_at(wiring, body, arch)  # which refuses what the head can't read
    body.arch = arch.part(BACKBONE)
    if NECK in modules:
        modules[NECK].set_arch(arch.part(NECK), features)
    if HEAD in modules:
        modules[HEAD].set_arch(arch.part(HEAD), levels)
    _set(net, settings)


def _set(net: Any, settings: Arch) -> None:
    """Let a network evaluate by settings; what these don't say is as its head's options have it."""
    if settings == settings_of(net):
        return
    head: Any = wiring_of(net).head
    usual = {setting.option: getattr(head.options, setting.option) for setting in head.SETTINGS.values()}
    head.set_options(net, {**usual, **options_at(head, settings.part(HEAD))})
    net.settings = settings


def channels_at(wiring: Wiring, body: Any, arch: Arch) -> tuple[Channels, Channels]:
    """(channels of the features, channels of the levels) at an architecture. Raises UsageError where two parts don't
    fit together."""
    features: Channels = body.channels(arch.part(BACKBONE))
    levels = levels_of(wiring.neck.plan(arch.part(NECK), features), features)
    wiring.head.plan(arch.part(HEAD), levels)
    return features, levels


def check_arch(net: nn.Module, arch: Arch) -> None:
    """Raises UsageError with all reasons why a network cannot run an architecture."""
    wiring = wiring_of(net)
    (of_weights, settings), (maximum, _) = parted(wiring.head, arch), parted(wiring.head, wiring.maximum)
    options_at(wiring.head, settings.part(HEAD))
    if wrong := misfits(of_weights, maximum, held_of(net)):
        hint = f"It was built at {wiring.maximum.text()}: stay within that, or train a supernet of a larger space."
        raise UsageError(f"the network cannot run {arch.text()}: {'; '.join(wrong)}", hint)


def held_of(net: nn.Module) -> Held:
    """The choices that a network of ours holds of each dimension with alternatives; of none where it has none."""
    return {
        f"{part}.{key}": rows
        for part, place in wiring_of(net).places.items()
        for key, rows in getattr(net.get_submodule(place), "held", {}).items()
    }


def misfits(arch: Arch, maximum: Arch, held: Held) -> list[str]:
    """Which names or values of `arch` are not within 1 to those of `maximum` (0, where that is 0: a slot without a
    block), or for alternatives among those held."""
    wrong = [f"{name} is no dimension{did_you_mean(name, maximum.names)}" for name in arch if name not in maximum]
    for name, limit in maximum.items:
        value = arch.get(name)
        if value is None:
            wrong.append(f"{name} is missing")
            continue
        values, limits = (v if isinstance(v, tuple) else (v,) for v in (value, limit))
        if isinstance(value, tuple) != isinstance(limit, tuple) or len(values) != len(limits):
            wrong.append(f"{name} must have the form of {limit}, but is {value}")
        elif name in held:
            misses = [i for i, (v, has) in enumerate(zip(values, held[name], strict=True)) if v not in has]
            wrong += [f"{name}[{i}] is {values[i]}, but must be one of {held[name][i]}" for i in misses]
        elif any(v < min(1, top) for v, top in zip(values, limits, strict=True)):
            wrong.append(f"{name} is {value}, but must be at least 1")
        elif any(v > top for v, top in zip(values, limits, strict=True)):
            wrong.append(f"{name} is {value}, at most {limit} are there")
    return wrong


def wiring_of(net: nn.Module) -> Wiring:
    """What a network of ours is beside its weights. UsageError for another module."""
    wiring = getattr(net, "wiring", None)
    if isinstance(wiring, Wiring):
        return wiring
    raise UsageError(
        f"a {type(net).__name__} is no supernet, nor a subnet of one",
        "Take what searchkit.nas.build_supernet, or open_supernet(...).net, gives",
    )
