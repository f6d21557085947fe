"""How far class scores are from a teacher's: a row of SCORE_LOSSES for each `loss` of `distill`.

Each gives the terms of a sum: of log-probabilities (..., K) of student and teacher, and of a classifier the true
classes (N,), to (..., K) or (..., 1), whose sums over the last dimension are one number for each distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.nas.models.class_logits import Terms, kl
from searchkit.nas.train.distill_section import AlphaDivergence, Dkd


def dkd(log_q: Tensor, log_p: Tensor, labels: Tensor, *, alpha: float, beta: float) -> Tensor:
    """alpha TCKD + beta NCKD (Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, eq. 7): (N, 1).

    TCKD is the divergence of the true class against all others, NCKD that among the others. With beta = 1 - p of the
    true class, and alpha = 1, they add up to the KL divergence.
    """
    others = torch.ones_like(log_q, dtype=torch.bool).scatter_(1, labels[:, None], False)

    def parts(log: Tensor) -> tuple[Tensor, Tensor]:
        true = log.gather(1, labels[:, None])
        rest = log.masked_select(others).view(len(log), -1)
        mass = rest.logsumexp(1, keepdim=True)
        return torch.cat((true, mass), 1), rest - mass

    (true_q, rest_q), (true_p, rest_p) = parts(log_q), parts(log_p)
    return alpha * kl(true_q, true_p).sum(1, keepdim=True) + beta * kl(rest_q, rest_p).sum(1, keepdim=True)


def adaptive(log_q: Tensor, log_p: Tensor, *, alphas: tuple[float, float], clip: float) -> Tensor:
    """The larger of the alpha-divergences at two alphas, for each distribution (Wang et al., "AlphaNet: Improved
    Training of Supernets with Alpha-Divergence", ICML 2021, §3.2 and the authors' code)."""
    first, second = (alpha_divergence(log_q, log_p, alpha, clip) for alpha in alphas)
    larger = first.detach().sum(-1, keepdim=True) > second.detach().sum(-1, keepdim=True)
    return torch.where(larger, first, second)


def alpha_divergence(log_q: Tensor, log_p: Tensor, alpha: float, clip: float) -> Tensor:
    """The terms of sum q (w^alpha - 1) / (alpha (alpha - 1)) with w = p / q, w^alpha at most `clip`; of its limits for
    alpha 1, KL(p || q), and 0, KL(q || p), which are not clipped.

    Its gradient is that of -sum q rho log q, q and rho as they are, which is the divergence's own where nothing is
    clipped.
    """
    q, log_w = log_q.detach().exp(), log_p - log_q.detach()
    if alpha == 1:
        return kl(log_q, log_p)
    if alpha == 0:
        value, rho = -q * log_w, log_w - 1
    else:
        scale = 1 / (alpha * (alpha - 1))
        ratio = (alpha * log_w).exp().clamp(max=clip)
        value, rho = q * (ratio - 1) * scale, ratio / alpha + scale
    slope = -q * rho * log_q
    return slope + (value - slope).detach()


@dataclass(frozen=True)
class ScoreRow:
    """A loss of class scores. options: of the config; of: from these to the terms. needs_labels: whether it is of the
    true class, too, which a classifier alone has for all of its scores."""

    options: type | None
    of: Callable[[Any], Terms]
    needs_labels: bool = False


def _dkd(options: Dkd) -> Terms:
    return lambda log_q, log_p, labels: dkd(log_q, log_p, labels, alpha=options.alpha, beta=options.beta)  # type: ignore[arg-type]


def _alpha(options: AlphaDivergence) -> Terms:
    return lambda log_q, log_p, labels: adaptive(log_q, log_p, alphas=options.alphas, clip=options.clip)


SCORE_LOSSES: Mapping[str, ScoreRow] = {
    "kl": ScoreRow(None, lambda _: kl),
    "dkd": ScoreRow(Dkd, _dkd, needs_labels=True),
    "alpha": ScoreRow(AlphaDivergence, _alpha),
}


def row_of(loss: Any) -> tuple[ScoreRow, Terms]:
    """The row of a `loss`, and its terms."""
    name = loss if isinstance(loss, str) else loss.type
    row = SCORE_LOSSES[name]
    if isinstance(loss, str):
        return row, row.of(row.options() if row.options else None)
    return row, row.of(loss)


class Discriminator(torch.nn.Module):
    """Tells a student's class scores from a teacher's: three linear layers, the second half as wide as the scores, the
    third half as wide as that (Shen et al., "MEAL: Multi-Model Ensemble via Adversarial Learning", AAAI 2019)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        half, quarter = max(2, columns // 2), max(2, columns // 4)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(columns, half),
            torch.nn.ReLU(),
            torch.nn.Linear(half, quarter),
            torch.nn.ReLU(),
            torch.nn.Linear(quarter, 1),
        )

    def forward(self, scores: Tensor) -> Tensor:
        """Probabilities (..., columns) to a logit (...), above 0 for the student's."""
        logits: Tensor = self.layers(scores).squeeze(-1)
        return logits

    def loss(self, ours: Tensor, theirs: Tensor, weights: Tensor, strength: float) -> Tensor:
        """The cross-entropy of which is whose; weights: of each. It falls for the discriminator, and rises, `strength`
        times as steeply, for the student: its gradient is turned round on the way."""
        logits = torch.stack((self(_reversed(ours, strength)), self(theirs.detach())))
        truth = torch.stack((torch.ones_like(logits[0]), torch.zeros_like(logits[1])))
        each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(0)
        return (each * weights).sum() / weights.sum().clamp(min=1e-6)


def _reversed(x: Tensor, strength: float) -> Tensor:
    """x, whose gradient is turned round (Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML
    2015)."""
    return x.detach() - strength * (x - x.detach())
