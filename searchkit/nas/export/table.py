"""The forms that an extracted network can also be written in, by name. No torch: a form is loaded when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from searchkit.nas.graph.needs import OPSET
from searchkit.nas.quant.settings import Rounding

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.nas.models.part import Form
    from searchkit.nas.space.shapes import InputShape
    from searchkit.nas.train.bench import Bench, Calibration
    from searchkit.nas.train.recipe import Recipe

ONNX, INT8 = "onnx", "onnx-int8"
FORMS: dict[str, str] = {  # name -> module:function, which writes an Order and says what of it is to be known
    "torch": "torch_file:write",
    ONNX: "onnx_file:write",
    INT8: "int8_file:write",
}
SCORED = (ONNX, INT8)  # those that are scored and timed


class Tuning(Protocol):
    """Trains networks with roundings."""

    def __call__(self, order: Order, net: Any, teacher: Any, layers: str) -> dict[str, Any]:
        """Train `net`, in place, and say how. teacher: the order's network as it was, which is float; layers: the name
        of the module of both whose outputs are to be alike."""
        ...


@dataclass(frozen=True)
class Wishes:
    """What is asked of the files."""

    forms: tuple[str, ...] = ()
    opset: int = OPSET  # of ONNX files
    threads: int = 1  # that their times are measured with
    rounding: Rounding = field(default_factory=Rounding)  # of files of 8 bits
    tuning: Tuning | None = None  # before a file of 8 bits is written; None: the network is not trained


@dataclass
class Order:
    """One extracted network, to be written in several forms. Each leaves what the later ones need.

    folder: where to. net: the network as the folder's model.py makes it. config: what its config.json holds. images:
    (3, H, W) uint8, to compare on. bench: what it is scored on, if it is; batches: gives the images of that.
    calibration: training images, for a form that needs ranges of activations.
    """

    folder: str
    net: Any
    form: Form
    recipe: Recipe
    config: dict[str, Any]
    mean: Sequence[float]
    std: Sequence[float]
    shape: InputShape
    images: Sequence[Tensor]
    bench: Bench | None
    batches: Callable[[], Iterable[Any]]
    calibration: Calibration | None
    wishes: Wishes
    model: Any = None  # the ONNX graph, once it is written
    layers: frozenset[str] = frozenset()  # names of its operators that are the network's
    calls: dict[str, int] = field(default_factory=dict)  # of its values, the number of the call that gives it out
    predictions: tuple[str, ...] = ()  # names of its values that boxes and scores are read from
    notes: tuple[str, ...] = ()  # on how it was written
    score: dict[str, float] | None = None  # of the network of torch, once it is measured
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # what each form said


def write(order: Order) -> dict[str, dict[str, Any]]:
    """Write the forms that are asked for; what each says of its file, by name."""
    for name in FORMS:
        if name in order.wishes.forms:
            module, _, function = FORMS[name].partition(":")
            order.done[name] = getattr(importlib.import_module(f"{__package__}.{module}"), function)(order)
    return order.done
