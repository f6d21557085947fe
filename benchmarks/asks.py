"""How many points a second each sampler suggests after 100, 1,000 and 10,000 trials, beside Optuna's own in memory.

taskset -c 0 .venv/bin/python benchmarks/asks.py [--trials 100 1000 10000] [--asks 30] [--repeat 3] [--json FILE]

One ask is one trial more: it is suggested, and its result becomes known before the next one. The space has five
arguments (a float, a log float, a float with steps, an int, a choice of three). *new object* is the first ask of an
object that never saw the history: what a search that goes on pays once. *ratio*: asks a second, ours over Optuna's.
Optuna has no regularized evolution, and its grid is a list of all points, so these two stand alone. NSGA-II as it
converges repeats itself: Optuna gives such points out again, we ask on until there is a new one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any

from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.space import Genes, Space

LOSS = (Objective("loss", "min"),)
CHOICE = Categorical("e", tuple(Value(i, str(i)) for i in range(3)))
SPACE = Space(
    (
        Range("a", "Uniform", 0.0, 1.0),
        Range("b", "LogUniform", 1e-5, 1.0),
        Range("c", "Uniform", 0.0, 1.0, 0.001),
        Range("d", "Int", 1, 100),
        CHOICE,
    )
)
GRID = Space((*(Range(name, "Int", 1, 30) for name in "abc"), CHOICE))


def suggest(trial: Any) -> Genes:
    return {
        "a": trial.suggest_float("a", 0.0, 1.0),
        "b": trial.suggest_float("b", 1e-5, 1.0, log=True),
        "c": trial.suggest_float("c", 0.0, 1.0, step=0.001),
        "d": trial.suggest_int("d", 1, 100),
        "e": trial.suggest_categorical("e", [0, 1, 2]),
    }


def loss(genes: Genes) -> float:
    return (genes["a"] - 0.3) ** 2 + abs(genes["b"] - 0.01) + genes["c"]


def ended(i: int, genes: Genes) -> Trial:
    return Trial(i, genes, "finished", (loss(genes),), asked=2 * i, told=2 * i + 1)


def ours(name: str, trials: int, asks: int) -> tuple[list[float], float]:
    """(seconds of each ask after so many trials, seconds of the first ask of a new object)."""
    space = GRID if name == "grid" else SPACE
    first = (
        name if name in ("grid", "nsga2") else "random"
    )  # the points before; only NSGA-II has to have asked for them
    history: list[Trial] = []
    if first == "nsga2":
        filler = algorithms.sampler(first)(space, LOSS, 0)
        for i in range(trials):
            history.append(ended(i, filler.suggest(history, 1)[0]))
    else:
        history = [
            ended(i, genes) for i, genes in enumerate(algorithms.sampler(first)(space, LOSS, 0).suggest([], trials))
        ]
    sampler = algorithms.sampler(name)(space, LOSS, 0)
    start = time.perf_counter()
    sampler.suggest(history, 1)
    new = time.perf_counter() - start
    taken = []
    for _ in range(asks):
        start = time.perf_counter()
        [genes] = sampler.suggest(history, 1)
        taken.append(time.perf_counter() - start)
        history.append(ended(len(history), genes))
    return taken[1:], new  # the first one is the same ask again


def optunas(name: str, trials: int, asks: int) -> list[float]:
    """Seconds of each `ask`, `suggest` and `tell` after so many trials."""
    import optuna

    of = optuna.samplers
    sampler = {"random": of.RandomSampler, "tpe": of.TPESampler, "nsga2": of.NSGAIISampler}[name](seed=0)
    study = optuna.create_study(sampler=sampler if name == "nsga2" else of.RandomSampler(seed=1))
    taken = []
    for i in range(trials + asks):
        if i == trials:
            study.sampler = sampler
        start = time.perf_counter()
        trial = study.ask()
        genes = suggest(trial)
        study.tell(trial, loss(genes))
        taken.append(time.perf_counter() - start)
    return taken[trials + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--asks", type=int, default=30, help="to time, after each number of trials")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", default=list(algorithms.SAMPLERS))
    parser.add_argument("--json", help="write the medians here")
    args = parser.parse_args()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, Optuna {optuna.__version__}, cores {sorted(os.sched_getaffinity(0))}")
    if load > 0.5:
        print(f"the load average is {load:.1f}: figures of a busy machine")
    print(f"asks per second, median of {args.repeat} x {args.asks} (range of the medians of each repeat)")
    print(f"{'sampler':10}{'trials':>7}   {'searchkit':26}   {'Optuna':26}{'ratio':>7}{'new object':>14}")
    kept = []
    for name in args.samplers:
        for trials in args.trials:
            rates: dict[str, list[float]] = {"searchkit": [], "optuna": []}
            news = []
            for _ in range(args.repeat):  # in turns, so that both meet the same machine
                taken, new = ours(name, trials, args.asks)
                rates["searchkit"].append(1 / statistics.median(taken))
                news.append(new)
                if name not in ("grid", "evolution"):
                    rates["optuna"].append(1 / statistics.median(optunas(name, trials, args.asks)))
            columns = [
                f"{statistics.median(each):9,.0f} ({min(each):,.0f} to {max(each):,.0f})" if each else f"{'-':>9}"
                for each in rates.values()
            ]
            a, b = rates.values()
            ratio = statistics.median(a) / statistics.median(b) if b else None
            shown = f"{ratio:7.2f}" if ratio else f"{'-':>7}"
            new = statistics.median(news)
            print(f"{name:10}{trials:7,}   {columns[0]:26}   {columns[1]:26}{shown}{new:12.3f} s", flush=True)
            kept.append({"sampler": name, "trials": trials, **rates, "ratio": ratio, "new_object_s": new})
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(kept, f, indent=1)


if __name__ == "__main__":
    main()
