"""The networks of the tasks, built from their configs, and how they differ when one is cut out of another."""

from __future__ import annotations

from typing import Any

from torch import nn

from searchkit.nas.models.elastic import Held
from searchkit.nas.models.heads import faster_rcnn as detector
from searchkit.nas.models.heads import linear as classifier
from searchkit.nas.models.heads.faster_rcnn import DetectorConfig
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.records.arch import Arch

NetConfig = DetectorConfig | ClassifierConfig


def build(config: NetConfig, arch: Arch, held: Held | None = None, **options: Any) -> nn.Module:
    """A network with new weights at the sizes of `arch`. `options`: of its own builder, such as `max_size`."""
    if isinstance(config, ClassifierConfig):
        return classifier.build(config, arch, held)
    net: nn.Module = detector.build(config, arch, held=held, **options)
    return net


def unseen(config: NetConfig) -> dict[str, Any]:
    """What the names and shapes of a network's tensors do not show, as plain data: where it differs, the same weights
    compute other numbers."""
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(config.backbone_options.items())}
    return {
        **{f"backbone_options.{k}": v for k, v in options.items()},
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
    }


def sliced(config: NetConfig, name: str) -> bool:
    """Whether a tensor of that name may be a slice of the supernet's: each head of a detector has its own size."""
    return isinstance(config, ClassifierConfig) or name.startswith("backbone.")
