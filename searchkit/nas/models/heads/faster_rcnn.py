"""Faster R-CNN (https://arxiv.org/abs/1506.01497) with an FPN on an elastic backbone.

RPN, RoI heads, losses and post-processing are torchvision's own; the layers that read levels are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.heads import faster_rcnn_source
from searchkit.nas.models.heads.dense import flat_level
from searchkit.nas.models.heads.faster_rcnn_plan import FasterRCNNPlan, settings
from searchkit.nas.models.heads.inputs import as_ours
from searchkit.nas.models.part import NEVER, Form
from searchkit.nas.models.trunk import Trunk
from searchkit.nas.nn import Conv2d, Cuts, Linear
from searchkit.records.arch import Arch

CLS, BOX = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"


class SoftmaxRPNHead(RPNHead):
    """Two outputs per anchor: first the background of all, then the foreground of all.

    Their difference is the objectness: its sigmoid is the softmax of the two, and its binary cross-entropy theirs.
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__(in_channels, num_anchors)
        self.cls_logits = nn.Conv2d(in_channels, 2 * num_anchors, kernel_size=1)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        nn.init.zeros_(self.cls_logits.bias)  # type: ignore[arg-type]

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """x: levels (N, C, H, W) -> objectness (N, A, H, W) and box deltas (N, 4 A, H, W) of each."""
        logits, deltas = super().forward(x)
        pairs = [level.chunk(2, dim=1) for level in logits]
        return [front - back for back, front in pairs], deltas


class AgnosticPredictor(FastRCNNPredictor):
    """Class scores, and one box for all classes, given out once for each."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.num_classes = num_classes
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (R, in_channels) -> scores (R, num_classes), box deltas (R, 4 num_classes)."""
        scores, deltas = super().forward(x)
        return scores, deltas.repeat(1, self.num_classes)


