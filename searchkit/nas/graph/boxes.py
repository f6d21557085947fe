"""What detectors do before and behind their layers, as ONNX operators: an image as the network takes it, anchors, boxes
of deltas, the best ones of those that don't overlap.

Each function is the counterpart of one of torchvision's, or of searchkit.nas.models.heads.dense, and computes in its
order, so that results differ by roundings alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.graph.graph import Graph, Value

IMAGE, SIZE = "image", "size"  # inputs of the file
F32, I64 = np.float32, np.int64
LONGEST = math.log(1000 / 16)  # of a box beside its anchor, as a logarithm


@dataclass(frozen=True)
class Frame:
    """An image on its way through a detector; its edges are (height, width) int64."""

    pixels: Value  # (1, 3, H, W) float32, as the layers take them
    given: Value  # edges of the image that came in
    shown: Value  # once resized
    padded: Value  # of `pixels`


def _is_known(transform: Any) -> bool:
    """Whether what is written here is what a transform does: it is torchvision's, or ours, which extends that by images
    that are prepared."""
    steps = (getattr(type(transform), name, None) for name in ("forward", "normalize", "resize", "batch_images"))
    return all(getattr(step, "__module__", "").partition(".")[0] in ("torchvision", "searchkit") for step in steps)


def frame(g: Graph, transform: Any) -> Frame:
    """The image that comes in, resized, normalised and padded: what torchvision's GeneralizedRCNNTransform makes of it,
    which normalises first. A pixel of the resized image is a mean of others with weights, so that the order changes
    roundings alone, and an image of the input's size takes less time than one of the camera's.

    The file takes RGB of 8 bits (1, 3, H, W) of any size as `image`; and `size`, if it is to be resized to another one
    than by default: the short and the long edge, or where images are stretched, height and width.
    """
    if not _is_known(transform):
        raise UsageError(
            f"a detector whose images go through a {type(transform).__name__} can't be written as ONNX",
            "Use torchvision's GeneralizedRCNNTransform, or --export torch, which writes what is behind it",
        )
    image = g.input(IMAGE, np.uint8, [1, 3, "height", "width"])
    given = image.shape(2)
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        shown = g.input(SIZE, I64, [2], np.array([height, width]))
    else:
        size = g.input(SIZE, I64, [2], np.array([transform.min_size[-1], transform.max_size])).to(np.float64)
        edges = given.to(np.float64)
        short, long = (g.op(kind, edges, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
        factor = g.op("Min", size.cut(0, 1, 0) / short, size.cut(1, 2, 0) / long)
        shown = (edges * factor).to(I64)
    x = normalised(resize(g, image.to(F32), shown), transform.image_mean, transform.image_std)
    divisor = transform.size_divisible
    padded = (shown + (divisor - 1)) / divisor * divisor if divisor > 1 else shown
    if divisor > 1:
        ends = g.concat([g.constant(np.zeros(6, I64)), padded - shown], 0)
        x = g.op("Pad", x, ends)
    return Frame(x, given, shown, padded)


def normalised(image: Value, mean: Sequence[float], std: Sequence[float]) -> Value:
    """Of 8 bits to numbers as layers take them."""
    shift, scale = (np.array(v, F32)[:, None, None] for v in (mean, std))
    return (image.to(F32) / 255.0 - shift) / scale


def resize(g: Graph, x: Value, edges: Value) -> Value:
    """(1, 3, H, W) -> (1, 3, *edges), bilinear without smoothing, as torch's interpolate."""
    shape = g.concat([x.shape(0, 2), edges], 0)
    return g.op("Resize", x, None, None, shape, mode="linear", coordinate_transformation_mode="pytorch_half_pixel")


# ---- anchors ----


