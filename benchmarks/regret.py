"""How near `random` and `tpe` come to the optimum, beside Optuna's own samplers used directly.

.venv/bin/python benchmarks/regret.py [--seeds 20] [--trials 100] [--json FILE]

Simple regret: the best value so far less the optimum (less is better), after 30, 60 and 100 trials; median and
quartiles over the seeds. Problems: Branin (2 floats), Hartmann (6 floats), and a conditional space (a choice of two
models with arguments of their own). *ratio*: our median over Optuna's; *better*: for how many seeds ours is the
better one, with the range that chance alone stays in 19 times of 20. The samplers are asked as `search-run -j 1` asks
them, one trial at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from searchkit.records.objective import Objective
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.space import Genes, Space

LOSS = (Objective("loss", "min"),)


@dataclass(frozen=True)
class Problem:
    """A function to minimise, its space for us, and how its point is suggested by a trial of Optuna."""

    name: str
    space: Space
    suggest: Callable[[Any], Genes]
    value: Callable[[Genes], float]
    optimum: float


def branin(genes: Genes) -> float:
    x, y = genes["x"], genes["y"]
    first = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return first * first + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


_A = ((10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14))
_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann(genes: Genes) -> float:
    point = tuple(genes.values())
    bells = (math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(_A[i], point, _P[i], strict=True))) for i in range(4))
    return -sum(alpha * bell for alpha, bell in zip((1.0, 1.2, 3.0, 3.2), bells, strict=True))


def models(genes: Genes) -> float:
    """The second model is the better one, but hard to tune; all of its arguments exist for it alone."""
    if genes["model"] == 0:
        return 0.1 + (math.log10(genes["c"]) - 1) ** 2 / 9 + (math.log10(genes["gamma"]) + 2) ** 2 / 9
    rough = (genes["depth"] - 13) ** 2 / 40 + abs(math.log2(genes["width"]) - 6) / 3
    return rough + (genes["rate"] - 0.1) ** 2 * 4 + (genes["decay"] - 0.3) ** 2


def suggest_models(trial: Any) -> Genes:
    if trial.suggest_categorical("model", [0, 1]) == 0:
        names = {"c": (1e-3, 1e3), "gamma": (1e-5, 1e1)}
        return {"model": 0, **{name: trial.suggest_float(name, *bounds, log=True) for name, bounds in names.items()}}
    return {
        "model": 1,
        "depth": trial.suggest_int("depth", 1, 20),
        "width": trial.suggest_int("width", 4, 512, log=True),
        "rate": trial.suggest_float("rate", 0.0, 1.0),
        "decay": trial.suggest_float("decay", 0.0, 1.0),
    }


def problems() -> list[Problem]:
    plane = Space((Range("x", "Uniform", -5.0, 10.0), Range("y", "Uniform", 0.0, 15.0)))
    six = [f"x{i}" for i in range(6)]
    first, second = "model == 'kernel'", "model == 'forest'"
    tree = Space(
        (
            Categorical("model", (Value("kernel", "kernel"), Value("forest", "forest"))),
            Range("c", "LogUniform", 1e-3, 1e3, when=first),
            Range("gamma", "LogUniform", 1e-5, 1e1, when=first),
            Range("depth", "Int", 1, 20, when=second),
            Range("width", "LogInt", 4, 512, when=second),
            Range("rate", "Uniform", 0.0, 1.0, when=second),
            Range("decay", "Uniform", 0.0, 1.0, when=second),
        )
    )
    return [
        Problem(
            "branin",
            plane,
            lambda t: {"x": t.suggest_float("x", -5.0, 10.0), "y": t.suggest_float("y", 0.0, 15.0)},
            branin,
            0.39788735772973816,
        ),
        Problem(
            "hartmann6",
            Space(tuple(Range(name, "Uniform", 0.0, 1.0) for name in six)),
            lambda t: {name: t.suggest_float(name, 0.0, 1.0) for name in six},
            hartmann,
            -3.322368011415515,
        ),
        Problem("conditional", tree, suggest_models, models, 0.0),
    ]


def ours(problem: Problem, sampler: str, seed: int, trials: int) -> list[float]:
    """The values of the trials, in order."""
    asked = algorithms.sampler(sampler)(problem.space, LOSS, seed)
    history: list[Trial] = []
    for i in range(trials):
        [genes] = asked.suggest(history, 1)
        value = problem.value(genes)
        history.append(Trial(i, genes, "finished", (value,), asked=2 * i, told=2 * i + 1))
    return [trial.scores[0] for trial in history if trial.scores]


def optunas(problem: Problem, sampler: str, seed: int, trials: int) -> list[float]:
    """The same by Optuna, with one sampler of that seed."""
    import optuna

    made = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler](seed=seed)
    study = optuna.create_study(sampler=made)
    values = []
    for _ in range(trials):
        trial = study.ask()
        values.append(problem.value(problem.suggest(trial)))
        study.tell(trial, values[-1])
    return values


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:8.4f} ({low:7.4f} to {high:7.4f})"


def chance(n: int) -> int:
    """The least number of heads in `n` throws of a coin that is not among the rarest 2.5 % of outcomes."""
    share, heads = 0.0, 0
    while (share := share + math.comb(n, heads) / 2**n) <= 0.025:
        heads += 1
    return heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", help="write every regret here")
    args = parser.parse_args()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    start = time.perf_counter()
    at = [n for n in (30, 60, 100) if n < args.trials] + [args.trials]
    at = list(dict.fromkeys(at))
    print(f"Python {platform.python_version()}, Optuna {optuna.__version__}; {args.seeds} seeds, simple regret")
    low = chance(args.seeds)
    print(f"{'problem':12}{'sampler':9}{'trials':>6}   {'searchkit':28}   {'Optuna':28}{'ratio':>8}   better")
    kept: list[dict[str, Any]] = []
    for problem in problems():
        for sampler in ("random", "tpe"):
            runs = {
                who: [run(problem, sampler, seed, args.trials) for seed in range(args.seeds)]
                for who, run in (("searchkit", ours), ("optuna", optunas))
            }
            for n in at:
                best = {who: [min(values[:n]) - problem.optimum for values in each] for who, each in runs.items()}
                a, b = best["searchkit"], best["optuna"]
                ratio = statistics.median(a) / statistics.median(b)
                better = sum(x < y for x, y in zip(a, b, strict=True))
                print(
                    f"{problem.name:12}{sampler:9}{n:6}   {quartiles(a):28}   {quartiles(b):28}{ratio:8.2f}"
                    f"{better:5} ({low} to {args.seeds - low})",
                    flush=True,
                )
                kept.append({"problem": problem.name, "sampler": sampler, "trials": n, "ratio": ratio, **best})
    ratios = [row["ratio"] for row in kept]
    print(f"geometric mean of all ratios: {statistics.geometric_mean(ratios):.3f}")
    print(f"{time.perf_counter() - start:.0f} s")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(kept, f, indent=1)


if __name__ == "__main__":
    main()