class SquareConv2d(Conv2d):
    """A convolution that gives out as many channels as it gets."""

    def forward(
        self,
        x: Tensor,
        cout: int | None = None,
        kernel: int | None = None,
        groups: int | None = None,
        cuts: Cuts | None = None,
    ) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H', W')."""
        return super().forward(x, x.shape[1])


def _narrow(root: nn.Module, cls: type[Conv2d] | type[Linear], *names: str) -> None:
    """Put layers of ours, which run on narrower levels too, in the places of torch's, with their weights."""
    for name in names:
        layer: Any = root.get_submodule(name)
        with torch.device("meta"):  # no random number is drawn
            if issubclass(cls, Linear):
                ours: nn.Module = cls(layer.in_features, layer.out_features)
            else:
                ours = cls(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        for parameter in ("weight", "bias"):
            setattr(ours, parameter, getattr(layer, parameter))
        path, _, last = name.rpartition(".")
        root.get_submodule(path).add_module(last, ours)


class FasterRCNNHead(FasterRCNNPlan):
    """The head `faster_rcnn`. Its layers have no dimensions of their own, and read levels as narrow as the neck makes
    them."""

    norms_of_one: ClassVar[bool] = True
    form: ClassVar[Form] = faster_rcnn_source

    def network(
        self,
        trunk: Trunk,
        arch: Arch,
        config: Any,
        min_size: int | tuple[int, ...] = 800,
        max_size: int = 1333,
    ) -> FasterRCNN:
        """torchvision's FasterRCNN around a backbone with its neck."""
        options, channels = self.options, trunk.out_channels
        rpn_head = SoftmaxRPNHead if options.rpn_activation == "softmax" else RPNHead
        predictor = AgnosticPredictor if options.class_agnostic else FastRCNNPredictor
        sizes, ratios = options.anchor_sizes, options.anchor_ratios
        maps = [str(i) for i in range(trunk.features)]  # not those that are subsampled
        net = FasterRCNN(
            trunk,
            min_size=min_size,
            max_size=max_size,
            rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), (ratios,) * len(sizes)),
            rpn_head=rpn_head(channels, len(ratios)),
            box_roi_pool=MultiScaleRoIAlign(maps, options.roi_size, sampling_ratio=2),
            box_head=TwoMLPHead(channels * options.roi_size**2, options.box_head_width),
            box_predictor=predictor(options.box_head_width, self.num_classes + 1),
            **settings(config),
        )
        net.transform = as_ours(net.transform)
        _narrow(net.rpn.head, SquareConv2d, "conv.0.0")
        _narrow(net.rpn.head, Conv2d, "cls_logits", "bbox_pred")
        _narrow(net.roi_heads.box_head, Linear, "fc6")
        return net

    def set_options(self, net: Any, options: Mapping[str, Any]) -> None:
        """See Head."""
        net.rpn._post_nms_top_n["testing"] = options["rpn_post_nms_test"]  # torchvision lets it be said once
        net.roi_heads.score_thresh = options["score_thresh"]
        net.roi_heads.nms_thresh = options["nms_thresh"]
        net.roi_heads.detections_per_img = options["detections_per_image"]

    def class_logits(self, net: Any) -> ClassLogits:
        """The RPN's: those of the boxes are of other boxes in each arch."""
        return ClassLogits("rpn.head", _flat_objectness, of_classes=False, positives=_rpn_positives)

    def outputs(self, net: Any, inputs: Sequence[Tensor]) -> None:
        """See Head: its backbone with the neck, and what its RPN reads of levels."""
        batch, _ = net.transform(inputs)
        net.rpn.head([*net.backbone(batch.tensors).values()])

    def statistics(self, net: Any, inputs: Sequence[Tensor]) -> None:
        """Its backbone with the neck alone has batch norms."""
        batch, _ = net.transform(inputs)
        net.backbone(batch.tensors)

    def silence(self, net: nn.Module, known: int) -> None:
        """Row 0 is the background."""
        scores = net.get_submodule(CLS)
        with torch.no_grad():
            scores.get_parameter("weight")[1 + known :] = 0
            scores.get_parameter("bias")[1 + known :] = NEVER

    def adapt(
        self,
        state: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        old: Sequence[str],
        new: Sequence[str],
        to_train: bool,
    ) -> dict[str, Tensor]:
        """The state dict with the box head's rows moved to the new classes, by name. Row 0 is the background."""
        result = dict(state)
        same_rows = state[f"{CLS}.weight"].shape == own[f"{CLS}.weight"].shape
        if (list(old) == list(new) and same_rows) or not _same_kind(state, own):
            return result
        pairs = [(0, 0)] + [(1 + i, 1 + list(old).index(name)) for i, name in enumerate(new) if name in old]
        for kind in ("weight", "bias"):
            scores, theirs = own[f"{CLS}.{kind}"].clone(), state[f"{CLS}.{kind}"]
            if not to_train:
                scores[1:] = 0 if kind == "weight" else NEVER
            for mine, its in pairs:
                scores[mine] = theirs[its]
            result[f"{CLS}.{kind}"] = scores
            boxes, theirs = own[f"{BOX}.{kind}"].clone(), state[f"{BOX}.{kind}"]
            if boxes.shape[0] == 4 and theirs.shape[0] == 4:  # class-agnostic
                boxes = theirs
            else:
                for mine, its in pairs:
                    boxes[4 * mine : 4 * mine + 4] = theirs[4 * its : 4 * its + 4]
            result[f"{BOX}.{kind}"] = boxes
        return result


def _flat_objectness(output: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """What the RPN's head gives out -> (N, anchors of all levels, 1)."""
    return torch.cat([flat_level(level, 1) for level in output[0]], 1)


def _rpn_positives(net: Any, images: Any, targets: Any, output: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """Which anchors the RPN is to find a box from: (N, anchors of all levels)."""
    batch, scaled = net.transform(list(images), list(targets))
    anchors = net.rpn.anchor_generator(batch, output[0])
    labels, _ = net.rpn.assign_targets_to_anchors(anchors, scaled)
    return torch.stack(labels) > 0


def _same_kind(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether the heads differ in their classes alone; whoever loads the state then names what else differs."""
    same_width = all(state[f"{name}.weight"].shape[1:] == own[f"{name}.weight"].shape[1:] for name in (CLS, BOX))
    return same_width and (len(state[f"{BOX}.bias"]) == 4) == (len(own[f"{BOX}.bias"]) == 4)
