"""The section of a config for DMCP: its keys, named as GML names them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from searchkit.nas.train.values import NotNegative, check
from searchkit.reading.kinds import Count, Positive, Whole

FlopsLoss = Literal["log_l1", "l1", "l2", "inverted_log_l1"]


@dataclass(frozen=True)
class DmcpDistill:
    """What narrower archs learn from the largest one of the step."""

    temperature: Positive = 1.0  # of both softmaxes
    distill_weight: NotNegative = 1.0  # of the divergence; 0: they learn as train.distill says, or from the labels
    distill_softlable: bool = False  # true: they learn from the labels as well

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Dmcp:
    """Widths as Markov chains (Guo et al., "DMCP: Differentiable Markov Channel Pruning", CVPR 2020)."""

    target_flops: Positive  # what archs are to cost, in millions of multiply-adds at the first input shape
    floss_type: FlopsLoss = "log_l1"  # how the expected cost's distance from the target is weighed
    flop_loss_weight: NotNegative = 0.1
    arch_start_train: Whole | None = None  # the first step (from 0) in which the chains learn; null: the middle one
    arch_train_freq: Count = 1  # the chains learn in every so many steps
    arch_sample_num: Whole = 5  # archs that are drawn at the end, each within 1 % of the target
    arch_lr: Positive = 0.5  # of the chains, by SGD with momentum 0.9: half a cosine from here
    arch_lr_end: Positive = 0.1  # to here
    distill_cfg: DmcpDistill = field(default_factory=DmcpDistill)  # what narrower archs learn from the largest one
    distill_iter: Whole = 0  # the first step in which they do; before it they learn from the labels
    retraining: bool = False  # train the one arch of `subnet`, a sample, from new weights

    def __post_init__(self) -> None:
        check(self)
