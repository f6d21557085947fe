"""How far to trust a supernet: do its scores rank archs as training each of them on its own does?

A few archs are drawn over the MACs of the space, scored with the supernet's weights, and trained briefly from scratch.
Kendall's tau is then told over all of them, and within bins of MACs: a score that only knows that larger is better
ranks well over all sizes and not at all within one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from searchkit.errors import UsageError
from searchkit.nas.cost import price
from searchkit.nas.models.elastic import wiring_of
from searchkit.nas.models.part import PARTS, NetConfig
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.nas.subnet import sweep
from searchkit.nas.subnet.records import shape_of
from searchkit.nas.subnet.results import Record, Results
from searchkit.nas.subnet.sweep import Session
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import short_digest
from searchkit.nas.train.loop import StepReport
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Optimisation
from searchkit.nas.train.splits import open_split
from searchkit.nas.train.values import text_of
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from searchkit.records.kendall import Pairs, least_p, p_value, tau_b
from searchkit.seeds import rng_of

RAW, CALIBRATED, OWN = "direct_raw", "direct", "own"  # metric.<tag>; the first two as of search-nas test --raw
POOL = 2000  # archs that are priced to draw from
SHARE = 4  # an arch on its own trains for the supernet's steps divided by this
SURE = 0.05  # up to this p, an order is not taken for chance


# --- which archs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """An arch that is to be compared."""

    arch: Arch
    macs: int  # at the first input shape
    params: int
    bin: int  # of MACs, from 0, the cheapest


def draw(recipe: Recipe, config: NetConfig, n: int, bins: int, seed: int) -> list[Drawn]:
    """n archs of the space, as many of each bin, cheapest first; fewer where the space has no more.

    The bins have equally many of POOL random archs (or of all, where there are no more), in order of MACs. With a
    larger n the same archs are drawn, and further ones.
    """
    space, rng = recipe.space, rng_of(seed, "trust")
    all_archs = space.count() <= POOL
    archs = list(dict.fromkeys(space.enumerate() if all_archs else (space.sample(rng) for _ in range(POOL))))
    rng.shuffle(archs)
    turn = {arch: i for i, arch in enumerate(archs)}
    plans = price.plans_of(config, space.maximum())
    priced = price.price_archs(plans, archs, (recipe.scales[0],), "macs")
    pool = sorted(((flops[0], arch.id, arch, params) for arch, flops, params in priced), key=lambda p: p[:2])
    drawn, first = [], 0
    for b in range(bins):
        part = pool[first : first + _share(len(pool), bins, b)]
        first += len(part)
        part = sorted(part, key=lambda p: turn[p[2]])[: _share(n, bins, b)]
        drawn += [Drawn(arch, macs, params, b) for macs, _, arch, params in sorted(part, key=lambda p: p[:2])]
    return drawn


def _share(n: int, bins: int, b: int) -> int:
    """How many of n are in bin b; with a larger n, no bin has fewer."""
    return n // bins + (b < n % bins)


# --- their scores ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """How archs are trained on their own."""

    images: Any  # the training set, of the task's kind
    digest: str  # of it
    optimisation: Optimisation
    steps: int


def open_own(recipe: Recipe, epochs: float | None, steps: int | None) -> Own:
    """The training set and the config's train section, for a quarter of its steps, or as long as is asked for.

    Policy and teachers are left out: an arch on its own learns from the labels. The warm-up is shortened with the rest.
    """
    task, images = recipe.task, open_split(recipe, "train")
    task.sets.require_labels(images, recipe.data)
    options = Optimisation(**{f.name: getattr(recipe.train, f.name) for f in fields(Optimisation)})
    if frozen := [part for part in PARTS if getattr(options, f"{part}_lr") == 0]:
        raise UsageError(
            f"train.{frozen[0]}_lr is 0, but an arch that is trained alone begins with new weights: its {frozen[0]} "
            "would stay random",
            f"Let it learn: --set train.{frozen[0]}_lr=null",
        )
    full_steps = options.total_steps(task.sets.count(images), 1)
    if epochs is not None:
        steps = replace(options, epochs=epochs, steps=None).total_steps(task.sets.count(images), 1)
    elif steps is None:
        steps = max(1, round(full_steps / SHARE))
    warmup = min(options.warmup_steps, round(options.warmup_steps * steps / full_steps))
    return Own(images, task.sets.digest(images), replace(options, steps=steps, warmup_steps=warmup), steps)


def protocols(session: Session, own: Own, record: Record) -> dict[str, dict[str, Any]]:
    """How the scores of a record are measured: plain data by tag. The own score has nothing of the checkpoint, so that
    several supernets can be compared to the same ones."""
    by_tag = {tag: sweep.test_protocol(session, record, tag == CALIBRATED) for tag in (RAW, CALIBRATED)}
    options = replace(own.optimisation, checkpoint_steps=None, checkpoint_minutes=1.0)
    options_text = (
        f"{text_of(options)} {session.recipe.data.augment} {session.config} {session.recipe.train.channels_last}"
    )
    by_tag[OWN] = {
        **session.bench.protocol(shape_of(record, session.recipe), True),
        "trained_images": session.recipe.task.sets.count(own.images),
        "trained_data": own.digest,
        "trained_steps": own.steps,
        "trained_lr": options.lr,
        "trained_with": short_digest(options_text),
        "seed": session.seed,
    }
    return by_tag


class Known:
    """All scores of a results file, each under how it was measured."""

    def __init__(self, results: Results) -> None:
        self.scores: dict[str, Mapping[str, Any]] = {}
        self.records: dict[str, Record] = {}  # by all three
        for record in modelspace.load(results.kept) if results.records else ():
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in a record."""
        by_tag = record.get("protocol", {})
        for tag, protocol in by_tag.items():
            self.scores[self._key(record, {tag: protocol})] = record["metric"][tag]
        self.records[self._key(record, by_tag)] = record

    def whole(self, record: Record, by_tag: Mapping[str, Any]) -> Record | None:
        """The record of the same arch that has all these scores."""
        return self.records.get(self._key(record, by_tag))

    def score(self, record: Record, tag: str, protocol: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The metrics of the same arch under a tag, measured in the same way."""
        return self.scores.get(self._key(record, {tag: protocol}))

    @staticmethod
    def _key(record: Record, by_tag: Mapping[str, Any]) -> str:
        return json.dumps([Arch.of(record["arch"]).id, by_tag], sort_keys=True)


def record_of(drawn: Drawn, shape: InputShape) -> Record:
    """The record of an arch without scores."""
    return {
        "arch": drawn.arch.nested(),
        "data": {"input_shape": plain_shape(shape)},
        "overhead": {"flops": drawn.macs, "params": drawn.params, "convention": "macs"},
    }


def compare(
    session: Session,
    own: Own,
    record: Record,
    arch: Arch,
    known: Known,
    folder: str,
    on_step: Callable[[StepReport], None],
) -> Record:
    """The record with its three scores; those that are known are not measured again.

    A training that was killed goes on from its checkpoint in `folder`. Raises ConflictError where another process
    trains there.
    """
    for tag, protocol in protocols(session, own, record).items():
        metrics_known = known.score(record, tag, protocol)
        if metrics_known is not None:
            metric, by_tag = record.get("metric", {}), record.get("protocol", {})
            record = {**record, "metric": {**metric, tag: dict(metrics_known)}, "protocol": {**by_tag, tag: protocol}}
        elif tag == OWN:
            shape = shape_of(record, session.recipe)
            metrics = _own_score(session, own, arch, shape, protocol, folder, on_step)
            record = sweep.scored(session, record, arch, shape, tag, metrics, protocol)
        else:
            record = sweep.test_record(session, record, arch, tag, tag == CALIBRATED)
    return record


def _own_score(
    session: Session,
    own: Own,
    arch: Arch,
    shape: InputShape,
    protocol: dict[str, Any],
    folder: str,
    on_step: Callable[[StepReport], None],
) -> dict[str, float]:
    """Metrics of a network at `arch` that is trained from new weights, scored as search-nas train scores."""
    net = nets.build_at(session.recipe, session.config, arch, session.seed)
    wiring_of(net).head.silence(net, len(session.bench.categories))
    net = net.to(session.device)
    if session.recipe.train.channels_last:
        net = net.to(memory_format=torch.channels_last)
    with checkpoint.held(folder):
        sweep.train_static(session, net, arch, own.images, own.optimisation, shape, protocol, folder, on_step)
    return session.bench.score(net, shape, calibrated=bool(session.bench.calibration.ids))


# --- the verdict ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An arch with its scores; the higher the better."""

    macs: int
    bin: int
    raw: float
    calibrated: float
    own: float


def row_of(record: Record, drawn: Drawn, metric: str) -> Row:
    """The scores of a record under the name of a metric."""
    raw, calibrated, own = (float(record["metric"][tag][metric]) for tag in (RAW, CALIBRATED, OWN))
    return Row(drawn.macs, drawn.bin, raw, calibrated, own)


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Kendall's tau-b of raw and calibrated scores, and of MACs, with the own scores; and the verdict: plain data.

    Each tau is null where all values of one side are equal. `p`: see records/kendall.py; that of `within` is of
    all bins together.
    """
    bins = sorted({row.bin for row in rows})
    parts = [[row for row in rows if row.bin == b] for b in bins]
    correlations = {name: _correlation(rows, parts, name) for name in ("raw", "calibrated", "macs")}
    word, text = verdict(correlations, [len(part) for part in parts])
    return {
        "archs": len(rows),
        "bins": [
            {"archs": len(p), "macs_min": min(r.macs for r in p), "macs_max": max(r.macs for r in p)} for p in parts
        ],
        "tau": correlations,
        "verdict": word,
        "why": text,
    }


def _correlation(rows: Sequence[Row], parts: Sequence[Sequence[Row]], name: str) -> dict[str, Any]:
    def pairs(some: Sequence[Row]) -> Pairs:
        return [float(getattr(row, name)) for row in some], [row.own for row in some]

    within = [tau_b(*pairs(part)) for part in parts]
    known = [tau for tau in within if tau is not None]
    return {
        "all": tau_b(*pairs(rows)),
        "p": p_value([pairs(rows)]),
        "within": within,
        "within_mean": sum(known) / len(known) if known else None,
        "within_p": p_value([pairs(part) for part in parts]),
    }


def verdict(tau: Mapping[str, Mapping[str, Any]], sizes: Sequence[int]) -> tuple[str, str]:
    """(trust, between sizes, within sizes or no; why, in words) for the calibrated scores. sizes: archs of each bin."""
    calibrated, plain = tau["calibrated"], tau["macs"]
    over = _holds(calibrated["all"], calibrated["p"])
    within = _holds(calibrated["within_mean"], calibrated["within_p"])
    few = least_p(sizes) > SURE
    wide = f"tau {_number(calibrated['all'])} over all (p {_number(calibrated['p'])})"
    narrow = f"{_number(calibrated['within_mean'])} among archs of about one size (p {_number(calibrated['within_p'])})"
    if len(sizes) < 2:
        narrow, within, few = "one bin alone", over, False
    if over and within:
        word, text = "trust", f"trust it: its scores rank archs as training them does, {wide}, {narrow}"
    elif over:
        word, text = "between sizes", f"trust it only between sizes: {wide}, {narrow}"
    elif within:
        word, text = "within sizes", f"trust it only among archs of about one size: {narrow}, {wide}"
    else:
        word, text = "no", f"don't trust it: {wide}, {narrow}: that may be chance"
    if few and not within:
        text += "; too few archs per bin to tell: raise --n, or lower --bins"
    if over and plain["all"] is not None and plain["all"] >= calibrated["all"]:
        text += f". Plain MACs rank as well over all ({_number(plain['all'])})"
    return word, text


def _holds(tau: float | None, p: float | None) -> bool:
    return tau is not None and p is not None and tau > 0 and p <= SURE


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"
