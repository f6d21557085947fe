"""Where a network gives out class logits, as its head says, and how far those of two networks are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ClassLogits:
    """The class logits of a network.

    module: that gives them out. flat: what it gives out as (images, anchors, columns), or (images, columns). softmax:
    whether they are one softmax (else each a sigmoid). background: whether the first is what is no class. of_classes:
    whether the others are classes of the data; else they say that something is there. of_image: whether they are of the
    whole image, and so all that there is to learn. positives: of a detector, (network, images, targets, what the module
    gave out) -> (images, anchors), whether an anchor is to find a box.
    """

    module: str
    flat: Callable[[Any], Tensor]
    softmax: bool = False
    background: bool = False
    of_classes: bool = True
    of_image: bool = False
    positives: Callable[[Any, Any, Any, Any], Tensor] | None = None

    def same_kind(self, other: ClassLogits) -> bool:
        """Whether the logits of both say the same, wherever they are."""
        return replace(self, module="", flat=other.flat, positives=None) == replace(other, module="", positives=None)

    def columns_of(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """The columns of these classes, with that of the background."""
        return (0, *(1 + i for i in order)) if self.background else order

    def divergence(self, ours: Tensor, theirs: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
        """T^2 KL(theirs || ours), both with this temperature: the mean over images, or over all anchors of a batch,
        each weighed by the teacher's highest class score; or over those that are `counted` (images, anchors), of which
        there may be none."""
        ours, theirs = ours.float(), theirs.float()
        if self.of_image:
            return divergence(ours, theirs, temperature)
        if counted is None:
            with torch.no_grad():
                scores = theirs.softmax(-1) if self.softmax else theirs.sigmoid()
                weights = scores[..., int(self.background) :].amax(-1)
        else:
            weights = counted.to(theirs.dtype)
        if self.softmax:
            log_q, log_p = (F.log_softmax(each / temperature, -1) for each in (ours, theirs))
        else:  # both outcomes of each column
            pairs = [torch.stack((each, -each), -1) / temperature for each in (ours, theirs)]
            log_q, log_p = (F.logsigmoid(pair).flatten(-2) for pair in pairs)
        apart = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        return temperature**2 * (apart * weights).sum() / weights.sum().clamp(min=1e-6)


def divergence(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(scores / T)), the mean over the batch (Hinton et al., 2015, §2)."""
    ours, theirs = (F.log_softmax(s.float() / temperature, 1) for s in (scores, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
