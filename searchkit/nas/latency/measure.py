"""A table of times, measured: every row of a space, then whole networks that its sums are held against."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from searchkit import fsio
from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cost.latency import FORMAT, On, Table, read_table
from searchkit.nas.cost.price import price
from searchkit.nas.cost.unique import rows_of
from searchkit.nas.latency import eager, nets, onnx_rows
from searchkit.nas.latency.device import Clock, clocks, device_name
from searchkit.nas.latency.judge import Judgement, Sample, judge
from searchkit.nas.latency.log import Log, differences, opened
from searchkit.nas.latency.rows import Spec, specs_of
from searchkit.nas.models.part import HEAD, NetConfig, NetPlan
from searchkit.nas.models.plans import plans_of
from searchkit.nas.space.shapes import InputShape, height_width, plain_shape
from searchkit.nas.train.recipe import Recipe, model_digest
from searchkit.records.arch import Arch
from searchkit.seeds import rng_of

ROW_S, NET_S = 0.05, 0.2  # that a row, a network in one round, is run
ROUNDS = 5  # in which all networks take turns
EVERY = 25  # rows, after which the first is measured again: does the machine still run as it did?
DRIFT = 1.1  # of its longest to its shortest time, above which that is said
WALL = 1.2  # time on the wall for the processor's, above which it is said that the machine was busy
LOG = ".measured"  # behind the name of a table: what was measured of it so far

Watch = Callable[[str, int, int, str], None]
"""(what is measured, how many are done, of how many, a note); called before the first of them, too."""


@dataclass(frozen=True)
class Request:
    """What is measured, and how."""

    recipe: Recipe
    config: NetConfig  # the recipe's, with its number of classes
    runtime: str  # eager, onnxruntime
    device: torch.device
    threads: int
    shapes: tuple[InputShape, ...]
    networks: int  # that are measured whole
    pause_s: float  # between two measurements
    weights: nets.Weights
    seed: int

    @property
    def on(self) -> On:
        version = (
            str(torch.__version__) if self.runtime == "eager" else str(onnx_rows.package("onnxruntime").__version__)
        )
        return On(self.runtime, version, str(self.device), device_name(self.device), self.threads)


def measure(request: Request, out: str, watch: Watch, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure what a table at `out` lacks, write it, and return it. What was measured stands in a file beside it until
    then.

    Raises UsageError for too few networks, and ConflictError where `out` is of another device or model.
    """
    if request.networks and request.networks < 2 * len(request.shapes):
        needed = 2 * len(request.shapes)
        raise UsageError(
            f"--nets must be 0, or at least two for each input shape ({needed}), not {request.networks}",
            "One of two says what is no row, the other judges the sums",
        )
    maximum = request.recipe.space.maximum()
    plans = plans_of(request.config, maximum)
    regions_kept = getattr(plans.head, "regions_kept", None)
    regions = None if regions_kept is None else regions_kept(maximum.part(HEAD))
    rows = rows_of(plans, request.recipe.space, request.shapes)
    specs = specs_of(rows.placed, request.config, maximum, regions)
    say(f"{len(specs):,} different rows and sizes {rows.text()}")
    head = {
        "on": asdict(request.on),
        "model": model_digest(request.recipe),
        "whole": _whole(request),
        "seed": request.seed,
    }
    clock = Clock(request.device, request.threads)
    with opened(out + LOG, head) as log:
        for entry in _earlier(out, head):
            if entry not in log.entries:
                log.add(entry)
        before = clocks(request.device)
        drift = _measure_rows(request, specs, clock, log, watch)
        busy = [entry["on_wall"] for entry in log.entries if "row" in entry]
        networks = _measure_nets(request, clock, log, watch) if request.networks else []
        table = _table(request, specs, plans, log, head, networks)
        table["machine"] = {
            "clock": clock.name,
            "system": platform.platform(),
            "before": before,
            "after": clocks(request.device),
            "drift": drift,
            "on_wall": round(statistics.median(busy), 3),
        }
        _say_machine(table["machine"], say)
        with fsio.storage():
            fsio.atomic_write(out, json.dumps(table, indent=1) + "\n")
            os.unlink(out + LOG)
    return table


