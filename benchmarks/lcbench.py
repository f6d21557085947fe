"""Regret of searches on recorded curves of LCBench (a surrogate): what early stopping saves, and what it costs.

    SEARCHKIT_TEST_DATA=/folder/with/lcbench .venv/bin/python benchmarks/lcbench.py [--seeds 3] [--rows tpe,tpe-min1]

34 data sets x 7 hyper-parameters x 52 epochs as a neural network in ONNX (YAHPO Gym, Pfisterer et al. 2022; LCBench,
Zimmer et al. 2021); ten data sets are used here. A search is replayed by searchkit's own samplers and stoppers, one
trial after another, an epoch costing one unit. Its regret at a budget, in percent, is 100 (best - found) / (best -
median), best and median over 20,000 random points at epoch 52; found is the value at epoch 52 of the point that the
user would take: the one whose best report so far is the best. Needs onnxruntime (not one of searchkit's packages).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial, Verdict
from searchkit.suite.space.args import Range
from searchkit.suite.space.space import Genes, Space

EPOCHS = 52
DATA_SETS = ("3945", "7593", "34539", "126026", "146212", "167104", "167168", "168331", "189354", "189909")
BUDGETS = (10, 20, 60)  # in trainings of 52 epochs
GOAL = Objective("accuracy", "max")
ARGS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
POINTS = 20_000  # random ones, for the best and the median of a data set
KINDS = {(False, False): "Uniform", (False, True): "LogUniform", (True, False): "Int", (True, True): "LogInt"}
# name: (sampler, options of asha, None: no stopper)
ROWS: Mapping[str, tuple[str, Mapping[str, Any] | None]] = {
    "random": ("random", None),
    "random-min1": ("random", {"min": 1, "max": EPOCHS}),
    "random-default": ("random", {"max": EPOCHS}),
    "tpe": ("tpe", None),
    "tpe-min1": ("tpe", {"min": 1, "max": EPOCHS}),
    "tpe-default": ("tpe", {"max": EPOCHS}),
    "tpe-min6": ("tpe", {"min": 6, "max": EPOCHS}),
    "tpe-default-promotion": ("tpe", {"max": EPOCHS, "promotion": True}),
}


@dataclass
class Curves:
    """The curves of one data set: percent of validation accuracy by point and epoch."""

    session: Any
    number: int
    known: dict[tuple[float, ...], np.ndarray] = field(default_factory=dict)

    def at(self, points: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Accuracy of points (N, 7) at epochs (N,)."""
        cont = np.concatenate([epochs[:, None], points], 1).astype(np.float32)
        cat = np.full((len(points), 1), self.number, np.int32)
        return self.session.run(None, {"x_cat": cat, "x_cont": cont})[0][:, 1]

    def of(self, genes: Genes) -> np.ndarray:
        """The curve of one point, (52,)."""
        key = tuple(float(genes[name]) for name in ARGS)
        if key not in self.known:
            self.known[key] = self.at(np.tile(key, (EPOCHS, 1)), np.arange(1, EPOCHS + 1))
        return self.known[key]


def space_of(folder: Path) -> Space:
    """The seven arguments with the ranges and scales of the benchmark."""
    declared = {h["name"]: h for h in json.loads((folder / "config_space.json").read_text())["hyperparameters"]}
    return Space(
        tuple(
            Range(name, KINDS[h["type"] == "uniform_int", h["log"]], h["lower"], h["upper"])
            for name in ARGS
            for h in (declared[name],)
        )
    )


def replay(sampler: str, options: Mapping[str, Any] | None, space: Space, curves: Curves, seed: int) -> list[float]:
    """What a search would have handed over at each budget: the last value of the point with the best report."""
    suggest = algorithms.sampler(sampler)(space, (GOAL,), seed).suggest
    stopper = algorithms.stopper("asha")(GOAL, **options) if options is not None else None
    history: list[Trial] = []
    done: list[int] = []
    order = itertools.count()
    spent, best, taken = 0, -np.inf, 0
    handed: list[float] = []
    while True:
        index = stopper.promote(history) if stopper else None
        if index is None:
            history.append(Trial(len(history), suggest(history, 1)[0], "running", asked=next(order)))
            done.append(0)
            index = len(history) - 1
        else:
            history[index] = replace(history[index], state="running", scores=None, told=None)
        verdict, value = Verdict.CONTINUE, 0.0
        while done[index] < EPOCHS and verdict is Verdict.CONTINUE:
            done[index] += 1
            spent += 1
            trial, step = history[index], done[index]
            value = float(curves.of(trial.genes)[step - 1])
            if value > best:
                best, taken = value, index
            if stopper and stopper.wants(step, trial.reports[-1][0] if trial.reports else None):
                history[index] = replace(trial, reports=(*trial.reports, (step, value)))
                verdict = stopper.judge(history, history[index])
            if spent in {EPOCHS * budget for budget in BUDGETS}:
                handed.append(float(curves.of(history[taken].genes)[-1]))
                if len(handed) == len(BUDGETS):
                    return handed
        state = "finished" if done[index] == EPOCHS else "pruned"
        history[index] = replace(history[index], state=state, scores=(value,), told=next(order))


def bounds(space: Space, curves: Curves) -> tuple[float, float]:
    """(best, median) of 20,000 random points at the last epoch."""
    drawn = np.random.default_rng(0).random((POINTS, len(ARGS)))
    columns = []
    for arg, u in zip(space.args, drawn.T, strict=True):
        assert isinstance(arg, Range)
        log = arg.kind.startswith("Log")
        low, high = (np.log(v) if log else v for v in (arg.low, arg.high))
        values = np.exp(low + u * (high - low)) if log else low + u * (high - low)
        columns.append(np.round(values) if arg.kind.endswith("Int") else values)
    final = curves.at(np.stack(columns, 1), np.full(POINTS, EPOCHS))
    return float(final.max()), float(np.median(final))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)} (default: all)")
    args = parser.parse_args()
    folder = os.environ.get("SEARCHKIT_TEST_DATA")
    if not folder:
        sys.exit("set SEARCHKIT_TEST_DATA to a folder with lcbench/")
    import onnxruntime

    data = Path(folder) / "lcbench"
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data / "lcbench.onnx", threads, providers=["CPUExecutionProvider"])
    numbers = json.loads((data / "encoding.json").read_text())["OpenML_task_id"]
    space = space_of(data)
    sets = {name: Curves(session, numbers[name]) for name in DATA_SETS}
    ends = {name: bounds(space, curves) for name, curves in sets.items()}
    print(f"regret in %, mean (median) of {len(sets)} data sets x {args.seeds} seeds, after N trainings' epochs")
    print("| | " + " | ".join(map(str, BUDGETS)) + " |")
    print("| --- |" + " ---: |" * len(BUDGETS))
    for row in args.rows.split(","):
        sampler, options = ROWS[row]
        regrets: list[Sequence[float]] = []
        for name, curves in sets.items():
            best, median = ends[name]
            for seed in range(args.seeds):
                handed = replay(sampler, options, space, curves, seed)
                regrets.append([100 * (best - value) / (best - median) for value in handed])
        cells = [
            f"{statistics.fmean(column):.1f} ({statistics.median(column):.1f})" for column in zip(*regrets, strict=True)
        ]
        print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
