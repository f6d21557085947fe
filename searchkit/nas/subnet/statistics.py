"""Which batch-norm statistics a subnet takes along from its supernet: those that its score was measured with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.nn import window
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.nas.subnet.results import calibration_file
from searchkit.nas.train.bench import Calibration, calibration_of, open_calibration
from searchkit.nas.train.evaluate import calibrate, calibrated_norms
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import Test
from searchkit.reading.kinds import LATER

NONE = Calibration()
CALIBRATED, RAW, OWN = "calibrated", "raw", "own"


@dataclass(frozen=True)
class Score:
    """A score of a record, and how it was measured."""

    tag: str
    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    measured: Mapping[str, Any]  # on which device, with which versions and seed; empty in records of older versions

    @property
    def calibrated(self) -> bool:
        """Whether statistics were calibrated for it. Those of a subnet that was tuned were before its tuning."""
        return bool(self.protocol.get("calibration_images")) and "tuned_steps" not in self.protocol


@dataclass(frozen=True)
class Statistics:
    """The batch-norm statistics that a subnet gets."""

    kind: str  # CALIBRATED, RAW (the supernet's), or OWN (of a network that was trained on its own)
    why: str  # in words
    recipe: Recipe  # with the batch, precision and image sizes of the score
    calibration: Calibration = NONE
    note: str = ""  # what could not be done as it was for the score

    def give(self, net: nn.Module, shape: InputShape, device: torch.device) -> int:
        """Give them to a private network, in place; returns how many images were seen."""
        task = self.recipe.task
        task.network.set_scale(net, shape, self.recipe.data)
        batches = self.calibration.batches(shape)
        return calibrate(net, batches, device, self.recipe.train.precision, task=task)


def score_of(
    record: Mapping[str, Any], sha256: str, own: Mapping[str, Any] | None, shape: InputShape, tag: str | None = None
) -> tuple[Score | None, str]:
    """(the score of a record that was measured with a checkpoint's weights at an input shape, why there is none).

    sha256: of the checkpoint; own: the protocol in it, where it is that of a subnet trained on its own. Of several
    scores that of `tag`, else the first calibrated one.
    """
    protocols = {
        name: protocol for name, protocol in record.get("protocol", {}).items() if isinstance(protocol, Mapping)
    }
    own_text = None if own is None else _text(own)
    own_scores = [
        Score(name, record.get("metric", {}).get(name, {}), protocol, record.get("measured", {}).get(name, {}))
        for name, protocol in protocols.items()
        if _text(protocol) == own_text or (protocol.get("checkpoint") == sha256 and "tuned_steps" not in protocol)
    ]
    at_shape = [score for score in own_scores if score.protocol.get("input_shape") == plain_shape(shape)]
    if at_shape:
        return min(at_shape, key=lambda score: (score.tag != tag, not score.calibrated)), ""
    if own_scores:
        return None, f"the record's scores are of another input shape ({own_scores[0].protocol.get('input_shape')})"
    names = ", ".join(f"metric.{name}" for name in protocols)
    return None, f"the record's scores ({names}) are of other weights than this checkpoint's" if names else (
        "the record has no score that says how it was measured"
    )


def _text(protocol: Mapping[str, Any]) -> str:
    return json.dumps(protocol, sort_keys=True)


def as_scored(recipe: Recipe, score: Score) -> Recipe:
    """The recipe with the settings of a score's protocol in place of the config's."""
    protocol = score.protocol
    names = {"split": "split", "batch_size": "batch_size", "calibration_images": "calibration_images"}
    plain = Test()
    beyond = {f.name: protocol.get(f.name, getattr(plain, f.name)) for f in fields(plain) if f.metadata == LATER}
    test = replace(recipe.test, **{name: protocol[key] for name, key in names.items() if key in protocol}, **beyond)
    of_data = [name for name in recipe.task.sets.protocol(recipe.data) if name in protocol]
    parts = {key: protocol.get(key, 0) for key in ("held_out", "held_out_seed")}
    data = replace(recipe.data, **{name: protocol[name] for name in of_data}, **parts)
    train = replace(recipe.train, precision=protocol.get("precision", recipe.train.precision))
    return replace(recipe, test=test, data=data, train=train)


def statistics_of(
    recipe: Recipe,
    score: Score | None,
    why_none: str,
    *,
    alone: bool,
    raw: bool,
    again: bool,
    seed: int,
    records: str | None,
) -> Statistics:
    """Which statistics the subnet of a checkpoint gets.

    alone: the checkpoint is of a network that was tuned on its own; raw: take what the checkpoint has; again:
    calibrate, whatever it is; records: the file of the score, beside which its calibration images may be listed.
    Raises UsageError where the config names no training images.
    """
    kind = OWN if alone else RAW
    if raw:
        return Statistics(kind, "--raw", recipe)
    if score is not None and not again:
        recipe = as_scored(recipe, score)
        why = f"as for the record's metric.{score.tag}"
        if not score.calibrated:
            return Statistics(kind, why, recipe)
        calibration, note = _found_again(recipe, score, seed, records)
        return Statistics(CALIBRATED, why, recipe, calibration, note)
    if alone and not again:
        return Statistics(kind, "it was tuned on its own, and is scored so", recipe)
    why = f"by the config's test section: {'--calibrate' if again else why_none}"
    if not recipe.test.calibration_images:
        return Statistics(kind, f"{why}; test.calibration_images is 0", recipe)
    _require_train(recipe)
    return Statistics(CALIBRATED, why, recipe, open_calibration(recipe, seed))


def _require_train(recipe: Recipe) -> None:
    if recipe.data.train is None:
        raise UsageError(
            "calibrating batch-norm statistics needs training images, but the config has no data.train",
            "Give data.train; or keep the checkpoint's raw statistics, with which no subnet is scored (--raw)",
        )


def _found_again(recipe: Recipe, score: Score, seed: int, records: str | None) -> tuple[Calibration, str]:
    """(the calibration images of a score, what to say where they could not be found again): those that are listed
    beside the records, else those that the seed draws."""
    _require_train(recipe)
    digest = score.protocol["calibration_ids"]
    ids = None if records is None else _listed(calibration_file(records, digest))
    calibration = None if ids is None else calibration_of(recipe, ids)
    if calibration is None:
        calibration = open_calibration(recipe, score.measured.get("seed", seed))
    if calibration.digest == digest:
        return calibration, ""
    return calibration, (
        f"the images that calibrated the score can't be told (calibration-{digest}.json is not beside the records, or "
        f"the training set has changed): {len(calibration.ids)} others were taken"
    )


def _listed(path: str) -> list[Any] | None:
    """The image ids in a calibration-….json; None where there is no such file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as f:
        return list(json.load(f)["image_ids"])
    return None


@contextlib.contextmanager
def lent(source: nn.Module, static: nn.Module) -> Iterator[None]:
    """A context in which a supernet has the statistics of one of its subnets."""
    own = dict(source.named_buffers())
    modules = {id(module): name for name, module in static.named_modules()}
    pairs = []
    for norm in calibrated_norms(static):
        for name in ("running_mean", "running_var"):
            value = getattr(norm, name)
            pairs.append((window(own[f"{modules[id(norm)]}.{name}"], value.shape), value))
    before = [buffer.clone() for buffer, _ in pairs]
    try:
        for buffer, value in pairs:
            buffer.copy_(value)
        yield
    finally:
        for (buffer, _), value in zip(pairs, before, strict=True):
            buffer.copy_(value)


def protocol_differences(score: Score, protocol: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """What differs between the protocol of a score and another one, in words; model: what `bench.model_said` says for
    the other one, since protocols have only digests of it."""
    scored = score.protocol
    lines = {
        key: f"{key} {scored[key]} there, {protocol[key]} here"
        for key in protocol
        if key in scored and scored[key] != protocol[key]
    }
    scored_model = score.measured.get("model")  # records of older versions don't say it
    if "model" in lines and scored_model is not None:
        names = [name for name in {**scored_model, **model} if scored_model.get(name) != model.get(name)]
        lines_of_model = [
            f"model.{n} {scored_model.get(n, 'by default')} there, {model.get(n, 'by default')} here" for n in names
        ]
        lines["model"] = "; ".join(lines_of_model) or lines["model"]
    return list(lines.values())


def environment_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between where two scores were measured, in words."""
    names = [name for name in new if old.get(name) != new[name]]
    return [f"{name} {old.get(name, 'not known')} there, {new[name]} here" for name in names]
