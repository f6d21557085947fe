"""Scoring a detector: batch-norm statistics from training images, then COCO's average precision."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.data.coco_eval import Evaluator
from searchkit.train.loop import autocast


def calibrated_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The norms of a network whose statistics come from data."""
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in net.modules() if isinstance(m, kind) and m.track_running_stats and m.running_mean is not None]


def calibrate(
    net: nn.Module, batches: Sequence[Sequence[Tensor]], device: torch.device, precision: str = "fp32"
) -> int:
    """Replace a detector's batch-norm statistics, in place, by the mean over `batches` of images ((3, H, W) uint8).

    Statistics of a supernet fit no subnet: each has its own inputs to every layer (Yu & Huang, ICCV 2019, §3.2). Only
    the backbone with its FPN is run, and no weight changes. Give it a private copy. Without batches nothing changes.
    Returns how many images were seen.
    """
    norms = calibrated_norms(net)
    if not norms or not batches:
        return 0
    seen = 0
    transform: Any = net.transform
    backbone: Any = net.backbone
    was, momenta = net.training, [m.momentum for m in norms]
    net.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the mean over all batches
        m.train()
    with torch.no_grad(), autocast(device, precision):
        for images in batches:
            batch, _ = transform([image.to(device).float() / 255 for image in images])
            backbone(batch.tensors)
            seen += len(images)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    net.train(was)
    return seen


@torch.no_grad()
def predict(
    net: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]],
    device: torch.device,
    precision: str,
) -> tuple[dict[int, dict[str, Tensor]], float]:
    """(predictions by image id, seconds in the network)."""
    net.eval()
    found: dict[int, dict[str, Tensor]] = {}
    spent = 0.0
    for images, targets in batches:
        began = time.monotonic()
        # torchvision draws nothing in eval mode.
        with autocast(device, precision):
            outputs = net([image.to(device).float() / 255 for image in images])
        for target, output in zip(targets, outputs, strict=True):
            found[int(target["image_id"])] = {
                k: v.float().cpu() if k != "labels" else v.cpu() for k, v in output.items()
            }
        spent += time.monotonic() - began
    return found, spent


def score(
    net: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]],
    evaluator: Evaluator,
    device: torch.device,
    precision: str = "fp32",
) -> dict[str, float]:
    """COCO box metrics of a detector as it is (bbox_mAP, bbox_mAP_50 …; 0..1), with `images_per_s` of the network."""
    was = net.training
    predictions, spent = predict(net, batches, device, precision)
    metrics = dict(evaluator.evaluate(predictions))
    metrics = {name: value for name, value in metrics.items() if isinstance(value, float)}
    net.train(was)
    return {**metrics, "images_per_s": len(predictions) / max(spent, 1e-9)}
