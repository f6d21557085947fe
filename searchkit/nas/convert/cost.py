"""What a converted classifier costs, as its project has it."""

from __future__ import annotations

from typing import Any

from searchkit.nas.convert.parts import Converted
from searchkit.nas.cost.price import Cost, price_net
from searchkit.nas.cost.rules import Convention
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.models.part import NECK
from searchkit.nas.models.table import plan_class
from searchkit.nas.space.shapes import InputShape


def cost(net: Converted, shape: InputShape, convention: Convention) -> Cost:
    """Of one image."""
    assert net.arch is not None and net.classes is not None
    model: dict[str, Any] = dict(net.model)
    if "neck" in model:
        model["neck_options"] = plan_class(NECK, model["neck"]).Options(**model.get("neck_options", {}))
    return price_net(ClassifierConfig(num_classes=net.classes, **model), net.arch, shape, convention)
