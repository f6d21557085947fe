"""How two conventions count the layers of a row.

`macs`: the multiply-adds of convs and linear layers; parameters are all that is learnable. It equals half of what
torch.utils.flop_counter measures.

`gaia`: what GAIA's counter gives (https://github.com/GAIA-vision/GAIA-cv/blob/master/gaiavision/utils/flops_counter.py),
so that its model spaces and ours can be compared: also a conv's bias (not a linear layer's) once per output, every relu
module (relu6 too) once per output, pools once per input; norms cost nothing and have no parameters.

In both, adding, splitting, joining and shuffling channels cost nothing: they are no modules.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.plan import CACHE, Layer, Row, out_size

Convention = Literal["macs", "gaia"]
Sizes = tuple[tuple[int, int], ...]  # (height, width) of a feature, for each input shape


class RowCost(NamedTuple):
    """One row at several sizes of its input at once."""

    flops: tuple[int, ...]  # for each size; one multiply-add is one
    params: int
    sizes: Sizes  # of its output


def check_convention(convention: str) -> None:
    """Raises UsageError for anything but the names of the conventions."""
    names = get_args(Convention)
    if convention not in names:
        raise UsageError(f"there is no convention {convention!r} to count by{did_you_mean(convention, names)}")


@lru_cache(CACHE)
def row_cost(row: Row, sizes: Sizes, convention: Convention) -> RowCost:
    """A row whose input has these sizes. Linear layers run at every position, so a list of n boxes is of size (n, 1).

    Raises UsageError where nothing is left of the image.
    """
    parts = [_row_flops(row, h, w, convention) for h, w in sizes]
    params = sum(layer_params(layer, convention) for layer in row.layers)
    return RowCost(tuple(flops for flops, _ in parts), params, tuple(size for _, size in parts))


def _row_flops(row: Row, height: int, width: int, convention: Convention) -> tuple[int, tuple[int, int]]:
    total = 0
    main = branch = (height, width)
    for layer in row.layers:
        h, w = branch if layer.branch else main
        out = (out_size(layer, h), out_size(layer, w))
        if min(out) < 1:
            where = f"{row.name}.{layer.name}".lstrip(".")
            raise UsageError(
                f"the image is too small: {where} would make {out[0]} x {out[1]} out of {h} x {w}", "Use a larger one."
            )
        total += layer_flops(layer, h * w, out[0] * out[1], convention)
        if layer.branch:
            branch = out
        else:
            main = out
    return total, main


def layer_flops(layer: Layer, inputs: int, outputs: int, convention: Convention) -> int:
    """One layer with that many positions in its input and in its output."""
    if layer.kind == "conv":
        adds = layer.kernel**2 * layer.cin * (layer.cout // layer.groups)
        return (adds + (layer.cout if layer.bias and convention == "gaia" else 0)) * outputs
    if layer.kind == "linear":
        return layer.cin * layer.cout * outputs
    if convention == "gaia" and layer.kind in ("relu", "relu6"):
        return layer.cout * outputs
    if convention == "gaia" and layer.kind in ("maxpool", "avgpool"):
        return layer.cout * inputs
    return 0


def layer_params(layer: Layer, convention: Convention) -> int:
    """Learnable numbers of one layer."""
    if layer.kind in ("conv", "linear"):
        weights = layer.kernel**2 * (layer.cin // layer.groups) * layer.cout
        return weights + (layer.cout if layer.bias else 0)
    if layer.kind == "norm" and layer.bias and convention == "macs":
        return 2 * layer.cout
    return 0
