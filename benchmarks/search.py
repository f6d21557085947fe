"""Subnets scored per minute by `search-nas search` with one and two workers, beside one process for each subnet.

.venv/bin/python benchmarks/search.py [--subnets 40] [--rounds 3] [--alone 6] [--json FILE]

The recipe `det` on its own data, as in sweep.py, a supernet of one training step. The whole command is timed, its start
included; each process on one thread. The same random archs are scored with one worker and with two.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAS = str(Path(sys.executable).with_name("search-nas"))
CONFIG = str(ROOT / "templates" / "det" / "faster_rcnn_small.yaml")


def nas(work: Path, *argv: str) -> float:
    """Seconds of one command."""
    env = {**os.environ, "DATA": str(work / "digits"), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run([NAS, *argv], cwd=work, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def records(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subnets", type=int, default=40)
    parser.add_argument("--alone", type=int, default=6, help="of them, in a process each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = ROOT / ".bench" / "search"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    nas(work, "data", "digits-det", "--out", "digits")
    nas(work, "train", CONFIG, "--work-dir", "work", "--set", "train.steps=1", "--set", "train.eval_archs=[MIN]")
    checkpoint = ("--checkpoint", "work/latest.pth")
    how = ("--algorithm", "random", "--evaluations", str(args.subnets))
    rates: dict[str, list[float]] = {"1 worker": [], "2 workers": [], "a process each": []}
    for i in range(args.rounds):
        for workers in (1, 2):
            folder = f"search-{workers}-{i}"
            began = nas(work, "search", CONFIG, *checkpoint, *how, "--workers", str(workers), "--work-dir", folder)
            rates[f"{workers} worker{'s' * (workers > 1)}"].append(60 * args.subnets / began)
        same = [records(work / f"search-{workers}-{i}" / "results.jsonl") for workers in (1, 2)]
        assert same[0] == same[1] and len(same[0]) == args.subnets, "both must score the same archs, each once"
        spent = 0.0
        for n, line in enumerate(same[0][: args.alone]):
            (work / f"one-{n}.jsonl").write_text(line + "\n")
            spent += nas(work, "test", CONFIG, *checkpoint, "--archs", f"one-{n}.jsonl", "--out", f"out-{i}-{n}.jsonl")
        rates["a process each"].append(60 * args.alone / spent)
    base = statistics.median(rates["a process each"])
    for name, values in rates.items():
        middle = statistics.median(values)
        print(
            f"{name:16} {middle:7.1f} subnets/min ({min(values):.1f} .. {max(values):.1f})  ratio {middle / base:.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rates))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
