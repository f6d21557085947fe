"""How the conventions count the layers of a row: what searchkit.nas.models.layer_kinds says of each kind, added up.

`macs`: the multiply-adds of convs and linear layers; parameters are all that is learnable. It equals half of what
torch.utils.flop_counter measures.

`gaia`: what GAIA's counter gives (https://github.com/GAIA-vision/GAIA-cv/blob/master/gaiavision/utils/flops_counter.py),
so that its model spaces and ours can be compared: also a conv's bias (not a linear layer's) once per output, every relu
module (relu6 too) once per output, pools once per input; norms cost nothing and have no parameters.

`ptflops`: what mmrazor's zoo gives for its networks: the multiply-adds, and two for each output of a norm, one for each
output of any activation, one for each input of a pool and of the mean over an image. Parameters as for `macs`.

In all, adding, splitting, joining, shuffling and gating channels cost nothing, nor does upsampling: they are no
modules.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, get_args

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.layer_kinds import KINDS, out_size
from searchkit.nas.models.plan import CACHE, Layer, Row

Convention = Literal["macs", "gaia", "ptflops"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


Sizes = tuple[tuple[int, int], ...]  # (height, width) of a feature, for each input shape


class RowCost(NamedTuple):
    """One row at several sizes of its input at once."""

    flops: tuple[Any, ...]  # for each size: ints, where one multiply-add is one; of a Counter what it counts
    params: int
    sizes: Sizes  # of its output


class Counter(Protocol):
    """A way to count beside the conventions, such as a table of times. It is told from others by its identity."""

    def begin(self, image: Sizes) -> tuple[float, ...]:
        """What an image costs, at each size of it, beside all rows."""
        ...

    def row_cost(self, row: Row, sizes: Sizes) -> RowCost:
        """See row_cost."""
        ...

    def __hash__(self) -> int: ...


Way = Convention | Counter


class Meter(NamedTuple):
    """A number that tells what a network costs: its operations or its parameters, as a convention counts them."""

    of: Literal["flops", "params"]
    convention: Way  # a table of times counts ms as its `flops`


METERS: dict[str, Meter] = {
    **{name: Meter("flops", name) for name in CONVENTIONS},
    "params": Meter("params", "macs"),  # of all torch parameters
}


def check_convention(convention: Way) -> None:
    """Raises UsageError for anything but the names of the conventions, and counters."""
    if isinstance(convention, str) and convention not in CONVENTIONS:
        raise UsageError(f"there is no convention {convention!r} to count by{did_you_mean(convention, CONVENTIONS)}")


@lru_cache(CACHE)
def row_cost(row: Row, sizes: Sizes, convention: Way) -> RowCost:
    """A row whose input has these sizes. Linear layers run at every position, so a list of n boxes is of size (n, 1).

    Raises UsageError where nothing is left of the image.
    """
    if not isinstance(convention, str):
        return convention.row_cost(row, sizes)
    parts = [_row_flops(row, h, w, convention) for h, w in sizes]
    params = sum(layer_params(layer, convention) for layer in row.layers)
    return RowCost(tuple(flops for flops, _ in parts), params, tuple(size for _, size in parts))


def _row_flops(row: Row, height: int, width: int, convention: Convention) -> tuple[int, tuple[int, int]]:
    layers, out = layers_at(row, height, width)
    return sum(layer_flops(layer, inputs, outputs, convention) for layer, inputs, outputs in layers), out


def layers_at(row: Row, height: int, width: int) -> tuple[list[tuple[Layer, int, int]], tuple[int, int]]:
    """(each layer of a row with how many positions its input and its output have, the size of the row's output), of an
    input of this size. Raises UsageError where nothing is left of the image."""
    layers: list[tuple[Layer, int, int]] = []
    main = branch = whole = (height, width)
    for layer in row.layers:
        h, w = branch if layer.branch else main
        if layer.kind == "mean":
            whole = (h, w)
        out = whole if layer.kind == "gate" else (out_size(layer, h), out_size(layer, w))
        if min(out) < 1:
            where = f"{row.name}.{layer.name}".lstrip(".")
            raise UsageError(
                f"the image is too small: {where} would make {out[0]} x {out[1]} out of {h} x {w}", "Use a larger one."
            )
        layers.append((layer, h * w, out[0] * out[1]))
        if layer.branch:
            branch = out
        else:
            main = out
    return layers, main


def layer_flops(layer: Layer, inputs: int, outputs: int, convention: Convention) -> int:
    """One layer with that many positions in its input and in its output."""
    kind = KINDS[layer.kind]
    per_output = kind.macs(layer) + layer.cout * kind.outputs.get(convention, 0)
    if layer.bias:
        per_output += layer.cout * kind.biases.get(convention, 0)
    return per_output * outputs + layer.cin * kind.inputs.get(convention, 0) * inputs


def layer_params(layer: Layer, convention: Convention) -> int:
    """Learnable numbers of one layer."""
    kind = KINDS[layer.kind]
    return 0 if convention in kind.no_params else kind.params(layer)
