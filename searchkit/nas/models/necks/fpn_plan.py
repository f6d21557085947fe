"""An FPN as rows. Pure Python, no torch."""

from __future__ import annotations

from functools import lru_cache

from searchkit.nas.models.plan import CACHE, Layer, Plan, Row


@lru_cache(CACHE)
def fpn_rows(widths: tuple[int, ...], out_channels: int) -> Plan:
    """An FPN (https://arxiv.org/abs/1612.03144), a row for each feature, finest first, with torchvision's names.

    Row i works at the size of feature i, `widths[i]` wide.
    """
    return tuple(
        Row(
            "",
            i,
            0,
            (
                Layer("conv", f"inner_blocks.{i}.0", width, out_channels, bias=True),
                Layer("conv", f"layer_blocks.{i}.0", out_channels, out_channels, kernel=3, padding=1, bias=True),
            ),
        )
        for i, width in enumerate(widths)
    )
