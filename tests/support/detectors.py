"""What the tests of detectors share: small families of them, their archs, images and boxes, and outputs compared."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.heads.retinanet_plan import RetinaNetConfig, RetinaNetOptions
from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNOptions
from searchkit.nas.models.network import build
from searchkit.nas.models.part import NetConfig
from searchkit.nas.space.space import Space, read_space
from searchkit.records.arch import Arch

MINE = f"{Path(__file__).parents[1] / 'assets' / 'my_backbone.py'}:MobileNet"
R50 = Arch.of(
    {"backbone.stem.width": 64, "backbone.body.width": (64, 128, 256, 512), "backbone.body.depth": (3, 4, 6, 3)}
)
R18 = Arch.of(
    {"backbone.stem.width": 64, "backbone.body.width": (64, 128, 256, 512), "backbone.body.depth": (2, 2, 2, 2)}
)


def space(width: list[list[int]], stem: int | dict[str, list[int]], depth: int = 3, **more: Any) -> Space:
    """[smallest, largest, step] per stage."""
    start, end, step = zip(*width, strict=True)
    body = {"start": [*start], "end": [*end], "step": [*step]}
    depths = {"choices": [list(range(1, depth + 1))] * len(width)}
    return read_space({"backbone.stem.width": stem, "backbone.body.width": body, "backbone.body.depth": depths, **more})


def config(**options: Any) -> DetectorConfig:
    small = {"num_classes": 3, "fpn_channels": 8, "box_head_width": 16, "score_thresh": 0.0, "detections_per_image": 20}
    few = {"rpn_pre_nms_test": 50, "rpn_post_nms_test": 30, "rpn_pre_nms_train": 60, "rpn_post_nms_train": 40}
    return DetectorConfig(**{**small, **few, "rpn_batch_per_image": 32, "box_batch_per_image": 16, **options})


def retinanet(neck: dict[str, Any] | None = None, **options: Any) -> RetinaNetConfig:
    """Of five levels."""
    few = {"anchor_scales": (1.0,), "score_thresh": 0.0, "detections_per_image": 20, "candidates": 50}
    small = {"anchor_sizes": (8, 16, 32, 64, 128), "depth": 2, "width": 8, "norm_group": 4}
    return RetinaNetConfig(
        num_classes=3,
        neck_options=ElasticFPNOptions(**{"out_channel": 8, **(neck or {})}),
        head_options=RetinaNetOptions(**{**few, **small, **options}),
    )


STEM = {"choices": [4, 8, 12]}
FOUR = [[2, 6, 2], [4, 8, 1], [4, 10, 3], [8, 16, 4]]
KERNELS = {"backbone.body.kernel": {"choices": [[3, 5], [3, 5, 7], [1, 3, 5, 7]]}}
PYRAMID = {"neck.out_channel": {"choices": [4, 6, 8]}, "neck.kernel": {"choices": [1, 3]}}
BIGNAS = {"norm": "per_level", "assigner": "atss", "class_loss": "quality_focal", "box_loss": "giou"}
FAMILIES: dict[str, tuple[Space, NetConfig]] = {
    "bottleneck, bn": (space(FOUR, STEM), config()),
    "basic, gn, deep stem": (
        space([[8, 16, 4], [8, 24, 4], [12, 24, 4], [16, 32, 8]], {"choices": [8, 16]}),
        config(
            backbone_options={"block": "basic", "norm": "gn", "norm_group": 4, "deep_stem": True}, class_agnostic=True
        ),
    ),
    "frozen norms, average pooling on the shortcut": (
        space(FOUR, STEM),
        config(backbone_options={"norm": "frozen", "avg_down": True}, rpn_activation="softmax"),
    ),
    "kernels, three stages, two extra levels": (
        space([[2, 6, 2], [4, 8, 2], [4, 8, 2]], STEM, **KERNELS),
        config(backbone_options={"deep_stem": True, "avg_down": True}, class_agnostic=True, rpn_activation="softmax"),
    ),
    "basic, first stages frozen": (
        space(FOUR, STEM, depth=2),
        config(backbone_options={"block": "basic", "frozen_stages": 2, "zero_init_residual": True}),
    ),
    "a backbone of one's own": (
        space([[4, 8, 2], [4, 12, 4], [6, 12, 3]], STEM, **KERNELS),
        config(backbone=MINE, backbone_options={"expand": 3}),
    ),
    "an elastic pyramid": (
        space(FOUR, STEM, depth=2, **PYRAMID),
        config(fpn_channels=256, neck="elastic_fpn", neck_options=ElasticFPNOptions(out_channel=8, first=0, p6="c5")),
    ),
    "RetinaNet as in BigNAS": (
        space(
            FOUR,
            STEM,
            depth=2,
            **PYRAMID,
            **{"neck.depth": {"choices": [3, 4, 5]}, "head.cls.width": {"choices": [4, 8]}},
            **{"head.cls.depth": {"choices": [1, 2, 3]}, "head.cls.kernel": {"choices": [1, 3]}},
        ),
        retinanet({"norm": "bn", "p6": "lateral", "p7_relu": False}, **BIGNAS),
    ),
    "RetinaNet, group norms, towers apart": (
        space(
            FOUR,
            STEM,
            depth=2,
            **{"head.cls.width": {"choices": [4, 8]}, "head.box.width": {"choices": [4, 8, 12]}},
            **{"head.box.depth": {"choices": [1, 2]}, "head.box.kernel": {"choices": [1, 3, 5]}},
        ),
        retinanet({"p6": "c5"}, norm="group"),
    ),
}


def make(family: str, min_size: int = 64) -> tuple[Any, Space, Any]:
    """A supernet of a family, with values that tell all slices apart."""
    sp, conf = FAMILIES[family]
    net = build(conf, sp.maximum(), min_size=min_size, max_size=96)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("bn3.weight") or name.endswith("bn2.weight"):
                tensor.uniform_(0.2, 0.8)
            elif tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
    return net, sp, conf


def archs(sp: Space, n: int, seed: object) -> list[Arch]:
    rng = random.Random(str(seed))
    return [sp.maximum(), sp.minimum(), *(sp.sample(rng) for _ in range(n - 2))]


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.rand(3, h, w) for h, w in sizes]


def targets(n: int) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6.0, 40.0, 44.0], [10.0, 2.0, 30.0, 60.0]])
    return [{"boxes": boxes + i, "labels": torch.tensor([1 + i % 3, 3])} for i in range(n)]


def equal(a: Any, b: Any) -> bool:
    """Whether nested outputs of two networks have the same bits."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return [*a] == [*b] and all(equal(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in state.items()}


def trained(net: nn.Module) -> nn.Module:
    """Norms as after training: they do something, and values stay moderate."""
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.2, 0.8)
    return net


def pyramid_input(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The features of a torchvision ResNet."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    out = {}
    for i in range(4):
        x = net.get_submodule(f"layer{i + 1}")(x)
        out[str(i)] = x
    return out


def same_found(found: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two detectors find the same to the bit; of equal scores, torchvision's sort takes any first."""

    def above_last(boxes: dict[str, Tensor]) -> list[list[float]]:
        rows = torch.cat((-boxes["scores"][:, None], boxes["labels"][:, None], boxes["boxes"]), 1)
        return sorted(row.tolist() for row in rows if row[0] < rows[-1, 0])

    return torch.equal(found["scores"], theirs["scores"]) and above_last(found) == above_last(theirs)
