"""Losses of scores and features against what their papers say, written another way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.nas.models.class_logits import ClassLogits, kl
from searchkit.nas.train.divergences import Discriminator, adaptive, alpha_divergence, dkd, row_of
from searchkit.nas.train.mimics import MIMICS, Paraphraser, Translator

pytestmark = pytest.mark.usefixtures("one_thread")
INF = math.inf


def logs(seed: int, spread: float = 1.0, n: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher (n, classes), double."""
    generator = torch.Generator().manual_seed(seed)
    pair = spread * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)
    log_q, log_p = pair.log_softmax(-1)
    return log_q, log_p


def test_an_alpha_divergence_is_kl_at_1_and_near_it() -> None:
    log_q, log_p = logs(0, 2.0)
    exact = kl(log_q, log_p).sum(-1)
    torch.testing.assert_close(alpha_divergence(log_q, log_p, 1.0, 5.0).sum(-1), exact)
    for near in (1 - 1e-6, 1 + 1e-6):
        torch.testing.assert_close(alpha_divergence(log_q, log_p, near, INF).sum(-1), exact, rtol=1e-4, atol=1e-4)
    back = (log_q.exp() * (log_q - log_p)).sum(-1)
    torch.testing.assert_close(alpha_divergence(log_q, log_p, 0.0, 5.0).sum(-1), back)
    torch.testing.assert_close(alpha_divergence(log_q, log_p, 1e-6, INF).sum(-1), back, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_its_gradient_is_that_of_its_value(alpha: float) -> None:
    """By finite differences of the logits, where nothing is clipped."""
    _, log_p = logs(1, 0.5)
    scores = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def value(x: Tensor) -> Tensor:
        return alpha_divergence(x.log_softmax(-1), log_p, alpha, INF).sum()

    (gradient,) = torch.autograd.grad(value(scores), scores)
    step = 1e-6
    for i in range(scores.numel()):
        moved = torch.zeros(scores.numel(), dtype=torch.float64)
        moved[i] = step
        moved = moved.view_as(scores)
        slope = (value(scores.detach() + moved) - value(scores.detach() - moved)) / (2 * step)
        assert float(gradient.flatten()[i]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


def test_the_larger_one_counts_and_a_large_ratio_is_clipped() -> None:
    q = torch.tensor([[0.98, 0.01, 0.01], [0.2, 0.3, 0.5], [0.01, 0.01, 0.98]], dtype=torch.float64)
    p = torch.tensor([[0.02, 0.49, 0.49], [0.25, 0.3, 0.45], [0.5, 0.4, 0.1]], dtype=torch.float64)
    log_q = q.log().requires_grad_()
    one, other = (alpha_divergence(log_q, p.log(), alpha, 5.0) for alpha in (-1.0, 1.0))
    ours = adaptive(log_q, p.log(), alphas=(-1.0, 1.0), clip=5.0)
    torch.testing.assert_close(ours.sum(-1), torch.maximum(one.sum(-1), other.sum(-1)))
    # w^-1 = q / p = 49 in the first place: 5 counts, of the value and of the gradient
    by_hand = (q * ((q / p).clamp(max=5) - 1) / 2).sum(-1)
    torch.testing.assert_close(one.sum(-1), by_hand)
    (gradient,) = torch.autograd.grad(one.sum(), log_q)
    torch.testing.assert_close(gradient, -q * (-(q / p).clamp(max=5) + 0.5))
    row, terms = row_of("alpha")
    assert not row.needs_labels and torch.equal(terms(log_q, p.log(), None), ours)


def test_decoupled_parts_add_up_to_kl() -> None:
    log_q, log_p = logs(3)
    labels = torch.tensor([0, 4, 2, 1, 3, 3])
    right = torch.arange(6)
    # as the authors' code has it: two outcomes, and the others without the true class
    q, p = log_q.exp(), log_p.exp()
    two_q, two_p = (torch.stack((x[right, labels], 1 - x[right, labels]), 1) for x in (q, p))
    target = (two_p * (two_p / two_q).log()).sum(1)
    others = 1 - F.one_hot(labels, 5)
    rest_q, rest_p = (x * others / (x * others).sum(1, keepdim=True) for x in (q, p))
    among = (torch.where(others.bool(), rest_p * (rest_p / rest_q).log(), 0.0)).sum(1)
    torch.testing.assert_close(dkd(log_q, log_p, labels, alpha=1, beta=8).sum(-1), target + 8 * among)
    whole = kl(log_q, log_p).sum(1)
    torch.testing.assert_close(target + (1 - p[right, labels]) * among, whole)
    logits = ClassLogits("fc", lambda x: x, softmax=True, of_image=True)
    row, terms = row_of("dkd")
    assert row.needs_labels
    mean = logits.divergence(2 * log_q, 2 * log_p, 2.0, None, terms, labels)
    torch.testing.assert_close(mean.double(), 4 * (target + 8 * among).mean(), rtol=1e-5, atol=1e-6)


def test_a_discriminator_learns_what_the_student_unlearns() -> None:
    torch.manual_seed(0)
    judge = Discriminator(8)
    ours, theirs = torch.rand(5, 8, requires_grad=True), torch.rand(5, 8, requires_grad=True)
    counts = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    loss = judge.loss(ours, theirs, counts, 0.25)
    each = F.softplus(-judge(ours.detach())) + F.softplus(judge(theirs.detach()))
    torch.testing.assert_close(loss, (each / 2 * counts).sum() / 5)
    loss.backward()
    learnt = {name: p.grad for name, p in judge.named_parameters()}
    assert theirs.grad is None and ours.grad is not None and any(g is not None and g.any() for g in learnt.values())
    free = ours.detach().clone().requires_grad_()
    plain = (F.softplus(-judge(free)) / 2 * counts).sum() / 5
    (slope,) = torch.autograd.grad(plain, free)
    torch.testing.assert_close(ours.grad, -0.25 * slope)


def test_losses_of_features() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.rand(3, 4, 5, 6), torch.rand(3, 4, 5, 6)
    wide = torch.rand(3, 7, 5, 6)

    def unit(x: Tensor) -> Tensor:
        return x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True)

    maps = [unit((x**2).sum(1)) for x in (ours, wide)]
    torch.testing.assert_close(MIMICS["at"].loss(ours, wide, 1.0), ((maps[0] - maps[1]) ** 2).sum(1).mean())
    total = torch.zeros(())
    for n in range(3):
        for c in range(4):
            q, p = ((x[n, c] / 4).flatten().softmax(0) for x in (ours, theirs))
            total = total + 16 * (p * (p / q).log()).sum()
    torch.testing.assert_close(MIMICS["cwd"].loss(ours, theirs, 4.0), total / 12)
    torch.testing.assert_close(MIMICS["ft"].loss(ours, theirs, 1.0), (unit(ours) - unit(theirs)).abs().mean())
    assert all(row.loss(ours, ours, 2.0).abs() < 1e-6 for row in MIMICS.values())


def test_paraphraser_and_translator() -> None:
    """Three convolutions each; the paraphraser's factors have as many channels as asked, and become maps again."""
    paraphraser, translator = Paraphraser(8, 3), Translator(6, 3)
    x = torch.rand(2, 8, 5, 7)
    assert paraphraser.encoder(x).shape == (2, 3, 5, 7) and paraphraser(x).shape == x.shape
    assert translator(torch.rand(2, 6, 5, 7)).shape == translator(torch.rand(2, 4, 5, 7)).shape == (2, 3, 5, 7)
    there = 9 * (8 * 8 + 8 * 3 + 3 * 3) + 8 + 3 + 3
    back = 9 * (3 * 3 + 3 * 8 + 8 * 8) + 3 + 8 + 8
    assert sum(p.numel() for p in paraphraser.parameters()) == there + back
    norms = 2 * (6 + 3 + 3)
    assert sum(p.numel() for p in translator.parameters()) == 9 * (6 * 6 + 6 * 3 + 3 * 3) + 6 + 3 + 3 + norms
