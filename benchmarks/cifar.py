"""CIFAR-10 on CPU cores: one space, supernets by three policies, how far each can be trusted, and searches compared.

    .venv/bin/python benchmarks/cifar.py --data cifar10_jpeg.npz --out .bench/cifar [--part train trust search]

The data is an .npz of JPEG bytes with the parts train and test. All goes on where it was when it is run again.

train   three supernets of cifar/mobilenet.yaml with about equal processor time: single path (30 epochs, one arch a
        step), sandwich with in-place distillation (10 epochs, three archs a step), and the same with a space that
        grows (kernels from epoch 3 on, depths from 4, expansions from 6, widths from 8: progressive shrinking).
trust   12 archs trained on their own, once for all supernets: search-nas trust for each, on 5,000 images of the test
        part. With `RANK=0 WORLD_SIZE=2` and `RANK=1 WORLD_SIZE=2` before it, two processes share the archs.
search  with the supernet that `--supernet` names: the best top1 within half the MACs, and the front of top1 and MACs,
        by each algorithm from five seeds, with equal evaluations. A subnet is scored once, whoever asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "cifar"
CONFIG = str(HERE / "mobilenet.yaml")
NAS = str(Path(sys.executable).with_name("search-nas"))

SANDWICH = ("train.policy=sandwich", "train.random_archs=1", "train.distill={}", "train.epochs=10")
GROWING = {  # a dimension of the space to the epochs from which on it has these choices
    "kernel": "{boundary: [1, 3], value: [[5], [3, 5]]}",
    "depth": "{boundary: [1, 4], value: [[[2], [3], [3]], [[1, 2], [1, 2, 3], [1, 2, 3]]]}",
    "expand": "{boundary: [1, 6], value: [[4], [2, 4]]}",
    "width": "{boundary: [1, 8], value: [[[20], [40], [80]], [[12, 20], [24, 40], [48, 80]]]}",
}
SUPERNETS = {
    "single_path": (),
    "sandwich": SANDWICH,
    "progressive": (*SANDWICH, *(f"space.backbone.body.{dim}.schedule={text}" for dim, text in GROWING.items())),
}
LIMIT = 3_500_000  # MACs of the constrained search; the space reaches from 1.5 M to 9.2 M
SINGLE = {
    "random": ("random", {}),
    "evolution (SPOS)": ("spos", {"population": 20, "top_k": 5}),
    "regularized": ("evolution", {"population": 20}),
}
DOUBLE = {"random": ("random", {}), "nsga2": ("nsga2", {"population": 20})}


def verb(folder: Path, *argv: str) -> None:
    """One verb of search-nas, its time kept in times.jsonl."""
    began = time.monotonic()
    print("$ search-nas", *argv, flush=True)
    subprocess.run([NAS, *argv], cwd=folder, check=True)
    with (folder / "times.jsonl").open("a") as f:
        f.write(json.dumps({"verb": argv[0], "seconds": time.monotonic() - began}) + "\n")


def train(folder: Path) -> None:
    for name, sets in SUPERNETS.items():
        verb(folder, "train", CONFIG, "--work-dir", name, *(word for text in sets for word in ("--set", text)))


def trust(folder: Path, archs: int, epochs: int) -> None:
    data = ("--split", "test", "--set", "data.test.per_class=500")
    own = ("--n", str(archs), "--epochs", str(epochs), "--out", "trust.jsonl", "--work-dir", "trust")
    for name in SUPERNETS:
        verb(folder, "trust", CONFIG, "--checkpoint", f"{name}/latest.pth", *data, *own, "--png", f"trust-{name}.png")


# --- search ----------------------------------------------------------------------------------------------------------


class Table:
    """Scores of the archs that were asked for; each is measured once, and kept in a file."""

    def __init__(self, folder: Path, supernet: str) -> None:
        import torch

        from searchkit.nas.cost import price
        from searchkit.nas.subnet import sweep
        from searchkit.nas.subnet.results import open_results
        from searchkit.nas.tasks import read as config

        self.recipe = config.load(CONFIG)
        path = str(folder / supernet / "latest.pth")
        self.sweep, cpu = sweep, torch.device("cpu")
        self.session = sweep.open_session(
            self.recipe, path, split=None, device=cpu, seed=0, tune=False, say=lambda _: None
        )
        self.results = open_results(str(folder / f"scores-{supernet}.jsonl"), "direct")
        plans = price.plans_of(self.session.config, self.recipe.space.maximum())
        self.macs = lambda arch: price.price(plans, arch, 32).flops

    def top1(self, arch: Any) -> float:
        record = {"arch": arch.nested(), "data": {"input_shape": 32}}
        protocol = {"direct": self.sweep.test_protocol(self.session, record, True)}
        found = self.results.find({"arch": record["arch"], "protocol": protocol})
        if found is None:
            found = self.sweep.test_record(self.session, record, arch, "direct", True)
            self.results.add(found)
        return float(found["metric"]["direct"]["top1"])


def search(
    table: Table, sampler: str, options: dict[str, Any], seed: int, budget: int, double: bool
) -> list[tuple[float, float]]:
    """(top1, MACs) of `budget` archs, in the order in which a sampler asks for them."""
    from searchkit.records.objective import Objective
    from searchkit.suite import algorithms
    from searchkit.suite.algorithms.history import Trial
    from searchkit.suite.space.args import Categorical, Value
    from searchkit.suite.space.space import Space

    knobs = table.recipe.space.knobs()
    args = tuple(
        Categorical(
            knob.name,
            tuple(Value(v, str(v)) for v in knob.choices),
            f"{knob.when[0]} > {knob.when[1]}" if knob.when else None,
        )
        for knob in knobs
    )

    def arch_of(point: Any) -> Any:
        return table.recipe.space.arch_of({name: value.data for name, value in point.items()})

    space = Space(args)
    wanted = (Objective("top1", "max"), Objective("macs", "min"))[: 2 if double else 1]
    ask = algorithms.sampler(sampler)(space, wanted, seed, **options)
    history: list[Trial] = []
    seen: list[tuple[float, float]] = []
    while len(seen) < budget:
        (genes,) = ask.suggest(history, 1)
        arch, n = arch_of(space.point(genes)), len(history)
        macs = table.macs(arch)
        if not double and macs > LIMIT:  # a constraint costs no evaluation
            history.append(Trial(n, genes, "failed", asked=2 * n, told=2 * n + 1))
            continue
        score = (table.top1(arch), float(macs))
        seen.append(score)
        history.append(Trial(n, genes, "finished", score if double else score[:1], asked=2 * n, told=2 * n + 1))
    return seen


def compare(folder: Path, supernet: str, seeds: int, budget: int) -> dict[str, Any]:
    """Search with each algorithm from each seed, and print the tables."""
    from searchkit.records.pareto import hypervolume

    table = Table(folder, supernet)
    found: dict[str, Any] = {"supernet": supernet, "single": {}, "double": {}}
    print(f"\n| best top1 within {LIMIT / 1e6:g} M MACs, {budget} evaluations | median | seeds | better than random |")
    print("| --- | ---: | --- | ---: |")
    for name, (sampler, options) in SINGLE.items():
        runs = [search(table, sampler, options, seed, budget, False) for seed in range(seeds)]
        found["single"][name] = [[max(t for t, _ in run[:n]) for run in runs] for n in (budget // 2, budget)]
        _row(name, found["single"][name][1], found["single"]["random"][1])
    most = table.macs(table.recipe.space.maximum())
    print(f"\n| hypervolume of top1 and MACs, {budget} evaluations | median | seeds | better than random |")
    print("| --- | ---: | --- | ---: |")
    for name, (sampler, options) in DOUBLE.items():
        runs = [search(table, sampler, options, seed, budget, True) for seed in range(seeds)]
        volumes = [hypervolume([(t, m / most) for t, m in run], (0.1, 1.0), ("max", "min")) for run in runs]
        found["double"][name] = volumes
        _row(name, volumes, found["double"]["random"])
    print(f"\n{len(table.results.records)} subnets scored")
    return found


def _row(name: str, values: list[float], random: list[float]) -> None:
    wins = sum(a > b for a, b in zip(values, random, strict=True))
    shown = " ".join(f"{v:.4f}" for v in values)
    print(f"| {name} | {statistics.median(values):.4f} | {shown} | {wins}/{len(values)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the .npz, with the parts train and test")
    parser.add_argument("--out", required=True, type=Path, help="a folder for all that is made")
    parser.add_argument("--part", nargs="+", choices=("train", "trust", "search"), default=["train", "trust", "search"])
    parser.add_argument("--supernet", choices=tuple(SUPERNETS), default="single_path", help="that is searched")
    parser.add_argument("--archs", type=int, default=12, help="trained on their own")
    parser.add_argument("--epochs", type=int, default=20, help="of an arch on its own")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=100, help="evaluations of a search")
    given = parser.parse_args()
    os.environ["CIFAR"] = os.path.abspath(given.data)
    given.out.mkdir(parents=True, exist_ok=True)
    if "train" in given.part:
        train(given.out)
    if "trust" in given.part:
        trust(given.out, given.archs, given.epochs)
    if "search" in given.part:
        found = compare(given.out, given.supernet, given.seeds, given.budget)
        (given.out / f"search-{given.supernet}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
