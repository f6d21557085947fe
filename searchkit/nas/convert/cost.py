"""What a converted classifier costs, as its project has it."""

from __future__ import annotations

from searchkit.nas.convert.parts import Converted
from searchkit.nas.cost.rules import Convention, Sizes, row_cost
from searchkit.nas.models.part import BACKBONE
from searchkit.nas.models.plan import Layer, Plan, Row
from searchkit.nas.models.table import part_class
from searchkit.nas.space.shapes import InputShape, height_width


def cost(net: Converted, shape: InputShape, convention: Convention) -> tuple[int, int]:
    """(flops, parameters) on one image, with all linear layers that its project has behind the mean."""
    flops = params = 0
    sizes: Sizes = (height_width(shape),)
    for row in _plan(net):
        part = row_cost(row, sizes, convention)
        flops, params, sizes = flops + part.flops[0], params + part.params, part.sizes
    return flops, params


def _plan(net: Converted) -> Plan:
    """The rows of the backbone, which is made without memory for its weights, and what comes behind it."""
    import torch

    assert net.arch is not None
    arch = net.arch.part(BACKBONE)
    with torch.device("meta"):
        cls = part_class(BACKBONE, net.model["backbone"])
        backbone: Plan = cls(arch, **net.model.get("backbone_options", {})).plan(arch)
    width = backbone[-1].cout
    behind = [Layer("mean", "mean", width, width)]
    for i, out in enumerate(net.behind, 1):
        behind.append(Layer("linear", f"fc{i}", width, out, bias=i == len(net.behind)))
        width = out
    return (*backbone, Row("", 0, 0, tuple(behind)))
