"""How long what may take, so that all stages end within a time. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from searchkit.errors import UsageError

FINALISTS = 3  # of each budget, that are tuned and exported
TUNED = 0.25  # steps of a tuning, as a part of the supernet's
SEARCHED = 0.15  # of the time, for scoring subnets
TRUSTED = 8  # archs that are trained alone, for as long as a tuning, to see how far to trust the supernet
TRUST_STEPS, TRUST_EPOCHS = 500, 20  # that the supernet has at least where time is given to that
SHELF = 0.25  # of the time, that fine-tuning a pretrained detector takes at most
SPARE = 0.05  # of the time, that nothing is planned for
EXPORT_S = 4.0  # of writing a model in another form and comparing it, beside scoring the file
FILE_SCORES = 2  # scores of all images that each file takes: its own, and a part of torch's
ROW_S = 0.3  # of measuring a row of a space
NETS = 100  # measurements of whole networks beside: 20 networks in five rounds
NET_S, NET_RUNS = 0.35, 10  # that one of them takes, and how often it runs at least
START_S = 5.0  # of a verb, until it has loaded torch and the data
EVALUATIONS = (12, 400)  # subnets that a search scores, at least and at most
LEAST_STEPS = 10  # of a supernet, below which nothing is worth the time
# What a training does in a second where nothing is measured: multiply-adds, three times those of the networks' forward
# passes; of one core, and of one GPU.
CPU_MACS, GPU_MACS = 8e9, 1e12
# What a small detector does in a second of one image at a time, in each runtime, boxes out; of one core, and of a GPU.
RUN_MACS = {("eager", False): 8e9, ("onnxruntime", False): 25e9, ("eager", True): 1e12}


@dataclass(frozen=True)
class Speeds:
    """How long things take here, s."""

    step: float  # a step of the supernet: all archs of a sandwich on one batch
    plain_step: float  # a step of one network that costs the budget
    image: float  # what that network takes for one image without learning
    origin: str  # measured, or estimated: in words
    precision: str = "fp32"  # fp32 or bf16, of the trainings
    compared: str = ""  # with the other precision: in words


@dataclass(frozen=True)
class Times:
    """What fits into a time."""

    steps: int  # of the supernet
    tune_steps: int  # of each finalist
    evaluations: int  # subnets that are scored
    seconds: dict[str, float]  # of each stage
    trusted: int = 0  # archs that are trained alone
    pretrained_steps: int = 0  # of the pretrained detector

    @property
    def plain_steps(self) -> int:
        """Of the plain detector: as many images as the supernet and the tuning of a finalist see together."""
        return self.steps + self.tune_steps


def estimate(archs: float, macs: float, plain_macs: float, batch: int, cores: int, cuda: bool) -> Speeds:
    """Speeds of a machine that is not asked. archs: of a sandwich; macs: the mean of theirs; cores: CPUs in use."""
    rate = GPU_MACS if cuda else CPU_MACS * cores
    step, plain = 3 * batch * archs * macs / rate, 3 * batch * plain_macs / rate
    where = "a GPU" if cuda else f"{cores} CPU core{'' if cores == 1 else 's'}"
    origin = f"estimated, at {rate / 1e9:g} GMACs a second of {where}"
    return Speeds(step, plain, plain_macs / rate, origin)


def split(
    total_s: float,
    speeds: Speeds,
    *,
    scored: int,
    tested: int,
    finalists: int,
    workers: int,
    stages: int,
    forms: int = 0,
    tables_s: float = 0.0,
    trusted: int = 0,
    pretrained: float = 0.0,
) -> Times:
    """Share a time out. scored, tested: images that scoring a subnet in the search, and in the end, takes; finalists:
    of all budgets together; workers: of the search; stages: that start by themselves; forms: that models are exported
    in; tables_s: of measuring tables of times; trusted: archs that are trained alone; pretrained: what a further
    detector costs that is trained as long as the plain one, as a multiple of that. Raises UsageError for too little.
    """
    score_s = speeds.image * scored / workers
    evaluations = min(EVALUATIONS[1], max(EVALUATIONS[0], int(SEARCHED * total_s / max(score_s, 1e-9))))
    search_s = evaluations * score_s + 2 * START_S
    starts = stages + 2 * finalists
    extracted = finalists + 1 + (pretrained > 0)
    form_s = EXPORT_S + FILE_SCORES * speeds.image * tested
    export_s = extracted * forms * form_s
    test_s = (finalists + 1 + pretrained) * (2 * speeds.image * tested)
    trust_s = trusted * 3 * speeds.image * scored  # their scores by the supernet, raw and calibrated, and their own
    per_step = speeds.step + ((finalists + trusted) * TUNED + 1 + TUNED) * speeds.plain_step
    beside_s = pretrained * (1 + TUNED) * speeds.plain_step  # for a step of the supernet
    left = (1 - SPARE) * total_s - search_s - starts * START_S - test_s - export_s - tables_s - trust_s
    shelf_s = min(SHELF * total_s, left * beside_s / (per_step + beside_s))
    left -= shelf_s
    steps = int(left / per_step)
    if steps < LEAST_STEPS:
        fixed_s = search_s + starts * START_S + test_s + export_s + tables_s + trust_s
        least = (LEAST_STEPS * (per_step + beside_s) + fixed_s) / (1 - SPARE)
        raise UsageError(
            f"--time: {total_s / 60:.3g} min is too short: {LEAST_STEPS} steps of the supernet, and what comes behind "
            f"them, take {math.ceil(least / 6) / 10:g} min here ({speeds.origin})",
            "Give more time, or a smaller budget",
        )
    steps = _round(steps)
    tune = max(1, round(steps * TUNED))
    shelf = min(steps + tune, int(shelf_s / (pretrained * speeds.plain_step))) if pretrained else 0
    if pretrained and shelf < LEAST_STEPS:
        raise UsageError(
            f"--pretrained: in {SHELF:.0%} of --time it is trained for {shelf} steps, and {LEAST_STEPS} is the least",
            "Give more time, or leave it out",
        )
    seconds = {
        "train": steps * speeds.step + START_S,
        **({"latency": tables_s} if tables_s else {}),
        **({"trust": trusted * tune * speeds.plain_step + trust_s + START_S} if trusted else {}),
        "search": search_s,
        "tune": finalists * (tune * speeds.plain_step + speeds.image * tested + 2 * START_S),
        "plain": (steps + tune) * speeds.plain_step + speeds.image * tested + 2 * START_S,
        **({"pretrained": _alone_s(pretrained, shelf, tested, speeds, forms)} if pretrained else {}),
        "export": (finalists + 1) * (speeds.image * tested + START_S + forms * form_s),
    }
    return Times(steps, tune, evaluations, seconds, trusted, shelf)


def _alone_s(cost: float, steps: int, tested: int, speeds: Speeds, forms: int) -> float:
    """How long it takes to train, score and export a detector that costs a multiple of the plain one."""
    scores = 2 + forms * FILE_SCORES
    return cost * (steps * speeds.plain_step + scores * speeds.image * tested) + 3 * START_S + forms * EXPORT_S


def table_s(rows: int, ms: float) -> float:
    """How long a table takes of so many rows, with whole networks that take so many ms."""
    return START_S + rows * ROW_S + NETS * max(NET_S, NET_RUNS * ms / 1000)


def has_room(times: Times, batch: int, images: int) -> bool:
    """Whether a supernet learns long enough for time to be given to how far it is to be trusted.

    images: of the training set.
    """
    return times.steps >= max(TRUST_STEPS, TRUST_EPOCHS * images / batch)


def _round(steps: int) -> int:
    """Two digits of it, so that measuring again gives the same more often."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return int(steps // unit * unit)