def anchors(g: Graph, generator: Any, maps: Sequence[Value], padded: Value) -> list[Value]:
    """The anchors (h w A, 4) of maps (1, _, h, w), corners in px of the padded image, place by place.

    Raises UsageError for a generator that is none of torchvision's, nor CellAnchors, whose anchors (h w A, 5) end with
    the edge of their cell.
    """
    kind = type(generator).__name__
    if kind == "AnchorGenerator":
        return [_grid(g, base.numpy(), x, padded) for base, x in zip(generator.cell_anchors, maps, strict=True)]
    if kind == "DefaultBoxGenerator" and generator.steps is None:
        pairs = [wh.clamp(0, 1) if generator.clip else wh for wh in generator._wh_pairs]
        return [_default_boxes(g, wh.numpy(), x, padded) for wh, x in zip(pairs, maps, strict=True)]
    if kind == "CellAnchors":
        return [_cells(g, np.array(pairs, F32), x, padded) for pairs, x in zip(generator.sizes, maps, strict=True)]
    raise UsageError(
        f"the anchors of a {kind} can't be written as ONNX",
        "Those of torchvision's AnchorGenerator and DefaultBoxGenerator (without steps) can, and of CellAnchors",
    )


def _grid(g: Graph, base: np.ndarray, x: Value, padded: Value) -> Value:
    """`base` (A, 4), moved to each place."""
    edges = x.shape(2)
    stride = padded / edges
    rows, columns = ((g.arange(edges.cut(i, i + 1, 0)) * stride.cut(i, i + 1, 0)).to(F32) for i in (0, 1))
    across = columns.reshape(1, -1, 1, 1) * np.array([1, 0, 1, 0], F32)
    down = rows.reshape(-1, 1, 1, 1) * np.array([0, 1, 0, 1], F32)
    return (across + down + base.astype(F32)).reshape(-1, 4)


def _default_boxes(g: Graph, wh: np.ndarray, x: Value, padded: Value) -> Value:
    """Boxes of widths and heights (A, 2), as parts of the image's, around each place."""
    edges = x.shape(2)
    places = [g.arange(edges.cut(i, i + 1, 0)).to(F32) for i in (0, 1)]
    rows, columns = ((p + 0.5) / edges.cut(i, i + 1, 0).to(F32) for i, p in enumerate(places))
    across = columns.reshape(1, -1, 1, 1) * np.array([1, 0], F32)
    down = rows.reshape(-1, 1, 1, 1) * np.array([0, 1], F32)
    centre, half = across + down, 0.5 * wh.astype(F32)
    size = g.concat([padded.cut(1, 2, 0), padded.cut(0, 1, 0)], 0).to(F32)
    return g.concat([(centre - half) * size, (centre + half) * size], 3).reshape(-1, 4)


def _cells(g: Graph, wh: np.ndarray, x: Value, padded: Value) -> Value:
    """Boxes of widths and heights (A, 2), px, around the middle of each cell, and the edge of the cell."""
    edges = x.shape(2)
    edge = (padded / edges).cut(0, 1, 0).to(F32)
    rows, columns = ((g.arange(edges.cut(i, i + 1, 0)).to(F32) + 0.5) * edge for i in (0, 1))
    across = columns.reshape(1, -1, 1, 1) * np.array([1, 0, 1, 0], F32)
    down = rows.reshape(-1, 1, 1, 1) * np.array([0, 1, 0, 1], F32)
    corners = (across + down + np.concatenate((-wh / 2, wh / 2), 1)).reshape(-1, 4)
    return g.concat([corners, corners.cut(0, 1, 1) * np.array(0, F32) + edge], 1)


# ---- boxes ----


def places_of(x: Value, columns: int) -> Value:
    """(1, A columns, h, w) -> (h w A, columns)."""
    g, edges = x.graph, x.shape(2)
    shape = g.concat([g.constant(np.array([-1, columns], I64)), edges], 0)
    return g.op("Reshape", x, shape).transpose(2, 3, 0, 1).reshape(-1, columns)


