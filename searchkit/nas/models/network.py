"""Networks built from their configs: a backbone, a neck and a head, whichever they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from searchkit.nas.models.elastic import Held, Wiring, alternatives, check_names, make_backbone
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, Head, Neck, NetConfig, NetPlan, levels_of
from searchkit.nas.models.table import part_class
from searchkit.nas.models.trunk import Trunk
from searchkit.reading.kinds import says_nothing
from searchkit.records.arch import Arch

__all__ = ["NetConfig", "build", "head_of", "neck_of", "plans_of", "shapes_of", "unseen", "unseen_there"]


def neck_of(config: NetConfig) -> Neck:
    """The neck of a config, but for its weights."""
    cls = part_class(NECK, config.neck)
    options = config.neck_options
    neck: Neck = cls(cls.Options(**config.neck_defaults()) if options is None else options)
    return neck


def head_of(config: NetConfig) -> Head:
    """The head of a config, but for its weights."""
    cls = part_class(HEAD, config.head)
    given = config if isinstance(config, cls.Options) else config.head_options
    head: Head = cls(cls.Options() if given is None else given, config.num_classes)
    return head


def plans_of(config: NetConfig, maximum: Arch) -> NetPlan:
    """The plans of a network up to the maximal architecture. The backbone is made without memory for its weights.

    Raises UsageError for names of the architecture that no part reads, and where the parts don't fit together.
    """
    neck, head = neck_of(config), head_of(config)
    check_names(maximum.names, neck, head)
    with torch.device("meta"):
        plans = NetPlan(make_backbone(config.backbone, config.backbone_options, maximum).plan, neck, head)
    plans(maximum)
    return plans


def build(config: NetConfig, arch: Arch, held: Held | None = None, **sizes: Any) -> nn.Module:
    """A network with new weights whose sizes are those of `arch`: a supernet at the maximal one, else a static net.

    held: see searchkit.nas.models.elastic.make_backbone; necks and heads may have CHOICES, too. sizes: of a detector's
    images, px: min_size, the short edge after resizing (of several, training draws one per image from torch's global
    generator), and max_size, the long one.
    Raises UsageError where config and arch don't fit together.
    """
    neck, head = neck_of(config), head_of(config)
    check_names(arch.names, neck, head)
    body = make_backbone(config.backbone, config.backbone_options, arch, held)
    features = body.channels(arch.part(BACKBONE))
    levels = levels_of(neck.plan(arch.part(NECK), features), features)
    head.plan(arch.part(HEAD), levels)  # which refuses levels that it can't read
    module = neck.module(arch.part(NECK), features, **alternatives(NECK, neck, held))
    trunk = Trunk(body, module, neck.MODULE, len(features), levels)
    net = head.network(trunk, arch.part(HEAD), config, **alternatives(HEAD, head, held), **sizes)
    names = {id(each): name for name, each in net.named_modules()}
    places = {BACKBONE: names[id(body)]}
    if neck.NAMES:
        places[NECK] = names[id(module)]
    if head.NAMES:
        places[HEAD] = head.MODULE
    wired: Any = net
    wired.wiring = Wiring(arch, neck, head, places)
    return net


def shapes_of(config: NetConfig, arch: Arch, held: Held | None = None) -> dict[str, torch.Size]:
    """The shapes of all tensors of a network at an architecture, by name. held: see build."""
    names = ((BACKBONE, config.backbone), (NECK, config.neck), (HEAD, config.head))
    return _shapes(config, arch, tuple((held or {}).items()), tuple(part_class(part, name) for part, name in names))


@lru_cache(64)
def _shapes(config: NetConfig, arch: Arch, held: tuple[Any, ...], classes: tuple[type, ...]) -> dict[str, torch.Size]:
    """classes: of the parts: a file that was edited since has others."""
    with torch.device("meta"):
        net = build(config, arch, dict(held))
    return {name: tensor.shape for name, tensor in (*net.named_parameters(), *net.named_buffers())}


def unseen(config: NetConfig) -> dict[str, Any]:
    """What the names and shapes of a network's tensors do not show, as plain data: where it differs, the same weights
    compute other numbers."""
    said: dict[str, Any] = {f"backbone_options.{k}": v for k, v in sorted(config.backbone_options.items())}
    for part, options in ((NECK, config.neck_options), (HEAD, config.head_options)):
        name, default = getattr(config, part), getattr(type(config), part)
        said |= {} if name == default else {part: os.path.basename(name)}
        unimportant = getattr(part_class(part, name), "EVALUATION", ())
        told = [] if options is None else [f for f in fields(options) if not says_nothing(f, options)]
        given = {f.name: getattr(options, f.name) for f in told}
        said |= {f"{part}_options.{key}": value for key, value in given.items() if key not in unimportant}
    said |= {name: getattr(config, name) for name in ("image_mean", "image_std")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}


def unseen_there(config: NetConfig, kept: Mapping[str, Any], keys: Mapping[str, Any]) -> tuple[Any, Any]:
    """(what `unseen` says of a network, the same of a checkpoint's that kept `kept` of it), with the keys of `model:`
    itself that weights are learnt for, which the checkpoint has among `keys` ("model.anchor_sizes"), and with the
    defaults of a part for which one of the two has options."""
    ours, theirs = unseen(config), dict(kept)
    for part, defaults in ((NECK, config.neck_defaults()), (HEAD, {})):
        begin, cls = f"{part}_options.", part_class(part, getattr(config, part))
        if any(name.startswith(begin) for name in ours) != any(name.startswith(begin) for name in theirs):
            plain = unseen(replace(config, **{f"{part}_options": cls.Options(**defaults)}))
            options = {name: value for name, value in plain.items() if name.startswith(begin)}
            ours, theirs = {**options, **ours}, {**options, **theirs}
    for name in getattr(part_class(HEAD, config.head), "LEARNT_FOR", ()):
        ours[name] = list(getattr(config, name))
        theirs[name] = keys.get(f"model.{name}", ours[name])
    return ours, theirs
