"""Architectures of AttentiveNAS and AlphaNet (https://github.com/facebookresearch/AttentiveNAS): `{resolution: 192,
width: […], kernel_size: […], expand_ratio: […], depth: […]}`, alone or several by name, as their configs have them."""

from __future__ import annotations

from searchkit.errors import did_you_mean
from searchkit.nas.convert.parts import DEEPEST, Converted, Stage, arch_of_stages, counts, fixed, shape_of, with_hidden
from searchkit.reading.cursor import Cursor

NAME = "AttentiveNAS"
KEYS = ("width", "kernel_size", "expand_ratio", "depth")
STAGES, CLASSES = 7, 1000
ACTIVATION = "swish"


def is_attentive(at: Cursor) -> bool:
    """Whether a file is one of these."""
    return "pareto_models" in at or all(key in at for key in KEYS)


def read_attentive(at: Cursor, name: str) -> Converted:
    """The network of a file, of several the one called `name`; faults are reported."""
    if "pareto_models" not in at:
        return _network(at)
    nets = at["pareto_models"]
    known = [key for key in nets.node.entries if key in nets and all(k in nets[key] for k in KEYS)]
    if name in known:
        return _network(nets[name])
    what = f"there are several networks: name one of them, {', '.join(known)} (--name)"
    nets.fault(what if not name else f"there is no network {name!r}{did_you_mean(name, known)}")
    return Converted(NAME, "cls", {}, {})


def _network(at: Cursor) -> Converted:
    widths = counts(at["width"], STAGES + 2)  # stem, stages, and the layer behind the mean
    kernels, expands, depths = (counts(at[key], STAGES, DEEPEST) for key in KEYS[1:])
    stages = [
        Stage(width, [kernel] * depth, [expand] * depth)
        for width, kernel, expand, depth in zip(widths[1:-1], kernels, expands, depths, strict=True)
    ]
    arch = arch_of_stages(widths[0], stages, None)
    size = at.get("resolution") or at.get("res")
    shapes = () if size is None else (shape_of(size),)
    model = with_hidden({"backbone": "attentive_nas"}, widths[-1], activation=ACTIVATION)
    return Converted(NAME, "cls", model, fixed(arch), shapes, (), arch, CLASSES)
