"""Cutting a static network out of a supernet."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import check_arch, held_of, wiring_of
from searchkit.nas.models.network import build, shapes_of
from searchkit.nas.models.part import NetConfig
from searchkit.nas.nn import Conv2d, window
from searchkit.records.arch import Arch


def subnet(net: Any, arch: Arch, config: NetConfig) -> Any:
    """An independent network of the sizes of `arch`, with copies of the slices of `net`'s weights and buffers.

    It equals `net` at that arch bit for bit, has its device, dtype, memory format, training flags, input size and
    frozen parameters, and shares nothing with it. `net` may itself be a subnet. config: the one `net` was built with; a
    threshold may differ. Raises UsageError where `net` doesn't hold the arch or wasn't built with this config.
    """
    check_arch(net, arch)
    with torch.device("meta"):  # no memory, no time for initial values, no random number
        twin: Any = build(config, arch)
    if hasattr(net, "transform"):  # a detector's, with its input size
        twin.transform = copy.deepcopy(net.transform)
    source = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    targets = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    # A tensor that is larger than its slice for another reason than the arch is another network's.
    whole = shapes_of(config, wiring_of(net).maximum, held_of(net))
    unequal = [k for k in targets if k not in source or (k in whole and whole[k] != source[k].shape)]
    if unequal:
        hint = "Give the config that the supernet was built with."
        raise UsageError(f"the supernet was built with another config: it differs in {', '.join(unequal[:3])}", hint)
    for name, tensor in targets.items():
        _put(twin, name, _cut(net, name, tensor.shape).clone(), source[name].requires_grad)
    modules = dict(net.named_modules())
    for name, module in twin.named_modules():
        module.training = modules[name].training if name in modules else net.training
    return twin


def _cut(net: nn.Module, name: str, shape: torch.Size) -> torch.Tensor:
    """What a static network of that shape has in place of a parameter or buffer of the supernet."""
    path, _, last = name.rpartition(".")
    holder = net.get_submodule(path)
    with torch.no_grad():
        if isinstance(holder, Conv2d) and last == "weight":
            return holder.cut(shape)
        tensor: torch.Tensor = getattr(holder, last)
        return window(tensor, shape)


def _put(root: nn.Module, name: str, value: torch.Tensor, learns: bool) -> None:
    """Set a parameter or a buffer by its dotted name."""
    path, _, last = name.rpartition(".")
    module = root.get_submodule(path)
    if last in module._parameters:
        module._parameters[last] = nn.Parameter(value, requires_grad=learns)
    else:
        module._buffers[last] = value
