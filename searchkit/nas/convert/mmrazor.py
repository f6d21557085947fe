"""Subnet files of mmrazor (https://github.com/open-mmlab/mmrazor), YAML or JSON.

There are three kinds: what was chosen of each layer of a network of inverted residual blocks, the block at each
position of a ShuffleNetV2, and the channels of each conv of a MobileNetV2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from searchkit.nas.convert.attentive import ACTIVATION
from searchkit.nas.convert.ofa import CLASSES, HEAD
from searchkit.nas.convert.parts import (
    DEEPEST,
    Converted,
    Stage,
    arch_of_stages,
    count,
    fixed,
    shape_of,
    value_of,
    with_hidden,
)
from searchkit.nas.models.backbones.mobilenet_plan import DEPTHS, STRIDES
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import Arch

NAME = "mmrazor"
_CHOSEN = re.compile(
    r"backbone\.layers\.(\d+)\.(?:(\d+)\.)?(kernel_size|expand_ratio|expand_ratio_se|depth|out_channels)"
)
_BLOCK = re.compile(r"backbone\.layers\.(\d+)\.(\d+)")
_CONV = re.compile(r"backbone\.layer(\d+)\.(\d+)\.conv\.(\d+)\.conv\.out_channels_mutable")
SHUFFLES = {"shuffle_3x3": 0, "shuffle_5x5": 1, "shuffle_7x7": 2, "shuffle_xception": 3}
SHUFFLE_STEM, SHUFFLE_WIDTHS, SHUFFLE_HEAD = 16, (64, 160, 320, 640), 1024  # of its searchable ShuffleNetV2


def is_mmrazor(at: Cursor) -> bool:
    """Whether a file is one of these."""
    return any(key.startswith("backbone.") for key in (at.get("modules") or at).node.entries)


def read_mmrazor(at: Cursor) -> Converted:
    """The network of a file; faults are reported."""
    values = at.get("modules") or at
    keys = tuple(values.node.entries)
    if any(_CHOSEN.fullmatch(key) for key in keys):
        return _chosen(values)
    if any(_BLOCK.fullmatch(key) for key in keys):
        return _blocks(values)
    if any(_CONV.fullmatch(key) for key in keys):
        return _channels(values)
    at.fault(
        "is of no kind of mmrazor's files that is known: names such as backbone.layers.1.0.kernel_size, "
        "backbone.layers.0.0 (shuffle_3x3 ...) or backbone.layer1.0.conv.0.conv.out_channels_mutable"
    )
    return Converted(NAME, "cls", {}, {})


def _found(values: Cursor, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], Cursor]]:
    for key in values.node.entries:
        if match := pattern.fullmatch(key):
            yield match, value_of(values[key])


def _chosen(values: Cursor) -> Converted:
    """A network of inverted residual blocks: of once-for-all (6 stages, each block of its own), or of AttentiveNAS."""
    told: dict[tuple[int, int | None, str], Cursor] = {}
    for match, value in _found(values, _CHOSEN):
        told[int(match[1]), None if match[2] is None else int(match[2]), match[3]] = value
    numbers = sorted({stage for stage, _, _ in told})
    stages, notes = [], []
    for number in numbers:
        where = f"backbone.layers.{number}"
        missing = [key for key in ("depth", "out_channels") if (number, None, key) not in told]
        if missing:
            values.fault(f"{where}.{missing[0]} is missing")
            continue
        stage = Stage(count(told[number, None, "out_channels"]))
        for i in range(count(told[number, None, "depth"], DEEPEST)):
            for key, into in (("kernel_size", stage.kernels), ("expand_ratio", stage.expands)):
                chosen = told.get((number, i, key)) or told.get((number, None, key))
                if chosen is None:
                    depth = told[number, None, "depth"].data
                    values.fault(f"{where}.{i}.{key} is missing, of a stage of depth {depth}")
                into.append(1 if chosen is None else count(chosen))
            inside, squeeze = stage.expands[-1], told.get((number, i, "expand_ratio_se"))
            if squeeze is not None and squeeze.data != inside:
                notes.append(
                    f"{where}.{i}: squeeze-and-excitation is a quarter of what the block is inside (expand_ratio "
                    f"{inside}): expand_ratio_se {squeeze.shown} is left out"
                )
        stages.append(stage)
    if len(stages) != len(numbers) or len(numbers) not in (6, 7):
        if len(numbers) not in (6, 7):
            values.fault(f"must have 6 stages (of once-for-all) or 7 (of AttentiveNAS), but has {len(numbers)}")
        return Converted(NAME, "cls", {}, {})
    ends = {key: values.get(f"backbone.{key}_channels") for key in ("first", "last")}
    for key, end in ends.items():
        if end is None:
            values.fault(f"backbone.{key}_channels is missing")
    first, last = (1 if end is None else count(value_of(end)) for end in ends.values())
    is_ofa = len(stages) == 6
    arch = arch_of_stages(first, stages, HEAD if is_ofa else None)
    size = values.get("input_shape")
    shapes = () if size is None else (shape_of(value_of(size)),)
    model = {"backbone": "mobilenet_v3" if is_ofa else "attentive_nas"}
    model = with_hidden(model, last, **({} if is_ofa else {"activation": ACTIVATION}))
    return Converted(NAME, "cls", model, fixed(arch), shapes, tuple(notes), arch, CLASSES)


def _blocks(values: Cursor) -> Converted:
    """A ShuffleNetV2 with one of four blocks at each position."""
    stages: dict[int, dict[int, int]] = {}
    for match, value in _found(values, _BLOCK):
        choice = SHUFFLES.get(value.node.text if isinstance(value.data, str) else "")
        if choice is None:
            value.fault(f"must be one of {', '.join(SHUFFLES)}, not {value.shown}")
        stages.setdefault(int(match[1]), {})[int(match[2])] = choice or 0
    if sorted(stages) != list(range(len(SHUFFLE_WIDTHS))):
        values.fault(f"must have blocks of layers 0 to {len(SHUFFLE_WIDTHS) - 1}, but has {sorted(stages)}")
    for number, stage in stages.items():
        if sorted(stage) != list(range(len(stage))):
            values.fault(f"the blocks of backbone.layers.{number} must be numbered from 0 on, but are {sorted(stage)}")
    arch = Arch.of(
        {
            "backbone.stem.width": SHUFFLE_STEM,
            "backbone.body.width": SHUFFLE_WIDTHS,
            "backbone.body.depth": [len(stages[number]) for number in sorted(stages)],
            "backbone.body.choice": [stages[number][i] for number in sorted(stages) for i in sorted(stages[number])],
            "backbone.head.width": SHUFFLE_HEAD,
        }
    )
    notes = ("widths are those of mmrazor's searchable ShuffleNetV2, which the file does not say",)
    model = {"backbone": "shufflenet_v2", "backbone_options": {"stem_pool": False, "keep_width": True}}
    return Converted(NAME, "cls", model, fixed(arch), (), notes, arch, CLASSES)


def _channels(values: Cursor) -> Converted:
    """A MobileNetV2 whose convs are as wide as the file says, each of its own."""
    convs: dict[tuple[int, int, int], int] = {}
    for match, value in _found(values, _CONV):
        convs[int(match[1]) - 1, int(match[2]), int(match[3])] = count(value)
    ends = [values.get(f"backbone.conv{i}.conv.out_channels_mutable") for i in (1, 2)]
    missing = [f"conv{i + 1}" for i, end in enumerate(ends) if end is None]
    stages: list[Stage] = []
    for i, depth in enumerate(DEPTHS):
        stage = Stage(0)
        for j in range(depth):
            of_block = [convs.get((i, j, k)) for k in range(3)]
            width = of_block[2] if i else of_block[1]  # the first stage's block does not expand
            if of_block[0] is None or width is None:
                missing.append(f"layer{i + 1}.{j}")
                continue
            if stage.width not in (0, width):
                values.fault(
                    f"backbone.layer{i + 1}: its blocks must give out the same, but do {stage.width} and {width}"
                )
            stage.width = width
            stage.kernels.append(3)
            stage.expands.append(6 if i else 1)
            stage.hidden.append(of_block[0])
        stages.append(stage)
    if missing:
        values.fault(f"there are no channels of backbone.{', backbone.'.join(missing)}")
        return Converted(NAME, "cls", {}, {})
    stem, head = (count(value_of(end)) for end in ends if end is not None)
    arch = arch_of_stages(stem, stages, head)
    assert len(stages) == len(STRIDES)
    return Converted(NAME, "cls", {"backbone": "mobilenet_v2"}, fixed(arch), (), (), arch, CLASSES)
