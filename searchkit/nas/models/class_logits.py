"""Where a network gives out class logits, as its head says, and how far those of two networks are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Terms = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Log-probabilities (..., K) of student and teacher, and the true classes (N,) of whole images, to the terms of how far
they are apart: (..., K) or (..., 1)."""


def kl(log_q: Tensor, log_p: Tensor, labels: Tensor | None = None) -> Tensor:
    """The terms of KL(p || q)."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True)


@dataclass(frozen=True)
class ClassLogits:
    """The class logits of a network.

    module: that gives them out. flat: what it gives out as (images, anchors, columns), or (images, columns). softmax:
    whether they are one softmax (else each a sigmoid). background: whether the first is what is no class. of_classes:
    whether the others are classes of the data; else they say that something is there. of_image: whether they are of the
    whole image, and so all that there is to learn. positives: of a detector, (network, images, targets, what the module
    gave out) -> (images, anchors), whether an anchor is to find a box. labels: of a classifier, the true classes
    (images,) of a step's targets. objectness: whether the first says that something is there, and the score of a class
    is its own times that.
    """

    module: str
    flat: Callable[[Any], Tensor]
    softmax: bool = False
    background: bool = False
    of_classes: bool = True
    of_image: bool = False
    positives: Callable[[Any, Any, Any, Any], Tensor] | None = None
    labels: Callable[[Any], Tensor] | None = None
    objectness: bool = False

    def same_kind(self, other: ClassLogits) -> bool:
        """Whether the logits of both say the same, wherever they are."""
        return self._kind() == other._kind()

    def _kind(self) -> ClassLogits:
        return replace(self, module="", flat=_nowhere, positives=None, labels=None)

    def columns_of(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """The columns of these classes, with that of the background."""
        return (0, *(1 + i for i in order)) if self.background else order

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each column."""
        return logits.float().softmax(-1) if self.softmax else logits.float().sigmoid()

    def counts(self, theirs: Tensor, counted: Tensor | None = None) -> Tensor:
        """How much each image, or anchor of a detector, counts: (images,) or (images, anchors). An anchor counts by the
        teacher's highest class score; with `counted`, whether it is among these."""
        if self.of_image:
            return theirs.new_ones(len(theirs), dtype=torch.float32)
        if counted is not None:
            return counted.to(torch.float32)
        with torch.no_grad():
            scores = self.probabilities(theirs)
            scores = scores * scores[..., :1] if self.objectness else scores
            return scores[..., int(self.background) :].amax(-1)

    def divergence(
        self,
        ours: Tensor,
        theirs: Tensor,
        temperature: float,
        counted: Tensor | None = None,
        terms: Terms = kl,
        labels: Tensor | None = None,
    ) -> Tensor:
        """T^2 D(theirs || ours), both with this temperature: the mean over images, or over all anchors of a batch, each
        weighed by the teacher's highest class score; or over those that are `counted` (images, anchors), of which there
        may be none. terms: of D. labels: the true classes of whole images, for terms that ask for them."""
        ours, theirs = ours.float(), theirs.float()
        if self.softmax:
            log_q, log_p = (F.log_softmax(each / temperature, -1) for each in (ours, theirs))
            apart = terms(log_q, log_p, labels)
        else:  # both outcomes of each column
            pairs = [torch.stack((each, -each), -1) / temperature for each in (ours, theirs)]
            apart = terms(F.logsigmoid(pairs[0]), F.logsigmoid(pairs[1]), labels).flatten(-2)
        if self.of_image:
            return temperature**2 * (apart.sum() / len(ours))
        weights = self.counts(theirs, counted)
        return temperature**2 * (apart.sum(-1) * weights).sum() / weights.sum().clamp(min=1e-6)


def _nowhere(output: Any) -> Tensor:
    raise NotImplementedError
