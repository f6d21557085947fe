"""Architectures of once-for-all (https://github.com/mit-han-lab/once-for-all): a subnet's `net.config`, or what
`set_active_subnet` takes, `{"ks": […], "e": […], "d": […], "r": …}`."""

from __future__ import annotations

from typing import Any

from searchkit.nas.convert.parts import Converted, Stage, arch_of_stages, count, counts, fixed, shape_of, with_hidden
from searchkit.nas.models.backbones.mobilenet_v3_plan import ACTIVATIONS, SQUEEZE, STRIDES
from searchkit.reading.cursor import Cursor

NAME = "once-for-all"
# ofa_mbv3_d234_e346_k357 at width 1: stem, stages, last conv, the layer behind the mean, classes of ImageNet.
STEM, WIDTHS, HEAD, BEHIND, CLASSES = 16, (16, 24, 40, 80, 112, 160), 960, 1280, 1000
BLOCKS = 4  # of a stage at most; the first stage is one block


def is_ofa(at: Cursor) -> bool:
    """Whether a file is one of these."""
    return all(key in at for key in ("first_conv", "blocks")) or all(key in at for key in ("ks", "e", "d"))


def read_ofa(at: Cursor) -> Converted:
    """The network of a file; faults are reported."""
    return _of_config(at) if "blocks" in at else _of_choices(at)


def _of_choices(at: Cursor) -> Converted:
    """Kernels and expansions of all blocks of the largest network, depths of its stages."""
    depths = counts(at["d"], len(WIDTHS) - 1)
    kernels, expands = (counts(at[key], BLOCKS * len(depths)) for key in ("ks", "e"))
    stages = [Stage(WIDTHS[0], [3], [1])]
    for i, (width, depth) in enumerate(zip(WIDTHS[1:], depths, strict=True)):
        if depth > BLOCKS:
            at["d"].items[i].fault(f"must be at most {BLOCKS}, not {depth}")
        run = slice(BLOCKS * i, BLOCKS * i + min(depth, BLOCKS))
        stages.append(Stage(width, kernels[run], expands[run]))
    arch = arch_of_stages(STEM, stages, HEAD)
    sizes = at.get("r")
    shapes = () if sizes is None else tuple(shape_of(item) for item in (sizes.items[:1] or [sizes]))
    notes = ("widths are those of a multiplier of 1, which the file does not say",)
    model = with_hidden({"backbone": "mobilenet_v3"}, BEHIND)
    return Converted(NAME, "cls", model, fixed(arch), shapes, notes, arch, CLASSES)


def _of_config(at: Cursor) -> Converted:
    """A network written out layer by layer."""
    stages: list[Stage] = []
    strides, squeeze, activations = [], [], []
    for block in at["blocks"].items:
        conv = block.get("mobile_inverted_conv") or block.get("conv") or block
        missing = [k for k in ("out_channels", "kernel_size", "stride", "expand_ratio") if k not in conv]
        if missing:
            conv.fault(f"a block has out_channels, kernel_size, stride and expand_ratio, but this lacks {missing[0]}")
            continue
        width, kernel, stride = (count(conv[key]) for key in ("out_channels", "kernel_size", "stride"))
        if not stages or stride > 1 or stages[-1].width != width:
            stages.append(Stage(width))
            strides.append(stride)
            squeeze.append(bool(conv["use_se"].data) if "use_se" in conv else False)
            activations.append(str(conv["act_func"].data).replace("_", "") if "act_func" in conv else "relu")
        stages[-1].kernels.append(kernel)
        stages[-1].expands.append(count(conv["expand_ratio"]))
        inside = conv.get("mid_channels")
        if inside is not None and not inside.node.is_null:
            stages[-1].hidden.append(count(inside))
    if not stages:
        at["blocks"].fault("must be a list of blocks")
        stages.append(Stage(1, [1], [1]))
    stem, last, behind, classes = (
        _width(at, key, of)
        for key, of in (
            ("first_conv", "out_channels"),
            ("final_expand_layer", "out_channels"),
            ("feature_mix_layer", "out_channels"),
            ("classifier", "out_features"),
        )
    )
    hidden = [stage for stage in stages if stage.hidden]
    if any(len(stage.hidden) != stage.depth for stage in hidden) or len(hidden) not in (0, len(stages)):
        at["blocks"].fault("mid_channels must be given for all blocks, or for none")
        for stage in stages:
            stage.hidden = []
    arch = arch_of_stages(stem or STEM, stages, last)
    options: dict[str, Any] = {}
    for name, found, default in (
        ("strides", strides, STRIDES),
        ("squeeze", squeeze, SQUEEZE),
        ("activations", activations, ACTIVATIONS),
    ):
        if tuple(found) != tuple(default):
            options[name] = found
    model: dict[str, Any] = {"backbone": "mobilenet_v3"} | ({"backbone_options": options} if options else {})
    if behind:
        model = with_hidden(model, behind)
    return Converted(NAME, "cls", model, fixed(arch), (), (), arch, classes)


def _width(at: Cursor, layer: str, key: str) -> int | None:
    inside = at.get(layer)
    return count(inside[key]) if inside is not None and key in inside else None
