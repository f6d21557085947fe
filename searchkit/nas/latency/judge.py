"""Sums of rows held against whole networks: what is no row, how far the sums are off, which rows don't add up.

Every second network says what the rest is (and what corrects the rows, where sums need it); the others judge that.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchkit.nas.cost.latency import Correction
from searchkit.records.kendall import tau_b

ERROR, RANKS = 0.05, 0.95  # what is asked of sums: a median error below the one, a rank correlation above the other
RIDGE, STRONG = 0.02, 0.1  # how strongly a factor is drawn to 1, and what is on top to 0
SPREAD = 0.1  # of the longest time of a group in networks of one image to the shortest: with less it is all the same
Image = tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """A whole network, and what the table has of it."""

    image: Image
    ms: Mapping[str, float]  # the sum of its rows, by group
    rows: Mapping[str, int]  # how many there are of each group
    whole: float  # ms

    @property
    def sum(self) -> float:
        return sum(self.ms.values())


@dataclass(frozen=True)
class Fit:
    """A way to make the time of a network of its rows: their correction, and what is no row, for each image."""

    correction: Correction
    rest: Mapping[Image, float]

    def ms(self, sample: Sample) -> float:
        """The time of a network."""
        rows = sum(self.correction.of(group, 0) * n for group, n in sample.rows.items())
        return rows + self.correction.factor * sample.sum + self.rest[sample.image]


@dataclass(frozen=True)
class Judgement:
    """How sums were made, and how they did on networks that they had not seen."""

    fit: Fit
    is_corrected: bool
    said: Mapping[str, Any] = field(default_factory=dict)  # as the table has it

    @property
    def holds(self) -> bool:
        return bool(self.said["holds"])


def judge(samples: Sequence[Sample], least: Mapping[str, float]) -> Judgement:
    """The simplest way to sum that does what is asked; where neither does, the better one, and it says so.

    samples: at least two of each image; least: the shortest row of each group, ms.
    """
    known, new = samples[::2], samples[1::2]
    plain, corrected = _plain(known), _corrected(known, least)
    tried = {"plain": marks(plain, new), "corrected": marks(corrected, new)}
    good = [name for name, its in tried.items() if does(its)]
    used = good[0] if good else min(tried, key=lambda name: tried[name]["error"])
    said = {
        "nets": len(samples),
        "judged_on": len(new),
        **tried,
        "used": used,
        "holds": bool(good),
        "groups": shares(samples, plain),
    }
    return Judgement(plain if used == "plain" else corrected, used == "corrected", said)


def does(its: Mapping[str, Any]) -> bool:
    """Whether sums do what is asked of them."""
    return its["error"] < ERROR and (its["spearman"] or 0) > RANKS


def marks(fit: Fit, samples: Sequence[Sample]) -> dict[str, Any]:
    """How far sums are from whole networks: fractions of these, and how alike both rank them."""
    sums, wholes = [fit.ms(sample) for sample in samples], [sample.whole for sample in samples]
    errors = [abs(a - b) / b for a, b in zip(sums, wholes, strict=True)]
    return {
        "error": round(statistics.median(errors), 5),
        "worst": round(max(errors), 5),
        "spearman": _spearman(sums, wholes),
        "tau": _rounded(tau_b(sums, wholes)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The correlation of ranks, equal values sharing theirs; None where all are equal, or there is one."""
    ranks = [[(np.sum(np.less(x, v)) + np.sum(np.less_equal(x, v))) / 2 for v in x] for x in (a, b)]
    if len(a) < 2 or any(min(r) == max(r) for r in ranks):
        return None
    return _rounded(float(np.corrcoef(np.array(ranks))[0, 1]))


def _plain(samples: Sequence[Sample]) -> Fit:
    images = dict.fromkeys(sample.image for sample in samples)
    rest = {i: statistics.median(s.whole - s.sum for s in samples if s.image == i) for i in images}
    return Fit(Correction(), rest)


def _corrected(samples: Sequence[Sample], least: Mapping[str, float]) -> Fit:
    """The least squares of relative errors, without groups that all networks have as many rows of (that is the rest's
    to say), and without those of which a row would take less than nothing."""
    groups = [
        g for g in _groups(samples) if any(_varies(s.rows.get(g, 0) for s in each) for each in _by_image(samples))
    ]
    images = [*dict.fromkeys(sample.image for sample in samples)]
    while True:
        factor, *others = _solved(
            samples,
            lambda s: [s.sum, *(s.rows.get(g, 0) for g in groups), *(float(s.image == i) for i in images)],
            [1.0] + [0.0] * len(groups),
        )
        on_top = dict(zip(groups, others, strict=False))
        wrong = [g for g, ms in on_top.items() if factor * least[g] + ms < 0]
        if not wrong:
            break
        groups.remove(min(wrong, key=on_top.__getitem__))
    rest = dict(zip(images, others[len(groups) :], strict=True))
    return Fit(Correction(factor, on_top), rest)


def shares(samples: Sequence[Sample], plain: Fit) -> dict[str, dict[str, float]]:
    """For each group of rows, how many times what the table has of it networks take, and its share of their time: the
    groups that don't add up are those far from 1 with a large share. A group that takes as long in all networks can't
    be told from the rest, and is none."""
    alike = _by_image(samples)
    groups = [g for g in _groups(samples) if any(_spread([s.ms.get(g, 0.0) for s in each]) for each in alike)]
    fixed = [g for g in _groups(samples) if g not in groups]
    times = _solved(
        samples,
        lambda s: [s.ms.get(g, 0.0) for g in groups],
        [1.0] * len(groups),
        lambda s: s.whole - plain.rest[s.image] - sum(s.ms.get(g, 0.0) for g in fixed),
        STRONG,
    )
    total = sum(sample.whole for sample in samples)
    return {
        group: {"times": round(factor, 3), "share": round(sum(s.ms.get(group, 0.0) for s in samples) / total, 3)}
        for group, factor in zip(groups, times, strict=True)
    }


def _groups(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(group for sample in samples for group in sample.ms))


def _by_image(samples: Sequence[Sample]) -> list[list[Sample]]:
    images = dict.fromkeys(sample.image for sample in samples)
    return [[sample for sample in samples if sample.image == image] for image in images]


def _spread(times: Sequence[float]) -> bool:
    return max(times) > (1 + SPREAD) * min(times)


def _varies(values: Iterable[float]) -> bool:
    return len(set(values)) > 1


def _solved(
    samples: Sequence[Sample],
    columns: Callable[[Sample], Sequence[float]],
    drawn_to: Sequence[float],
    target: Callable[[Sample], float] = lambda sample: sample.whole,
    ridge: float = RIDGE,
) -> list[float]:
    """The numbers that make the columns' sum as long as the target, in fractions of the whole; the first of them are
    drawn to these values."""
    matrix = np.array([[x / s.whole for x in columns(s)] for s in samples], float)
    goal = np.array([target(s) / s.whole for s in samples], float)
    pull = np.zeros((len(drawn_to), matrix.shape[1]))
    weights = ridge * np.sqrt((matrix[:, : len(drawn_to)] ** 2).sum(0))
    np.fill_diagonal(pull, weights)
    solution, *_ = np.linalg.lstsq(np.vstack([matrix, pull]), np.concatenate([goal, weights * np.array(drawn_to)]))
    return [float(x) for x in solution]
