"""The neck of a YOLOv3 (https://arxiv.org/abs/1804.02767), at any widths inside its levels up to the maximal ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.models.backbones.darknet import leaky_convs
from searchkit.nas.models.necks.yolo_plan import YOLONeckPlan
from searchkit.nas.models.part import Channels
from searchkit.nas.models.plan import Row
from searchkit.nas.nn import Chain, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class YOLONeck(YOLONeckPlan):
    """The neck `yolo`."""

    def module(self, arch: Arch, features: Channels) -> TopDown:
        """Its module with new weights, as large as that architecture."""
        return TopDown(self, arch, features)


class TopDown(nn.Module):
    """Levels of features, at any architecture up to the one that it is made at, with mmdetection's names and initial
    values."""

    def __init__(self, neck: YOLONeck, arch: Arch, features: Channels) -> None:
        super().__init__()
        self.neck = neck
        self.set_arch(arch, features)
        options = neck.options
        norm = norm_of(options.norm, 1, options.norm_eps, options.norm_momentum, options.norm_ranks)
        for row in (*self._rows.detect[::-1], *self._rows.up[::-1]):
            attach(self, row.name, Chain(row, norm))
        leaky_convs(self)

    def set_arch(self, arch: Arch, features: Channels) -> None:
        """Run this architecture from now on, on features of so many channels."""
        self._rows = self.neck.rows(arch, features)
        self.arch = arch

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """features: (N, C_i, H_i, W_i), finest first -> a level of each of the last ones, (N, channels_i, H_i, W_i),
        under "0", "1", ..., finest first."""
        detect, up = self._rows
        read = list(features.values())[-len(detect) :]
        levels = [self._run(detect[-1], read[-1])]
        for row, before, x in zip(detect[-2::-1], up[::-1], read[-2::-1], strict=True):
            y = F.interpolate(self._run(before, levels[0]), size=x.shape[-2:], mode="nearest")
            levels.insert(0, self._run(row, torch.cat((y, x), dim=1)))
        return OrderedDict((str(i), level) for i, level in enumerate(levels))

    def _run(self, row: Row, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(row.name)(x, row)
        return y
