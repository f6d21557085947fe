"""Epochs until a search is as good as the best of its grid: samplers with and without early stopping, replayed.

    .venv/bin/python benchmarks/asha.py [--seeds 20] [--workers 1] [--eta 3] [--ended] [--json results.json]
    MNIST=/folder/of/mnist .venv/bin/python benchmarks/asha.py --record [--minutes 50]

curves/mnist.jsonl holds a learning curve for every point of GRID: a small CNN on MNIST's first 10,000 training images,
pooled to 14 x 14, constant learning rate, its accuracy on the next 5,000 after each of 27 epochs. A search is replayed
on them by searchkit's own samplers and stoppers in virtual time: an epoch of any trial takes one unit, workers take
turns. It has reached the goal when any trial has reported, after any of its epochs, an accuracy of at least the grid's
best final accuracy less 0.002; what counts are the epochs that all trials together have run by then.

--record trains what the file lacks, one line a point, and goes on where it was. It needs PyTorch, the replay does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial, Verdict
from searchkit.suite.space.args import Categorical, Value
from searchkit.suite.space.space import Genes, Space

CURVES = Path(__file__).resolve().parent / "curves" / "mnist.jsonl"
EPOCHS = 27
GRID: dict[str, tuple[Any, ...]] = {
    "lr": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "batch-size": (32, 128, 512),
    "width": (3, 6, 12),
    "optimizer": ("sgd", "adam"),
    "dropout": (0.0, 0.3),
}
SPACE = Space(tuple(Categorical(name, tuple(Value(v, str(v)) for v in values)) for name, values in GRID.items()))
GOAL = Objective("accuracy", "max")

Point = tuple[Any, ...]  # values in the order of GRID


@dataclass(frozen=True)
class Way:
    """One row of the table: a sampler and, if there is one, a stopper with its options."""

    sampler: str
    stopper: str = ""
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """What one replay took until the goal; `epochs` is infinite if the space was exhausted before."""

    epochs: float
    turns: float  # virtual time: with one worker, the epochs
    trials: int


def ways(eta: int) -> dict[str, Way]:
    asha = {"min": 1, "max": EPOCHS, "eta": eta}
    return {
        "random": Way("random"),
        "random, ASHA (stopping)": Way("random", "asha", asha),
        "random, ASHA (promotion)": Way("random", "asha", {**asha, "promotion": True}),
        "random, median": Way("random", "median"),
        "tpe": Way("tpe"),
        "tpe, ASHA (stopping)": Way("tpe", "asha", asha),
    }


# --- replay ----------------------------------------------------------------------------------------------------------


def load_curves() -> dict[Point, list[float]]:
    """Point -> accuracy after each epoch. SystemExit unless every point of the grid is there."""
    lines = [json.loads(line) for line in CURVES.read_text().splitlines()] if CURVES.exists() else []
    curves = {tuple(line[name] for name in GRID): line["accuracy"] for line in lines}
    lacking = sum(1 for point in itertools.product(*GRID.values()) if len(curves.get(point, ())) != EPOCHS)
    if lacking:
        raise SystemExit(f"{CURVES} lacks {lacking} of {math.prod(map(len, GRID.values()))} points: run --record")
    return curves


def point_of(genes: Genes) -> Point:
    return tuple(values[int(genes[name])] for name, values in GRID.items())


def replay(
    way: Way, seed: int, workers: int, curves: Mapping[Point, Sequence[float]], goal: float, ended: bool = False
) -> Run:
    """One search until a trial reports `goal` (`ended`: after its last epoch); workers run an epoch each in turn."""
    sampler = algorithms.sampler(way.sampler)(SPACE, (GOAL,), seed)
    stopper = algorithms.stopper(way.stopper)(GOAL, **way.options or {}) if way.stopper else None
    history: list[Trial] = []
    done: list[int] = []  # epochs, by trial
    running: deque[int] = deque()
    order = itertools.count()
    turns = 0.0

    def start() -> int | None:
        promoted = stopper.promote(history) if stopper else None
        if promoted is not None:
            history[promoted] = replace(history[promoted], state="running", scores=None, told=None)
            return int(promoted)
        for genes in sampler.suggest(history, 1):
            history.append(Trial(len(history), genes, "running", asked=next(order)))
            done.append(0)
            return len(history) - 1
        return None

    while True:
        while len(running) < workers and (new := start()) is not None:
            running.append(new)
        if not running:
            return Run(math.inf, math.inf, len(history))
        turns += 1 / len(running)
        index = running.popleft()
        done[index] += 1
        step, trial, verdict = done[index], history[index], Verdict.CONTINUE
        value = curves[point_of(trial.genes)][step - 1]
        if value >= goal and (step == EPOCHS or not ended):
            return Run(sum(done), math.ceil(turns - 1e-9), len(history))
        if stopper and stopper.wants(step, trial.reports[-1][0] if trial.reports else None):
            trial = history[index] = replace(trial, reports=(*trial.reports, (step, value)))
            verdict = stopper.judge(history, trial)
        if step < EPOCHS and verdict is Verdict.CONTINUE:
            running.append(index)
        else:
            state = "finished" if step == EPOCHS else "pruned"
            history[index] = replace(trial, state=state, scores=(value,), told=next(order))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, each one of the values or (the median) between two."""
    ordered = sorted(values)
    n = len(ordered)
    return ordered[(n - 1) // 4], statistics.median(ordered), ordered[-1 - (n - 1) // 4]


def compare(seeds: int, workers: int, eta: int, near: float, ended: bool) -> dict[str, list[Run]]:
    """Print the table; all runs by row."""
    curves = load_curves()
    final = [curve[-1] for curve in curves.values()]
    goal = max(final) - near
    reach = [next((i for i, v in enumerate(curve, 1) if v >= goal), None) for curve in curves.values()]
    good = sorted(epoch for epoch in reach if epoch)
    stay = sum(value >= goal for value in final)
    best, typical, worst = max(final), statistics.median(final), min(final)
    print(f"{len(curves)} points; final accuracy: best {best:.4f}, median {typical:.4f}, worst {worst:.4f}. ", end="")
    print(f"{len(good)} points ever reach {goal:.4f}, after {good[0]} to {good[-1]} epochs; {stay} end there.")
    print(f"{seeds} seeds, {workers} worker(s), ASHA: min 1, max {EPOCHS}, eta {eta}\n")
    print("| | epochs: median | quartiles | mean | random / this | better than random | trials | time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    results: dict[str, list[Run]] = {}
    for name, way in ways(eta).items():
        runs = results[name] = [replay(way, seed, workers, curves, goal, ended) for seed in range(seeds)]
        first = results["random"]
        low, median, high = quartiles([run.epochs for run in runs])
        ratio = statistics.median(run.epochs for run in first) / median
        wins = sum(run.epochs < other.epochs for run, other in zip(runs, first, strict=True))
        mean = statistics.fmean(run.epochs for run in runs)
        trials, turns = (statistics.median(getattr(run, field) for run in runs) for field in ("trials", "turns"))
        print(f"| {name} | {median:.0f} | {low:.0f} .. {high:.0f} | {mean:.0f} | {ratio:.1f} | ", end="")
        print(f"{wins}/{seeds} | {trials:.0f} | {turns:.0f} |", flush=True)
    return results


# --- recording -------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> Any:
    """The array in one of MNIST's packed idx files: big-endian header (0, 0, type, dimensions), then bytes."""
    import gzip
    import struct

    import numpy as np

    with gzip.open(path, "rb") as file:
        dimensions = struct.unpack(">HBB", file.read(4))[2]
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(shape)


def load_mnist(folder: Path) -> tuple[Any, Any, Any, Any]:
    """10,000 images to train on (N x 1 x 14 x 14, about zero mean and unit variance), labels; 5,000 others, labels."""
    import torch

    images = torch.tensor(read_idx(folder / "train-images-idx3-ubyte.gz")[:15_000])[:, None].float()
    labels = torch.tensor(read_idx(folder / "train-labels-idx1-ubyte.gz")[:15_000]).long()
    images = (torch.nn.functional.avg_pool2d(images, 2) / 255 - 0.13) / 0.28
    return images[:10_000], labels[:10_000], images[10_000:], labels[10_000:]


def curve(data: tuple[Any, Any, Any, Any], point: Mapping[str, Any], seed: int) -> Iterator[float]:
    """Accuracy on the images held out, after each epoch."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    images, labels, held_images, held_labels = data
    w = point["width"]
    first = (nn.Conv2d(1, w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(*first, *second, nn.Dropout(point["dropout"]), nn.Linear(2 * w * 9, 10))
    if point["optimizer"] == "sgd":
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=point["lr"], momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=point["lr"])
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images)).split(point["batch-size"]):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            yield (model(held_images).argmax(1) == held_labels).float().mean().item()


def record(folder: Path, minutes: float) -> None:
    """Append the curves that the file lacks, in an order that mixes all values."""
    import torch

    torch.set_num_threads(1)
    data = load_mnist(folder)
    CURVES.parent.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in CURVES.read_text().splitlines()] if CURVES.exists() else []
    there = {tuple(line[name] for name in GRID) for line in lines}
    seeds = {point: zlib.crc32(repr(point).encode()) for point in itertools.product(*GRID.values())}
    began = time.monotonic()
    for point, seed in sorted(seeds.items(), key=lambda item: item[1]):
        if point in there:
            continue
        if time.monotonic() - began > 60 * minutes:
            break
        named = dict(zip(GRID, point, strict=True))
        accuracy = [round(value, 4) for value in curve(data, named, seed)]
        with CURVES.open("a") as file:
            file.write(json.dumps({**named, "seed": seed, "accuracy": accuracy}) + "\n")
        there.add(point)
        print(f"{len(there)}/{len(seeds)} {named} {accuracy[-1]:.4f} {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="trials at once (default: 1)")
    parser.add_argument("--eta", type=int, default=3, help="of ASHA (default: 3)")
    parser.add_argument("--near", type=float, default=0.002, help="of the best final accuracy (default: 0.002)")
    parser.add_argument("--ended", action="store_true", help="a trial has reached the goal only with its last epoch")
    parser.add_argument("--json", type=Path, help="write the epochs of all runs there")
    parser.add_argument("--record", action="store_true", help="train what the file of curves lacks")
    folder = os.environ.get("MNIST")
    parser.add_argument("--mnist", type=Path, default=folder, help="folder of MNIST's idx.gz files (default: $MNIST)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no further point after these")
    args = parser.parse_args()
    if args.record:
        if args.mnist is None:
            parser.error("--record needs --mnist, a folder with train-images-idx3-ubyte.gz and its labels")
        record(args.mnist, args.minutes)
        return
    results = compare(args.seeds, args.workers, args.eta, args.near, args.ended)
    if args.json:
        args.json.write_text(json.dumps({name: [run.epochs for run in runs] for name, runs in results.items()}))


if __name__ == "__main__":
    main()