def _whole(request: Request) -> str:
    """What a whole network is, in words."""
    image = "an image of the data" if nets.pictured(request.recipe) else "noise of the input shape"
    return f"from pixels to what is found; {request.weights.text(image)}"


def _earlier(out: str, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the table at `out` has, as a log has it. Raises ConflictError for one of another head."""
    if not os.path.exists(out):
        return []
    read_table(out)  # which refuses what is no table
    body = json.loads(fsio.read_bytes(out) or b"")
    if lines := differences({key: body[key] for key in head}, head):
        raise ConflictError(f"{out} is another table: {lines}", "Name another --out, or remove that file")
    entries: list[dict[str, Any]] = [*body["rows"], *body["nets"]]
    return entries


def _say_machine(machine: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """What speaks against the times."""
    if machine["drift"] > DRIFT:
        say(f"note: the same row took up to {machine['drift']:.2f} times as long as at best: is the machine throttled?")
    if machine["on_wall"] > WALL:
        say(f"note: the machine was busy: a second of computing took {machine['on_wall']:.1f} s")
    if machine["before"].get("throttled", 0) != machine["after"].get("throttled", 0):
        say("note: the machine says that it was throttled meanwhile")
    if not machine["before"]:
        say("note: this machine tells neither clocks nor throttling")


# --- rows ------------------------------------------------------------------------------------------------------------


def _measure_rows(request: Request, specs: Sequence[Spec], clock: Clock, log: Log, watch: Watch) -> float:
    """Measure the rows that the log lacks; how much longer one row took at worst than at best."""
    there = {(entry["row"], *entry["at"]) for entry in log.entries if "row" in entry}
    todo = [spec for spec in specs if spec.key not in there]
    watch("rows", len(there), len(there) + len(todo), "")
    idle = clock.time(_idle_call(request), ROW_S).ms if todo else 0.0
    again: list[float] = []
    for i, spec in enumerate(todo):
        if i % EVERY == 0:
            again.append(clock.time(row_call(request, todo[0]), ROW_S).ms)
        timing = clock.time(row_call(request, spec), ROW_S)
        text, *at = spec.key
        entry = {"row": text, "at": at, "on": spec.on, "group": spec.kind, "ms": round(max(0.0, timing.ms - idle), 6)}
        ran = {"runs_at": list(spec.runs_at)} if spec.runs_at != spec.at else {}
        log.add({**entry, **ran, "runs": timing.runs, "on_wall": round(timing.on_wall, 3)})
        watch("rows", len(there) + i + 1, len(there) + len(todo), f"{timing.ms:.3f} ms  {text[:40]}")
        time.sleep(request.pause_s)
    return round(max(again) / min(again), 3) if again else 1.0


def row_call(request: Request, spec: Spec) -> eager.Call:
    """A call that runs a row once, as the runtime does."""
    if request.runtime == "eager":
        return eager.row_call(spec, request.device)
    return onnx_rows.row_call(spec, request.device, request.threads)


def _idle_call(request: Request) -> eager.Call:
    """What a call costs whatever it runs."""
    if request.runtime == "eager":
        return lambda: None
    import numpy as np

    x = np.zeros((1, 8), np.float32)
    return onnx_rows.model_call(onnx_rows.empty_model(), {"x": x}, request.device, request.threads)


# --- whole networks --------------------------------------------------------------------------------------------------


def points_of(request: Request) -> list[tuple[Arch, InputShape]]:
    """The random archs that are measured whole, input shapes in turn, each shape for two of them."""
    rng = rng_of(request.seed, "latency")
    shapes = request.shapes
    return [(request.recipe.space.sample(rng), shapes[i // 2 % len(shapes)]) for i in range(request.networks)]


def _measure_nets(request: Request, clock: Clock, log: Log, watch: Watch) -> list[tuple[Arch, InputShape, float]]:
    """Networks with their times: medians over rounds in which all take turns."""
    points = points_of(request)
    runs = [
        (i, {"net": arch.nested(), "input_shape": plain_shape(shape), "round": turn})
        for turn in range(ROUNDS)
        for i, (arch, shape) in enumerate(points)
    ]
    todo: list[tuple[int, dict[str, Any]]] = []
    for i, key in runs:  # of a small space the same arch may come twice
        if not any(key.items() <= entry.items() for entry in (*log.entries, *(key for _, key in todo))):
            todo.append((i, key))
    done, note = len(runs) - len(todo), ""

    def tell() -> None:
        watch("networks", done, len(runs), note)

    source = nets.Source(request.recipe, request.config, request.weights, request.seed, tell)
    tell()
    with tempfile.TemporaryDirectory(prefix="searchkit-latency-") as folder:

        def call_of(i: int) -> eager.Call:
            if request.runtime == "eager":
                return nets.eager_call(source, *points[i], request.device)
            path = os.path.join(folder, f"{i}.onnx")
            return nets.onnx_call(source, *points[i], request.device, request.threads, path)

        for i, key in todo:
            note = f"making the weights of number {i + 1} find {nets.FOUND} boxes"
            timing = clock.time(call_of(i), NET_S)
            log.add({**key, "ms": round(timing.ms, 6), "runs": timing.runs})
            done, note = done + 1, f"{timing.ms:.2f} ms"
            tell()
            time.sleep(request.pause_s)
    times: dict[tuple[str, Any], list[float]] = {}
    for entry in log.entries:
        if "net" in entry:
            times.setdefault((Arch.of(entry["net"]).id, str(entry["input_shape"])), []).append(entry["ms"])
    return [(arch, shape, statistics.median(times[arch.id, str(plain_shape(shape))])) for arch, shape in points]


# --- the table -------------------------------------------------------------------------------------------------------


def _table(
    request: Request,
    specs: Sequence[Spec],
    plans: NetPlan,
    log: Log,
    head: Mapping[str, Any],
    networks: Sequence[tuple[Arch, InputShape, float]],
) -> dict[str, Any]:
    """The table, but for what the machine tells."""
    kept = {"row", "at", "on", "group", "ms", "runs_at", "runs", "on_wall"}
    entries = [{k: v for k, v in entry.items() if k in kept} for entry in log.entries if "row" in entry]
    times = {(entry["row"], *entry["at"]): entry for entry in entries}
    mine = [spec.key for spec in specs]
    judgement = _judged(request, plans, times, networks, mine) if networks else None
    fit = judgement.fit if judgement else None
    return {
        "format": FORMAT,
        **head,
        "input_shapes": [plain_shape(shape) for shape in request.shapes],
        "correction": asdict(fit.correction) if judgement and fit and judgement.is_corrected else None,
        "rest": [[list(image), round(ms, 6)] for image, ms in fit.rest.items()] if fit else [],
        "check": dict(judgement.said) if judgement else {},
        "rows": entries,
        "nets": [entry for entry in log.entries if "net" in entry],
    }


def _judged(
    request: Request,
    plans: NetPlan,
    times: Mapping[Any, Mapping[str, Any]],
    networks: Sequence[tuple[Arch, InputShape, float]],
    mine: Sequence[Any],
) -> Judgement:
    """The sums of rows held against networks."""
    groups = list(dict.fromkeys(str(times[key]["group"]) for key in mine))
    least = {group: min(times[key]["ms"] for key in mine if times[key]["group"] == group) for group in groups}

    def counting(group: str, number: Callable[[Mapping[str, Any]], float]) -> Table:
        of_group = {key: number(entry) if entry["group"] == group else 0.0 for key, entry in times.items()}
        return Table("", "", request.on, "", of_group, {}, {})

    times_of = {group: counting(group, lambda entry: float(entry["ms"])) for group in groups}
    counts_of = {group: counting(group, lambda _: 1.0) for group in groups}
    samples = []
    for arch, shape, ms in networks:
        sums = {group: float(price(plans, arch, shape, table).flops) for group, table in times_of.items()}
        counts = {group: round(price(plans, arch, shape, table).flops) for group, table in counts_of.items()}
        samples.append(Sample(height_width(shape), sums, counts, ms))
    return judge(samples, least)
