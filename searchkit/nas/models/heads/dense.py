"""What one-stage detectors have in common: images to levels of class logits and box deltas, anchors, losses, boxes.

RetinaNet, SSD and YOLO differ in their networks and in rows of the tables of assigners.py, dense_losses.py and
boxes.py. An extracted folder holds the same text (`source`), so it trains on with the same losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torchvision.ops as ops
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.heads.boxes import apart, decode, encode, encode_in_cell, paired_iou
from searchkit.nas.models.heads.dense_plan import Dense
from searchkit.nas.models.heads.dense_rows import TABLES


class DenseDetector(nn.Module):
    """A detector without regions; a subclass has `levels`.

    As a torchvision detector: a list of images (3, H, W) of 0..1, and in training their targets (boxes (G, 4) in px,
    labels (G,) from 1 on), to a dict of losses in training, else a list of boxes, scores and labels.
    """

    backbone: nn.Module
    head: nn.Module

    def __init__(
        self,
        num_classes: int,
        anchor_generator: AnchorGenerator,
        transform: GeneralizedRCNNTransform,
        *,
        assigner: Callable[..., Tensor],
        class_loss: Callable[..., Tensor],
        box_loss: Callable[..., Tensor],
        normalizer: Callable[..., Tensor],
        decoder: Callable[..., Tensor],
        coder: tuple[float, float],
        background: bool,
        scores: str,
        score_thresh: float,
        nms_thresh: float,
        detections_per_image: int,
        candidates: int,
        candidates_of: str,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.transform = transform
        self.assigner, self.class_loss, self.box_loss, self.normalizer = assigner, class_loss, box_loss, normalizer
        self.decoder, self.coder = decoder, coder
        self.background, self.scores = background, scores
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_image = detections_per_image
        self.candidates, self.candidates_of = candidates, candidates_of

    def levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """x: (N, 3, H, W), normalised -> class logits (N, A K, h, w) and box deltas (N, A 4, h, w) of each level, with
        K the classes (and the background); the channels of an anchor stand side by side. They are those of two modules:
        `backbone`, to features, finest first, and `head`, which reads these."""
        outputs: list[tuple[Tensor, Tensor]] = self.head([*self.backbone(x).values()])
        return outputs

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses by name while training, else detections of each image; see the class."""
        if self.training and targets is None:
            raise ValueError("training needs targets: boxes and labels of each image")
        for i, target in enumerate(targets or ()):
            if (target["boxes"][:, 2:] <= target["boxes"][:, :2]).any():
                raise ValueError(f"boxes of image {i} must have a width and a height above 0")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, targets = self.transform(images, targets)
        outputs = [(logits.float(), deltas.float()) for logits, deltas in self.levels(batch.tensors)]
        anchors = self.anchors(batch, [deltas for _, deltas in outputs])  # of their type: no place is rounded
        columns = self.num_classes + int(self.background)
        logits = [flat_level(level, columns) for level, _ in outputs]
        deltas = [flat_level(level, 4) for _, level in outputs]
        if self.training:
            assert targets is not None
            return self.losses(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), anchors, targets)
        found = [
            self.boxes([x[i] for x in logits], [x[i] for x in deltas], anchors, size)
            for i, size in enumerate(batch.image_sizes)
        ]
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def anchors(self, batch: Any, maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors (A h w, 4) of each level, corners in px, place by place; they are those of all images. Behind the
        corners there may be more of each."""
        at_each = self.anchor_generator.num_anchors_per_location()
        every: Tensor = self.anchor_generator(batch, list(maps))[0]
        counts = [a * x.shape[-2] * x.shape[-1] for a, x in zip(at_each, maps, strict=True)]
        return list(every.split(counts))

    def matched(self, anchors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """For each image, what the assigner says of all its anchors."""
        count, device = sum(map(len, anchors)), anchors[0].device
        nothing = torch.full((count,), -1, dtype=torch.int64, device=device)
        return [self.assigner(anchors, t["boxes"]) if len(t["boxes"]) else nothing for t in targets]

    def losses(
        self, logits: Tensor, deltas: Tensor, anchors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The losses of a batch, from logits (N, A, K), deltas (N, A, 4), anchors by level and targets."""
        every = torch.cat(list(anchors))
        with torch.no_grad():
            matched = self.matched(anchors, targets)
            labels = torch.stack(matched)
            image, anchor = (labels >= 0).nonzero(as_tuple=True)
            first = 1 - int(self.background)  # the label of the first column
            own = [t["labels"][m[m >= 0]] - first for t, m in zip(targets, matched, strict=True)]
            labels = labels.index_put((image, anchor), torch.cat(own))
            boxes = torch.cat([t["boxes"][m[m >= 0]] for t, m in zip(targets, matched, strict=True)])
            predicted = self.decoder(deltas[image, anchor], every[anchor], self.coder)
            quality = torch.zeros_like(labels, dtype=deltas.dtype)
            quality = quality.index_put((image, anchor), paired_iou(predicted, boxes))
            weights = self.normalizer(torch.bincount(image, minlength=len(targets)))
        of_classes = self.class_loss(logits, labels, quality).sum(1)
        of_boxes = self.box_loss(deltas[image, anchor], boxes, every[anchor], self.coder)
        return {
            "classification": (of_classes * weights).sum(),
            "bbox_regression": (of_boxes * weights[image]).sum(),
        }

    def boxes(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """What is found on one image of so many px (height, width), best first, from its levels: (A, K) and (A, 4)."""
        if self.candidates_of == "class":  # all levels as one
            logits, deltas, anchors = ([torch.cat(list(x))] for x in (logits, deltas, anchors))
        found = []
        for of_level, shifts, at in zip(logits, deltas, anchors, strict=True):
            scores = of_level.softmax(-1) if self.scores == "softmax" else of_level.sigmoid()
            if self.scores == "objectness":
                scores = scores * scores[:, :1]
            scores = scores[:, int(self.background) :]
            groups = scores.unbind(1) if self.candidates_of == "class" else (scores.flatten(),)
            for column, group in enumerate(groups):
                kept = (group > self.score_thresh).nonzero()[:, 0]
                best, order = group[kept].topk(min(self.candidates, len(kept)))
                place = kept[order]
                if self.candidates_of == "class":
                    label = torch.full_like(place, 1 + column)
                else:
                    place, label = place // self.num_classes, 1 + place % self.num_classes
                corners = ops.clip_boxes_to_image(self.decoder(shifts[place], at[place], self.coder), size)
                found.append((corners, best, label))
        corners, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = apart(corners, scores, labels, self.nms_thresh, self.detections_per_image)
        return {"boxes": corners[kept], "scores": scores[kept], "labels": labels[kept]}


def flat_level(level: Tensor, columns: int) -> Tensor:
    """(N, A columns, h, w) -> (N, h w A, columns)."""
    n, _, h, w = level.shape
    return level.view(n, -1, columns, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, columns)


def level_logits(module: str, num_classes: int, options: Dense) -> ClassLogits:
    """The class logits of a detector, one of whose modules gives out what `levels` does."""
    columns = num_classes + int(options.background)

    def flat(levels: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([flat_level(logits, columns) for logits, _ in levels], 1)

    def positives(net: Any, images: Any, targets: Any, levels: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        batch, scaled = net.transform(list(images), list(targets))
        anchors = net.anchors(batch, [deltas.float() for _, deltas in levels])
        return torch.stack(net.matched(anchors, scaled)) >= 0

    softmax = options.scores == "softmax"
    return ClassLogits(
        module,
        flat,
        softmax=softmax,
        background=options.background,
        objectness=options.scores == "objectness",
        positives=positives,
    )


def moved_classes(
    rows: Tensor, own: Tensor, old: Sequence[str], new: Sequence[str], anchors: int, first: int, never: float | None
) -> Tensor:
    """Rows (A columns, ...) of class logits with each class of `new` where `own` has it, taken from where the names
    `old` say that `rows` has it. first: the columns of a background before it, which is moved too. A class that `old`
    lacks is as in `own`, or has `never` everywhere."""
    theirs, mine = (x.unflatten(0, (anchors, -1)) for x in (rows, own.clone()))
    mine[:, :first] = theirs[:, :first]
    if never is not None:
        mine[:, first:] = never
    for number, name in enumerate(new):
        if name in old:
            mine[:, first + number] = theirs[:, first + list(old).index(name)]
    moved: Tensor = mine.flatten(0, 1)
    return moved


def source(dense: Dense) -> str:
    """The text of DenseDetector and of all that it calls, for a file that imports math, torch, `torch.nn.functional as
    F`, `torchvision.ops as ops`, Any, Callable, Mapping, Sequence, Literal, Tensor, nn, AnchorGenerator and
    GeneralizedRCNNTransform, with annotations that are not evaluated."""
    rows = [TABLES[name][getattr(dense, name)] for name in TABLES]
    of_cells = (encode_in_cell,) if dense.box_loss == "cell" else ()
    parts: Iterable[Any] = (encode, decode, *of_cells, paired_iou, apart, flat_level, *rows, DenseDetector)
    return "\n\n".join(inspect.getsource(part) for part in dict.fromkeys(parts))


def settings_source(dense: Dense) -> str:
    """`Dense.settings` as lines of keywords, with the rows of the tables by their names."""
    lines = []
    for name, value in dense.settings().items():
        if isinstance(value, partial):
            options = ", ".join(f"{key}={option!r}" for key, option in value.keywords.items())
            text = f"partial({value.func.__name__}, {options})"
        else:
            text = value.__name__ if name in TABLES else repr(value)
        lines.append(f"    {name!r}: {text},\n")
    return "{\n" + "".join(lines) + "}"
