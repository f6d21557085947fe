"""Input shapes: as a space declares them, as records have them, as pixels, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchkit.nas.space.dim import read_values
from searchkit.records.arch import is_int

InputShape = int | tuple[int, int]  # the short edge, or (H, W), in pixels

INPUT = "data.input_shape"


def plain_shape(shape: InputShape) -> int | list[int]:
    """An input shape as plain data, as records have it."""
    return shape if isinstance(shape, int) else list(shape)


def height_width(shape: InputShape) -> tuple[int, int]:
    """(H, W) in pixels; a short edge alone stands for a square."""
    return (shape, shape) if isinstance(shape, int) else shape


def shape_text(shape: InputShape) -> str:
    """480, or 480x640."""
    return str(shape) if isinstance(shape, int) else "x".join(map(str, shape))


def read_scales(spec: Any, wrong: list[str]) -> tuple[InputShape, ...]:
    """Input shapes, in the order declared: S, `[[H, W], …]`, `{choices: [S or [H, W], …]}` or `{start, end, step}`."""
    shapes = spec.get("choices") if isinstance(spec, Mapping) and set(spec) == {"choices"} else spec
    if isinstance(shapes, (list, tuple)) and shapes is spec and any(map(is_int, shapes)):
        wrong.append(f"{INPUT} is {spec!r}: write {{choices: [480, 560]}} for short edges, [[480, 560]] for (H, W)")
        return ()
    if not isinstance(shapes, (list, tuple)):
        rows, scalar = read_values(INPUT, shapes, wrong)
        shapes = rows[0] if scalar else []
        if rows and not scalar:
            wrong.append(f"{INPUT} must have one start, end and step, not lists")
    out: list[InputShape] = []
    for shape in shapes:
        pair = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
        if len(pair) > 2 or not pair or not all(is_int(v) and v > 0 for v in pair):
            wrong.append(f"{INPUT} must be a short edge, or [H, W], in pixels; not {shape!r}")
            continue
        one = (pair[0], pair[1]) if len(pair) == 2 else pair[0]
        if one in out:
            wrong.append(f"{INPUT} lists {shape!r} twice")
        out.append(one)
    if not out and not wrong:
        wrong.append(f"{INPUT} must have at least one shape")
    return tuple(out)
