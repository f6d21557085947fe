"""YOLOv3 (https://arxiv.org/abs/1804.02767): anchors in the middle of each cell, and the layers that read them.

Losses and post-processing are those of dense.py, with the rows of their tables that are of cells.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.backbones.darknet import leaky_convs
from searchkit.nas.models.heads.dense import DenseDetector
from searchkit.nas.models.heads.dense_head import ClassRows, DenseHead, conv_rows
from searchkit.nas.models.heads.dense_source import DenseForm
from searchkit.nas.models.heads.yolo_plan import BOXES, CLASSES, YOLOPlan
from searchkit.nas.models.part import Channels
from searchkit.nas.models.plan import Row
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.nas.models.trunk import Trunk
    from searchkit.records.arch import Arch


class CellAnchors(nn.Module):
    """Boxes around the middle of each cell, as torchvision's AnchorGenerator has them around its corner.

    sizes: widths and heights of those of each level, px.
    """

    def __init__(self, sizes: Sequence[Sequence[tuple[float, float]]]) -> None:
        super().__init__()
        self.sizes = sizes

    def num_anchors_per_location(self) -> list[int]:
        """In each cell of each level."""
        return [len(of_level) for of_level in self.sizes]

    def forward(self, images: Any, maps: list[Tensor]) -> list[Tensor]:
        """Of each image of a batch (A, 5): corners, and the edge of the cell, px; level by level, cell by cell."""
        height, _ = images.tensors.shape[-2:]
        levels = []
        for pairs, x in zip(self.sizes, maps, strict=True):
            rows, columns = x.shape[-2:]
            edge = height // rows
            half = torch.tensor(pairs, dtype=x.dtype, device=x.device) / 2
            down, across = (edge * (torch.arange(n, device=x.device) + 0.5).to(x.dtype) for n in (rows, columns))
            cy, cx = torch.meshgrid(down, across, indexing="ij")
            centre = torch.stack((cx, cy), 2)[:, :, None]
            corners = torch.cat((centre - half, centre + half), 3).reshape(-1, 4)
            levels.append(torch.cat((corners, torch.full_like(corners[:, :1], edge)), 1))
        return [torch.cat(levels)] * len(images.image_sizes)


class YOLOHead(YOLOPlan, DenseHead):
    """The head `yolo`."""

    def network(
        self, trunk: Trunk, arch: Arch, config: Any, min_size: int | tuple[int, ...] = 416, max_size: int = 416
    ) -> YOLO:
        """A YOLOv3 around a backbone with its neck."""
        return YOLO(trunk, Predictors(self, arch, trunk.channels), self.transform(config, min_size, max_size))

    def class_rows(self) -> list[ClassRows]:
        """See DenseHead: the last convs."""
        sizes = enumerate(self.options.anchors)
        return [rows for i, of_level in sizes for rows in conv_rows(f"{CLASSES}.{i}.conv", len(of_level))]

    def anchors_source(self, net: Any) -> str:
        """The anchors as text."""
        return f"CellAnchors({net.anchor_generator.sizes})"

    @property
    def form(self) -> DenseForm:
        """How its network looks as source code."""
        return DenseForm(self.KIND, self.options, self.anchors_source, inspect.getsource(CellAnchors))


class YOLO(DenseDetector):
    """A YOLOv3; what is inside its neck's levels and its head may be elastic. Images keep their aspect ratio, and are
    padded to multiples of 32 px."""

    def __init__(self, backbone: nn.Module, head: Predictors, transform: GeneralizedRCNNTransform) -> None:
        part = head.part
        super().__init__(part.num_classes, CellAnchors(part.options.anchors), transform, **part.options.settings())
        self.backbone = backbone
        self.head = head


class Predictors(nn.Module):
    """The layers that read each level, at any architecture up to the one that they are made at, with mmdetection's
    initial values."""

    def __init__(self, head: YOLOHead, arch: Arch, levels: Channels) -> None:
        super().__init__()
        self.part = head
        self.set_arch(arch, levels)
        options = head.options
        norm = norm_of(options.norm, 1, options.norm_eps, options.norm_momentum, options.norm_ranks)
        for row in (row for rows in self._rows for row in rows):
            attach(self, _below(row), Chain(row, norm))
        leaky_convs(self)
        for name, parameter in self.named_parameters():
            if name.startswith((_last(CLASSES), _last(BOXES))) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.01)
            elif name.startswith(_last(CLASSES)):
                nn.init.constant_(parameter, math.log(options.prior / (1 - options.prior)))

    def set_arch(self, arch: Arch, levels: Channels) -> None:
        """Run this architecture from now on, on levels of so many channels."""
        self._rows = self.part.rows(arch, levels)
        self.arch = arch

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """levels: (N, C_i, H_i, W_i), finest first -> objectness and class logits (N, A_i (1 + classes), H_i, W_i) and
        box deltas (N, A_i 4, H_i, W_i) of each; the channels of an anchor stand side by side."""
        outputs = []
        for rows, x in zip(self._rows, levels, strict=True):
            y = self._run(rows.bridge, x)
            outputs.append((self._run(rows.classes, y), self._run(rows.boxes, y)))
        return outputs

    def _run(self, row: Row, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(_below(row))(x, row)
        return y


def _below(row: Row) -> str:
    """The name of a row's module within the head."""
    return _last(row.name)


def _last(name: str) -> str:
    return name.removeprefix(f"{YOLOHead.MODULE}.")
