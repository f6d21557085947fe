"""Networks built from their configs: a backbone, a neck and a head, whichever they are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from searchkit.nas.models.elastic import Wiring, alternatives, make_backbone
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, Head, Neck, NetConfig, levels_of, parted
from searchkit.nas.models.plan import Held
from searchkit.nas.models.plans import check_names, config_at, made_head, made_neck
from searchkit.nas.models.table import part_class
from searchkit.nas.models.trunk import Trunk
from searchkit.records.arch import Arch

__all__ = ["NetConfig", "build", "head_of", "neck_of", "shapes_of"]


def neck_of(config: NetConfig) -> Neck:
    """The neck of a config, but for its weights."""
    neck: Neck = made_neck(part_class(NECK, config.neck), config)
    return neck


def head_of(config: NetConfig) -> Head:
    """The head of a config, but for its weights."""
    head: Head = made_head(part_class(HEAD, config.head), config)
    return head


def build(config: NetConfig, arch: Arch, held: Held | None = None, **sizes: Any) -> nn.Module:
    """A network with new weights whose sizes are those of `arch`: a supernet at the maximal one, else a static net.

    held: see searchkit.nas.models.elastic.make_backbone; necks and heads may have CHOICES, too. sizes: of a detector's
    images, px: min_size, the short edge after resizing (of several, training draws one per image from torch's global
    generator), and max_size, the long one.
    Raises UsageError where config and arch don't fit together.
    """
    config = config_at(config, arch)
    neck, head = neck_of(config), head_of(config)
    check_names(arch.names, neck, head)
    maximum, (arch, settings) = arch, parted(head, arch)
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
    wired.wiring = Wiring(maximum, neck, head, places)
    wired.settings = settings
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
