"""Channels that DMCP chose (https://github.com/Zx55/dmcp): the `sample.npy` of a `model_sample` folder.

A dict: `conv1` gives out so many channels; of a MobileNetV2 then "0", "1" ..., a block each, with (in, out) of its
conv1 (but for one of expand 1), conv2 and conv3, and `conv_last`; of a ResNet "layer1" ... with such blocks, and `fc`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.convert.ofa import CLASSES
from searchkit.nas.convert.parts import Converted, Stage, arch_of_stages, fixed
from searchkit.nas.models.backbones.mobilenet_plan import DEPTHS, EXPANDS
from searchkit.nas.models.backbones.resnet_plan import EXPANSION
from searchkit.records.arch import Arch, Width, is_int

NAME = "DMCP"
FORM = (
    "A sample of DMCP is a dict: conv1, and of a MobileNetV2 '0' to '16' and conv_last, of a ResNet layer1 to layer4 "
    "and fc; blocks have (in, out) of conv1, conv2 and conv3"
)


def read_dmcp(channels: Any, path: str) -> Converted:
    """The network of a sample. Raises UsageError for one that is none, or whose layers don't fit together."""
    if not isinstance(channels, Mapping) or not is_int(channels.get("conv1")):
        raise UsageError(f"{path} is no sample of DMCP: it has no conv1", FORM)
    arch, model = _resnet(channels, path) if "layer1" in channels else _mobilenet(channels, path)
    return Converted(NAME, "cls", model, fixed(arch), (), (), arch, CLASSES)


class _Chain:
    """The (in, out) of convs, each of which must read what the one before gives out."""

    def __init__(self, first: int, path: str) -> None:
        self.now, self.path = first, path

    def next(self, pair: Any, name: str) -> int:
        """What a conv gives out."""
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(is_int(v) and v > 0 for v in pair):
            raise UsageError(f"{self.path}: {name} must be (in, out), not {pair!r}", FORM)
        if pair[0] != self.now:
            raise UsageError(f"{self.path}: {name} reads {pair[0]} channels, but what comes before gives {self.now}")
        self.now = pair[1]
        return self.now


def _block(blocks: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    block = blocks.get(name)
    if not isinstance(block, Mapping):
        raise UsageError(f"{path} has no block {name!r}", FORM)
    return block


def _mobilenet(channels: Mapping[str, Any], path: str) -> tuple[Arch, dict[str, Any]]:
    stem, number, stages = int(channels["conv1"]), 0, []
    chain = _Chain(stem, path)
    for depth, expand in zip(DEPTHS, EXPANDS, strict=True):
        stage = Stage(0)
        for i in range(depth):
            block, name = _block(channels, str(number), path), f"block {number}"
            if expand > 1:
                chain.next(block.get("conv1"), f"{name} conv1")
            hidden = chain.next(block.get("conv2"), f"{name} conv2")
            width = chain.next(block.get("conv3"), f"{name} conv3")
            if i and width != stage.width:
                raise UsageError(f"{path}: {name} gives out {width} channels, but its stage {stage.width}", FORM)
            stage.width = width
            stage.kernels.append(3)
            stage.expands.append(expand)
            stage.hidden.append(hidden if expand > 1 else 0)  # as wide as what it reads
            number += 1
        stages.append(stage)
    head = chain.next(channels.get("conv_last"), "conv_last")
    return arch_of_stages(stem, stages, head), {"backbone": "mobilenet_v2"}


def _resnet(channels: Mapping[str, Any], path: str) -> tuple[Arch, dict[str, Any]]:
    stem = int(channels["conv1"])
    chain, widths, depths, hidden = _Chain(stem, path), list[int](), list[int](), list[list[int]]()
    kind = ""
    for number in range(1, 5):
        layer = _block(channels, f"layer{number}", path)
        inside: list[int] = []
        for i in range(len(layer)):
            block, name = _block(layer, str(i), path), f"layer{number} {i}"
            kind = "bottleneck" if "conv3" in block else "basic"
            inside.append(chain.next(block.get("conv1"), f"{name} conv1"))
            outs = [chain.next(block.get(f"conv{n}"), f"{name} conv{n}") for n in ((2, 3) if kind != "basic" else (2,))]
            if kind == "bottleneck" and outs[0] != inside[-1]:
                raise UsageError(
                    f"{path}: {name} is {inside[-1]} and {outs[0]} channels wide inside, but ours have one width there"
                )
            if i and outs[-1] != widths[-1]:
                raise UsageError(f"{path}: {name} gives out {outs[-1]} channels, but its stage {widths[-1]}", FORM)
            widths += [] if i else [outs[-1]]
        depths.append(len(layer))
        hidden.append(inside)
    if kind == "bottleneck" and any(width % EXPANSION[kind] for width in widths):
        raise UsageError(f"{path}: stages give out {widths} channels, but ours multiples of {EXPANSION[kind]}")
    slots = max(2, *depths)
    values: dict[str, Width] = {
        "backbone.stem.width": stem,
        "backbone.body.width": tuple(width // EXPANSION[kind] for width in widths),
        "backbone.body.depth": tuple(depths),
        "backbone.body.hidden": tuple(h for row in hidden for h in [*row, *[row[-1]] * (slots - len(row))]),
    }
    return Arch.of(values), {"backbone": "resnet", "backbone_options": {"block": kind}}
