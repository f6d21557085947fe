"""How fast things are on this machine: some steps of the made config are trained, and thrown away."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from searchkit.nas.latency.device import Clock
from searchkit.nas.latency.nets import Source, Weights, eager_call, onnx_call
from searchkit.nas.models.subnet import subnet
from searchkit.nas.setup.schedule import Speeds
from searchkit.nas.tasks import read as configs
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import net as nets
from searchkit.nas.train import speed
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.splits import class_names, open_split
from searchkit.nas.train.supernet import Watch, train_supernet

TIMED_S = 1.0  # of images, that the plain detector is run on
MEASURED_S = 25.0  # of the supernet's trainings, and of the plain detector's
WARM_STEPS = 2  # before the clock
MOST_STEPS = 60
FASTER = 1.15  # that steps with 16 bits must be, at least, to be taken


class _Enough(Exception):
    """What is to be known is known."""


def speeds(config: str, plain: Sequence[str], device: str, cores: int, seed: int) -> Speeds:
    """Train the supernet of a config, with 32 bits and with 16, and its plain detector (by these overrides) in what is
    taken of these, for some steps each, on a device; on a CPU with so many threads."""
    where, threads = torch.device(device), torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        names = ["fp32", *(["bf16"] if where.type == "cpu" or torch.cuda.is_bf16_supported() else [])]
        each = {
            name: _step_s(configs.load(config, (_in(name),)), where, seed, MEASURED_S / len(names)) for name in names
        }
        precision, compared = taken({name: step for name, (step, _) in each.items()})
        step, n = each[precision]
        plain_recipe = configs.load(config, (*plain, _in(precision)))
        plain_step, m = _step_s(plain_recipe, where, seed, MEASURED_S)
        image = _image_s(plain_recipe, where, seed)
    finally:
        torch.set_num_threads(threads)
    origin = f"measured: {n} steps of the supernet, {m} of the plain detector"
    return Speeds(step, plain_step, image, origin, precision, compared)


def _in(precision: str) -> str:
    return f"train.precision={precision}"


def taken(steps: Mapping[str, float]) -> tuple[str, str]:
    """(the precision that is taken, why), of the seconds of a step in each."""
    if "bf16" not in steps:
        return "fp32", "the device has no bf16"
    times = steps["fp32"] / steps["bf16"]
    measured = f"a step of the supernet takes {steps['bf16']:.3g} s in bf16, {steps['fp32']:.3g} s in fp32"
    if times >= FASTER:
        return "bf16", f"{measured}: {times:.2g} times as fast"
    return "fp32", f"{measured}, and bf16 is taken from {FASTER:g} times as fast on"


def ms_of(config: str, plain: Sequence[str], device: str, runtime: str, seed: int) -> float:
    """The time of the plain detector of a config (by these overrides) for one image of the data, ms, as the table of
    its rows counts it: in that runtime, on a CPU with one thread."""
    recipe, where, threads = configs.load(config, tuple(plain)), torch.device(device), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        source = Source(recipe, sized(recipe, class_names(recipe)), Weights(), seed)
        arch, shape = recipe.supernet.maximum(), recipe.scales[0]
        with tempfile.TemporaryDirectory() as folder:
            call = (
                eager_call(source, arch, shape, where)
                if runtime == "eager"
                else onnx_call(source, arch, shape, where, 1, os.path.join(folder, "plain.onnx"))
            )
            return Clock(where, 1).time(call, TIMED_S).ms
    finally:
        torch.set_num_threads(threads)


def _image_s(recipe: Recipe, device: torch.device, seed: int) -> float:
    """The median time in which torch runs the largest arch of a recipe on one training image, s."""
    data = open_split(recipe, "train")
    net = nets.build(recipe, data.names, seed).to(device)
    recipe.task.network.set_scale(net, recipe.scales[0], recipe.data)
    static: Any = subnet(net, recipe.space.maximum(), sized(recipe, data.names))
    batches = recipe.task.sets.eval_batches(data, 8, 0, recipe.scales[0])
    return speed.ms_of(static.eval(), batches, device, recipe.train.precision, recipe.task) / 1000


def _step_s(recipe: Recipe, device: torch.device, seed: int, seconds: float) -> tuple[float, int]:
    """(seconds of a step, how many were measured)."""
    times: list[float] = []
    began = time.monotonic()

    def step(_: object) -> None:
        times.append(time.monotonic())
        fresh = len(times) - WARM_STEPS - 1
        if fresh >= MOST_STEPS or (fresh >= 1 and times[-1] - began > seconds):
            raise _Enough

    with tempfile.TemporaryDirectory() as folder:
        try:
            watch = Watch(lambda _: None, step, lambda *_: None)
            train_supernet(recipe, folder, seed=seed, device=device, watch=watch, teach=open_teaching)
        except _Enough:
            pass
    spent = [b - a for a, b in zip(times[WARM_STEPS:], times[WARM_STEPS + 1 :], strict=False)]
    return statistics.fmean(spent) if spent else times[-1] - began, len(spent)
