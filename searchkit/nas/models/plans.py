"""The plans of a config's network, from the plan sides of its parts: what checks and costs need. No torch, but for a
part of the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.part import (
    BACKBONE,
    HEAD,
    NECK,
    PARTS,
    NetConfig,
    NetPlan,
    PlansHead,
    PlansNeck,
    options_at,
)
from searchkit.nas.models.table import BACKBONES, part_class, plan_class
from searchkit.reading.kinds import says_nothing
from searchkit.records.arch import Arch


def neck_plan(config: NetConfig) -> PlansNeck:
    """The plan side of a config's neck."""
    neck: PlansNeck = made_neck(plan_class(NECK, config.neck), config)
    return neck


def head_plan(config: NetConfig) -> PlansHead:
    """The plan side of a config's head."""
    head: PlansHead = made_head(plan_class(HEAD, config.head), config)
    return head


def made_neck(cls: Any, config: NetConfig) -> Any:
    """A neck of this class, with the options of a config."""
    options = config.neck_options
    return cls(cls.Options(**config.neck_defaults()) if options is None else options)


def made_head(cls: Any, config: NetConfig) -> Any:
    """A head of this class, with the options of a config."""
    given = config if isinstance(config, cls.Options) else config.head_options
    return cls(cls.Options() if given is None else given, config.num_classes)


def config_at(config: NetConfig, arch: Arch) -> NetConfig:
    """The config of the network that an architecture is, whose settings go instead of options of the head. Raises
    UsageError for values that these can't have."""
    cls = plan_class(HEAD, config.head)
    options = options_at(cls, arch.part(HEAD))
    if not options:
        return config
    whole: Any = config
    if isinstance(config, cls.Options):
        made: NetConfig = replace(whole, **options)
        return made
    given = cls.Options() if config.head_options is None else config.head_options
    return replace(config, head_options=replace(given, **options))


def backbone_plan(name: str, options: Mapping[str, Any], arch: Arch) -> Any:
    """The plan side of a backbone, at the names of `arch` below `backbone.`; one of the user's own is made whole, but
    without memory for its weights."""
    if name in BACKBONES:
        return made_backbone(plan_class(BACKBONE, name), name, options, arch)
    import torch

    with torch.device("meta"):
        return made_backbone(part_class(BACKBONE, name), name, options, arch)


def made_backbone(cls: Any, name: str, options: Mapping[str, Any], arch: Arch, **more: Any) -> Any:
    """A backbone of this class, by which `name` it is known in configs. Raises UsageError."""
    part = arch.part(BACKBONE)
    if not part.items:
        raise UsageError(
            f"an architecture must have names below {BACKBONE}., but has {', '.join(arch.names) or 'none'}"
        )
    try:
        return cls(part, **options, **more)
    except TypeError as e:
        if name not in BACKBONES:
            raise  # of a class of the user's own the traceback says more
        shown = ", ".join(f"{key}: {value}" for key, value in options.items())
        raise UsageError(f"backbone {name} can't have the options {{{shown}}}: {e}") from e


def plans_of(config: NetConfig, maximum: Arch) -> NetPlan:
    """The plans of a config's network up to the maximal architecture, for `price`, `price_space` and `write_space`.

    Raises UsageError for names of the architecture that no part reads, and where the parts don't fit together.
    """
    neck, head = neck_plan(config), head_plan(config)
    check_names(maximum.names, neck, head)
    plans = NetPlan(backbone_plan(config.backbone, config.backbone_options, maximum).plan, neck, head)
    plans(maximum)
    return plans


def check_names(names: Iterable[str], neck: PlansNeck, head: PlansHead) -> None:
    """Raises UsageError for names of an architecture that no part reads. A backbone checks its own."""
    wrong = []
    for name in names:
        part, _, rest = name.partition(".")
        known = {NECK: neck.NAMES, HEAD: (*head.NAMES, *getattr(head, "SETTINGS", ()))}.get(part)
        if part not in PARTS:
            wrong.append(f"{name}: the names of an architecture begin with {', '.join(f'{p}.' for p in PARTS)}")
        elif known is not None and rest not in known:
            has = f"it has {', '.join(known)}" if known else "it has no dimensions"
            wrong.append(f"{name}: this {part} has no such dimension{did_you_mean(rest, known)}; {has}")
    if wrong:
        raise UsageError("; ".join(wrong), "The input's shape belongs to data.input_shape.")


def unseen(config: NetConfig) -> dict[str, Any]:
    """What the names and shapes of a network's tensors do not show, as plain data: where it differs, the same weights
    compute other numbers."""
    said: dict[str, Any] = {f"backbone_options.{k}": v for k, v in sorted(config.backbone_options.items())}
    for part, options in ((NECK, config.neck_options), (HEAD, config.head_options)):
        name, default = getattr(config, part), getattr(type(config), part)
        said |= {} if name == default else {part: os.path.basename(name)}
        unimportant = getattr(plan_class(part, name), "EVALUATION", ())
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
        begin, cls = f"{part}_options.", plan_class(part, getattr(config, part))
        if any(name.startswith(begin) for name in ours) != any(name.startswith(begin) for name in theirs):
            plain = unseen(replace(config, **{f"{part}_options": cls.Options(**defaults)}))
            options = {name: value for name, value in plain.items() if name.startswith(begin)}
            ours, theirs = {**options, **ours}, {**options, **theirs}
    for name in getattr(plan_class(HEAD, config.head), "LEARNT_FOR", ()):
        ours[name] = list(getattr(config, name))
        theirs[name] = keys.get(f"model.{name}", ours[name])
    return ours, theirs
