"""A backbone and its neck as one module: images to the levels that a head reads."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn


class Trunk(nn.Module):
    """The backbone proper (`body`) and its neck, named as in torchvision's BackboneWithFPN where the neck is `fpn`.

    neck: None where the features are the levels. features: how many there are. channels: of the levels at the
    architecture that it is built at.
    """

    def __init__(
        self, body: nn.Module, neck: nn.Module | None, name: str, features: int, channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.body: Any = body
        self.features = features
        self.neck_name = name if neck is not None else ""
        if neck is not None:
            self.add_module(name, neck)
        self.channels = channels
        self.out_channels = channels[0]  # which torchvision's detectors ask for

    @property
    def neck(self) -> nn.Module | None:
        """The neck's module."""
        return getattr(self, self.neck_name) if self.neck_name else None

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """x: (N, 3, H, W) -> the levels, finest first."""
        features: OrderedDict[str, Tensor] = self.body(x)
        neck = self.neck
        return features if neck is None else neck(features)
