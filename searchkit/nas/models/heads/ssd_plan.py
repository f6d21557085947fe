"""The head of an SSD as rows. Pure Python, no torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from searchkit.nas.models.part import Channels, Misfit, Piece, Pieces, level
from searchkit.nas.models.plan import CACHE, Layer, Row

CLASSES, BOXES = "head.classification_head.module_list", "head.regression_head.module_list"  # torchvision's names


class Style(NamedTuple):
    """What the layers of all levels have in common."""

    activation: Literal["relu", "relu6"]
    bias: bool  # of the last convs
    logit_norm: bool  # norms behind the last convs


class Level(NamedTuple):
    """One level of the head at one architecture."""

    number: int  # from 0
    width: int  # channels that it reads
    anchors: int  # default boxes in each cell
    kernel: int


def anchors_at(ratios: tuple[tuple[float, ...], ...]) -> tuple[int, ...]:
    """Default boxes in each cell of each level: two squares, and a flat and an upright one for each ratio."""
    return tuple(2 + 2 * len(of_level) for of_level in ratios)


@lru_cache(CACHE)
def head_rows(
    levels: Channels, anchors: tuple[int, ...], kernels: tuple[int, ...], columns: int, style: Style
) -> tuple[tuple[Row, Row], ...]:
    """What makes class logits (`columns` for each default box) and box deltas of each level. Raises UsageError."""
    each = (Level(i, *sizes) for i, sizes in enumerate(zip(levels, anchors, kernels, strict=True)))
    return tuple((level_row(CLASSES, at, columns, style), level_row(BOXES, at, 4, style)) for at in each)


@lru_cache(CACHE)
def head_pieces(rows: tuple[tuple[Row, Row], ...]) -> Pieces:
    """Where these rows run."""
    return tuple(Piece((row,), level(i)) for i, pair in enumerate(rows) for row in pair)


@lru_cache(CACHE)
def level_row(name: str, at: Level, columns: int, style: Style) -> Row:
    """What reads one level: a filter for each channel, norm and activation, and a 1x1 conv. name: CLASSES or BOXES."""
    wide, outputs = at.width, at.anchors * columns
    if min(wide, at.kernel) < 1 or at.kernel % 2 == 0:
        raise Misfit(
            f"level {at.number + 1} of the SSD's head: width must be at least 1 and kernel odd, but they are {wide} "
            f"and {at.kernel}",
            keys=("space.head.kernel", "model.head_options.kernel"),
        )
    layers = [
        Layer("conv", "0.0", wide, wide, kernel=at.kernel, padding=at.kernel // 2, groups=wide),
        Layer("norm", "0.1", wide, wide, bias=True),
        Layer(style.activation, style.activation, wide, wide),
        Layer("conv", "1", wide, outputs, bias=style.bias),
    ]
    if style.logit_norm:
        layers.append(Layer("norm", "2", outputs, outputs, bias=True))
    return Row(f"{name}.{at.number}", at.number, 0, tuple(layers))
