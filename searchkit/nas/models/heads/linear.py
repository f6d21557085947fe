"""An image classifier: an elastic backbone, the mean over its last feature, dropout, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import PART, Held, make_backbone
from searchkit.nas.models.heads.linear_plan import LabelSizes
from searchkit.nas.nn import Linear
from searchkit.reading.kinds import Count, number
from searchkit.records.arch import Arch

Deviation = Annotated[float, number(above=0)]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier but for its architecture.

    backbone: one of searchkit.nas.models.elastic.BACKBONES, or the user's own class as "path/to/file.py:Class" or
    "package.module:Class"; see DetectorConfig. Its last feature is classified.
    """

    num_classes: Count  # left out: as many as the data has
    backbone: str = "resnet"  # see space, or your own class as path/to/file.py:Class
    backbone_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dropout: Annotated[float, number(0, below=1)] = 0.0  # in front of the last layer, while training
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of values in 0..1
    image_std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        wrong = []
        if self.num_classes < 1:
            wrong.append(f"num_classes must be at least 1, but is {self.num_classes}")
        if not 0 <= self.dropout < 1:
            wrong.append(f"dropout must be from 0 to below 1, but is {self.dropout:g}")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists of a YAML file
        if not all(std > 0 for std in self.image_std):
            wrong.append(f"image_std must be above 0, but is {self.image_std}")
        if wrong:
            raise UsageError("; ".join(wrong))

    @property
    def heads(self) -> LabelSizes:
        """What decides the cost of everything after the backbone."""
        return LabelSizes(self.num_classes)


class Classifier(nn.Module):
    """`backbone`, and `fc`, which takes as many of its columns as the backbone's last feature is wide.

    maximum: the architecture it is built at; no other may exceed it.
    """

    def __init__(self, backbone: nn.Module, width: int, config: ClassifierConfig, maximum: Arch) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = Linear(width, config.num_classes)
        self.dropout = config.dropout
        self.maximum = maximum
        self.image_mean, self.image_std = config.image_mean, config.image_std

    @property
    def body(self) -> nn.Module:
        """The backbone, under the name that it has in a detector's."""
        return self.backbone

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W), values in 0..1 -> scores of the classes (N, num_classes), no softmax."""
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.image_mean, self.image_std))
        x = (x - mean[:, None, None]) / std[:, None, None]
        last = list(self.backbone(x).values())[-1]
        scores: Tensor = self.fc(F.dropout(last.mean((2, 3)), self.dropout, self.training))
        return scores


def build(config: ClassifierConfig, arch: Arch, held: Held | None = None) -> Classifier:
    """A classifier with new weights whose sizes are those of `arch`: a supernet at the maximal one, else a static net.

    held: see searchkit.nas.models.elastic.make_backbone. Raises UsageError where config and arch don't fit together.
    """
    backbone = make_backbone(config.backbone, config.backbone_options, arch, held)
    width = backbone.channels(arch.part(PART))[-1]
    return Classifier(backbone, width, config, arch)