def decode(deltas: Value, anchors: Value, coder: Sequence[float]) -> Value:
    """The boxes that deltas (..., 4) lead to from anchors (..., 4). coder: the weights of the four."""
    low, high = anchors.cut(0, 2, -1), anchors.cut(2, 4, -1)
    size = high - low
    g = deltas.graph
    centre = deltas.cut(0, 2, -1) / np.array(coder[:2], F32) * size + (low + 0.5 * size)
    growth = g.op("Min", deltas.cut(2, 4, -1) / np.array(coder[2:], F32), np.array(LONGEST, F32))
    half = 0.5 * (g.op("Exp", growth) * size)
    return g.concat([centre - half, centre + half], -1)


def decode_in_cell(deltas: Value, anchors: Value) -> Value:
    """The boxes that deltas (..., 4) lead to from anchors (..., 5), the last the edge of the cell."""
    g = deltas.graph
    low, high, edge = anchors.cut(0, 2, -1), anchors.cut(2, 4, -1), anchors.cut(4, 5, -1)
    centre = (low + high) / np.array(2, F32) + (g.op("Sigmoid", deltas.cut(0, 2, -1)) - np.array(0.5, F32)) * edge
    growth = g.op("Min", deltas.cut(2, 4, -1), np.array(LONGEST, F32))
    half = 0.5 * (g.op("Exp", growth) * (high - low))
    return g.concat([centre - half, centre + half], -1)


def clipped(boxes: Value, edges: Value) -> Value:
    """Boxes (..., 4) within an image of so many px."""
    g = boxes.graph
    ends = g.concat([edges.cut(1, 2, 0), edges.cut(0, 1, 0)] * 2, 0).to(F32)
    return g.op("Min", g.op("Max", boxes, np.zeros(4, F32)), ends)


def without_small(scores: Value, boxes: Value, least: float) -> Value:
    """Scores (...), -1 where an edge of the box (..., 4) is shorter."""
    g = scores.graph
    sides = boxes.cut(2, 4, -1) - boxes.cut(0, 2, -1)
    shortest = g.op("ReduceMin", sides, np.array([-1], I64), keepdims=0)
    small = g.op("Less", shortest, np.array(least, F32), dtype=bool)
    return g.op("Where", small, np.array(-1, F32), scores, dtype=F32)


def apart(boxes: Value, scores: Value, most: int, overlap: float, least: float) -> Value:
    """Which boxes are best where others overlap them by an IoU above `overlap`, and score above `least`: (n, 3) of
    group, class and number. boxes: (groups, N, 4); scores: (groups, classes, N), each class for itself, of which at
    most `most` boxes are kept."""
    arrays = np.array([most], I64), np.array([overlap], F32), np.array([least], F32)
    return boxes.graph.op("NonMaxSuppression", boxes, scores, *arrays, dtype=I64)


def column(index: Value, number: int) -> Value:
    """One of the columns of (n, k), as (n,)."""
    return index.cut(number, number + 1, 1).reshape(-1)


def give(g: Graph, boxes: Value, scores: Value, labels: Value, frame: Frame, most: int) -> None:
    """The best detections, as the outputs of the file: boxes (n, 4) in px of the image that came in, scores (n,) and
    labels (n,), from 1 on; n is at most `most`."""
    scores, order = scores.top(most, 0)
    ratio = frame.given.to(F32) / frame.shown.to(F32)
    ratios = g.concat([ratio.cut(1, 2, 0), ratio.cut(0, 1, 0)] * 2, 0)
    g.output("boxes", boxes.at(order) * ratios, ["found", 4])
    g.output("scores", scores, ["found"])
    g.output("labels", labels.at(order), ["found"])


def settings(transform: Any, score_thresh: float, nms_thresh: float, detections: int) -> dict[str, Any]:
    """What the file of a detector is to say of it: how images are resized, and what of boxes is given out."""
    resize = "edges" if transform.fixed_size is None else "stretch"
    return {"resize": resize, "score_thresh": score_thresh, "nms_thresh": nms_thresh, "detections": detections}
