"""backbone.pt2: torch.export of what a network computes before its anchors or regions, or of a whole classifier."""

from __future__ import annotations

import os
from typing import Any

import torch

from searchkit.nas.export.table import Order
from searchkit.nas.space.shapes import height_width

FILE = "backbone.pt2"


def write(order: Order) -> dict[str, Any]:
    """Write the file; returns how far its output is off."""
    h, w = height_width(order.shape)
    trunk, path = order.form.trunk(order.net), os.path.join(order.folder, FILE)
    program = torch.export.export(trunk, (torch.zeros(1, 3, h, w),))
    torch.export.save(program, path)
    again = torch.export.load(path).module()
    x = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(order.form.tensors_of(trunk(x)), order.form.tensors_of(again(x)), strict=True)
        worst = max(float((a - b).abs().max()) for a, b in pairs)
    return {"file": FILE, "what": order.form.TRUNK, "input": [1, 3, h, w], "largest_difference": worst}
