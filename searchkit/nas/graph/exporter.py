"""Modules of torch in an ONNX graph, written by torch's own exporter, for images of any size: what is left to modules
that functions.py and layers.py do not know all calls of."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.graph.graph import Value
from searchkit.nas.graph.needs import MISSING
from searchkit.nas.nn.tracing import reason
from searchkit.nas.nn.written import Conv2dSame

X = "x"  # what the exported module calls its input
TRACED = (1024, 1280)  # images for the exporter, px
LEAST = 512  # edge of the images that it is told of: it takes edges of 1 as constant, and of these no map has one


class AnySame(nn.Conv2d):
    """A Conv2dSame whose padding is computed of an image of any size, without a look at it."""

    def forward(self, x: Tensor) -> Tensor:
        """As Conv2dSame."""
        pads: list[Any] = []
        for size, kernel, stride, dilation in zip(
            x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            if stride == 1:
                room: Any = dilation * (kernel - 1)
            else:
                room = torch.sym_max(
                    ((size + stride - 1) // stride - 1) * stride + dilation * (kernel - 1) + 1 - size, 0
                )
            pads = [room // 2, room - room // 2, *pads]  # the last edge first
        weight, bias = self.weight, self.bias
        return nn.functional.conv2d(
            nn.functional.pad(x, pads), weight, bias, self.stride, 0, self.dilation, self.groups
        )


def export(module: nn.Module, x: Value, divisor: int, batch: str | None) -> list[Value]:
    """See searchkit.nas.graph.trace.trace. Raises UsageError where torch's exporter can't write the module."""
    height, width = (torch.export.Dim(name, min=LEAST // divisor, max=1 << 14) for name in ("rows", "columns"))
    dims = {2: divisor * height if divisor > 1 else height, 3: divisor * width if divisor > 1 else width}
    example = torch.zeros(1 if batch is None else 2, 3, *TRACED)
    if batch is not None:
        dims[0] = torch.export.Dim(batch, min=1, max=1 << 14)
    module = of_any_size(module).eval()
    logger, was = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    logger.setLevel(logging.ERROR)
    try:
        import onnxscript  # noqa: F401  # without it torch asks for it, too, but does not say how

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about itself
            # Not by torch.onnx.export alone: where a forward goes by a size, that tries again with sizes it fixes.
            program = torch.export.export(module, (example,), dynamic_shapes=(dims,))
            written: Any = torch.onnx.export(
                program,
                input_names=[X],
                opset_version=x.graph.opset,
                dynamo=True,
                verbose=False,
            )
    except ImportError as e:
        raise UsageError(f"--export onnx needs the packages onnx and onnxscript ({e})", MISSING) from e
    except Exception as e:  # whatever a forward does that the exporter does not know
        raise UsageError(
            f"torch {torch.__version__} can't write this network as ONNX: {reason(e)}",
            "Its backbone, neck and head must use torch's functions and layers alone, and must not look at the sizes "
            "or values of tensors (if x.shape[2] > 7); --export torch may still write its trunk",
        ) from e
    finally:
        logger.setLevel(was)
    return x.graph.splice(written.model_proto, {X: x})


def of_any_size(module: nn.Module) -> nn.Module:
    """The module, in a copy whose layers go by no size; the module itself where it has none that do."""
    if not any(
        isinstance(layer, Conv2dSame) or type(layer).__name__ == Conv2dSame.__name__ for layer in module.modules()
    ):
        return module
    module = copy.deepcopy(module)
    for layer in module.modules():
        if type(layer).__name__ == Conv2dSame.__name__:  # an extracted folder has the class from its own text
            layer.__class__ = AnySame
    return module
