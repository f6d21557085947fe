"""What the networks of all tasks share: a backbone whose architecture is a value, and the rules of what it may be.

A network (heads/faster_rcnn.py, heads/linear.py) has a backbone and the architecture it was built at, its maximum.
The only state of the search is the backbone's `arch`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from typing import Any

from torch import nn

from searchkit.errors import UsageError, did_you_mean
from searchkit.records.arch import Arch

BACKBONES: dict[str, str] = {
    "resnet": "searchkit.nas.models.backbones.resnet:ResNet",
    "mobilenet_v2": "searchkit.nas.models.backbones.mobilenet:MobileNetV2",
    "shufflenet_v2": "searchkit.nas.models.backbones.shufflenet:ShuffleNetV2",
}
PART = "backbone"  # the names of an architecture that the backbone reads are below it
Held = Mapping[str, tuple[tuple[int, ...], ...]]  # by dimension, the choices of each position: Space.held()


def make_backbone(name: str, options: Mapping[str, Any], arch: Arch, held: Held | None = None) -> Any:
    """The backbone alone, with new weights, at the names of `arch` below `backbone.`.

    held: the choices of a supernet's space, for backbones with alternatives (`CHOICES`), which hold them all; None: a
    static network holds those of `arch` alone. For a plan without weights, call it within `torch.device("meta")`: no
    memory is taken, no random number drawn.
    """
    outside = [key for key in arch.names if not key.startswith(f"{PART}.")]
    if outside or not arch.names:
        raise UsageError(
            f"an architecture of this network must have names below {PART}., but has {', '.join(outside) or 'none'}",
            "The input's shape belongs to data.input_shape; necks and heads have no dimensions.",
        )
    cls = backbone_class(name)
    choices = {key: held[f"{PART}.{key}"] for key in getattr(cls, "CHOICES", ()) if held and f"{PART}.{key}" in held}
    more = {"held": choices} if choices else {}
    return cls(arch.part(PART), **options, **more)


def backbone_class(name: str) -> Any:
    """The class of a backbone by its name, "path/to/file.py:Class" or "package.module:Class". Raises UsageError."""
    place, colon, cls = name.rpartition(":")
    if not colon:
        if name not in BACKBONES:
            hint = 'Your own class is given as "path/to/file.py:Class" or "package.module:Class".'
            raise UsageError(f"unknown backbone {name!r}{did_you_mean(name, tuple(BACKBONES))}", hint)
        return backbone_class(BACKBONES[name])
    if place.endswith(".py"):
        module = _module_of_file(place)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{place}.".startswith(f"{e.name}."):
                raise  # the module is there; what it imports is not
            hint = "Install it, or give the file: path/to/file.py:Class."
            raise UsageError(f"backbone {name!r}: there is no module {e.name!r}", hint) from e
    backbone = getattr(module, cls, None)
    if not isinstance(backbone, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"backbone {name!r}: {place} has no class {cls!r}{did_you_mean(cls, classes)}")
    return backbone


class FreshSource(SourceFileLoader):
    """Imports a file as it is now, and leaves no bytecode beside it: after an edit within the same second that keeps
    the length, the bytecode of the old file would be used."""

    def path_stats(self, path: str) -> Any:
        """None: so bytecode is neither looked for nor written."""
        raise OSError


def _module_of_file(path: str) -> Any:
    """A Python file as a module of its own name, run once for each content; sys.path stays as it is."""
    full = os.path.realpath(path)
    try:
        with open(full, "rb") as f:
            digest = hashlib.sha256(full.encode() + b"\0" + f.read()).hexdigest()[:16]
    except OSError as e:
        raise UsageError(f"cannot read the backbone's file {path}: {e.strerror}", "Correct the path.") from e
    name = f"_searchkit_backbone_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full, loader=FreshSource(name, full))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def body_of(net: nn.Module) -> nn.Module:
    """The backbone of a network of ours, which holds the arch. UsageError for another module."""
    body: nn.Module = _holder(net).body
    return body


def arch_of(net: nn.Module) -> Arch:
    """The architecture that a supernet, or a static network of ours, runs now. UsageError for another module."""
    return Arch(tuple((f"{PART}.{name}", value) for name, value in _holder(net).body.arch.items))


def set_arch(net: nn.Module, arch: Arch) -> None:
    """Let a supernet run this architecture from now on; its weights stay as they are. It may lie off the grid of the
    space, but within the maximum. Raises UsageError, with all reasons, where its weights don't hold it."""
    check_arch(net, arch)
    _holder(net).body.arch = arch.part(PART)


def check_arch(net: nn.Module, arch: Arch) -> None:
    """Raises UsageError with all reasons why a network cannot run an architecture."""
    holder = _holder(net)
    held = {f"{PART}.{key}": rows for key, rows in getattr(holder.body, "held", {}).items()}
    if wrong := misfits(arch, holder.maximum, held):
        hint = f"It was built at {holder.maximum.text()}: stay within that, or train a supernet of a larger space."
        raise UsageError(f"the network cannot run {arch.text()}: {'; '.join(wrong)}", hint)


def misfits(arch: Arch, maximum: Arch, held: Held) -> list[str]:
    """Which names or values of `arch` are not within 1 to those of `maximum`, or for alternatives among those held."""
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
        elif any(not 1 <= v <= top for v, top in zip(values, limits, strict=True)):
            wrong.append(f"{name} is {value}, at most {limit} are there")
    return wrong


def _holder(net: nn.Module) -> Any:
    """The part of a network that has the backbone as `body`, and `maximum`: a classifier itself, a detector's
    `backbone`."""
    for module in (net, getattr(net, "backbone", None)):
        if isinstance(getattr(module, "maximum", None), Arch):
            return module
    raise UsageError(
        f"a {type(net).__name__} is no supernet, nor a subnet of one",
        "Take what searchkit.nas.build_supernet, or open_supernet(...).net, gives",
    )
