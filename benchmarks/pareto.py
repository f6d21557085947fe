"""Accuracy against parameters on a table of small nets: how much of the Pareto front a search finds with its budget.

    .venv/bin/python benchmarks/pareto.py [--seeds 20] [--budget 100 200 400] [--json results.json]
    .venv/bin/python benchmarks/pareto.py --record

curves/digits.csv holds every point of GRID (960: MLPs of one or two hidden layers and the learning rate of Adam, on
scikit-learn's digits in full or pooled to 4 x 4) with its parameters and its accuracy on the last third of the scans,
trained once on the others. A search asks for `budget` points, one after another, and none twice. Its score is the
hypervolume of what it saw, over that of the whole table; it is taken over accuracy and the logarithm of the parameters,
from chance (0.1) and the most parameters on.

--record trains the table anew (minutes on one core; needs PyTorch and scikit-learn).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchkit.records.objective import Objective
from searchkit.records.pareto import front, hypervolume
from searchkit.suite import algorithms
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.space.args import Categorical, Value
from searchkit.suite.space.space import Genes, Space

TABLE = Path(__file__).resolve().parent / "curves" / "digits.csv"
GRID: dict[str, tuple[Any, ...]] = {
    "pixels": (64, 16),
    "activation": ("relu", "tanh"),
    "lr": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "width1": (4, 6, 8, 12, 16, 24, 32, 48),
    "width2": (0, 4, 8, 16, 32),  # 0: no second layer
}
SPACE = Space(tuple(Categorical(name, tuple(Value(v, str(v)) for v in values)) for name, values in GRID.items()))
OBJECTIVES = (Objective("accuracy", "max"), Objective("params", "min"))
MODES = tuple(objective.mode for objective in OBJECTIVES)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "nsga2": ("nsga2", {}),
    "nsga2, population 20": ("nsga2", {"population": 20}),
    "evolution": ("evolution", {}),
}

Net = tuple[str, ...]  # the values in the order of GRID, as text
Scores = tuple[float, float]  # accuracy, parameters


def net_of(genes: Genes) -> Net:
    return tuple(value.text for value in SPACE.point(genes).values())


# --- search ----------------------------------------------------------------------------------------------------------


def load_table() -> dict[Net, Scores]:
    """SystemExit unless every net of the grid is there."""
    table: dict[Net, Scores] = {}
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            for row in csv.DictReader(file):
                table[tuple(row[name] for name in GRID)] = (float(row["accuracy"]), int(row["params"]))
    lacking = sum(1 for genes in SPACE.grid() if net_of(genes) not in table)
    if lacking:
        raise SystemExit(f"{TABLE} lacks {lacking} of {SPACE.size()} nets: run --record")
    return table


def search(
    sampler: str, options: Mapping[str, Any], seed: int, budget: int, table: Mapping[Net, Scores]
) -> list[Scores]:
    """The scores of `budget` trials (fewer if the space is exhausted), in order."""
    ask = algorithms.sampler(sampler)(SPACE, OBJECTIVES, seed, **options)
    history: list[Trial] = []
    while len(history) < budget:
        suggested = ask.suggest(history, 1)
        if not suggested:
            break
        scores, n = table[net_of(suggested[0])], len(history)
        history.append(Trial(n, suggested[0], "finished", scores=scores, asked=2 * n, told=2 * n + 1))
    return [trial.scores for trial in history if trial.scores]


def volume(seen: Sequence[Scores], most: float) -> float:
    """Hypervolume over accuracy and log10 of the parameters, from chance and `most` parameters on."""
    return hypervolume([(accuracy, math.log10(n)) for accuracy, n in seen], (0.1, math.log10(most)), MODES)


def compare(seeds: int, budgets: Sequence[int]) -> dict[str, dict[int, list[float]]]:
    """Print the table; the shares of the whole front's hypervolume by row and budget."""
    table = load_table()
    nets = list(table.values())
    best = {nets[i] for i in front(nets, MODES)}
    most = max(params for _, params in nets)
    whole = volume(nets, most)
    print(f"{len(nets)} nets, {len(best)} on the front, {seeds} seeds; hypervolume in % of the table's\n")
    print("| budget | | median | quartiles | worst | better than random | equal | of the front |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    results: dict[str, dict[int, list[float]]] = {name: {} for name in WAYS}
    seen = {
        name: [search(sampler, options, seed, max(budgets), table) for seed in range(seeds)]
        for name, (sampler, options) in WAYS.items()
    }
    for budget in budgets:
        for name, runs in seen.items():
            values = results[name][budget] = [volume(run[:budget], most) / whole for run in runs]
            pairs = list(zip(values, results["random"][budget], strict=True))
            wins, same = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
            found = statistics.median(len(best.intersection(run[:budget])) for run in runs)
            print(f"| {budget} | {name} | {100 * statistics.median(values):.2f} | {100 * low:.2f} .. ", end="")
            print(f"{100 * high:.2f} | {100 * min(values):.2f} | {wins}/{seeds} | {same} | {found:.0f} |", flush=True)
    return results


# --- recording -------------------------------------------------------------------------------------------------------


def trained(data: Mapping[str, tuple[Any, Any, Any, Any]], net: Net) -> tuple[float, int]:
    """Accuracy on the scans held out, and parameters, of one net after 20 epochs of Adam."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    pixels, activation, lr, *hidden = net
    images, labels, held_images, held_labels = data[pixels]
    widths = [int(pixels), *(int(text) for text in hidden if text != "0")]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU() if activation == "relu" else nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=float(lr))
    for _ in range(20):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.inference_mode():
        accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
    return accuracy, sum(p.numel() for p in model.parameters())


def record() -> None:
    """Train every net and write the table."""
    import torch
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    cut = len(images) * 2 // 3
    data = {}
    for pixels in GRID["pixels"]:
        flat = torch.nn.functional.adaptive_avg_pool2d(images, math.isqrt(pixels)).flatten(1)
        data[str(pixels)] = (flat[:cut], labels[:cut], flat[cut:], labels[cut:])
    nets = [net_of(genes) for genes in SPACE.grid()]
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*GRID, "params", "accuracy"])
        for i, net in enumerate(nets, 1):
            accuracy, params = trained(data, net)
            writer.writerow([*net, params, f"{accuracy:.4f}"])
            print(f"\r{i}/{len(nets)}", end="", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, nargs="+", default=[100, 200, 400], help="trials (default: 100 200 400)")
    parser.add_argument("--json", type=Path, help="write all shares there")
    parser.add_argument("--record", action="store_true", help="train every net of the grid and write the table")
    args = parser.parse_args()
    if args.record:
        record()
        return
    results = compare(args.seeds, args.budget)
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
