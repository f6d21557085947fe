"""Input shapes: as a space declares them, as records have them, as pixels, as text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from searchkit.nas.space.declare import read_choices
from searchkit.reading.cursor import Cursor
from searchkit.records import modelspace
from searchkit.records.arch import is_int

InputShape = int | tuple[int, int]  # the short edge, or (H, W), in pixels

INPUT = "data.input_shape"


def plain_shape(shape: InputShape) -> int | list[int]:
    """An input shape as plain data, as records have it."""
    return shape if isinstance(shape, int) else list(shape)


def among(given: Any, known: Collection[InputShape]) -> InputShape:
    """The input shape that plain data say: S, [H, W], [C, H, W] or a text. [S, S] is (S, S) where that is one of the
    known ones, and else the short edge S, as records of others write it. Raises UsageError for what is no shape."""
    if isinstance(given, int):
        return given
    size = modelspace.image_size(given)
    return size if size in known else modelspace.edge(size)


def height_width(shape: InputShape) -> tuple[int, int]:
    """(H, W) in pixels; a short edge alone stands for a square."""
    return (shape, shape) if isinstance(shape, int) else shape


def shape_text(shape: InputShape) -> str:
    """480, or 480x640."""
    return str(shape) if isinstance(shape, int) else "x".join(map(str, shape))


def read_scales(at: Cursor) -> tuple[InputShape, ...]:
    """Input shapes, in the order declared: S, `[[H, W], …]`, `{choices: [S or [H, W], …]}` or `{start, end, step}`."""
    given = at["choices"] if at.node.kind == "map" and set(at.node.entries) == {"choices"} else at
    if given is at and any(is_int(item.data) for item in at.items):
        at.fault(f"is {at.shown}: write {{choices: [480, 560]}} for short edges, [[480, 560]] for (H, W)")
        return ()
    if given.node.kind != "list":
        return _edges(given)
    out: list[InputShape] = []
    for item in given.items:
        values = [each.data for each in item.items] if item.node.kind == "list" else [item.data]
        if len(values) > 2 or not values or not all(is_int(v) and v > 0 for v in values):
            item.fault(f"must be a short edge, or [H, W], in pixels; not {item.shown}")
            continue
        shape = values[0] if len(values) == 1 else (values[0], values[1])
        if shape in out:
            item.fault(f"{item.shown} is listed twice")
        elif modelspace.edge(shape) in map(modelspace.edge, out):
            edge = values[0]
            item.fault(
                f"{edge} and [{edge}, {edge}] can't both be in a space: costs and records take them for one input "
                "shape, but a network that keeps the aspect of images sees these at two sizes; keep one of them"
            )
        out.append(shape)
    if not given.items:
        given.fault("must have at least one shape")
    return tuple(out)


def _edges(at: Cursor) -> tuple[InputShape, ...]:
    """Short edges: one, or a range."""
    if at.node.kind != "map" and not (is_int(at.data) and at.data > 0):
        at.fault(f"must be a short edge, or [H, W], in pixels; not {at.shown}")
        return ()
    choices = read_choices(at, 1)
    if choices is not None and not choices.scalar:
        at.fault("must have one start, end and step, not lists")
    return choices.rows[0] if choices is not None else ()
